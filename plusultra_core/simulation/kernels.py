"""The step kernel: requested targets -> rulebook -> orders -> fills -> costs -> account. Every door of the simulator is this one.

Accounts are carried in tiles (`tiles.py`), one lane an account, and every stage below is one loop of plain arithmetic over the
lanes of a slot that the compiler turns into vector instructions. Lanes do not see one another and nothing here draws but by
name, so no result depends on batch, chunks or threads.

`_nrt=False`: nothing in here allocates.
"""

import math

import numpy as np
from numba import njit

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.clock import NS_PER_YEAR
from plusultra_core.guardrails.limits import ACTIVE, MAX_GROSS, MAX_NET, Limits
from plusultra_core.simulation import records as word
from plusultra_core.simulation import tiles as at
from plusultra_core.simulation.costs import MAX_SHIFT, Rules, fill_quantity, impact_frac, in_lots, limit_price, replaces, worst_price
from plusultra_core.simulation.records import Accounts, Step
from plusultra_core.simulation.tiles import Draw, Scratch

COMPILED_WITH = "cedb5a3bb60b1d0b"
"""Digest of costs, tiles, records and the rulebook, which are compiled into this file: its cache on disk sees this file alone."""


@njit(cache=True, error_model="numpy", _nrt=False)
def place_orders(s: Float64Array, w: Int64Array, desk: Float64Array, clock: Int64Array, n: int, rules: Rules) -> None:
    """Turn the guarded target of a slot into its working order, or say why there is none."""
    for i in range(n):
        held, mark, working, now = s[at.HELD + i], s[at.MARK + i], s[at.WORKING + i], clock[at.NOW + i]
        live, money = desk[at.DONE + i] == 0.0, desk[at.EQUITY + i]
        desired = in_lots(s[at.TARGET + i] * money / mark - held, s[at.LOT + i]) if live else np.nan
        grows = abs(held + working) > abs(held)  # an account that may only reduce calls back what would still grow
        desired = 0.0 if math.isnan(desired) and desk[at.STATE + i] != ACTIVE and grows else desired
        sent = desired != 0.0 and abs(desired) * mark >= rules.min_order_ccy
        new = replaces(desired, working, w[at.ARRIVAL + i] <= now, mark, rules)
        side = math.copysign(1.0, desired)
        working = (desired if sent else 0.0) if new else working
        s[at.WORKING + i] = working
        s[at.LIMIT + i] = limit_price(mark, side, s[at.TICK + i], rules) if new and sent else s[at.LIMIT + i]
        w[at.ARRIVAL + i] = now + w[at.LATENCY + i] if new and sent else w[at.ARRIVAL + i]
        w[at.DECISION + i] = (clock[at.BAR + i] if sent else -1) if new else w[at.DECISION + i]
        request = s[at.REQUEST + i] if live else np.nan
        priced = mark > 0.0
        wanted = request * money / mark - held if priced else request
        why = s[at.GUARD + i]
        why = why if abs(wanted) * mark >= rules.min_order_ccy else 0.0
        why = why if priced or wanted == 0.0 else float(word.NO_PRICE)
        idle = working == 0.0 and not math.isnan(request)
        refused = idle and why != 0.0
        s[at.STATUS + i] = float(word.REJECTED) if refused else float(word.NO_ORDER)
        why = why if refused or wanted == 0.0 else float(word.TOO_SMALL)
        s[at.REASON + i] = why if idle else float(word.NO_ORDER)
        s[at.ORDER + i] = wanted if refused and priced else 0.0
        w[at.SENT + i] = clock[at.BAR + i] if refused else -1
        w[at.ARRIVED + i] = now if refused else 0
        s[at.BEFORE + i] = held
        s[at.FILL + i] = 0.0
        desk[at.GROSS + i] += abs(held) * mark if held != 0.0 else 0.0


@njit(cache=True, error_model="numpy", _nrt=False)
def quote(s: Float64Array, w: Int64Array, clock: Int64Array, n: int, rules: Rules) -> None:
    """Price that a working order meets in the bar before costs, whether it takes, or why it meets none.

    A market order that waits for the bar meets its open; one that arrives within the bar meets the straight line from open to
    close; a bar without an open is met at its close. A limit that the market has passed when it arrives takes like a market
    order; else it rests, and fills at the limit, or at a better open, only where the bar trades through it.
    """
    for i in range(n):
        side, limit, arrival = math.copysign(1.0, s[at.WORKING + i]), s[at.LIMIT + i], w[at.ARRIVAL + i]
        first, last = s[at.OPEN + i], s[at.CLOSE + i]
        start = max(clock[at.NOW + i], clock[at.NEXT + i] - rules.bar_ns)
        late = max(arrival - start, 0)
        opened = not math.isnan(first)
        point = first + (last - first) * (late / (clock[at.NEXT + i] - start)) if opened else last
        spread = max(s[at.SPREAD + i], 0.5 * s[at.TICK + i] / point)
        fresh = w[at.DECISION + i] == clock[at.BAR + i] or arrival > clock[at.NOW + i]
        passed = fresh and opened and (limit - point * (1.0 + side * spread)) * side > 0.0
        takes = math.isnan(limit) or passed
        extreme = (s[at.LOW + i] if side > 0.0 else s[at.HIGH + i]) if opened else last
        rests = (limit - extreme) * side > 0.0 and rules.time_in_force != word.IOC
        resting = limit if late > 0 or not opened else min(limit * side, first * side) * side
        met = takes or rests
        why = float(word.NO_ORDER if met else word.NOT_TRADED_THROUGH)
        why = float(word.NO_BAR) if math.isnan(last) else why
        why = float(word.IN_FLIGHT) if arrival > clock[at.NEXT + i] else why
        s[at.WHY + i] = float(word.DELISTED) if s[at.ENDS + i] != 0.0 else why
        s[at.QUOTE + i] = point if takes else resting
        s[at.TAKES + i] = spread if takes else -1.0


@njit(cache=True, error_model="numpy", _nrt=False)
def fill_orders(s: Float64Array, w: Int64Array, desk: Float64Array, n: int, everything: bool, opening: bool, rules: Rules) -> None:
    """Fill what the bar, the volume and the capital allow, carry or cancel the rest; every order gets its status."""
    for i in range(n):
        held, working, price, why = s[at.HELD + i], s[at.WORKING + i], s[at.QUOTE + i], s[at.WHY + i]
        grows = abs(held + working) > abs(held)
        mine = working != 0.0 and s[at.STATUS + i] == word.NO_ORDER and (everything or grows == opening)
        cap = rules.participation * s[at.VOLUME + i]
        quantity, bound = fill_quantity(working, held, price, cap, desk[at.ROOM + i], s[at.LOT + i], rules)
        met = why == word.NO_ORDER
        whole = met and bound == word.NO_ORDER
        filled = working if whole else math.copysign(quantity, working) if met and quantity > 0.0 else 0.0
        waits = why == word.IN_FLIGHT
        expires = rules.time_in_force == word.DAY and desk[at.SESSION_END + i] != 0.0
        carried = waits or ((rules.time_in_force == word.GTC or (rules.time_in_force == word.DAY and not expires)) and why != word.DELISTED)
        status = float(word.FILLED if whole else word.CARRIED if carried else word.PARTIAL if filled != 0.0 else word.CANCELLED)
        reason = float(bound) if met else why
        reason = float(word.EXPIRED) if expires and not (whole or waits or why == word.DELISTED) else reason
        left = working - filled if carried and not whole else 0.0
        s[at.ORDER + i] = working if mine else s[at.ORDER + i]
        w[at.SENT + i] = w[at.DECISION + i] if mine else w[at.SENT + i]
        w[at.ARRIVED + i] = w[at.ARRIVAL + i] if mine else w[at.ARRIVED + i]
        s[at.STATUS + i] = status if mine else s[at.STATUS + i]
        s[at.REASON + i] = reason if mine else s[at.REASON + i]
        s[at.FILL + i] = filled if mine else s[at.FILL + i]
        s[at.HELD + i] = held + filled if mine else held
        s[at.WORKING + i] = left if mine else working
        w[at.DECISION + i] = -1 if mine and left == 0.0 else w[at.DECISION + i]
        desk[at.ROOM + i] -= (abs(held + filled) - abs(held)) * price if mine and filled != 0.0 else 0.0


@njit(cache=True, error_model="numpy", _nrt=False)
def charge_fills(s: Float64Array, n: int, rules: Rules) -> None:
    """Price and costs of what was filled: spread, temporary impact, own impact that lasts, drift since the decision, fees."""
    for i in range(n):
        quantity, side, price, taken = abs(s[at.FILL + i]), math.copysign(1.0, s[at.FILL + i]), s[at.QUOTE + i], s[at.TAKES + i] >= 0.0
        notional = quantity * price
        share = notional / s[at.ADV + i]
        spread = s[at.TAKES + i] if taken else 0.0
        impact = impact_frac(notional, s[at.SIGMA + i], s[at.ADV + i], rules) if taken else 0.0
        within = (s[at.LIMIT + i] / price - 1.0) * side - spread
        impact = min(impact, within) if not math.isnan(within) else impact
        push = side * rules.permanent_coef * s[at.SIGMA + i] * share
        shift = s[at.SHIFT + i]
        push = min(max(push, -MAX_SHIFT - shift), MAX_SHIFT - shift)
        met = shift + 0.5 * push
        paid = price * (1.0 + side * (spread + impact) + met)
        rate = rules.fee_frac if taken else rules.maker_fee_frac
        fee = rate * quantity * paid
        fee = max(fee, rules.fee_min_ccy) if rate >= 0.0 else fee
        filled = quantity > 0.0
        s[at.PRICE + i] = paid if filled else 0.0
        s[at.COST_SPREAD + i] = notional * spread if filled else 0.0
        s[at.COST_IMPACT + i] = notional * impact + s[at.FILL + i] * price * met if filled else 0.0
        s[at.COST_DRIFT + i] = s[at.FILL + i] * (price - s[at.MARK + i]) if filled else 0.0
        s[at.COST_FEES + i] = fee if filled else 0.0
        s[at.SHIFT + i] = (shift + push if filled else shift) * (1.0 - rules.permanent_decay_frac)


@njit(cache=True, error_model="numpy", _nrt=False)
def mark_slot(s: Float64Array, desk: Float64Array, clock: Int64Array, n: int, rules: Rules) -> None:
    """Carry a slot to the close of the bar: price result, funding and dividends, borrow, cash; a delisted asset is paid out."""
    for i in range(n):
        held, before, old = s[at.HELD + i], s[at.BEFORE + i], s[at.MARK + i]
        ends = s[at.ENDS + i] != 0.0 and desk[at.DONE + i] == 0.0
        new = s[at.CLOSE + i] if not math.isnan(s[at.CLOSE + i]) and desk[at.DONE + i] == 0.0 else old
        new = old * (1.0 + s[at.TERMINAL + i]) if ends else new
        funding = held * new * s[at.FUNDING + i] if rules.funding and held != 0.0 else 0.0
        funding -= before * s[at.DIVIDEND + i]
        years = (clock[at.NEXT + i] - clock[at.NOW + i]) / NS_PER_YEAR
        borrow = -held * old * rules.borrow_frac_year * years if held < 0.0 else 0.0
        s[at.PRICE_PNL + i] = held * (new - old) if held != 0.0 else 0.0
        s[at.COST_FUNDING + i] = funding
        s[at.COST_BORROW + i] = borrow
        s[at.SHOWN + i] = new
        cash = desk[at.CASH + i] - (s[at.FILL + i] * s[at.PRICE + i] + s[at.COST_FEES + i] + funding + borrow)
        desk[at.CASH + i] = cash + held * new if ends and held != 0.0 else cash
        s[at.HELD + i] = 0.0 if ends else held
        s[at.MARK + i] = np.nan if ends else new
        s[at.LIQUIDATION + i] = 0.0


@njit(cache=True, error_model="numpy", _nrt=False)
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


@njit(cache=True, error_model="numpy", _nrt=False)
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


@njit(cache=True, error_model="numpy", _nrt=False)
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


@njit(cache=True, error_model="numpy", _nrt=False)
def step_tile(
    tile: Float64Array, whole: Int64Array, desk: Float64Array, clock: Int64Array, num_slots: int, n: int, rules: Rules, limits: Limits
) -> None:  # fmt: skip
    """Carry the accounts of a tile from the close of their bar to that of the next, in place. The bars lie in the tile."""
    at.guard_states(desk, n, limits)
    for a in range(num_slots):
        at.guard_targets(tile[a * at.NUM_SLOT : (a + 1) * at.NUM_SLOT], desk, n, limits)
    at.scale_book(tile, desk, num_slots, n, MAX_GROSS, limits.max_gross)
    at.scale_book(tile, desk, num_slots, n, MAX_NET, limits.max_net)
    for i in range(n):
        desk[at.GROSS + i] = 0.0
    for a in range(num_slots):
        s, w = tile[a * at.NUM_SLOT : (a + 1) * at.NUM_SLOT], whole[a * at.NUM_WHOLE : (a + 1) * at.NUM_WHOLE]
        place_orders(s, w, desk, clock, n, rules)
        quote(s, w, clock, n, rules)
    for i in range(n):
        desk[at.ROOM + i] = rules.max_leverage * desk[at.EQUITY + i] - desk[at.GROSS + i]
    for sweep in range(1 if num_slots == 1 else 2):  # what frees capital goes first
        for a in range(num_slots):
            s, w = tile[a * at.NUM_SLOT : (a + 1) * at.NUM_SLOT], whole[a * at.NUM_WHOLE : (a + 1) * at.NUM_WHOLE]
            fill_orders(s, w, desk, n, num_slots == 1, sweep == 1, rules)
    for a in range(num_slots):
        s = tile[a * at.NUM_SLOT : (a + 1) * at.NUM_SLOT]
        charge_fills(s, n, rules)
        mark_slot(s, desk, clock, n, rules)
    if find_doomed(tile, desk, num_slots, n, rules) > 0:
        liquidate(tile, whole, desk, num_slots, n, rules)
    close_books(tile, desk, num_slots, n)


@njit(cache=True, error_model="numpy", _nrt=False, nogil=True)
def step_accounts(
    ts_ns: Int64Array,
    session_end: Float64Array,
    bars_TNR: Float64Array,
    accounts: Accounts,
    request_SEA: Float64Array,
    rules: Rules,
    limits: Limits,
    draw: Draw,
    scratch: Scratch,
    out: Step,
    books_SEK: Float64Array,
    rows: tuple[int, int],
) -> None:
    """Carry accounts rows[0] to rows[1] through S bars, tile by tile, in place.

    Shapes  bars (T, N, 15) of `pack_bars`; request (S, E, A); out (R, E, A), R either S or 1: then only the last step is kept;
            books (S, E, 4): equity, cash, peak and state after each step, or (0, 0, 0).
    """
    num_steps, _, num_slots = request_SEA.shape
    for low in range(rows[0], rows[1], at.LANES):
        n = min(at.LANES, rows[1] - low)
        at.load_tile(accounts, low, n, num_slots, scratch)
        for step in range(num_steps):
            at.read_bars(ts_ns, session_end, bars_TNR, accounts, request_SEA[step], low, n, num_slots, draw, scratch)
            step_tile(scratch.tile, scratch.whole, scratch.desk, scratch.clock, num_slots, n, rules, limits)
            if step < books_SEK.shape[0]:
                for i in range(n):
                    books_SEK[step, low + i, 0] = scratch.desk[at.EQUITY + i]
                    books_SEK[step, low + i, 1] = scratch.desk[at.CASH + i]
                    books_SEK[step, low + i, 2] = scratch.desk[at.PEAK + i]
                    books_SEK[step, low + i, 3] = scratch.desk[at.STATE + i]
            if step < out.fill.shape[0] or step == num_steps - 1:
                at.store_step(scratch, low, n, num_slots, min(step, out.fill.shape[0] - 1), out)
        at.store_tile(accounts, low, n, num_slots, num_steps, scratch)
