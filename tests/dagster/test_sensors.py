"""From a file to a snapshot, from a snapshot to tables, and the clockwork."""

import os
import shutil
from pathlib import Path

import dagster as dg

from plusultra_dagster.partitions import add_snapshot, multi_key
from plusultra_dagster.places import Places
from plusultra_dagster.repair import PROCESS, process_tag
from plusultra_dagster.resources.landing import Landing, key_of
from plusultra_dagster.sensors.arrivals import DOOR, landed_dumps, new_snapshots
from plusultra_dagster.sensors.upkeep import dead_runs, weekly_retraining


def settled(at: Places, dump: Path, name: str) -> Path:
    path = Path(shutil.copyfile(dump, at.landing / name))
    os.utime(path, (1_500_000_000, 1_500_000_000))
    return path


def test_a_dump_becomes_a_partition_and_a_run_for_it_in_one_tick(
    home: Places, tiny_dump: Path, instance: dg.DagsterInstance, defs: dg.Definitions
) -> None:
    path = settled(home, tiny_dump, "tiny.sqlite")
    context = dg.build_sensor_context(
        instance=instance, instance_ref=instance.get_ref(), definitions=defs, resources={"landing": Landing(folder=str(home.landing))}
    )
    tick = landed_dumps.evaluate_tick(context)
    assert [request.partition_key for request in tick.run_requests or []] == [key_of(path)]
    assert tick.dynamic_partitions_requests is not None
    assert list(tick.dynamic_partitions_requests[0].partition_keys) == [key_of(path)]


def test_a_second_tick_asks_for_nothing_and_says_why_a_file_waits(home: Places, tiny_dump: Path, instance: dg.DagsterInstance) -> None:
    settled(home, tiny_dump, "tiny.sqlite")
    landing = Landing(folder=str(home.landing))
    first = landed_dumps(dg.build_sensor_context(instance=instance), landing=landing)
    assert len(first.run_requests) == 1
    shutil.copyfile(tiny_dump, home.landing / "fresh.sqlite")
    second = landed_dumps(dg.build_sensor_context(instance=instance, cursor=first.cursor), landing=landing)
    assert not second.run_requests
    assert "fresh.sqlite: still settling" in str(second.skip_reason)


def test_content_that_has_a_snapshot_is_left_alone_even_with_an_empty_cursor(
    home: Places, tiny_dump: Path, instance: dg.DagsterInstance
) -> None:
    path = settled(home, tiny_dump, "other-name.sqlite")
    add_snapshot(instance, f"tiny-{key_of(path)[-12:]}")
    tick = landed_dumps(dg.build_sensor_context(instance=instance), landing=Landing(folder=str(home.landing)))
    assert not tick.run_requests


def report_snapshot(instance: dg.DagsterInstance, key: str, sha256: str, run_id: str = "") -> None:
    metadata = {"classes": dg.MetadataValue.json(["equity", "etf"]), "sha256": sha256}
    event = dg.AssetMaterialization("snapshot", partition=key, metadata=metadata)
    if not run_id:
        instance.report_runless_asset_event(event)
        return
    instance.report_dagster_event(_event(event), run_id)


def _event(event: dg.AssetMaterialization) -> object:
    from dagster._core.events import DagsterEvent, DagsterEventType, StepMaterializationData

    return DagsterEvent(DagsterEventType.ASSET_MATERIALIZATION.value, "take_snapshot", event_specific_data=StepMaterializationData(event))


def test_a_new_snapshot_asks_for_the_tables_of_its_classes_once(instance: dg.DagsterInstance) -> None:
    for key in ("a-1", "b-2"):
        add_snapshot(instance, key)
        report_snapshot(instance, key, f"sha-{key}")
    first = new_snapshots(dg.build_sensor_context(instance=instance))
    assert [str(request.partition_key) for request in first.run_requests] == ["equity|a-1", "etf|a-1", "equity|b-2", "etf|b-2"]
    again = new_snapshots(dg.build_sensor_context(instance=instance, cursor=first.cursor))
    assert not again.run_requests
    report_snapshot(instance, "a-1", "sha-a-1")
    third = new_snapshots(dg.build_sensor_context(instance=instance, cursor=first.cursor))
    assert {request.run_key for request in third.run_requests} < {request.run_key for request in first.run_requests}


def test_snapshots_of_the_command_line_are_its_own_to_go_on_with(instance: dg.DagsterInstance) -> None:
    add_snapshot(instance, "a-1")
    run = instance.create_run_for_job(_empty_job(), tags={DOOR: "command line"})
    report_snapshot(instance, "a-1", "sha", run.run_id)
    tick = new_snapshots(dg.build_sensor_context(instance=instance))
    assert not tick.run_requests
    assert int(tick.cursor or 0) > 0


def _empty_job() -> dg.JobDefinition:
    @dg.op
    def nothing() -> None:
        return None

    @dg.job
    def empty() -> None:
        nothing()

    return empty


def test_a_run_whose_process_was_killed_is_ended_and_a_living_one_is_not(instance: dg.DagsterInstance) -> None:
    host, boot, _, _ = process_tag().split(":")
    tags = {"dead": f"{host}:{boot}:999999:1", "alive": process_tag(), "elsewhere": "another-machine:boot:1:1"}
    runs = {
        name: instance.create_run_for_job(_empty_job(), tags={PROCESS: tag}, status=dg.DagsterRunStatus.STARTED)
        for name, tag in tags.items()
    }
    other = instance.create_run_for_job(_empty_job(), status=dg.DagsterRunStatus.STARTED)
    dead_runs(dg.build_sensor_context(instance=instance))
    status = {name: instance.get_run_by_id(run.run_id).status.value for name, run in runs.items()}  # type: ignore[union-attr]
    assert status == {"dead": "FAILURE", "alive": "STARTED", "elsewhere": "STARTED"}
    assert instance.get_run_by_id(other.run_id).status.value == "STARTED"  # type: ignore[union-attr]


def test_the_schedule_trains_the_newest_snapshot_that_has_tables(instance: dg.DagsterInstance) -> None:
    with dg.build_schedule_context(instance=instance) as context:
        assert isinstance(weekly_retraining(context), dg.SkipReason)
    for key in ("a-1", "b-2"):
        add_snapshot(instance, key)
        report_snapshot(instance, key, key)
    for key, name in (("a-1", "etf"), ("b-2", "equity"), ("b-2", "forex")):
        instance.report_runless_asset_event(dg.AssetMaterialization("targets", partition=str(multi_key(key, name))))
    with dg.build_schedule_context(instance=instance) as context:
        requests = weekly_retraining(context)
    assert [str(request.partition_key) for request in requests] == ["equity|b-2", "forex|b-2"]  # type: ignore[union-attr]
