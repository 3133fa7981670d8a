"""The step of accounts with several slots: loops over the lanes of one slot after the other, since they share money and limits."""

import math

from numba import njit

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.guardrails.limits import MAX_GROSS, MAX_NET, Limits
from plusultra_core.simulation import records as word
from plusultra_core.simulation import tiles as at
from plusultra_core.simulation.costs import Rules, dear_price, impact_frac, worst_price
from plusultra_core.simulation.kernel import lanes
from plusultra_core.simulation.kernel.lanes import Has


@njit(error_model="numpy", _nrt=False, forceinline=True)
def guard_slot(s: Float64Array, desk: Float64Array, n: int, limits: Limits) -> None:
    """The rulebook on one slot by itself."""
    for i in range(n):
        equity = desk[at.EQUITY + i]
        known = math.isfinite(equity) & (equity > 0.0) & math.isfinite(desk[at.PEAK + i])
        target, why = lanes.guard_target(s[at.REQUEST + i], s[at.WEIGHT + i], s[at.ADV + i], equity, desk[at.RULE + i], known, limits)
        s[at.TARGET + i] = target
        s[at.GUARD + i] = why


@njit(error_model="numpy", _nrt=False, forceinline=True)
def scale_book(tile: Float64Array, desk: Float64Array, num_slots: int, n: int, rule: int, limit: float) -> None:
    """Shrink what is asked for until gross or net fit; what is merely held (NaN target) counts and stays."""
    for i in range(n):
        desk[at.GROSS + i] = 0.0
        desk[at.ASKED + i] = 0.0
    for a in range(num_slots):
        s = tile[a * at.NUM_SLOT : (a + 1) * at.NUM_SLOT]
        for i in range(n):
            target = s[at.TARGET + i]
            hold = math.isnan(target)
            value = s[at.WEIGHT + i] if hold else target
            value = abs(value) if rule == MAX_GROSS else value
            desk[at.GROSS + i] += value if hold else 0.0
            desk[at.ASKED + i] += 0.0 if hold else value
    for a in range(num_slots):
        s = tile[a * at.NUM_SLOT : (a + 1) * at.NUM_SLOT]
        for i in range(n):
            held, asked, target = desk[at.GROSS + i], desk[at.ASKED + i], s[at.TARGET + i]
            scale = min(max((math.copysign(limit, held + asked) - held) / asked, 0.0), 1.0)
            cut = abs(held + asked) > limit * (1.0 + 1e-12) and asked != 0.0 and scale < 1.0 and not math.isnan(target) and target != 0.0
            s[at.TARGET + i] = target * scale if cut else target
            s[at.GUARD + i] = float(rule) if cut else s[at.GUARD + i]


@njit(error_model="numpy", _nrt=False, forceinline=True)
def place_orders(s: Float64Array, w: Int64Array, desk: Float64Array, clock: Int64Array, n: int, rules: Rules, has: Has) -> None:
    """Orders of a slot, and the prices that they meet."""
    for i in range(n):
        held, mark, now, bar, limit, tick = (
            s[at.HELD + i],
            s[at.MARK + i],
            clock[at.NOW + i],
            clock[at.BAR + i],
            s[at.LIMIT + i],
            s[at.TICK + i],
        )
        working, limit, arrival, decision, refused, why, what = lanes.place(
            s[at.TARGET + i], s[at.REQUEST + i], s[at.GUARD + i], held, mark, s[at.WORKING + i], limit, s[at.LOT + i], tick,
            w[at.ARRIVAL + i], w[at.DECISION + i], now, bar, w[at.LATENCY + i], desk[at.EQUITY + i], desk[at.DONE + i] == 0.0,
            desk[at.STATE + i], rules, has,
        )  # fmt: skip
        s[at.WORKING + i] = working
        s[at.LIMIT + i] = limit
        w[at.ARRIVAL + i] = arrival
        w[at.DECISION + i] = decision
        s[at.STATUS + i] = float(word.REJECTED) if refused else float(word.NO_ORDER)
        s[at.REASON + i] = why
        s[at.ORDER + i] = what
        w[at.SENT + i] = bar if refused else -1
        w[at.ARRIVED + i] = now if refused else 0
        s[at.BEFORE + i] = held
        s[at.FILL + i] = 0.0
        desk[at.GROSS + i] += abs(held) * mark if held != 0.0 else 0.0
    for i in range(n):
        now, arrival = clock[at.NOW + i], w[at.ARRIVAL + i]
        fresh = (w[at.DECISION + i] == clock[at.BAR + i]) | (arrival > now)
        price, takes, why = lanes.quote(
            s[at.WORKING + i], s[at.LIMIT + i], arrival, fresh, s[at.OPEN + i], s[at.LOW + i], s[at.HIGH + i], s[at.CLOSE + i],
            s[at.SPREAD + i], s[at.TICK + i], s[at.ENDS + i] != 0.0, now, clock[at.NEXT + i], rules, has,
        )  # fmt: skip
        s[at.QUOTE + i] = price
        s[at.TAKES + i] = takes
        s[at.WHY + i] = why


@njit(error_model="numpy", _nrt=False, forceinline=True)
def fill_orders(
    s: Float64Array, w: Int64Array, desk: Float64Array, n: int, opening: bool, rules: Rules, has: Has, pays: bool
) -> None:  # fmt: skip
    """Fill the orders of a slot that open, or those that close; every order gets its status. `pays`: a constant, as `rules` has it."""
    for i in range(n):
        held, working, status, room = s[at.HELD + i], s[at.WORKING + i], s[at.STATUS + i], desk[at.ROOM + i]
        mine = (working != 0.0) & (status == word.NO_ORDER) & ((abs(held + working) > abs(held)) == opening)
        price, before, why, order = s[at.QUOTE + i], s[at.FILL + i], s[at.REASON + i], s[at.ORDER + i]
        decision, arrival, sent, arrived = w[at.DECISION + i], w[at.ARRIVAL + i], w[at.SENT + i], w[at.ARRIVED + i]
        dear, least = price, 0.0
        if pays:
            cap = rules.participation * s[at.VOLUME + i]
            dear = dear_price(working, price, s[at.TAKES + i], s[at.SIGMA + i], abs(s[at.ADV + i]), s[at.SHIFT + i], cap, rules)
            least = rules.fee_min_ccy
        filled, left, ended, cause = lanes.fill(
            held, working, dear, s[at.WHY + i], room - least, s[at.VOLUME + i], s[at.LOT + i], desk[at.SESSION_END + i] != 0.0, rules, has
        )
        taken = (abs(held + filled) - abs(held)) * (dear if opening else 2.0 * price - dear) + least
        s[at.ORDER + i] = working if mine else order
        w[at.SENT + i] = decision if mine else sent
        w[at.ARRIVED + i] = arrival if mine else arrived
        s[at.STATUS + i] = ended if mine else status
        s[at.REASON + i] = cause if mine else why
        s[at.FILL + i] = filled if mine else before
        s[at.HELD + i] = held + filled if mine else held
        s[at.WORKING + i] = left if mine else working
        w[at.DECISION + i] = -1 if mine & (left == 0.0) else decision
        desk[at.ROOM + i] = room - taken if mine & (filled != 0.0) else room


@njit(error_model="numpy", _nrt=False, forceinline=True)
def push_prices(s: Float64Array, n: int, rules: Rules) -> None:
    """Temporary impact of what was filled, fraction of price; a power keeps the compiler from vector instructions."""
    if rules.impact_exponent == 0.5:
        for i in range(n):
            s[at.IMPACT + i] = lanes.root_impact(abs(s[at.FILL + i]) * s[at.QUOTE + i], s[at.SIGMA + i], abs(s[at.ADV + i]), rules)
    else:
        for i in range(n):
            s[at.IMPACT + i] = impact_frac(abs(s[at.FILL + i]) * s[at.QUOTE + i], s[at.SIGMA + i], abs(s[at.ADV + i]), rules)


@njit(error_model="numpy", _nrt=False, forceinline=True)
def settle_slot(s: Float64Array, desk: Float64Array, n: int, rules: Rules, has: Has) -> None:
    """Costs of what was filled, then the slot at the close of the bar; a delisted asset is paid out."""
    for i in range(n):
        filled, mark = s[at.FILL + i], s[at.MARK + i]
        paid, spread, impact, drift, fee, shift = lanes.charge(
            filled, s[at.QUOTE + i], s[at.TAKES + i], s[at.IMPACT + i], s[at.LIMIT + i], mark, s[at.SIGMA + i], abs(s[at.ADV + i]),
            s[at.SHIFT + i], rules, has,
        )  # fmt: skip
        s[at.PRICE + i] = paid
        s[at.COST_SPREAD + i] = spread
        s[at.COST_IMPACT + i] = impact
        s[at.COST_DRIFT + i] = drift
        s[at.COST_FEES + i] = fee
        s[at.SHIFT + i] = shift
    for i in range(n):
        held, mark = s[at.HELD + i], s[at.MARK + i]
        new, pnl, funding, borrow, paid_out = lanes.settle(
            held, s[at.BEFORE + i], mark, s[at.CLOSE + i], desk[at.DONE + i] == 0.0, s[at.FUNDING + i], s[at.DIVIDEND + i],
            s[at.ENDS + i] != 0.0, s[at.TERMINAL + i], desk[at.YEARS + i], rules, has,
        )  # fmt: skip
        cash = desk[at.CASH + i] - (s[at.FILL + i] * s[at.PRICE + i] + s[at.COST_FEES + i] + funding + borrow)
        s[at.PRICE_PNL + i] = pnl
        s[at.COST_FUNDING + i] = funding
        s[at.COST_BORROW + i] = borrow
        s[at.SHOWN + i] = new
        s[at.LIQUIDATION + i] = 0.0
        s[at.HELD + i] = 0.0 if paid_out else held
        s[at.MARK + i] = math.nan if paid_out else new
        desk[at.CASH + i] = cash + held * new if paid_out & (held != 0.0) else cash


@njit(error_model="numpy", _nrt=False, forceinline=True)
def find_doomed(tile: Float64Array, desk: Float64Array, num_slots: int, n: int, rules: Rules) -> int:
    """Accounts that the worst prices of the bar leave with less than the maintenance margin; ASKED is 1 where it is so."""
    for i in range(n):
        desk[at.GROSS + i] = 0.0
        desk[at.ASKED + i] = desk[at.CASH + i]
    for a in range(num_slots):
        s = tile[a * at.NUM_SLOT : (a + 1) * at.NUM_SLOT]
        for i in range(n):
            held = s[at.HELD + i]
            worst = worst_price(held, s[at.LOW + i], s[at.HIGH + i], s[at.CLOSE + i], s[at.SHOWN + i])
            desk[at.ASKED + i] += held * worst if held != 0.0 else 0.0
            desk[at.GROSS + i] += abs(held) * worst if held != 0.0 else 0.0
    num_doomed = 0.0
    for i in range(n):
        gross = desk[at.GROSS + i]
        doomed = 0.0 if gross == 0.0 or desk[at.ASKED + i] >= rules.maintenance_margin * gross else 1.0
        desk[at.ASKED + i] = doomed
        num_doomed += doomed
    return int(num_doomed)


@njit(error_model="numpy", _nrt=False, forceinline=True)
def liquidate(tile: Float64Array, whole: Int64Array, desk: Float64Array, num_slots: int, n: int, rules: Rules) -> None:
    """Close everything of the doomed: longs at the low, shorts at the high, plus the penalty; the account is done."""
    for i in range(n):
        if desk[at.ASKED + i] == 0.0:
            continue
        desk[at.DONE + i] = 1.0
        for a in range(num_slots):
            s, w = tile[a * at.NUM_SLOT : (a + 1) * at.NUM_SLOT], whole[a * at.NUM_WHOLE : (a + 1) * at.NUM_WHOLE]
            held, mark = s[at.HELD + i], s[at.SHOWN + i]
            if held != 0.0:
                worst = worst_price(held, s[at.LOW + i], s[at.HIGH + i], s[at.CLOSE + i], mark)
                loss = abs(held) * (abs(mark - worst) + rules.liquidation_penalty_frac * worst)
                desk[at.CASH + i] += held * mark - loss
                s[at.LIQUIDATION + i] = loss
                s[at.COST_FEES + i] += loss
                s[at.REASON + i] = float(word.LIQUIDATED)
                s[at.HELD + i] = 0.0
            s[at.WORKING + i] = 0.0
            w[at.DECISION + i] = -1
            if s[at.STATUS + i] == word.CARRIED:
                s[at.STATUS + i] = float(word.CANCELLED)
                s[at.REASON + i] = float(word.LIQUIDATED)


@njit(error_model="numpy", _nrt=False, forceinline=True)
def close_books(tile: Float64Array, desk: Float64Array, num_slots: int, n: int) -> None:
    """Equity, peak, weights and the result of each slot at the close of the bar."""
    for i in range(n):
        desk[at.EQUITY + i] = desk[at.CASH + i]
    for a in range(num_slots):
        s = tile[a * at.NUM_SLOT : (a + 1) * at.NUM_SLOT]
        for i in range(n):
            desk[at.EQUITY + i] += s[at.HELD + i] * s[at.SHOWN + i] if s[at.HELD + i] != 0.0 else 0.0
            costs = (
                s[at.COST_SPREAD + i]
                + s[at.COST_IMPACT + i]
                + s[at.COST_DRIFT + i]
                + s[at.COST_FEES + i]
                + s[at.COST_FUNDING + i]
                + s[at.COST_BORROW + i]
            )
            s[at.PNL + i] += s[at.PRICE_PNL + i] - costs
            s[at.PNL_PEAK + i] = max(s[at.PNL_PEAK + i], s[at.PNL + i])
    for i in range(n):
        desk[at.PEAK + i] = max(desk[at.PEAK + i], desk[at.EQUITY + i])
    for a in range(num_slots):
        s = tile[a * at.NUM_SLOT : (a + 1) * at.NUM_SLOT]
        for i in range(n):
            held, equity = s[at.HELD + i], desk[at.EQUITY + i]
            s[at.WEIGHT + i] = held * s[at.SHOWN + i] / equity if held != 0.0 and equity > 0.0 else 0.0


@njit(error_model="numpy", _nrt=False, forceinline=True)
def step_slots(
    tile: Float64Array, whole: Int64Array, desk: Float64Array, clock: Int64Array, num_slots: int, n: int, rules: Rules, limits: Limits,
    has: Has,
) -> None:  # fmt: skip
    """Carry the accounts of a tile from the close of their bar to that of the next, in place. The bars lie in the tile."""
    for i in range(n):
        state, rule, _ = lanes.guard_state(desk[at.EQUITY + i], desk[at.PEAK + i], desk[at.STATE + i], limits)
        desk[at.STATE + i] = state
        desk[at.RULE + i] = rule
    for a in range(num_slots):
        guard_slot(tile[a * at.NUM_SLOT : (a + 1) * at.NUM_SLOT], desk, n, limits)
    scale_book(tile, desk, num_slots, n, MAX_GROSS, limits.max_gross)
    scale_book(tile, desk, num_slots, n, MAX_NET, limits.max_net)
    for i in range(n):
        desk[at.GROSS + i] = 0.0
    for a in range(num_slots):
        s, w = tile[a * at.NUM_SLOT : (a + 1) * at.NUM_SLOT], whole[a * at.NUM_WHOLE : (a + 1) * at.NUM_WHOLE]
        place_orders(s, w, desk, clock, n, rules, has)
    for i in range(n):
        desk[at.ROOM + i] = rules.max_leverage * desk[at.EQUITY + i] - desk[at.GROSS + i]
    for sweep in range(2):  # what frees capital goes first
        for a in range(num_slots):
            s, w = tile[a * at.NUM_SLOT : (a + 1) * at.NUM_SLOT], whole[a * at.NUM_WHOLE : (a + 1) * at.NUM_WHOLE]
            if rules.pays:
                fill_orders(s, w, desk, n, sweep == 1, rules, has, True)
            else:
                fill_orders(s, w, desk, n, sweep == 1, rules, has, False)
    for a in range(num_slots):
        s = tile[a * at.NUM_SLOT : (a + 1) * at.NUM_SLOT]
        push_prices(s, n, rules)
        settle_slot(s, desk, n, rules, has)
    if find_doomed(tile, desk, num_slots, n, rules) > 0:
        liquidate(tile, whole, desk, num_slots, n, rules)
    close_books(tile, desk, num_slots, n)
