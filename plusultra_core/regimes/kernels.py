"""Where a value stands among the values before it."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from plusultra_core.arrays import Float64Array, Int64Array

if TYPE_CHECKING:
    F = TypeVar("F", bound=Callable[..., object])

    def njit(*, cache: bool) -> Callable[[F], F]:
        """numba.njit, as a type checker should see it."""
else:
    from numba import njit


@njit(cache=True)
def trailing_rank(x: Float64Array, starts: Int64Array, window: int, min_count: int) -> Float64Array:
    """Share of the last `window` values that lie below x[i], ties by half; row i reads rows <= i only.

    Shapes  x (N,), symbols end to end; starts (S + 1,) their borders; result (N,) in [0, 1].
    NaN     where x is, and before min_count values (x[i] among them).
    """
    out = np.full(x.size, np.nan)
    for s in range(starts.size - 1):
        for i in range(starts[s], starts[s + 1]):
            value = x[i]
            if math.isnan(value):
                continue
            below, above, missing = 0, 0, 0
            low = max(starts[s], i - window + 1)
            for j in range(low, i + 1):
                below += x[j] < value
                above += x[j] > value
                missing += x[j] != x[j]
            count = i + 1 - low - missing
            if count >= min_count:
                out[i] = (below + 0.5 * (count - below - above)) / count
    return out


@njit(cache=True)
def cross_rank(x: Float64Array, known_ns: Int64Array, order: Int64Array, starts: Int64Array, min_count: int) -> Float64Array:
    """Share of the values of one time, known by the time row i is known, that lie below x[i], ties by half.

    Shapes  x, known_ns (N,); order (N,) rows sorted by time; starts (G + 1,) borders of the times in order;
            result (N,) in (0, 1).
    NaN     where x is, and under min_count such values (x[i] among them).
    """
    out = np.full(x.size, np.nan)
    for g in range(starts.size - 1):
        for a in range(starts[g], starts[g + 1]):
            i = order[a]
            count, below, equal = 0, 0, 0
            for b in range(starts[g], starts[g + 1]):
                j = order[b]
                if not math.isnan(x[j]) and known_ns[j] <= known_ns[i]:
                    count += 1
                    below += x[j] < x[i]
                    equal += x[j] == x[i]
            if not math.isnan(x[i]) and count >= min_count:
                out[i] = (below + 0.5 * equal) / count
    return out
