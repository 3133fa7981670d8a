"""The step on tensors against the kernel: every order, fill, reason, cost and state on random markets."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.simulation.engine import Environment
from plusultra_core.simulation.market import plain_terms, with_delisting
from plusultra_core.simulation.records import COSTS, MarketArrays
from plusultra_core.simulation.twin.engine import TensorEnvironment

CODES = ("guard", "status", "reason", "decision", "arrival")
NUMBERS = ("target", "order", "fill", "price", "position", "mark", "price_pnl", *COSTS, "liquidation")
STATES = {"held": "position_EA", "mark": "mark_EA", "weight": "weight_EA", "working": "working_EA", "shift": "shift_EA", "pnl": "pnl_EA"}

executions = st.fixed_dictionaries(
    {
        "time_in_force": st.sampled_from(["bar", "day", "gtc", "ioc"]),
        "order_type": st.sampled_from(["market", "limit"]),
        "limit_offset_bps": st.sampled_from([0.0, 30.0]),
        "maker_fee_factor": st.sampled_from([-0.2, 0.5, 1.0]),
        "permanent_coef": st.sampled_from([0.0, 0.7, 30.0]),
        "permanent_decay_frac": st.sampled_from([0.0, 0.2, 1.0]),
        "participation": st.sampled_from([1e-4, 0.01, 1.0]),
        "latency_ms": st.sampled_from([(0.0, 60_000.0), (250.0, 1.3e8), (4e7, 8.6e7)]),
        "latency_prob": st.just((0.6, 0.4)),
        "retarget_frac": st.sampled_from([0.0, 0.3]),
        "min_order_ccy": st.sampled_from([1e-3, 5_000.0]),
        "max_leverage": st.sampled_from([1.0, 5.0]),
        "maintenance_margin": st.sampled_from([0.02, 0.15]),
    }
)
rulebooks = st.fixed_dictionaries(
    {
        "max_weight": st.sampled_from([0.3, 2.0]),
        "max_gross": st.sampled_from([0.8, 10.0]),
        "max_net": st.sampled_from([0.4, 10.0]),
        "max_participation": st.sampled_from([1e-3, 1e9]),
        "reduce_drawdown": st.sampled_from([0.03, 1.0]),
        "resume_drawdown": st.just(0.02),
        "halt_drawdown": st.sampled_from([0.15, 1.0]),
    }
).filter(lambda book: book["reduce_drawdown"] <= book["halt_drawdown"])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    gaps=st.sampled_from([0.0, 0.25]),
    size=st.sampled_from([0.2, 3.0]),
    num_slots=st.sampled_from([1, 3]),
    terms=st.fixed_dictionaries({"lot": st.sampled_from([0.0, 100.0]), "tick": st.sampled_from([0.0, 0.05]), "leaves": st.booleans()}),
    execution=executions,
    rulebook=rulebooks,
)
def test_the_step_on_tensors_is_the_kernel_in_everything(
    world: Any,
    seed: int,
    gaps: float,
    size: float,
    num_slots: int,
    terms: dict[str, Any],
    execution: dict[str, Any],
    rulebook: dict[str, Any],
) -> None:
    market = bend(world.market(30, num_slots, seed=seed, gaps=gaps, half_spread_bps=4.0), seed, **terms)
    rules = (NS_PER_DAY, replace(world.plain, **execution), world.costly, replace(world.wide, **rulebook))
    env = Environment(market, 2, num_slots, *rules)
    assets, start, streams = np.stack([np.arange(num_slots), np.arange(num_slots)[::-1]]), np.array([0, 4]), np.array([seed, 5])
    env.reset(np.arange(2), start, assets, streams)
    twin = TensorEnvironment(market, *rules, dtype=torch.float64)
    twin.reset(start, assets, streams)
    rng = np.random.default_rng(seed)
    for _ in range(25):
        request = rng.normal(0, size, (2, num_slots))
        request[rng.random((2, num_slots)) < 0.3] = np.nan
        request[rng.random((2, num_slots)) < 0.02] = np.inf
        over = env.accounts.done_E.copy()
        step, happened = env.step(request), twin.step(torch.from_numpy(request))
        compare(env, step, twin, happened, ~over)


def compare(env: Environment, step: Any, twin: TensorEnvironment, happened: Any, live: Any) -> None:
    """One step of every account, in everything; of accounts that were done before it the books alone."""
    for name in CODES:
        assert np.array_equal(getattr(happened, name).numpy()[live], getattr(step, name)[live]), name
    for name in NUMBERS:
        found, expected = getattr(happened, name).numpy()[live], getattr(step, name)[live]
        assert np.allclose(found, expected, rtol=1e-9, atol=1e-6, equal_nan=True), name
    state, accounts = twin.accounts, env.accounts
    for name in ("cash", "equity", "peak"):
        assert np.allclose(getattr(state, name).numpy(), getattr(accounts, f"{name}_E"), rtol=1e-11), name
    assert np.array_equal(state.done.numpy(), accounts.done_E)
    assert np.array_equal(state.guard.numpy(), accounts.guard_E)
    assert np.array_equal(state.t.numpy(), accounts.t_E)
    for name, of in STATES.items():
        assert np.allclose(getattr(state, name).numpy(), getattr(accounts, of), rtol=1e-9, atol=1e-4, equal_nan=True), name


def bend(market: MarketArrays, seed: int, lot: float, tick: float, leaves: bool) -> MarketArrays:
    """The market with gaps in time, jumps, dividends, quoted depth, lots, ticks, and an asset that is delisted."""
    rng = np.random.default_rng(seed + 1)
    num_times, num_assets = shape = market.close.shape
    ts_ns = np.cumsum(rng.choice([1, 1, 3], num_times)) * NS_PER_DAY // 2
    jump = np.exp(np.cumsum(rng.normal(0, 0.1, shape) * (rng.random(shape) < 0.1), axis=0))
    moved = {name: getattr(market, name) * jump for name in ("open", "high", "low", "close")}
    dividend = np.where(rng.random(shape) < 0.1, 0.5, 0.0)
    depth = np.where(rng.random(shape) < 0.3, rng.uniform(0.0, 3_000.0, shape), np.inf)
    terms = {
        **plain_terms(ts_ns, num_assets),
        "lot": np.full(num_assets, lot),
        "tick": np.full(num_assets, tick),
        "dividend": dividend,
        "depth": depth,
    }
    bent = market._replace(ts_ns=ts_ns, **moved, **terms)
    return with_delisting(bent, np.array([17, 99, 99])[:num_assets], np.full(num_assets, -0.4)) if leaves else bent


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
