"""One simulator and one rulebook: whoever trades, trades by them."""

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plusultra_core.guardrails import kernels as rulebook
from plusultra_core.simulation import engine
from plusultra_core.simulation.engine import backtest
from plusultra_core.simulation.kernel import lanes


class Stopped(Exception):
    """The kernel was reached."""


def stop(*arguments: object) -> None:
    raise Stopped


stop.compile = stop  # episodes of PPO take the kernel's address


@pytest.mark.parametrize("task", ["policy", "trace", "stress"])
def test_training_trace_and_stress_cannot_trade_without_the_kernel(
    chain: Any, task: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(engine, "step_accounts", stop)
    with pytest.raises(Stopped):
        chain.run(task, place=f"{task}-step_accounts")


def test_the_kernel_obeys_the_rulebook_of_the_desk() -> None:
    assert lanes.limit_one is rulebook.limit_one
    assert lanes.next_state is rulebook.next_state


def test_a_backtest_of_given_targets_cannot_trade_without_the_kernel(chain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = chain.setting()
    target_TA = np.zeros(setting.market.close.shape)
    arguments = (setting.market, target_TA[: len(target_TA) - 1], 0, setting.bar_ns, setting.simulation, setting.costs, setting.guard)
    backtest(*arguments)
    monkeypatch.setattr(engine, "step_accounts", stop)
    with pytest.raises(Stopped):
        backtest(*arguments)


@pytest.mark.parametrize("name", ["step_accounts", "clamp_targets", "Environment", "size_forecast", "request_weights"])
def test_what_must_be_one_is_defined_once(root: Path, name: str) -> None:
    homes = [
        path
        for path in (root / "plusultra_core").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name
    ]
    assert len(homes) == 1, homes
