"""The job `stress`: the same strategies through worse worlds. Decisions that look at prices look at the calm ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plusultra_core import artifacts
from plusultra_core.inference.strategies import Setting
from plusultra_core.inference.trace import describe, limit_of, open_stage, run_locked, write_parquet
from plusultra_core.job import Job, Progress
from plusultra_core.simulation.scenarios import ScenarioConfig, stress_costs, stress_execution, stress_market

FILE = "stress.parquet"


def stress_setting(setting: Setting, span: tuple[int, int], scenario: ScenarioConfig) -> Setting:
    """A setting under a scenario, from the first bar of the span on."""
    return setting._replace(
        market=stress_market(setting.market, span[0], span[1], scenario),
        simulation=stress_execution(setting.simulation, scenario),
        costs=stress_costs(setting.costs, scenario),
    )


def run_stress(job: Job, progress: Progress) -> Mapping[str, object]:
    """Run every strategy in the calm world and in each scenario; publishes one row a scenario and strategy.

    Forecasts are those of the calm world: what is stressed is execution and what is held, not what the
    models would have said.
    """
    stage = open_stage(job)
    worlds = {"calm": stage.setting}
    worlds |= {scenario.name: stress_setting(stage.setting, stage.locked, scenario) for scenario in stage.cfg.scenarios}
    rows: list[dict[str, Any]] = []
    for name, setting in worlds.items():
        for strategy, ledger in run_locked(stage, setting).items():
            rows.append({"scenario": name, "strategy": strategy, **describe(ledger, limit_of(strategy, stage))["numbers"]})
        progress.report(name, **{row["strategy"]: row["return"] for row in rows if row["scenario"] == name})
    metrics = {f"{row['scenario']}.{row['strategy']}.return": float(row["return"]) for row in rows}

    def fill(directory: Path) -> None:
        write_parquet(directory / FILE, {name: [row[name] for row in rows] for name in rows[0]})
        artifacts.write_atomic(directory / "stress.json", artifacts.canonical_json(rows))
        artifacts.write_atomic(directory / "metrics.json", artifacts.canonical_json(metrics))

    lineage = {**job.lineage, **{name: artifacts.open_artifact(path, verify=False).sha256 for name, path in job.inputs.items()}}
    artifacts.publish(job.store, job.key, fill, {"task": job.task, "config": job.config, "lineage": lineage})
    return {"metrics": metrics, "history": []}
