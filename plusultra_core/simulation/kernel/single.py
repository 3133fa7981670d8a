"""The step of accounts with one slot: five short loops over the lanes of a tile.

Short, because a processor keeps few iterations of a long one in flight: one loop of everything is nearly twice as slow.
"""

import math

import numpy as np
from numba import njit

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.guardrails.limits import Limits
from plusultra_core.simulation import records as word
from plusultra_core.simulation import tiles as at
from plusultra_core.simulation.costs import Rules, dear_price
from plusultra_core.simulation.kernel import lanes
from plusultra_core.simulation.kernel.lanes import Has


@njit(error_model="numpy", _nrt=False, forceinline=True)
def judge(desk: Float64Array, n: int, limits: Limits) -> None:
    """States of the accounts."""
    for i in range(n):
        state, rule, _ = lanes.guard_state(desk[at.EQUITY + i], desk[at.PEAK + i], desk[at.STATE + i], limits)
        desk[at.STATE + i] = state
        desk[at.RULE + i] = rule


@njit(error_model="numpy", _nrt=False, forceinline=True)
def guard(s: Float64Array, desk: Float64Array, n: int, limits: Limits, told: bool) -> None:
    """The rulebook on what is asked."""
    for i in range(n):
        equity, peak = desk[at.EQUITY + i], desk[at.PEAK + i]
        known = math.isfinite(equity) & (equity > 0.0) & math.isfinite(peak)
        target, why = lanes.guard_target(s[at.REQUEST + i], s[at.WEIGHT + i], s[at.ADV + i], equity, desk[at.RULE + i], known, limits)
        target, why = lanes.fit_book(target, why, limits)
        s[at.TARGET + i] = target
        if told:
            s[at.GUARD + i] = why


@njit(error_model="numpy", _nrt=False, forceinline=True)
def decide(
    s: Float64Array, w: Int64Array, desk: Float64Array, clock: Int64Array, n: int, rules: Rules, has: Has, told: bool
) -> None:  # fmt: skip
    """The working order that follows from a target."""
    for i in range(n):
        held, mark, now, bar = s[at.HELD + i], s[at.MARK + i], clock[at.NOW + i], clock[at.BAR + i]
        working, limit, arrival, decision, refused, why, what = lanes.place(
            s[at.TARGET + i], s[at.REQUEST + i], s[at.GUARD + i], held, mark, s[at.WORKING + i], s[at.LIMIT + i], s[at.LOT + i],
            s[at.TICK + i], w[at.ARRIVAL + i], w[at.DECISION + i], now, bar, w[at.LATENCY + i], desk[at.EQUITY + i],
            desk[at.DONE + i] == 0.0, desk[at.STATE + i], rules, has,
        )  # fmt: skip
        s[at.WORKING + i] = working
        w[at.ARRIVAL + i] = arrival
        w[at.DECISION + i] = decision
        if has.limits:
            s[at.LIMIT + i] = limit
        if told:
            s[at.ORDER + i] = working if working != 0.0 else what
            s[at.STATUS + i] = float(word.REJECTED) if refused else float(word.NO_ORDER)
            s[at.REASON + i] = why
            w[at.SENT + i] = bar if refused else decision
            w[at.ARRIVED + i] = now if refused else arrival


@njit(error_model="numpy", _nrt=False, forceinline=True)
def trade(
    s: Float64Array, w: Int64Array, desk: Float64Array, clock: Int64Array, n: int, rules: Rules, has: Has, told: bool, pays: bool
) -> None:  # fmt: skip
    """What the working order meets in the bar, and what of it fills. `pays`: a constant, as `rules` has it."""
    for i in range(n):
        held, working, mark, volume, lot = s[at.HELD + i], s[at.WORKING + i], s[at.MARK + i], s[at.VOLUME + i], s[at.LOT + i]
        arrival, decision, now = w[at.ARRIVAL + i], w[at.DECISION + i], clock[at.NOW + i]
        fresh = (decision == clock[at.BAR + i]) | (arrival > now)
        price, takes, met = lanes.quote(
            working, s[at.LIMIT + i], arrival, fresh, s[at.OPEN + i], s[at.LOW + i], s[at.HIGH + i], s[at.CLOSE + i], s[at.SPREAD + i],
            s[at.TICK + i], s[at.ENDS + i] != 0.0, now, clock[at.NEXT + i], rules, has,
        )  # fmt: skip
        room = rules.max_leverage * desk[at.EQUITY + i] - (abs(held) * mark if held != 0.0 else 0.0)
        dear = price
        if pays:
            cap = rules.participation * volume
            dear = dear_price(working, price, takes, s[at.SIGMA + i], abs(s[at.ADV + i]), s[at.SHIFT + i], cap, rules)
            room -= rules.fee_min_ccy
        filled, left, ended, cause = lanes.fill(held, working, dear, met, room, volume, lot, desk[at.SESSION_END + i] != 0.0, rules, has)
        mine = working != 0.0
        filled = filled if mine else 0.0
        s[at.QUOTE + i] = price
        s[at.FILL + i] = filled
        s[at.WORKING + i] = left if mine else 0.0
        w[at.DECISION + i] = np.int64(-1) if mine & (left == 0.0) else decision
        s[at.TAKES + i] = takes
        if has.impact:
            s[at.IMPACT + i] = lanes.root_impact(abs(filled) * price, s[at.SIGMA + i], abs(s[at.ADV + i]), rules)
        if told:
            status, reason, sent, arrived = s[at.STATUS + i], s[at.REASON + i], w[at.SENT + i], w[at.ARRIVED + i]
            status = ended if mine else status
            s[at.STATUS + i] = status
            s[at.REASON + i] = cause if mine else reason
            w[at.SENT + i] = sent if status != 0.0 else np.int64(-1)
            w[at.ARRIVED + i] = arrived if status != 0.0 else np.int64(0)


@njit(error_model="numpy", _nrt=False, forceinline=True)
def tell(
    s: Float64Array, i: int, price: float, mark: float, pnl: float, spread: float, impact: float, drift: float, fees: float, funding: float,
    borrow: float, loss: float,
) -> None:  # fmt: skip
    """What the ledger wants to know of the books."""
    s[at.PRICE + i] = price
    s[at.SHOWN + i] = mark
    s[at.PRICE_PNL + i] = pnl
    s[at.COST_SPREAD + i] = spread
    s[at.COST_IMPACT + i] = impact
    s[at.COST_DRIFT + i] = drift
    s[at.COST_FEES + i] = fees
    s[at.COST_FUNDING + i] = funding
    s[at.COST_BORROW + i] = borrow
    s[at.LIQUIDATION + i] = loss


@njit(error_model="numpy", _nrt=False, forceinline=True)
def book(s: Float64Array, w: Int64Array, desk: Float64Array, n: int, rules: Rules, has: Has, told: bool) -> None:
    """Costs of what was filled, the slot at the close of the bar, the margin, the books."""
    for i in range(n):
        cash, done, old, adv = desk[at.CASH + i], desk[at.DONE + i], s[at.MARK + i], abs(s[at.ADV + i])
        filled, price, before, high, low, last = (
            s[at.FILL + i],
            s[at.QUOTE + i],
            s[at.HELD + i],
            s[at.HIGH + i],
            s[at.LOW + i],
            s[at.CLOSE + i],
        )
        held = before + filled
        impact = s[at.IMPACT + i] if has.impact else 0.0
        paid, cost_spread, cost_impact, drift, fee, shift = lanes.charge(
            filled, price, s[at.TAKES + i], impact, s[at.LIMIT + i], old, s[at.SIGMA + i], adv, s[at.SHIFT + i], rules, has
        )
        new, price_pnl, funding, borrow, paid_out = lanes.settle(
            held, before, old, last, done == 0.0, s[at.FUNDING + i], s[at.DIVIDEND + i], s[at.ENDS + i] != 0.0, s[at.TERMINAL + i],
            desk[at.YEARS + i], rules, has,
        )  # fmt: skip
        cash = cash - (filled * paid + fee + funding + borrow)
        cash = cash + held * new if paid_out & (held != 0.0) else cash
        held = 0.0 if paid_out else held
        cash, held, loss, doomed = lanes.call_margin(cash, held, new, low, high, last, rules)
        fee = fee + loss
        worth = held * new if held != 0.0 else 0.0
        equity = cash + worth
        pnl = s[at.PNL + i] + (price_pnl - (cost_spread + cost_impact + drift + fee + funding + borrow))
        desk[at.CASH + i] = cash
        desk[at.EQUITY + i] = equity
        desk[at.PEAK + i] = max(desk[at.PEAK + i], equity)
        desk[at.DONE + i] = 1.0 if doomed else done
        s[at.HELD + i] = held
        s[at.MARK + i] = math.nan if paid_out else new
        s[at.WORKING + i] = 0.0 if doomed else s[at.WORKING + i]
        w[at.DECISION + i] = np.int64(-1) if doomed else w[at.DECISION + i]
        s[at.WEIGHT + i] = worth / equity if (held != 0.0) & (equity > 0.0) else 0.0
        s[at.PNL + i] = pnl
        s[at.PNL_PEAK + i] = max(s[at.PNL_PEAK + i], pnl)
        if has.push:
            s[at.SHIFT + i] = shift
        if told:
            status, reason = s[at.STATUS + i], s[at.REASON + i]
            s[at.STATUS + i] = float(word.CANCELLED) if doomed & (status == word.CARRIED) else status
            s[at.REASON + i] = float(word.LIQUIDATED) if doomed else reason
            tell(s, i, paid, new, price_pnl, cost_spread, cost_impact, drift, fee, funding, borrow, loss)


@njit(error_model="numpy", _nrt=False, forceinline=True)
def step_single(
    s: Float64Array, w: Int64Array, desk: Float64Array, clock: Int64Array, n: int, rules: Rules, limits: Limits, has: Has, told: bool
) -> None:  # fmt: skip
    """Carry the accounts of a tile from the close of their bar to that of the next, in place. `told`: write the ledger's columns too."""
    judge(desk, n, limits)
    guard(s, desk, n, limits, told)
    decide(s, w, desk, clock, n, rules, has, told)
    if has.terms and rules.pays:
        trade(s, w, desk, clock, n, rules, has, told, True)
    else:
        trade(s, w, desk, clock, n, rules, has, told, False)
    book(s, w, desk, n, rules, has, told)
