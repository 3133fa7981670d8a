"""What a trade costs and how much of it trades: the rules as scalars, and the formulas of one order, which the kernel inlines."""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from plusultra_core.arrays import Float64Array
from plusultra_core.simulation.records import CAPACITY, CAPITAL, NO_ORDER, NO_VOLUME

MAX_IMPACT_FRAC = 0.5
"""No fill moves the price by more than half of it; a cap that keeps prices positive under stress."""
MAX_SHIFT = 0.2
"""Own trades move the price of later ones by no more than this part; with the caps of impact it keeps prices positive."""


class Rules(NamedTuple):
    """Scalars of execution and cost that the step kernel takes."""

    bar_ns: int
    participation: float
    time_in_force: int
    """One of TIMES_IN_FORCE: how long what is left of an order stays in the market."""
    limit_offset_frac: float
    """Distance of the limit price from the close of the decision; NaN for market orders."""
    min_order_ccy: float
    retarget_frac: float
    max_leverage: float
    maintenance_margin: float
    liquidation_penalty_frac: float
    fee_frac: float
    maker_fee_frac: float
    """Fee of an order that rested; negative is a rebate."""
    fee_min_ccy: float
    impact_coef: float
    impact_exponent: float
    max_impact_frac: float
    permanent_coef: float
    permanent_decay_frac: float
    borrow_frac_year: float
    funding: bool
    pays: bool
    """Whether fills pay their costs out of what they may spend, because nobody lends them."""


@njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
def impact_frac(quantity_ccy: float, sigma: float, adv_ccy: float, rules: Rules) -> float:
    """Y sigma (q / V) ** delta, fraction of price. Source: Toth et al. 2011; exponent and Y are config."""
    if quantity_ccy <= 0.0 or rules.impact_coef == 0.0:
        return 0.0
    share = quantity_ccy / adv_ccy
    raw = rules.impact_coef * sigma * (math.sqrt(share) if rules.impact_exponent == 0.5 else share**rules.impact_exponent)
    return min(raw, rules.max_impact_frac)


@njit(cache=True, error_model="numpy", _nrt=False)
def order_cost_frac(
    quantity_ccy_A: Float64Array,
    sigma_A: Float64Array,
    adv_A: Float64Array,
    half_spread_bps_A: Float64Array,
    rules: Rules,
    cost_A: Float64Array,
) -> None:
    """What market orders are expected to cost, fraction of what they trade, written into cost_A; NaN where a number is."""
    for a in range(cost_A.size):
        quantity = quantity_ccy_A[a]
        fee = max(rules.fee_frac, rules.fee_min_ccy / quantity) if quantity > 0.0 else rules.fee_frac
        cost_A[a] = half_spread_bps_A[a] * 1e-4 + impact_frac(quantity, sigma_A[a], adv_A[a], rules) + fee


@njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
def replaces(desired: float, working: float, arrived: bool, mark: float, rules: Rules) -> bool:
    """Whether `desired` ends the working order. An order in flight is never replaced; nor one that is still right."""
    busy = working != 0.0
    differs = abs(desired - working) > rules.retarget_frac * abs(working)
    asks = differs if busy & (desired * working > 0.0) else busy | (abs(desired) * mark >= rules.min_order_ccy)
    return asks & (not math.isnan(desired)) & (arrived | (not busy))


@njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
def in_lots(quantity: float, lot: float) -> float:
    """The part of a quantity that is whole lots; all of it where there are none."""
    lots = math.copysign(np.floor(abs(quantity) / lot + 1e-9) * lot, quantity)
    return lots if lot > 0.0 else quantity


@njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
def limit_price(mark: float, side: float, tick: float, rules: Rules) -> float:
    """Limit of an order decided at `mark`, on the passive side and on a tick; NaN for market orders."""
    limit = mark * (1.0 - math.copysign(rules.limit_offset_frac, side))
    ticked = side * np.floor(side * limit / tick + 1e-9) * tick
    return ticked if tick > 0.0 else limit


@njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
def fill_quantity(working: float, held: float, price: float, cap: float, room_ccy: float, lot: float, rules: Rules) -> tuple[float, float]:
    """Quantity that trades, unsigned: min(order, cap, what capital allows) in whole lots; and what bound it."""
    order = abs(working)
    short = order > cap
    bound = float(CAPACITY) if cap > 0.0 else float(NO_VOLUME)
    quantity = cap if short else order
    closing = min(quantity, abs(held))
    closing = closing if held * working < 0.0 else 0.0
    opening = max(room_ccy / price + closing, 0.0)
    tight = quantity - closing > opening
    worth = opening if opening * price >= rules.min_order_ccy else 0.0
    quantity = closing + worth if tight else quantity
    reason = bound if short else float(NO_ORDER)
    reason = float(CAPITAL) if tight else reason
    lots = in_lots(quantity, lot)
    return (lots if short | tight else quantity), reason


@njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
def dear_price(
    working: float, price: float, spread: float, sigma: float, adv_ccy: float, shift: float, cap: float, rules: Rules
) -> float:  # fmt: skip
    """What a unit of an order takes of the room at most, with all its costs but the least fee."""
    notional = min(abs(working), cap) * price
    push = min(abs(shift) + 0.5 * rules.permanent_coef * sigma * (notional / adv_ccy), MAX_SHIFT)
    dear: float = price * (1.0 + max(spread, 0.0) + impact_frac(notional, sigma, adv_ccy, rules) + push) * (1.0 + rules.fee_frac)
    return dear


@njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
def worst_price(held: float, low: float, high: float, close: float, mark: float) -> float:
    """The price of the bar that hurts a position most; its mark where there is no bar."""
    worst = min(low, mark) if held > 0.0 else max(high, mark)
    return mark if math.isnan(close) else worst
