"""A snapshot is the dump's content under a name of its own, or nothing."""

import os
import re
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plusultra_core.artifacts import sha256_file
from plusultra_core.data.gate.connection import connect
from plusultra_core.data.snapshot import DATABASE, Snapshot, open_snapshot, snapshot_key, take_snapshot
from plusultra_core.data.tables import DataConfig
from plusultra_core.errors import ArtifactError, ContractError
from plusultra_core.market import MarketConfig

MakeDump = Callable[..., Path]
Take = Callable[[Path], Snapshot]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def take(store: Path, data_cfg: DataConfig, markets: dict[str, MarketConfig]) -> Take:
    cfg = replace(data_cfg, gate=replace(data_cfg.gate, busy_timeout_s=0.0))
    return lambda path: take_snapshot(path, store, cfg, markets)


def test_the_same_dump_twice_is_one_snapshot(make_dump: MakeDump, store: Path, take: Take) -> None:
    path = make_dump()
    first, second = take(path), take(path)
    assert first == second and [entry.name for entry in store.iterdir()] == [first.key]
    assert first.key == f"dump-{sha256_file(path)[:12]}" and first.sha256 == sha256_file(path)


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
    assert sorted(entry.name for entry in logged.path.iterdir()) == [DATABASE, "manifest.json", "quarantine.parquet", "tables"]


def test_odd_file_names_become_plain_keys(make_dump: MakeDump, take: Take) -> None:
    for name in ("../../etc/passwd".replace("/", "_"), "a b;c'd.sqlite", "日本.sqlite", "." * 3 + "x", "x" * 200 + ".sqlite"):
        snapshot = take(make_dump(name=name))
        assert re.fullmatch(r"[A-Za-z0-9_-]+", snapshot.key) and len(snapshot.key) <= 77


@given(st.text(min_size=1).filter(lambda text: "\0" not in text and "/" not in text and text not in (".", "..")))
def test_every_name_makes_a_plain_key(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]+", snapshot_key(Path(name), "0123456789abcdef"))


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
