"""Rolling kernels over the bars of many symbols laid end to end.

Every kernel takes `x` (N,) and `starts` (S + 1,): symbol s owns rows starts[s] to starts[s + 1], and no
window crosses that border. NaN is a missing value: a window answers from what is there once it holds
`min_count` values, and is NaN before that. Row i reads rows <= i only.

Sums slide, and are made anew at every row whose number within the symbol is a multiple of BLOCK: rounding
cannot pile up, and a build that begins at such a row, `window + BLOCK` rows before those it is asked for,
says the same to the last bit. `since` (S,) are rows of each symbol from which answers are asked for, where
earlier ones are not; what a kernel says before them means nothing.
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

BLOCK = 16
_FLAT = 1e-12  # a variance below this part of the second moment is rounding, not movement
_LOST = 1e-13  # and so is a sliding sum below this part of the largest that it has been since it was made anew


@njit(cache=True)
def shift(x: Float64Array, starts: Int64Array, num_bars: int) -> Float64Array:
    """x of `num_bars` rows earlier within the symbol."""
    out = np.empty(x.size)
    for s in range(starts.size - 1):
        middle = min(starts[s] + num_bars, starts[s + 1])
        out[starts[s] : middle] = np.nan
        for i in range(middle, starts[s + 1]):
            out[i] = x[i - num_bars]
    return out


@njit(cache=True)
def rolling_mean_std(
    x: Float64Array, starts: Int64Array, window: int, min_count: int, since: Int64Array | None = None
) -> tuple[Float64Array, Float64Array]:
    """Mean and population standard deviation of the last `window` rows; sums are taken around a value of the window."""
    mean = np.full(x.size, np.nan)
    std = np.full(x.size, np.nan)
    for s in range(starts.size - 1):
        first = starts[s]
        begin = first if since is None else first + since[s] // BLOCK * BLOCK
        for block in range(begin, starts[s + 1], BLOCK):
            origin, count, total, squares = 0.0, 0, 0.0, 0.0
            for j in range(max(first, block - window + 1), block + 1):
                if not math.isnan(x[j]):
                    origin = x[j]
            for j in range(max(first, block - window + 1), block):
                if not math.isnan(x[j]):
                    gap = x[j] - origin
                    count += 1
                    total += gap
                    squares += gap * gap
            peak = squares
            for i in range(block, min(block + BLOCK, starts[s + 1])):
                if not math.isnan(x[i]):
                    gap = x[i] - origin
                    count += 1
                    total += gap
                    squares += gap * gap
                peak = max(peak, squares)
                if i > block and i - window >= first and not math.isnan(x[i - window]):
                    gap = x[i - window] - origin
                    count -= 1
                    total -= gap
                    squares -= gap * gap
                if count >= min_count:
                    centre = total / count
                    variance = squares / count - centre * centre
                    mean[i] = origin + centre
                    std[i] = math.sqrt(variance) if variance > max(_FLAT * squares, _LOST * peak) / count else 0.0
    return mean, std


@njit(cache=True)
def rolling_mean(x: Float64Array, starts: Int64Array, window: int, min_count: int, since: Int64Array | None = None) -> Float64Array:
    """Mean of the last `window` rows; 0, and no residue of what has left, where nothing else is there."""
    out = np.full(x.size, np.nan)
    for s in range(starts.size - 1):
        first = starts[s]
        begin = first if since is None else first + since[s] // BLOCK * BLOCK
        for block in range(begin, starts[s + 1], BLOCK):
            count, total = 0, 0.0
            for j in range(max(first, block - window + 1), block):
                if not math.isnan(x[j]):
                    count += 1
                    total += x[j]
            peak = abs(total)
            for i in range(block, min(block + BLOCK, starts[s + 1])):
                if not math.isnan(x[i]):
                    count += 1
                    total += x[i]
                peak = max(peak, abs(total))
                if i > block and i - window >= first and not math.isnan(x[i - window]):
                    count -= 1
                    total -= x[i - window]
                if count >= min_count:
                    out[i] = total / count if abs(total) > _LOST * peak else 0.0
    return out


@njit(cache=True)
def rolling_max(x: Float64Array, starts: Int64Array, window: int, min_count: int, since: Int64Array | None = None) -> Float64Array:
    """Largest value of the last `window` rows, from a queue of falling candidates."""
    out = np.full(x.size, np.nan)
    queue = np.empty(window, dtype=np.int64)
    for s in range(starts.size - 1):
        first, head, length, count = starts[s], 0, 0, 0
        if since is not None:
            first += max(0, since[s] - window + 1)
        for i in range(first, starts[s + 1]):
            if i - window >= first and not math.isnan(x[i - window]):
                count -= 1
                if queue[head] == i - window:
                    head = head + 1 if head + 1 < window else 0
                    length -= 1
            if not math.isnan(x[i]):
                count += 1
                while length > 0 and x[queue[(head + length - 1) % window]] <= x[i]:
                    length -= 1
                queue[(head + length) % window] = i
                length += 1
            if count >= min_count:
                out[i] = x[queue[head]]
    return out


@njit(cache=True)
def rolling_mean_abs_dev(x: Float64Array, starts: Int64Array, window: int, min_count: int) -> Float64Array:
    """Mean absolute distance of the last `window` rows from their mean."""
    out = rolling_mean(x, starts, window, min_count)
    for s in range(starts.size - 1):
        for i in range(starts[s + 1] - 1, starts[s] - 1, -1):
            if math.isnan(out[i]):
                continue
            count, distance, centre = 0, 0.0, out[i]
            for j in range(max(starts[s], i - window + 1), i + 1):
                if not math.isnan(x[j]):
                    count += 1
                    distance += abs(x[j] - centre)
            out[i] = distance / count
    return out


@njit(cache=True)
def rolling_shape(
    x: Float64Array, starts: Int64Array, window: int, min_count: int, since: Int64Array | None = None
) -> tuple[Float64Array, Float64Array]:
    """Population skewness and excess kurtosis of the last `window` rows; NaN where they do not vary."""
    skew = np.full(x.size, np.nan)
    kurtosis = np.full(x.size, np.nan)
    for s in range(starts.size - 1):
        first = starts[s]
        begin = first if since is None else first + since[s] // BLOCK * BLOCK
        for block in range(begin, starts[s + 1], BLOCK):
            count, origin, s1, s2, s3, s4 = 0, 0.0, 0.0, 0.0, 0.0, 0.0
            for j in range(max(first, block - window + 1), block + 1):
                if not math.isnan(x[j]):
                    count += 1
                    origin += x[j]
            origin = origin / count if count else 0.0
            count, peak = 0, 0.0
            for j in range(max(first, block - window + 1), min(block + BLOCK, starts[s + 1])):
                if not math.isnan(x[j]):
                    gap = x[j] - origin
                    count += 1
                    s1 += gap
                    s2 += gap * gap
                    s3 += gap * gap * gap
                    s4 += gap * gap * gap * gap
                peak = max(peak, s2)
                if j < block:
                    continue
                if j > block and j - window >= first and not math.isnan(x[j - window]):
                    gap = x[j - window] - origin
                    count -= 1
                    s1 -= gap
                    s2 -= gap * gap
                    s3 -= gap * gap * gap
                    s4 -= gap * gap * gap * gap
                if count < min_count:
                    continue
                m, m2 = s1 / count, s2 / count
                variance = m2 - m * m
                if variance > max(_FLAT * (m2 + origin * origin), _LOST * peak / count):
                    skew[j] = (s3 / count - 3.0 * m * m2 + 2.0 * m * m * m) / (variance * math.sqrt(variance))
                    fourth = s4 / count - 4.0 * m * s3 / count + 6.0 * m * m * m2 - 3.0 * m * m * m * m
                    kurtosis[j] = fourth / (variance * variance) - 3.0
    return skew, kurtosis


@njit(cache=True)
def rolling_slope(x: Float64Array, starts: Int64Array, window: int) -> tuple[Float64Array, Float64Array]:
    """Least-squares slope per row and its correlation with time over the last `window` rows, all present."""
    slope = np.full(x.size, np.nan)
    corr = np.full(x.size, np.nan)
    middle = 0.5 * (window - 1)
    time_squares = window * (window * window - 1.0) / 12.0
    for s in range(starts.size - 1):
        run, origin, total, squares, product, peak = 0, 0.0, 0.0, 0.0, 0.0, 0.0
        for i in range(starts[s], starts[s + 1]):
            run = 0 if math.isnan(x[i]) else run + 1
            if run < window:
                continue
            if run == window or (i - starts[s]) % BLOCK == 0:
                origin, total, squares, product = x[i], 0.0, 0.0, 0.0
                for k in range(window):
                    gap = x[i - window + 1 + k] - origin
                    total += gap
                    squares += gap * gap
                    product += (k - middle) * gap
                peak = squares
            else:
                gone, come = x[i - window] - origin, x[i] - origin
                product += middle * gone - (total - gone) + middle * come
                total += come - gone
                squares += come * come
                peak = max(peak, squares)
                squares -= gone * gone
            slope[i] = product / time_squares
            spread = squares - total * total / window
            if spread > max(_FLAT * squares, _LOST * peak):
                corr[i] = product / math.sqrt(time_squares * spread)
    return slope, corr


@njit(cache=True)
def band_energy(
    x: Float64Array, starts: Int64Array, window: int, low_bins: int, high_bin: int, since: Int64Array | None = None
) -> Float64Array:
    """Shares of the variance of the last `window` rows by frequency, from a sliding Fourier transform.

    Returns (3, N): share of bins 1..low_bins, share of bins high_bin..window // 2, entropy of the shares
    scaled to [0, 1]. The mean is bin 0 and not counted.
    """
    num_bins = window // 2
    out = np.full((3, x.size), np.nan)
    real, imag, energy = np.zeros(num_bins), np.zeros(num_bins), np.zeros(num_bins)
    cosine, sine = np.empty((window, num_bins)), np.empty((window, num_bins))
    for j in range(window):
        for k in range(num_bins):
            angle = 2.0 * math.pi * ((j * (k + 1)) % window) / window
            cosine[j, k], sine[j, k] = math.cos(angle), math.sin(angle)
    for s in range(starts.size - 1):
        run = 0
        begin = starts[s] if since is None else starts[s] + since[s] // BLOCK * BLOCK
        for i in range(starts[s], starts[s + 1]):
            run = 0 if math.isnan(x[i]) else run + 1
            if run < window or i < begin:
                continue
            if run == window or (i - starts[s]) % BLOCK == 0:
                real[:], imag[:] = 0.0, 0.0
                for j in range(window):
                    value = x[i - window + 1 + j]
                    for k in range(num_bins):
                        real[k] += value * cosine[j, k]
                        imag[k] -= value * sine[j, k]
            else:
                change = x[i] - x[i - window]
                for k in range(num_bins):
                    shifted = real[k] + change
                    real[k] = shifted * cosine[1, k] - imag[k] * sine[1, k]
                    imag[k] = shifted * sine[1, k] + imag[k] * cosine[1, k]
            for k in range(num_bins):
                energy[k] = real[k] * real[k] + imag[k] * imag[k]
            total, low, high, spread = 0.0, 0.0, 0.0, 0.0
            for k in range(num_bins):
                total += energy[k]
                low += energy[k] if k < low_bins else 0.0
                high += energy[k] if k + 1 >= high_bin else 0.0
            if total > 1e-24:
                for k in range(num_bins):
                    share = energy[k] / total
                    spread -= share * math.log(share) if share > 0.0 else 0.0
                out[0, i], out[1, i], out[2, i] = low / total, high / total, spread / math.log(num_bins)
    return out


@njit(cache=True)
def order_entropy(x: Float64Array, starts: Int64Array, window: int, min_count: int) -> Float64Array:
    """Entropy in [0, 1] of the six orders that three rows in a row can stand in, over the last `window` triples."""
    out = np.full(x.size, np.nan)
    order = np.full(x.size, -1, dtype=np.int8)
    counts = np.zeros(6, dtype=np.int64)
    weigh = np.zeros(window + 1)
    for k in range(2, window + 1):
        weigh[k] = k * math.log(k)
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
                within = 0.0
                for k in range(6):
                    within += weigh[counts[k]]
                out[i] = (weigh[num_triples] - within) / num_triples / math.log(6.0)
    return out


@njit(cache=True)
def ratio(numerator: Float64Array, denominator: Float64Array) -> Float64Array:
    """Quotient where the denominator is above zero, NaN elsewhere."""
    out = np.empty(denominator.size)
    for i in range(out.size):
        above = denominator[i] > 0.0
        out[i] = numerator[i] / (denominator[i] if above else 1.0) if above else math.nan
    return out


@njit(cache=True)
def above_zero(x: Float64Array) -> Float64Array:
    """x where it is above zero, NaN elsewhere."""
    out = np.empty(x.size)
    for i in range(out.size):
        out[i] = x[i] if x[i] > 0.0 else math.nan
    return out


def log(x: Float64Array) -> Float64Array:
    """Natural logarithm where x is above zero, NaN elsewhere."""
    out = above_zero(x)
    return np.log(out, out=out)
