"""The tile: up to LANES accounts as the step kernel carries them, the way from the arrays of the outside and back, the rulebook on it.

Field k of slot a lies at tile[a * NUM_SLOT + k : ... + LANES], one lane an account, in one flat array with constant offsets: then
the compiler needs no proof that forty arrays do not overlap, and a tile of one slot fits into the first cache of a core.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.guardrails.kernels import limit_one, next_state
from plusultra_core.guardrails.limits import HALTED, MAX_GROSS, NO_EQUITY, REDUCING, STATE_REDUCING, Limits
from plusultra_core.simulation.records import Accounts, MarketArrays, Step

LANES = 64

# A slot: state, what is asked, the bar that comes, what happened. An account: money, state, sums over its slots. Then whole numbers.
(
    HELD, MARK, WORKING, LIMIT, SHIFT, PNL, PNL_PEAK, WEIGHT, REQUEST, TARGET, GUARD,
    OPEN, HIGH, LOW, CLOSE, VOLUME, FUNDING, SIGMA, ADV, FRESH, SPREAD, DIVIDEND, LOT, TICK, ENDS, TERMINAL,
    BEFORE, QUOTE, TAKES, WHY, ORDER, FILL, PRICE, STATUS, REASON, SHOWN, PRICE_PNL,
    COST_SPREAD, COST_IMPACT, COST_DRIFT, COST_FEES, COST_FUNDING, COST_BORROW, LIQUIDATION, NUM_SLOT,
) = (LANES * k for k in range(45))  # fmt: skip
CASH, EQUITY, PEAK, STATE, DONE, GROSS, ROOM, RULE, ASKED, SESSION_END, NUM_DESK = (LANES * k for k in range(11))
ARRIVAL, DECISION, LATENCY, SENT, ARRIVED, NUM_WHOLE = (LANES * k for k in range(6))
NOW, NEXT, BAR, NUM_CLOCK = (LANES * k for k in range(4))
NUM_BAR_FIELDS = 15
"""Numbers of a packed bar, in the order of the fields from OPEN on."""
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MUL1 = np.uint64(0xBF58476D1CE4E5B9)
_MUL2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)


class Draw(NamedTuple):
    """How latencies are drawn."""

    seed: int
    latency_ns_L: Int64Array
    cumulative_L: Float64Array


class Scratch(NamedTuple):
    """Room for one tile; each thread has its own."""

    tile: Float64Array
    whole: Int64Array
    desk: Float64Array
    clock: Int64Array


def build_scratch(num_slots: int) -> Scratch:
    """An empty tile of so many slots."""
    whole: Int64Array = np.zeros(num_slots * NUM_WHOLE, dtype=np.int64)
    return Scratch(np.zeros(num_slots * NUM_SLOT), whole, np.zeros(NUM_DESK), np.zeros(NUM_CLOCK, dtype=np.int64))


def pack_bars(market: MarketArrays) -> Float64Array:
    """All that a step from t to t + 1 reads of an asset, side by side. Shapes  result (T, N, 15); row t + 1 belongs to the step.

    Volatility, average notional and presence are those of bar t: what was known when the order was decided.
    """
    num_times, num_assets = market.tradable.shape
    bars: Float64Array = np.zeros((num_times, num_assets, NUM_BAR_FIELDS))
    for k, array in enumerate((market.open, market.high, market.low, market.close, market.volume, market.funding)):
        bars[:, :, k] = array
    bars[1:, :, 6], bars[1:, :, 7], bars[1:, :, 8] = market.sigma[:-1], market.adv_ccy[:-1], market.tradable[:-1]
    bars[:, :, 9] = market.half_spread_bps * 1e-4
    bars[:, :, 10] = market.dividend
    bars[:, :, 11], bars[:, :, 12] = market.lot, market.tick
    bars[:, :, 13] = np.arange(num_times)[:, None] == market.end
    bars[:, :, 14] = market.terminal_ret
    return bars


@njit(cache=True, error_model="numpy", forceinline=True)
def mix(x: np.uint64) -> np.uint64:
    """Finaliser of splitmix64.

    Source  Steele, Lea, Flood 2014, section 4.
    """
    x = (x ^ (x >> _S30)) * _MUL1
    x = (x ^ (x >> _S27)) * _MUL2
    return x ^ (x >> _S31)


@njit(cache=True, error_model="numpy", forceinline=True)
def draw_uniform(seed: int, stream: int, asset: int, t: int) -> float:
    """A number in [0, 1) that depends on nothing but its four names, each >= 0."""
    key = mix(np.uint64(seed) + _GAMMA)
    key = mix((key ^ np.uint64(stream)) + _GAMMA)
    key = mix((key ^ np.uint64(asset)) + _GAMMA)
    key = mix((key ^ np.uint64(t)) + _GAMMA)
    return np.float64(key >> _S11) * (1.0 / 9007199254740992.0)


@njit(cache=True, error_model="numpy", forceinline=True)
def draw_bucket(seed: int, stream: int, asset: int, t: int, cumulative_L: Float64Array) -> int:
    """A bucket with the probabilities whose sums are `cumulative_L`, by its names."""
    u = draw_uniform(seed, stream, asset, t)
    bucket = 0
    for k in range(cumulative_L.size - 1):
        bucket += 1 if u >= cumulative_L[k] else 0
    return bucket


@njit(cache=True, error_model="numpy", _nrt=False)
def load_tile(accounts: Accounts, low: int, n: int, num_slots: int, scratch: Scratch) -> None:
    """State of accounts low .. low + n into the tile."""
    tile, whole, desk, clock = scratch.tile, scratch.whole, scratch.desk, scratch.clock
    for i in range(n):
        e = low + i
        desk[CASH + i] = accounts.cash_E[e]
        desk[EQUITY + i] = accounts.equity_E[e]
        desk[PEAK + i] = accounts.peak_E[e]
        desk[STATE + i] = accounts.guard_E[e]
        desk[DONE + i] = 1.0 if accounts.done_E[e] else 0.0
        clock[BAR + i] = accounts.t_E[e] - 1
    for a in range(num_slots):
        s, w = tile[a * NUM_SLOT : (a + 1) * NUM_SLOT], whole[a * NUM_WHOLE : (a + 1) * NUM_WHOLE]
        for i in range(n):
            e = low + i
            s[HELD + i] = accounts.position_EA[e, a]
            s[MARK + i] = accounts.mark_EA[e, a]
            s[WEIGHT + i] = accounts.weight_EA[e, a]
            s[WORKING + i] = accounts.working_EA[e, a]
            s[LIMIT + i] = accounts.limit_EA[e, a]
            s[SHIFT + i] = accounts.shift_EA[e, a]
        for i in range(n):
            e = low + i
            s[PNL + i] = accounts.pnl_EA[e, a]
            s[PNL_PEAK + i] = accounts.pnl_peak_EA[e, a]
            w[ARRIVAL + i] = accounts.arrival_EA[e, a]
            w[DECISION + i] = accounts.decision_EA[e, a]


@njit(cache=True, error_model="numpy", _nrt=False)
def store_tile(accounts: Accounts, low: int, n: int, num_slots: int, num_steps: int, scratch: Scratch) -> None:
    """State of the tile back into accounts low .. low + n, `num_steps` bars later."""
    tile, whole, desk = scratch.tile, scratch.whole, scratch.desk
    for i in range(n):
        e = low + i
        accounts.cash_E[e] = desk[CASH + i]
        accounts.equity_E[e] = desk[EQUITY + i]
        accounts.peak_E[e] = desk[PEAK + i]
        accounts.guard_E[e] = np.int8(desk[STATE + i])
        accounts.done_E[e] = desk[DONE + i] != 0.0
        accounts.t_E[e] += num_steps
    for a in range(num_slots):
        s, w = tile[a * NUM_SLOT : (a + 1) * NUM_SLOT], whole[a * NUM_WHOLE : (a + 1) * NUM_WHOLE]
        for i in range(n):
            e = low + i
            accounts.position_EA[e, a] = s[HELD + i]
            accounts.mark_EA[e, a] = s[MARK + i]
            accounts.weight_EA[e, a] = s[WEIGHT + i]
            accounts.working_EA[e, a] = s[WORKING + i]
            accounts.limit_EA[e, a] = s[LIMIT + i]
            accounts.shift_EA[e, a] = s[SHIFT + i]
        for i in range(n):
            e = low + i
            accounts.pnl_EA[e, a] = s[PNL + i]
            accounts.pnl_peak_EA[e, a] = s[PNL_PEAK + i]
            accounts.arrival_EA[e, a] = w[ARRIVAL + i]
            accounts.decision_EA[e, a] = w[DECISION + i]


@njit(cache=True, error_model="numpy", _nrt=False)
def read_bars(
    ts_ns: Int64Array,
    session_end: Float64Array,
    bars_TNR: Float64Array,
    accounts: Accounts,
    request_EA: Float64Array,
    low: int,
    n: int,
    num_slots: int,
    draw: Draw,
    scratch: Scratch,
) -> None:
    """Move the clocks one bar on; the bars that come, the requests and the latencies into the tile."""
    tile, whole, desk, clock = scratch.tile, scratch.whole, scratch.desk, scratch.clock
    last = ts_ns.size - 1
    for i in range(n):
        t = clock[BAR + i] + 1
        clock[BAR + i] = t
        clock[NOW + i] = ts_ns[min(t, last - 1)]  # an account that is done may stand beyond the end
        clock[NEXT + i] = ts_ns[min(t + 1, last)]
        desk[SESSION_END + i] = session_end[min(t + 1, last)]
    for a in range(num_slots):
        s, w = tile[a * NUM_SLOT : (a + 1) * NUM_SLOT], whole[a * NUM_WHOLE : (a + 1) * NUM_WHOLE]
        for i in range(n):
            bar = bars_TNR[min(clock[BAR + i] + 1, last), accounts.asset_EA[low + i, a]]
            for k in range(NUM_BAR_FIELDS):
                s[OPEN + k * LANES + i] = bar[k]
            s[REQUEST + i] = request_EA[low + i, a]
        for i in range(n):
            e = low + i
            w[LATENCY + i] = draw.latency_ns_L[0]
            if draw.latency_ns_L.size > 1:
                w[LATENCY + i] = draw.latency_ns_L[
                    draw_bucket(draw.seed, accounts.stream_E[e], accounts.asset_EA[e, a], clock[BAR + i], draw.cumulative_L)
                ]


@njit(cache=True, error_model="numpy", _nrt=False)
def store_step(scratch: Scratch, low: int, n: int, num_slots: int, row: int, out: Step) -> None:
    """What the step did, into out[row, low .. low + n]."""
    for a in range(num_slots):
        s, w = scratch.tile[a * NUM_SLOT : (a + 1) * NUM_SLOT], scratch.whole[a * NUM_WHOLE : (a + 1) * NUM_WHOLE]
        for i in range(n):
            e = low + i
            out.request[row, e, a] = s[REQUEST + i]
            out.target[row, e, a] = s[TARGET + i]
            out.guard[row, e, a] = np.int8(s[GUARD + i])
            out.status[row, e, a] = np.int8(s[STATUS + i])
            out.reason[row, e, a] = np.int8(s[REASON + i])
            out.latency[row, e, a] = w[LATENCY + i]
            out.decision[row, e, a] = w[SENT + i]
            out.arrival[row, e, a] = w[ARRIVED + i]
        for i in range(n):
            e = low + i
            out.order[row, e, a] = s[ORDER + i]
            out.fill[row, e, a] = s[FILL + i]
            out.price[row, e, a] = s[PRICE + i]
            out.position[row, e, a] = s[HELD + i]
            out.mark[row, e, a] = s[SHOWN + i]
            out.price_pnl[row, e, a] = s[PRICE_PNL + i]
        for i in range(n):
            e = low + i
            out.spread[row, e, a] = s[COST_SPREAD + i]
            out.impact[row, e, a] = s[COST_IMPACT + i]
            out.latency_drift[row, e, a] = s[COST_DRIFT + i]
            out.fees[row, e, a] = s[COST_FEES + i]
            out.funding[row, e, a] = s[COST_FUNDING + i]
            out.borrow[row, e, a] = s[COST_BORROW + i]
            out.liquidation[row, e, a] = s[LIQUIDATION + i]


@njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
def guard_states(desk: Float64Array, n: int, limits: Limits) -> None:
    """State of every account after its equity is known; RULE is the one that decides, also where equity is not."""
    for i in range(n):
        equity, peak, old = desk[EQUITY + i], desk[PEAK + i], desk[STATE + i]
        known = math.isfinite(equity) and equity > 0.0 and math.isfinite(peak)
        state = float(next_state(int(old), equity, peak, limits))
        judged = known or old == HALTED
        desk[STATE + i] = state if judged else old
        desk[RULE + i] = state if judged else float(REDUCING)


@njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
def guard_targets(s: Float64Array, desk: Float64Array, n: int, limits: Limits) -> None:
    """The rulebook on one slot by itself."""
    for i in range(n):
        equity = desk[EQUITY + i]
        room = limits.max_participation * s[ADV + i] / equity
        target, reason = limit_one(s[REQUEST + i], s[WEIGHT + i], s[FRESH + i] != 0.0, room, int(desk[RULE + i]), limits)
        known = math.isfinite(equity) and equity > 0.0 and math.isfinite(desk[PEAK + i])
        s[TARGET + i] = target
        s[GUARD + i] = float(NO_EQUITY if reason == STATE_REDUCING and not known else reason)


@njit(cache=True, error_model="numpy", _nrt=False)
def scale_book(tile: Float64Array, desk: Float64Array, num_slots: int, n: int, rule: int, limit: float) -> None:
    """Shrink what is asked for until gross or net fit; what is merely held (NaN target) counts and stays."""
    for i in range(n):
        desk[GROSS + i] = 0.0
        desk[ASKED + i] = 0.0
    for a in range(num_slots):
        s = tile[a * NUM_SLOT : (a + 1) * NUM_SLOT]
        for i in range(n):
            target = s[TARGET + i]
            hold = math.isnan(target)
            value = s[WEIGHT + i] if hold else target
            value = abs(value) if rule == MAX_GROSS else value
            desk[GROSS + i] += value if hold else 0.0
            desk[ASKED + i] += 0.0 if hold else value
    for a in range(num_slots):
        s = tile[a * NUM_SLOT : (a + 1) * NUM_SLOT]
        for i in range(n):
            held, asked, target = desk[GROSS + i], desk[ASKED + i], s[TARGET + i]
            scale = min(max((math.copysign(limit, held + asked) - held) / asked, 0.0), 1.0)
            cut = abs(held + asked) > limit * (1.0 + 1e-12) and asked != 0.0 and scale < 1.0 and not math.isnan(target) and target != 0.0
            s[TARGET + i] = target * scale if cut else target
            s[GUARD + i] = float(rule) if cut else s[GUARD + i]
