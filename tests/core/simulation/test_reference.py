"""The kernel, and its twin on tensors, against the slow engine: every order, fill, reason, cost and state of accounts on random markets."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plusultra_core.arrays import BoolArray
from plusultra_core.clock import NS_PER_DAY, NS_PER_MS
from plusultra_core.simulation.engine import Environment, choose_form
from plusultra_core.simulation.kernels import SPARE, USUAL
from plusultra_core.simulation.market import plain_terms, with_delisting
from plusultra_core.simulation.records import COSTS, MarketArrays
from plusultra_core.simulation.twin.engine import TensorEnvironment
from plusultra_core.simulation.twin.records import Happened

CODES = ("guard", "status", "reason", "decision", "arrival")
NUMBERS = ("target", "order", "fill", "price", "position", "mark", "price_pnl", *COSTS, "liquidation")

STATES = {"held": "position_EA", "mark": "mark_EA", "weight": "weight_EA", "working": "working_EA", "shift": "shift_EA", "pnl": "pnl_EA"}
"""Fields of the accounts on tensors, and what they are called in the kernel's."""

CASH = {
    "account": "cash", "max_leverage": 1.0, "maintenance_margin": 0.0, "liquidation_penalty_bps": 0.0, "shorts": False,
    "reserve_frac": 0.02,
}  # fmt: skip
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


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    gaps=st.sampled_from([0.0, 0.25]),
    size=st.sampled_from([0.2, 3.0]),
    num_slots=st.sampled_from([1, 3]),
    terms=st.fixed_dictionaries({"lot": st.sampled_from([0.0, 100.0]), "tick": st.sampled_from([0.0, 0.05]), "leaves": st.booleans()}),
    execution=executions,
    rulebook=rulebooks,
    cash=st.booleans(),
)
def test_the_kernel_is_the_reference_in_everything(
    world: Any,
    reference: ModuleType,
    seed: int,
    gaps: float,
    size: float,
    num_slots: int,
    terms: dict[str, Any],
    execution: dict[str, Any],
    rulebook: dict[str, Any],
    cash: bool,
) -> None:
    market = bend(world.market(30, num_slots, seed=seed, gaps=gaps, half_spread_bps=4.0), seed, **terms)
    base, lent = (replace(world.costly, borrow_bps_year=0.0, funding=False), CASH) if cash else (world.costly, {})
    cfg, costs = world.bent(base, **{**execution, **lent})
    env = Environment(market, 2, num_slots, NS_PER_DAY, cfg, costs, replace(world.wide, **rulebook))
    assets = np.stack([np.arange(num_slots), np.arange(num_slots)[::-1]])
    env.reset(np.arange(2), np.array([0, 4]), assets, np.array([seed, 5]))
    slow = [twin(reference, env, e) for e in range(2)]
    tensors = TensorEnvironment(market, NS_PER_DAY, cfg, costs, replace(world.wide, **rulebook), dtype=torch.float64)
    tensors.reset(np.array([0, 4]), assets, np.array([seed, 5]))
    rng = np.random.default_rng(seed)
    for _ in range(25):
        request = rng.normal(0, size, (2, num_slots))
        request[rng.random((2, num_slots)) < 0.3] = np.nan
        request[rng.random((2, num_slots)) < 0.02] = np.inf
        request = np.maximum(request, 0.0) if cash else request
        live = ~env.accounts.done_E
        step = env.step(request)
        compare_tensors(env, step, tensors, tensors.step(torch.from_numpy(request)), live)
        for e, account in enumerate(slow):
            rows = account.step(request[e].tolist())
            compare(step, env.accounts, e, account, rows)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    gaps=st.sampled_from([0.0, 0.25]),
    form=st.sampled_from([USUAL, SPARE]),
    force=st.sampled_from(["bar", "day", "gtc", "ioc"]),
    participation=st.sampled_from([1e-4, 0.01, 1.0]),
    rulebook=rulebooks,
)
def test_what_is_compiled_without_all_that_could_happen_is_the_reference_too(
    world: Any, reference: ModuleType, seed: int, gaps: float, form: int, force: Any, participation: float, rulebook: dict[str, Any]
) -> None:
    late = ((0.0, 60_000.0, 1.3e8), (0.4, 0.3, 0.3)) if form == USUAL else ((0.0,), (1.0,))
    cfg, costs = world.bent(
        world.costly if form == USUAL else replace(world.free, fee_bps=5.0, fee_min_ccy=1.0), time_in_force=force,
        participation=participation, latency_ms=late[0], latency_prob=late[1], max_leverage=5.0, maintenance_margin=0.15,
        min_order_ccy=5_000.0,
    )  # fmt: skip
    market = world.market(30, 3, seed=seed, gaps=gaps, half_spread_bps=4.0)
    told, silent = (Environment(market, 9, 1, NS_PER_DAY, cfg, costs, replace(world.wide, **rulebook)) for _ in range(2))
    assert choose_form(told._world, told.rules, 1) == form
    rng = np.random.default_rng(seed)
    start, asset = rng.integers(0, 4, 9), rng.integers(0, 3, (9, 1))
    for env in (told, silent):
        env.reset(np.arange(9), start, asset, np.arange(9))
    slow = [twin(reference, told, e) for e in range(9)]
    for _ in range(25):
        request = rng.normal(0, 2.0, (9, 1))
        request[rng.random((9, 1)) < 0.3] = np.nan
        request[rng.random((9, 1)) < 0.02] = np.inf
        step = told.step(request)
        silent.advance(request)
        for e, account in enumerate(slow):
            compare(step, told.accounts, e, account, account.step(request[e].tolist()))
        for name, expected in told.accounts._asdict().items():
            assert np.array_equal(getattr(silent.accounts, name), expected, equal_nan=True), name


def bend(market: MarketArrays, seed: int, lot: float, tick: float, leaves: bool) -> MarketArrays:
    """The market with gaps in time, jumps through every limit, quotes, dividends, lots, ticks, and an asset that is delisted."""
    rng = np.random.default_rng(seed + 1)
    num_times, num_assets = shape = market.close.shape
    ts_ns = np.cumsum(rng.choice([1, 1, 3], num_times)) * NS_PER_DAY // 2
    jump = np.exp(np.cumsum(rng.normal(0, 0.1, shape) * (rng.random(shape) < 0.1), axis=0))
    moved = {name: getattr(market, name) * jump for name in ("open", "high", "low", "close")}
    dividend = np.where(rng.random(shape) < 0.1, 0.5, 0.0)
    terms = {**plain_terms(ts_ns, num_assets), "lot": np.full(num_assets, lot), "tick": np.full(num_assets, tick), "dividend": dividend}
    quoted = {"half_spread_bps": market.half_spread_bps * rng.uniform(0.0, 3.0, shape), "depth": rng.choice([100.0, 3e3, np.inf], shape)}
    bent = market._replace(ts_ns=ts_ns, **moved, **(terms | quoted))
    return with_delisting(bent, np.array([17, 99, 99])[:num_assets], np.full(num_assets, -0.4)) if leaves else bent


def twin(reference: ModuleType, env: Environment, e: int) -> Any:
    """The slow account that starts where account e stands."""
    accounts, cfg = env.accounts, env.cfg
    return reference.Account(
        market=env.market,
        rules=env.rules,
        limits=env.limits,
        seed=cfg.seed,
        latency_ns=[round(ms * NS_PER_MS) for ms in cfg.latency_ms],
        latency_cumulative=np.cumsum(cfg.latency_prob).tolist(),
        capital=cfg.initial_capital_ccy,
        t=int(accounts.t_E[e]),
        stream=int(accounts.stream_E[e]),
        assets=accounts.asset_EA[e].tolist(),
    )


def compare(step: Any, accounts: Any, e: int, account: Any, rows: list[dict[str, float]]) -> None:
    """One step of one account, in everything."""
    at = f"bar {account.t}"
    if not account.done or any(row["status"] or row["liquidation"] for row in rows):
        for name in CODES:
            assert getattr(step, name)[e].tolist() == [row[name] for row in rows], f"{name}, {at}"
        for name in NUMBERS:
            assert np.allclose(getattr(step, name)[e], [row[name] for row in rows], rtol=1e-9, atol=1e-6, equal_nan=True), f"{name}, {at}"
    slots = account.slots
    assert np.isclose(accounts.equity_E[e], account.equity, rtol=1e-12), at
    assert np.isclose(accounts.cash_E[e], account.cash, rtol=1e-9, atol=1e-5), at
    assert accounts.peak_E[e] >= accounts.equity_E[e]
    assert (accounts.done_E[e], accounts.guard_E[e], accounts.t_E[e]) == (account.done, account.state, account.t), at
    assert np.allclose(accounts.position_EA[e], [s.held for s in slots], rtol=1e-9, atol=1e-9), at
    assert np.allclose(accounts.working_EA[e], [s.order.left if s.order else 0.0 for s in slots], rtol=1e-9, atol=1e-9), at
    assert np.allclose(accounts.shift_EA[e], [s.shift for s in slots], rtol=1e-9, atol=1e-12), at
    assert np.allclose(accounts.pnl_EA[e], [s.pnl for s in slots], rtol=1e-9, atol=1e-5), at
    assert np.allclose(accounts.pnl_peak_EA[e], [s.pnl_peak for s in slots], rtol=1e-9, atol=1e-5), at
    assert np.allclose(accounts.weight_EA[e], [account.weight(s) for s in slots], rtol=1e-9, atol=1e-12), at


def compare_tensors(env: Environment, step: Any, tensors: TensorEnvironment, happened: Happened, live: BoolArray) -> None:
    """One step of every account on tensors, in everything; of accounts that were done before it the books alone."""
    for name in CODES:
        assert np.array_equal(getattr(happened, name).numpy()[live], getattr(step, name)[live]), name
    for name in NUMBERS:
        found, expected = getattr(happened, name).numpy()[live], getattr(step, name)[live]
        assert np.allclose(found, expected, rtol=1e-9, atol=1e-6, equal_nan=True), name
    state, accounts = tensors.accounts, env.accounts
    for name in ("cash", "equity", "peak"):
        assert np.allclose(getattr(state, name).numpy(), getattr(accounts, f"{name}_E"), rtol=1e-11), name
    assert np.array_equal(state.done.numpy(), accounts.done_E)
    assert np.array_equal(state.guard.numpy(), accounts.guard_E)
    assert np.array_equal(state.t.numpy(), accounts.t_E)
    for name, of in STATES.items():
        assert np.allclose(getattr(state, name).numpy(), getattr(accounts, of), rtol=1e-9, atol=1e-4, equal_nan=True), name
