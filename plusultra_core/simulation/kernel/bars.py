"""The bar that an account stands before, as numbers, and the law of the latency; the bars of accounts that stand apart, in a tile."""

import math
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.simulation import tiles as at
from plusultra_core.simulation.costs import Rules
from plusultra_core.simulation.tiles import Block, Scratch, World

MOST_BUCKETS = 4
"""Latencies that a law has room for; accounts with more go through the whole step."""


class Bar(NamedTuple):
    """A bar and the times around it, as numbers; spread, volatility and average notional are those of the decision."""

    first: float
    high: float
    low: float
    last: float
    volume: float
    spread: float
    sigma: float
    adv: float
    rate: float
    years: float
    over: bool
    now: int
    after: int
    start: int
    """From when on it trades."""
    t: int


class Law(NamedTuple):
    """The law of the latency over bars of one length: from which uniform number on which latency, and the part of the bar over then."""

    late_ns: int
    """From when the bar trades to its decision: not above 0."""
    length_ns: int
    ns_0: int
    ns_1: int
    ns_2: int
    ns_3: int
    longest_ns: int
    bound_1: float
    bound_2: float
    bound_3: float
    part_0: float
    part_1: float
    part_2: float
    part_3: float


@njit(error_model="numpy", _nrt=False, forceinline=True)
def bar_of(world: World, asset: int, t: int, rules: Rules) -> Bar:
    """The bar after t of an asset."""
    place = asset * world.ts_ns.size + t + 1
    row = world.bars[place * at.NUM_BAR : (place + 1) * at.NUM_BAR]
    rate = world.funding[place] if world.funding.size else 0.0
    now, after = world.ts_ns[t], world.ts_ns[t + 1]
    start = max(now, after - rules.bar_ns)
    over, years = world.session_end[t + 1] != 0.0, world.years[t + 1]
    return Bar(row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], rate, years, over, now, after, start, t)


@njit(error_model="numpy", _nrt=False, forceinline=True)
def bar_at(s: Float64Array, desk: Float64Array, clock: Int64Array, i: int, rules: Rules) -> Bar:
    """The bar of a lane, from the tile."""
    now, after = clock[at.NOW + i], clock[at.NEXT + i]
    return Bar(
        s[at.OPEN + i], s[at.HIGH + i], s[at.LOW + i], s[at.CLOSE + i], s[at.VOLUME + i], s[at.SPREAD + i], s[at.SIGMA + i], s[at.ADV + i],
        s[at.FUNDING + i], desk[at.YEARS + i], desk[at.SESSION_END + i] != 0.0, now, after, max(now, after - rules.bar_ns),
        clock[at.BAR + i],
    )  # fmt: skip


@intrinsic  # type: ignore[untyped-decorator]
def turn(typing: Any, rows: Any, place: Any, fields: Any, first: Any) -> Any:
    """Eight rows of eight numbers, row k from element `place[k]` of a flat array, into eight fields of LANES numbers, from `first` on.

    Each row and each field begins with a line of the cache. Three rounds of exchanges in registers: half of a block of two, four,
    eight with that of its neighbour.
    """

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = [context.make_array(signature.args[k])(context, builder, value=arguments[k]).data for k in range(3)]
        line, word, size = ir.VectorType(ir.DoubleType(), 8).as_pointer(), ir.IntType(64), ir.IntType(32)
        lines = []
        for k in range(8):
            spot = builder.load(builder.gep(data[1], [word(k)]))
            lines.append(builder.load(builder.bitcast(builder.gep(data[0], [spot]), line), align=64))
        for half in (1, 2, 4):
            for k in range(8):
                if not k & half:
                    low, high = lines[k], lines[k + half]
                    masks = ([j + 8 - half if j & half else j for j in range(8)], [j + 8 if j & half else j + half for j in range(8)])
                    lines[k], lines[k + half] = (
                        builder.shuffle_vector(low, high, ir.Constant(ir.VectorType(size, 8), mask)) for mask in masks
                    )
        for k in range(8):
            spot = builder.add(arguments[3], word(at.LANES * k))
            builder.store(lines[k], builder.bitcast(builder.gep(data[2], [spot]), line), align=64)
        return context.get_dummy_value()

    return types.void(rows, place, fields, types.intp), build


@njit(error_model="numpy", _nrt=False, forceinline=True)
def bring(world: World, block: Block, low: int, n: int, scratch: Scratch, longest_ns: int, rules: Rules) -> int:
    """The bars that come for accounts of one slot that stand apart, and their times, into the tile; how many are not whole."""
    s, w, desk, clock, last = scratch.tile, scratch.whole, scratch.desk, scratch.clock, world.ts_ns.size - 2
    for i in range(n):
        t = min(clock[at.BAR + i], last)
        w[at.LATENCY + i] = (block.asset[low + i] * world.ts_ns.size + t + 1) * at.NUM_BAR
        clock[at.NOW + i], clock[at.NEXT + i] = world.ts_ns[t], world.ts_ns[t + 1]
        desk[at.SESSION_END + i], desk[at.YEARS + i] = world.session_end[t + 1], world.years[t + 1]
    for i in range(n, -(-n // 8) * 8):
        w[at.LATENCY + i] = w[at.LATENCY]
    for i in range(0, n, 8):
        turn(world.bars, w[at.LATENCY + i :], s, at.OPEN + i)
    for i in range(n):
        s[at.FUNDING + i] = world.funding[w[at.LATENCY + i] // at.NUM_BAR] if world.funding.size else 0.0
    worse = 0
    for i in range(n):
        worse += not is_whole(bar_at(s, desk, clock, i, rules), longest_ns)
    return worse


@njit(error_model="numpy", _nrt=False, forceinline=True)
def law_of(world: World, late_ns: int, length_ns: int) -> Law:
    """What `draw_latencies` and `quote` make of the buckets over a bar."""
    count, length = world.latency_ns.size, np.float64(length_ns)
    ns_0 = world.latency_ns[0]
    part_0 = max(np.float64(late_ns + ns_0), 0.0) / length
    ns_1, ns_2, ns_3, part_1, part_2, part_3 = ns_0, ns_0, ns_0, part_0, part_0, part_0
    bound_1, bound_2, bound_3 = np.inf, np.inf, np.inf
    if count > 1:
        bound_1, ns_1 = world.cumulative[0], world.latency_ns[1]
        part_1 = max(np.float64(late_ns + ns_1), 0.0) / length
    if count > 2:
        bound_2, ns_2 = world.cumulative[1], world.latency_ns[2]
        part_2 = max(np.float64(late_ns + ns_2), 0.0) / length
    if count > 3:
        bound_3, ns_3 = world.cumulative[2], world.latency_ns[3]
        part_3 = max(np.float64(late_ns + ns_3), 0.0) / length
    longest = max(max(ns_0, ns_1), max(ns_2, ns_3))
    return Law(late_ns, length_ns, ns_0, ns_1, ns_2, ns_3, longest, bound_1, bound_2, bound_3, part_0, part_1, part_2, part_3)


@njit(error_model="numpy", _nrt=False, forceinline=True)
def is_law(law: Law, bar: Bar) -> bool:
    """Whether a law is that of this bar."""
    return (law.late_ns == bar.now - bar.start) & (law.length_ns == bar.after - bar.start)


@njit(error_model="numpy", _nrt=False, forceinline=True)
def is_whole(bar: Bar, longest_ns: int) -> bool:
    """Whether the bar has all that the loops take for granted, and whatever is sent now arrives in it."""
    priced = (bar.first > 0.0) & (bar.high > 0.0) & (bar.low > 0.0) & (bar.last > 0.0) & (bar.adv > 0.0) & (bar.spread >= 0.0)
    total = bar.first + bar.high + bar.low + bar.last + bar.volume + bar.spread + bar.sigma + bar.adv + bar.rate + bar.years
    in_time = (bar.now + longest_ns <= bar.after) & (bar.start < bar.after)
    return priced & math.isfinite(total) & (bar.volume >= 0.0) & in_time


@njit(error_model="numpy", _nrt=False, forceinline=True)
def is_known(world: World, rules: Rules) -> bool:
    """Whether the loops can do what the config says."""
    return (world.latency_ns.size <= MOST_BUCKETS) & (rules.fee_frac >= 0.0)
