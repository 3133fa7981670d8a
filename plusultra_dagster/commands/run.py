"""`plusultra run`: land a dump and materialise what is not there yet, through Dagster, one run a partition and stage."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from plusultra_core.errors import ConfigError
from plusultra_core.market import ASSET_CLASSES
from plusultra_dagster import jobs, provenance
from plusultra_dagster.build import build_defs, tracking
from plusultra_dagster.commands.plan import stale
from plusultra_dagster.commands.progress import ProgressHandler, progress_logger, terminal
from plusultra_dagster.commands.setup import create_tracking, locked
from plusultra_dagster.partitions import Partition, add_snapshot, multi_key, snapshot
from plusultra_dagster.places import Places
from plusultra_dagster.repair import PROCESS, end_dead_runs, process_tag, sweep_artifacts
from plusultra_dagster.resources.landing import Landing, key_of, same_content
from plusultra_dagster.sensors.arrivals import DOOR

_INTERRUPTED = "DagsterExecutionInterruptedError"
_QUIET = {"loggers": {"progress": {}}}


@dataclass(slots=True)
class Outcome:
    """What became of one partition."""

    status: str = "success"
    run_ids: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    error: str = ""


@dataclass(slots=True)
class Report:
    """What became of a dump."""

    snapshot: str
    seconds: float = 0.0
    classes: dict[str, Outcome] = field(default_factory=dict)
    error: str = ""


class Desk:
    """The persistent instance, the definitions and the terminal of one command."""

    def __init__(self, at: Places, instance: dg.DagsterInstance) -> None:
        self.at = at
        self.instance = instance
        graph = build_defs(at).resolve_asset_graph()
        names = frozenset(key.to_user_string() for key in graph.get_all_asset_keys())
        self.progress = ProgressHandler(terminal(), names)
        self.defs = build_defs(at, {"progress": progress_logger(self.progress)})
        self.graph = self.defs.resolve_asset_graph()
        learning = {key.to_user_string() for key in jobs.learning.resolve(self.graph)}
        self.learning = [name for name in names if name in learning]

    def say(self, line: str) -> None:
        """A line at the terminal."""
        self.progress.say(line)

    def make(self, job: str, names: Sequence[str], cell: Partition, outcome: Outcome) -> None:
        """Materialise what is stale of `names`; what goes wrong is kept in the outcome."""
        again = stale(self.instance, self.graph, names, cell, self.at)
        if not again:
            return
        key = cell.key if cell.asset_class is None else multi_key(cell.snapshot, cell.asset_class)
        result = self.defs.resolve_job_def(job).execute_in_process(
            run_config=_QUIET,
            instance=self.instance,
            partition_key=key,
            asset_selection=[dg.AssetKey(name) for name in again],
            tags={DOOR: "command line", PROCESS: process_tag()},
            raise_on_error=False,
        )
        outcome.run_ids.append(result.run_id)
        outcome.made += [name for name in again if result.asset_materializations_for_node(name)]
        if not result.success:
            outcome.status, outcome.error = "failure", failure_of(result)
            self.say(f"    {outcome.error}")
            if _INTERRUPTED in outcome.error:
                raise KeyboardInterrupt


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    """What a person has to read of a failed run: the step and what its error says."""
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            error = error.cause or error if error is not None else None
            user = event.step_failure_data.user_failure_data
            text = (user.description if user and user.description else None) or (error.message if error else "")
            return f"{event.step_key}: {text.strip()}"
    return "the run failed before its first step; see its log in the UI"


def repair(at: Places, instance: dg.DagsterInstance, alone: bool, say: Callable[[str], None]) -> None:
    """Mend what a killed command left: end its runs, free its slots, remove half directories."""
    dead = end_dead_runs(instance)
    if dead:
        tracking(at).end_runs_of(dead)
        say(f"  ended {len(dead)} run(s) whose process was killed")
    under_way = instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING]))
    if alone and not under_way and (swept := sweep_artifacts(at)):
        say(f"  removed {swept} unfinished director{'y' if swept == 1 else 'ies'}")


def run_dump(at: Places, dump: Path, wanted: Sequence[str]) -> Report:
    """Land, snapshot, tables of every class in it, then learning for the classes wanted (all where none is named).

    An error in one class leaves the others to go on.
    Raises  ConfigError for a class that no dump can have, before the dump is landed, and for one that this dump has not.
    """
    if strange := sorted(set(wanted) - set(ASSET_CLASSES)):
        raise ConfigError(f"asset class: {', '.join(strange)} is none; expected of {', '.join(ASSET_CLASSES)}")
    start = time.monotonic()
    create_tracking(at)
    with dg.DagsterInstance.from_config(str(at.dagster)) as instance, locked(at.data / ".run.lock", shared=True) as alone:
        desk = Desk(at, instance)
        repair(at, instance, alone, desk.say)
        landed = Landing(folder=str(at.landing)).land(dump)
        key = key_of(landed)
        key = same_content(key, instance.get_dynamic_partitions(str(snapshot.name))) or key
        add_snapshot(instance, key)
        desk.say(f"{key}: {landed.name}, {landed.stat().st_size / 1e6:.1f} MB")
        report = Report(key)
        taken = Outcome()
        desk.make("take_snapshot", ["snapshot"], Partition(key), taken)
        if taken.status != "success":
            report.error = taken.error
            return report
        _classes(desk, report, wanted)
        report.seconds = time.monotonic() - start
        changed = bool(taken.made) or any(outcome.made for outcome in report.classes.values())
        desk.say(f"done in {report.seconds:.0f} s" if changed else f"nothing to recompute: everything is current ({report.seconds:.0f} s)")
    return report


def _classes(desk: Desk, report: Report, wanted: Sequence[str]) -> None:
    newest = provenance.latest(desk.instance, "snapshot", report.snapshot)
    found = [str(name) for name in (newest.metadata["classes"] if newest else [])]
    if strange := sorted(set(wanted) - set(found)):
        raise ConfigError(f"asset class: {', '.join(strange)} not in this dump; it has {', '.join(found)}")
    chosen = list(wanted) or found
    outcomes = {name: Outcome() for name in found}
    for name in found:
        desk.say(f"  {name}: tables")
        desk.make("refresh_tables", jobs.TABLES, Partition(report.snapshot, name), outcomes[name])
    for name in chosen:
        report.classes[name] = outcomes[name]
        if outcomes[name].status == "success":
            desk.say(f"  {name}: learning")
            desk.make("train", desk.learning, Partition(report.snapshot, name), outcomes[name])


def as_dict(report: Report, at: Places) -> dict[str, Any]:
    """The report as one JSON object, with what each class's partition holds now."""
    from plusultra_dagster.commands.answer import answer

    with dg.DagsterInstance.from_config(str(at.dagster)) as instance:
        classes = {name: answer(instance, at, Partition(report.snapshot, name), outcome) for name, outcome in report.classes.items()}
    return {"snapshot": report.snapshot, "seconds": round(report.seconds, 1), "error": report.error, "asset_classes": classes}
