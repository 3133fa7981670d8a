"""What refreshes by itself, and what waits for the switch."""

from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.definitions.declarative_automation.automation_condition_evaluator import AutomationConditionEvaluator

from plusultra_dagster import jobs
from plusultra_dagster.config import Feedback
from plusultra_dagster.partitions import add_snapshot
from plusultra_dagster.sensors.upkeep import training_automation

Run = Callable[..., dg.ExecuteInProcessResult]


def requested(result: object) -> set[str]:
    return {
        f"{r.key.to_user_string()}[{key}]"
        for r in result.results  # type: ignore[attr-defined]
        if not r.true_subset.is_empty and isinstance(r.key, dg.AssetKey)
        for key in r.true_subset.expensively_compute_partition_keys()
    }


def tables_requested(result: object) -> set[str]:
    return {name for name in requested(result) if name.partition("[")[0] in jobs.TABLES}


def materialise(instance: dg.DagsterInstance, asset: str, key: str, version: str = "1") -> None:
    event = dg.AssetMaterialization(asset, partition=key, tags={"dagster/data_version": version})
    instance.report_runless_asset_event(event)


@pytest.fixture
def tables(defs: dg.Definitions) -> dg.Definitions:
    """The graph down to the panel: what is evaluated often should be small."""
    upstream = {"dump", "snapshot", *jobs.TABLES, "cross_asset_view", "windows"}
    kept = [asset for asset in defs.assets or [] if {key.to_user_string() for key in getattr(asset, "keys", [asset.key])} <= upstream]
    return dg.Definitions(assets=kept, asset_checks=defs.asset_checks, resources=defs.resources)


def test_a_new_snapshot_starts_no_table_by_itself_but_a_changed_one_refreshes_what_is_there(
    instance: dg.DagsterInstance, tables: dg.Definitions
) -> None:
    add_snapshot(instance, "a-1")
    first = dg.evaluate_automation_conditions(defs=tables, instance=instance)
    assert tables_requested(first) == set()
    materialise(instance, "snapshot", "a-1")
    second = dg.evaluate_automation_conditions(defs=tables, instance=instance, cursor=first.cursor)
    assert tables_requested(second) == set()
    for name in jobs.TABLES:
        materialise(instance, name, "equity|a-1")
    third = dg.evaluate_automation_conditions(defs=tables, instance=instance, cursor=second.cursor)
    assert tables_requested(third) == set()
    materialise(instance, "series", "equity|a-1", "2")
    fourth = dg.evaluate_automation_conditions(defs=tables, instance=instance, cursor=third.cursor)
    assert tables_requested(fourth) == set()
    fifth = dg.evaluate_automation_conditions(defs=tables, instance=instance, cursor=fourth.cursor)
    assert tables_requested(fifth) == {f"{name}[equity|a-1]" for name in ("bars", "features", "regimes", "targets")}


@pytest.mark.parametrize("there", [False, True], ids=["first", "again"])
def test_tables_that_a_run_is_making_are_not_asked_for_beside_it(
    instance: dg.DagsterInstance, tables: dg.Definitions, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """A tick reads "updated" at its start and "in progress" later; the sensor's run goes on in between."""
    add_snapshot(instance, "a-1")
    if there:
        for name in ("snapshot", *jobs.TABLES):
            materialise(instance, name, "a-1" if name == "snapshot" else "equity|a-1")
    cursor = dg.evaluate_automation_conditions(defs=tables, instance=instance).cursor
    materialise(instance, "snapshot", "a-1")
    prefetch, made = AutomationConditionEvaluator.prefetch, list(jobs.TABLES)

    def run_goes_on(self: AutomationConditionEvaluator) -> None:
        prefetch(self)
        while made:
            materialise(instance, made.pop(0), "equity|a-1")

    monkeypatch.setattr(AutomationConditionEvaluator, "prefetch", run_goes_on)
    for _ in range(3):
        result = dg.evaluate_automation_conditions(defs=tables, instance=instance, cursor=cursor)
        cursor = result.cursor
        assert tables_requested(result) == set()
    assert not made


def test_the_view_of_a_class_waits_for_its_own_tables_only(instance: dg.DagsterInstance, tables: dg.Definitions) -> None:
    add_snapshot(instance, "a-1")
    cursor = dg.evaluate_automation_conditions(defs=tables, instance=instance).cursor
    for name in ("bars", "features", "targets"):
        materialise(instance, name, "equity|a-1")
    result = dg.evaluate_automation_conditions(defs=tables, instance=instance, cursor=cursor)
    asked = {name for name in requested(result) if name.startswith("cross_asset_view")}
    assert asked == {"cross_asset_view[equity|a-1]"}


@pytest.mark.filterwarnings("ignore:Non-compliant tag keys")
def test_a_class_that_the_config_leaves_out_does_not_train_by_itself(
    instance: dg.DagsterInstance, tables: dg.Definitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tick of the switch itself, as the daemon asks for it: the classes are read from the config of now."""
    limited = Feedback(file="smoke/feedback.yaml", overrides={"retrain.asset_classes": ["etf"]})
    monkeypatch.setattr("plusultra_dagster.assets.automation.Feedback", lambda: limited)
    add_snapshot(instance, "a-1")
    defs = dg.Definitions(assets=tables.assets, asset_checks=tables.asset_checks, resources=tables.resources, sensors=[training_automation])

    def tick(cursor: str | None) -> Any:
        context = dg.build_sensor_context(instance=instance, instance_ref=instance.get_ref(), definitions=defs, cursor=cursor)
        return training_automation.evaluate_tick(context)

    cursor = tick(None).cursor
    for asset_class in ("equity", "etf"):
        for name in ("bars", "features", "targets"):
            materialise(instance, name, f"{asset_class}|a-1")
    asked = tick(cursor).run_requests or []
    assert [(str(request.partition_key), request.asset_selection) for request in asked] == [("etf|a-1", [dg.AssetKey("cross_asset_view")])]


@pytest.mark.parametrize("passed", [True, False])
def test_learning_follows_new_tables_whose_blocking_checks_have_passed(
    with_tables: str, run: Run, instance: dg.DagsterInstance, tables: dg.Definitions, passed: bool
) -> None:
    cursor = dg.evaluate_automation_conditions(defs=tables, instance=instance).cursor
    assert run("train", ["cross_asset_view"], with_tables, "equity").success
    if not passed:
        record = instance.fetch_materializations(dg.AssetKey("targets"), limit=1).records[0]
        failed = dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey("targets"),
            check_name="contract",
            passed=False,
            metadata={},
            blocking=True,
            partition=f"equity|{with_tables}",
            target_materialization_data=AssetCheckEvaluationTargetMaterializationData(
                storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
            ),
        )
        instance.report_runless_asset_event(failed)
    asked = requested(dg.evaluate_automation_conditions(defs=tables, instance=instance, cursor=cursor))
    assert (f"windows[equity|{with_tables}]" in asked) == passed
    assert not any(name.startswith("windows[etf") for name in asked)
