"""Accounts before whole bars: their quick loops give what the whole step gives, bit for bit, and ledgers may be streamed."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.simulation import kernels
from plusultra_core.simulation.engine import Environment, choose_form
from plusultra_core.simulation.kernels import FULL, SPARE, USUAL
from plusultra_core.simulation.records import empty_step

STEPS = 30
LATE = ((50.0,), (0.0, 4e7), (50.0, 250.0, 6e7), (0.0, 50.0, 1e7, 8.6e7), (1.0, 2.0, 3.0, 4.0, 5.0), (50.0, 1.3e8))
"""Latencies of which some may arrive after the bar; five are more than the loops know."""

executions = st.fixed_dictionaries(
    {
        "latency_ms": st.sampled_from(LATE),
        "time_in_force": st.sampled_from(["bar", "day", "gtc", "ioc"]),
        "participation": st.sampled_from([1e-4, 0.01, 1.0]),
        "max_leverage": st.sampled_from([1.0, 5.0]),
        "maintenance_margin": st.sampled_from([0.0, 0.15]),
        "min_order_ccy": st.sampled_from([1e-3, 5_000.0]),
        "retarget_frac": st.sampled_from([0.0, 0.3]),
    }
)
rulebooks = st.fixed_dictionaries(
    {
        "max_weight": st.sampled_from([0.5, 10.0]),
        "max_gross": st.sampled_from([0.4, 10.0]),
        "max_net": st.sampled_from([0.3, 10.0]),
        "max_participation": st.sampled_from([0.001, 0.01, 1e9]),
        "reduce_drawdown": st.sampled_from([0.03, 1.0]),
        "resume_drawdown": st.just(0.02),
        "halt_drawdown": st.sampled_from([0.1, 1.0]),
    }
).filter(lambda book: book["reduce_drawdown"] <= book["halt_drawdown"])
DAYS = {"all alike": (1.0,), "weekends": (1.0, 1.0, 1.0, 3.0), "short and long": (0.2, 0.3, 1.0, 2.0)}
"""From bar to bar: where a short one comes before a long one, orders are on their way from one to the other."""


def paired(
    world: Any, num_accounts: int, market: Any, rulebook: dict[str, Any], costs: dict[str, Any], **changes: Any
) -> list[Environment]:  # fmt: skip
    """Accounts on one bar, the same with one more in their tile that stands elsewhere, and these by the whole step."""
    made = []
    for more in (0, 1, 1):
        env = make(world, num_accounts + more, market, rulebook, costs, **changes)
        rows = np.arange(num_accounts + more)
        env.reset(rows, np.where(rows < num_accounts, 1, 0), np.zeros((rows.size, 1), np.int64), rows)
        made.append(env)
    made[2]._form = FULL  # nothing is left out
    return made


def make(world: Any, num_accounts: int, market: Any, rulebook: dict[str, Any], costs: dict[str, Any], **changes: Any) -> Environment:
    """Accounts that trade under what is asked for, with latencies that are equally likely."""
    names = changes["latency_ms"]
    cfg, lent = world.bent(replace(world.costly, **costs), **changes, latency_prob=tuple(np.full(len(names), 1.0 / len(names))))
    return Environment(market, num_accounts, 1, NS_PER_DAY, cfg, lent, replace(world.wide, **rulebook))


def asked(rng: np.random.Generator, num_accounts: int, size: float, holds: float, wild: float) -> np.ndarray:
    """Requests, some of which ask for nothing, for little, or for what no rulebook allows."""
    request = rng.uniform(-size, size, (STEPS, num_accounts, 1))
    request[rng.random(request.shape) < holds] = np.nan
    request[rng.random(request.shape) < wild] = rng.choice([np.inf, -np.inf, 50.0, 0.0])
    return request


def assert_same(one: Environment, other: Environment, num_accounts: int) -> None:
    """The first accounts of both are the same."""
    for name, expected in other.accounts._asdict().items():
        assert np.array_equal(getattr(one.accounts, name)[:num_accounts], expected[:num_accounts], equal_nan=True), name


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_accounts=st.sampled_from([1, 8, 13, 63]),
    gaps=st.sampled_from([0.0, 0.0, 0.1]),
    size=st.sampled_from([0.3, 0.9, 4.0]),
    holds=st.sampled_from([0.0, 0.02, 0.3]),
    wild=st.sampled_from([0.0, 0.0, 0.01]),
    changes=executions,
    rulebook=st.one_of(st.just({}), rulebooks),
    costs=st.sampled_from([{}, {"funding": False, "borrow_bps_year": 0.0}, {"impact_coef": 30.0}, {"impact_coef": 0.0}]),
    days=st.sampled_from(list(DAYS.values())),
)
def test_accounts_on_one_bar_are_those_of_the_whole_step_bit_for_bit(
    world: Any, seed: int, num_accounts: int, gaps: float, size: float, holds: float, wild: float, changes: dict[str, Any],
    rulebook: dict[str, Any], costs: dict[str, Any], days: tuple[float, ...],
) -> None:  # fmt: skip
    market = world.market(STEPS + 2, 1, seed=seed, gaps=gaps, half_spread_bps=4.0)
    steps_ns = np.random.default_rng(seed).choice(days, STEPS + 2) * NS_PER_DAY
    market = market._replace(ts_ns=np.cumsum(steps_ns.astype(np.int64)), session_end=np.arange(STEPS + 2) % 3 == 0)
    request = asked(np.random.default_rng(seed), num_accounts, size, holds, wild)
    more = np.concatenate((request, request[:, :1]), axis=1)
    told, apart, full = paired(world, num_accounts, market, rulebook, costs, **changes)
    silent, quiet, _ = paired(world, num_accounts, market, rulebook, costs, **changes)
    assert choose_form(told._world, told.rules, 1) in (USUAL, SPARE)
    outs = [empty_step(request.shape), empty_step(more.shape), empty_step(more.shape)]
    books = [np.zeros((*x.shape[:2], 4)) for x in (request, more, more)]
    told.run(request, outs[0], books[0])
    apart.run(more, outs[1], books[1])
    full.run(more, outs[2], books[2])
    silent.run(request, None, None)
    quiet.run(more, None, None)
    for name in outs[0]._fields:
        one, other, expected = (getattr(out, name) for out in outs)
        assert np.array_equal(one, expected[:, :num_accounts], equal_nan=True), name
        assert np.array_equal(other, expected, equal_nan=True), name
    assert np.array_equal(books[0], books[2][:, :num_accounts])
    assert np.array_equal(books[1], books[2])
    assert_same(told, full, num_accounts)
    assert_same(silent, full, num_accounts)
    assert_same(apart, full, num_accounts + 1)
    assert_same(quiet, full, num_accounts + 1)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_accounts=st.sampled_from([2, 8, 13, 64, 71]),
    gaps=st.sampled_from([0.0, 0.0, 0.02]),
    size=st.sampled_from([0.3, 0.9, 4.0]),
    holds=st.sampled_from([0.0, 0.3]),
    changes=executions,
    rulebook=st.one_of(st.just({}), rulebooks),
    costs=st.sampled_from([{}, {"funding": False, "borrow_bps_year": 0.0}, {"impact_coef": 30.0}]),
    days=st.sampled_from(list(DAYS.values())),
)
def test_accounts_each_at_its_own_bar_and_asset_are_those_of_the_whole_step_bit_for_bit(
    world: Any, seed: int, num_accounts: int, gaps: float, size: float, holds: float, changes: dict[str, Any], rulebook: dict[str, Any],
    costs: dict[str, Any], days: tuple[float, ...],
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    market = world.market(STEPS + 20, 5, seed=seed, gaps=gaps, half_spread_bps=4.0)
    steps_ns = rng.choice(days, STEPS + 20) * NS_PER_DAY
    market = market._replace(ts_ns=np.cumsum(steps_ns.astype(np.int64)), session_end=np.arange(STEPS + 20) % 3 == 0)
    request, rows = asked(rng, num_accounts, size, holds, 0.0), np.arange(num_accounts)
    t, asset = rng.integers(0, 18, num_accounts), rng.integers(0, 5, (num_accounts, 1))
    made = [make(world, num_accounts, market, rulebook, costs, **changes) for _ in range(4)]
    made[0]._form = FULL
    for env in made:
        env.reset(rows, t, asset, rows)
    outs, books = [empty_step(request.shape) for _ in range(2)], [np.zeros((STEPS, num_accounts, 4)) for _ in range(3)]
    made[0].run(request, outs[0], books[0])
    made[1].run(request, outs[1], books[1])
    made[2].run(request, None, books[2])
    for step in request:
        made[3].advance(step)
    for name, expected in outs[0]._asdict().items():
        assert np.array_equal(getattr(outs[1], name), expected, equal_nan=True), name
    for env, found in zip(made[1:], (books[1], books[2], books[0]), strict=True):
        assert np.array_equal(found, books[0])
        assert_same(env, made[0], num_accounts)


@pytest.mark.parametrize(("maintenance_margin", "impact_coef"), [(0.15, 10.0), (0.0, 30.0)])
def test_accounts_beside_one_that_is_ruined_stay_what_they_are(world: Any, maintenance_margin: float, impact_coef: float) -> None:
    market = world.market(STEPS + 2, 1, seed=0, half_spread_bps=4.0)
    request = asked(np.random.default_rng(0), 63, 4.0, 0.0, 0.0)
    changes = {"latency_ms": LATE[0], "max_leverage": 5.0, "maintenance_margin": maintenance_margin}
    silent, _, apart = paired(world, 63, market, {}, {"impact_coef": impact_coef}, **changes)
    books = np.zeros((STEPS, 63, 4))
    silent.run(request, None, books)
    apart.run(np.concatenate((request, request[:, :1]), axis=1), None, None)
    assert_same(silent, apart, 63)
    assert silent.accounts.done_E.any()
    assert np.array_equal(books[-1, silent.accounts.done_E, 0], books[-1, silent.accounts.done_E, 1])


def test_an_order_that_waited_over_a_weekend_meets_the_open(world: Any) -> None:
    """It arrived before the bar began, and may not be replaced at a decision before it has."""
    market = world.market(12, 1, seed=3)
    market = market._replace(ts_ns=market.ts_ns + (np.arange(12) >= 6) * 3 * NS_PER_DAY)
    told, *_ = paired(world, 2, market, {}, {}, latency_ms=(1.2 * 86_400_000.0,), retarget_frac=0.0)
    out = empty_step((10, 2, 1))
    told.run(np.full((10, 2, 1), 0.5), out, None)
    step, price = 4, market.open[6, 0]  # from bar 5 to bar 6, which begins two days after the order has arrived
    filled = out.fill[step, 0, 0]
    assert filled > 0.0
    assert out.price[step, 0, 0] == pytest.approx(price * (1 + 0.02 * np.sqrt(filled * price / 5e7)))


@pytest.mark.parametrize("num_accounts", [128, 129, 192])
def test_a_ledger_that_is_streamed_is_the_one_that_is_stored(world: Any, num_accounts: int) -> None:
    num_steps = kernels.FAR // (18 * 128) + 2
    market = world.market(num_steps + 2, 1, seed=5, half_spread_bps=4.0)
    request = np.random.default_rng(1).uniform(-0.5, 0.5, (num_steps, num_accounts, 1))
    whole, parts = empty_step(request.shape), empty_step(request.shape)
    books = [np.zeros((num_steps, num_accounts, 4)) for _ in range(2)]
    changes = {"latency_ms": LATE[2], "participation": 0.01}
    one, other = (paired(world, num_accounts, market, {}, {}, **changes)[0] for _ in range(2))
    assert 18 * whole.fill.size > kernels.FAR
    one.run(request, whole, books[0])
    for first in range(0, num_steps, 20):
        rows = slice(first, first + 20)
        other.run(request[rows], type(parts)._make(column[rows] for column in parts), books[1][rows])
    for name in whole._fields:
        assert np.array_equal(getattr(whole, name), getattr(parts, name)), name
    assert np.array_equal(*books)
    assert np.count_nonzero(whole.fill) > num_steps


def test_columns_begin_with_a_line() -> None:
    for name, column in empty_step((3, 5, 1))._asdict().items():
        assert column.ctypes.data % 64 == 0, name
        assert not column.any(), name
