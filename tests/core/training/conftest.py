"""Fixtures of the training tests: the smoke config, and a runner of jobs in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plusultra_core import config
from plusultra_core.artifacts import Artifact
from plusultra_core.job import Job, run_job
from plusultra_core.training.tasks import TASKS, TrainingConfig
from plusultra_core.windows.panel import Panel, publish_panel

ROOT = Path(__file__).resolve().parents[3]


class Recorder:
    """Progress that keeps what was said, and can stop the run at a given report."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.rows: list[tuple[str, dict[str, float]]] = []
        self.stop_at = stop_at

    def report(self, message: str, **numbers: float) -> None:
        self.rows.append((message, numbers))
        if len(self.rows) == self.stop_at:
            raise KeyboardInterrupt


@pytest.fixture(scope="session")
def training_config() -> TrainingConfig:
    """The smoke profile."""
    return config.load(TrainingConfig, ROOT / "configs/smoke/training.yaml")


@pytest.fixture
def run(training_config: TrainingConfig, tmp_path: Path) -> Callable[..., Artifact]:
    """Run a training task on a panel; equal `key` and `place` find what was made there."""

    def do(
        task: str,
        panel: Panel,
        place: str = "a",
        cfg: TrainingConfig | None = None,
        pretrained: Path | None = None,
        progress: Any = None,
    ) -> Artifact:
        base = tmp_path / place
        inputs = {"windows": publish_panel(panel, base / "store", "windows", {}).path}
        if pretrained is not None:
            inputs["pretrained"] = pretrained
        settings = {"training": config.to_dict(cfg or training_config)}
        job = Job(task, f"{task}-key", settings, inputs, base / "store", base / "work" / task, {"snapshot": "tiny"})
        return run_job(job, TASKS, progress or Recorder())

    return do


@pytest.fixture
def recorder() -> type[Recorder]:
    """The class of recording progress."""
    return Recorder
