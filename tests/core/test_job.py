"""A child does its task once, resumes, and never outlives its parent."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from plusultra_core import artifacts, job
from plusultra_core.errors import ArtifactError, JobError

# A station of ten steps that keeps a checkpoint, and can be told to hang at a step or to ignore SIGTERM.
STATION = """
import signal, sys, time
from pathlib import Path
from plusultra_core import artifacts, job

def count(work, progress):
    if work.config["deaf"]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    checkpoint = work.work / "step"
    step = int(checkpoint.read_text()) if checkpoint.exists() else 0
    progress.report("starts", step=step)
    while step < 10:
        step += 1
        artifacts.write_atomic(checkpoint, str(step).encode())
        if step == work.config["hang_at"] and not (work.work / "hung").exists():
            (work.work / "hung").touch()
            progress.report("hangs", step=step)
            time.sleep(120)
    def fill(folder):
        (folder / "result").write_text(str(step))
    artifacts.publish(work.store, work.key, fill, {"task": work.task})
    return {"metrics": {"step": step}}

if __name__ == "__main__":
    sys.exit(job.run_child({"count": count}))
"""

# A parent that starts the station and waits for it, as an orchestrator does.
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, sys.argv[1], sys.argv[2]], stdout=sys.stdout)
print("child", child.pid, flush=True)
child.wait()
"""


def make(tmp_path: Path, **config: object) -> job.Job:
    return job.Job(
        task="count",
        key="0123456789abcdef",
        config={"hang_at": 0, "deaf": False, **config},
        inputs={"windows": tmp_path / "windows"},
        store=tmp_path / "store",
        work=tmp_path / "work" / "0123456789abcdef",
        lineage={"snapshot": "demo"},
    )


@pytest.fixture
def station(tmp_path: Path) -> Path:
    path = tmp_path / "station.py"
    path.write_text(STATION)
    return path


@pytest.fixture
def started(root: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes of a test; whatever is left of them is ended with it."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait(timeout=10)
        if process.stdout:
            process.stdout.close()


def start(arguments: list[object], root: Path, started: list[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(root)}
    environment.pop("DAGSTER_PIPES_CONTEXT", None)
    command = [sys.executable, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    started.append(process)
    return process


def wait_for_line(process: subprocess.Popen[str], start_of_line: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(start_of_line):
            return line.strip()
    raise AssertionError(f"the process ended without saying {start_of_line!r}")


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in ("Z", "X")


class Notes:
    """Progress kept in a list."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def report(self, message: str, **numbers: float) -> None:
        self.lines.append(message)


def _artifact(store: Path, key: str, content: str, lineage: dict[str, str]) -> artifacts.Artifact:
    return artifacts.publish(store, key, lambda folder: artifacts.write_atomic(folder / "content", content.encode()), {"lineage": lineage})


def test_inputs_that_were_not_made_of_one_another_are_refused(tmp_path: Path) -> None:
    """A forecaster of other windows may have been trained on the test span of these."""
    store, made = tmp_path / "store", []
    windows, others = (_artifact(store, key, key, {}) for key in ("windows", "others"))
    model = _artifact(store, "model", "model", {"windows": windows.sha256, "snapshot": "demo"})

    def publish(work: job.Job, progress: job.Progress) -> Mapping[str, object]:
        made.append(work.key)
        _artifact(work.store, work.key, "", {})
        return {}

    def ask(key: str, panel: artifacts.Artifact) -> job.Job:
        return job.Job("use", key, {}, {"windows": panel.path, "supervised": model.path}, store, tmp_path / "work" / key, {})

    job.run_job(ask("fits", windows), {"use": publish}, job.PrintProgress())
    with pytest.raises(JobError, match=f"use: supervised was made of windows {windows.sha256[:16]}.*make supervised again"):
        job.run_job(ask("does_not", others), {"use": publish}, job.PrintProgress())
    assert made == ["fits"]


def test_a_job_file_holds_the_job(tmp_path: Path) -> None:
    given = make(tmp_path, nested={"a": [1, 2.5, None]})
    job.write_job(tmp_path / "job.json", given)
    assert job.read_job(tmp_path / "job.json") == given


@pytest.mark.parametrize("name", ["task", "key", "config", "inputs", "store", "work", "lineage"])
def test_a_job_file_without_a_field_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    job.write_job(path, make(tmp_path))
    fields = json.loads(path.read_text())
    del fields[name]
    path.write_text(json.dumps(fields))
    with pytest.raises(JobError, match=f"not a job file .*{name}"):
        job.read_job(path)


@pytest.mark.parametrize("content", ["", "[]", "3", '{"task": 1, "key": 2, "config": 3}'])
def test_what_is_no_job_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(content)
    with pytest.raises(JobError, match="not a job file"):
        job.read_job(tmp_path / "job.json")
    with pytest.raises(JobError, match="not a job file"):
        job.read_job(tmp_path / "none.json")


def publish_text(text: str) -> job.Task:
    def task(given: job.Job, progress: job.Progress) -> Mapping[str, object]:
        progress.report("at work", loss=0.5)
        (given.work / "checkpoint").write_text("half")
        artifacts.publish(given.store, given.key, lambda folder: (folder / "out").write_text(text) and None, {})
        return {}

    return task


def test_a_task_runs_once_and_an_equal_job_gets_what_it_made(tmp_path: Path) -> None:
    notes, given = Notes(), make(tmp_path)
    first = job.run_job(given, {"count": publish_text("one")}, notes)
    assert (first.path / "out").read_text() == "one" and not given.work.exists()
    again = job.run_job(given, {"count": publish_text("two")}, notes)
    assert again == first and notes.lines == ["at work", "count 0123456789abcdef: already made"]


def test_a_damaged_result_is_refused_and_not_returned(tmp_path: Path) -> None:
    made = job.run_job(make(tmp_path), {"count": publish_text("one")}, Notes())
    (made.path / "out").write_text("two")
    with pytest.raises(ArtifactError, match="make it again"):
        job.run_job(make(tmp_path), {"count": publish_text("one")}, Notes())


def test_unknown_tasks_and_tasks_without_a_result_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"task: expected one of \['other'\], found 'count'"):
        job.run_job(make(tmp_path), {"other": publish_text("")}, Notes())
    with pytest.raises(JobError, match="published nothing"):
        job.run_job(make(tmp_path), {"count": lambda given, progress: {}}, Notes())


def test_a_task_that_fails_keeps_its_checkpoint_and_frees_its_lock(tmp_path: Path) -> None:
    def fails(given: job.Job, progress: job.Progress) -> Mapping[str, object]:
        (given.work / "checkpoint").write_text("half")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        job.run_job(make(tmp_path), {"count": fails}, Notes())
    assert (make(tmp_path).work / "checkpoint").read_text() == "half"
    job.run_job(make(tmp_path), {"count": publish_text("one")}, Notes())


def test_two_processes_never_work_on_one_job(tmp_path: Path) -> None:
    given = make(tmp_path)
    given.work.parent.mkdir(parents=True)
    with given.work.with_name(given.work.name + ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(JobError, match="another process is at work on this job"):
            job.run_job(given, {"count": publish_text("one")}, Notes())


def test_the_command_line_wants_one_job_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert job.run_child({}, []) == 2 and job.run_child({}, ["a", "b"]) == 2
    assert "usage" in capsys.readouterr().err


def test_progress_is_a_line_with_plain_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    job.PrintProgress().report("epoch 3", loss=0.123456789, lr=1e-4)
    assert capsys.readouterr().out == "epoch 3 loss=0.123457 lr=0.0001\n"


def test_a_child_by_hand_publishes_and_a_second_run_returns_at_once(tmp_path: Path, root: Path, station: Path, started: list) -> None:  # type: ignore[type-arg]
    job.write_job(tmp_path / "job.json", make(tmp_path))
    for expected in ("starts step=0", "count 0123456789abcdef: already made"):
        process = start([station, tmp_path / "job.json"], root, started)
        output = process.communicate(timeout=60)[0]
        assert process.returncode == 0 and expected in output and "published" in output
    assert (tmp_path / "store" / "0123456789abcdef" / "result").read_text() == "10"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's parent death signal is Linux's")
@pytest.mark.parametrize("deaf", [False, True], ids=["a plain child", "a child that ignores SIGTERM"])
def test_a_child_dies_with_a_killed_parent(deaf: bool, tmp_path: Path, root: Path, station: Path, started: list) -> None:  # type: ignore[type-arg]
    job.write_job(tmp_path / "job.json", make(tmp_path, hang_at=4, deaf=deaf))
    (tmp_path / "parent.py").write_text(PARENT)
    parent = start([tmp_path / "parent.py", station, tmp_path / "job.json"], root, started)
    child_pid = int(wait_for_line(parent, "child").split()[1])
    wait_for_line(parent, "hangs")
    assert alive(child_pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait(timeout=10)
    deadline = time.monotonic() + 5
    while (outlives := alive(child_pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    if outlives:
        os.kill(child_pid, signal.SIGKILL)
    assert not outlives, "the child outlived its parent by 5 s"
    assert not (tmp_path / "store" / "0123456789abcdef").exists()


def test_a_killed_child_resumes_from_its_checkpoint(tmp_path: Path, root: Path, station: Path, started: list) -> None:  # type: ignore[type-arg]
    given = make(tmp_path, hang_at=4)
    job.write_job(tmp_path / "job.json", given)
    first = start([station, tmp_path / "job.json"], root, started)
    wait_for_line(first, "hangs")
    busy = start([station, tmp_path / "job.json"], root, started)
    assert "another process is at work" in busy.communicate(timeout=60)[0] and busy.returncode == 1
    first.kill()
    first.wait(timeout=10)
    assert (given.work / "step").read_text() == "4" and not (given.store / given.key).exists()
    second = start([station, tmp_path / "job.json"], root, started)
    output = second.communicate(timeout=60)[0]
    assert second.returncode == 0 and "starts step=4" in output
    assert (given.store / given.key / "result").read_text() == "10" and not given.work.exists()
