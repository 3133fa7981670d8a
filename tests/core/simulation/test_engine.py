"""What a run must give whatever the market: closed forms, time, order, and independence of the batch."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.guardrails.limits import HALTED, REDUCING, STATE_HALTED, STATE_REDUCING
from plusultra_core.simulation.engine import Environment, backtest, open_account
from plusultra_core.simulation.records import CANCELLED, CAPACITY, CARRIED, FILLED, IN_FLIGHT, NO_BAR, PARTIAL, REJECTED, Accounts

NAN = float("nan")


def test_without_costs_the_equity_is_the_closed_form(world: Any) -> None:
    market = world.market(60, 1)
    market = market._replace(open=np.vstack((market.close[:1], market.close[:-1])))  # opens where it closed: no drift
    targets = np.full((59, 1), 0.5)
    ledger = world.run(market, targets, participation=1.0)
    simple = market.close[1:, 0] / market.close[:-1, 0] - 1.0
    assert np.allclose(ledger.equity[1:], 1e6 * np.cumprod(1 + 0.5 * simple), rtol=1e-9)


@pytest.mark.parametrize("weight", [0.3, -0.3])
def test_a_round_trip_at_a_constant_price_costs_exactly_the_costs(world: Any, weight: float) -> None:
    market = world.flat(4, half_spread_bps=3.0)
    costs = replace(world.costly, fee_min_ccy=0.0)
    ledger = world.run(market, [[weight], [NAN], [0.0]], costs=costs)
    quantity = 0.3e6 / 100.0
    impact = 0.02 * np.sqrt(0.3e6 / 5e7)
    slip = 3e-4 + impact
    borrow = 0.3e6 * 0.01 * 3 / 365.25 * 2 / 3 if weight < 0 else 0.0
    fees = 5e-4 * quantity * 100.0 * 2  # the slip of the way in and of the way out cancel in the sum of the prices
    assert ledger.equity[-1] == pytest.approx(1e6 - 2 * 0.3e6 * slip - fees - borrow, rel=1e-12)
    assert ledger.equity[-1] < 1e6


def test_a_short_opened_and_closed_at_a_flat_price_earns_nothing(world: Any) -> None:
    assert world.run(world.flat(4), [[-1.0], [NAN], [0.0]]).equity[-1] == pytest.approx(1e6, rel=1e-12)


def test_no_fill_at_the_decisions_own_price(world: Any) -> None:
    market = world.market(5, 1)
    ledger = world.run(market, [[0.5], [NAN], [NAN], [NAN]])
    assert ledger.steps.price[0, 0] == market.open[1, 0]
    assert ledger.steps.price[0, 0] != market.close[0, 0]


def test_nothing_fills_before_its_latency_and_a_late_order_meets_a_later_bar(world: Any) -> None:
    days = 2.5
    market = world.market(8, 1)
    ledger = world.run(market, [[0.5], *[[NAN]] * 6], latency_ms=(days * 86_400_000,))
    steps = ledger.steps
    assert steps.status[:3, 0].tolist() == [CARRIED, CARRIED, FILLED]
    assert steps.reason[:2, 0].tolist() == [IN_FLIGHT, IN_FLIGHT]
    orders = ledger.orders()
    assert orders["arrival_ns"][0] == days * NS_PER_DAY
    assert orders["fill_ns"][0] == 3 * NS_PER_DAY
    assert steps.price[2, 0] == pytest.approx((market.open[3, 0] + market.close[3, 0]) / 2)


def test_decisions_every_bar_do_not_starve_an_order_that_is_longer_in_flight(world: Any) -> None:
    ledger = world.run(world.market(12, 1), np.full((11, 1), 0.5), latency_ms=(2.5 * 86_400_000,))
    assert np.count_nonzero(ledger.steps.fill) >= 3


def test_a_leftover_is_carried_until_filled_or_cancelled_by_its_time_in_force(world: Any) -> None:
    market = world.flat(8, volume=1000.0)
    once = [[0.25], *[[NAN]] * 6]  # 2500 units against 1000 a bar
    carried = world.run(market, once, time_in_force="gtc")
    assert carried.steps.fill[:4, 0].tolist() == [1000.0, 1000.0, 500.0, 0.0]
    assert carried.steps.status[:4, 0].tolist() == [CARRIED, CARRIED, FILLED, 0]
    assert carried.steps.reason[0, 0] == CAPACITY
    orders = carried.orders()
    assert (orders["qty_ordered"][0], orders["qty_filled"][0], orders["num_bars"][0]) == (2500.0, 2500.0, 3)
    cancelled = world.run(market, once, time_in_force="bar")
    assert cancelled.steps.fill[:3, 0].tolist() == [1000.0, 0.0, 0.0]
    assert cancelled.orders()["status"].tolist() == [PARTIAL]


def test_a_halted_bar_fills_nothing_and_the_position_is_marked_at_the_last_close(world: Any) -> None:
    market = world.market(6, 1)
    for array in (market.open, market.high, market.low, market.close):
        array[2:4] = np.nan
    market.tradable[2:4] = False
    market.volume[2:4] = 0.0
    ledger = world.run(market, [[0.5], [0.0], [NAN], [NAN], [NAN]], time_in_force="gtc")
    steps = ledger.steps
    assert steps.fill[1:3, 0].tolist() == [0.0, 0.0]
    assert steps.reason[1:3, 0].tolist() == [NO_BAR, NO_BAR]
    assert steps.mark[1, 0] == market.close[1, 0]
    assert ledger.equity[1] == ledger.equity[2] == ledger.equity[3]
    assert steps.position[3, 0] == 0.0
    assert world.run(market, [[0.5], [0.0], [NAN], [NAN], [NAN]]).orders()["status"].tolist() == [FILLED, CANCELLED]


def test_an_asset_without_a_price_is_not_ordered(world: Any) -> None:
    market = world.market(5, 2)
    for array in (market.open, market.high, market.low, market.close):
        array[:2, 1] = np.nan
    market.tradable[:2, 1] = False
    market.volume[:2, 1] = 0.0
    ledger = world.run(market, np.full((4, 2), 0.2))
    assert ledger.steps.status[:2, 1].tolist() == [REJECTED, REJECTED]
    assert ledger.steps.fill[:2, 1].tolist() == [0.0, 0.0]
    assert ledger.steps.fill[2, 1] != 0.0


@pytest.mark.parametrize(("name", "factor"), [("volume", 0.5), ("adv_ccy", 0.1), ("sigma", 3.0)])
def test_costs_grow_when_liquidity_falls_or_volatility_rises(world: Any, name: str, factor: float) -> None:
    market = world.flat(4, volume=4000.0)
    worse = market._replace(**{name: getattr(market, name) * factor})
    plain, hard = (world.run(m, [[0.3], [NAN], [NAN]], costs=world.costly) for m in (market, worse))
    assert np.abs(hard.steps.fill).sum() <= np.abs(plain.steps.fill).sum()
    per_unit = [x.steps.impact.sum() / np.abs(x.steps.fill).sum() for x in (plain, hard)]
    assert per_unit[1] > per_unit[0] or np.abs(hard.steps.fill).sum() < np.abs(plain.steps.fill).sum()


def test_a_tiny_order_pays_less_impact_per_unit_than_a_large_one(world: Any) -> None:
    prices = [world.run(world.flat(3), [[w], [NAN]], costs=world.costly).steps.price[0, 0] for w in (1e-4, 1e-2, 1.0)]
    assert 100.0 < prices[0] < prices[1] < prices[2]


def test_funding_is_paid_on_the_position_held_and_borrow_by_shorts_only(world: Any) -> None:
    market = world.flat(3)
    market = market._replace(funding=np.array([[0.0], [0.001], [0.0]]))
    costs = replace(world.free, funding=True, borrow_bps_year=365.25)
    long, short = (world.run(market, [[w], [NAN]], costs=costs) for w in (0.5, -0.5))
    assert long.steps.funding[0, 0] == pytest.approx(500.0)
    assert short.steps.funding[0, 0] == pytest.approx(-500.0)
    assert long.steps.borrow.sum() == 0.0
    assert short.steps.borrow[0, 0] == pytest.approx(0.5e6 * 0.036525 / 365.25)


def test_the_turnover_of_a_full_flip_is_the_sum_of_absolute_changes(world: Any) -> None:
    market = world.market(4, 2)
    market = market._replace(**{n: np.full((4, 2), 100.0) for n in ("open", "high", "low", "close")})
    ledger = world.run(market._replace(volume=np.full((4, 2), 1e9), funding=market.funding * 0), [[0.5, -0.5], [-0.5, 0.5], [NAN, NAN]])
    assert ledger.account()["turnover"].tolist() == pytest.approx([0.0, 1.0, 2.0, 0.0])


def test_leverage_is_capped_at_the_fill(world: Any) -> None:
    market = world.market(30, 3, seed=1)
    ledger = world.run(market, np.full((29, 3), 2.0), max_leverage=1.5, maintenance_margin=0.1)
    opened = ledger.steps.fill[0] * ledger.steps.price[0]
    assert np.abs(opened).sum() <= 1.5e6 * (1 + 1e-9)


def test_a_crash_liquidates_once_with_penalty_and_ends_the_account(world: Any) -> None:
    market = world.flat(6)
    for array in (market.open, market.high, market.low, market.close):
        array[3:] = 82.0
    ledger = world.run(market, np.full((5, 1), 5.0), maintenance_margin=0.05)
    assert ledger.liquidated
    assert ledger.steps.liquidation[2, 0] == pytest.approx(50_000 * 82.0 * 0.005)
    assert ledger.equity[3] == pytest.approx(1e6 - 50_000 * 18.0 - 50_000 * 82.0 * 0.005)
    assert ledger.equity[3] == ledger.equity[-1]
    assert np.all(ledger.steps.position[2:] == 0)
    assert np.abs(ledger.residual()).max() < 1e-12


def test_the_drawdown_states_stop_the_account_in_the_simulator(world: Any) -> None:
    market = world.flat(8)
    for row, price in zip(range(2, 8), (90.0, 90.0, 75.0, 75.0, 120.0, 120.0), strict=True):
        for array in (market.open, market.high, market.low, market.close):
            array[row] = price
    guard = replace(world.wide, reduce_drawdown=0.05, resume_drawdown=0.01, halt_drawdown=0.2)
    ledger = world.run(market, [[0.9], [NAN], [1.0], [1.0], [1.0], [1.0], [1.0]], guard=guard)
    assert ledger.steps.guard[2, 0] == STATE_REDUCING
    assert ledger.steps.fill[2, 0] == 0.0
    assert ledger.steps.guard[4, 0] == STATE_HALTED
    assert ledger.steps.position[4:, 0].tolist() == [0.0, 0.0, 0.0]
    assert ledger.guard_state[-1] == HALTED


def test_an_account_that_may_only_reduce_calls_back_an_order_that_would_grow(world: Any) -> None:
    """7,000 units at 1,000 a bar; the fall of bar 2 leaves a drawdown of 10 %."""
    market = world.flat(8, volume=1000.0)
    for array in (market.open, market.high, market.low, market.close):
        array[2:] = 50.0
    guard = replace(world.wide, reduce_drawdown=0.03, resume_drawdown=0.01, halt_drawdown=0.9)
    held = [[0.7], *[[NAN]] * 6]
    ledger = world.run(market, held, guard=guard, time_in_force="gtc")
    assert ledger.guard_state[2] == REDUCING
    assert ledger.steps.position[:, 0].tolist() == [1000.0, 2000.0, *[2000.0] * 5]
    free = world.run(market, held, time_in_force="gtc")
    assert free.steps.position[-1, 0] > 5000.0
    bought = world.run(market, [[0.1], [NAN], [0.0], *[[NAN]] * 4], guard=guard, time_in_force="gtc", participation=0.5)
    assert bought.steps.position[-1, 0] == 0.0  # what reduces works on


@pytest.mark.parametrize("cut", [5, 17])
def test_the_ledger_up_to_t_does_not_change_when_the_future_does(world: Any, cut: int) -> None:
    market, other = world.market(30, 3, seed=1), world.market(30, 3, seed=99)
    targets = np.random.default_rng(0).normal(0, 0.5, (29, 3))
    guard = replace(world.wide, max_gross=0.8, reduce_drawdown=0.3, resume_drawdown=0.01, halt_drawdown=0.9)
    mixed = market._replace(
        **{n: np.vstack((getattr(market, n)[: cut + 1], getattr(other, n)[cut + 1 :])) for n in ("open", "high", "low", "close", "volume")}
    )
    whole, part = (world.run(m, targets, costs=world.costly, guard=guard) for m in (market, mixed))
    assert np.array_equal(whole.equity[: cut + 1], part.equity[: cut + 1])
    assert np.array_equal(whole.steps.target[: cut + 1], part.steps.target[: cut + 1])
    assert not np.array_equal(whole.equity, part.equity)


def test_an_account_gives_the_same_bytes_in_any_batch(world: Any) -> None:
    market = world.market(40, 4, seed=5, gaps=0.1, half_spread_bps=2.0)
    cfg = replace(world.plain, latency_ms=(1.0, 1e8), latency_prob=(0.5, 0.5), participation=0.05, time_in_force="gtc")
    asset = np.array([[0], [1], [2], [3], [1], [0]])
    stream = np.array([11, 12, 13, 14, 15, 16])
    start = np.array([0, 3, 1, 0, 2, 5])
    request = np.random.default_rng(0).normal(0, 0.4, (20, 6, 1))

    def run(rows: list[int]) -> Accounts:
        env = Environment(market, len(rows), 1, NS_PER_DAY, cfg, world.costly, world.wide)
        env.reset(np.arange(len(rows)), start[rows], asset[rows], stream[rows])
        for t in range(20):
            env.step(request[t, rows])
        return env.accounts

    together = run([0, 1, 2, 3, 4, 5])
    for order in ([5, 3, 1], [0], [4, 2]):
        for name, values in run(order)._asdict().items():
            assert np.array_equal(values, getattr(together, name)[order], equal_nan=True), name


def test_the_environment_and_the_backtest_are_the_same_numbers(world: Any) -> None:
    market = world.market(20, 3, seed=2)
    targets = np.random.default_rng(0).normal(0, 0.3, (19, 3))
    ledger = backtest(market, targets, 0, NS_PER_DAY, world.plain, world.costly, world.wide)
    env = open_account(market, 0, NS_PER_DAY, world.plain, world.costly, world.wide)
    for t in range(19):
        env.step(targets[t : t + 1])
        assert env.accounts.equity_E[0] == ledger.equity[t + 1]


def test_a_reset_forgets_everything(world: Any) -> None:
    market = world.market(20, 1, seed=2)
    env = open_account(market, 0, NS_PER_DAY, world.plain, world.costly, world.wide)
    zero = np.zeros(1, np.int64)
    fresh = [value.copy() for value in env.accounts]
    for _ in range(5):
        env.step(np.full((1, 1), 0.7))
    env.reset(zero, zero, zero[None], zero)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(fresh, env.accounts, strict=True))


def test_the_engine_refuses_what_the_kernel_could_not_survive(world: Any) -> None:
    market = world.market(10, 2)
    with pytest.raises(ContractError, match="targets"):
        world.run(market, np.zeros((10, 2)))
    with pytest.raises(ContractError, match="last is 9"):
        env = open_account(market, 8, NS_PER_DAY, world.plain, world.free, world.wide)
        env.step(np.zeros((1, 2)))
        env.step(np.zeros((1, 2)))
    bad = market._replace(close=np.where(market.close > 0, -1.0, market.close))
    with pytest.raises(ContractError, match=r"market\.close"):
        world.run(bad, np.zeros((9, 2)))
    with pytest.raises(ContractError, match=r"market\.volume"):
        world.run(market._replace(volume=market.volume * np.nan), np.zeros((9, 2)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("latency_prob", (0.5,)),
        ("latency_ms", (-1.0,)),
        ("participation", 0.0),
        ("min_order_ccy", 0.0),
        ("seed", -1),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(world: Any, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name.split("_")[0]):
        replace(world.plain, **{name: value})


def test_costs_of_trading_fall_on_what_is_traded_and_not_on_what_is_held(world: Any) -> None:
    market = world.market(10, 1, half_spread_bps=5.0)
    steps = world.run(market, [[0.5], *[[NAN]] * 8], costs=replace(world.costly, funding=False)).steps
    for name in ("spread", "impact", "fees", "latency_drift"):
        assert getattr(steps, name)[0, 0] != 0.0
        assert not getattr(steps, name)[1:].any()


def test_cash_and_what_is_held_are_the_equity_and_cash_moves_by_what_was_paid(world: Any) -> None:
    market = world.market(40, 3, seed=11, gaps=0.1, half_spread_bps=5.0)
    targets = np.random.default_rng(0).normal(0, 0.4, (39, 3))
    ledger = world.run(market, targets, costs=world.costly)
    steps = ledger.steps
    held = (steps.position * np.nan_to_num(steps.mark)).sum(axis=1)
    assert np.allclose(ledger.cash[1:] + held, ledger.equity[1:], rtol=1e-12)
    paid = (steps.fill * steps.price + steps.fees + steps.funding + steps.borrow).sum(axis=1)
    assert np.allclose(np.diff(ledger.cash), -paid, rtol=0, atol=1e-6)


def test_a_limit_order_rests_on_the_passive_side_and_pays_no_spread(world: Any) -> None:
    market = world.flat(4, half_spread_bps=5.0)
    market.low[2] = 99.0
    ledger = world.run(market, [[0.5], [NAN], [NAN]], costs=world.costly, order_type="limit", limit_offset_bps=50.0, time_in_force="gtc")
    assert ledger.steps.fill[:, 0].tolist() == [0.0, pytest.approx(5000.0), 0.0]
    assert ledger.steps.price[1, 0] == pytest.approx(99.5)
    assert ledger.steps.spread.sum() == ledger.steps.impact.sum() == 0.0
