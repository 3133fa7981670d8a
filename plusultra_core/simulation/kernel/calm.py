"""Bars on which nothing can happen but orders that fill at once: accounts of one slot under SPARE, many bars in one go.

The same arithmetic as `kernel/single.py` in the same order, from the same functions, without what a calm bar cannot need: no
limit of the rulebook is near, the order fits volume and capital, no margin is called, nothing is left at work. Each bar is tried;
where one account is not calm nothing of the bar is kept, and whoever called carries it with the whole step. What is asked of a
calm bar is therefore never too little, and may be too much. Nothing here is cached by itself: it is compiled into `kernels.py`.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from plusultra_core.arrays import Float64Array
from plusultra_core.guardrails.limits import ACTIVE, Limits
from plusultra_core.simulation import tiles as at
from plusultra_core.simulation.costs import Rules
from plusultra_core.simulation.kernel import lanes
from plusultra_core.simulation.kernel.lanes import Has
from plusultra_core.simulation.kernel.lines import lay, lay_books
from plusultra_core.simulation.records import MarketArrays, Step
from plusultra_core.simulation.tiles import WIDE, Block, World

CASH, HELD, MARK, EQUITY, PEAK, PNL, BEST, SENT, FILL, PRICE, FEE, STATE, HALF = (WIDE * k for k in range(13))
ROOM = 2 * HALF
"""Behind both halves of the tile: for the books of its accounts. Nobody writes to STATE: calm accounts are active, which is 0."""
WRITTEN = ("fill", "price", "fees", "position")
_MARK, _WORKING, _PNL, _BEST, _WEIGHT, _FILL = (k // at.LANES for k in (at.MARK, at.WORKING, at.PNL, at.PNL_PEAK, at.WEIGHT, at.FILL))
"""Rows of the block's slots; the position is the first."""
_NEAR = 1e-9
"""How near to a bound a bar is not calm: far beyond what rounding does."""


class Rows(NamedTuple):
    """The market as it is, time-major and flat; all (0,) where a bar is missing or a depth is quoted."""

    open: Float64Array
    """(T N,)"""
    high: Float64Array
    low: Float64Array
    close: Float64Array
    volume: Float64Array
    spread_bps: Float64Array
    least_adv: Float64Array
    """(T,) the least of all assets."""
    least_volume: Float64Array
    widest: Float64Array
    """(T,) how far high or low lies from the close, at most, as a part of it."""
    even_bps: Float64Array
    """(T,) the spread where all assets have the same; NaN where they have not."""
    num_assets: int


def build_rows(market: MarketArrays) -> Rows:
    """Views of the market where it has every bar and no quoted depth; nothing else."""
    prices = (market.open, market.high, market.low, market.close)
    whole = market.tradable.all() and all(np.all(price > 0.0) for price in prices) and np.all(np.isinf(market.depth))
    fields = (*prices, market.volume, market.half_spread_bps)
    flat = [np.ascontiguousarray(field, dtype=np.float64).reshape(-1) for field in fields]
    if not whole:
        return no_rows()
    most, least, spread = market.half_spread_bps.max(axis=1), market.half_spread_bps.min(axis=1), market.half_spread_bps
    widest = np.maximum(market.high - market.close, market.close - market.low) / market.close
    even = np.where(most == least, spread[:, 0], np.nan)
    least_adv, least_volume = market.adv_ccy.min(axis=1), market.volume.min(axis=1)
    return Rows(
        flat[0], flat[1], flat[2], flat[3], flat[4], flat[5], least_adv, least_volume, widest.max(axis=1), even, market.tradable.shape[1]
    )


def no_rows() -> Rows:
    """For accounts that cannot use any."""
    x = np.zeros(0)
    return Rows(x, x, x, x, x, x, x, x, x, x, 0)


@njit(error_model="numpy", _nrt=False, forceinline=True)
def order(
    request: float, equity: float, peak: float, mark: float, held: float, price: float, cap: float, room: float, rules: Rules,
    limits: Limits,
) -> tuple[float, bool]:  # fmt: skip
    """What a calm account trades, all of it at once; and whether it is calm. `room`: largest increase by the rulebook, money."""
    desired = request * equity / mark - held
    sent = (desired != 0.0) & (abs(desired) * mark >= rules.min_order_ccy)
    filled = desired if sent else 0.0
    quantity = abs(filled)
    closing = min(quantity, abs(held)) if held * filled < 0.0 else 0.0
    most = min(limits.max_weight, min(limits.max_gross, limits.max_net))
    asked = (abs(request) <= most) & (abs(request) * equity * (1.0 + _NEAR) <= room)
    fits = (quantity - 2.0 * closing + _NEAR * quantity) * price <= rules.max_leverage * equity - abs(held) * mark
    high = (equity > 0.0) & (equity > (1.0 - limits.reduce_drawdown + _NEAR) * peak)
    return filled, (asked | math.isnan(request)) & fits & high & (quantity <= cap)


@njit(error_model="numpy", _nrt=False, forceinline=True)
def book(
    cash: float, held: float, mark: float, filled: float, price: float, spread: float, low: float, high: float, last: float, rules: Rules
) -> tuple[float, float, float, float, float, float, bool]:  # fmt: skip
    """The books at the close of a calm bar: cash, position, equity, result, price paid, fee; and whether the margin is called."""
    has = Has(False, False, False, False, False, False)
    held += filled
    paid, cost_spread, cost_impact, drift, fee, _ = lanes.charge(filled, price, spread, 0.0, np.nan, mark, 0.0, 1.0, 0.0, rules, has)
    new, result, funding, borrow, _ = lanes.settle(held, held, mark, last, True, 0.0, 0.0, False, 0.0, 0.0, rules, has)
    cash = cash - (filled * paid + fee + funding + borrow)
    _, _, _, doomed = lanes.call_margin(cash, held, new, low, high, last, rules)
    equity = cash + (held * new if held != 0.0 else 0.0)
    return cash, held, equity, result - (cost_spread + cost_impact + drift + fee + funding + borrow), paid, fee, doomed


@njit(error_model="numpy", _nrt=False, forceinline=True)
def stand_calm(block: Block, low: int, n: int) -> bool:
    """Whether all accounts are active and have nothing at work."""
    worse = 0
    for e in range(low, low + n):
        worse += (block.guard[e] != ACTIVE) | (block.done[e] != 0) | (block.slots[_WORKING * block.stride_EA + e] != 0.0)
        worse += block.wholes[block.stride_EA + e] != -1
    return worse == 0


@njit(error_model="numpy", _nrt=False, forceinline=True)
def stand_beside(block: Block, low: int, n: int) -> bool:
    """Whether the accounts stand on the same bar of neighbouring assets."""
    apart = 0
    for i in range(1, n):
        apart += (block.t[low + i] != block.t[low]) | (block.asset[low + i] != block.asset[low] + i)
    return apart == 0


@njit(error_model="numpy", _nrt=False, forceinline=True)
def close(block: Block, e: int, mark: float, pnl: float, best: float, filled: float) -> None:
    """The slot of account e after calm bars."""
    equity, held = block.books[block.stride_E + e], block.slots[e]
    for k, value in ((_MARK, mark), (_PNL, pnl), (_BEST, best), (_FILL, filled)):
        block.slots[k * block.stride_EA + e] = value
    block.slots[_WEIGHT * block.stride_EA + e] = held * mark / equity if (held != 0.0) & (equity > 0.0) else 0.0


@njit(error_model="numpy", _nrt=False)
def run_path(
    world: World, block: Block, request: Float64Array, e: int, begin: int, num_steps: int, rules: Rules, limits: Limits, out: Step,
    every: bool, books: Float64Array,
) -> int:  # fmt: skip
    """Carry account e through calm bars, its state in registers; the number of bars that it went."""
    num_accounts, num_times, t, sent = block.t.size, world.ts_ns.size, block.t[e], -1
    cash, equity, peak = block.books[e], block.books[block.stride_E + e], block.books[2 * block.stride_E + e]
    held, mark, filled = block.slots[e], block.slots[_MARK * block.stride_EA + e], block.slots[_FILL * block.stride_EA + e]
    pnl, best = block.slots[_PNL * block.stride_EA + e], block.slots[_BEST * block.stride_EA + e]
    bars, steps = world.bars[(block.asset[e] * num_times + t + 1) * at.NUM_BAR :], min(num_steps - begin, num_times - 1 - t)
    went = 0
    while went < steps:
        bar, row = bars[went * at.NUM_BAR : (went + 1) * at.NUM_BAR], (begin + went) * num_accounts + e
        price, last, adv = bar[0], bar[3], bar[7]
        traded, calm = order(
            request[row], equity, peak, mark, held, price, rules.participation * bar[4], limits.max_participation * adv, rules, limits
        )
        if not (calm & (price > 0.0) & (last > 0.0) & (adv > 0.0) & (mark > 0.0)):
            break
        money, after, worth, result, paid, fee, doomed = book(cash, held, mark, traded, price, bar[5], bar[2], bar[1], last, rules)
        if doomed:
            break
        cash, held, equity, mark, filled = money, after, worth, last, traded
        peak, pnl = max(peak, equity), pnl + result
        best = max(best, pnl)
        if traded != 0.0:
            sent = went
        if every:
            write(out.fill, row, filled)
            write(out.price, row, paid)
            write(out.fees, row, fee)
            write(out.position, row, held)
        if books.size:
            line = books[row * 4 : row * 4 + 4]
            line[0], line[1], line[2], line[3] = cash, equity, peak, 0.0
        went += 1
    if went:
        block.books[e], block.books[block.stride_E + e], block.books[2 * block.stride_E + e] = cash, equity, peak
        block.slots[e], block.t[e] = held, t + went
        close(block, e, mark, pnl, best, filled)
        if sent >= 0:
            block.wholes[e] = world.ts_ns[t + sent]
    return went


@njit(error_model="numpy", _nrt=False, forceinline=True)
def write(column: Any, row: int, value: float) -> None:
    """One number into a column that somebody asks for."""
    if column.size:
        column[row] = value


@njit(error_model="numpy", _nrt=False, forceinline=True)
def try_orders(
    a: Float64Array, b: Float64Array, request: Float64Array, first: Float64Array, volume: Float64Array, least: float, n: int, room: float,
    rules: Rules, limits: Limits, each: bool,
) -> int:  # fmt: skip
    """What the lanes of `a` trade, into `b`; the number of those that are not calm. `each`: by its own volume, else by the least."""
    worse = 0
    for i in range(n):
        cap = rules.participation * (volume[i] if each else least)
        filled, calm = order(request[i], a[EQUITY + i], a[PEAK + i], a[MARK + i], a[HELD + i], first[i], cap, room, rules, limits)
        b[FILL + i] = filled
        worse += not calm
    return worse


@njit(error_model="numpy", _nrt=False, forceinline=True)
def try_books(
    a: Float64Array, b: Float64Array, first: Float64Array, high: Float64Array, low: Float64Array, last: Float64Array,
    spread_bps: Float64Array, even_bps: float, widest: float, n: int, step: float, rules: Rules, even: bool, each: bool,
) -> int:  # fmt: skip
    """The books of the lanes of `a` after the bar, into `b`; the number of those whose margin is called.

    `even`: all pay one spread. `each`: at its own worst price, else that of a bar as wide as the widest, which may call too many.
    """
    worse, margin = 0, (widest + rules.maintenance_margin + widest * rules.maintenance_margin) * (1.0 + _NEAR)
    for i in range(n):
        filled, spread = b[FILL + i], (even_bps if even else spread_bps[i]) * 1e-4
        deep, tall = (low[i] if each else last[i]), (high[i] if each else last[i])
        cash, held, equity, result, paid, fee, doomed = book(
            a[CASH + i], a[HELD + i], a[MARK + i], filled, first[i], spread, deep, tall, last[i], rules
        )
        doomed = doomed if each else not (equity >= abs(held) * last[i] * margin)
        pnl = a[PNL + i] + result
        b[CASH + i] = cash
        b[HELD + i] = held
        b[EQUITY + i] = equity
        b[MARK + i] = last[i]
        b[PEAK + i] = max(a[PEAK + i], equity)
        b[PNL + i] = pnl
        b[BEST + i] = max(a[BEST + i], pnl)
        b[SENT + i] = step if filled != 0.0 else a[SENT + i]
        b[PRICE + i] = paid
        b[FEE + i] = fee
        worse += doomed
    return worse


@njit(error_model="numpy", _nrt=False, forceinline=True)
def write_rows(b: Float64Array, row: int, n: int, out: Step, every: bool, books: Float64Array, room: Float64Array, far: bool) -> None:
    """What the bar did into the columns that somebody asks for."""
    if every:
        lay(out.fill, row, b, FILL, n, far)
        lay(out.price, row, b, PRICE, n, far)
        lay(out.fees, row, b, FEE, n, far)
        lay(out.position, row, b, HELD, n, far)
    lay_books(books, row, b[CASH:], b[EQUITY:], b[PEAK:], b[STATE:], room, n, far)


@njit(error_model="numpy", _nrt=False)
def run_rows(
    world: World, rows: Rows, block: Block, request: Float64Array, low: int, n: int, begin: int, num_steps: int, rules: Rules,
    limits: Limits, tile: Float64Array, out: Step, every: bool, books: Float64Array, far: bool,
) -> int:  # fmt: skip
    """Carry accounts on neighbouring assets through calm bars, one lane each, bars read where they lie; the number of bars."""
    num_accounts, num_times, t = block.t.size, world.ts_ns.size, block.t[low]
    a, b = tile[:HALF], tile[HALF : 2 * HALF]
    for k, field in ((0, CASH), (1, EQUITY), (2, PEAK)):
        at.take(block.books, k * block.stride_E + low, 1, a[field:], n)
    for k, field in ((0, HELD), (_MARK, MARK), (_PNL, PNL), (_BEST, BEST)):
        at.take(block.slots, k * block.stride_EA + low, 1, a[field:], n)
    for i in range(n):
        a[SENT + i] = -1.0
    went, steps = 0, min(num_steps - begin, num_times - 1 - t)
    while went < steps:
        row, now = (begin + went) * num_accounts + low, (t + went) * rows.num_assets + block.asset[low]
        after = now + rows.num_assets
        room = limits.max_participation * rows.least_adv[t + went]
        first, volume, least = rows.open[after : after + n], rows.volume[after : after + n], rows.least_volume[t + went + 1]
        asked = request[row : row + n]
        worse = try_orders(a, b, asked, first, volume, least, n, room, rules, limits, False)
        if worse and try_orders(a, b, asked, first, volume, least, n, room, rules, limits, True):
            break
        high, deep, last = rows.high[after : after + n], rows.low[after : after + n], rows.close[after : after + n]
        spread, even, widest, step = rows.spread_bps[now : now + n], rows.even_bps[t + went], rows.widest[t + went + 1], float(went)
        if even == even:
            worse = try_books(a, b, first, high, deep, last, spread, even, widest, n, step, rules, True, False)
        else:
            worse = try_books(a, b, first, high, deep, last, spread, even, widest, n, step, rules, False, False)
        if worse and try_books(a, b, first, high, deep, last, spread, even, widest, n, step, rules, False, True):
            break
        write_rows(b, row, n, out, every, books, tile[ROOM:], far)
        a, b = b, a
        went += 1
    if went:
        for k, field in ((0, CASH), (1, EQUITY), (2, PEAK)):
            at.put(block.books, k * block.stride_E + low, 1, a[field:], n)
        at.put(block.slots, low, 1, a[HELD:], n)
        for i in range(n):
            block.t[low + i] = t + went
            close(block, low + i, a[MARK + i], a[PNL + i], a[BEST + i], a[FILL + i])
            if a[SENT + i] >= 0.0:
                block.wholes[low + i] = world.ts_ns[t + int(a[SENT + i])]
    return went


def tells_little(out: Step) -> bool:
    """Whether nothing is asked of a ledger but what calm bars write: fills, prices, fees and positions."""
    return not any(getattr(out, name).size for name in out._fields if name not in WRITTEN)
