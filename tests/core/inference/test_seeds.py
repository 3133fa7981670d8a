"""The policy's other seeds over the locked window: each to the bit what it would be were it the one that is served."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from plusultra_core import artifacts
from plusultra_core.artifacts import Artifact
from plusultra_core.errors import ArtifactError
from plusultra_core.evaluation.backtests import load_trace, spans
from plusultra_core.evaluation.execution.sheet import build_execution, load_tape
from plusultra_core.evaluation.seeds.runs import read_seed_runs
from plusultra_core.inference.tasks import TASKS
from plusultra_core.job import Job, run_job
from plusultra_core.models.seeds import open_seeds
from plusultra_core.rl.tasks import TASKS as RL_TASKS


class Silent:
    """Progress that nobody reads."""

    def report(self, message: str, **numbers: float) -> None:
        pass


def run(chain: Any, task: str, place: str, rl: dict[str, Any] | None = None, **inputs: Path) -> Artifact:
    """A job on the chain's windows and forecasters, and on what is named; not on the chain's own policy."""
    settings = chain.settings()
    inputs = {**{name: chain.paths[name] for name in ("windows", "supervised")}, **inputs}
    base = chain.base / f"seeds-{place}"
    job = Job(task, task, {**settings, "rl": {**settings["rl"], **(rl or {})}}, inputs, base, base / "work", {})
    return run_job(job, {**RL_TASKS, **TASKS}, Silent())


@pytest.fixture(scope="module")
def policies(chain: Any) -> dict[str, Artifact]:
    """Three seeds of one job, and each of them by itself. Without a band, so that they trade otherwise."""
    wanted = {"many": {"num_seeds": 3}, **{str(seed): {"seed": seed} for seed in (7, 8, 9)}}
    return {name: run(chain, "policy", name, {"band": 0.0, **changes}) for name, changes in wanted.items()}


@pytest.fixture(scope="module")
def forecasts(chain: Any) -> Path:
    return run(chain, "forecast", "many").path


@pytest.fixture(scope="module")
def traces(chain: Any, policies: dict[str, Artifact], forecasts: Path) -> dict[str, Artifact]:
    return {name: run(chain, "trace", name, policy=policy.path, forecasts=forecasts) for name, policy in policies.items()}


def ledger(trace: Artifact, strategy: str) -> dict[str, dict[str, list[Any]]]:
    """Every table of one strategy."""
    tables = {name: pq.read_table(trace.path / f"{name}.parquet") for name in ("account", "orders", "positions")}
    return {name: table.filter(pc.equal(table["strategy"], strategy)).drop(["strategy"]).to_pydict() for name, table in tables.items()}


def test_every_seed_is_traced_as_it_is_alone(policies: dict[str, Artifact], traces: dict[str, Artifact]) -> None:
    index = open_seeds(policies["many"].path)
    assert index is not None
    names = {seed: f"policy_seed_{seed}" for seed in index.others} | {index.served: "policy"}
    assert sorted(names) == [7, 8, 9]
    for seed, strategy in names.items():
        np.testing.assert_equal(ledger(traces["many"], strategy), ledger(traces[str(seed)], "policy"))
    ends = {strategy: ledger(traces["many"], strategy)["account"]["equity"][-1] for strategy in names.values()}
    assert len(set(ends.values())) > 1


def test_the_other_strategies_do_not_know_of_seeds(traces: dict[str, Artifact]) -> None:
    for name in ("sized_hybrid", "random", "no_trade", "sized_hybrid_walk_forward"):
        np.testing.assert_equal(ledger(traces["many"], name), ledger(traces["7"], name))


def test_the_judges_read_the_seeds_and_reconcile_their_money(policies: dict[str, Artifact], traces: dict[str, Artifact]) -> None:
    locked, stitched = spans(load_trace(traces["many"].path))
    runs = read_seed_runs(traces["many"].path, locked)
    index = open_seeds(policies["many"].path)
    assert index is not None
    assert [(run.seed, run.valid_reward, run.update, run.is_flat, run.is_served) for run in runs] == [
        (one.seed, one.valid_reward, one.update, one.is_flat, one.seed == index.served) for one in index.seeds
    ]
    assert not [name for name in stitched if "seed" in name]
    sheet = build_execution(load_tape(traces["many"].path), 3)
    assert {run.strategy for run in runs} <= set(sheet.strategies["strategy"])


def test_a_policy_without_seeds_is_traced_as_before(
    chain: Any, policies: dict[str, Artifact], traces: dict[str, Artifact], forecasts: Path
) -> None:
    def fill(directory: Path) -> None:
        shutil.copytree(policies["7"].path, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("seeds", "manifest.json"))

    old = artifacts.publish(chain.base / "old", "policy", fill, {"lineage": policies["7"].manifest["lineage"]})
    trace = run(chain, "trace", "old", policy=old.path, forecasts=forecasts)
    assert "policy_seeds" not in json.loads((trace.path / "trace.json").read_text())
    np.testing.assert_equal(ledger(trace, "policy"), ledger(traces["7"], "policy"))
    assert read_seed_runs(trace.path, spans(load_trace(trace.path))[0]) == ()


def test_a_link_beside_a_policy_is_refused_by_the_job(chain: Any, policies: dict[str, Artifact], forecasts: Path, tmp_path: Path) -> None:
    """A linked folder stands in no manifest: it is found by who reads the seeds."""
    stolen = tmp_path / "stolen"
    shutil.copytree(policies["many"].path, stolen)
    (stolen / "seeds" / "10").symlink_to(policies["7"].path)
    with pytest.raises(ArtifactError, match="found a link"):
        run(chain, "trace", "stolen", policy=stolen, forecasts=forecasts)
