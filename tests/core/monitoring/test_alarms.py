"""The book of alarms: hysteresis across restarts and kills, each comparison once."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from plusultra_core.config import load
from plusultra_core.errors import ArtifactError
from plusultra_core.monitoring.alarms import load_alarms, step_alarms
from plusultra_core.monitoring.drift import MonitoringConfig


@pytest.fixture(scope="module")
def cfg(root: Path) -> MonitoringConfig:
    return replace(load(MonitoringConfig, root / "configs/base/monitoring.yaml"), raise_after=2, clear_after=2)


def verdicts(number: float, **status: str) -> pl.DataFrame:
    return pl.DataFrame({"feature": list(status), "status": list(status.values()), "psi": [number] * len(status)})


def test_an_alarm_outlives_the_process_that_stepped_it(tmp_path: Path, cfg: MonitoringConfig) -> None:
    path = tmp_path / "equity.json"
    assert load_alarms(path).firing() == []
    for day, (momentum, volume) in enumerate([("drift", "stable"), ("insufficient", "drift"), ("drift", "stable"), ("stable", "drift")]):
        step_alarms(path, {"newest": verdicts(day, momentum=momentum, volume=volume)}, day, cfg)
    book = load_alarms(path)
    assert book.firing() == ["newest:momentum"]
    assert book.alarms["newest:momentum"].streak == 1
    assert (book.num_comparisons, book.until_ns) == (4, 3)
    assert step_alarms(path, {"newest": verdicts(9, momentum="stable", volume="stable")}, 4, cfg).firing() == []


def test_the_same_comparison_steps_nothing_and_neither_does_an_older_dump(tmp_path: Path, cfg: MonitoringConfig) -> None:
    path = tmp_path / "equity.json"
    for _ in range(5):
        step_alarms(path, {"newest": verdicts(1.0, momentum="drift")}, 10, cfg)
    assert load_alarms(path).firing() == []
    for number in (2.0, 3.0):
        step_alarms(path, {"newest": verdicts(number, momentum="drift")}, 9, cfg)
    assert load_alarms(path).num_comparisons == 1
    step_alarms(path, {"newest": verdicts(4.0, momentum="drift")}, 10, cfg)
    assert load_alarms(path).firing() == ["newest:momentum"]


def test_sources_have_alarms_of_their_own_and_a_feature_no_more_compared_has_none(tmp_path: Path, cfg: MonitoringConfig) -> None:
    path = tmp_path / "equity.json"
    for number in (1.0, 2.0):
        both = {"newest": verdicts(number, a="drift", b="drift"), "requests": verdicts(number, a="stable", b="drift")}
        step_alarms(path, both, int(number), cfg)
    assert load_alarms(path).firing() == ["newest:a", "newest:b", "requests:b"]
    step_alarms(path, {"newest": verdicts(3.0, a="drift")}, 3, cfg)
    assert load_alarms(path).firing() == ["newest:a", "requests:b"]


LOUD = '{"schema": 1, "alarms": {"newest:a": ["loud", 1]}, "seen": [], "num_comparisons": 1, "until_ns": 1}'


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", LOUD])
def test_a_damaged_book_is_refused_and_never_taken_for_silence(content: str, tmp_path: Path, cfg: MonitoringConfig) -> None:
    (tmp_path / "equity.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"equity\.json: no book of alarms .*; restore it"):
        load_alarms(tmp_path / "equity.json")
    with pytest.raises(ArtifactError, match="no book of alarms"):
        step_alarms(tmp_path / "equity.json", {"newest": verdicts(1.0, a="drift")}, 1, cfg)
    assert (tmp_path / "equity.json").read_text() == content


_WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
import polars as pl
from plusultra_core.config import load
from plusultra_core.monitoring.alarms import step_alarms
from plusultra_core.monitoring.drift import MonitoringConfig
cfg = replace(load(MonitoringConfig, Path(sys.argv[2])), raise_after=2, clear_after=2)
for number in range(int(sys.argv[3]), 100_000):
    status = "drift" if number % 4 < 2 else "stable"
    frame = pl.DataFrame({"feature": ["a"], "status": [status], "psi": [float(number)]})
    step_alarms(Path(sys.argv[1]), {"newest": frame}, number, cfg)
    print(number, flush=True)
"""


def test_a_writer_that_is_killed_leaves_the_old_book_or_the_new_one_and_the_next_goes_on(
    tmp_path: Path, root: Path, cfg: MonitoringConfig
) -> None:
    """`kill -9` five times, each time at another moment: the book is that of the last comparison said, or of the next."""
    path, first = tmp_path / "equity.json", 0
    for turn in range(5):
        command = [sys.executable, "-c", _WRITER, str(path), str(root / "configs/base/monitoring.yaml"), str(first)]
        process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(3)]
        time.sleep(0.013 * turn)
        os.kill(process.pid, signal.SIGKILL)
        said += [int(line) for line in process.communicate()[0].splitlines()]
        book = load_alarms(path)
        assert book.num_comparisons - 1 in (said[-1], said[-1] + 1)
        expected = tmp_path / f"replayed-{turn}.json"
        for number in range(book.num_comparisons):
            frame = verdicts(float(number), a="drift" if number % 4 < 2 else "stable")
            if number >= book.num_comparisons - 8:  # the alarm forgets what lies before two full turns
                step_alarms(expected, {"newest": frame}, number, cfg)
        assert load_alarms(expected).alarms == book.alarms
        first = said[-1]  # said again: it counts once
    assert json.loads(path.read_text())["num_comparisons"] > 15
