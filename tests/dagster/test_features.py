"""A second dump of the same universe: its features go on from those of the first, and are what they would be alone."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from plusultra_dagster import provenance
from plusultra_dagster.partitions import Partition
from plusultra_dagster.places import Places
from plusultra_dagster.resources.landing import key_of

Run = Callable[..., dg.ExecuteInProcessResult]
TABLES = ["series", "assets", "corporate_actions", "indicators", "side_tables", "bars", "features"]


def land(home: Places, dump: Path, name: str, last: str | None = None) -> str:
    """A dump in the landing folder, without what comes after `last`; its snapshot key."""
    path = Path(shutil.copyfile(dump, home.landing / name))
    if last is not None:
        with sqlite3.connect(path) as db:
            tables = [table for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                if any(column[1] == "timestamp" for column in db.execute(f"PRAGMA table_info({table})")):
                    db.execute(f"DELETE FROM {table} WHERE timestamp > ?", (last,))
        db.close()
    return key_of(path)


def times(dump: Path) -> list[str]:
    with sqlite3.connect(dump) as db:
        found = [str(time) for (time,) in db.execute("SELECT DISTINCT timestamp FROM series ORDER BY timestamp")]
    db.close()
    return found


def said(instance: dg.DagsterInstance, key: str) -> dict[str, object]:
    found = provenance.latest(instance, "features", f"equity|{key}")
    assert found is not None
    return {name: found.metadata[name] for name in ("taken_over_from", "symbols_taken_over", "rows_taken_over", "rows_computed")}


@pytest.fixture
def first(home: Places, tiny_dump: Path, run: Run) -> str:
    """The features of all but the last 6 sessions; the key of that snapshot."""
    key = land(home, tiny_dump, "first.sqlite", times(tiny_dump)[-7])
    assert run("take_snapshot", ["snapshot"], key).success
    assert run("refresh_tables", TABLES, key, "equity").success
    return key


def second(home: Places, tiny_dump: Path, run: Run) -> str:
    key = land(home, tiny_dump, "tiny.sqlite")
    assert run("take_snapshot", ["snapshot"], key).success
    assert run("refresh_tables", TABLES, key, "equity").success
    return key


def test_a_second_dump_takes_over_what_is_unchanged_and_has_the_bytes_of_a_fresh_home(
    first: str, home: Places, tiny_dump: Path, run: Run, instance: dg.DagsterInstance, made_once: tuple[Path, str]
) -> None:
    key = second(home, tiny_dump, run)
    bars = pl.read_parquet(home.lake / "bars" / "equity" / f"{first}.parquet")
    assert said(instance, first)["taken_over_from"] == "nothing"
    assert {**said(instance, key), "rows_computed": 0} == {
        "taken_over_from": first,
        "symbols_taken_over": bars["symbol"].n_unique(),
        "rows_taken_over": bars.height,
        "rows_computed": 0,
    }
    fresh, fresh_key = made_once
    assert fresh_key == key
    lake = [f"lake/{name}/equity/*.parquet" for name in TABLES]
    for made in (*lake, "artifacts/features_state/*/state.safetensors"):
        theirs = {path.read_bytes() for path in (fresh / "home" / "data").glob(made)}
        assert theirs <= {path.read_bytes() for path in home.data.glob(made)} and theirs


def test_tables_of_a_second_dump_say_what_was_taken_over(
    first: str, home: Places, tiny_dump: Path, run: Run, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plusultra_core.data.increments.bars.CHEAP_ROWS", 0)
    key = second(home, tiny_dump, run)
    found = {name: provenance.latest(instance, name, f"equity|{key}") for name in TABLES}
    taken = {name: made.metadata["rows_taken_over"] for name, made in found.items() if made is not None}
    before = {name: pl.read_parquet(home.lake / name / "equity" / f"{first}.parquet").height for name in TABLES}
    assert {name: taken[name] for name in ("assets", "bars")} == {name: before[name] for name in ("assets", "bars")}
    assert all(made is not None and made.metadata["rows_made"] >= 0 for name, made in found.items() if name != "features")
    sources = {made.metadata["taken_over_from"] for name, made in found.items() if made is not None and taken[name]}
    assert sources == {first}


def test_tables_that_are_no_longer_those_that_were_read_are_not_gone_on_from(
    first: str, home: Places, tiny_dump: Path, run: Run, instance: dg.DagsterInstance
) -> None:
    path = home.lake / "bars" / "equity" / f"{first}.parquet"
    pl.read_parquet(path).with_columns(pl.col("volume_adj") * 2.0).write_parquet(path)
    assert said(instance, second(home, tiny_dump, run))["taken_over_from"] == "nothing"


def test_features_of_another_config_are_not_gone_on_from(
    first: str, home: Places, tiny_dump: Path, run: Run, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLUSULTRA_PROFILE", "base")
    assert said(instance, second(home, tiny_dump, run))["taken_over_from"] == "nothing"


def test_only_the_same_class_is_gone_on_from(first: str, home: Places, instance: dg.DagsterInstance) -> None:
    from plusultra_dagster.assets.earlier import _others

    record = type("Of", (), {"asset": "features", "partition": Partition("next", "equity")})()
    assert [cell.key for cell in _others(instance, record)] == [f"equity|{first}"]
    record.partition = Partition("next", "etf")
    assert list(_others(instance, record)) == []
