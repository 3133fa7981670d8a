"""Alternative data of any shape: every vintage is kept, and the join knows which one counts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plusultra_core.clock import NS_PER_DAY, NS_PER_HOUR
from plusultra_core.data.contract.validation import validate
from plusultra_core.data.gate.timestamps import to_ns
from plusultra_core.data.side_tables import SideTableConfig, as_of, value_at, vintage
from plusultra_core.data.snapshot import take_snapshot
from plusultra_core.data.tables import DataConfig, build_table
from plusultra_core.errors import ConfigError
from plusultra_core.features import sides
from plusultra_core.leakage import check_poison, check_truncation
from plusultra_core.market import MarketConfig

MakeDump = Callable[..., Path]
Side = Callable[..., pl.DataFrame]
TIDES = SideTableConfig(
    table="tides",
    time_column="at",
    known_at_column="seen",
    lag_s=0,
    max_staleness_hours=None,
    symbol_column=None,
    key_columns=("port", "gauge"),
    value_columns=(),
    market_wide=False,
)


def ns(text: str) -> int:
    """A time in nanoseconds."""
    return int(to_ns(pl.Series([text]), "t")[0])


def _keys(*times: int | str, symbol: str = "A") -> pl.DataFrame:
    known = [time if isinstance(time, int) else ns(time) for time in times]
    return pl.DataFrame({"symbol": [symbol] * len(known), "known_ns": known}, schema={"symbol": pl.String, "known_ns": pl.Int64})


def _rows(*rows: tuple[int, int, float], symbol: str = "A") -> pl.DataFrame:
    schema = {"ts_ns": pl.Int64, "known_ns": pl.Int64, "value": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(symbol=pl.lit(symbol))


def _values(keys: pl.DataFrame, rows: pl.DataFrame, **more: Any) -> list[float | None]:
    return as_of(keys, rows, True, **more)["value"].to_list()


@pytest.fixture
def side(make_dump: MakeDump, tmp_path: Path, data_cfg: DataConfig, markets: dict[str, MarketConfig]) -> Side:
    """Side tables of a class, from the sound dump with some statements run on it, all the way through gate and snapshot."""

    def build(asset_class: str, *statements: str, cfg: DataConfig = data_cfg) -> pl.DataFrame:
        snapshot = take_snapshot(make_dump(*statements), tmp_path / "store", cfg, markets)
        return validate("side_tables", build_table("side_tables", snapshot.path, asset_class, markets, cfg))

    return build


def test_the_shape_follows_from_the_config() -> None:
    shape = TIDES.shape()
    assert shape.required == ("at", "port", "gauge") and shape.keys == ("at", "port", "gauge", "seen") and shape.any_number
    with pytest.raises(ConfigError, match="each column in one role"):
        replace(TIDES, value_columns=("port",))
    with pytest.raises(ConfigError, match="max_staleness_hours: expected > 0 or null, found 0"):
        replace(TIDES, max_staleness_hours=0.0)


def test_a_revision_replaces_its_own_period_and_no_newer_one() -> None:
    may, june = 100, 200
    rows = _rows((may, 110, 1.0), (may, 150, 1.5), (june, 210, 2.0), (may, 220, 1.7), (june, 230, 2.5))
    keys = _keys(109, 110, 149, 150, 209, 210, 220, 229, 230, 9999)
    assert _values(keys, rows) == [None, 1.0, 1.0, 1.5, 1.5, 2.0, 2.0, 2.0, 2.5, 2.5]
    joined = as_of(keys, rows, True)
    assert joined["source_ts_ns"].to_list() == [None, *[may] * 4, *[june] * 5]
    assert joined["staleness_ns"].to_list() == [None, 0, 39, 0, 59, 0, 10, 19, 0, 9769]


def test_of_periods_known_at_once_the_newest_counts() -> None:
    assert _values(_keys(50, 60), _rows((10, 50, 1.0), (30, 50, 3.0), (20, 50, 2.0))) == [3.0, 3.0]


def test_what_is_too_old_is_no_value_and_no_older_one_stands_in() -> None:
    rows = _rows((0, 0, 1.0), (10, 10, 2.0))
    assert _values(_keys(10, 15, 16), rows, max_staleness_ns=5) == [2.0, 2.0, None]
    assert as_of(_keys(16), rows, True, 5)["source_ts_ns"].to_list() == [10]
    short = rows.with_columns(expires_ns=pl.Series([1000, 12]))
    assert _values(_keys(9, 12, 13), short) == [1.0, 2.0, None]


def test_features_use_no_value_past_the_staleness_of_its_table() -> None:
    rows = _rows((0, 0, 1.0)).with_columns(expires_ns=pl.lit(2 * NS_PER_HOUR))
    found = sides.as_of(_keys(NS_PER_HOUR, 2 * NS_PER_HOUR, 3 * NS_PER_HOUR), rows, 1000 * NS_PER_HOUR, by_symbol=True)
    np.testing.assert_array_equal(found, [1.0, 1.0, np.nan])


def test_keys_in_any_order_keep_their_order_and_their_symbols() -> None:
    keys = pl.concat([_keys(30, symbol="B"), _keys(20, 5), _keys(1, symbol="B")])
    rows = pl.concat([_rows((1, 2, 7.0), symbol="B"), _rows((3, 4, 8.0), (15, 16, 9.0))])
    assert _values(keys, rows) == [7.0, 9.0, 8.0, None]
    assert as_of(keys, rows.filter(pl.col("symbol") == "A"), False)["value"].to_list() == [9.0, 9.0, 8.0, None]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 12), st.integers(0, 99)), max_size=25, unique_by=lambda row: row[:2]),
    st.lists(st.integers(0, 22), min_size=1, max_size=12),
    st.none() | st.integers(1, 9),
)
def test_the_join_agrees_with_a_loop(rows: list[tuple[int, int, int]], times: list[int], limit: int | None) -> None:
    known = [(ts, ts + delay, float(value)) for ts, delay, value in rows]
    expected = []
    for time in times:
        newest = max(((ts, seen, value) for ts, seen, value in known if seen <= time), default=None)
        expected.append(None if newest is None or (limit is not None and time - newest[1] > limit) else newest[2])
    assert _values(_keys(*times), _rows(*known), max_staleness_ns=limit) == expected
    fast = sides.as_of(_keys(*times), _rows(*known), 99 if limit is None else limit, by_symbol=True)
    assert [None if np.isnan(value) else value for value in fast] == expected


def test_the_symbols_own_value_comes_before_the_markets() -> None:
    own, wide = _rows((10, 10, 1.0)), _rows((0, 0, 9.0)).with_columns(symbol=pl.lit(None, pl.String))
    both = pl.concat([own, wide]).with_columns(table=pl.lit("mood"), field=pl.lit("score"))
    assert value_at(_keys(5, 10), both, "mood", "score").to_list() == [9.0, 1.0]
    assert value_at(_keys(5, 10, symbol="B"), both, "mood", "score").to_list() == [9.0, 9.0]
    assert value_at(_keys(5), both, "mood", "other").to_list() == [None]


def test_a_vintage_is_what_stood_in_the_books_that_day() -> None:
    rows = _rows((100, 110, 1.0), (100, 150, 1.5), (200, 210, 2.0), (100, 220, 1.7)).with_columns(
        table=pl.lit("cpi"), field=pl.lit("actual")
    )
    for moment, values in ((109, []), (149, [1.0]), (215, [1.5, 2.0]), (220, [1.7, 2.0]), (None, [1.7, 2.0])):
        assert vintage(rows, moment).sort("ts_ns")["value"].to_list() == values


def test_the_join_knows_no_future() -> None:
    days = [index * NS_PER_DAY for index in range(60)]
    rows = _rows(*((day, day + (index % 5) * NS_PER_DAY, float(index)) for index, day in enumerate(days)))

    def build(frames: dict[str, pl.DataFrame]) -> pl.DataFrame:
        return frames["keys"].hstack(as_of(frames["keys"], frames["rows"], True).select("value"))

    frames = {"keys": _keys(*days).with_columns(ts_ns=pl.col("known_ns")), "rows": rows}
    assert check_truncation(build, frames, num_cuts=8, seed=7).num_rows > 0
    check_poison(build, frames, num_cuts=8, seed=7)


def test_a_table_of_any_shape_comes_through_by_config_alone(side: Side, data_cfg: DataConfig) -> None:
    tides = replace(TIDES, max_staleness_hours=6.0, lag_s=3600)
    cfg = replace(data_cfg, side_tables=(*data_cfg.side_tables, tides))
    create = "CREATE TABLE tides (at DATETIME, port TEXT, gauge INTEGER, height_m REAL, moon INTEGER, note TEXT, seen DATETIME)"
    insert = """INSERT INTO tides VALUES ('2020-01-05 00:00:00', 'Kiel', 1, 1.25, 3, 'calm', NULL),
        ('2020-01-05 00:00:00', 'Kiel', 1, 1.5, 3, 'mended', '2020-01-05 09:00:00'), ('2020-01-05 00:00:00', 'Kiel', 2, 7, 3, 'x', NULL)"""
    frame = side("etf", create, insert, cfg=cfg)
    assert frame["field"].unique().sort().to_list() == ["Kiel.1.height_m", "Kiel.1.moon", "Kiel.2.height_m", "Kiel.2.moon"]
    assert (frame["expires_ns"] - frame["known_ns"]).unique().to_list() == [6 * NS_PER_HOUR]
    hours = [f"2020-01-05 {hour:02}:00:00" for hour in (0, 1, 7, 8, 9, 15, 16)]
    assert value_at(_keys(*hours), frame, "tides", "Kiel.1.height_m").to_list() == [None, 1.25, 1.25, None, 1.5, 1.5, None]
    assert side("etf", create, "INSERT INTO tides VALUES ('2020-01-05 00:00:00', 'Kiel', 1, NULL, NULL, '', NULL)", cfg=cfg).is_empty()


def test_fundamentals_wait_for_their_filing(side: Side) -> None:
    frame = side(
        "equity",
        "INSERT INTO fundamentals VALUES ('2020-01-02 00:00:00', 'AAA', 3.0, '2020-01-20 21:30:00')",
        "INSERT INTO fundamentals VALUES ('2020-01-02 00:00:00', 'AAA', 3.2, '2020-03-10 12:00:00')",
        "INSERT INTO fundamentals VALUES ('2020-01-02 00:00:00', 'BBB', 5.0, NULL)",
    )
    closes = ["2020-01-20 21:00:00", "2020-01-21 21:00:00", "2020-03-09 21:00:00", "2020-03-10 21:00:00"]
    assert value_at(_keys(*closes, symbol="AAA"), frame, "fundamentals", "earnings").to_list() == [None, 3.0, 3.0, 3.2]
    filed = ["2020-03-31 21:00:00", "2020-04-01 21:00:00"]  # 90 days after the period: the deadline stands in for an unsaid date
    assert value_at(_keys(*filed, symbol="BBB"), frame, "fundamentals", "earnings").to_list() == [None, 5.0]


def test_sentiment_of_a_symbol_and_of_the_market(side: Side, data_cfg: DataConfig) -> None:
    moods = tuple(replace(table, max_staleness_hours=48.0) if table.table == "sentiment" else table for table in data_cfg.side_tables)
    frame = side(
        "equity",
        "INSERT INTO sentiment VALUES ('2020-01-05 12:00:00', 'AAA', 0.5, 'paper'), ('2020-01-04 12:00:00', NULL, 0.1, 'all')",
        "INSERT INTO sentiment VALUES ('2020-01-06 12:00:00', 'AAA', -0.25, 'paper'), ('2020-01-05 12:00:00', 'CCC', 9, 'other class')",
        cfg=replace(data_cfg, side_tables=moods),
    )
    closes = [f"2020-01-0{day} 21:00:00" for day in (3, 4, 5, 6, 7, 8)]
    assert value_at(_keys(*closes, symbol="AAA"), frame, "sentiment", "score").to_list() == [None, 0.1, 0.5, -0.25, -0.25, None]
    assert value_at(_keys(*closes, symbol="BBB"), frame, "sentiment", "score").to_list() == [None, 0.1, 0.1, None, None, None]
    assert "CCC" not in frame["symbol"].to_list()


def test_first_release_and_revision_of_the_price_index(side: Side) -> None:
    frame = side(
        "crypto",
        "ALTER TABLE macro_calendar ADD COLUMN known_at DATETIME",
        """INSERT INTO macro_calendar VALUES ('2019-11-30 00:00:00', 'CPI', 256.5, 256.0, '2019-12-11 13:30:00'),
            ('2019-12-31 00:00:00', 'CPI', 257.0, 256.5, '2020-01-14 13:30:00'),
            ('2019-11-30 00:00:00', 'CPI', 256.7, 256.0, '2020-01-14 13:30:00'),
            ('2019-12-31 00:00:00', 'CPI', 257.2, 256.7, '2020-02-13 13:30:00'),
            ('2019-11-30 00:00:00', 'CPI', 256.9, 256.0, '2020-03-01 00:00:00')""",
    )
    closes = ["2019-12-11 13:00:00", "2019-12-12 00:00:00", "2020-01-15 00:00:00", "2020-02-14 00:00:00", "2020-03-02 00:00:00"]
    assert value_at(_keys(*closes), frame, "macro_calendar", "CPI.actual").to_list() == [None, 256.5, 257.0, 257.2, 257.2]
    assert frame.filter(pl.col("field") == "CPI.actual").height == 5
    then = vintage(frame.filter(pl.col("field") == "CPI.actual"), ns("2020-01-20 00:00:00")).sort("ts_ns")
    assert then["value"].to_list() == [256.7, 257.0]
