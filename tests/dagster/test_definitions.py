"""What Dagster loads, and what it must not load."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import httpx
import pytest
import yaml

from plusultra_core.market import ASSET_CLASSES
from plusultra_dagster import jobs, provenance
from plusultra_dagster.build import build_defs

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).with_name("graph.json")
HEAVY = ("torch", "lightning", "mlflow", "pandera", "sklearn", "numba", "scipy", "matplotlib", "plotly", "pandas")


@pytest.fixture(scope="module")
def graph() -> object:
    return build_defs().resolve_asset_graph()


def test_definitions_are_loadable() -> None:
    dg.Definitions.validate_loadable(build_defs())


def test_the_graph_is_the_one_that_was_agreed_on(graph: object) -> None:
    """Keys, groups, partitions, pools, parents, checks. After a change that is meant: delete graph.json and run this once."""
    found = {
        key.to_user_string(): {
            "group": graph.get(key).group_name,
            "dimensions": _dimensions(graph.get(key).partitions_def),
            "pools": sorted(graph.get(key).pools or []),
            "parents": sorted(parent.to_user_string() for parent in graph.get(key).parent_keys),
            "checks": sorted(check.name for check in graph.get_check_keys_for_assets({key})),
        }
        for key in graph.toposorted_asset_keys
    }
    text = json.dumps(found, indent=1, sort_keys=True) + "\n"
    if not GOLDEN.exists():
        GOLDEN.write_text(text)
        pytest.fail(f"{GOLDEN.name} was not there and has been written; look at it and commit it")
    assert json.loads(text) == json.loads(GOLDEN.read_text())


def _dimensions(partitions: object) -> list[str]:
    if isinstance(partitions, dg.MultiPartitionsDefinition):
        return sorted(dimension.name for dimension in partitions.partitions_defs)
    return [] if partitions is None else [str(getattr(partitions, "name", "asset_class"))]


def test_every_asset_says_who_owns_it_what_it_is_and_of_what_kind(graph: object) -> None:
    bare = [
        key.to_user_string()
        for key in graph.toposorted_asset_keys
        if key.to_user_string() != "dump" and not (graph.get(key).owners and graph.get(key).description and graph.get(key).kinds)
    ]
    assert bare == []


def test_the_checks_a_trainer_asks_for_are_the_blocking_ones(graph: object) -> None:
    blocking: dict[str, set[str]] = {}
    for key in graph.asset_check_keys:
        if graph.get(key).blocking:
            blocking.setdefault(key.asset_key.to_user_string(), set()).add(key.name)
    assert blocking == {asset: set(names) for asset, names in provenance.GATES.items()}


def test_jobs_cover_every_asset_of_a_class(graph: object) -> None:
    covered = {key.to_user_string() for key in (jobs.tables | jobs.learning).resolve(graph)}
    assert covered == {key.to_user_string() for key in graph.toposorted_asset_keys} - {"dump", "snapshot", "offline_policy"}


def test_everything_that_runs_torch_takes_the_gpu_pool(graph: object) -> None:
    pooled = {key.to_user_string() for key in graph.toposorted_asset_keys if graph.get(key).pools == {"gpu"}}
    assert pooled == {
        "pretrained_checkpoint",
        "supervised_checkpoint",
        "forecasts",
        "policy_checkpoint",
        "offline_policy",
        "simulator_trace",
        "stress_scenarios",
    }


def test_switches_stand_as_they_should() -> None:
    repository = build_defs().get_repository_def()
    status = {sensor.name: sensor.default_status.value for sensor in repository.sensor_defs}
    assert status == {
        "landed_dumps": "RUNNING",
        "new_snapshots": "RUNNING",
        "dead_runs": "RUNNING",
        "tables_automation": "RUNNING",
        "training_automation": "STOPPED",
        "retraining": "STOPPED",
    }
    assert {schedule.name: schedule.default_status.value for schedule in repository.schedule_defs} == {
        "weekly_retraining": "STOPPED",
        "hourly_watch": "STOPPED",
    }


def test_asset_classes_of_the_configs_are_those_of_the_partitions() -> None:
    assert sorted(path.stem for path in (ROOT / "configs" / "markets").glob("*.yaml")) == sorted(ASSET_CLASSES)


def test_importing_definitions_loads_nothing_heavy_and_is_quick() -> None:
    code = "import sys, json, resource, definitions; use = resource.getrusage(resource.RUSAGE_SELF).ru_utime"
    code += "; print(json.dumps([sorted(sys.modules), use]))"
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    loaded, cpu_s = json.loads(done.stdout.splitlines()[-1])
    assert {name.partition(".")[0] for name in loaded} & set(HEAVY) == set()
    assert cpu_s < 4
    assert "BetaWarning" not in done.stderr
    assert "PreviewWarning" not in done.stderr


def test_the_instance_settings_are_valid(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert not instance.telemetry_enabled
        assert instance.run_monitoring_enabled
        assert instance.get_concurrency_config().pool_config.default_pool_limit == 1


def test_the_workspace_names_the_definitions() -> None:
    entry = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"][0]["python_module"]
    assert entry["module_name"] == "definitions"
    assert (ROOT / "definitions.py").exists()


async def _ask(app: object, query: str) -> dict[str, dict[str, list[dict[str, object]]]]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:  # type: ignore[arg-type]
        return dict((await client.post("/graphql", json={"query": query})).json())


def test_the_graph_loads_in_process_through_graphql(tmp_path: Path) -> None:
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import ModuleTarget
    from dagster_webserver.app import create_app_from_workspace_process_context

    os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "true")
    target = ModuleTarget(module_name="definitions", attribute="defs", working_directory=str(ROOT), location_name="x")
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance, WorkspaceProcessContext(instance, target) as context:
        answer = asyncio.run(_ask(create_app_from_workspace_process_context(context), "{ assetNodes { assetKey { path } groupName } }"))
    nodes = {node["assetKey"]["path"][0]: node["groupName"] for node in answer["data"]["assetNodes"]}
    assert nodes["report"] == "reporting"
    assert nodes["supervised_checkpoint"] == "training"
