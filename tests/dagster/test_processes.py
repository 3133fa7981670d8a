"""Jobs in other processes: what comes back, what a failure says, what is not done twice."""

import os
import sys
from pathlib import Path

import dagster as dg
import pytest

from plusultra_core.artifacts import open_artifact, publish
from plusultra_core.job import Job
from plusultra_dagster.resources.processes import Jobs

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
ROOT = Path(__file__).resolve().parents[2]


def in_an_asset(body: object) -> dg.ExecuteInProcessResult:
    @dg.asset
    def something(context: dg.AssetExecutionContext) -> None:
        body(context)  # type: ignore[operator]

    return dg.materialize([something], run_config=QUIET, raise_on_error=False)


def jobs(tmp_path: Path) -> Jobs:
    return Jobs(folder=str(tmp_path), cwd=str(ROOT))


def job(tmp_path: Path, task: str = "no such task") -> Job:
    return Job(task, "k" * 16, {}, {}, tmp_path / "store", tmp_path / "work" / "k", {})


@pytest.mark.slow
def test_a_task_that_cannot_be_done_fails_with_its_own_words_and_is_not_tried_again(tmp_path: Path) -> None:
    result = in_an_asset(lambda context: jobs(tmp_path).run(context, "training", job(tmp_path)))
    failure = result.failure_data_for_node("something")
    assert failure is not None
    assert failure.user_failure_data is not None
    assert "task: expected one of ['pretrain', 'supervised'], found 'no such task'" in str(failure.user_failure_data.description)
    assert not failure.user_failure_data.allow_retries if hasattr(failure.user_failure_data, "allow_retries") else True


def test_a_child_that_ends_badly_before_it_says_anything_names_its_command(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    result = in_an_asset(lambda context: jobs(tmp_path)._run_child(context, command))
    assert "ended with code 3" in str(result.failure_data_for_node("something").user_failure_data.description)  # type: ignore[union-attr]


def test_a_child_that_is_killed_is_a_crash_and_no_judgement(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    result = in_an_asset(lambda context: jobs(tmp_path)._run_child(context, command))
    failure = result.failure_data_for_node("something")
    assert failure is not None
    assert failure.user_failure_data is None
    assert "code -9" in str(failure.error)


def test_a_job_that_has_been_done_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = publish(tmp_path / "store", "k" * 16, lambda folder: folder.joinpath("x").write_bytes(b"1") and None, {})
    monkeypatch.setattr(Jobs, "_run_child", lambda *_: pytest.fail("a process was started"))
    found = []
    assert in_an_asset(lambda context: found.append(jobs(tmp_path).run(context, "training", job(tmp_path)))).success
    assert found == [done] == [open_artifact(done.path)]


def test_the_child_gets_as_many_threads_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert jobs(tmp_path).environment()["MKL_NUM_THREADS"] == "3"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert jobs(tmp_path).environment()["OMP_NUM_THREADS"] == str(os.cpu_count())


def test_inline_jobs_run_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    def task(job: Job, progress: object) -> dict[str, object]:
        progress.report("half way", loss=0.5)  # type: ignore[attr-defined]
        publish(job.store, job.key, lambda folder: folder.joinpath("x").write_bytes(b"1") and None, {})
        return {}

    module = types.SimpleNamespace(TASKS={"mine": task})
    monkeypatch.setitem(sys.modules, "plusultra_core.training.tasks", module)  # type: ignore[arg-type]
    inline = Jobs(mode="inline", folder=str(tmp_path), cwd=str(ROOT))
    found = []
    assert in_an_asset(lambda context: found.append(inline.run(context, "training", job(tmp_path, "mine")))).success
    assert found[0].path == tmp_path / "store" / ("k" * 16)
