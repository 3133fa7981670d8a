"""What a killed process leaves behind: runs that say they are under way, slots of pools, half directories.

A run started by the command line is tagged with its process and the boot of its machine. When that process
is gone, nobody else will ever end the run: Dagster watches only the workers that it launched itself.
"""

import os
import socket
from pathlib import Path

import dagster as dg

from plusultra_core.artifacts import sweep
from plusultra_dagster.places import Places

PROCESS = "plusultra/process"
_UNDER_WAY = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.CANCELING]


def process_tag(pid: int | None = None) -> str:
    """Names a process for ever: machine, boot, pid and the moment at which it started."""
    number = os.getpid() if pid is None else pid
    return f"{socket.gethostname()}:{_boot()}:{number}:{_started(number)}"


def is_dead(tag: str) -> bool:
    """Whether the process of a tag is gone. Of other machines nothing is known, so theirs are not."""
    host, _, rest = tag.partition(":")
    if host != socket.gethostname():
        return False
    boot, _, number = rest.partition(":")
    return boot != _boot() or process_tag(int(number.partition(":")[0])) != tag


def end_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Report as failed every run whose process is gone and free its slots; returns their ids."""
    dead = []
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=_UNDER_WAY)):
        tag = run.tags.get(PROCESS)
        if tag is None or not is_dead(tag):
            continue
        instance.report_run_failed(run, "the process of this run is gone (killed, or the machine went down)")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        dead.append(run.run_id)
    return dead


def sweep_artifacts(places: Places) -> int:
    """Remove directories that a killed publisher left unfinished; only while no run is under way."""
    stores = [path for path in places.artifacts.iterdir() if path.is_dir()] if places.artifacts.is_dir() else []
    return sum(sweep(store) for store in [*stores, places.snapshots])


def _boot() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def _started(pid: int) -> str:
    """Start time in clock ticks since boot, so that a pid that was given out again is another process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return "gone"
