"""What an order may be, and what may happen to what it bought: time in force, fees, lasting impact, lots, dividends, delisting."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.errors import ContractError
from plusultra_core.simulation.engine import open_account
from plusultra_core.simulation.market import check_market, plain_terms, with_delisting, with_terms
from plusultra_core.simulation.records import (
    CANCELLED,
    CAPACITY,
    CARRIED,
    DELISTED,
    EXPIRED,
    FILLED,
    NO_PRICE,
    NOT_TRADED_THROUGH,
    PARTIAL,
    REJECTED,
    MarketArrays,
)

NAN = float("nan")


def hourly(market: MarketArrays) -> MarketArrays:
    """The same bars, six a day."""
    ts_ns = np.arange(market.ts_ns.size) * NS_PER_DAY // 6
    return market._replace(ts_ns=ts_ns, **plain_terms(ts_ns, market.close.shape[1]))


def test_an_order_of_the_day_works_until_its_session_ends(world: Any) -> None:
    market = hourly(world.flat(16, volume=100.0))
    ledger = world.run(market, [[NAN], [NAN], [0.5], *[[NAN]] * 12], time_in_force="day")
    steps = ledger.steps
    assert steps.fill[:, 0].tolist() == [0, 0, 100, 100, 100, 100, *[0] * 9]
    assert steps.status[2:6, 0].tolist() == [CARRIED, CARRIED, CARRIED, PARTIAL]
    assert steps.reason[2:6, 0].tolist() == [CAPACITY, CAPACITY, CAPACITY, EXPIRED]
    orders = ledger.orders()
    assert (orders["status"].tolist(), orders["reason"].tolist(), orders["qty_filled"].tolist()) == ([PARTIAL], [EXPIRED], [400.0])


def test_an_order_of_the_day_that_got_nothing_in_its_last_bar_is_still_partial(world: Any) -> None:
    market = hourly(world.flat(16, volume=100.0))
    market.volume[6] = 0.0
    assert world.run(market, [[NAN], [NAN], [0.5], *[[NAN]] * 12], time_in_force="day").orders()["status"].tolist() == [PARTIAL]


def test_immediate_or_cancel_takes_what_there_is_and_never_rests(world: Any) -> None:
    market = world.flat(6, volume=1000.0)
    taken = world.run(market, [[0.25], *[[NAN]] * 4], time_in_force="ioc").orders()
    assert (taken["status"].tolist(), taken["qty_filled"].tolist()) == ([PARTIAL], [1000.0])
    market.low[:] = 90.0
    refused = world.run(market, [[0.05], *[[NAN]] * 4], time_in_force="ioc", order_type="limit", limit_offset_bps=10.0).orders()
    assert (refused["status"].tolist(), refused["reason"].tolist()) == ([CANCELLED], [NOT_TRADED_THROUGH])
    market.open[1] = 99.0
    passed = world.run(market, [[0.05], *[[NAN]] * 4], time_in_force="ioc", order_type="limit", limit_offset_bps=10.0).orders()
    assert (passed["status"].tolist(), passed["price"].tolist()) == ([FILLED], [99.0])


def test_who_rests_pays_the_makers_fee_and_a_rebate_has_no_minimum(world: Any) -> None:
    market = world.flat(4)
    market.low[:] = 90.0
    costs = replace(world.free, fee_bps=10.0, fee_min_ccy=700.0)
    resting = {"order_type": "limit", "limit_offset_bps": 10.0, "costs": costs}
    fees = [world.run(market, [[0.5], [NAN], [NAN]], maker_fee_factor=x, **resting).steps.fees[0, 0] for x in (1.0, 0.5, -0.2)]
    notional = 5000.0 * 99.9
    assert fees == pytest.approx([700.0, 700.0, -0.2e-3 * notional])
    assert world.run(market, [[0.9], [NAN], [NAN]], costs=costs, maker_fee_factor=0.0).steps.fees[0, 0] == pytest.approx(900.0)


def test_a_push_that_lasts_is_paid_by_later_fills_and_given_back_by_the_way_out(world: Any) -> None:
    market = world.flat(8)
    push = 0.02 * 0.25e6 / 5e7
    costs = {"permanent_coef": 1.0}
    ledger = world.run(market, [[0.25], [NAN], [0.5], [NAN], [0.0], [NAN], [NAN]], **costs)
    impact = ledger.steps.impact[:, 0]
    assert impact[0] == pytest.approx(0.25e6 * 0.5 * push, rel=1e-6)
    assert impact[2] == pytest.approx(0.25e6 * 1.5 * push, rel=1e-3)
    assert impact.sum() == pytest.approx(0.0, abs=1e-6)
    fading = world.run(market, [[0.25], [NAN], [0.5], [NAN], [0.0], [NAN], [NAN]], permanent_decay_frac=0.5, **costs).steps.impact[:, 0]
    assert fading[2] == pytest.approx(0.25e6 * (0.25 + 0.5) * push, rel=1e-3)
    assert fading.sum() > 0


def test_dividends_go_to_who_held_at_the_close_before(world: Any) -> None:
    market = world.flat(4)
    market.dividend[2] = 0.5
    long, late, short = (world.run(market, [[a], [b], [NAN]]).equity[-1] - 1e6 for a, b in ((0.5, 0.0), (NAN, 0.5), (-0.5, NAN)))
    assert (long, late, short) == pytest.approx((2500.0, 0.0, -2500.0))


def test_orders_and_fills_are_whole_lots_and_limits_stand_on_ticks(world: Any) -> None:
    market = world.flat(6, price=99.97, volume=1050.0)
    market = market._replace(lot=np.array([100.0]), tick=np.array([0.05]))
    ledger = world.run(market, [[0.25], *[[NAN]] * 4], time_in_force="gtc")
    assert ledger.steps.fill[:, 0].tolist() == [1000.0, 1000.0, 500.0, 0.0, 0.0]
    assert ledger.steps.spread[0, 0] == pytest.approx(1000.0 * 0.025)
    market.low[:], market.high[:] = 95.0, 105.0
    for weight, price in ((0.25, 99.85), (-0.25, 100.1)):
        limited = world.run(market, [[weight], *[[NAN]] * 4], order_type="limit", limit_offset_bps=10.0)
        assert limited.steps.price[0, 0] == pytest.approx(price)


def test_a_multiplier_makes_contracts_of_prices(world: Any) -> None:
    market = with_terms(world.flat(4, price=20.0), np.array([1.0]), np.array([0.25]), np.array([50.0]))
    check_market(market)
    ledger = world.run(market, [[0.5005], [NAN], [NAN]])
    assert ledger.steps.position[0, 0] == 500.0
    assert ledger.steps.spread[0, 0] == pytest.approx(500.0 * 0.125 * 50.0)


@pytest.mark.parametrize("weight", [0.5, -0.5])
def test_a_delisted_asset_is_paid_out_at_its_terminal_return(world: Any, weight: float) -> None:
    market = with_delisting(world.flat(8), np.array([4]), np.array([-0.3]))
    check_market(market)
    ledger = world.run(market, [[weight], *[[NAN]] * 5, [0.5]])
    assert ledger.equity[-1] == pytest.approx(1e6 - 0.3 * weight * 1e6)
    assert ledger.steps.position[:, 0].tolist() == [weight * 1e4] * 3 + [0.0] * 4
    assert (ledger.steps.status[-1, 0], ledger.steps.reason[-1, 0]) == (REJECTED, NO_PRICE)
    assert np.abs(ledger.residual()).max() < 1e-12
    working = world.run(with_delisting(world.flat(8, volume=10.0), np.array([4]), np.zeros(1)), [[0.5], *[[NAN]] * 6], time_in_force="gtc")
    assert (working.orders()["status"][0], working.orders()["reason"][0]) == (PARTIAL, DELISTED)


def test_bars_after_a_delisting_are_refused(world: Any) -> None:
    with pytest.raises(ContractError, match=r"market\.end"):
        check_market(world.flat(8)._replace(end=np.array([4])))


def liquidation_cost(world: Any, schedule: Any, half_spread_bps: float) -> tuple[float, float, float, float]:
    """What it costs to sell X = 1e5 units at 100 by a schedule of quantities; and the coefficients of Almgren and Chriss."""
    num_steps, price, sigma, adv, eta_coef, gamma_coef = len(schedule), 100.0, 0.02, 5e7, 0.3, 0.8
    market = world.flat(num_steps + 3, price=price, half_spread_bps=half_spread_bps)
    costs = replace(world.free, impact_coef=eta_coef, impact_exponent=1.0)
    cfg = replace(world.plain, initial_capital_ccy=1e8, permanent_coef=gamma_coef, min_order_ccy=1e-9)
    env = open_account(market, 0, NS_PER_DAY, cfg, costs, world.wide)
    accounts, held = env.accounts, 1e5
    env.step(np.array([[held * price / 1e8]]))
    accounts.shift_EA[...] = 0.0  # the way in leaves no trace
    before = accounts.equity_E[0]
    for quantity in schedule:
        held -= quantity
        env.step(np.array([[max(held, 0.0) * price / accounts.equity_E[0]]]))
    assert accounts.position_EA[0, 0] == pytest.approx(0.0, abs=1e-6)
    scale = sigma * price * price / adv
    return float(before - accounts.equity_E[0]), eta_coef * scale, gamma_coef * scale, half_spread_bps * 1e-4 * price


def test_equal_slices_cost_what_almgren_and_chriss_say(world: Any) -> None:
    """E = gamma X^2 / 2 + epsilon X + eta X^2 / N. Source: Almgren, Chriss 2001, equation 11; a fill meets half its own push here."""
    x, n = 1e5, 10
    cost, eta, gamma, epsilon = liquidation_cost(world, np.full(n, x / n), 2.0)
    assert cost == pytest.approx(gamma * x * x / 2 + epsilon * x + eta * x * x / n, rel=1e-6)


@pytest.mark.parametrize("urgency", [0.1, 0.6])
def test_the_optimal_schedule_costs_what_almgren_and_chriss_say(world: Any, urgency: float) -> None:
    """Source: equations 18 and 20 of the same, with tau = 1 and kappa = urgency."""
    x, n, k = 1e5, 12, urgency
    place = np.arange(1, n + 1)
    schedule = 2 * np.sinh(k / 2) / np.sinh(k * n) * np.cosh(k * (n - place + 0.5)) * x
    cost, eta, gamma, epsilon = liquidation_cost(world, schedule, 2.0)
    temporary = eta * x * x * np.tanh(k / 2) * (np.sinh(2 * k * n) + 2 * n * np.sinh(k)) / (2 * np.sinh(k * n) ** 2)
    assert cost == pytest.approx(gamma * x * x / 2 + epsilon * x + temporary, rel=1e-6)
