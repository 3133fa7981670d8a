"""Where a symbol stands among the others at the same moment."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from plusultra_core.arrays import Float64Array, Int64Array

if TYPE_CHECKING:
    F = TypeVar("F", bound=Callable[..., object])

    def njit(*, cache: bool) -> Callable[[F], F]:
        """numba.njit, as a type checker should see it."""
else:
    from numba import njit


class Moments(NamedTuple):
    """Rows by time: `order` puts them in order, those of moment m are order[starts[m]:starts[m + 1]]."""

    order: Int64Array
    starts: Int64Array


def moments(ts_ns: Int64Array) -> Moments:
    """The rows of each moment, in the order of their symbols."""
    order = np.argsort(ts_ns, kind="stable").astype(np.int64)
    borders = np.flatnonzero(np.diff(ts_ns[order], prepend=ts_ns[order[:1]] - 1)) if ts_ns.size else np.zeros(0)
    return Moments(order, np.append(borders, ts_ns.size).astype(np.int64))


@njit(cache=True)
def cross_rank(x: Float64Array, known_ns: Int64Array, order: Int64Array, starts: Int64Array, min_count: int) -> Float64Array:
    """Share of the values of the same moment, known by then, that lie below; equal ones count half.

    NaN     where x is missing or fewer than min_count values are known.
    """
    out = np.full(x.size, np.nan)
    for m in range(starts.size - 1):
        rows = order[starts[m] : starts[m + 1]]
        here = np.empty(rows.size)
        count, together = 0, True
        for i in rows:
            together = together and known_ns[i] == known_ns[rows[0]]
            if not math.isnan(x[i]):
                here[count] = x[i]
                count += 1
        if together:
            here = np.sort(here[:count])
            for i in rows:
                if not math.isnan(x[i]) and count >= min_count:
                    below, above = np.searchsorted(here, x[i]), np.searchsorted(here, x[i], side="right")
                    out[i] = 0.5 * (below + above) / count
            continue
        for i in rows:
            count, twice = 0, 0
            for j in rows:
                if not math.isnan(x[j]) and known_ns[j] <= known_ns[i]:
                    count += 1
                    twice += 2 * (x[j] < x[i]) + (x[j] == x[i])
            if not math.isnan(x[i]) and count >= min_count:
                out[i] = 0.5 * twice / count
    return out
