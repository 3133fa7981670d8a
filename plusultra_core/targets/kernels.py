"""Barriers and weights: what happened after a bar. The one place that looks ahead."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from plusultra_core.arrays import BoolArray, Float64Array, Int8Array, Int64Array

if TYPE_CHECKING:
    F = TypeVar("F", bound=Callable[..., object])

    def njit(*, cache: bool) -> Callable[[F], F]:
        """numba.njit, as a type checker should see it."""
else:
    from numba import njit

WORST, SKIP, OPEN_DISTANCE = 0, 1, 2
"""What a bar that spans both barriers does: ends at the stop, leaves no label, ends at the barrier nearer to its open."""


class Barriers(NamedTuple):
    """Where a position ends, in units of sigma at its entry."""

    horizon: int
    """Bars until it ends by itself."""
    profit: float
    """Units of sigma sqrt(horizon)."""
    stop: float
    """Units of sigma sqrt(horizon)."""
    cost: float
    """Of entering and leaving, units of sigma: barriers stand at the gain and the loss net of it."""
    rule: int
    """WORST, SKIP or OPEN_DISTANCE."""


@njit(cache=True)
def _meet(open_: float, high: float, low: float, close: float, top: float, bottom: float, worse: int, rule: int) -> tuple[int, float, bool]:
    """What one bar does to two barriers: 1 meets the top, -1 the bottom, 0 neither; the price where that is not the barrier's; both?"""
    reach = close if math.isnan(high) else high
    sink = close if math.isnan(low) else low
    if reach < top and sink > bottom:
        return 0, np.nan, False
    if open_ >= top or open_ <= bottom:
        return (1 if open_ >= top else -1), open_, False
    if math.isnan(high) or math.isnan(low):
        return (1 if close >= top else -1), close, False
    if reach < top:
        return -1, np.nan, False
    if sink > bottom:
        return 1, np.nan, False
    if rule == OPEN_DISTANCE and open_ * open_ != top * bottom and not math.isnan(open_):
        return (1 if open_ * open_ > top * bottom else -1), np.nan, True
    return worse, np.nan, True


@njit(cache=True)
def triple_barrier(
    open_: Float64Array,
    high: Float64Array,
    low: Float64Array,
    close: Float64Array,
    sigma: Float64Array,
    side: Int8Array,
    starts: Int64Array,
    barriers: Barriers,
) -> tuple[Int8Array, Float64Array, Int64Array, BoolArray]:
    """First barrier met by a position of the given side entered at the close of bar i: label, log gain, row of the end, ambiguous.

    Shapes  prices, sigma and side (N,), symbols end to end, NaN open/high/low on close-only bars; starts (S + 1,); side 1 long,
            -1 short; label 1 profit, -1 stop, 0 neither; gain of the side before cost.
    Units   profit at a gain of profit sigma sqrt(horizon) + cost sigma, stop at a loss of stop sigma sqrt(horizon) - cost sigma.
    Looks   ahead `horizon` bars of the symbol.
    NaN     end row -1 and gain NaN where side is 0, sigma is missing or 0, fewer than `horizon` bars follow, or the bar that ends
            it spans both barriers and the rule is to skip; that bar is ambiguous under every rule.

    A bar that opens beyond a barrier ends there, at its open. A bar that spans both ends, by the rule, at the stop, nowhere, or
    at the barrier that its open lies nearer to. Neither within the horizon: label 0, the gain to the last close.
    Source  Lopez de Prado (2018), Advances in Financial Machine Learning, ch. 3.
    """
    label = np.zeros(close.size, dtype=np.int8)
    ret = np.full(close.size, np.nan)
    end = np.full(close.size, -1, dtype=np.int64)
    ambiguous = np.zeros(close.size, dtype=np.bool_)
    horizon = barriers.horizon
    for s in range(starts.size - 1):
        for i in range(starts[s], starts[s + 1] - horizon):
            width, cost = sigma[i] * math.sqrt(horizon), barriers.cost * sigma[i]
            if not width > 0.0 or side[i] == 0:
                continue
            gain, loss = barriers.profit * width + cost, barriers.stop * width - cost
            up, down = (gain, loss) if side[i] > 0 else (loss, gain)
            top, bottom = close[i] * math.exp(up), close[i] * math.exp(-down)
            end[i] = i + horizon
            ret[i] = side[i] * math.log(close[i + horizon] / close[i])
            for j in range(i + 1, i + horizon + 1):
                met, price, both = _meet(open_[j], high[j], low[j], close[j], top, bottom, -side[i], barriers.rule)
                if met == 0:
                    continue
                ambiguous[i] = both
                if both and barriers.rule == SKIP:
                    end[i], ret[i] = -1, np.nan
                    break
                end[i], label[i] = j, met * side[i]
                move = (up if met > 0 else -down) if math.isnan(price) else math.log(price / close[i])
                ret[i] = side[i] * move
                break
    return label, ret, end, ambiguous


@njit(cache=True)
def average_uniqueness(end: Int64Array, starts: Int64Array) -> Float64Array:
    """Mean of 1 / (labels alive) over the bars (i, end[i]] that label i lives on; NaN where end is -1.

    Shapes  end (N,) rows; starts (S + 1,); result (N,) in (0, 1].
    Source  Lopez de Prado (2018), ch. 4.
    """
    out = np.full(end.size, np.nan)
    alive = np.zeros(end.size + 1, dtype=np.int64)
    share = np.zeros(end.size + 1)
    for s in range(starts.size - 1):
        first, last = starts[s], starts[s + 1]
        alive[first : last + 1] = 0
        for i in range(first, last):
            if end[i] > i:
                alive[i + 1] += 1
                if end[i] + 1 < last:
                    alive[end[i] + 1] -= 1
        share[first] = 0.0
        count, total = 0, 0.0
        for i in range(first, last):
            count += alive[i]
            if count > 0:
                total += 1.0 / count
            share[i] = total
        for i in range(first, last):
            if end[i] > i:
                out[i] = (share[end[i]] - share[i]) / (end[i] - i)
    return out
