"""Tapes from the evaluation's random worlds, so that the page is tested on what the trace really writes."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from plusultra_core.evaluation.execution.sheet import Tape, load_tape
from plusultra_core.reporting.pages.blocks import ExecutionPageConfig


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The evaluation's worlds, whose conftest cannot be imported by name."""
    name = "execution_worlds"
    if name not in sys.modules:
        path = Path(__file__).resolve().parents[2] / "evaluation" / "execution" / "conftest.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name].Worlds(tmp_path_factory.mktemp("tapes"))


@pytest.fixture(scope="session")
def tape(worlds: Any) -> Tape:
    return load_tape(worlds.random(5, num_bars=120, latency_ms=(0.0, 250.0, 1e8), latency_prob=(0.3, 0.6, 0.1)))


@pytest.fixture(scope="session")
def page_cfg() -> ExecutionPageConfig:
    return ExecutionPageConfig(max_points=200, max_symbols=4, max_fills=60, max_rows=5)
