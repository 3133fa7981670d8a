"""Spread, size and rate beside each bar: as the dump quotes them, in one unit, no older than allowed, as known at the close."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from plusultra_core import config
from plusultra_core.clock import NS_PER_DAY, NS_PER_HOUR
from plusultra_core.data.contract.frames import empty
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.market import DepthColumn, MarketConfig, SpreadColumn
from plusultra_core.windows.quotes import build_quotes, currencies_of

START = 16_000
DAYS = 6


@pytest.fixture(scope="module")
def equity(root: Path) -> MarketConfig:
    return config.load(MarketConfig, root / "configs" / "markets" / "equity.yaml")


def day(number: float) -> int:
    return int((START + number) * NS_PER_DAY)


def bars(*symbols: str, adj_factor: float = 1.0) -> pl.DataFrame:
    rows = [
        {"symbol": s, "ts_ns": day(d), "known_ns": day(d), "close": 50.0, "adj_factor": adj_factor} for s in symbols for d in range(DAYS)
    ]
    return pl.DataFrame(rows)


def assets(**currency: str | None) -> pl.DataFrame:
    return pl.DataFrame(
        [{"symbol": name, "asset_class": "equity", "currency": code} for name, code in currency.items()],
        schema={"symbol": pl.String, "asset_class": pl.String, "currency": pl.String},
    )


def indicator(values: list[float | None], symbol: str = "A", name: str = "spread_close", late_days: float = 0.0) -> pl.DataFrame:
    rows = [(symbol, name, day(d), day(d + late_days), value) for d, value in enumerate(values)]
    return pl.DataFrame(rows, schema=empty("indicators").schema, orient="row")


def quoted(**fields: list[float]) -> pl.DataFrame:
    rows = [("quotes", "A", field, day(d), day(d), None, value) for field, values in fields.items() for d, value in enumerate(values)]
    return pl.DataFrame(rows, schema=empty("side_tables").schema, orient="row")


def made(market: MarketConfig, frame: pl.DataFrame | None = None, **given: Any) -> pl.DataFrame:
    tables = {
        "assets": assets(A="USD", B=None),
        "indicators": empty("indicators"),
        "side_tables": empty("side_tables"),
        "exchange_rates": empty("exchange_rates"),
    }
    return build_quotes(bars("A", "B") if frame is None else frame, **{**tables, **given}, market=market)


def with_spread(market: MarketConfig, **changes: Any) -> MarketConfig:
    return replace(market, spread=replace(market.spread, **changes))


def test_a_closing_spread_is_halved_and_set_against_the_close(equity: MarketConfig) -> None:
    found = made(equity, indicators=indicator([0.1, 0.2, None, -1.0, 0.0, 100.0]))
    assert found["half_spread_bps"].to_list()[:2] == pytest.approx([10.0, 20.0])
    assert found["half_spread_bps"].to_list()[2:5] == [20.0, None, None]  # a day old; crossed and locked quotes are none
    assert found["half_spread_bps"][5] == equity.spread.cap_bps
    assert found["half_spread_bps"][DAYS:].null_count() == DAYS
    assert made(with_spread(equity, source="config"), indicators=indicator([0.1] * DAYS))["half_spread_bps"].null_count() == 2 * DAYS


@pytest.mark.parametrize(
    ("unit", "half", "value", "expected"),
    [("price", True, 0.1, 20.0), ("bps", False, 30.0, 15.0), ("bps", True, 30.0, 30.0), ("fraction", False, 0.002, 10.0)],
)
def test_units_are_the_configs(equity: MarketConfig, unit: Any, half: bool, value: float, expected: float) -> None:
    column = SpreadColumn(table="indicators", field="wide", ask_field=None, unit=unit, half=half)
    found = made(with_spread(equity, columns=(column,)), indicators=indicator([value] * DAYS, name="wide"))
    assert found["half_spread_bps"][:DAYS].to_list() == pytest.approx([expected] * DAYS)


def test_bid_and_ask_make_a_spread_and_the_lesser_size_the_depth(equity: MarketConfig) -> None:
    book = quoted(bid=[99.0] * DAYS, ask=[101.0] * DAYS, bid_size=[5.0, 7.0] * 3, ask_size=[6.0] * DAYS)
    found = made(equity, bars("A", "B", adj_factor=2.0), side_tables=book)
    assert found["half_spread_bps"][:DAYS].to_list() == pytest.approx([100.0] * DAYS)
    assert found["depth"][:DAYS].to_list() == [2.5, 3.0] * 3  # in adjusted units, as the volume
    money = replace(equity, depth=replace(equity.depth, columns=(DepthColumn(table="quotes", field="bid_size", unit="money"),)))
    assert made(money, side_tables=book)["depth"][:2].to_list() == [0.1, 0.14]


def test_a_bid_is_not_held_against_the_ask_of_another_time(equity: MarketConfig) -> None:
    book = quoted(bid=[99.0, 109.0, 119.0], ask=[101.0, 111.0, 121.0])
    torn = book.filter(~((pl.col("field") == "ask") & (pl.col("ts_ns") == day(1))))
    found = made(equity, side_tables=torn)
    assert found["half_spread_bps"][:3].to_list() == pytest.approx([100.0, 100.0, 1e4 / 120.0])  # a day old
    sunk = book.filter(~((pl.col("field") == "bid") & (pl.col("ts_ns") == day(2))))  # a bid of 109 under an ask of 121
    assert made(equity, side_tables=sunk)["half_spread_bps"][:3].to_list() == pytest.approx([100.0, 1e4 / 110.0, 1e4 / 110.0])


def test_the_first_column_that_quotes_counts(equity: MarketConfig) -> None:
    book = quoted(bid=[99.0] * DAYS, ask=[101.0] * DAYS)
    found = made(equity, indicators=indicator([0.1, None, None, None, None, None]), side_tables=book)
    assert found["half_spread_bps"][:DAYS].to_list() == pytest.approx([10.0, 10.0, 100.0, 100.0, 100.0, 100.0])


def test_a_quote_counts_from_when_it_was_known_until_it_is_too_old(equity: MarketConfig) -> None:
    late = made(equity, indicators=indicator([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], late_days=1.0))
    assert late["half_spread_bps"].to_list()[:DAYS] == pytest.approx([None, 10.0, 20.0, 30.0, 40.0, 50.0])
    short = with_spread(equity, max_staleness_hours=23.0)
    assert made(short, indicators=indicator([0.1, None, 0.3]))["half_spread_bps"].to_list()[:4] == pytest.approx([10.0, None, 30.0, None])


def test_rates_stand_beside_the_bars_of_their_currency(equity: MarketConfig) -> None:
    rows = [("EUR", day(d), day(d), day(d) + 36 * NS_PER_HOUR, 1.0 + d / 10) for d in (0, 1, 4)]
    rates = pl.DataFrame(rows, schema=empty("exchange_rates").schema, orient="row")
    found = made(equity, bars("A", "B", "C"), assets=assets(A="EUR", B=None, C="USX"), exchange_rates=rates)
    assert found["fx"][:DAYS].to_list() == pytest.approx([1.0, 1.1, 1.1, None, 1.4, 1.4])
    assert set(found["fx"][DAYS : 2 * DAYS]) == {1.0} and set(found["fx"][2 * DAYS :]) == {0.01}
    assert currencies_of(found, equity) == ("EUR", "USD", "USX")


def test_a_currency_without_any_rate_is_refused(equity: MarketConfig) -> None:
    with pytest.raises(ContractError, match=r"no pair of the dump turns the currency of 1 symbols into USD \(B in SEK\); add the pair"):
        made(equity, assets=assets(A="USD", B="SEK"))
    allowed = replace(equity, exchange=replace(equity.exchange, at_par=("SEK",)))
    assert set(made(allowed, assets=assets(A="USD", B="SEK"))["fx"]) == {1.0}


def test_nothing_that_comes_later_is_seen(equity: MarketConfig) -> None:
    book = quoted(bid=[99.0] * DAYS, ask=[101.0] * DAYS, bid_size=[5.0] * DAYS, ask_size=[6.0] * DAYS)
    given = {"indicators": indicator([0.1, None, 0.3, 0.4, 0.5, 0.6]), "side_tables": book}
    whole = made(equity, **given)
    past = {name: frame.filter(pl.col("known_ns") <= day(2)) for name, frame in given.items()}
    cut = made(equity, bars("A", "B").filter(pl.col("ts_ns") <= day(2)), **past)
    assert cut.equals(whole.filter(pl.col("ts_ns") <= day(2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exchange.cost_bps": -1.0}, "exchange: expected cost_bps >= 0"),
        ({"exchange.max_staleness_hours": 0.0}, "exchange: expected cost_bps >= 0 and max_staleness_hours > 0"),
        ({"exchange.settlement": "barter"}, "settlement: expected one of"),
        ({"spread.source": "guess"}, "source: expected one of"),
        ({"spread.window_bars": 3}, "spread: expected"),
        ({"spread.cap_bps": 0.5}, "spread.cap_bps: expected >= costs.half_spread_bps"),
        ({"depth.max_staleness_hours": 0.0}, "depth.max_staleness_hours: expected > 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(root: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.load(MarketConfig, root / "configs" / "markets" / "equity.yaml", change)


def test_a_bid_and_an_ask_are_prices() -> None:
    with pytest.raises(ConfigError, match="a bid and an ask are prices"):
        SpreadColumn(table="quotes", field="bid", ask_field="ask", unit="bps", half=False)


def test_the_forex_of_a_real_dump_is_quoted_and_exchanged(real_dump: Any, tmp_path: Path, root: Path) -> None:
    from plusultra_core.data.bars import build_bars
    from plusultra_core.data.snapshot import take_snapshot
    from plusultra_core.data.tables import TABLES, DataConfig, build_table

    markets = {path.stem: config.load(MarketConfig, path) for path in (root / "configs" / "markets").glob("*.yaml")}
    cfg = config.load(DataConfig, root / "configs" / "smoke" / "data.yaml")
    taken = take_snapshot(real_dump("market_2017_a"), tmp_path, cfg, markets)
    given = {name: build_table(name, taken.path, "forex", markets, cfg) for name in TABLES}
    rows = build_bars(given["series"], given["assets"], given["corporate_actions"], markets["forex"], cfg.bars)
    tables = (given[name] for name in ("assets", "indicators", "side_tables", "exchange_rates"))
    found = build_quotes(rows, *tables, markets["forex"])
    euro, pound = (found.filter(pl.col("symbol") == name) for name in ("EURUSD", "EURGBP"))
    assert euro["half_spread_bps"].null_count() == 0 and 0.4 < float(np.median(euro["half_spread_bps"])) < 1.5
    assert pound["half_spread_bps"].null_count() == pound.height
    assert set(euro["fx"]) == {1.0} and pound["fx"].null_count() == 0 and 1.19 < pound["fx"].min() < pound["fx"].max() < 1.75  # type: ignore[operator]
    assert currencies_of(found, markets["forex"]) == ("GBP", "USD", "USD", "USD")
