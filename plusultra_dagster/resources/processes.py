"""Whatever imports torch runs elsewhere: as a child process through Pipes, or inline in unit tests."""

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import dagster as dg
from dagster._core.errors import DagsterPipesExecutionError

from plusultra_core.artifacts import Artifact, open_artifact
from plusultra_core.errors import JobError
from plusultra_core.job import Job, run_job, write_job


class _LogProgress:
    """Progress of an inline job in the log of the run."""

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self._context = context

    def report(self, message: str, **numbers: float) -> None:
        tail = " ".join(f"{name}={value:.6g}" for name, value in numbers.items())
        self._context.log.info(f"{message} {tail}".rstrip())


class Jobs(dg.ConfigurableResource):
    """Runs a station's task. The same command works by hand: `python -m plusultra_core.<station> JOB.json`."""

    mode: Literal["subprocess", "inline"] = "subprocess"
    folder: str
    """Where job files and checkpoints lie while a job is under way."""
    cwd: str
    threads: int = os.cpu_count() or 1

    def run(self, context: dg.AssetExecutionContext, station: str, job: Job) -> Artifact:
        """Do the job, or open what an equal job has published.

        Raises  dg.Failure without retries when the task says why it cannot; a crash (a signal) rises as it is.
        """
        if (job.store / job.key).exists():
            context.log.info(f"{job.task} {job.key}: already made")
            return open_artifact(job.store / job.key)
        if self.mode == "inline":
            tasks = importlib.import_module(f"plusultra_core.{station}.tasks").TASKS
            return run_job(job, tasks, _LogProgress(context))
        path = Path(self.folder) / f"{job.key}.json"
        write_job(path, job)
        self._run_child(context, [sys.executable, "-m", f"plusultra_core.{station}", str(path)])
        path.unlink(missing_ok=True)
        if not (job.store / job.key).exists():
            raise JobError(f"{job.task} {job.key}: the child ended well and published nothing; see its output")
        return open_artifact(job.store / job.key)

    def _run_child(self, context: dg.AssetExecutionContext, command: list[str]) -> None:
        client = dg.PipesSubprocessClient(cwd=self.cwd, env=self.environment(), termination_timeout_seconds=20)
        try:
            client.run(context=context, command=command)
        except DagsterPipesExecutionError as error:
            code = int(str(error).rsplit(" ", 1)[-1])
            if code < 0:
                raise
            said = _last_error(context) or f"{' '.join(command)} ended with code {code}; its output stands in the step's stderr"
            raise dg.Failure(description=said, allow_retries=False) from error

    def environment(self) -> Mapping[str, str]:
        """What the child finds besides this process's own environment."""
        threads = os.environ.get("OMP_NUM_THREADS", str(self.threads))
        return {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}


def _last_error(context: dg.AssetExecutionContext) -> str:
    """What the child raised; Pipes brings it into the run's log as an event of its own."""
    logs = context.instance.all_logs(context.run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    steps = [entry.dagster_event for entry in logs if entry.dagster_event and entry.step_key == context.asset_key.to_user_string()]
    errors = [getattr(event.event_specific_data, "error", None) for event in steps]
    return next((error.message.strip() for error in reversed(errors) if error is not None), "")
