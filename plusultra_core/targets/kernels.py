"""Barriers and weights: what happened after a bar. The one place that looks ahead."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from plusultra_core.arrays import BoolArray, Float64Array, Int8Array, Int64Array

if TYPE_CHECKING:
    F = TypeVar("F", bound=Callable[..., object])

    def njit(*, cache: bool) -> Callable[[F], F]:
        """numba.njit, as a type checker should see it."""
else:
    from numba import njit


@njit(cache=True)
def triple_barrier(
    open_: Float64Array,
    high: Float64Array,
    low: Float64Array,
    close: Float64Array,
    sigma: Float64Array,
    starts: Int64Array,
    horizon: int,
    up: float,
    down: float,
) -> tuple[Int8Array, Float64Array, Int64Array, BoolArray]:
    """First barrier met by a long position entered at the close of bar i: label, log return, row of the end, ambiguous.

    Shapes  prices and sigma (N,), symbols end to end, NaN open/high/low on close-only bars; starts (S + 1,).
    Units   barriers at close * exp(up sigma sqrt(horizon)) and close * exp(-down sigma sqrt(horizon)).
    Looks   ahead `horizon` bars of the symbol.
    NaN     end row -1 and return NaN where sigma is missing or 0, or fewer than `horizon` bars follow.

    A bar that opens beyond a barrier ends there, at its open. A bar that spans both is ambiguous and ends
    at the worse, lower one. Neither within the horizon: label 0, the return to the last close.
    Source  Lopez de Prado (2018), Advances in Financial Machine Learning, ch. 3.
    """
    label = np.zeros(close.size, dtype=np.int8)
    ret = np.full(close.size, np.nan)
    end = np.full(close.size, -1, dtype=np.int64)
    ambiguous = np.zeros(close.size, dtype=np.bool_)
    for s in range(starts.size - 1):
        for i in range(starts[s], starts[s + 1] - horizon):
            width = sigma[i] * math.sqrt(horizon)
            if not width > 0.0:
                continue
            top, bottom = close[i] * math.exp(up * width), close[i] * math.exp(-down * width)
            end[i] = i + horizon
            ret[i] = math.log(close[i + horizon] / close[i])
            for j in range(i + 1, i + horizon + 1):
                best = close[j] if math.isnan(high[j]) else high[j]
                worst = close[j] if math.isnan(low[j]) else low[j]
                if best < top and worst > bottom:
                    continue
                end[i] = j
                first = open_[j]
                if first >= top or first <= bottom:
                    label[i] = 1 if first >= top else -1
                    ret[i] = math.log(first / close[i])
                elif math.isnan(high[j]) or math.isnan(low[j]):
                    label[i] = 1 if close[j] >= top else -1
                    ret[i] = math.log(close[j] / close[i])
                elif worst <= bottom:
                    label[i] = -1
                    ret[i] = -down * width
                    ambiguous[i] = best >= top
                else:
                    label[i] = 1
                    ret[i] = up * width
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
