"""The tile: up to LANES accounts as the step kernel carries them, the way from the arrays of the outside and back, the rulebook on it.

Field k of slot a lies at tile[a * NUM_SLOT + k : ... + LANES], one lane an account, in one flat array with constant offsets: then
the compiler needs no proof that forty arrays do not overlap, and a tile of one slot fits into the first cache of a core.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from plusultra_core.arrays import BoolArray, Float64Array, Int8Array, Int64Array
from plusultra_core.clock import NS_PER_YEAR
from plusultra_core.simulation.records import Accounts, MarketArrays

LANES, NARROW, WIDE = 64, 256, 1024

# A slot: state, what is asked, the bar that comes, what happened. An account: money, state, sums over its slots. Then whole numbers.
(
    HELD, MARK, WORKING, PNL, PNL_PEAK, WEIGHT, FILL, LIMIT, SHIFT, REQUEST, TARGET, GUARD,
    OPEN, HIGH, LOW, CLOSE, VOLUME, SPREAD, SIGMA, ADV, FUNDING, DIVIDEND, LOT, TICK, ENDS, TERMINAL,
    BEFORE, QUOTE, TAKES, WHY, ORDER, PRICE, STATUS, REASON, SHOWN, PRICE_PNL,
    COST_SPREAD, COST_IMPACT, COST_DRIFT, COST_FEES, COST_FUNDING, COST_BORROW, LIQUIDATION, IMPACT, NUM_SLOT,
) = (LANES * k for k in range(45))  # fmt: skip
CASH, EQUITY, PEAK, STATE, DONE, GROSS, ROOM, RULE, ASKED, SESSION_END, YEARS, NUM_DESK = (LANES * k for k in range(12))
ARRIVAL, DECISION, KEY, LATENCY, SENT, ARRIVED, NUM_WHOLE = (LANES * k for k in range(7))
NOW, NEXT, BAR, NUM_CLOCK = (LANES * k for k in range(4))
NUM_BAR, NUM_TERMS = 8, 5
"""Numbers of a packed bar, in the order of the fields from OPEN on, and of its terms, from DIVIDEND on."""
GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MUL1 = np.uint64(0xBF58476D1CE4E5B9)
_MUL2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, S11, TO_UNIT = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11), 1.0 / 9007199254740992.0


class World(NamedTuple):
    """What the kernel reads of a market and of the latency's law, flat."""

    ts_ns: Int64Array
    session_end: Float64Array
    years: Float64Array
    """(T,) from the close before."""
    bars: Float64Array
    """(N T NUM_BAR,)"""
    funding: Float64Array
    """(N T,), or (0,) where none is paid."""
    terms: Float64Array
    """(N T NUM_TERMS,), or (0,) where no asset has any."""
    latency_ns: Int64Array
    cumulative: Float64Array
    first_bar: int
    """What the draws call row 0."""


BOOKS = ("cash_E", "equity_E", "peak_E")
SLOTS = ("position_EA", "mark_EA", "working_EA", "pnl_EA", "pnl_peak_EA", "weight_EA", "fill_EA", "limit_EA", "shift_EA")
WHOLES = ("arrival_EA", "decision_EA", "key_EA")
"""The state of accounts in the order of the tile's fields, from CASH, HELD and ARRIVAL on."""
NUM_READ = SLOTS.index("fill_EA")
"""What a step needs of a slot where limits and own impact are not; what was filled is only written."""


class Block(NamedTuple):
    """The memory of `Accounts`: one row of `stride` numbers a field, in few arrays, because each that is handed over takes time.

    A stride is no multiple of a page: else the same place of all rows would fall on the same lines of the first cache.
    """

    books: Float64Array
    slots: Float64Array
    wholes: Int64Array
    asset: Int64Array
    t: Int64Array
    guard: Int8Array
    done: BoolArray
    stride_E: int
    stride_EA: int


class Scratch(NamedTuple):
    """Room for one tile; each thread has its own."""

    tile: Float64Array
    whole: Int64Array
    desk: Float64Array
    clock: Int64Array
    calm: Float64Array


def aligned(size: int) -> Float64Array:
    """Zeros that begin with a line of the cache, so that no vector of a tile lies on two."""
    room: Float64Array = np.zeros(size + 8)
    first = (-room.ctypes.data % 64) // 8
    return room[first : first + size]


def build_scratch(num_slots: int) -> Scratch:
    """An empty tile of so many slots."""
    whole, clock = aligned(num_slots * NUM_WHOLE).view(np.int64), aligned(NUM_CLOCK).view(np.int64)
    return Scratch(aligned(num_slots * NUM_SLOT), whole, aligned(NUM_DESK), clock, aligned(30 * WIDE))


def build_accounts(num_accounts: int, num_slots: int) -> tuple[Accounts, Block]:
    """Empty accounts, and the memory that they are views of."""
    shapes = {"_E": (num_accounts,), "EA": (num_accounts, num_slots)}
    strides = {name: 8 * (2 * math.ceil(math.prod(shape) / 16) + 9) for name, shape in shapes.items()}
    dtypes = {"stream_E": np.int64, "asset_EA": np.int64, "t_E": np.int64, "guard_E": np.int8, "done_E": np.bool_}
    arrays: dict[str, Any] = {}
    memory: list[Any] = []
    for names in (BOOKS, SLOTS, WHOLES):
        stride, shape = strides[names[0][-2:]], shapes[names[0][-2:]]
        memory.append(aligned(len(names) * stride) if names is not WHOLES else aligned(len(names) * stride).view(np.int64))
        arrays |= {name: memory[-1][k * stride : k * stride + math.prod(shape)].reshape(shape) for k, name in enumerate(names)}
    arrays |= {name: np.zeros(shapes[name[-2:]], dtype=dtypes.get(name, np.float64)) for name in Accounts._fields if name not in arrays}
    accounts = Accounts(**arrays)
    asset = accounts.asset_EA.reshape(-1)
    books, slots, wholes = memory
    return accounts, Block(books, slots, wholes, asset, accounts.t_E, accounts.guard_E, accounts.done_E, strides["_E"], strides["EA"])


def build_world(
    market: MarketArrays, participation: float, funding: bool, latency_ns: Int64Array, cumulative: Float64Array, first_bar: int = 0
) -> World:
    """The market side by side: one line of the cache for a bar, the bars of an asset one after the other.

    The row of bar t + 1 belongs to the step from t; volatility, average notional, spread and depth in it are those of bar t, and the
    average is negative where the asset had no bar then. A depth that is less than `participation` of the volume lessens the volume.
    What few markets have (funding; lots, ticks, dividends, delisting) lies apart.
    """
    num_times, num_assets = market.tradable.shape
    bars = aligned(num_assets * num_times * NUM_BAR).reshape(num_assets, num_times, NUM_BAR)
    for k, array in enumerate((market.open, market.high, market.low, market.close, market.volume)):
        bars[:, :, k] = array.T
    bars[:, 1:, 4] = np.minimum(bars[:, 1:, 4], market.depth[:-1].T / participation)
    bars[:, 1:, 5] = market.half_spread_bps[:-1].T * 1e-4
    bars[:, 1:, 6] = market.sigma[:-1].T
    bars[:, 1:, 7] = np.where(market.tradable[:-1], market.adv_ccy[:-1], -market.adv_ccy[:-1]).T
    terms = np.zeros((num_assets, num_times, NUM_TERMS))
    terms[:, :, 0] = market.dividend.T
    for k, values in ((1, market.lot), (2, market.tick), (4, market.terminal_ret)):
        terms[:, :, k] = values[:, None]
    terms[:, :, 3] = np.arange(num_times) == market.end[:, None]
    rates = np.ascontiguousarray(market.funding.T) if funding and market.funding.any() else np.zeros((0, 0))
    return World(
        market.ts_ns, market.session_end.astype(np.float64), np.diff(market.ts_ns, prepend=market.ts_ns[0]) / NS_PER_YEAR, bars.reshape(-1),
        rates.reshape(-1), terms.reshape(-1) if terms.any() else np.zeros(0), latency_ns, cumulative, int(first_bar),
    )  # fmt: skip


@njit(error_model="numpy", forceinline=True)
def mix(x: np.uint64) -> np.uint64:
    """Finaliser of splitmix64.

    Source  Steele, Lea, Flood 2014, section 4.
    """
    x = (x ^ (x >> _S30)) * _MUL1
    x = (x ^ (x >> _S27)) * _MUL2
    return x ^ (x >> _S31)


def stream_keys(seed: int, stream_EA: Int64Array, asset_EA: Int64Array) -> Int64Array:
    """What the draws of a slot begin with: a hash of seed, stream and asset, each >= 0."""
    with np.errstate(over="ignore"):
        key = mix(np.full(asset_EA.shape, seed, dtype=np.uint64) + GAMMA)
        key = mix((key ^ stream_EA.astype(np.uint64)) + GAMMA)
        key = mix((key ^ asset_EA.astype(np.uint64)) + GAMMA)
    whole: Int64Array = key.view(np.int64)
    return whole


@njit(error_model="numpy", _nrt=False, forceinline=True)
def take(outside: Any, first: int, stride: int, inside: Any, n: int) -> None:
    """Numbers of a flat array of the outside into one field of a tile."""
    if stride == 1:
        run = outside[first : first + n]
        for i in range(n):
            inside[i] = run[i]
    else:
        for i in range(n):
            inside[i] = outside[first + i * stride]


@njit(error_model="numpy", _nrt=False, forceinline=True)
def put(outside: Any, first: int, stride: int, inside: Any, n: int) -> None:
    """One field of a tile back into a flat array of the outside; nothing into an empty one."""
    if outside.size == 0:
        return
    if stride == 1:
        run = outside[first : first + n]
        for i in range(n):
            run[i] = inside[i]
    else:
        for i in range(n):
            outside[first + i * stride] = inside[i]


@njit(error_model="numpy", _nrt=False, forceinline=True)
def load_tile(block: Block, low: int, n: int, num_slots: int, scratch: Scratch, lasts: bool) -> None:
    """State of accounts low .. low + n into the tile. `lasts`: limits and own impact too."""
    desk = scratch.desk
    for k in range(len(BOOKS)):
        take(block.books, k * block.stride_E + low, 1, desk[k * LANES :], n)
    take(block.guard, low, 1, desk[STATE:], n)
    take(block.done, low, 1, desk[DONE:], n)
    take(block.t, low, 1, scratch.clock[BAR:], n)
    for a in range(num_slots):
        s, w = scratch.tile[a * NUM_SLOT : (a + 1) * NUM_SLOT], scratch.whole[a * NUM_WHOLE : (a + 1) * NUM_WHOLE]
        first = low * num_slots + a
        for k in range(len(SLOTS) if lasts else NUM_READ):
            take(block.slots, k * block.stride_EA + first, num_slots, s[k * LANES :], n)
        for k in range(len(WHOLES)):
            take(block.wholes, k * block.stride_EA + first, num_slots, w[k * LANES :], n)


@njit(error_model="numpy", _nrt=False, forceinline=True)
def store_tile(block: Block, low: int, n: int, num_slots: int, scratch: Scratch, lasts: bool) -> None:
    """State of the tile back into accounts low .. low + n. `lasts`: limits and own impact too."""
    desk = scratch.desk
    for k in range(len(BOOKS)):
        put(block.books, k * block.stride_E + low, 1, desk[k * LANES :], n)
    put(block.guard, low, 1, desk[STATE:], n)
    put(block.done, low, 1, desk[DONE:], n)
    put(block.t, low, 1, scratch.clock[BAR:], n)
    for a in range(num_slots):
        s, w = scratch.tile[a * NUM_SLOT : (a + 1) * NUM_SLOT], scratch.whole[a * NUM_WHOLE : (a + 1) * NUM_WHOLE]
        first = low * num_slots + a
        for k in range(len(SLOTS) if lasts else NUM_READ + 1):
            put(block.slots, k * block.stride_EA + first, num_slots, s[k * LANES :], n)
        for k in range(len(WHOLES) - 1):  # the key stays
            put(block.wholes, k * block.stride_EA + first, num_slots, w[k * LANES :], n)


@njit(error_model="numpy", _nrt=False, forceinline=True)
def stand_together(block: Block, low: int, n: int, num_slots: int) -> bool:
    """Whether all lanes of a tile stand on the same bar and hold the same assets in their slots."""
    apart = 0
    if (block.t[low] != block.t[low + n - 1]) | (block.asset[low * num_slots] != block.asset[(low + n - 1) * num_slots]):
        return False  # most that stand apart are known by their ends
    for i in range(1, n):
        apart += block.t[low + i] != block.t[low]
        for a in range(num_slots):
            apart += block.asset[(low + i) * num_slots + a] != block.asset[low * num_slots + a]
    return apart == 0


@njit(error_model="numpy", _nrt=False, forceinline=True)
def read_times(world: World, desk: Float64Array, clock: Int64Array, n: int, together: bool) -> None:
    """The times of the bars that come; an account that is done may stand beyond the end."""
    last = world.ts_ns.size - 2
    if together:
        t = min(clock[BAR], last)
        now, after, over, years = world.ts_ns[t], world.ts_ns[t + 1], world.session_end[t + 1], world.years[t + 1]
        for i in range(n):
            clock[NOW + i], clock[NEXT + i] = now, after
            desk[SESSION_END + i], desk[YEARS + i] = over, years
    else:
        for i in range(n):
            t = min(clock[BAR + i], last)
            clock[NOW + i], clock[NEXT + i] = world.ts_ns[t], world.ts_ns[t + 1]
            desk[SESSION_END + i], desk[YEARS + i] = world.session_end[t + 1], world.years[t + 1]


@njit(error_model="numpy", _nrt=False, forceinline=True)
def spread_out(row: Float64Array, s: Float64Array, first: int, count: int, n: int) -> None:
    """The same numbers into `count` fields of all lanes."""
    for k in range(count):
        value, field = row[k], s[first + k * LANES :]
        for i in range(n):
            field[i] = value


@njit(error_model="numpy", _nrt=False, forceinline=True)
def read_bars(world: World, asset: Int64Array, stride: int, s: Float64Array, clock: Int64Array, n: int, together: bool) -> None:
    """The bars that come into one slot of all lanes; `asset` begins with that of the first lane."""
    num_times = world.ts_ns.size
    if together:
        place = asset[0] * num_times + min(clock[BAR], num_times - 2) + 1
        spread_out(world.bars[place * NUM_BAR :], s, OPEN, NUM_BAR, n)
        if world.funding.size:
            spread_out(world.funding[place:], s, FUNDING, 1, n)
        if world.terms.size:
            spread_out(world.terms[place * NUM_TERMS :], s, DIVIDEND, NUM_TERMS, n)
    else:
        for i in range(n):
            place = asset[i * stride] * num_times + min(clock[BAR + i], num_times - 2) + 1
            bar = world.bars[place * NUM_BAR : (place + 1) * NUM_BAR]
            for k in range(NUM_BAR):
                s[OPEN + k * LANES + i] = bar[k]
            if world.funding.size:
                s[FUNDING + i] = world.funding[place]
            if world.terms.size:
                for k in range(NUM_TERMS):
                    s[DIVIDEND + k * LANES + i] = world.terms[place * NUM_TERMS + k]


@njit(error_model="numpy", _nrt=False, forceinline=True)
def draw_latencies(world: World, s: Float64Array, w: Int64Array, clock: Int64Array, n: int) -> None:
    """Latency of an order that would be sent now, by the names of slot and bar alone."""
    shortest, num_buckets = world.latency_ns[0], world.latency_ns.size
    for i in range(n):
        w[LATENCY + i] = shortest
    if num_buckets == 1:
        return
    for i in range(n):
        key = mix((np.uint64(w[KEY + i]) ^ np.uint64(world.first_bar + clock[BAR + i])) + GAMMA)
        s[QUOTE + i] = np.float64(key >> S11) * TO_UNIT
    for k in range(num_buckets - 1):
        bound, longer = world.cumulative[k], world.latency_ns[k + 1]
        for i in range(n):
            w[LATENCY + i] = longer if s[QUOTE + i] >= bound else w[LATENCY + i]


@njit(error_model="numpy", _nrt=False, forceinline=True)
def read_tile(
    world: World, block: Block, request: Float64Array, low: int, n: int, num_slots: int, together: bool, scratch: Scratch
) -> None:  # fmt: skip
    """Everything that the step from bar `clock[BAR]` needs from outside. Shapes  request flat (E A,)."""
    read_times(world, scratch.desk, scratch.clock, n, together)
    for a in range(num_slots):
        s, w = scratch.tile[a * NUM_SLOT : (a + 1) * NUM_SLOT], scratch.whole[a * NUM_WHOLE : (a + 1) * NUM_WHOLE]
        first = low * num_slots + a
        take(request, first, num_slots, s[REQUEST:], n)
        read_bars(world, block.asset[first:], num_slots, s, scratch.clock, n, together)
        draw_latencies(world, s, w, scratch.clock, n)
