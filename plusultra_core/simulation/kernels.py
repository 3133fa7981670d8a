"""The step kernel: requested targets -> rulebook -> orders -> fills -> costs -> account. Every door of the simulator is this one.

Accounts are carried in tiles (`tiles.py`), one lane an account, and every stage below is one loop of plain arithmetic over the
lanes of a slot that the compiler turns into vector instructions. Lanes do not see one another and nothing here draws but by
name, so no result depends on batch, chunks or threads. `_nrt=False`: nothing in here allocates.
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
from plusultra_core.simulation.records import Step
from plusultra_core.simulation.tiles import Block, Scratch, World

COMPILED_WITH = "c8fafd9daa1ea712"
"""Digest of costs, tiles, records and the rulebook, which are compiled into this file: its cache on disk sees this file alone."""


@njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
def place_orders(s: Float64Array, w: Int64Array, desk: Float64Array, clock: Int64Array, n: int, rules: Rules) -> None:
    """Turn the guarded target of a slot into its working order, or say why there is none."""
    for i in range(n):
        held, mark, working, now = s[at.HELD + i], s[at.MARK + i], s[at.WORKING + i], clock[at.NOW + i]
        money, limit, lot, tick, guard = desk[at.EQUITY + i], s[at.LIMIT + i], s[at.LOT + i], s[at.TICK + i], s[at.GUARD + i]
        arrival, decision, bar, latency = w[at.ARRIVAL + i], w[at.DECISION + i], clock[at.BAR + i], w[at.LATENCY + i]
        live = desk[at.DONE + i] == 0.0
        desired = in_lots(s[at.TARGET + i] * money / mark - held, lot)
        desired = desired if live else np.nan
        grows = abs(held + working) > abs(held)  # an account that may only reduce calls back what would still grow
        desired = 0.0 if math.isnan(desired) & (desk[at.STATE + i] != ACTIVE) & grows else desired
        sent = (desired != 0.0) & (abs(desired) * mark >= rules.min_order_ccy)
        new = replaces(desired, working, arrival <= now, mark, rules)
        asked = desired if sent else 0.0
        working = asked if new else working
        fresh = new & sent
        decided = bar if sent else np.int64(-1)
        fresh_limit = limit_price(mark, math.copysign(1.0, desired), tick, rules)
        s[at.WORKING + i] = working
        s[at.LIMIT + i] = fresh_limit if fresh else limit
        w[at.ARRIVAL + i] = now + latency if fresh else arrival
        w[at.DECISION + i] = decided if new else decision
        request = s[at.REQUEST + i] if live else np.nan
        priced = mark > 0.0
        wanted = request * money / mark - held if priced else request
        why = guard if abs(wanted) * mark >= rules.min_order_ccy else 0.0
        why = why if priced | (wanted == 0.0) else float(word.NO_PRICE)
        idle = (working == 0.0) & (not math.isnan(request))
        refused = idle & (why != 0.0)
        small = float(word.TOO_SMALL) if wanted != 0.0 else float(word.NO_ORDER)
        why = why if refused else small
        s[at.STATUS + i] = float(word.REJECTED) if refused else float(word.NO_ORDER)
        s[at.REASON + i] = why if idle else float(word.NO_ORDER)
        s[at.ORDER + i] = wanted if refused & priced else 0.0
        w[at.SENT + i] = bar if refused else np.int64(-1)
        w[at.ARRIVED + i] = now if refused else np.int64(0)
        s[at.BEFORE + i] = held
        s[at.FILL + i] = 0.0
        desk[at.GROSS + i] += abs(held) * mark if held != 0.0 else 0.0


@njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
def quote(s: Float64Array, w: Int64Array, clock: Int64Array, n: int, rules: Rules) -> None:
    """Price that a working order meets in the bar before costs, whether it takes, or why it meets none.

    A market order that waits for the bar meets its open; one that arrives within the bar meets the straight line from open to
    close; a bar without an open is met at its close. A limit that the market has passed when it arrives takes like a market
    order; else it rests, and fills at the limit, or at a better open, only where the bar trades through it.
    """
    waits_never = rules.time_in_force == word.IOC
    for i in range(n):
        side, limit, arrival = math.copysign(1.0, s[at.WORKING + i]), s[at.LIMIT + i], w[at.ARRIVAL + i]
        first, last, low, high = s[at.OPEN + i], s[at.CLOSE + i], s[at.LOW + i], s[at.HIGH + i]
        now, after = clock[at.NOW + i], clock[at.NEXT + i]
        opened = not math.isnan(first)
        start = max(now, after - rules.bar_ns)
        late = max(np.float64(arrival - start), 0.0)
        line = first + (last - first) * (late / np.float64(after - start))
        point = line if opened else last
        spread = max(s[at.SPREAD + i], 0.5 * s[at.TICK + i] / point)
        fresh = (w[at.DECISION + i] == clock[at.BAR + i]) | (arrival > now)
        takes = math.isnan(limit) | (fresh & opened & ((limit - point * (1.0 + side * spread)) * side > 0.0))
        extreme = low if side > 0.0 else high
        extreme = extreme if opened else last
        met = takes | (((limit - extreme) * side > 0.0) & (not waits_never))
        better = min(limit * side, first * side) * side
        resting = limit if (late > 0.0) | (not opened) else better
        why = float(word.NO_ORDER) if met else float(word.NOT_TRADED_THROUGH)
        why = float(word.NO_BAR) if math.isnan(last) else why
        why = float(word.IN_FLIGHT) if arrival > after else why
        s[at.WHY + i] = float(word.DELISTED) if s[at.ENDS + i] != 0.0 else why
        s[at.QUOTE + i] = point if takes else resting
        s[at.TAKES + i] = spread if takes else -1.0


@njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
def fill_orders(s: Float64Array, w: Int64Array, desk: Float64Array, n: int, everything: bool, opening: bool, rules: Rules) -> None:
    """Fill what the bar, the volume and the capital allow, carry or cancel the rest; every order gets its status."""
    good, of_day = rules.time_in_force == word.GTC, rules.time_in_force == word.DAY
    for i in range(n):
        held, working, price, why = s[at.HELD + i], s[at.WORKING + i], s[at.QUOTE + i], s[at.WHY + i]
        shown, status, reason, fill = s[at.ORDER + i], s[at.STATUS + i], s[at.REASON + i], s[at.FILL + i]
        decision, arrival, sent, arrived = w[at.DECISION + i], w[at.ARRIVAL + i], w[at.SENT + i], w[at.ARRIVED + i]
        room = desk[at.ROOM + i]
        grows = abs(held + working) > abs(held)
        mine = (working != 0.0) & (status == word.NO_ORDER) & (everything | (grows == opening))
        cap = rules.participation * s[at.VOLUME + i]
        quantity, bound = fill_quantity(working, held, price, cap, room, s[at.LOT + i], rules)
        met = why == word.NO_ORDER
        whole = met & (bound == word.NO_ORDER)
        some = math.copysign(quantity, working) if met & (quantity > 0.0) else 0.0
        filled = working if whole else some
        waits, delisted = why == word.IN_FLIGHT, why == word.DELISTED
        over = of_day & (desk[at.SESSION_END + i] != 0.0)
        carried = waits | ((good | (of_day & (not over))) & (not delisted))
        ended = float(word.PARTIAL) if filled != 0.0 else float(word.CANCELLED)
        ended = float(word.CARRIED) if carried else ended
        ended = float(word.FILLED) if whole else ended
        cause = bound if met else why
        cause = float(word.EXPIRED) if over & (not (whole | waits | delisted)) else cause
        left = working - filled if carried & (not whole) else 0.0
        taken = (abs(held + filled) - abs(held)) * price
        s[at.ORDER + i] = working if mine else shown
        w[at.SENT + i] = decision if mine else sent
        w[at.ARRIVED + i] = arrival if mine else arrived
        s[at.STATUS + i] = ended if mine else status
        s[at.REASON + i] = cause if mine else reason
        s[at.FILL + i] = filled if mine else fill
        s[at.HELD + i] = held + filled if mine else held
        s[at.WORKING + i] = left if mine else working
        w[at.DECISION + i] = np.int64(-1) if mine & (left == 0.0) else decision
        desk[at.ROOM + i] = room - taken if mine & (filled != 0.0) else room


@njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
def push_prices(s: Float64Array, n: int, rules: Rules) -> None:
    """Temporary impact of what was filled, fraction of price; a power keeps the compiler from vector instructions."""
    if rules.impact_exponent == 0.5:
        for i in range(n):
            share = abs(s[at.FILL + i]) * s[at.QUOTE + i] / s[at.ADV + i]
            s[at.IMPACT + i] = min(rules.impact_coef * s[at.SIGMA + i] * math.sqrt(share), rules.max_impact_frac)
    else:
        for i in range(n):
            s[at.IMPACT + i] = impact_frac(abs(s[at.FILL + i]) * s[at.QUOTE + i], s[at.SIGMA + i], s[at.ADV + i], rules)


@njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
def charge_fills(s: Float64Array, n: int, rules: Rules) -> None:
    """Price and costs of what was filled: spread, temporary impact, own impact that lasts, drift since the decision, fees."""
    for i in range(n):
        quantity, side, price, taken = abs(s[at.FILL + i]), math.copysign(1.0, s[at.FILL + i]), s[at.QUOTE + i], s[at.TAKES + i] >= 0.0
        notional = quantity * price
        share = notional / s[at.ADV + i]
        spread = s[at.TAKES + i] if taken else 0.0
        impact = s[at.IMPACT + i] if taken else 0.0
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


@njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
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


@njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
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


@njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
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


@njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
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


@njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
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
        push_prices(s, n, rules)
        charge_fills(s, n, rules)
        mark_slot(s, desk, clock, n, rules)
    if find_doomed(tile, desk, num_slots, n, rules) > 0:
        liquidate(tile, whole, desk, num_slots, n, rules)
    close_books(tile, desk, num_slots, n)
    for i in range(n):
        clock[at.BAR + i] += 1


@njit(cache=True, error_model="numpy", _nrt=False, nogil=True)
def step_accounts(
    world: World,
    block: Block,
    request: Float64Array,
    num_steps: int,
    rows: tuple[int, int],
    rules: Rules,
    limits: Limits,
    scratch: Scratch,
    out: Step | None,
    books: Float64Array | None,
) -> None:
    """Carry accounts rows[0] to rows[1] through S bars, tile by tile, in place. Every array is flat.

    Shapes  request (S E A,); out (R E A,), R either S or 1: the last step only; books (S E 4,): cash, equity, peak, state.
    """
    num_accounts, num_slots = block.t.size, block.asset.size // block.t.size
    size = num_accounts * num_slots
    for low in range(rows[0], rows[1], at.LANES):
        n = min(at.LANES, rows[1] - low)
        at.load_tile(block, low, n, num_slots, scratch)
        for step in range(num_steps):
            at.read_bars(world, block, request[step * size : (step + 1) * size], low, n, num_slots, scratch)
            if n * num_slots == 1:  # one path: the compiler drops the loops
                step_tile(scratch.tile, scratch.whole, scratch.desk, scratch.clock, 1, 1, rules, limits)
            else:
                step_tile(scratch.tile, scratch.whole, scratch.desk, scratch.clock, num_slots, n, rules, limits)
            if books is not None:
                first = (step * num_accounts + low) * 4
                for k in range(4):  # the desk begins with them
                    at.put(books, first + k, 4, scratch.desk[k * at.LANES :], n)
            if out is not None and out.fill.size > size:
                at.store_step(scratch, step * size + low * num_slots, n, num_slots, out)
        if out is not None and out.fill.size == size:
            at.store_step(scratch, low * num_slots, n, num_slots, out)
        at.store_tile(block, low, n, num_slots, scratch)
