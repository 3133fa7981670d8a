"""Gradients through the twin: equal to differences of the kernel's own equity, and good enough to find an optimum with."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from plusultra_core.arrays import Float64Array
from plusultra_core.clock import NS_PER_DAY
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.simulation.engine import Environment
from plusultra_core.simulation.records import MarketArrays
from plusultra_core.simulation.twin.engine import Path, TensorEnvironment, run_path
from plusultra_core.simulation.twin.utility import utility_loss


def kernel_equity(world: Any, market: MarketArrays, request_SA: Float64Array, **changes: Any) -> float:
    """Equity at the end of a path through the step kernel."""
    env = Environment(market, 1, request_SA.shape[1], NS_PER_DAY, replace(world.plain, **changes), world.costly, world.wide)
    env.reset(np.zeros(1, np.int64), np.zeros(1, np.int64), np.arange(request_SA.shape[1])[None], np.zeros(1, np.int64))
    env.run(request_SA[:, None, :], None, None)
    return float(env.accounts.equity_E[0])


def twin_of(world: Any, market: MarketArrays, num_slots: int, **changes: Any) -> TensorEnvironment:
    twin = TensorEnvironment(market, NS_PER_DAY, replace(world.plain, **changes), world.costly, world.wide, dtype=torch.float64)
    twin.reset(np.zeros(1, np.int64), np.arange(num_slots)[None], np.zeros(1, np.int64))
    return twin


@pytest.mark.parametrize("changes", [{}, {"permanent_coef": 0.5, "permanent_decay_frac": 0.3}], ids=["plain", "lasting impact"])
def test_the_gradient_of_equity_is_that_of_the_kernel(world: Any, changes: dict[str, float]) -> None:
    market = world.market(12, 2, seed=4, half_spread_bps=4.0)._replace(volume=np.full((12, 2), 1e12))
    request = np.random.default_rng(0).uniform(0.1, 0.5, (10, 2)) * np.array([1.0, -1.0])
    asked = torch.from_numpy(request.copy())[:, None, :].requires_grad_()
    path = run_path(twin_of(world, market, 2, **changes), asked)
    assert path.equity[-1].item() == pytest.approx(kernel_equity(world, market, request, **changes), rel=1e-12)
    path.equity[-1].sum().backward()
    assert asked.grad is not None
    for s in range(10):
        for a in range(2):
            up, down = request.copy(), request.copy()
            up[s, a] += 1e-4
            down[s, a] -= 1e-4
            slope = (kernel_equity(world, market, up, **changes) - kernel_equity(world, market, down, **changes)) / 2e-4
            assert asked.grad[s, 0, a].item() == pytest.approx(slope, rel=1e-5, abs=1.0)


def test_no_gradient_is_nan_where_bars_are_missing_and_nothing_is_asked(world: Any) -> None:
    market = world.market(30, 3, seed=6, gaps=0.3, half_spread_bps=4.0)
    request = torch.from_numpy(np.random.default_rng(1).normal(0, 0.4, (25, 1, 3)))
    request[::3] = torch.nan
    request.requires_grad_()
    twin = twin_of(world, market, 3, time_in_force="gtc", participation=0.01)
    utility_loss(run_path(twin, request), "mean_variance", 2.0).backward()
    assert request.grad is not None
    assert torch.isfinite(request.grad).all()
    assert request.grad.abs().max() > 0


def test_descent_through_the_twin_finds_the_schedule_of_almgren_and_chriss(world: Any) -> None:
    num_steps, goal, aversion = 10, 5_000.0, 2e-2
    free = replace(world.free, impact_coef=1.0, impact_exponent=1.0)
    market = world.flat(num_steps + 2)
    twin = TensorEnvironment(market, NS_PER_DAY, replace(world.plain, min_order_ccy=1e-9), free, world.wide, dtype=torch.float64)
    eta = 100.0 * 0.02 * 100.0 / 5e7  # a quantity q costs eta q^2: price x sigma x (q x price / V) x q
    weights = torch.linspace(0.05, 0.45, num_steps, dtype=torch.float64).requires_grad_()
    search = torch.optim.LBFGS([weights], max_iter=200, tolerance_grad=1e-14, tolerance_change=1e-16, line_search_fn="strong_wolfe")

    def cost() -> torch.Tensor:
        search.zero_grad()
        twin.reset(np.zeros(1, np.int64), np.zeros((1, 1), np.int64), np.zeros(1, np.int64))
        held, paid = [], []
        for weight in weights:
            happened = twin.step(weight.reshape(1, 1))
            held.append(happened.position.squeeze())
            paid.append(happened.impact.squeeze())
        total = torch.stack(paid).sum() + aversion * eta * (goal - torch.stack(held)).square().sum()
        total.backward()
        return total

    search.step(cost)
    with torch.no_grad():
        twin.reset(np.zeros(1, np.int64), np.zeros((1, 1), np.int64), np.zeros(1, np.int64))
        found = np.array([float(twin.step(weight.reshape(1, 1)).position) for weight in weights])
    moves = np.eye(num_steps) - np.eye(num_steps, k=-1)
    best = np.linalg.solve(moves.T @ moves + aversion * np.eye(num_steps), aversion * np.full(num_steps, goal))
    assert np.allclose(found, best, rtol=1e-3)


def path_of(equity: list[float]) -> Path:
    books = torch.tensor(equity, dtype=torch.float64)[:, None]
    return Path(books, torch.zeros(len(equity) - 1, 1), torch.zeros(len(equity) - 1, 1))


def test_utilities_are_what_their_names_say() -> None:
    ret = np.array([0.1, -0.05, 0.02, 0.0])
    path = path_of(np.concatenate(([1.0], np.cumprod(1.0 + ret))).tolist())
    assert utility_loss(path, "mean_variance", 3.0).item() == pytest.approx(-(ret.mean() - 1.5 * ret.var()))
    assert utility_loss(path, "log", 0.0).item() == pytest.approx(-np.log1p(ret).mean())
    assert utility_loss(path, "sharpe", 0.0).item() == pytest.approx(-ret.mean() / ret.std(), rel=1e-6)
    assert utility_loss(path, "cvar", 2.0).item() == pytest.approx(-(ret.mean() + 2.0 * -0.05))


@pytest.mark.parametrize("kind", ["mean_variance", "log", "sharpe", "cvar"])
@pytest.mark.parametrize("last", [-0.2, 0.0])
def test_a_ruined_account_leaves_every_loss_and_gradient_finite(kind: str, last: float) -> None:
    path = path_of([1.0, 0.5, last, last])
    path.equity.requires_grad_()
    loss = utility_loss(path, kind, 1.0)  # type: ignore[arg-type]
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(path.equity.grad).all()
    if kind == "log":
        assert loss.item() == pytest.approx(-np.log(1e-3) / 3)


def test_what_is_no_utility_is_refused(world: Any) -> None:
    with pytest.raises(ConfigError, match="aversion"):
        utility_loss(path_of([1.0, 1.0]), "log", -1.0)
    with pytest.raises(ConfigError, match="mean_variance"):
        utility_loss(path_of([1.0, 1.0]), "hope", 1.0)  # type: ignore[arg-type]
    with pytest.raises(ContractError, match="reset"):
        twin_of(world, world.flat(5), 1).reset(np.array([4]), np.zeros((1, 1), np.int64), np.zeros(1, np.int64))


def test_no_bar_is_played_twice_at_the_end_of_the_market(world: Any) -> None:
    twin = twin_of(world, world.flat(5), 1)
    assert len(run_path(twin, torch.full((4, 1, 1), 0.5)).equity) == 5
    with pytest.raises(ContractError, match="an account stands on bar 4, the last"):
        twin.step(torch.full((1, 1), 0.5))
