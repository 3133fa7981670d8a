"""Loops of the views over the rows of a class, symbols end to end.

`starts` (S + 1,): symbol s owns rows starts[s] to starts[s + 1]. `order` (R,) and `bounds` (T + 1,): the rows of
time t are order[bounds[t]:bounds[t + 1]], rising in when they were known. NaN is a missing value. Row i reads
rows known by it only.
"""

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

FLAT = 1e-16
"""A variance of log returns below this is rounding, not movement."""


@njit(cache=True)
def rising(known_R: Int64Array, starts: Int64Array) -> Int64Array:
    """When everything up to each row of its symbol was known."""
    out = np.empty_like(known_R)
    for s in range(starts.size - 1):
        latest = np.iinfo(np.int64).min
        for i in range(starts[s], starts[s + 1]):
            latest = max(latest, known_R[i])
            out[i] = latest
    return out


@njit(cache=True)
def step(level_R: Float64Array, starts: Int64Array) -> Float64Array:
    """Change since the symbol's previous row."""
    out = np.full(level_R.size, np.nan)
    for s in range(starts.size - 1):
        for i in range(starts[s] + 1, starts[s + 1]):
            out[i] = level_R[i] - level_R[i - 1]
    return out


@njit(cache=True)
def by_time(ts_R: Int64Array, known_R: Int64Array, starts: Int64Array, times_T: Int64Array) -> tuple[Int64Array, Int64Array]:
    """`order` and `bounds` of rows whose ts rises within each symbol; times_T are the distinct ones, rising."""
    t_R = np.empty(ts_R.size, np.int64)
    bounds = np.zeros(times_T.size + 1, np.int64)
    for s in range(starts.size - 1):
        t = 0
        for i in range(starts[s], starts[s + 1]):
            while times_T[t] < ts_R[i]:
                t += 1
            t_R[i] = t
            bounds[t + 1] += 1
    for t in range(times_T.size):
        bounds[t + 1] += bounds[t]
    place = bounds[:-1].copy()
    order = np.empty(ts_R.size, np.int64)
    for i in range(ts_R.size):
        order[place[t_R[i]]] = i
        place[t_R[i]] += 1
    for t in range(times_T.size):
        for j in range(bounds[t] + 1, bounds[t + 1]):
            if known_R[order[j]] < known_R[order[j - 1]]:
                rows = order[bounds[t] : bounds[t + 1]].copy()
                order[bounds[t] : bounds[t + 1]] = rows[np.argsort(known_R[rows], kind="mergesort")]
                break
    return order, bounds


@njit(cache=True)
def class_moments(
    ret_R: Float64Array, mom_R: Float64Array, known_R: Int64Array, order: Int64Array, bounds: Int64Array
) -> tuple[Int64Array, Int64Array, Float64Array]:
    """What was thought of each time whenever one more of its rows became known.

    Returns the index of the time (M,), when that was known (M,), and (3, M): mean return (0 under one), mean of
    mom (NaN under one), standard deviation of the returns (NaN under two).
    """
    num = 0
    for t in range(bounds.size - 1):
        for j in range(bounds[t], bounds[t + 1]):
            if j + 1 == bounds[t + 1] or known_R[order[j + 1]] != known_R[order[j]]:
                num += 1
    time, when, out = np.empty(num, np.int64), np.empty(num, np.int64), np.full((3, num), np.nan)
    m = 0
    for t in range(bounds.size - 1):
        count, total, squares, num_mom, total_mom = 0, 0.0, 0.0, 0, 0.0
        for j in range(bounds[t], bounds[t + 1]):
            i = order[j]
            if not math.isnan(ret_R[i]):
                count += 1
                total += ret_R[i]
                squares += ret_R[i] * ret_R[i]
            if not math.isnan(mom_R[i]):
                num_mom += 1
                total_mom += mom_R[i]
            if j + 1 < bounds[t + 1] and known_R[order[j + 1]] == known_R[i]:
                continue
            time[m], when[m] = t, known_R[i]
            out[0, m] = total / count if count > 0 else 0.0
            if num_mom > 0:
                out[1, m] = total_mom / num_mom
            if count > 1:
                out[2, m] = math.sqrt(max(0.0, squares - total * total / count) / (count - 1))
            m += 1
    return time, when, out


@njit(cache=True)
def others_mean(ret_R: Float64Array, known_R: Int64Array, order: Int64Array, bounds: Int64Array) -> Float64Array:
    """Mean return of the other rows of the same time known by each row; NaN where there is none."""
    out = np.full(ret_R.size, np.nan)
    for t in range(bounds.size - 1):
        total, count, first = 0.0, 0, bounds[t]
        for j in range(bounds[t], bounds[t + 1]):
            i = order[j]
            if not math.isnan(ret_R[i]):
                total += ret_R[i]
                count += 1
            if j + 1 < bounds[t + 1] and known_R[order[j + 1]] == known_R[i]:
                continue
            if count > 1:
                for k in range(first, j + 1):
                    out[order[k]] = (total - ret_R[order[k]]) / (count - 1)
            first = j + 1
    return out


@njit(cache=True)
def newest_known(known_R: Int64Array, starts: Int64Array, source_known_M: Int64Array) -> Int64Array:
    """Index of the last source row known by each row, -1 before the first; known_R rises within a symbol, source_known_M rises."""
    out = np.empty(known_R.size, np.int64)
    for s in range(starts.size - 1):
        m = -1
        for i in range(starts[s], starts[s + 1]):
            while m + 1 < source_known_M.size and source_known_M[m + 1] <= known_R[i]:
                m += 1
            out[i] = m
    return out


@njit(cache=True)
def relative(x: Float64Array, y: Float64Array, starts: Int64Array, window: int, min_count: int) -> Float64Array:
    """(3, R): beta and correlation of x to y over the last `window` rows, and the t-value of their mean difference.

    A row counts where both are there. Sums slide and are made anew every `window` rows.
    """
    out = np.full((3, x.size), np.nan)
    scale = math.sqrt(window)
    for s in range(starts.size - 1):
        first = starts[s]
        n, sx, sy, sxx, syy, sxy = 0, 0.0, 0.0, 0.0, 0.0, 0.0
        for i in range(first, starts[s + 1]):
            anew = (i - first) % window == 0
            if anew:
                n, sx, sy, sxx, syy, sxy = 0, 0.0, 0.0, 0.0, 0.0, 0.0
            elif i - window >= first and not (math.isnan(x[i - window]) or math.isnan(y[i - window])):
                a, b = x[i - window], y[i - window]
                n, sx, sy, sxx, syy, sxy = n - 1, sx - a, sy - b, sxx - a * a, syy - b * b, sxy - a * b
            for j in range(max(first, i - window + 1) if anew else i, i + 1):
                a, b = x[j], y[j]
                if not (math.isnan(a) or math.isnan(b)):
                    n, sx, sy, sxx, syy, sxy = n + 1, sx + a, sy + b, sxx + a * a, syy + b * b, sxy + a * b
            if n < min_count:
                continue
            mx, my = sx / n, sy / n
            vx, vy, cov = sxx / n - mx * mx, syy / n - my * my, sxy / n - mx * my
            if vy > FLAT:
                out[0, i] = cov / vy
                if vx > FLAT:
                    out[1, i] = min(1.0, max(-1.0, cov / math.sqrt(vx * vy)))
            excess = vx + vy - 2.0 * cov
            if excess > FLAT:
                out[2, i] = (mx - my) / math.sqrt(excess) * scale
    return out


@njit(cache=True)
def lead(x: Float64Array, y: Float64Array, starts: Int64Array, window: int, min_count: int, max_lag: int) -> Float64Array:
    """(2, R): the correlation of x with y of 1 to max_lag rows earlier that is largest in size, and its lag.

    Over the last `window` rows, a row counts where both are there. Of equal ones the shorter lag. NaN where no
    lag has min_count rows that vary.
    """
    out = np.full((2, x.size), np.nan)
    sums = np.zeros((max_lag, 6))
    for s in range(starts.size - 1):
        first = starts[s]
        for i in range(first, starts[s + 1]):
            anew = (i - first) % window == 0
            best, size, at = 0.0, -1.0, 0
            for k in range(1, max_lag + 1):
                total = sums[k - 1]
                old = i - window
                if anew:
                    total[:] = 0.0
                elif old - k >= first and not (math.isnan(x[old]) or math.isnan(y[old - k])):
                    a, b = x[old], y[old - k]
                    total[0] -= 1.0
                    total[1] -= a
                    total[2] -= b
                    total[3] -= a * a
                    total[4] -= b * b
                    total[5] -= a * b
                for j in range(max(first + k, i - window + 1) if anew else max(first + k, i), i + 1):
                    a, b = x[j], y[j - k]
                    if not (math.isnan(a) or math.isnan(b)):
                        total[0] += 1.0
                        total[1] += a
                        total[2] += b
                        total[3] += a * a
                        total[4] += b * b
                        total[5] += a * b
                n = total[0]
                if n < min_count:
                    continue
                mx, my = total[1] / n, total[2] / n
                vx, vy = total[3] / n - mx * mx, total[4] / n - my * my
                if vx > FLAT and vy > FLAT:
                    cov = total[5] / n - mx * my
                    square = cov * cov / (vx * vy)
                    if square > size:
                        best, size, at = cov, square, k
            if size >= 0.0:
                out[0, i] = math.copysign(math.sqrt(min(1.0, size)), best)
                out[1, i] = at
    return out
