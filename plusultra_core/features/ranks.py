"""Where a symbol stands among the others at the same moment."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.features.indicators import place_of_times

if TYPE_CHECKING:
    F = TypeVar("F", bound=Callable[..., object])

    def njit(*, cache: bool) -> Callable[[F], F]:
        """numba.njit, as a type checker should see it."""
else:
    from numba import njit

_CELLS = 1 << 20


class Moments(NamedTuple):
    """Bars, symbol after symbol, as cells of a grid of moments and symbols."""

    moment: Int64Array
    """Moment of each bar."""
    starts: Int64Array
    """Where each symbol's bars begin."""
    known_ns: Int64Array
    num_moments: int


def moments(ts_ns: Int64Array, known_ns: Int64Array, starts: Int64Array, times_ns: Int64Array) -> Moments:
    """The moment of each bar; times_ns rise and hold every bar's."""
    return Moments(place_of_times(ts_ns, starts, times_ns), starts, known_ns, times_ns.size)


def cross_rank(x: Float64Array, at: Moments, min_count: int) -> Float64Array:
    """Share of the values of the same moment, known by then, that lie below, less a half; equal ones count half.

    Shapes  x (N,); result (N,) in (-.5, .5).
    NaN     where x is missing or fewer than min_count values are known.
    """
    out = np.full(x.size, np.nan)
    num_symbols = max(1, at.starts.size - 1)
    step = max(1, _CELLS // num_symbols)
    for first in range(0, at.num_moments, step):
        shape = (min(step, at.num_moments - first), num_symbols)
        here, known = np.full(shape, np.nan), np.zeros(shape, dtype=np.int64)
        spread(x, at.known_ns, at.moment, at.starts, first, here, known)
        rank_rows(here, np.argsort(here, axis=1), known, min_count)
        gather(here, at.moment, at.starts, first, out)
    return out


@njit(cache=True)
def spread(
    x: Float64Array,
    known_ns: Int64Array,
    moment: Int64Array,
    starts: Int64Array,
    first: int,
    here: Float64Array,
    known: Int64Array,
) -> None:
    """Lay values and the times they were known into the grid (M, S) of the moments from `first` on."""
    for s in range(starts.size - 1):
        own = moment[starts[s] : starts[s + 1]]
        for i in range(starts[s] + np.searchsorted(own, first), starts[s] + np.searchsorted(own, first + here.shape[0])):
            here[moment[i] - first, s] = x[i]
            known[moment[i] - first, s] = known_ns[i]


@njit(cache=True)
def gather(here: Float64Array, moment: Int64Array, starts: Int64Array, first: int, out: Float64Array) -> None:
    """Take the cells of the grid back to their bars."""
    for s in range(starts.size - 1):
        own = moment[starts[s] : starts[s + 1]]
        for i in range(starts[s] + np.searchsorted(own, first), starts[s] + np.searchsorted(own, first + here.shape[0])):
            out[i] = here[moment[i] - first, s]


@njit(cache=True)
def rank_rows(here: Float64Array, order: Int64Array, known: Int64Array, min_count: int) -> None:
    """Replace each value of `here` by its rank among its row; `order` sorts the rows, NaN last.

    Where some of a row were known later than others, each is ranked among those known by then, one by one.
    """
    values = np.empty(here.shape[1])
    for m in range(here.shape[0]):
        count, since, until = 0, np.iinfo(np.int64).max, np.iinfo(np.int64).min
        for s in range(here.shape[1]):
            values[s] = here[m, s]
            if not math.isnan(values[s]):
                count += 1
                since, until = min(since, known[m, s]), max(until, known[m, s])
        first = 0
        while first < count and since == until:
            last = first + 1
            while last < count and values[order[m, last]] == values[order[m, first]]:
                last += 1
            for a in range(first, last):
                here[m, order[m, a]] = 0.5 * (first + last) / count - 0.5 if count >= min_count else math.nan
            first = last
        for s in range(here.shape[1]):
            if since < until and not math.isnan(values[s]):
                among, twice = 0, 0
                for j in range(here.shape[1]):
                    if not math.isnan(values[j]) and known[m, j] <= known[m, s]:
                        among += 1
                        twice += 2 * (values[j] < values[s]) + (values[j] == values[s])
                here[m, s] = 0.5 * twice / among - 0.5 if among >= min_count else math.nan
