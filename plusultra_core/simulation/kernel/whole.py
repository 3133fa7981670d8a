"""The step of accounts that stand before whole bars: what USUAL does, and less of it.

Each bar has every price, its asset traded at the decision, no order arrives after it; the accounts live, and their numbers are
finite. Then much of the model cannot matter, and is asked for a whole tile at once: whether a request is missing or a limit of the
rulebook is near, whether an order is still on its way from an earlier bar, whether capital could bind. Where one lane says so, the
loop that has everything does the tile again. What is asked is never too little, and may be too much, so that no lane's numbers
depend on its neighbours: they are those of `kernel/single.py`, bit for bit. Accounts on one bar have it in registers; others
(`apart`) have theirs in the tile.
"""

import math

import numpy as np
from numba import njit

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.guardrails.limits import ACTIVE, HALTED, REDUCING, Limits
from plusultra_core.simulation import records as word
from plusultra_core.simulation import tiles as at
from plusultra_core.simulation.costs import Rules
from plusultra_core.simulation.kernel import lanes
from plusultra_core.simulation.kernel.bars import Bar, Law, bar_at
from plusultra_core.simulation.kernel.lanes import Has
from plusultra_core.simulation.kernel.single import tell

_NEAR = 1.0 + 1e-9
"""How near to a bound a lane is looked at again: far beyond what rounding does."""
PART, LEFT = at.BEFORE, at.TAKES
"""Of a tile: the part of the bar that is over when an order arrives; what is left of it after the bar."""


@njit(error_model="numpy", _nrt=False, forceinline=True)
def stand_sound(s: Float64Array, desk: Float64Array, n: int) -> bool:
    """Whether all accounts of a tile live, and have numbers that are numbers."""
    worse = 0
    for i in range(n):
        total = desk[at.EQUITY + i] + desk[at.PEAK + i] + desk[at.CASH + i] + s[at.HELD + i] + s[at.MARK + i] + s[at.WORKING + i]
        total = total + s[at.WEIGHT + i] + s[at.PNL + i]
        worse += (not math.isfinite(total)) | (desk[at.DONE + i] != 0.0) | (not (desk[at.EQUITY + i] > 0.0)) | (not (s[at.MARK + i] > 0.0))
    return worse == 0


@njit(error_model="numpy", _nrt=False, forceinline=True)
def judge(desk: Float64Array, n: int, limits: Limits) -> int:
    """States of the accounts, as `next_state` says them; how many are not active."""
    worse = 0
    for i in range(n):
        old = desk[at.STATE + i]
        fall = 1.0 - desk[at.EQUITY + i] / desk[at.PEAK + i]
        fallen = fall > 0.0
        reducing = (fallen & (fall >= limits.reduce_drawdown)) | ((old == REDUCING) & (fall > limits.resume_drawdown))
        state = float(REDUCING) if reducing else float(ACTIVE)
        halted = (old == HALTED) | (fallen & (fall >= limits.halt_drawdown))
        desk[at.STATE + i] = float(HALTED) if halted else state
        worse += halted | reducing
    return worse


@njit(error_model="numpy", _nrt=False, forceinline=True)
def guard(
    s: Float64Array, asked: Float64Array, desk: Float64Array, n: int, bar: Bar, active: bool, limits: Limits, apart: bool, told: bool
) -> int:  # fmt: skip
    """The rulebook on what is asked; the number of requests that are missing or not finite. `active`: all accounts are."""
    near, odd, tightest = 0, 0, min(limits.max_gross, limits.max_net)
    for i in range(n if active else 0):
        x, weight, most = asked[i], s[at.WEIGHT + i], limits.max_participation * (s[at.ADV + i] if apart else bar.adv)
        base = weight if weight * x > 0.0 else 0.0
        near += (abs(x - base) * desk[at.EQUITY + i] * _NEAR > most) | (abs(x) > min(limits.max_weight, tightest))
        odd += not (abs(x) < np.inf)
        s[at.TARGET + i] = x
    for i in range(0 if active else n):
        x, weight, equity, state = asked[i], s[at.WEIGHT + i], desk[at.EQUITY + i], desk[at.STATE + i]
        most = limits.max_participation * (s[at.ADV + i] if apart else bar.adv)
        reduced = min(max(x, min(weight, 0.0)), max(weight, 0.0))
        target = math.copysign(min(abs(x), limits.max_weight), x)
        base = weight if weight * target > 0.0 else 0.0
        far = abs(target - base) * equity * _NEAR > most
        target = reduced if state == REDUCING else target
        target = x if x == reduced else target
        target = 0.0 if state == HALTED else target
        near += far | (abs(target) > tightest)
        odd += not (abs(x) < np.inf)
        s[at.TARGET + i] = target
    if told | (near > 0) | (odd > 0):
        for i in range(n):
            equity, state, adv = desk[at.EQUITY + i], desk[at.STATE + i], (s[at.ADV + i] if apart else bar.adv)
            target, why = lanes.guard_target(asked[i], s[at.WEIGHT + i], adv, equity, state, True, limits)
            target, why = lanes.fit_book(target, why, limits)
            s[at.TARGET + i] = target
            if told:
                s[at.GUARD + i] = why
                s[at.REQUEST + i] = asked[i]
    return odd


@njit(error_model="numpy", _nrt=False, forceinline=True)
def decide(
    s: Float64Array, w: Int64Array, desk: Float64Array, clock: Int64Array, n: int, common: Bar, law: Law, first_bar: int, rules: Rules,
    odd: bool, apart: bool, told: bool,
) -> int:  # fmt: skip
    """The working orders that follow from the targets; how many are still on their way from an earlier bar.

    `place` of `lanes.py` for a market order of an account that lives. `first_bar`: what the draws call bar 0. `odd`: targets may
    be missing.
    """
    flying = 0
    for i in range(n):
        bar = bar_at(s, desk, clock, i, rules) if apart else common
        held, mark, working, arrival = s[at.HELD + i], s[at.MARK + i], s[at.WORKING + i], w[at.ARRIVAL + i]
        key = at.mix((np.uint64(w[at.KEY + i]) ^ np.uint64(first_bar + bar.t)) + at.GAMMA)
        number = np.float64(key >> at.S11) * at.TO_UNIT
        desired = s[at.TARGET + i] * desk[at.EQUITY + i] / mark - held
        if odd:
            grows = abs(held + working) > abs(held)
            desired = 0.0 if math.isnan(desired) & (desk[at.STATE + i] != ACTIVE) & grows else desired
        large = abs(desired) * mark >= rules.min_order_ccy
        busy = working != 0.0
        differs = abs(desired - working) > rules.retarget_frac * abs(working)
        new = (differs if busy & (desired * working > 0.0) else busy | large) & ((arrival <= bar.now) | (not busy))
        if odd:
            new = new & (not math.isnan(desired))
        fresh = new & large
        flying += busy & (arrival > bar.start)
        late, part = law.ns_0, law.part_0
        late, part = (law.ns_1 if number >= law.bound_1 else late), (law.part_1 if number >= law.bound_1 else part)
        late, part = (law.ns_2 if number >= law.bound_2 else late), (law.part_2 if number >= law.bound_2 else part)
        late, part = (law.ns_3 if number >= law.bound_3 else late), (law.part_3 if number >= law.bound_3 else part)
        lands = bar.now + late
        if apart:
            part = max(np.float64(lands - bar.start), 0.0) / np.float64(bar.after - bar.start)
        s[at.WORKING + i] = (desired if large else 0.0) if new else working
        w[at.ARRIVAL + i] = lands if fresh else arrival
        w[at.DECISION + i] = (np.int64(bar.t) if large else np.int64(-1)) if new else w[at.DECISION + i]
        if told:
            w[at.LATENCY + i] = late
        s[PART + i] = part if fresh else 0.0
    return flying


@njit(error_model="numpy", _nrt=False, forceinline=True)
def tell_orders(
    s: Float64Array, w: Int64Array, desk: Float64Array, clock: Int64Array, n: int, common: Bar, rules: Rules, apart: bool
) -> None:  # fmt: skip
    """What the ledger wants to know of the orders: those that work, and those that are not sent, with the reason."""
    for i in range(n):
        bar = bar_at(s, desk, clock, i, rules) if apart else common
        request, held, mark, working, why = s[at.REQUEST + i], s[at.HELD + i], s[at.MARK + i], s[at.WORKING + i], s[at.GUARD + i]
        wanted = request * desk[at.EQUITY + i] / mark - held
        why = why if abs(wanted) * mark >= rules.min_order_ccy else 0.0
        idle = (working == 0.0) & (not math.isnan(request))
        refused = idle & (why != 0.0)
        small = float(word.TOO_SMALL) if wanted != 0.0 else float(word.NO_ORDER)
        why = why if refused else small
        what = wanted if refused else 0.0
        s[at.ORDER + i] = working if working != 0.0 else what
        s[at.STATUS + i] = float(word.REJECTED) if refused else float(word.NO_ORDER)
        s[at.REASON + i] = why if idle else float(word.NO_ORDER)
        w[at.SENT + i] = np.int64(bar.t) if refused else w[at.DECISION + i]
        w[at.ARRIVED + i] = bar.now if refused else w[at.ARRIVAL + i]


@njit(error_model="numpy", _nrt=False, forceinline=True)
def trade(
    s: Float64Array, w: Int64Array, desk: Float64Array, clock: Int64Array, n: int, common: Bar, flying: bool, rules: Rules, apart: bool,
    told: bool,
) -> None:  # fmt: skip
    """What the working orders meet in the bar, and what of them fills."""
    near, good, of_day = 0, rules.time_in_force == word.GTC, rules.time_in_force == word.DAY
    for i in range(n):
        bar = bar_at(s, desk, clock, i, rules) if apart else common
        cap, stays = rules.participation * bar.volume, good | (of_day & (not bar.over))
        held, working, order = s[at.HELD + i], s[at.WORKING + i], abs(s[at.WORKING + i])
        price = bar.first + (bar.last - bar.first) * s[PART + i]
        short = order > cap
        quantity = cap if short else order
        closing = min(quantity, abs(held)) if held * working < 0.0 else 0.0
        room = rules.max_leverage * desk[at.EQUITY + i] - abs(held) * s[at.MARK + i]
        near += (_NEAR * quantity - 2.0 * closing) * price > room
        filled = math.copysign(quantity, working) if short else working
        filled = filled if quantity > 0.0 else 0.0
        s[at.QUOTE + i] = price
        s[at.FILL + i] = filled
        s[LEFT + i] = working - filled if stays else 0.0
    if told | flying | (near > 0):
        trade_all(s, w, desk, clock, n, common, rules, apart, told)


@njit(error_model="numpy", _nrt=False, forceinline=True)
def trade_all(
    s: Float64Array, w: Int64Array, desk: Float64Array, clock: Int64Array, n: int, common: Bar, rules: Rules, apart: bool, told: bool
) -> None:  # fmt: skip
    """The same with orders on their way and capital that binds; and why an order did not fill."""
    has = Has(False, False, False, True, True, True)
    for i in range(n):
        bar = bar_at(s, desk, clock, i, rules) if apart else common
        held, working, arrival = s[at.HELD + i], s[at.WORKING + i], w[at.ARRIVAL + i]
        price, _, met = lanes.quote(
            working, np.nan, arrival, True, bar.first, bar.low, bar.high, bar.last, bar.spread, 0.0, False, bar.now, bar.after, rules, has
        )
        room = rules.max_leverage * desk[at.EQUITY + i] - abs(held) * s[at.MARK + i]
        filled, left, ended, cause = lanes.fill(held, working, price, met, room, bar.volume, 0.0, bar.over, rules, has)
        mine = working != 0.0
        s[at.QUOTE + i] = price
        s[at.FILL + i] = filled if mine else 0.0
        s[LEFT + i] = left if mine else 0.0
        if told:
            status, sent, arrived = s[at.STATUS + i], w[at.SENT + i], w[at.ARRIVED + i]
            status = ended if mine else status
            s[at.STATUS + i] = status
            s[at.REASON + i] = cause if mine else s[at.REASON + i]
            w[at.SENT + i] = sent if status != 0.0 else np.int64(-1)
            w[at.ARRIVED + i] = arrived if status != 0.0 else np.int64(0)


@njit(error_model="numpy", _nrt=False, forceinline=True)
def book(
    s: Float64Array, w: Int64Array, desk: Float64Array, clock: Int64Array, n: int, common: Bar, rules: Rules, apart: bool, told: bool
) -> int:  # fmt: skip
    """Costs of what was filled, the slot at the close of the bar, the margin, the books; how many accounts are no longer sound."""
    worse = 0
    for i in range(n):
        bar = bar_at(s, desk, clock, i, rules) if apart else common
        new, rate = bar.last, (bar.rate if rules.funding else 0.0)
        lowest, highest = min(bar.low, new), max(bar.high, new)
        cash, old, filled, price = desk[at.CASH + i], s[at.MARK + i], s[at.FILL + i], s[at.QUOTE + i]
        held = s[at.HELD + i] + filled
        quantity = abs(filled)
        notional = quantity * price
        impact = lanes.root_impact(notional, bar.sigma, bar.adv, rules)
        paid = price * (1.0 + math.copysign(1.0, filled) * (bar.spread + impact))
        fee = max(rules.fee_frac * quantity * paid, rules.fee_min_ccy) if quantity > 0.0 else 0.0
        funding = held * new * rate
        borrow = -held * old * rules.borrow_frac_year * bar.years if held < 0.0 else 0.0
        cost_spread, cost_impact, drift = notional * bar.spread, notional * impact, filled * (price - old)
        price_pnl = held * (new - old)
        cash = cash - (filled * paid + fee + funding + borrow)
        worst = lowest if held > 0.0 else highest
        gross = abs(held) * worst
        doomed = (gross != 0.0) & (not (cash + held * worst >= rules.maintenance_margin * gross))
        loss = abs(held) * (abs(new - worst) + rules.liquidation_penalty_frac * worst) if doomed else 0.0
        cash = cash + (held * new - loss) if doomed else cash
        held = 0.0 if doomed else held
        left = 0.0 if doomed else s[LEFT + i]
        fee = fee + loss
        worth = held * new
        equity = cash + worth
        pnl = s[at.PNL + i] + (price_pnl - (cost_spread + cost_impact + drift + fee + funding + borrow))
        desk[at.CASH + i] = cash
        desk[at.EQUITY + i] = equity
        desk[at.PEAK + i] = max(desk[at.PEAK + i], equity)
        desk[at.DONE + i] = 1.0 if doomed else 0.0
        s[at.HELD + i] = held
        s[at.MARK + i] = new
        s[at.WORKING + i] = left
        w[at.DECISION + i] = np.int64(-1) if left == 0.0 else w[at.DECISION + i]
        s[at.WEIGHT + i] = worth / equity if equity > 0.0 else 0.0
        s[at.PNL + i] = pnl
        s[at.PNL_PEAK + i] = max(s[at.PNL_PEAK + i], pnl)
        worse += doomed | (not ((equity > 0.0) & (equity < np.inf)))
        if told:
            status = s[at.STATUS + i]
            s[at.STATUS + i] = float(word.CANCELLED) if doomed & (status == word.CARRIED) else status
            s[at.REASON + i] = float(word.LIQUIDATED) if doomed else s[at.REASON + i]
            paid = paid if quantity > 0.0 else 0.0
            tell(s, i, paid, new, price_pnl, cost_spread, cost_impact, drift, fee, funding, borrow, loss)
    return worse


@njit(error_model="numpy", _nrt=False, forceinline=True)
def step_whole(
    s: Float64Array, w: Int64Array, desk: Float64Array, clock: Int64Array, asked: Float64Array, n: int, bar: Bar, law: Law, first_bar: int,
    rules: Rules, limits: Limits, apart: bool, told: bool,
) -> bool:  # fmt: skip
    """Carry the accounts of a tile over whole bars, in place; whether all are still sound.

    `apart`: the bars lie in the tile, else all stand before `bar`. `told`: write the ledger's columns too.
    """
    active = judge(desk, n, limits) == 0
    odd = guard(s, asked, desk, n, bar, active, limits, apart, told) > 0
    if told:
        flying = decide(s, w, desk, clock, n, bar, law, first_bar, rules, True, apart, True)
        tell_orders(s, w, desk, clock, n, bar, rules, apart)
    elif odd:
        flying = decide(s, w, desk, clock, n, bar, law, first_bar, rules, True, apart, False)
    else:
        flying = decide(s, w, desk, clock, n, bar, law, first_bar, rules, False, apart, False)
    trade(s, w, desk, clock, n, bar, flying > 0, rules, apart, told)
    worse: int = book(s, w, desk, clock, n, bar, rules, apart, told)
    return worse == 0
