"""A written dump holds what was given, in the contract's shape, whole or not at all."""

import hashlib
import sqlite3
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from plusultra_core.clock import NS_PER_DAY, NS_PER_MS
from plusultra_core.data.samples.dump_writer import ALWAYS, SCHEMA, long_rows, new_york_ns, new_york_sessions, write_dump
from plusultra_core.errors import ConfigError, ContractError

TS_NS = 1_467_403_200 * 10**9  # 2016-07-01 20:00:00 UTC


def assets(*symbols: str) -> pl.DataFrame:
    return pl.DataFrame(
        {"asset_id": range(1, len(symbols) + 1), "symbol": list(symbols)}, schema={"asset_id": pl.Int64, "symbol": pl.String}
    )


def series(*symbols: str) -> pl.DataFrame:
    return pl.DataFrame({"ts_ns": [TS_NS] * len(symbols), "symbol": list(symbols), "close": [1.5] * len(symbols)})


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    db = sqlite3.connect(path)
    try:
        return db.execute(query).fetchall()
    finally:
        db.close()


def test_tables_have_the_columns_keys_and_types_of_the_contract(tmp_path: Path) -> None:
    path = tmp_path / "dump.sqlite"
    counts = write_dump(path, {"assets": assets("A"), "series": series("A"), "macro_rates": pl.DataFrame()})
    assert counts["series"] == 1 and counts["macro_rates"] == 0
    assert {name for (name,) in rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")} == {*ALWAYS, "macro_rates"}
    for table in (*ALWAYS, "macro_rates"):
        info = rows(path, f"PRAGMA table_info({table})")
        assert [(name, kind) for _, name, kind, *_ in info] == list(SCHEMA[table][0].items())
        assert tuple(row[1] for row in sorted(info, key=lambda row: row[5]) if row[5]) == SCHEMA[table][1]
    assert rows(path, "SELECT * FROM series") == [("2016-07-01 20:00:00", "A", None, None, None, 1.5, None, None, None)]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("table", ["assets", "series"])
def test_a_real_dump_has_the_same_columns(table: str, real_dump) -> None:  # type: ignore[no-untyped-def]
    info = rows(real_dump("market_tiny"), f"PRAGMA table_info({table})")
    assert [row[1] for row in info] == list(SCHEMA[table][0])


@pytest.mark.parametrize(
    ("notation", "stamp"),
    [
        ("text", "2016-07-01 20:00:00"),
        ("iso", "2016-07-01T20:00:00Z"),
        ("epoch_s", TS_NS // 10**9),
        ("epoch_ms", TS_NS // 10**6),
        ("epoch_us", TS_NS // 10**3),
        ("epoch_ns", TS_NS),
    ],
)
def test_every_notation_of_the_contract_can_be_written(notation, stamp: object, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "dump.sqlite"
    write_dump(path, {"assets": assets("A"), "series": series("A")}, notation)
    assert rows(path, "SELECT timestamp FROM series") == [(stamp,)]


def test_fractions_of_a_second_are_kept_as_milliseconds(tmp_path: Path) -> None:
    path = tmp_path / "dump.sqlite"
    write_dump(path, {"assets": assets("A"), "series": series("A").with_columns(ts_ns=pl.lit(TS_NS + 250 * NS_PER_MS))})
    assert rows(path, "SELECT timestamp FROM series") == [("2016-07-01 20:00:00.250",)]


def test_nan_becomes_null_and_odd_symbols_stay_data(tmp_path: Path) -> None:
    path, odd = tmp_path / "dump.sqlite", "x'; DROP TABLE series;--"
    frame = series("A", odd).with_columns(volume=pl.Series([float("nan"), 2.0]))
    write_dump(path, {"assets": assets("A", odd), "series": frame})
    assert rows(path, "SELECT symbol, volume FROM series ORDER BY symbol") == [("A", None), (odd, 2.0)]


def test_equal_rows_in_any_order_give_equal_bytes(tmp_path: Path) -> None:
    frame = pl.concat([series("A", "B"), series("A", "B").with_columns(pl.col("ts_ns") + NS_PER_DAY)])
    for name, given in (("one", frame), ("two", frame.reverse())):
        write_dump(tmp_path / name, {"assets": assets("A", "B"), "series": given})
    one, two = ((tmp_path / name).read_bytes() for name in ("one", "two"))
    assert hashlib.sha256(one).digest() == hashlib.sha256(two).digest()


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"serie": pl.DataFrame()}, "serie: expected a table of"),
        ({"series": series("A").with_columns(bid=1.0)}, r"series\.bid: expected columns of"),
        ({"series": series("A", "A")}, "series: 1 rows repeat the key"),
        ({"series": series("A").drop("ts_ns")}, r"series\.timestamp: expected a value in every row"),
        ({"series": series("A").with_columns(symbol=pl.lit(None, pl.String))}, r"series\.symbol: expected a value in every row"),
        ({"series": series("A").with_columns(ts_ns=pl.lit(None, pl.Int64))}, r"series\.ts_ns: expected no nulls"),
    ],
)
def test_what_is_no_dump_is_refused_and_leaves_nothing(tables: dict[str, pl.DataFrame], message: str, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=message):
        write_dump(tmp_path / "dump.sqlite", tables)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_keeps_the_dump_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "dump.sqlite"
    write_dump(path, {"assets": assets("A"), "series": series("A")})
    before = path.read_bytes()
    with pytest.raises(sqlite3.IntegrityError):
        write_dump(path, {"assets": assets("A", "A"), "series": series("A")})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_wall_times_in_new_york_follow_daylight_saving() -> None:
    days = np.array(["2016-01-04", "2016-07-01"], dtype="datetime64[D]")
    hours = new_york_ns(days, "16:00") // (3600 * 10**9) % 24
    assert hours.tolist() == [21, 20]


def test_sessions_leave_out_weekends_and_holidays() -> None:
    days = new_york_sessions("2016-07-01", 5).astype(str).tolist()
    assert days == ["2016-07-01", "2016-07-05", "2016-07-06", "2016-07-07", "2016-07-08"]
    with pytest.raises((ConfigError, ValueError)):
        new_york_sessions("1600-01-01", 5)


def test_long_rows_hold_the_marked_cells() -> None:
    mask = np.array([[True, False], [True, True]])
    frame = long_rows(np.array([10, 20]), ("A", "B"), mask, {"v": np.array([[1.0, 2.0], [3.0, 4.0]])})
    assert frame.rows() == [(10, "A", 1.0), (20, "A", 3.0), (20, "B", 4.0)]
