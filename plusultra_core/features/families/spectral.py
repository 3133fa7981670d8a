"""Where the variance of returns lies: by frequency, by order, by lag."""

from plusultra_core.arrays import Float64Array
from plusultra_core.features import indicators, kernels
from plusultra_core.features.arrays import BarArrays
from plusultra_core.features.families.returns import log_close
from plusultra_core.features.families.volatility import mean_square, ret_times_before
from plusultra_core.features.kernels import ratio


def _bands(b: BarArrays, row: int) -> Float64Array:
    def make() -> Float64Array:
        num_bins = b.long // 2
        return kernels.band_energy(b.ret, b.starts, b.long, max(1, num_bins // 4), num_bins // 2 + 1, b.since)

    out: Float64Array = b.once("bands", make)[row]
    return out


def spectral_low(b: BarArrays) -> Float64Array:
    """Share of the variance of returns in the slowest quarter of the frequencies, over `long` bars."""
    return _bands(b, 0)


def spectral_high(b: BarArrays) -> Float64Array:
    """Share of the variance of returns in the fastest half of the frequencies, over `long` bars."""
    return _bands(b, 1)


def spectral_entropy(b: BarArrays) -> Float64Array:
    """Entropy of the spectrum of returns over `long` bars, 1 = white."""
    return _bands(b, 2)


def order_entropy(b: BarArrays) -> Float64Array:
    """Permutation entropy of order 3 of returns over `long` bars, 1 = no pattern.

    Source  Bandt & Pompe (2002), Phys. Rev. Lett. 88.
    """
    return kernels.order_entropy(b.ret, b.starts, b.long, b.need(b.long) - 2)


def return_entropy(b: BarArrays) -> Float64Array:
    """Entropy of log returns over `long` bars in five levels, borders at .5 and 1.5 sigma of their bar, 1 = all levels alike.

    Source  Shannon (1948), Bell System Technical Journal 27.
    """
    return indicators.level_entropy(ratio(b.ret, b.sigma), b.starts, b.long, b.need(b.long))


def _autocorrelation(product: Float64Array, b: BarArrays, lag: int) -> Float64Array:
    # Pairs within the window only: a jump that has left the squares must not stay in the products.
    pairs = b.long - lag
    mean = kernels.rolling_mean(product, b.starts, pairs, max(2, b.need(b.long) - lag), b.since)
    return ratio(mean * (pairs / b.long), mean_square(b, b.long))


def autocorr_1(b: BarArrays) -> Float64Array:
    """Sum of r_t r_(t-1) over sum of r_t^2, both within `long` bars (about zero, not the mean)."""
    return _autocorrelation(ret_times_before(b), b, 1)


def autocorr_short(b: BarArrays) -> Float64Array:
    """Sum of r_t r_(t-short) over sum of r_t^2, both within `long` bars (about zero, not the mean)."""
    return _autocorrelation(b.ret * kernels.shift(b.ret, b.starts, b.short), b, b.short)


def variance_ratio(b: BarArrays) -> Float64Array:
    """Variance of `short`-bar returns over `short` times that of one bar, within `long` bars, less 1.

    Source  Lo & MacKinlay (1988), Rev. Financial Studies 1; about zero drift, overlapping.
    """
    whole = log_close(b) - kernels.shift(log_close(b), b.starts, b.short)
    slow = kernels.rolling_mean(whole * whole, b.starts, b.long - b.short + 1, max(2, b.need(b.long) - b.short + 1), b.since)
    return ratio(slow, b.short * mean_square(b, b.long)) - 1.0
