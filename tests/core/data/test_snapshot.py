"""A snapshot is the dump's content under a name of its own, or nothing."""

import json
import os
import re
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plusultra_core.artifacts import sha256_file
from plusultra_core.clock import iso
from plusultra_core.data.gate.connection import connect
from plusultra_core.data.snapshot import DATABASE, Snapshot, findings_now, open_snapshot, snapshot_key, take_snapshot
from plusultra_core.data.tables import DataConfig, build_table, classes_in, read_quarantine
from plusultra_core.errors import ArtifactError, ContractError
from plusultra_core.market import MarketConfig

MakeDump = Callable[..., Path]
Take = Callable[[Path], Snapshot]
Markets = dict[str, MarketConfig]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def take(store: Path, data_cfg: DataConfig, markets: dict[str, MarketConfig]) -> Take:
    cfg = replace(data_cfg, gate=replace(data_cfg.gate, busy_timeout_s=0.0))
    return lambda path: take_snapshot(path, store, cfg, markets)


@pytest.fixture
def lenient(data_cfg: DataConfig) -> DataConfig:
    return replace(data_cfg, validation=replace(data_cfg.validation, mode="quarantine"))


def test_the_same_dump_twice_is_one_snapshot(make_dump: MakeDump, store: Path, take: Take) -> None:
    path = make_dump()
    first, second = take(path), take(path)
    assert first == second and [entry.name for entry in store.iterdir()] == [first.key]
    assert first.key == f"dump-{sha256_file(path)[:12]}" and first.sha256 == sha256_file(path)


def test_a_table_that_was_changed_since_is_refused(make_dump: MakeDump, take: Take, data_cfg: DataConfig, markets: Markets) -> None:
    taken = take(make_dump())
    path = taken.path / "tables" / "series.parquet"
    assert build_table("series", taken.path, "equity", markets, data_cfg).height == 60
    other = pl.read_parquet(path).with_columns(close=pl.col("close") * 2)
    path.unlink()
    other.write_parquet(path)
    for read in (lambda: build_table("series", taken.path, "equity", markets, data_cfg), lambda: classes_in(taken.path, markets, data_cfg)):
        with pytest.raises(ArtifactError, match=r"tables/series.parquet: expected the bytes of its manifest.json.*take the snapshot again"):
            read()
    path.unlink()
    with pytest.raises(ArtifactError, match="found None"):
        build_table("series", taken.path, "equity", markets, data_cfg)


def test_two_machines_take_the_same_bytes(
    make_dump: MakeDump, tmp_path: Path, data_cfg: DataConfig, markets: dict[str, MarketConfig]
) -> None:
    path = make_dump()
    taken = [take_snapshot(path, tmp_path / name, data_cfg, markets) for name in ("one", "two")]
    assert taken[0].manifest == taken[1].manifest
    assert (taken[0].path / DATABASE).read_bytes() == (taken[1].path / DATABASE).read_bytes()


def test_the_manifest_says_what_was_accepted(make_dump: MakeDump, take: Take) -> None:
    snapshot = take(make_dump("DROP TABLE indicators"))
    assert snapshot.manifest["counts"]["series"] == 120 and snapshot.manifest["classes"] == {"crypto": 1, "equity": 2, "etf": 1}
    assert snapshot.manifest["ranges"]["series"]["last"] == "2020-01-30T21:00:00Z"
    assert [finding["code"] for finding in snapshot.manifest["findings"]] == ["missing_table"]
    assert snapshot.manifest["quarantined"] == []


def test_the_copy_holds_the_same_rows_and_cannot_be_written(make_dump: MakeDump, take: Take, data_cfg: DataConfig) -> None:
    path = make_dump()
    copy = take(path).path / DATABASE
    assert copy.stat().st_mode & 0o222 == 0
    with connect(copy, data_cfg.gate) as db, connect(path, data_cfg.gate) as original:
        query = "SELECT * FROM series ORDER BY timestamp, symbol"
        assert db.execute(query).fetchall() == original.execute(query).fetchall()


def test_the_tables_are_typed_columns_sorted_by_symbol_and_time(make_dump: MakeDump, take: Take) -> None:
    rows = (
        "INSERT INTO fundamentals VALUES ('2020-01-05 21:00:00', 'BBB', 3, '2020-02-05 21:00:00'), ('2020-01-05 21:00:00', 'AAA', 4, NULL)"
    )
    folder = take(make_dump(rows, "ALTER TABLE series ADD COLUMN note TEXT")).path / "tables"
    assert sorted(path.name for path in folder.iterdir()) == ["assets.parquet", "fundamentals.parquet", "series.parquet"]
    series, filed = (pl.read_parquet(folder / f"{name}.parquet") for name in ("series", "fundamentals"))
    prices = dict.fromkeys(("open", "high", "low", "close", "vwap", "volume", "turnover"), pl.Float64)
    assert series.schema == {"symbol": pl.String, "ts_ns": pl.Int64, **prices} and series.height == 120
    assert series.select("symbol", "ts_ns").equals(series.select("symbol", "ts_ns").sort("symbol", "ts_ns"))
    assert filed.columns == ["symbol", "ts_ns", "known_at_ns", "earnings"] and filed["earnings"].to_list() == [4.0, 3.0]
    assert [None if known is None else iso(known) for known in filed["known_at_ns"]] == [None, "2020-02-05T21:00:00Z"]
    assert all(path.stat().st_mode & 0o222 == 0 for path in folder.iterdir())


def test_rows_that_were_set_aside_can_be_read(make_dump: MakeDump, store: Path, lenient: DataConfig, markets: Markets) -> None:
    bad = "UPDATE series SET close = x'0102' WHERE symbol = 'AAA' AND timestamp < '2020-01-03'"
    path = make_dump(bad, "INSERT INTO indicators VALUES ('2020-01-05 21:00:00', 'CCC', 'rsi', 9e999, NULL)")
    taken = take_snapshot(path, store, lenient, markets)
    assert taken.manifest["quarantined"] == ["AAA", "CCC"]
    aside = read_quarantine(taken.path)
    assert aside.select("table", "symbol", "code", "column", "row", "timestamp", "value").rows() == [
        ("series", "AAA", "not_a_number", "close", 1, "2020-01-01 21:00:00", "blob of 2 bytes"),
        ("series", "AAA", "not_a_number", "close", 2, "2020-01-02 21:00:00", "blob of 2 bytes"),
        ("series", "AAA", "not_finite", "close", 1, "2020-01-01 21:00:00", "blob of 2 bytes"),
        ("series", "AAA", "not_finite", "close", 2, "2020-01-02 21:00:00", "blob of 2 bytes"),
        ("indicators", "CCC", "not_finite", "value", 1, "2020-01-05 21:00:00", "inf"),
    ]
    assert aside["reason"].unique().sort().to_list() == ["expected a finite number", "expected a number"]
    for name in ("assets", "series"):
        assert pl.read_parquet(taken.path / "tables" / f"{name}.parquet")["symbol"].unique().sort().to_list() == ["BBB", "X/USD:P"]


def test_more_rows_than_are_kept_are_still_counted(
    make_dump: MakeDump, store: Path, lenient: DataConfig, markets: Markets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plusultra_core.data.gate.rows.QUARANTINE_ROWS", 7)
    taken = take_snapshot(make_dump("UPDATE series SET close = -1 WHERE symbol = 'AAA'"), store, lenient, markets)
    told = {finding["code"]: finding["message"] for finding in taken.manifest["findings"]}
    assert told["not_positive"].startswith("series.close: 30 rows, first")
    assert read_quarantine(taken.path).filter(pl.col("code") == "not_positive")["row"].to_list() == [1, 2, 3, 4, 5, 6, 7]


def test_a_sound_dump_sets_nothing_aside(make_dump: MakeDump, take: Take) -> None:
    assert read_quarantine(take(make_dump()).path).is_empty()


def test_a_snapshot_that_another_mode_would_have_made_otherwise_is_not_taken_for_the_same(
    make_dump: MakeDump, store: Path, take: Take, data_cfg: DataConfig, lenient: DataConfig, markets: Markets
) -> None:
    path = make_dump("UPDATE series SET close = -1 WHERE symbol = 'AAA'")
    taken = take_snapshot(path, store, lenient, markets)
    assert take_snapshot(path, store, lenient, markets) == taken
    with pytest.raises(ArtifactError, match=r"1 symbols were set aside by validation.mode quarantine.*; remove the folder .* and take"):
        take(path)
    with pytest.raises(ArtifactError, match=r"validation\.mode quarantine"):
        build_table("series", taken.path, "equity", markets, data_cfg)
    sound = make_dump(name="sound.sqlite")
    assert take_snapshot(sound, store, lenient, markets) == take(sound)  # nothing was set aside: the same either way


def test_a_snapshot_without_a_table_that_the_config_names_now_is_refused(
    make_dump: MakeDump, store: Path, take: Take, data_cfg: DataConfig, markets: Markets
) -> None:
    path = make_dump("CREATE TABLE tides (timestamp DATETIME, port TEXT, height_m REAL)")
    taken = take(path)
    named = {"table": "tides", "symbol_column": None, "key_columns": ("port",), "value_columns": ("height_m",), "market_wide": False}
    tides = replace(data_cfg.side_tables[0], **named)
    cfg = replace(data_cfg, side_tables=(*data_cfg.side_tables, tides))
    for again in (lambda: take_snapshot(path, store, cfg, markets), lambda: classes_in(taken.path, markets, cfg)):
        with pytest.raises(ArtifactError, match="the config reads other columns of tides than it was taken for; remove the folder"):
            again()
    elsewhere = replace(data_cfg, side_tables=(*data_cfg.side_tables, replace(tides, table="winds")))
    assert classes_in(taken.path, markets, elsewhere) == ("crypto", "equity", "etf")  # the dump has no such table


def test_a_snapshot_of_an_older_version_is_refused(make_dump: MakeDump, take: Take, data_cfg: DataConfig, markets: Markets) -> None:
    taken = take(make_dump())
    manifest = taken.path / "manifest.json"
    old = {name: value for name, value in taken.manifest.items() if name != "shaped_by"}
    manifest.write_text(json.dumps(old))
    for read in (lambda: take(make_dump()), lambda: build_table("assets", taken.path, "equity", markets, data_cfg)):
        with pytest.raises(ArtifactError, match="taken by an older version, which kept no tables; remove the folder"):
            read()


def test_a_refused_dump_leaves_nothing(make_dump: MakeDump, store: Path, take: Take) -> None:
    with pytest.raises(ContractError, match=r"dump.sqlite: refused: series.close: 1 row, first"):
        take(make_dump("UPDATE series SET close = -1 WHERE symbol = 'AAA' AND timestamp = '2020-01-05 21:00:00'"))
    assert list(store.iterdir()) == []


def test_no_file_and_no_database_are_refused(tmp_path: Path, take: Take) -> None:
    with pytest.raises(ContractError, match="cannot be read"):
        take(tmp_path / "none.sqlite")
    (tmp_path / "text.sqlite").write_text("hello " * 100)
    with pytest.raises(ContractError, match="expected a SQLite 3 file"):
        take(tmp_path / "text.sqlite")


def test_a_locked_dump_is_refused(make_dump: MakeDump, store: Path, take: Take) -> None:
    path = make_dump()
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ContractError, match="another process holds a lock"):
        take(path)
    writer.rollback()
    writer.close()
    assert list(store.iterdir()) == []


def test_rows_in_the_log_are_in_the_snapshot(make_dump: MakeDump, take: Take) -> None:
    path = make_dump()
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("DELETE FROM series WHERE timestamp > '2020-01-29'")
    writer.commit()
    logged = take(path)
    assert logged.manifest["counts"]["series"] == 112
    assert logged.sha256 == sha256_file(logged.path / DATABASE) != sha256_file(path)
    writer.close()
    assert sorted(entry.name for entry in logged.path.iterdir()) == [
        DATABASE,
        "manifest.json",
        "quarantine.parquet",
        "tables",
        "versions.json",
    ]


def test_odd_file_names_become_plain_keys(make_dump: MakeDump, take: Take) -> None:
    for name in ("../../etc/passwd".replace("/", "_"), "a b;c'd.sqlite", "日本.sqlite", "." * 3 + "x", "x" * 200 + ".sqlite"):
        snapshot = take(make_dump(name=name))
        assert re.fullmatch(r"[A-Za-z0-9_-]+", snapshot.key) and len(snapshot.key) <= 77


@given(st.text(min_size=1).filter(lambda text: "\0" not in text and "/" not in text and text not in (".", "..")))
def test_every_name_makes_a_plain_key(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]+", snapshot_key(Path(name).stem, "0123456789abcdef"))


def test_a_damaged_snapshot_is_not_opened(make_dump: MakeDump, store: Path, take: Take) -> None:
    snapshot = take(make_dump())
    copy = snapshot.path / DATABASE
    os.chmod(copy, 0o644)  # noqa: PTH101
    copy.write_bytes(copy.read_bytes()[:-1] + b"\1")
    with pytest.raises(ArtifactError, match="make it again"):
        open_snapshot(store, snapshot.key)
    assert open_snapshot(store, snapshot.key, verify=False).key == snapshot.key


@pytest.mark.parametrize("key", ["../x", "a/b", "", "a b", "ключ"])
def test_a_key_is_never_a_path(key: str, store: Path) -> None:
    with pytest.raises(ArtifactError, match="expected letters"):
        open_snapshot(store, key)


def test_findings_are_those_of_the_thresholds_of_now(make_dump: MakeDump, store: Path, data_cfg: DataConfig, markets: Markets) -> None:
    path = make_dump("UPDATE series SET open = 7, high = 7, low = 7, close = 7, vwap = 7 WHERE symbol = 'AAA' AND rowid % 3 > 0")
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode = WAL")
    db.close()
    taken = take_snapshot(path, store, data_cfg, markets)
    by_then = taken.manifest["findings"]
    assert findings_now(taken, data_cfg, markets) == (by_then, False) and by_then[0]["code"] == "wal_mode"
    low = replace(data_cfg, history=replace(data_cfg.history, jump_ratio=2.0))
    found, again = findings_now(taken, low, markets)
    assert again and {row["code"] for row in found} - {row["code"] for row in by_then} == {"price_jump"}
    assert found == [by_then[0], *(row for row in take_snapshot(path, store.with_name("other"), low, markets).manifest["findings"][1:])]
    coarse = {**markets, "equity": replace(markets["equity"], bar="1h")}
    assert "coarse_bars" in {row["code"] for row in findings_now(taken, data_cfg, coarse)[0]}
    older = replace(taken, manifest={name: value for name, value in taken.manifest.items() if name != "judged_by"})
    assert findings_now(older, data_cfg, markets) == (by_then, True)
