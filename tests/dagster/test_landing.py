"""The landing folder: what is taken, what waits, what is left alone."""

import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from plusultra_dagster.resources.landing import Landing, key_of, same_content

LATER = time.time() + 3600


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "landing"
    path.mkdir()
    return path


def database(path: Path, value: int = 1, rows: int = 50) -> Path:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE t (x)")
        db.executemany("INSERT INTO t VALUES (?)", [(value,)] * rows)
        db.commit()
    return path


def test_an_empty_or_missing_folder_holds_nothing(folder: Path) -> None:
    assert Landing(folder=str(folder)).scan({}, []).new == ()
    assert Landing(folder=str(folder / "none")).scan({}, []).new == ()


def test_a_dump_is_taken_once(folder: Path) -> None:
    path = database(folder / "prices.sqlite")
    landing = Landing(folder=str(folder))
    first = landing.scan({}, [], LATER)
    assert [entry.key for entry in first.new] == [key_of(path)]
    assert landing.scan(first.seen, [], LATER).new == ()


def test_a_dump_that_has_not_settled_waits_and_is_looked_at_again(folder: Path) -> None:
    database(folder / "prices.sqlite")
    landing = Landing(folder=str(folder), settle_s=10)
    scan = landing.scan({}, [], time.time())
    assert (scan.new, scan.seen) == ((), {})
    assert scan.waiting == {"prices.sqlite": "still settling"}
    assert len(landing.scan(scan.seen, [], LATER).new) == 1


def test_half_a_copy_waits(folder: Path) -> None:
    path = database(folder / "prices.sqlite", rows=5000)
    os.truncate(path, path.stat().st_size // 2)
    assert "half a copy" in Landing(folder=str(folder)).scan({}, [], LATER).waiting["prices.sqlite"]


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0", b"not a database" * 50])
def test_what_is_no_database_waits(folder: Path, content: bytes) -> None:
    (folder / "x.sqlite").write_bytes(content)
    assert Landing(folder=str(folder)).scan({}, [], LATER).waiting == {"x.sqlite": "not a SQLite database"}


def test_bad_files_do_not_keep_a_good_one_waiting(folder: Path) -> None:
    (folder / "a.sqlite").write_bytes(b"no database at all")
    (folder / "b.sqlite").mkdir()
    good = database(folder / "c.sqlite")
    scan = Landing(folder=str(folder)).scan({}, [], LATER)
    assert [file.key for file in scan.new] == [key_of(good)]


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_a_dump_with_a_log_beside_it_waits(folder: Path, suffix: str) -> None:
    path = database(folder / "prices.sqlite")
    path.with_name(path.name + suffix).write_bytes(b"log")
    scan = Landing(folder=str(folder)).scan({}, [], LATER)
    assert scan.new == ()
    assert "writer has not finished" in scan.waiting["prices.sqlite"]


def test_a_replaced_dump_is_a_new_snapshot(folder: Path) -> None:
    path = database(folder / "prices.sqlite", value=1)
    landing = Landing(folder=str(folder))
    first = landing.scan({}, [], LATER)
    path.unlink()
    database(path, value=2)
    second = landing.scan(first.seen, [entry.key for entry in first.new], LATER)
    assert len(second.new) == 1
    assert second.new[0].key != first.new[0].key


def test_the_same_content_is_one_snapshot_whatever_it_is_called(folder: Path) -> None:
    path = database(folder / "a.sqlite")
    shutil.copy(path, folder / "b.sqlite")
    landing = Landing(folder=str(folder))
    scan = landing.scan({}, [], LATER)
    assert [entry.name for entry in scan.new] == ["a.sqlite"]
    assert set(scan.seen) == {"a.sqlite", "b.sqlite"}
    assert landing.scan({}, [scan.new[0].key], LATER).new == ()
    assert same_content(f"other-{scan.new[0].key[-12:]}", [scan.new[0].key]) == scan.new[0].key


def test_odd_names_make_plain_keys(folder: Path) -> None:
    path = database(folder / "Preise, Q1|2017 (ä).sqlite")
    key = key_of(path)
    assert key.replace("-", "").replace("_", "").isalnum()
    assert key.isascii()


def test_links_hidden_files_and_other_suffixes_are_not_looked_at(folder: Path, tmp_path: Path) -> None:
    target = database(tmp_path / "elsewhere.sqlite")
    (folder / "link.sqlite").symlink_to(target)
    database(folder / ".landing-x.sqlite")
    (folder / "notes.txt").write_text("x")
    (folder / "folder.sqlite").mkdir()
    scan = Landing(folder=str(folder)).scan({}, [], LATER)
    assert (scan.new, scan.waiting) == ((), {})


def test_five_hundred_dumps_come_a_few_at_a_tick_and_all_in_the_end(folder: Path) -> None:
    template = database(folder / "d000.sqlite")
    for i in range(1, 500):
        path = folder / f"d{i:03d}.sqlite"
        shutil.copy(template, path)
        with path.open("r+b") as file:
            file.seek(60)  # user version: other content, still whole
            file.write(i.to_bytes(4, "big"))
    landing = Landing(folder=str(folder), max_new_per_tick=100)
    seen: dict[str, str] = {}
    keys: list[str] = []
    for _ in range(5):
        scan = landing.scan(seen, keys, LATER)
        assert len(scan.new) == 100
        keys += [entry.key for entry in scan.new]
        seen = scan.seen
    assert len(set(keys)) == 500
    assert landing.scan(seen, keys, LATER).new == ()


def test_a_dump_larger_than_a_tick_may_hash_is_never_read(folder: Path) -> None:
    database(folder / "prices.sqlite")
    scan = Landing(folder=str(folder), max_bytes_per_tick=100).scan({}, [], LATER)
    assert "plusultra run" in scan.waiting["prices.sqlite"]


def test_files_that_are_gone_leave_the_cursor(folder: Path) -> None:
    path = database(folder / "prices.sqlite")
    landing = Landing(folder=str(folder))
    seen = landing.scan({}, [], LATER).seen
    path.unlink()
    assert landing.scan(seen, [], LATER).seen == {}


def test_landing_copies_once_and_finds_by_content(folder: Path, tmp_path: Path) -> None:
    dump = database(tmp_path / "prices.sqlite")
    landing = Landing(folder=str(folder))
    first = landing.land(dump)
    assert first == folder / "prices.sqlite"
    assert landing.land(shutil.copy(dump, tmp_path / "again.sqlite")) == first
    assert landing.land(first) == first
    assert [path.name for path in folder.iterdir()] == ["prices.sqlite"]
    assert landing.find(key_of(dump)) == first
    assert landing.find("prices-000000000000") is None


def test_landing_a_dump_with_a_live_log_takes_what_it_has_committed(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "live.sqlite"
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE t (x)")
        writer.execute("INSERT INTO t VALUES (1)")
        writer.commit()
        landed = Landing(folder=str(folder)).land(path)
    with closing(sqlite3.connect(landed)) as copy:
        assert copy.execute("SELECT count(*) FROM t").fetchone() == (1,)
