"""The protocol of a child process: one job file in, one published artifact out.

`python -m plusultra_core.training job.json` does the same under Dagster Pipes, under Kubernetes and by
hand. The child dies with its parent, holds a lock on its work directory, resumes from what it left
there, and publishes its artifact by one rename.
"""

import ctypes
import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from plusultra_core import artifacts
from plusultra_core.errors import JobError

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Job:
    """What a child is asked to do. `key` names the result: equal keys, equal bytes."""

    task: str
    key: str
    config: dict[str, Any]
    inputs: dict[str, Path]
    store: Path
    work: Path
    lineage: dict[str, str]


class Progress(Protocol):
    """Where a task says how far it is."""

    def report(self, message: str, **numbers: float) -> None:
        """One line for a person, with plain numbers."""


Task = Callable[[Job, Progress], Mapping[str, object]]


class PrintProgress:
    """Progress on standard output, one line a report."""

    def report(self, message: str, **numbers: float) -> None:
        """Print the message and its numbers."""
        tail = " ".join(f"{name}={value:.6g}" for name, value in numbers.items())
        print(f"{message} {tail}".rstrip(), flush=True)


def read_job(path: Path) -> Job:
    """The job in a JSON file.

    Raises  JobError when a field is missing or of another type.
    """
    try:
        raw = json.loads(path.read_text())
        return Job(
            task=str(raw["task"]),
            key=str(raw["key"]),
            config=dict(raw["config"]),
            inputs={name: Path(value) for name, value in raw["inputs"].items()},
            store=Path(raw["store"]),
            work=Path(raw["work"]),
            lineage={name: str(value) for name, value in raw["lineage"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise JobError(f"{path}: not a job file ({type(error).__name__}: {error})") from error


def write_job(path: Path, job: Job) -> None:
    """Write a job file that `read_job` reads back."""
    value = {
        "task": job.task,
        "key": job.key,
        "config": job.config,
        "inputs": {name: str(path) for name, path in job.inputs.items()},
        "store": str(job.store),
        "work": str(job.work),
        "lineage": job.lineage,
    }
    artifacts.write_atomic(path, artifacts.canonical_json(value))


def run_job(job: Job, tasks: Mapping[str, Task], progress: Progress) -> artifacts.Artifact:
    """Do one job in this process, or return at once what an equal job has published.

    Raises  JobError for an unknown task, for inputs that do not belong together, or when the task did not publish its artifact.
    """
    if job.task not in tasks:
        raise JobError(f"task: expected one of {sorted(tasks)}, found {job.task!r}")
    check_inputs(job)
    with _locked(job.work):
        if (job.store / job.key).exists():
            progress.report(f"{job.task} {job.key}: already made")
            shutil.rmtree(job.work, ignore_errors=True)
            return artifacts.open_artifact(job.store / job.key)
        tasks[job.task](job, progress)
        if not (job.store / job.key).exists():
            raise JobError(f"{job.task}: published nothing, expected {job.store / job.key}; publish under the job's own store and key")
        artifact = artifacts.open_artifact(job.store / job.key)
        shutil.rmtree(job.work, ignore_errors=True)
    return artifact


def check_inputs(job: Job) -> None:
    """Inputs made of one another were made of these very artifacts: a model of other windows may have trained on this test span.

    What an artifact was made of stands in the `lineage` of its manifest, by the name of the input.
    Raises  JobError naming both inputs.
    """
    found = {name: artifacts.open_artifact(path, verify=False) for name, path in job.inputs.items() if (path / artifacts.MANIFEST).exists()}
    for name, artifact in found.items():
        lineage = artifact.manifest.get("lineage", {})
        for other in sorted(found.keys() & lineage.keys()):
            if lineage[other] != found[other].sha256:
                raise JobError(
                    f"{job.task}: {name} was made of {other} {str(lineage[other])[:16]}, the job gives {found[other].sha256[:16]}; "
                    f"make {name} again from {job.inputs[other]}"
                )


def run_child(tasks: Mapping[str, Task], argv: Sequence[str] | None = None) -> int:
    """Body of a station's `__main__`: read the job file, die with the parent, run, report under Pipes."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) != 1:
        print("usage: python -m plusultra_core.<station> JOB.json", file=sys.stderr)
        return 2
    die_with_parent()
    job = read_job(Path(arguments[0]))
    with _reporter() as progress:
        artifact = run_job(job, tasks, progress)
        progress.report(f"{job.task} {job.key}: published {artifact.sha256[:16]}")
    return 0


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends (Linux; elsewhere nothing is asked).

    By SIGKILL: trainers catch SIGTERM, and an artifact appears by one rename, so that nothing is lost.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    work.mkdir(parents=True, exist_ok=True)
    lock = work.with_name(work.name + ".lock")
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise JobError(f"{work}: another process is at work on this job; wait for it or end it") from error
        yield


class _PipesProgress:
    """Progress into the log of the Dagster run that started this process."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def report(self, message: str, **numbers: float) -> None:
        tail = " ".join(f"{name}={value:.6g}" for name, value in numbers.items())
        self._context.log.info(f"{message} {tail}".rstrip())


@contextmanager
def _reporter() -> Iterator[Progress]:
    """Pipes when a Dagster run is at the other end, standard output otherwise."""
    if "DAGSTER_PIPES_CONTEXT" not in os.environ:
        yield PrintProgress()
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as context:
        yield _PipesProgress(context)
