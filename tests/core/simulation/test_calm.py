"""Calm bars: what goes through them without the tile is the whole step and the reference, bit for bit, and nothing goes that must not."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plusultra_core.clock import NS_PER_DAY, NS_PER_MS
from plusultra_core.simulation.engine import Environment, choose_form
from plusultra_core.simulation.kernels import SPARE
from plusultra_core.simulation.records import empty_step

COLUMNS = ("fill", "price", "fees", "position")
STEPS = 28


def paired(world: Any, num_accounts: int, market: Any, rulebook: dict[str, Any], **changes: Any) -> list[Environment]:
    """Two environments that stand side by side on neighbouring assets."""
    costs = replace(world.free, fee_bps=5.0, fee_min_ccy=changes.pop("fee_min_ccy", 1.0))
    cfg, costs = world.bent(costs, **changes)
    made = [Environment(market, num_accounts, 1, NS_PER_DAY, cfg, costs, replace(world.wide, **rulebook)) for _ in range(2)]
    rows = np.arange(num_accounts)
    for env in made:
        assert choose_form(env._world, env.rules, 1) == SPARE
        env.reset(rows, np.full(num_accounts, 1), rows[:, None] + 1, rows)
    return made


def asked(rng: np.random.Generator, num_accounts: int, size: float, holds: float, wild: float) -> np.ndarray:
    """Requests, some of which ask for nothing, for little, or for what no rulebook allows."""
    request = rng.uniform(-size, size, (STEPS, num_accounts, 1))
    request[rng.random(request.shape) < holds] = np.nan
    request[rng.random(request.shape) < wild] = rng.choice([np.inf, 50.0, 0.0])
    return request


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_accounts=st.sampled_from([1, 2, 258]),
    gaps=st.sampled_from([0.0, 0.0, 0.02]),
    size=st.sampled_from([0.3, 0.9, 3.0]),
    holds=st.sampled_from([0.0, 0.3]),
    wild=st.sampled_from([0.0, 0.01]),
    wide=st.sampled_from([1.0, 1.2]),
    uneven=st.booleans(),
    changes=st.fixed_dictionaries(
        {
            "time_in_force": st.sampled_from(["bar", "day", "gtc", "ioc"]),
            "participation": st.sampled_from([0.002, 0.05, 1.0]),
            "max_leverage": st.sampled_from([1.0, 5.0]),
            "maintenance_margin": st.sampled_from([0.0, 0.15]),
            "min_order_ccy": st.sampled_from([1e-3, 5_000.0]),
            "retarget_frac": st.sampled_from([0.0, 0.3]),
            "fee_min_ccy": st.sampled_from([0.0, 100.0]),
        }
    ),
    rulebook=st.fixed_dictionaries(
        {
            "max_weight": st.sampled_from([0.5, 10.0]),
            "max_participation": st.sampled_from([0.01, 1e9]),
            "reduce_drawdown": st.sampled_from([0.03, 1.0]),
            "resume_drawdown": st.just(0.02),
        }
    ),
)
def test_many_bars_in_one_go_are_the_whole_step_bit_for_bit(
    world: Any, seed: int, num_accounts: int, gaps: float, size: float, holds: float, wild: float, wide: float, uneven: bool,
    changes: dict[str, Any], rulebook: dict[str, Any],
) -> None:  # fmt: skip
    market = world.market(30, num_accounts + 1, seed=seed, gaps=gaps, half_spread_bps=4.0)
    market = market._replace(high=market.high * wide, low=market.low / wide)
    spread, volume = np.random.default_rng(seed).uniform((1.0, 0.1), (9.0, 2.0), (*market.close.shape, 2)).T
    if uneven:
        market = market._replace(half_spread_bps=spread.T.copy(), volume=market.volume * volume.T)
    told, calm = paired(world, num_accounts, market, rulebook, **changes)
    request = asked(np.random.default_rng(seed), num_accounts, size, holds, wild)
    whole, some = empty_step(request.shape), empty_step(request.shape, COLUMNS)
    books = [np.zeros((STEPS, num_accounts, 4)) for _ in range(2)]
    told.run(request, whole, books[0])
    calm.run(request, some, books[1])
    for name in COLUMNS:
        assert np.array_equal(getattr(some, name), getattr(whole, name)), name
    assert np.array_equal(*books)
    for name, expected in told.accounts._asdict().items():
        assert np.array_equal(getattr(calm.accounts, name), expected, equal_nan=True), name


@pytest.mark.parametrize("num_accounts", [1, 40])
def test_calm_bars_are_the_reference(world: Any, reference: Any, num_accounts: int) -> None:
    market = world.market(30, num_accounts + 1, seed=3, half_spread_bps=4.0)
    env, _ = paired(world, num_accounts, market, {}, participation=1.0, max_leverage=2.0, min_order_ccy=2_000.0)
    request = asked(np.random.default_rng(5), num_accounts, 0.9, 0.1, 0.0)
    slow = [
        reference.Account(
            market=market, rules=env.rules, limits=env.limits, seed=env.cfg.seed,
            latency_ns=[round(ms * NS_PER_MS) for ms in env.cfg.latency_ms], latency_cumulative=[1.0], capital=1e6, t=1, stream=e,
            assets=[e + 1],
        )
        for e in range(num_accounts)
    ]  # fmt: skip
    some = empty_step(request.shape, COLUMNS)
    env.run(request, some, None)
    rows = [[account.step(row[e].tolist())[0] for row in request] for e, account in enumerate(slow)]
    for name in COLUMNS:
        expected = np.array([[row[name] for row in told] for told in rows]).T
        assert np.allclose(getattr(some, name)[:, :, 0], expected, rtol=1e-9, atol=1e-6), name
    assert np.allclose(env.accounts.equity_E, [account.equity for account in slow], rtol=1e-12)
    assert np.allclose(env.accounts.pnl_peak_EA[:, 0], [account.slots[0].pnl_peak for account in slow], rtol=1e-9, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("num_accounts", "wild"), [(300, 0.001), (1300, 0.0), (1300, 1e-5)])
def test_chunks_and_threads_change_nothing_of_calm_bars(world: Any, threads: int, num_accounts: int, wild: float) -> None:
    market = world.market(30, num_accounts + 1, seed=8, half_spread_bps=4.0)
    request = asked(np.random.default_rng(1), num_accounts, 1.5, 0.1, wild)
    one, _ = paired(world, num_accounts, market, {})
    whole, parts = empty_step(request.shape, COLUMNS), empty_step(request.shape, COLUMNS)
    one.run(request, whole, None)
    cut = Environment(market, num_accounts, 1, NS_PER_DAY, one.cfg, replace(world.free, fee_bps=5.0, fee_min_ccy=1.0), world.wide, threads)
    rows = np.arange(num_accounts)
    cut.reset(rows, np.full(num_accounts, 1), rows[:, None] + 1, rows)
    for first, end in pairwise([0, 1, 2, 11, STEPS]):
        cut.run(request[first:end], type(parts)._make(column[first:end] for column in parts), None)
    for name in COLUMNS:
        assert np.array_equal(getattr(parts, name), getattr(whole, name)), name
    for name, expected in one.accounts._asdict().items():
        assert np.array_equal(getattr(cut.accounts, name), expected, equal_nan=True), name


SWITCHES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "a latency": ({"latency_ms": (50.0,)}, {}, {}),
    "a second latency": ({"latency_ms": (0.0, 50.0), "latency_prob": (0.9, 0.1)}, {}, {}),
    "limit orders": ({"order_type": "limit", "limit_offset_bps": 3.0}, {}, {}),
    "impact that lasts": ({"permanent_coef": 0.1}, {}, {}),
    "impact": ({}, {"impact_coef": 0.1}, {}),
    "borrow": ({}, {"borrow_bps_year": 1.0}, {}),
    "funding": ({}, {"funding": True}, {}),
    "lots": ({}, {}, {"lot": np.ones(2)}),
    "ticks": ({}, {}, {"tick": np.ones(2)}),
    "a dividend": ({}, {}, {"dividend": np.eye(30, 2)}),
    "a delisting": ({}, {}, {"end": np.array([29, 30]), "tradable": np.arange(30)[:, None] < np.array([29, 30])}),
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_whatever_else_can_happen_keeps_the_bars_from_being_calm(world: Any, switch: str) -> None:
    cfg, costs, market = SWITCHES[switch]
    bars = world.market(30, 2)
    plain = Environment(bars, 1, 1, NS_PER_DAY, world.plain, world.free, world.wide)
    more = Environment(
        bars._replace(**market), 1, 1, NS_PER_DAY, replace(world.plain, **cfg), replace(world.free, **costs), world.wide
    )  # fmt: skip
    assert (plain._form == SPARE) & (more._form != SPARE)


def test_rows_are_read_only_where_every_bar_is_there_and_no_depth_is_quoted(world: Any) -> None:
    whole = world.market(30, 3)
    for name, value in (("tradable", False), ("open", np.nan), ("depth", 1e3)):
        array = getattr(whole, name).copy()
        array[4, 1] = value
        bent = whole._replace(**{name: array})
        rows = [Environment(m, 3, 1, NS_PER_DAY, world.plain, world.free, world.wide)._rows.close.size for m in (whole, bent)]
        assert rows == [90, 0], name
