"""The model of one slot of one account, as plain arithmetic: from the guarded target to the books.

Numbers in, numbers out, no memory and no branch that a vector could not follow. The loops of `kernels.py` call these over the
lanes of a tile. `Has` says what a config and a market have: it is made of constants, so that what they switch off costs nothing.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from plusultra_core.guardrails.kernels import limit_one, next_state
from plusultra_core.guardrails.limits import ACTIVE, HALTED, MAX_GROSS, MAX_NET, NO_EQUITY, REDUCING, STATE_REDUCING, Limits
from plusultra_core.simulation import records as word
from plusultra_core.simulation.costs import MAX_SHIFT, Rules, fill_quantity, in_lots, limit_price, replaces, worst_price


class Has(NamedTuple):
    """What can happen at all."""

    limits: bool
    """Limit orders."""
    terms: bool
    """Lots, ticks, dividends, delisting."""
    push: bool
    """Own impact that lasts."""
    late: bool
    """Latencies other than zero."""
    impact: bool
    carry: bool
    """Funding or borrow."""


@njit(error_model="numpy", _nrt=False, forceinline=True)
def guard_state(equity: float, peak: float, old: float, limits: Limits) -> tuple[float, float, bool]:
    """State of an account after its equity is known, the rule that decides (also where equity is not known), and whether it is."""
    known = math.isfinite(equity) & (equity > 0.0) & math.isfinite(peak)
    state = float(next_state(int(old), equity, peak, limits))
    judged = known | (old == HALTED)
    return (state if judged else old), (state if judged else float(REDUCING)), known


@njit(error_model="numpy", _nrt=False, forceinline=True)
def guard_target(
    request: float, weight: float, adv: float, equity: float, rule: float, known: bool, limits: Limits
) -> tuple[float, float]:  # fmt: skip
    """The rulebook on one slot by itself: target and reason. `adv` < 0: the asset had no bar at the decision."""
    room = limits.max_participation * abs(adv) / equity
    target, reason = limit_one(request, weight, adv > 0.0, room, int(rule), limits)
    return target, float(NO_EQUITY if (reason == STATE_REDUCING) & (not known) else reason)


@njit(error_model="numpy", _nrt=False, forceinline=True)
def fit_book(target: float, guard: float, limits: Limits) -> tuple[float, float]:
    """A book of one slot within gross and net; what is merely held (NaN) stays."""
    over = abs(target) > limits.max_gross * (1.0 + 1e-12)
    target = math.copysign(limits.max_gross, target) if over else target
    guard = float(MAX_GROSS) if over else guard
    over = abs(target) > limits.max_net * (1.0 + 1e-12)
    return (math.copysign(limits.max_net, target) if over else target), (float(MAX_NET) if over else guard)


@njit(error_model="numpy", _nrt=False, forceinline=True)
def place(
    target: float, request: float, guard: float, held: float, mark: float, working: float, limit: float, lot: float, tick: float,
    arrival: int, decision: int, now: int, bar: int, latency: int, equity: float, live: bool, state: float, rules: Rules, has: Has,
) -> tuple[float, float, int, int, bool, float, float]:  # fmt: skip
    """Turn a guarded target into the working order, or say why there is none: order, limit, arrival, decision; refused, why, what."""
    desired = target * equity / mark - held
    if has.terms:
        desired = in_lots(desired, lot)
    desired = desired if live else np.nan
    grows = abs(held + working) > abs(held)  # an account that may only reduce calls back what would still grow
    desired = 0.0 if math.isnan(desired) & (state != ACTIVE) & grows else desired
    sent = (desired != 0.0) & (abs(desired) * mark >= rules.min_order_ccy)
    arrived = (arrival <= now) | (not has.late)
    new = replaces(desired, working, arrived, mark, rules)
    asked = desired if sent else 0.0
    working = asked if new else working
    fresh = new & sent
    decided = bar if sent else -1
    if has.limits:
        limit = limit_price(mark, math.copysign(1.0, desired), tick, rules) if fresh else limit
    request = request if live else np.nan
    priced = mark > 0.0
    wanted = request * equity / mark - held if priced else request
    why = guard if abs(wanted) * mark >= rules.min_order_ccy else 0.0
    why = why if priced | (wanted == 0.0) else float(word.NO_PRICE)
    idle = (working == 0.0) & (not math.isnan(request))
    refused = idle & (why != 0.0)
    small = float(word.TOO_SMALL) if wanted != 0.0 else float(word.NO_ORDER)
    why = why if refused else small
    why = why if idle else float(word.NO_ORDER)
    what = wanted if refused & priced else 0.0
    return working, limit, (now + latency if fresh else arrival), (decided if new else decision), refused, why, what


@njit(error_model="numpy", _nrt=False, forceinline=True)
def quote(
    working: float, limit: float, arrival: int, fresh: bool, first: float, low: float, high: float, last: float, spread: float,
    tick: float, ends: bool, now: int, after: int, rules: Rules, has: Has,
) -> tuple[float, float, float]:  # fmt: skip
    """Price that a working order meets in the bar before costs; half the spread, or -1 where it rests; why it meets none.

    A market order that waits for the bar meets its open; one that arrives within the bar meets the straight line from open to
    close; a bar without an open is met at its close. A limit that the market has passed when it arrives takes like a market
    order; else it rests, and fills at the limit, or at a better open, only where the bar trades through it.
    """
    opened = not math.isnan(first)
    late = 0.0
    line = first
    if has.late:
        start = max(now, after - rules.bar_ns)
        late = max(np.float64(arrival - start), 0.0)
        line = first + (last - first) * (late / np.float64(after - start))
    point = line if opened else last
    price, why = point, float(word.NO_ORDER)
    if has.terms:
        spread = max(spread, 0.5 * tick / point)
    if has.limits:
        side = math.copysign(1.0, working)
        takes = math.isnan(limit) | (fresh & opened & ((limit - point * (1.0 + side * spread)) * side > 0.0))
        extreme = low if side > 0.0 else high
        extreme = extreme if opened else last
        met = takes | (((limit - extreme) * side > 0.0) & (rules.time_in_force != word.IOC))
        better = min(limit * side, first * side) * side
        resting = limit if (late > 0.0) | (not opened) else better
        why = why if met else float(word.NOT_TRADED_THROUGH)
        price = point if takes else resting
        spread = spread if takes else -1.0
    why = float(word.NO_BAR) if math.isnan(last) else why
    if has.late:
        why = float(word.IN_FLIGHT) if arrival > after else why
    if has.terms:
        why = float(word.DELISTED) if ends else why
    return price, spread, why


@njit(error_model="numpy", _nrt=False, forceinline=True)
def fill(
    held: float, working: float, price: float, why: float, room: float, volume: float, lot: float, over: bool, rules: Rules, has: Has
) -> tuple[float, float, float, float]:  # fmt: skip
    """What the bar, the volume and the capital allow of an order: filled, left, status, reason. `over`: its session ends."""
    good, of_day = rules.time_in_force == word.GTC, rules.time_in_force == word.DAY
    quantity, bound = fill_quantity(working, held, price, rules.participation * volume, room, lot if has.terms else 0.0, rules)
    met = why == word.NO_ORDER
    whole = met & (bound == word.NO_ORDER)
    some = math.copysign(quantity, working) if met & (quantity > 0.0) else 0.0
    filled = working if whole else some
    waits = (why == word.IN_FLIGHT) & has.late
    delisted = (why == word.DELISTED) & has.terms
    over = of_day & over
    carried = waits | ((good | (of_day & (not over))) & (not delisted))
    ended = float(word.PARTIAL) if filled != 0.0 else float(word.CANCELLED)
    ended = float(word.CARRIED) if carried else ended
    ended = float(word.FILLED) if whole else ended
    cause = bound if met else why
    cause = float(word.EXPIRED) if over & (not (whole | waits | delisted)) else cause
    return filled, (working - filled if carried & (not whole) else 0.0), ended, cause


@njit(error_model="numpy", _nrt=False, forceinline=True)
def charge(
    filled: float, price: float, spread: float, impact: float, limit: float, mark: float, sigma: float, adv: float, shift: float,
    rules: Rules, has: Has,
) -> tuple[float, float, float, float, float, float]:  # fmt: skip
    """Price and costs of what was filled: spread, impact (own that lasts included), drift since the decision, fees; what lasts."""
    quantity, side = abs(filled), math.copysign(1.0, filled)
    notional = quantity * price
    rate, pushed = rules.fee_frac, 0.0
    if has.limits:
        taken = spread >= 0.0
        spread = spread if taken else 0.0
        within = (limit / price - 1.0) * side - spread
        impact = impact if taken else 0.0
        impact = min(impact, within) if not math.isnan(within) else impact
        rate = rate if taken else rules.maker_fee_frac
    traded = quantity > 0.0
    if has.push:
        push = side * rules.permanent_coef * sigma * (notional / adv)
        push = min(max(push, -MAX_SHIFT - shift), MAX_SHIFT - shift)
        pushed = shift + 0.5 * push
        shift = (shift + push if traded else shift) * (1.0 - rules.permanent_decay_frac)
    paid = price * (1.0 + side * (spread + impact) + pushed)
    fee = rate * quantity * paid
    fee = max(fee, rules.fee_min_ccy) if rate >= 0.0 else fee
    cost_spread = notional * spread if traded else 0.0
    cost_impact = notional * impact + filled * price * pushed if traded else 0.0
    drift = filled * (price - mark) if traded else 0.0
    return (paid if traded else 0.0), cost_spread, cost_impact, drift, (fee if traded else 0.0), shift


@njit(error_model="numpy", _nrt=False, forceinline=True)
def settle(
    held: float, before: float, old: float, close: float, live: bool, rate: float, dividend: float, ends: bool, terminal: float,
    years: float, rules: Rules, has: Has,
) -> tuple[float, float, float, float, bool]:  # fmt: skip
    """Carry a slot to the close of the bar: mark, price result, funding less dividends, borrow; whether it is paid out."""
    new = close if (not math.isnan(close)) & live else old
    paid_out = False
    if has.terms:
        paid_out = ends & live
        new = old * (1.0 + terminal) if paid_out else new
    funding, borrow = 0.0, 0.0
    if has.carry:
        funding = held * new * rate if rules.funding & (held != 0.0) else 0.0
        borrow = -held * old * rules.borrow_frac_year * years if held < 0.0 else 0.0
    if has.terms:
        funding -= before * dividend
    return new, (held * (new - old) if held != 0.0 else 0.0), funding, borrow, paid_out


@njit(error_model="numpy", _nrt=False, forceinline=True)
def root_impact(notional: float, sigma: float, adv: float, rules: Rules) -> float:
    """`impact_frac` with the exponent of one half, which a vector can follow."""
    return min(rules.impact_coef * sigma * math.sqrt(notional / adv), rules.max_impact_frac)


@njit(error_model="numpy", _nrt=False, forceinline=True)
def call_margin(
    cash: float, held: float, mark: float, low: float, high: float, last: float, rules: Rules
) -> tuple[float, float, float, bool]:  # fmt: skip
    """An account of one slot at the worst prices of the bar: cash, position, what a forced close lost, whether there was one."""
    worst = worst_price(held, low, high, last, mark)
    gross = abs(held) * worst if held != 0.0 else 0.0
    worth = cash + (held * worst if held != 0.0 else 0.0)
    doomed = (gross != 0.0) & (not (worth >= rules.maintenance_margin * gross))
    loss = abs(held) * (abs(mark - worst) + rules.liquidation_penalty_frac * worst) if doomed else 0.0
    return (cash + (held * mark - loss) if doomed else cash), (0.0 if doomed else held), loss, doomed
