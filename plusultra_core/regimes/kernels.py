"""Where a value stands: among those before it, among those of its time; and how strong a trend is."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from plusultra_core.arrays import Float64Array, Int8Array, Int64Array

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

    The values of a symbol are numbered by size once; that number is only the place in a tree of counts, into which a
    value goes when its bar comes and from which it is taken when it leaves the window.
    Source  Fenwick (1994), A New Data Structure for Cumulative Frequency Tables.
    """
    out = np.full(x.size, np.nan)
    for s in range(starts.size - 1):
        first, num_bars = starts[s], starts[s + 1] - starts[s]
        part = x[first : starts[s + 1]]
        order = np.argsort(part)
        place = np.zeros(num_bars, dtype=np.int32)
        num = 0
        for a in range(num_bars):
            i = order[a]
            if not math.isnan(part[i]):
                num += a == 0 or part[i] != part[order[a - 1]]
                place[i] = num
        tree = np.zeros(num + 1, dtype=np.int32)
        same = np.zeros(num + 1, dtype=np.int32)
        count = 0
        for i in range(num_bars):
            k = place[i - window] if i >= window else 0
            if k > 0:
                same[k] -= 1
                count -= 1
                while k <= num:
                    tree[k] -= 1
                    k += k & -k
            k = place[i]
            if k == 0:
                continue
            same[k] += 1
            count += 1
            while k <= num:
                tree[k] += 1
                k += k & -k
            if count >= min_count:
                k, below = place[i] - 1, 0
                while k > 0:
                    below += tree[k]
                    k -= k & -k
                out[first + i] = (below + 0.5 * same[place[i]]) / count
    return out


@njit(cache=True)
def by_time(ts_ns: Int64Array, grid_ns: Int64Array, starts: Int64Array, turn: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Rows by rising time, within a time by the turn of their symbol; and where each time begins.

    Shapes  ts_ns (N,), rising within a symbol; grid_ns (T,) its distinct values, rising; starts (S + 1,); turn (S,) symbols
            in their order; result (N,) and (T + 1,).
    """
    borders = np.zeros(grid_ns.size + 1, dtype=np.int64)
    column = np.empty(ts_ns.size, dtype=np.int64)
    for s in range(starts.size - 1):
        t = 0
        for i in range(starts[s], starts[s + 1]):
            while grid_ns[t] < ts_ns[i]:
                t += 1
            column[i] = t
            borders[t + 1] += 1
    for t in range(grid_ns.size):
        borders[t + 1] += borders[t]
    free = borders[:-1].copy()
    order = np.empty(ts_ns.size, dtype=np.int64)
    for s in turn:
        for i in range(starts[s], starts[s + 1]):
            order[free[column[i]]] = i
            free[column[i]] += 1
    return order, borders


@njit(cache=True)
def cross_rank(x: Float64Array, known_ns: Int64Array, order: Int64Array, starts: Int64Array, min_count: int) -> Float64Array:
    """Share of the values of one group, known by the time row i is known, that lie below x[i], ties by half.

    Shapes  x, known_ns (N,); order (N,) rows, group after group; starts (G + 1,) borders of the groups in order;
            result (N,) in (0, 1).
    NaN     where x is, and under min_count such values (x[i] among them).
    """
    out = np.full(x.size, np.nan)
    for g in range(starts.size - 1):
        rows = order[starts[g] : starts[g + 1]]
        count, together = 0, True
        row = np.empty(rows.size, dtype=np.int64)
        value = np.empty(rows.size)
        for i in rows:
            if not math.isnan(x[i]):
                row[count], value[count] = i, x[i]
                together &= known_ns[i] == known_ns[row[0]]
                count += 1
        if count < min_count:
            continue
        if together:
            rising = np.argsort(value[:count])
            a = 0
            while a < count:
                b = a + 1
                while b < count and value[rising[b]] == value[rising[a]]:
                    b += 1
                for c in range(a, b):
                    out[row[rising[c]]] = 0.5 * (a + b) / count
                a = b
            continue
        for a in range(count):
            seen, below, equal = 0, 0, 0
            for b in range(count):
                if known_ns[row[b]] <= known_ns[row[a]]:
                    seen += 1
                    below += value[b] < value[a]
                    equal += value[b] == value[a]
            if seen >= min_count:
                out[row[a]] = (below + 0.5 * equal) / seen
    return out


@njit(cache=True)
def trend_strength(price: Float64Array, starts: Int64Array, alpha: float, min_count: int) -> Float64Array:
    """How many standard errors the exponentially weighted mean of one-bar returns lies from zero.

    Shapes  price (N,) logs, symbols end to end; starts (S + 1,); result (N,).
    Units   t = mean / sqrt(mean square sum w^2 / (sum w)^2), weights w = (1 - alpha)^age; about normal where returns are noise.
    Looks   back over all the past of the symbol.
    NaN     before min_count returns; 0 where the price has not moved.
    """
    out = np.full(price.size, np.nan)
    keep = 1.0 - alpha
    for s in range(starts.size - 1):
        total, squares, weight, weight_2 = 0.0, 0.0, 0.0, 0.0
        for i in range(starts[s] + 1, starts[s + 1]):
            move = price[i] - price[i - 1]
            total = total * keep + move
            squares = squares * keep + move * move
            weight = weight * keep + 1.0
            weight_2 = weight_2 * keep * keep + 1.0
            if i - starts[s] >= min_count:
                spread = math.sqrt(squares * weight_2 / weight)
                out[i] = total / spread if spread > 0.0 else 0.0
    return out


@njit(cache=True)
def hysteresis(strength: Float64Array, starts: Int64Array, enter: float, leave: float) -> Int8Array:
    """1 down, 2 flat, 3 up: a trend begins beyond `enter` and lasts until the strength falls back within `leave`.

    Shapes  strength (N,), symbols end to end; starts (S + 1,); result (N,), 0 where the strength is unknown.
    Looks   back only: the state of a bar rests on that before it and on the bar's strength.
    """
    out = np.zeros(strength.size, dtype=np.int8)
    for s in range(starts.size - 1):
        state = 2
        for i in range(starts[s], starts[s + 1]):
            t = strength[i]
            if math.isnan(t):
                state = 2
                continue
            if t >= enter:
                state = 3
            elif t <= -enter:
                state = 1
            elif (state == 3 and t < leave) or (state == 1 and t > -leave):
                state = 2
            out[i] = state
    return out
