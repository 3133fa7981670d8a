"""Slices of the real graph on a tiny dump: what is written, what is said about it, what stops what."""

import json
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from plusultra_dagster import jobs, provenance
from plusultra_dagster.commands.plan import is_stored, stale
from plusultra_dagster.partitions import Partition
from plusultra_dagster.places import Places

Run = Callable[..., dg.ExecuteInProcessResult]

TABLES = list(jobs.TABLES)


def test_tables_of_a_class_are_stored_checked_and_described(with_tables: str, instance: dg.DagsterInstance, home: Places) -> None:
    cell = Partition(with_tables, "equity")
    assert all(is_stored(home, name, cell) for name in TABLES)
    assert provenance.unpassed(instance, TABLES, cell.key) == []
    newest = provenance.latest(instance, "bars", cell.key)
    assert newest is not None
    frame = pl.read_parquet(home.lake / "bars" / "equity" / f"{with_tables}.parquet")
    assert newest.metadata["dagster/row_count"] == len(frame) == 320
    assert newest.metadata["symbols"] == 2
    assert newest.metadata["first"].startswith("2015-01-02")
    assert set(newest.metadata["inputs"]) == {"assets", "corporate_actions", "series"}
    assert len(newest.metadata["rows over time"]) < 1000
    columns = {column.name: column for column in newest.metadata["dagster/column_schema"].columns}
    assert set(columns) == set(frame.columns)
    assert "> 0" in columns["close_adj"].constraints.other
    features = provenance.latest(instance, "features", cell.key)
    assert features is not None
    assert all(column.description for column in features.metadata["dagster/column_schema"].columns)


def test_a_second_run_has_nothing_to_do_and_a_changed_config_has(
    with_tables: str, instance: dg.DagsterInstance, defs: dg.Definitions, home: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, cell = defs.resolve_asset_graph(), Partition(with_tables, "equity")
    assert stale(instance, graph, ["snapshot"], Partition(with_tables), home) == []
    assert stale(instance, graph, TABLES, cell, home) == []
    monkeypatch.setattr(provenance, "digests", lambda recipe, *_: {name: "other" for name in recipe["configs"] if name == "targets"})
    assert "targets" in stale(instance, graph, TABLES, cell, home)


def test_what_has_lost_its_data_is_made_again_with_everything_after_it(
    with_tables: str, instance: dg.DagsterInstance, defs: dg.Definitions, home: Places
) -> None:
    (home.lake / "features" / "equity" / f"{with_tables}.parquet").unlink()
    graph = defs.resolve_asset_graph()
    assert stale(instance, graph, TABLES, Partition(with_tables, "equity"), home) == ["features", "regimes"]


def test_a_table_built_again_has_the_same_bytes(with_tables: str, run: Run, home: Places) -> None:
    path = home.lake / "features" / "equity" / f"{with_tables}.parquet"
    before = path.read_bytes()
    path.unlink()
    assert run("refresh_tables", ["features"], with_tables, "equity").success
    assert path.read_bytes() == before


def test_a_stored_table_that_breaks_its_contract_stops_what_reads_it(
    with_tables: str, run: Run, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write is made to damage the table on its way to the disk; the check reads what is there."""
    from plusultra_dagster.resources import tables

    whole = tables.parquet_bytes

    def damaged(frame: pl.DataFrame) -> bytes:
        return whole(frame.with_columns(pl.col("close") * -1) if "close" in frame.columns and "close_adj" in frame.columns else frame)

    monkeypatch.setattr(tables, "parquet_bytes", damaged)
    result = run("refresh_tables", ["bars", "targets"], with_tables, "equity")
    assert not result.success
    assert result.asset_materializations_for_node("bars")
    assert not result.asset_materializations_for_node("targets")
    assert "bars:contract" in provenance.unpassed(instance, ["bars"], f"equity|{with_tables}")


def test_a_later_run_does_not_pass_a_failed_check_either(with_tables: str, run: Run, instance: dg.DagsterInstance) -> None:
    """Dagster blocks within a run only; what learns asks for the checks itself."""
    assert run("train", ["cross_asset_view"], with_tables, "equity").success
    failed = dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey("targets"), check_name="contract", passed=False, metadata={}, blocking=True, partition=f"equity|{with_tables}"
    )
    instance.report_runless_asset_event(failed)
    result = run("train", ["windows"], with_tables, "equity")
    assert not result.success
    assert "targets:contract" in str(result.failure_data_for_node("windows").user_failure_data.description)  # type: ignore[union-attr]


def test_a_check_judges_what_was_stored_when_it_ran_and_nothing_later(with_tables: str, run: Run, instance: dg.DagsterInstance) -> None:
    partition = f"equity|{with_tables}"
    assert provenance.unpassed(instance, ["targets"], partition) == []
    instance.report_runless_asset_event(dg.AssetMaterialization("targets", partition=partition))
    assert provenance.unpassed(instance, ["targets"], partition) == ["targets:contract", "targets:poison", "targets:truncation"]


def test_the_view_takes_the_context_classes_that_are_there(with_tables: str, run: Run, instance: dg.DagsterInstance) -> None:
    assert run("train", ["cross_asset_view"], with_tables, "equity").success
    alone = provenance.latest(instance, "cross_asset_view", f"equity|{with_tables}")
    assert alone is not None
    assert "etf" in alone.metadata["missing"]
    assert run("refresh_tables", TABLES, with_tables, "etf").success
    assert run("train", ["cross_asset_view"], with_tables, "equity").success
    both = provenance.latest(instance, "cross_asset_view", f"equity|{with_tables}")
    assert both is not None
    assert "etf" not in both.metadata["missing"]
    assert both.provenance != alone.provenance
    assert {"bars@equity", "bars@etf"} <= set(both.metadata["inputs"])


def test_the_panel_is_made_once_and_its_overlap_is_checked(with_tables: str, run: Run, instance: dg.DagsterInstance, home: Places) -> None:
    assert run("train", ["cross_asset_view", "windows"], with_tables, "equity").success
    first = provenance.latest(instance, "windows", f"equity|{with_tables}")
    assert first is not None
    assert first.metadata["key"] == first.provenance
    stamp = (home.artifacts / "windows" / first.provenance / "manifest.json").stat().st_mtime_ns
    assert run("train", ["windows"], with_tables, "equity").success
    assert (home.artifacts / "windows" / first.provenance / "manifest.json").stat().st_mtime_ns == stamp
    assert provenance.unpassed(instance, ["windows"], f"equity|{with_tables}") == []
    reference = json.loads((home.lake / "windows" / "equity" / f"{with_tables}.json").read_text())
    assert reference["key"] == first.provenance


def test_a_dump_that_is_refused_leaves_nothing(run: Run, home: Places, tmp_path: Path) -> None:
    from contextlib import closing
    from sqlite3 import connect

    from plusultra_dagster.resources.landing import key_of

    path = home.landing / "bad.sqlite"
    with closing(connect(path)) as db:
        db.execute("CREATE TABLE assets (asset_id INTEGER PRIMARY KEY, symbol TEXT)")
        db.commit()
    result = run("take_snapshot", ["snapshot"], key_of(path))
    assert not result.success
    assert "series" in str(result.failure_data_for_node("snapshot").error)  # type: ignore[union-attr]
    assert list(home.snapshots.iterdir()) == []


def test_a_partition_whose_dump_is_gone_says_so(run: Run) -> None:
    result = run("take_snapshot", ["snapshot"], "gone-0123456789ab")
    assert "land the dump again" in str(result.failure_data_for_node("snapshot").user_failure_data.description)  # type: ignore[union-attr]


def test_overrides_of_the_launchpad_reach_the_config(with_tables: str, defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
    from plusultra_dagster.partitions import multi_key

    config = {
        "ops": {"targets": {"config": {"overrides": {"no.such.key": 1}}}},
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
    }
    result = defs.resolve_job_def("refresh_tables").execute_in_process(
        instance=instance,
        partition_key=multi_key(with_tables, "equity"),
        asset_selection=[dg.AssetKey("targets")],
        run_config=config,
        raise_on_error=False,
    )
    assert "override 'no.such.key' names no key" in str(result.failure_data_for_node("targets").error)  # type: ignore[union-attr]
