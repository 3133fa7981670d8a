"""Universe as of a day: the dead of tomorrow are in it, the newborn of tomorrow are not."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.data.gate.timestamps import to_ns
from plusultra_core.data.snapshot import take_snapshot
from plusultra_core.data.tables import DataConfig, build_table
from plusultra_core.data.universe import UniverseConfig, currencies, lifetimes, universe
from plusultra_core.errors import ConfigError
from plusultra_core.market import MarketConfig

CFG = UniverseConfig(silent_sessions=3)
DAY0 = int(to_ns(pl.Series(["2020-01-01 00:00:00"]), "t")[0])


def day(index: float) -> int:
    """Close of day `index`."""
    return DAY0 + int(index * NS_PER_DAY)


def _series(**days: range | list[int]) -> pl.DataFrame:
    rows = [(symbol, day(index), day(index)) for symbol, indices in days.items() for index in indices]
    return pl.DataFrame(rows, schema={"symbol": pl.String, "ts_ns": pl.Int64, "known_ns": pl.Int64}, orient="row")


def _assets(*symbols: str, **metadata: str) -> pl.DataFrame:
    names = [*symbols, *metadata]
    return pl.DataFrame(
        {"symbol": names, "asset_class": ["crypto"] * len(names), "metadata": [None] * len(symbols) + list(metadata.values())},
        schema={"symbol": pl.String, "asset_class": pl.String, "metadata": pl.String},
    )


@pytest.fixture
def crypto(markets: dict[str, MarketConfig]) -> MarketConfig:
    return markets["crypto"]


def test_a_symbol_that_dies_later_is_in_and_one_listed_later_is_not(crypto: MarketConfig) -> None:
    series = _series(OLD=range(100), DEAD=range(40), NEW=range(60, 100))
    assets = _assets("DEAD", "NEW", "OLD")
    for moment, alive in (
        (20, ["DEAD", "OLD"]),
        (39, ["DEAD", "OLD"]),
        (50, ["OLD"]),
        (59, ["OLD"]),
        (60, ["NEW", "OLD"]),
        (99, ["NEW", "OLD"]),
    ):
        assert universe(series, assets, crypto, CFG, day(moment)) == alive
    assert universe(series, assets, crypto, CFG, day(-1)) == []


def test_silence_is_counted_at_the_moment_and_not_in_hindsight(crypto: MarketConfig) -> None:
    series = _series(OLD=range(100), GAP=[*range(40), *range(50, 100)], DEAD=range(40))
    assets = _assets("DEAD", "GAP", "OLD")
    for moment, gone in ((41, []), (42, ["DEAD", "GAP"]), (49, ["DEAD", "GAP"]), (50, ["DEAD"])):
        frame = lifetimes(series, assets, crypto, CFG, day(moment))
        assert frame.filter("delisted")["symbol"].to_list() == gone
    rows = {row["symbol"]: row for row in lifetimes(series, assets, crypto, CFG, None).rows(named=True)}
    assert rows["DEAD"]["delisted_ns"] == rows["DEAD"]["last_ns"] == day(39) and rows["DEAD"]["reason"] == "silent"
    assert rows["GAP"]["delisted_ns"] is None and rows["GAP"]["reason"] == "trading" and rows["GAP"]["listed_ns"] == day(0)


def test_holidays_are_no_silence(markets: dict[str, MarketConfig]) -> None:
    stamps = {
        "OLD": ["2019-12-20 21:00:00", "2019-12-23 21:00:00", "2019-12-24 18:00:00", "2019-12-26 21:00:00", "2019-12-27 21:00:00"],
        "LATE": ["2019-12-20 21:00:00", "2019-12-23 21:00:00"],
    }
    parts = [pl.DataFrame({"symbol": symbol, "ts_ns": to_ns(pl.Series(times), "t")}) for symbol, times in stamps.items()]
    series = pl.concat(parts).with_columns(known_ns="ts_ns")
    assets = _assets("LATE", "OLD").with_columns(asset_class=pl.lit("equity"))
    last = int(series["ts_ns"].max())  # type: ignore[arg-type]
    assert universe(series, assets, markets["equity"], CFG, last - 1) == [
        "LATE",
        "OLD",
    ]  # the 24th and the 26th, seven days of the calendar
    assert universe(series, assets, markets["equity"], CFG, last) == ["OLD"]


def test_an_hour_of_silence_is_no_death(markets: dict[str, MarketConfig]) -> None:
    hours = [hour / 24 for hour in range(24 * 6)]
    series = _series(LIVE=hours, OUT=hours[:75], DEAD=hours[:48])  # type: ignore[arg-type]
    assert universe(series, _assets("DEAD", "LIVE", "OUT"), markets["crypto_perpetual"], CFG, day(5.9)) == ["LIVE", "OUT"]


def test_what_the_dump_says_of_a_life_counts_from_its_day_on(crypto: MarketConfig) -> None:
    said = '{"listed": "2020-01-06", "delisted": "2020-01-21", "delisting_return": -0.3}'
    series = _series(OLD=range(60), LIFE=range(10, 18))
    assets = _assets("OLD", LIFE=said, LONG='{"listed": "1999-05-05 12:00:00"}')
    (before,) = lifetimes(series, assets, crypto, CFG, day(4)).filter(pl.col("symbol") == "LIFE").rows(named=True)
    assert before["reason"] == "not yet listed" and before["delisted"] is None
    assert universe(series, assets, crypto, CFG, day(17)) == ["LIFE", "OLD"]
    (silent,) = lifetimes(series, assets, crypto, CFG, day(20)).filter(pl.col("symbol") == "LIFE").rows(named=True)
    assert silent["reason"] == "silent" and silent["delisting_ret_simple"] is None and silent["listed_ns"] == day(5)
    (gone,) = lifetimes(series, assets, crypto, CFG, day(21)).filter(pl.col("symbol") == "LIFE").rows(named=True)
    assert (gone["reason"], gone["delisted_ns"], gone["delisting_ret_simple"]) == ("metadata", day(21), -0.3)
    (long,) = lifetimes(series, assets, crypto, CFG, day(21)).filter(pl.col("symbol") == "LONG").rows(named=True)
    assert long["reason"] == "no bars" and long["delisted"] is None and long["listed_ns"] < day(0)


@pytest.mark.parametrize(
    "metadata", ["{bad", "[1]", '{"listed": 5}', '{"listed": "soon", "delisted": {"a": 1}}', '{"delisting_return": "x"}']
)
def test_metadata_that_cannot_be_read_says_nothing(metadata: str, crypto: MarketConfig) -> None:
    frame = lifetimes(_series(A=range(5)), _assets(A=metadata), crypto, CFG, None)
    assert frame.row(0) == ("A", "crypto", day(0), day(4), False, None, None, "trading")


def test_a_class_without_bars_has_nobody(crypto: MarketConfig) -> None:
    assert universe(_series(), _assets("A"), crypto, CFG, day(3)) == []
    assert lifetimes(_series(), _assets("A"), crypto, CFG, None)["reason"].to_list() == ["no bars"]
    with pytest.raises(ConfigError, match="silent_sessions: expected >= 1, found 0"):
        UniverseConfig(silent_sessions=0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30), st.integers(0, 3)), min_size=1, max_size=6), st.integers(0, 45))
def test_no_life_knows_what_comes_after_the_day(markets: dict[str, MarketConfig], lives: list[tuple[int, int, int]], moment: int) -> None:
    days = {f"S{index}": [*range(start, start + length)] for index, (start, length, _) in enumerate(lives)}
    series = _series(**days)
    late = {f"S{index}": late for index, (_, _, late) in enumerate(lives)}
    known = pl.col("ts_ns") + pl.col("symbol").replace_strict(late, return_dtype=pl.Int64) * NS_PER_DAY
    series = series.with_columns(known_ns=known)
    assets = _assets(*days)
    then = lifetimes(series, assets, markets["crypto"], CFG, day(moment))
    cut = lifetimes(series.filter(pl.col("known_ns") <= day(moment)), assets, markets["crypto"], CFG, day(moment))
    assert then.equals(cut)
    seen = {symbol: [at for at in where if at + late[symbol] <= moment] for symbol, where in days.items()}
    newest = max((at[-1] for at in seen.values() if at), default=None)
    alive = [symbol for symbol, at in seen.items() if at and newest is not None and newest - at[-1] < 3]
    assert universe(series, assets, markets["crypto"], CFG, day(moment)) == alive


def test_the_real_universe_of_a_day(
    real_dump: Callable[[str], Path], tmp_path: Path, data_cfg: DataConfig, markets: dict[str, MarketConfig]
) -> None:
    snapshot = take_snapshot(real_dump("market_2017_a"), tmp_path, data_cfg, markets)
    series, assets = (build_table(name, snapshot.path, "forex", markets, data_cfg) for name in ("series", "assets"))
    before, after = (int(to_ns(pl.Series([text]), "t")[0]) for text in ("2015-12-31 00:00:00", "2016-02-01 00:00:00"))
    assert universe(series, assets, markets["forex"], data_cfg.universe, before) == ["EURGBP", "GBPUSD"]
    assert universe(series, assets, markets["forex"], data_cfg.universe, after) == ["EURGBP", "EURUSD", "GBPUSD", "NZDUSD"]
    assert currencies(assets, markets["forex"]).filter("foreign")["symbol"].to_list() == ["EURGBP"]
    shares, equities = (build_table(name, snapshot.path, "equity", markets, data_cfg) for name in ("series", "assets"))
    frame = lifetimes(shares, equities, markets["equity"], data_cfg.universe, None)
    assert frame.height == 30 and frame["reason"].unique().to_list() == ["trading"]
