"""MLflow: a run an asset, found again by its tags, ended as it ended."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from plusultra_dagster.resources.tracking import MlflowTracking, flatten

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowTracking]:
    folder: Path = tmp_path_factory.mktemp("mlflow")
    made = MlflowTracking(uri=f"sqlite:///{folder / 'mlflow.db'}", artifacts=(folder / "artifacts").as_uri())
    made.create()
    return made


def client(tracking: MlflowTracking) -> tuple[Any, str]:
    return tracking._open()


def materialise(tracking: MlflowTracking, key: str, fails: bool = False) -> dg.ExecuteInProcessResult:
    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["p"]))
    def model(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        with tracking.run(context, key) as tracked:
            if fails:
                raise RuntimeError("no")
            tracked.log({"a": {"b": 1}}, {"loss": 0.5}, [{"epoch": 0.0, "train_loss": 2.0}, {"epoch": 1.0, "train_loss": 1.0}])
        return dg.MaterializeResult(metadata=tracked.metadata())

    return dg.materialize([model], partition_key="p", run_config=QUIET, raise_on_error=False)


def test_a_run_holds_parameters_history_and_the_way_back(tracking: MlflowTracking) -> None:
    result = materialise(tracking, "key-1")
    metadata = result.asset_materializations_for_node("model")[0].metadata
    run_id = metadata["mlflow_run_id"].value
    opened, _ = client(tracking)
    run = opened.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"a.b": "1"}
    assert run.data.metrics == {"final/loss": 0.5, "train_loss": 1.0}
    assert [(point.step, point.value) for point in opened.get_metric_history(run_id, "train_loss")] == [(0, 2.0), (1, 1.0)]
    tags = {name: run.data.tags[f"dagster.{name}"] for name in ("run_id", "asset_key", "partition")}
    assert tags == {"run_id": result.run_id, "asset_key": "model", "partition": "p"}
    assert str(metadata["mlflow"].value).endswith(f"/runs/{run_id}")


def test_an_equal_artifact_finds_its_run_again(tracking: MlflowTracking) -> None:
    first, again = materialise(tracking, "key-2"), materialise(tracking, "key-2")
    ids = {run.asset_materializations_for_node("model")[0].metadata["mlflow_run_id"].value for run in (first, again)}
    assert len(ids) == 1


def test_an_exception_ends_the_run_as_failed_and_is_not_found_again(tracking: MlflowTracking) -> None:
    assert not materialise(tracking, "key-3", fails=True).success
    opened, experiment = client(tracking)
    found = opened.search_runs([experiment], "tags.`plusultra.key` = 'key-3'")
    assert [run.info.status for run in found] == ["FAILED"]
    assert materialise(tracking, "key-3").success


def test_what_a_dead_run_left_running_is_ended(tracking: MlflowTracking) -> None:
    opened, experiment = client(tracking)
    left = opened.create_run(experiment, tags={"dagster.run_id": "dead"})
    tracking.end_runs_of(["dead"])
    assert opened.get_run(left.info.run_id).info.status == "KILLED"


def test_who_makes_it_again_ends_the_run_that_a_killed_worker_left(tracking: MlflowTracking) -> None:
    opened, experiment = client(tracking)
    left = opened.create_run(experiment, tags={"plusultra.key": "key-5"})
    assert materialise(tracking, "key-5").success
    assert opened.get_run(left.info.run_id).info.status == "KILLED"


def test_nothing_is_tracked_without_an_address() -> None:
    result = materialise(MlflowTracking(uri="", artifacts=""), "key-4")
    assert "mlflow" not in result.asset_materializations_for_node("model")[0].metadata


def test_nested_parameters_get_dotted_names() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": [1, 2]}) == {"a.b.c": 1, "d": [1, 2]}
