"""Rolling kernels over the bars of many symbols laid end to end.

Every kernel takes `x` (N,) and `starts` (S + 1,): symbol s owns rows starts[s] to starts[s + 1], and no
window crosses that border. NaN is a missing value: a window answers from what is there once it holds
`min_count` values, and is NaN before that. Row i reads rows <= i only.
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

_FLAT = 1e-12  # a variance below this part of the second moment is rounding, not movement


@njit(cache=True)
def shift(x: Float64Array, starts: Int64Array, num_bars: int) -> Float64Array:
    """x of `num_bars` rows earlier within the symbol."""
    out = np.full(x.size, np.nan)
    for s in range(starts.size - 1):
        for i in range(starts[s] + num_bars, starts[s + 1]):
            out[i] = x[i - num_bars]
    return out


@njit(cache=True)
def cumulative(x: Float64Array, starts: Int64Array) -> Float64Array:
    """Running sum within the symbol; a missing value adds nothing."""
    out = np.empty(x.size)
    for s in range(starts.size - 1):
        total = 0.0
        for i in range(starts[s], starts[s + 1]):
            if not math.isnan(x[i]):
                total += x[i]
            out[i] = total
    return out


@njit(cache=True)
def rolling_mean_std(x: Float64Array, starts: Int64Array, window: int, min_count: int) -> tuple[Float64Array, Float64Array]:
    """Mean and population standard deviation of the last `window` rows.

    Sums slide, around a value of the window, and are made anew every `window` rows, so that rounding
    cannot pile up.
    """
    mean = np.full(x.size, np.nan)
    std = np.full(x.size, np.nan)
    for s in range(starts.size - 1):
        first = starts[s]
        origin, count, total, squares = 0.0, 0, 0.0, 0.0
        for i in range(first, starts[s + 1]):
            if (i - first) % window == 0:
                origin = 0.0 if math.isnan(x[i]) else x[i]
                count, total, squares = 0, 0.0, 0.0
                for j in range(max(first, i - window + 1), i + 1):
                    if not math.isnan(x[j]):
                        gap = x[j] - origin
                        count += 1
                        total += gap
                        squares += gap * gap
            else:
                if not math.isnan(x[i]):
                    gap = x[i] - origin
                    count += 1
                    total += gap
                    squares += gap * gap
                if i - window >= first and not math.isnan(x[i - window]):
                    gap = x[i - window] - origin
                    count -= 1
                    total -= gap
                    squares -= gap * gap
            if count >= min_count:
                centre = total / count
                variance = squares / count - centre * centre
                mean[i] = origin + centre
                std[i] = math.sqrt(variance) if variance > _FLAT * squares / count else 0.0
    return mean, std


@njit(cache=True)
def rolling_mean(x: Float64Array, starts: Int64Array, window: int, min_count: int) -> Float64Array:
    """Mean of the last `window` rows; sums are made anew every `window` rows."""
    out = np.full(x.size, np.nan)
    for s in range(starts.size - 1):
        first = starts[s]
        count, total = 0, 0.0
        for i in range(first, starts[s + 1]):
            if (i - first) % window == 0:
                count, total = 0, 0.0
                for j in range(max(first, i - window + 1), i + 1):
                    if not math.isnan(x[j]):
                        count += 1
                        total += x[j]
            else:
                if not math.isnan(x[i]):
                    count += 1
                    total += x[i]
                if i - window >= first and not math.isnan(x[i - window]):
                    count -= 1
                    total -= x[i - window]
            if count >= min_count:
                out[i] = total / count
    return out


@njit(cache=True)
def rolling_max(x: Float64Array, starts: Int64Array, window: int, min_count: int) -> Float64Array:
    """Largest value of the last `window` rows."""
    out = np.full(x.size, np.nan)
    for s in range(starts.size - 1):
        for i in range(starts[s], starts[s + 1]):
            count, best = 0, -np.inf
            for j in range(max(starts[s], i - window + 1), i + 1):
                if not math.isnan(x[j]):
                    count += 1
                    best = max(best, x[j])
            if count >= min_count:
                out[i] = best
    return out


@njit(cache=True)
def rolling_mean_abs_dev(x: Float64Array, starts: Int64Array, window: int, min_count: int) -> Float64Array:
    """Mean absolute distance of the last `window` rows from their mean."""
    out = np.full(x.size, np.nan)
    for s in range(starts.size - 1):
        for i in range(starts[s], starts[s + 1]):
            low = max(starts[s], i - window + 1)
            count, total = 0, 0.0
            for j in range(low, i + 1):
                if not math.isnan(x[j]):
                    count += 1
                    total += x[j]
            if count >= min_count:
                centre, distance = total / count, 0.0
                for j in range(low, i + 1):
                    if not math.isnan(x[j]):
                        distance += abs(x[j] - centre)
                out[i] = distance / count
    return out


@njit(cache=True)
def rolling_shape(x: Float64Array, starts: Int64Array, window: int, min_count: int) -> tuple[Float64Array, Float64Array]:
    """Population skewness and excess kurtosis of the last `window` rows; NaN where they do not vary."""
    skew = np.full(x.size, np.nan)
    kurtosis = np.full(x.size, np.nan)
    for s in range(starts.size - 1):
        for i in range(starts[s], starts[s + 1]):
            low = max(starts[s], i - window + 1)
            count, total, squares = 0, 0.0, 0.0
            for j in range(low, i + 1):
                if not math.isnan(x[j]):
                    count += 1
                    total += x[j]
                    squares += x[j] * x[j]
            if count < min_count:
                continue
            centre = total / count
            m2, m3, m4 = 0.0, 0.0, 0.0
            for j in range(low, i + 1):
                if not math.isnan(x[j]):
                    gap = x[j] - centre
                    m2 += gap * gap
                    m3 += gap * gap * gap
                    m4 += gap * gap * gap * gap
            if m2 > _FLAT * squares and m2 > 0.0:
                variance = m2 / count
                skew[i] = m3 / count / variance**1.5
                kurtosis[i] = m4 / count / variance**2 - 3.0
    return skew, kurtosis


@njit(cache=True)
def rolling_slope(x: Float64Array, starts: Int64Array, window: int) -> tuple[Float64Array, Float64Array]:
    """Least-squares slope per row and its correlation with time over the last `window` rows, all present."""
    slope = np.full(x.size, np.nan)
    corr = np.full(x.size, np.nan)
    middle = 0.5 * (window - 1)
    time_squares = window * (window * window - 1.0) / 12.0
    for s in range(starts.size - 1):
        for i in range(starts[s] + window - 1, starts[s + 1]):
            origin = x[i]
            total, squares, product = 0.0, 0.0, 0.0
            for k in range(window):
                gap = x[i - window + 1 + k] - origin
                total += gap
                squares += gap * gap
                product += (k - middle) * gap
            spread = squares - total * total / window
            if not math.isnan(spread):
                slope[i] = product / time_squares
                if spread > _FLAT * squares and spread > 0.0:
                    corr[i] = product / math.sqrt(time_squares * spread)
    return slope, corr


@njit(cache=True)
def ewma(x: Float64Array, starts: Int64Array, alpha: float, min_count: int) -> Float64Array:
    """Exponentially weighted mean of the values so far, weights (1 - alpha)^age, normalised.

    A missing value neither counts nor ages the others; the row carries the mean of what came before.
    """
    out = np.full(x.size, np.nan)
    for s in range(starts.size - 1):
        count, total, weight = 0, 0.0, 0.0
        for i in range(starts[s], starts[s + 1]):
            if not math.isnan(x[i]):
                count += 1
                total = total * (1.0 - alpha) + x[i]
                weight = weight * (1.0 - alpha) + 1.0
            if count >= min_count:
                out[i] = total / weight
    return out


@njit(cache=True)
def band_energy(x: Float64Array, starts: Int64Array, window: int, low_bins: int, high_bin: int) -> Float64Array:
    """Shares of the variance of the last `window` rows by frequency, from a sliding Fourier transform.

    Returns (3, N): share of bins 1..low_bins, share of bins high_bin..window // 2, entropy of the shares
    scaled to [0, 1]. The mean is bin 0 and not counted. Made anew every `window` rows.
    """
    num_bins = window // 2
    out = np.full((3, x.size), np.nan)
    real, imag = np.zeros(num_bins + 1), np.zeros(num_bins + 1)
    angle = 2.0 * math.pi * np.arange(window) / window
    cosine, sine = np.cos(angle), np.sin(angle)
    for s in range(starts.size - 1):
        run, age = 0, 0
        for i in range(starts[s], starts[s + 1]):
            run = 0 if math.isnan(x[i]) else run + 1
            if run < window:
                age = 0
                continue
            if age % window == 0:
                for k in range(1, num_bins + 1):
                    real[k], imag[k] = 0.0, 0.0
                    for j in range(window):
                        real[k] += x[i - window + 1 + j] * cosine[(k * j) % window]
                        imag[k] -= x[i - window + 1 + j] * sine[(k * j) % window]
            else:
                change = x[i] - x[i - window]
                for k in range(1, num_bins + 1):
                    shifted = real[k] + change
                    real[k] = shifted * cosine[k] - imag[k] * sine[k]
                    imag[k] = shifted * sine[k] + imag[k] * cosine[k]
            age += 1
            total, low, high = 0.0, 0.0, 0.0
            for k in range(1, num_bins + 1):
                energy = real[k] * real[k] + imag[k] * imag[k]
                total += energy
                low += energy if k <= low_bins else 0.0
                high += energy if k >= high_bin else 0.0
            if total > 1e-24:
                entropy = 0.0
                for k in range(1, num_bins + 1):
                    share = (real[k] * real[k] + imag[k] * imag[k]) / total
                    entropy -= share * math.log(share) if share > 0.0 else 0.0
                out[0, i], out[1, i], out[2, i] = low / total, high / total, entropy / math.log(num_bins)
    return out


@njit(cache=True)
def order_entropy(x: Float64Array, starts: Int64Array, window: int, min_count: int) -> Float64Array:
    """Entropy in [0, 1] of the six orders that three rows in a row can stand in, over the last `window` triples."""
    out = np.full(x.size, np.nan)
    order = np.full(x.size, -1, dtype=np.int8)
    counts = np.zeros(6, dtype=np.int64)
    for s in range(starts.size - 1):
        counts[:] = 0
        first = starts[s]
        for i in range(first, starts[s + 1]):
            if i >= first + 2 and not (math.isnan(x[i]) or math.isnan(x[i - 1]) or math.isnan(x[i - 2])):
                code = 0
                if x[i - 2] <= x[i - 1]:
                    code = 0 if x[i - 1] <= x[i] else (1 if x[i - 2] <= x[i] else 2)
                else:
                    code = 3 if x[i - 2] <= x[i] else (4 if x[i - 1] <= x[i] else 5)
                order[i] = code
                counts[code] += 1
            if i - window >= first and order[i - window] >= 0:
                counts[order[i - window]] -= 1
            num_triples = counts.sum()
            if num_triples >= min_count:
                entropy = 0.0
                for k in range(6):
                    if counts[k] > 0:
                        share = counts[k] / num_triples
                        entropy -= share * math.log(share)
                out[i] = entropy / math.log(6.0)
    return out


def ratio(numerator: Float64Array, denominator: Float64Array) -> Float64Array:
    """Quotient where the denominator is above zero, NaN elsewhere."""
    out = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0.0)
    return out


def log(x: Float64Array) -> Float64Array:
    """Natural logarithm where x is above zero, NaN elsewhere."""
    out = np.full(x.shape, np.nan)
    np.log(x, out=out, where=x > 0.0)
    return out
