"""A low or high far from every open and close beside it, on dumps that the test breaks; and crashes that only look like one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.data.gate.dump import check_dump
from plusultra_core.data.gate.findings import Finding
from plusultra_core.data.gate.history import check_history
from plusultra_core.data.tables import DataConfig
from plusultra_core.market import MarketConfig

MakeDump = Callable[..., Path]
Judge = Callable[..., list[dict[str, object]]]
FIRST = 1_577_912_400 * 1_000_000_000  # 2020-01-01 21:00
NO_ACTIONS = pl.DataFrame(schema={"symbol": pl.String, "ts_ns": pl.Int64})
Bar = tuple[float | None, float | None, float | None, float]


def _bars(*rows: Bar, symbol: str = "A") -> pl.DataFrame:
    """Bars of open, high, low, close, a day apart."""
    bars = pl.DataFrame(rows, schema=dict.fromkeys(("open", "high", "low", "close"), pl.Float64), orient="row")
    return bars.with_columns(symbol=pl.lit(symbol), ts_ns=FIRST + NS_PER_DAY * pl.int_range(pl.len()))


@pytest.fixture
def strays(data_cfg: DataConfig, markets: dict[str, MarketConfig]) -> Judge:
    """The stray prints that are told of some bars, at a ratio of 4."""

    def run(bars: pl.DataFrame) -> list[dict[str, object]]:
        names = bars["symbol"].unique().sort()
        assets = pl.DataFrame({"symbol": names, "bar": ["1d"] * len(names), "asset_class": ["crypto"] * len(names)})
        found = check_history(bars, NO_ACTIONS, assets, markets, replace(data_cfg.history, wick_ratio=4.0), 99)
        return [dict(row) for finding in found if finding.code == "stray_print" for row in finding.rows]

    return run


CALM: Bar = (100.0, 102.0, 98.0, 101.0)


def test_a_dump_with_one_print_of_six_cents_is_accepted_and_told_of(
    make_dump: MakeDump, data_cfg: DataConfig, markets: dict[str, MarketConfig]
) -> None:
    broken = "UPDATE series SET low = 0.06 WHERE symbol = 'AAA' AND timestamp LIKE '2020-01-15%'"
    report = check_dump(make_dump(broken), data_cfg, markets)
    (finding,) = report.findings
    assert isinstance(finding, Finding) and report.accepted
    assert (finding.level, finding.code, finding.table, finding.symbols) == ("warning", "stray_print", "series", ("AAA",))
    assert finding.message.startswith("series.low, high: 1 row, first (symbol='AAA', column='low', at='2020-01-15T21:00:00Z', price=0.06, ")
    assert "; expected within 4 x of an open or close beside it; kept as it is; mend the low or high" in finding.message


def test_a_low_and_a_high_are_told_with_the_price_that_lies_nearest(strays: Judge) -> None:
    assert strays(_bars(CALM, (101.0, 500.0, 0.06, 99.0), CALM)) == [
        {"symbol": "A", "column": "low", "at": "2020-01-02T21:00:00Z", "price": 0.06, "nearest": 99.0},
        {"symbol": "A", "column": "high", "at": "2020-01-02T21:00:00Z", "price": 500.0, "nearest": 101.0},
    ]


@pytest.mark.parametrize("low", [70.0, 50.0, 35.0, 25.25])
def test_a_crash_within_a_bar_is_none(strays: Judge, low: float) -> None:
    assert strays(_bars(CALM, (101.0, 102.0, low, 101.0), CALM)) == []


@pytest.mark.parametrize(
    "rows",
    [
        (CALM, (101.0, 101.0, 20.0, 21.0), (21.0, 22.0, 20.0, 21.0)),  # it closes there
        (CALM, (20.0, 101.0, 20.0, 100.0), CALM),  # it opens there
        (CALM, (101.0, 101.0, 20.0, 100.0), (21.0, 22.0, 20.0, 21.0)),  # the next bar closes there
        ((20.0, 21.0, 19.0, 20.0), (100.0, 101.0, 20.0, 100.0), CALM),  # the bar before closed there
        (CALM, (101.0, 500.0, 99.0, 490.0), (490.0, 500.0, 480.0, 490.0)),  # the same above
        (CALM, (101.0, 500.0, 99.0, 100.0), (490.0, 500.0, 480.0, 490.0)),
    ],
)
def test_a_price_that_the_bars_beside_it_have_too_is_none(strays: Judge, rows: tuple[Bar, ...]) -> None:
    assert strays(_bars(*rows)) == []


def test_the_first_and_the_last_bar_of_a_symbol_are_held_against_their_own_neighbour(strays: Judge) -> None:
    wild: Bar = (100.0, 101.0, 5.0, 100.0)
    cheap = (5.0, 5.5, 4.5, 5.0)
    found = strays(pl.concat([_bars(wild, CALM, wild, symbol="B"), _bars(cheap, cheap, symbol="A"), _bars(cheap, cheap, symbol="C")]))
    assert [(row["symbol"], row["at"]) for row in found] == [("B", "2020-01-01T21:00:00Z"), ("B", "2020-01-03T21:00:00Z")]


def test_what_is_not_known_is_not_compared(strays: Judge) -> None:
    assert strays(_bars(CALM, (None, None, None, 101.0), CALM)) == []
    assert len(strays(_bars(CALM, (None, None, 5.0, 101.0), CALM))) == 1
    assert len(strays(_bars(CALM, (None, 900.0, None, 101.0), CALM))) == 1
    wild = _bars(CALM, (100.0, 900.0, 5.0, 101.0), CALM)
    assert [[row["column"] for row in strays(wild.drop(name))] for name in ("open", "high", "low")] == [["low", "high"], ["low"], ["high"]]
    assert strays(wild.drop("high", "low")) == []


def test_strays_side_by_side_are_each_held_against_closes_and_not_against_each_other(strays: Judge) -> None:
    wild: Bar = (100.0, 101.0, 0.5, 100.0)
    assert len(strays(_bars(*[wild] * 5))) == 5
    assert len(strays(_bars(CALM, wild, CALM, wild, CALM))) == 2
