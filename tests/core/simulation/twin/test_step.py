"""The step on tensors in single precision, and on other devices. That it is the kernel in everything stands in `test_reference.py`."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.simulation.engine import Environment
from plusultra_core.simulation.twin.engine import TensorEnvironment


def test_a_step_in_single_precision_differs_by_less_than_a_millionth_of_equity(world: Any) -> None:
    market = world.market(40, 3, seed=3, half_spread_bps=4.0)
    rules = (NS_PER_DAY, replace(world.plain, permanent_coef=0.5), world.costly, world.wide)
    env = Environment(market, 64, 3, *rules)
    rng = np.random.default_rng(1)
    start, assets, streams = rng.integers(0, 8, 64), np.tile(np.arange(3), (64, 1)), np.arange(64)
    env.reset(np.arange(64), start, assets, streams)
    twin = TensorEnvironment(market, *rules, dtype=torch.float32)
    twin.reset(start, assets, streams)
    for _ in range(20):
        request = rng.normal(0, 0.4, (64, 3)).astype(np.float32)
        env.step(request.astype(np.float64))
        twin.step(torch.from_numpy(request))
        before = twin.accounts
        assert np.abs(before.equity.numpy() / env.accounts.equity_E - 1.0).max() < 1e-6 * (1 + int(before.t[0] - start[0]))
        held = before.held.numpy() * before.mark.numpy() / env.accounts.equity_E[:, None]
        assert np.abs(held - env.accounts.weight_EA).max() < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_the_device_steps_as_the_processor_does(world: Any, compiled: bool) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    market = world.market(60, 2, seed=5, gaps=0.1, half_spread_bps=4.0)
    rules = (NS_PER_DAY, world.plain, world.costly, world.wide)
    start, assets, streams = np.zeros(256, np.int64), np.tile(np.arange(2), (256, 1)), np.arange(256)
    here = TensorEnvironment(market, *rules, dtype=torch.float32)
    there = TensorEnvironment(market, *rules, dtype=torch.float32, device="cuda", compiled=compiled)
    for env in (here, there):
        env.reset(start, assets, streams)
    rng = np.random.default_rng(2)
    for _ in range(30):
        request = torch.from_numpy(rng.normal(0, 0.4, (256, 2)).astype(np.float32))
        here.step(request)
        there.step(request.cuda())
        assert torch.allclose(here.accounts.equity, there.accounts.equity.cpu(), rtol=1e-5)
