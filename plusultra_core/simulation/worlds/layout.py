"""Worlds side by side as the assets of one market: world w has the columns [w A, (w + 1) A).

Written by one compiled loop, into memory that is used again.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.errors import ContractError
from plusultra_core.simulation.liquidity.currency import results_from
from plusultra_core.simulation.records import MarketArrays
from plusultra_core.simulation.worlds.history import closes_before
from plusultra_core.simulation.worlds.specs import EVERY_ASSET, FUNDING, GAP, JUMP, Past, World, source_rows

BY_BAR = (
    "open", "high", "low", "close", "volume", "funding", "sigma", "adv_ccy", "half_spread_bps", "dividend", "tradable", "proxy", "depth",
    "translation",
)  # fmt: skip
"""Fields (T, N) of a market that `lay_bars` writes."""
BY_ASSET = ("lot", "tick", "terminal_ret", "conversion_bps", "margined")
"""Fields (N,) that every world has alike."""
BY_TIME = ("ts_ns", "session_end")
_EVENT = 5


class Ground(NamedTuple):
    """What every world is laid on."""

    past: Past
    head: int
    """First bar that is kept: early enough that every asset of the span has its last close before the start."""
    before_TN: Float64Array
    mark_N: Float64Array
    """Last close at the start."""
    drift_2N: Float64Array
    """Mean and variance of the log returns of the span's own bars, of the quoted price where only results are exchanged."""

    @property
    def num_rows(self) -> int:
        """Bars of a world."""
        return self.past.end - self.head

    @property
    def bytes_per_world(self) -> int:
        """Memory of one world: its bars as they are laid, and as the step kernel packs them."""
        return self.num_rows * int(self.mark_N.size) * (8 * (len(BY_BAR) - 2) + 2 + 8 * 15)


def open_ground(past: Past, whole: bool) -> Ground:
    """The ground of a past; `whole` keeps all bars, for rules that look back.

    Raises  ContractError when the market has fields that worlds know nothing of.
    """
    market = past.market
    if set(market._fields) != {*BY_BAR, *BY_ASSET, *BY_TIME, "end"}:
        unknown = sorted(set(market._fields) ^ {*BY_BAR, *BY_ASSET, *BY_TIME, "end"})
        raise ContractError(f"worlds: fields {unknown} of a market are not laid; say in worlds/layout.py what becomes of them")
    close = market.close[: past.start + 1]
    seen_N = np.isfinite(close).any(axis=0)
    last_N = past.start - np.isfinite(close[::-1]).argmax(axis=0)
    lives_N = seen_N & market.tradable[past.start : past.end].any(axis=0)
    head = 0 if whole or not lives_N.any() else int(last_N[lives_N].min())
    mark_N = np.where(seen_N, close[last_N, np.arange(seen_N.size)], np.nan)
    span = slice(past.start + 1, past.end)
    return Ground(past, head, closes_before(market.close), mark_N, _drift(market.close[span], results_from(market)[span]))


def _drift(close_KN: Float64Array, before_KN: Float64Array) -> Float64Array:
    known_KN = np.isfinite(close_KN) & np.isfinite(before_KN)
    ret_KN = np.log(np.where(known_KN, close_KN, 1.0) / np.where(known_KN, before_KN, 1.0))
    count_N = np.maximum(known_KN.sum(axis=0), 1)
    mean_N = ret_KN.sum(axis=0) / count_N
    variance_N = np.where(known_KN, (ret_KN - mean_N) ** 2, 0.0).sum(axis=0) / count_N
    return np.stack((mean_N, variance_N))


def empty_bars(ground: Ground, num_worlds: int) -> dict[str, Any]:
    """Memory for the bars of so many worlds."""
    market, shape = ground.past.market, (ground.num_rows, num_worlds * ground.mark_N.size)
    return {name: np.empty(shape, dtype=getattr(market, name).dtype) for name in BY_BAR}


def lay_worlds(ground: Ground, worlds: tuple[World, ...], bars: dict[str, Any]) -> MarketArrays:
    """The worlds as one market from bar `head` on, in the memory of `bars`, which holds as many worlds or more.

    Up to the start every world has the market's own bars, bit for bit; after it each row is a row of the market, so that what
    belongs together (returns across names, range, volume, spread, volatility) stays together.
    A stretched return is m + s (r - m) - (s^2 - 1) v / 2 with mean m and variance v of the span: it is wider by s, and what a holder
    is to expect of it stays what it was; where only results are exchanged it is the quoted price that is stretched. Where rows do not
    follow each other, prices go on from the last close with the return of the new row. Volume and depth keep their money. An asset
    without a bar in a row has none in the world.
    """
    market, num_assets = ground.past.market, ground.mark_N.size
    width = len(worlds) * num_assets
    if bars["close"].shape != (ground.num_rows, width):
        bars = {name: array.reshape(-1)[: ground.num_rows * width].reshape(ground.num_rows, width) for name, array in bars.items()}
    rows_WK = np.stack([source_rows(world, ground.past) for world in worlds])
    factors_WF = np.array([world.factors for world in worlds], dtype=np.float64)
    base = {name: getattr(market, name) for name in BY_BAR}
    by_time = {name: getattr(market, name)[ground.head : ground.past.end] for name in BY_TIME}
    by_asset = {name: np.tile(getattr(market, name), len(worlds)) for name in BY_ASSET}
    laid = market._replace(**bars, **by_time, **by_asset, end=_ends(ground, worlds))
    room = np.empty((5, num_assets))
    events_WME = _events(worlds)
    start, head = ground.past.start, ground.head
    given = (ground.before_TN, ground.mark_N, ground.drift_2N, rows_WK, factors_WF, events_WME)
    lay_bars(market._replace(**base), *given, start, head, room, laid)
    early_N = np.isfinite(ground.mark_N) & ~np.isfinite(market.close[head : start + 1]).any(axis=0)
    laid.close[0].reshape(len(worlds), num_assets)[:, early_N] = ground.mark_N[early_N]  # no bar, but what it was worth last
    return laid


def apart(market: MarketArrays, num_worlds: int) -> tuple[MarketArrays, ...]:
    """The worlds of a market that they stand side by side in, each by itself, without a copy."""
    num_assets = market.tradable.shape[1] // num_worlds
    found = []
    for w in range(num_worlds):
        columns = slice(w * num_assets, (w + 1) * num_assets)
        by_bar = {name: getattr(market, name)[:, columns] for name in BY_BAR}
        found.append(market._replace(**by_bar, **{name: getattr(market, name)[columns] for name in (*BY_ASSET, "end")}))
    return tuple(found)


def _events(worlds: tuple[World, ...]) -> Float64Array:
    most = max(len(world.events) for world in worlds)
    events_WME = np.full((len(worlds), most, _EVENT), -1.0)
    for w, world in enumerate(worlds):
        for m, event in enumerate(world.events):
            events_WME[w, m] = event
    return events_WME


def _ends(ground: Ground, worlds: tuple[World, ...]) -> Int64Array:
    """First bar at which each asset is listed no more: its own, but after a crisis that it falls into; in blocks what lives lives on."""
    end_N, start = ground.past.market.end, ground.past.start
    own_N = np.maximum(np.minimum(end_N, ground.past.end) - ground.head, 1)
    found = []
    for world in worlds:
        found.append(np.where(end_N > start, ground.num_rows, own_N) if world.blocks is not None else own_N)
        if world.crisis is not None:
            first = start + 1 + world.step
            after = first + world.crisis.num_bars
            found[-1] = np.where((end_N >= first) & (end_N < after), after - ground.head, own_N)
    return np.concatenate(found).astype(np.int64)


@njit(cache=True, error_model="numpy", nogil=True)
def lay_bars(
    base: MarketArrays,
    before_TN: Float64Array,
    mark_N: Float64Array,
    drift_2N: Float64Array,
    rows_WK: Int64Array,
    factors_WF: Float64Array,
    events_WME: Float64Array,
    start: int,
    head: int,
    room: Float64Array,
    out: MarketArrays,
) -> None:
    """Write every bar of every world. `room` is (5, N): price level and last price of each asset, then what events do to it."""
    num_assets = mark_N.size
    level, mark, gap, jump, funding = room[0], room[1], room[2], room[3], room[4]
    for w in range(rows_WK.shape[0]):
        first = w * num_assets
        for t in range(head, start + 1):
            copy_row(base, t, out, t - head, first, num_assets)
        level[:], mark[:], gap[:], jump[:], funding[:] = 1.0, mark_N, 1.0, 1.0, 0.0
        previous = start
        sigma, spread, volume = factors_WF[w, 0], factors_WF[w, 1], factors_WF[w, 2]
        for a in range(num_assets):  # an order meets those of the bar of its decision
            out.half_spread_bps[start - head, first + a] *= spread
            out.depth[start - head, first + a] *= volume
            out.sigma[start - head, first + a] *= sigma
            out.adv_ccy[start - head, first + a] *= volume
        for k in range(rows_WK.shape[1]):
            gather_events(events_WME[w], k, gap, jump, funding)
            r = rows_WK[w, k]
            for a in range(num_assets):
                lay_bar(base, before_TN, drift_2N, r, a, r != previous + 1, sigma, room, out, start + 1 - head + k, first + a)
            row = start + 1 - head + k
            for a in range(num_assets):
                at = first + a
                out.sigma[row, at] = base.sigma[r, a] * sigma
                out.adv_ccy[row, at] = base.adv_ccy[r, a] * volume
                out.half_spread_bps[row, at] = base.half_spread_bps[r, a] * spread
                out.volume[row, at] *= volume
                out.depth[row, at] *= volume
                out.funding[row, at] = base.funding[r, a] + funding[a]
                out.tradable[row, at] = base.tradable[r, a]
                out.proxy[row, at] = base.proxy[r, a]
                if row >= out.end[at]:
                    leave_out(out, row, at)
            previous = r


@njit(cache=True, error_model="numpy", _nrt=False)
def gather_events(events_ME: Float64Array, step: int, gap: Float64Array, jump: Float64Array, funding: Float64Array) -> None:
    """What the events of a world do to each asset at a step."""
    if events_ME.shape[0] == 0:
        return
    gap[:], jump[:], funding[:] = 1.0, 1.0, 0.0
    for m in range(events_ME.shape[0]):
        kind, begin, num_steps, asset, size = events_ME[m, 0], events_ME[m, 1], events_ME[m, 2], events_ME[m, 3], events_ME[m, 4]
        if kind >= 0.0 and begin <= step < begin + num_steps:
            for a in range(gap.size):
                if asset in (EVERY_ASSET, a):
                    gap[a] *= 1.0 + size if kind == GAP else 1.0
                    jump[a] *= 1.0 + size if kind == JUMP else 1.0
                    funding[a] += size if kind == FUNDING else 0.0


@njit(cache=True, error_model="numpy", _nrt=False)
def lay_bar(
    base: MarketArrays, before_TN: Float64Array, drift_2N: Float64Array, r: int, a: int, joins: bool, stretch: float, room: Float64Array,
    out: MarketArrays, row: int, at: int,
) -> None:  # fmt: skip
    """One bar: row r of asset a on the price level of its world."""
    close, old, mark = base.close[r, a], before_TN[r, a], room[1, a]
    own = old + base.translation[r, a] if base.margined[a] else old
    level = room[0, a]
    if joins and old > 0.0 and mark > 0.0:
        level = mark / old
    elif close > 0.0 and not old > 0.0 and mark > 0.0:
        level = mark / close
    out.dividend[row, at] = base.dividend[r, a] * level
    out.translation[row, at] = base.translation[r, a] * level
    gap, jump = room[2, a], room[3, a]
    level *= gap
    first, high, low = base.open[r, a], base.high[r, a], base.low[r, a]
    if stretch != 1.0 and close > 0.0:
        if old > 0.0:
            level *= math.exp((stretch - 1.0) * (math.log(close / own) - drift_2N[0, a]) - 0.5 * (stretch * stretch - 1.0) * drift_2N[1, a])
        first = close * math.exp(stretch * math.log(first / close))
        high = close * math.exp(stretch * math.log(high / close))
        low = close * math.exp(stretch * math.log(low / close))
    out.open[row, at] = first * level
    out.high[row, at] = high * level * max(jump, 1.0)
    out.low[row, at] = low * level * min(jump, 1.0)
    level *= jump
    out.close[row, at] = close * level
    out.volume[row, at] = base.volume[r, a] / level
    out.depth[row, at] = base.depth[r, a] / level
    room[0, a] = level
    room[1, a] = close * level if close > 0.0 else mark * gap * jump


@njit(cache=True, error_model="numpy", _nrt=False)
def leave_out(out: MarketArrays, row: int, at: int) -> None:
    """No bar, of an asset that is listed no more."""
    out.open[row, at] = out.high[row, at] = out.low[row, at] = out.close[row, at] = math.nan
    out.volume[row, at] = out.funding[row, at] = out.dividend[row, at] = out.translation[row, at] = 0.0
    out.tradable[row, at], out.proxy[row, at] = False, 0


@njit(cache=True, error_model="numpy", _nrt=False)
def copy_row(base: MarketArrays, t: int, out: MarketArrays, row: int, first: int, num_assets: int) -> None:
    """One row of the market as it stands."""
    for a in range(num_assets):
        at = first + a
        out.open[row, at] = base.open[t, a]
        out.high[row, at] = base.high[t, a]
        out.low[row, at] = base.low[t, a]
        out.close[row, at] = base.close[t, a]
        out.volume[row, at] = base.volume[t, a]
        out.funding[row, at] = base.funding[t, a]
        out.sigma[row, at] = base.sigma[t, a]
        out.adv_ccy[row, at] = base.adv_ccy[t, a]
        out.half_spread_bps[row, at] = base.half_spread_bps[t, a]
        out.dividend[row, at] = base.dividend[t, a]
        out.tradable[row, at] = base.tradable[t, a]
        out.proxy[row, at] = base.proxy[t, a]
        out.depth[row, at] = base.depth[t, a]
        out.translation[row, at] = base.translation[t, a]
