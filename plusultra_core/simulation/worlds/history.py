"""What the market's own past offers a stress: the bars that may come again, its crises, its volatility states."""

from typing import NamedTuple

import numpy as np
from numba import njit

from plusultra_core.arrays import BoolArray, Float64Array, Int8Array, Int64Array
from plusultra_core.simulation.liquidity.currency import results_from
from plusultra_core.simulation.records import MarketArrays

STATES = ("low", "mid", "high")
RULES = ("drawdown", "volatility", "dispersion")

LATE_BARS = 60
"""An asset without a bar for so long is not counted on."""


class Crisis(NamedTuple):
    """A window of bars [first, first + num_bars)."""

    rule: str
    first: int
    num_bars: int
    size: float
    """By its rule: depth of the fall, volatility or dispersion per bar."""


class Common(NamedTuple):
    """The history that assets have in common."""

    counted_N: BoolArray
    """Assets that are there at the start and are counted on in it."""
    eligible_T: BoolArray
    """Bars before the start that may come again; none where there is no history."""


def common_history(market: MarketArrays, start: int, min_assets_frac: float) -> Common:
    """Bars before `start` that may come again: enough of the counted assets trade in them, and did in the bar before.

    Of the assets that are there at `start` those with the most bars are counted, so many that bars x assets is largest (the more of
    equals): an asset that was listed yesterday does not take the years of the others, nor does an old one alone take their names.
    Shapes  counted (N,), eligible (start,).
    Looks   at rows <= start.
    """
    here_N = np.flatnonzero(present(market, start))
    longest_M = here_N[np.argsort(-market.tradable[:start, here_N].sum(axis=0), kind="stable")]
    traded_T = np.zeros(start, dtype=np.int64)
    eligible_T: BoolArray = np.zeros(start, dtype=np.bool_)
    num_counted, largest = 0, 1
    for m, asset in enumerate(longest_M.tolist(), start=1):
        traded_T += market.tradable[:start, asset]
        enough_T = traded_T >= min_assets_frac * m
        both_T = enough_T[1:] & enough_T[:-1]
        if m * int(both_T.sum()) >= largest:
            num_counted, largest = m, m * int(both_T.sum())
            eligible_T[1:] = both_T
    counted_N: BoolArray = np.zeros(market.tradable.shape[1], dtype=np.bool_)
    counted_N[longest_M[:num_counted]] = True
    return Common(counted_N, eligible_T)


def present(market: MarketArrays, start: int) -> BoolArray:
    """Assets that had a bar of late: neither to come, nor dead. Shapes  result (N,). Looks  at rows <= start."""
    here: BoolArray = market.tradable[max(start + 1 - LATE_BARS, 0) : start + 1].any(axis=0) & (market.end > start)
    return here


def simple_returns(market: MarketArrays, end: int) -> Float64Array:
    """Close to close, over halts, of the quoted price where only results are exchanged; NaN where an asset has no bar, or none before.

    Shapes  result (end, N).
    """
    return market.close[:end] / results_from(market)[:end] - 1.0


def closes_before(close_TN: Float64Array) -> Float64Array:
    """Last close before each row; NaN where there is none. Shapes  (T, N) -> (T, N)."""
    rows = np.where(np.isfinite(close_TN), np.arange(len(close_TN))[:, None], -1)
    last = np.maximum.accumulate(rows, axis=0)[:-1]
    before: Float64Array = np.full(close_TN.shape, np.nan)
    before[1:] = np.where(last >= 0, np.take_along_axis(close_TN, np.maximum(last, 0), axis=0), np.nan)
    return before


def find_crises(market: MarketArrays, start: int, eligible_T: BoolArray, num_bars: int, num_windows: int) -> tuple[Crisis, ...]:
    """The worst windows of history by each rule, worst first; windows of one rule do not overlap.

    drawdown: deepest fall of the equally weighted market from a peak within the window; volatility: its root mean square return;
    dispersion: mean deviation of the assets' returns across names (nothing where there is one asset).
    Looks   at rows < start alone. A window holds eligible bars only.
    """
    ret_TN = np.where(eligible_T[:, None], simple_returns(market, start), np.nan)
    count_T = np.isfinite(ret_TN).sum(axis=1)
    index_T = np.nansum(ret_TN, axis=1) / np.maximum(count_T, 1)
    spread_T = np.sqrt(np.nansum((ret_TN - index_T[:, None]) ** 2, axis=1) / np.maximum(count_T - 1, 1))
    scores = {
        "drawdown": window_drawdowns(index_T, num_bars),
        "volatility": np.sqrt(window_means(index_T**2, num_bars)),
        "dispersion": window_means(np.where(count_T > 1, spread_T, 0.0), num_bars),
    }
    whole = window_means(eligible_T.astype(np.float64), num_bars) > 1.0 - 1e-9
    found: list[Crisis] = []
    for rule in RULES:
        score = np.where(whole, scores[rule], 0.0)
        for _ in range(num_windows):
            if not score.size or not score.max() > 0.0:
                break
            first = int(score.argmax())
            found.append(Crisis(rule, first, num_bars, float(score[first])))
            score[max(0, first - num_bars + 1) : first + num_bars] = 0.0
    return tuple(found)


def window_means(values_T: Float64Array, num_bars: int) -> Float64Array:
    """Mean of every window of `num_bars` values, by its first. Shapes  (T,) -> (max(T - num_bars + 1, 0),)."""
    if values_T.size < num_bars:
        return np.zeros(0)
    means: Float64Array = np.lib.stride_tricks.sliding_window_view(values_T, num_bars).mean(axis=1)
    return means


@njit(cache=True, error_model="numpy")
def window_drawdowns(ret_T: Float64Array, num_bars: int) -> Float64Array:
    """Deepest fall from a peak within every window, the close before it included. Shapes  (T,) -> (max(T - num_bars + 1, 0),)."""
    depth = np.zeros(max(ret_T.size - num_bars + 1, 0))
    for first in range(depth.size):
        wealth, peak = 1.0, 1.0
        for t in range(first, first + num_bars):
            wealth *= 1.0 + ret_T[t]
            peak = max(peak, wealth)
            depth[first] = max(depth[first], 1.0 - wealth / peak)
    return depth


def volatility_states(market: MarketArrays, start: int, eligible_T: BoolArray) -> Int8Array:
    """0, 1 or 2: the third of history to which the volatility of a bar belongs; -1 where it may not come again.

    The volatility of a bar is the median over the assets of their causal volatility at its close.
    Shapes  result (start,).
    Looks   at rows < start; the thirds are those of the whole history: paths are drawn from it, nobody decides by it.
    """
    traded_TN = market.tradable[:start]
    sigma_T = np.full(start, np.nan)
    rows = np.flatnonzero(eligible_T)
    state: Int8Array = np.full(start, -1, dtype=np.int8)
    if not rows.size:
        return state
    sigma_T[rows] = np.nanmedian(np.where(traded_TN[rows], market.sigma[rows], np.nan), axis=1)
    bounds = np.quantile(sigma_T[rows], (1.0 / 3.0, 2.0 / 3.0))
    state[rows] = np.searchsorted(bounds, sigma_T[rows], side="right")
    return state


@njit(cache=True, error_model="numpy", nogil=True)
def block_rows(eligible_T: BoolArray, begin_K: Float64Array, place_K: Float64Array, block_bars: int, fixed: bool) -> Int64Array:
    """Rows of history that follow each other in blocks; the last row of history is followed by its first.

    A block ends by chance (mean `block_bars`), or after `block_bars` where `fixed`; and always before a row that is not eligible.
    Shapes  begin (K,), place (K,) uniform numbers; result (K,).
    Source  Politis, Romano 1992 (circular), 1994 (stationary).
    """
    rows = np.flatnonzero(eligible_T)
    chosen = np.zeros(begin_K.size, np.int64)
    age = 0
    for k in range(begin_K.size):
        following = (chosen[k - 1] + 1) % eligible_T.size if k > 0 else 0
        ends = age >= block_bars if fixed else begin_K[k] * block_bars < 1.0
        if k == 0 or ends or not eligible_T[following]:
            chosen[k] = rows[min(int(place_K[k] * rows.size), rows.size - 1)]
            age = 1
        else:
            chosen[k] = following
            age += 1
    return chosen
