"""An asset whose content a child process makes: the job, its run in MLflow, its record."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from plusultra_core.artifacts import Artifact
from plusultra_core.job import Job
from plusultra_dagster.assets import summary
from plusultra_dagster.assets.record import Record, numbers
from plusultra_dagster.config import Station
from plusultra_dagster.places import places
from plusultra_dagster.resources.processes import Jobs
from plusultra_dagster.resources.tracking import STEPS, MlflowTracking


def run_station(
    context: dg.AssetExecutionContext,
    jobs: Jobs,
    tracking: MlflowTracking,
    station: str,
    task: str,
    inputs: Mapping[str, Artifact],
    config: Station,
    beside: tuple[str, ...] = (),
) -> dg.MaterializeResult:
    """Run `python -m plusultra_core.<station>` on a job and record the artifact it publishes.

    The artifact's key is the provenance digest: a job that has been done returns at once, wherever it was started.
    """
    record = Record(context, config)
    record.require_checks()
    own = config.read()
    sections = {
        station: own,
        "market": record.market_dict,
        "seed": int(own.get("seed", 0)),
        **{name: config.beside(name) for name in beside},
    }
    job = Job(
        task=task,
        key=record.provenance,
        config=sections,
        inputs={name: artifact.path for name, artifact in inputs.items()},
        store=record.store,
        work=places().work / record.provenance,
        lineage=record.lineage,
    )
    with tracking.run(context, job.key) as tracked:
        artifact = jobs.run(context, station, job)
        metrics, history = numbers(_read(artifact.path / "metrics.json", {})), rows(_read(artifact.path / "history.json", []))
        tracked.log(sections, metrics, history)
    return record.artifact(artifact, **summary.station(task, metrics, history), **tracked.metadata())


def rows(value: object) -> list[dict[str, float]]:
    """A history as rows of plain numbers; what a row is of (its fold, its model) goes into their names."""
    found = []
    for row in value if isinstance(value, list) else []:
        of = "".join(f"{row[name]}/" if isinstance(row[name], str) else f"{name}_{row[name]}/" for name in ("fold", "model") if name in row)
        found.append({name if name in STEPS else f"{of}{name}": number for name, number in numbers(row).items() if name != "fold"})
    return found


def _read(path: Path, otherwise: object) -> Any:
    return json.loads(path.read_text()) if path.exists() else otherwise
