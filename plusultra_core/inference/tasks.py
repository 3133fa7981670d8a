"""The jobs of this station."""

from collections.abc import Mapping

from plusultra_core.inference.predict import run_forecast
from plusultra_core.inference.stress import run_stress
from plusultra_core.inference.trace import InferenceConfig, run_trace
from plusultra_core.job import Task

__all__ = ["TASKS", "InferenceConfig"]

TASKS: Mapping[str, Task] = {"forecast": run_forecast, "trace": run_trace, "stress": run_stress}
