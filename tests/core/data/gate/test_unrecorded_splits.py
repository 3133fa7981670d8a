"""A price that jumps like a split which nobody recorded, on dumps that the test breaks; and what only looks like it."""

import shutil
import sqlite3
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from plusultra_core import config
from plusultra_core.clock import NS_PER_DAY, NS_PER_HOUR
from plusultra_core.data.gate.dump import check_dump
from plusultra_core.data.gate.findings import Finding
from plusultra_core.data.gate.histories.splits import SplitsConfig, unrecorded_splits
from plusultra_core.data.tables import DataConfig
from plusultra_core.errors import ConfigError
from plusultra_core.market import MarketConfig

MakeDump = Callable[..., Path]
Told = list[dict[str, Any]]
FIRST = 1_577_912_400 * 1_000_000_000  # 2020-01-01 21:00
AT = 120
SPLIT_AT = "2020-04-30T21:00:00Z"
LATER = "symbol = 'AAA' AND timestamp > '2020-01-15'"
DIVIDED = f"UPDATE series SET open = open / {{0}}, high = high / {{0}}, low = low / {{0}}, close = close / {{0}} WHERE {LATER}"
SPLIT = "INSERT INTO corporate_actions VALUES ('2020-01-15 14:30:00', 'AAA', 'split', NULL, {0}, NULL)"


@pytest.fixture
def cfg(data_cfg: DataConfig) -> SplitsConfig:
    return data_cfg.history.splits


def _bars(num_bars: int = 200, sigma: float = 0.02, seed: int = 3, symbol: str = "A") -> pl.DataFrame:
    """Daily bars of a walk that opens near its last close."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(rng.normal(0, sigma, num_bars).cumsum())
    opened = np.append(100.0, close[:-1]) * np.exp(rng.normal(0, sigma / 4, num_bars))
    return pl.DataFrame({"symbol": symbol, "ts_ns": FIRST + NS_PER_DAY * np.arange(num_bars), "open": opened, "close": close})


def _times(bars: pl.DataFrame, factor: float, first: int = AT, last: int | None = None) -> pl.DataFrame:
    """Prices of bars [first, last) multiplied."""
    some = pl.int_range(pl.len()).is_between(first, bars.height if last is None else last, closed="left")
    return bars.with_columns(
        pl.when(some).then(pl.col(name) * factor).otherwise(name) for name in ("open", "close") if name in bars.columns
    )


def _actions(*rows: tuple[str, float | None, float | None], back_ns: int = NS_PER_HOUR, symbol: str = "A") -> pl.DataFrame:
    """Actions (kind, ratio, amount) some time before bar AT."""
    frame = pl.DataFrame(rows, schema={"action": pl.String, "ratio": pl.Float64, "amount": pl.Float64}, orient="row")
    return frame.with_columns(symbol=pl.lit(symbol), ts_ns=pl.lit(FIRST + AT * NS_PER_DAY - back_ns))


def _told(bars: pl.DataFrame, cfg: SplitsConfig, actions: pl.DataFrame | None = None, raw: frozenset[str] = frozenset("AB")) -> Told:
    change = (pl.col("close") / pl.col("close").shift()).over("symbol")
    return unrecorded_splits(bars.with_columns(change=change), _actions() if actions is None else actions, raw, cfg).to_dicts()


@pytest.mark.parametrize(("ratio", "said"), [("7.0", "7:1"), ("2.0", "2:1"), ("0.1", "1:10"), ("1.5", "3:2"), ("3.0", "3:1")])
def test_a_dump_whose_history_is_not_adjusted_is_accepted_and_told_of(
    make_dump: MakeDump, data_cfg: DataConfig, markets: dict[str, MarketConfig], ratio: str, said: str
) -> None:
    report = check_dump(make_dump(DIVIDED.format(ratio)), data_cfg, markets)
    (finding,) = report.findings
    assert isinstance(finding, Finding) and report.accepted
    assert (finding.level, finding.code, finding.table, finding.symbols) == ("warning", "unrecorded_split", "series", ("AAA",))
    (row,) = finding.rows
    assert (row["symbol"], row["at"], row["split"]) == ("AAA", "2020-01-15T21:00:00Z", said)
    assert isinstance(row["price"], float) and isinstance(row["before"], float)
    assert row["before"] / row["price"] == pytest.approx(float(ratio), rel=0.05)
    assert finding.message.startswith("series.close: 1 row, first (symbol='AAA', at='2020-01-15T21:00:00Z', before=")
    assert "; kept as it is; add the split to corporate_actions or adjust the history" in finding.message


def test_a_split_in_corporate_actions_explains_it(make_dump: MakeDump, data_cfg: DataConfig, markets: dict[str, MarketConfig]) -> None:
    assert check_dump(make_dump(DIVIDED.format("7.0"), SPLIT.format("7.0")), data_cfg, markets).findings == ()
    other = check_dump(make_dump(DIVIDED.format("7.0"), SPLIT.format("2.0")), data_cfg, markets)
    assert [finding.code for finding in other.findings] == ["unrecorded_split"]


def test_a_split_that_a_source_said_it_had_applied_explains_nothing(
    make_dump: MakeDump, data_cfg: DataConfig, markets: dict[str, MarketConfig]
) -> None:
    done = """UPDATE assets SET metadata = replace(metadata, '"none"', '"split"') WHERE symbol = 'AAA'"""
    report = check_dump(make_dump(DIVIDED.format("7.0"), SPLIT.format("7.0"), done), data_cfg, markets)
    assert [finding.code for finding in report.findings] == ["unrecorded_split"]


def test_the_split_of_a_real_dump_is_told_once_it_is_not_recorded(
    real_dump: Callable[[str], Path], tmp_path: Path, data_cfg: DataConfig, markets: dict[str, MarketConfig]
) -> None:
    dump = tmp_path / "dump.sqlite"
    shutil.copyfile(real_dump("market_2017_a"), dump)
    dump.chmod(0o644)
    db = sqlite3.connect(dump)
    db.execute("DELETE FROM corporate_actions WHERE action = 'split'")
    db.commit()
    db.close()
    (found,) = (finding for finding in check_dump(dump, data_cfg, markets).findings if finding.code == "unrecorded_split")
    assert found.rows == ({"symbol": "AAPL", "at": "2014-06-09T20:00:00Z", "before": 645.57, "price": 92.7, "split": "7:1"},)


@pytest.mark.parametrize(
    "factor", [1 / 2, 1 / 3, 2 / 3, 1 / 4, 1 / 5, 1 / 7, 1 / 8, 1 / 10, 1 / 15, 1 / 20, 2, 3, 1.5, 4, 5, 7, 8, 10, 15, 20]
)
def test_every_ratio_is_known_both_ways(cfg: SplitsConfig, factor: float) -> None:
    for bars in (_bars(), _bars().drop("open")):
        (row,) = _told(_times(bars, factor), cfg)
        old, new = (int(part) for part in row["split"].split(":")[::-1])
        assert row["at"] == SPLIT_AT and new / old == pytest.approx(1 / factor)


def test_a_symbol_has_its_own_history_and_its_own_actions(cfg: SplitsConfig) -> None:
    bars = pl.concat([_times(_bars(), 0.5), _times(_bars(symbol="B", seed=4), 1 / 3)])
    assert [(row["symbol"], row["split"]) for row in _told(bars, cfg)] == [("A", "2:1"), ("B", "3:1")]
    assert [row["symbol"] for row in _told(bars, cfg, _actions(("split", 2.0, None)))] == ["B"]
    quiet = pl.concat([_bars(), _bars(symbol="B").with_columns(pl.col("open", "close") / 7)])
    assert _told(quiet, cfg) == []  # where another symbol begins


def test_a_price_that_comes_back_is_none(cfg: SplitsConfig) -> None:
    for last in (AT + 1, AT + 3):
        assert _told(_times(_bars(), 0.5, last=last), cfg) == []
        assert _told(_times(_bars(), 2.0, last=last), cfg) == []
    assert len(_told(_times(_bars(), 0.5, last=AT + 20), cfg)) == 2  # there and back, each for good


def test_a_crash_within_a_bar_is_none(cfg: SplitsConfig) -> None:
    fallen = _times(_bars(), 0.5)
    before = fallen["close"][AT - 1]
    opened = fallen.with_columns(open=pl.when(pl.int_range(pl.len()) == AT).then(before).otherwise("open"))
    assert _told(opened, cfg) == []


def test_a_jump_that_is_like_no_split_is_none(cfg: SplitsConfig) -> None:
    for factor in (0.75, 0.6, 0.42, 1.3, 1.7, 2.4):
        assert _told(_times(_bars(sigma=0.001), factor), cfg) == [], factor
    near, far = 0.5 * 1.045, 0.5 * 1.055
    assert len(_told(_times(_bars(sigma=1e-4), near), cfg)) == 1 and _told(_times(_bars(sigma=1e-4), far), cfg) == []


def test_what_moves_so_by_itself_is_not_told(cfg: SplitsConfig) -> None:
    wild = _times(_bars(sigma=0.06), 1 / 1.5)
    assert _told(wild, cfg) == [] and len(_told(wild, replace(cfg, sigmas=2.0))) == 1
    stormy = pl.concat([_bars(AT, sigma=0.01), _bars(80, sigma=0.001)])  # calm but for the bars just before
    stormy = stormy.with_columns(ts_ns=FIRST + NS_PER_DAY * pl.int_range(pl.len()))
    shaken = pl.when(pl.int_range(pl.len()).is_between(AT - 12, AT - 1)).then(1 + 0.08 * (-1) ** pl.int_range(pl.len()))
    stormy = stormy.with_columns(pl.col("open", "close") * shaken.fill_null(1.0))
    fallen = _times(stormy, float(stormy["close"][AT - 1] / stormy["open"][AT]) / 1.5)
    assert _told(fallen, cfg) == [] and len(_told(fallen, replace(cfg, sigmas=2.0))) == 1


def test_a_calm_before_the_jump_does_not_make_a_wild_symbol_calm(cfg: SplitsConfig) -> None:
    wild, near = _bars(sigma=0.06), pl.int_range(pl.len()).is_between(AT - 13, AT)
    calm = pl.lit(float(wild["close"][AT - 14])) * (1 + 0.001 * (-1) ** pl.int_range(pl.len()))
    wild = wild.with_columns(pl.when(near).then(calm).otherwise(name).alias(name) for name in ("open", "close"))
    fallen = _times(wild, 1 / 1.5)
    assert _told(fallen, cfg) == [] and SPLIT_AT in [row["at"] for row in _told(fallen, replace(cfg, sigmas=2.0))]


def test_a_bar_that_closes_near_where_it_was_is_not_the_one_of_the_split(cfg: SplitsConfig) -> None:
    divided, here = _times(_bars(), 1 / 7), pl.int_range(pl.len()) == AT
    back = 0.7 * float(divided["close"][AT - 1])
    (row,) = _told(divided.with_columns(close=pl.when(here).then(back).otherwise("close")), cfg)
    assert row["at"] == "2020-05-01T21:00:00Z" and row["before"] == pytest.approx(back)


def test_the_symbol_that_comes_next_says_nothing_of_the_one_before(cfg: SplitsConfig) -> None:
    ends = _times(_bars(), 0.5, first=198)
    level = float(ends["close"][197])
    after = _bars(symbol="B").with_columns(pl.col("open", "close") * level / 100)
    assert [row["symbol"] for row in _told(pl.concat([ends, after]), cfg)] == ["A"]


def test_actions_explain_what_they_are_worth_and_in_their_bar_only(cfg: SplitsConfig) -> None:
    halved = _times(_bars(), 0.5)
    before = float(halved["close"][AT - 1])
    assert _told(halved, cfg, _actions(("dividend", None, 0.5 * before))) == []
    assert _told(halved, cfg, _actions(("split", 1.5, None), ("dividend", None, 0.25 * before))) == []
    assert len(_told(halved, cfg, _actions(("dividend", None, 0.01 * before)))) == 1
    assert len(_told(halved, cfg, _actions(("split", 0.5, None)))) == 1  # the other way round
    assert len(_told(halved, cfg, _actions(("split", 2.0, None), back_ns=NS_PER_DAY))) == 1  # of the bar before
    assert len(_told(halved, cfg, _actions(("split", 2.0, None), back_ns=-1))) == 1  # of the next
    assert _told(halved, cfg, _actions(("split", 2.0, None), back_ns=0)) == []
    assert _told(_times(_bars(), 10.0), cfg, _actions(("split", 0.1, None))) == []


def test_the_end_of_a_history_is_judged_by_what_there_is(cfg: SplitsConfig) -> None:
    assert len(_told(_times(_bars(), 0.5, first=199), cfg)) == 1
    assert _told(_times(_bars(), 0.5, first=cfg.level_bars - 1), cfg) == []  # of what went before too little is known
    assert len(_told(_times(_bars(), 0.5, first=cfg.level_bars), cfg)) == 1


def test_a_file_of_nothing_but_jumps_is_judged_in_a_second(cfg: SplitsConfig) -> None:
    close = np.where(np.arange(300_000) // 12 % 2, 2.0, 1.0)
    bars = pl.DataFrame({"symbol": "A", "ts_ns": FIRST + NS_PER_HOUR * np.arange(close.size), "open": close, "close": close})
    start = time.process_time()
    assert len(_told(bars, cfg)) == 300_000 // 12 - 1
    assert time.process_time() - start < 5


def test_thresholds_must_make_sense(cfg: SplitsConfig) -> None:
    for name, bad in (("tolerance_frac", 0.0), ("ratios", [1.02]), ("ratios", []), ("sigmas", 0.0), ("level_bars", 1)):
        with pytest.raises(ConfigError, match=name):
            config.parse(SplitsConfig, {**asdict(cfg), "ratios": list(cfg.ratios), name: bad}, "splits")
