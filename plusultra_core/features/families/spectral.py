"""Where the variance of returns lies: by frequency, by order, by lag."""

from plusultra_core.arrays import Float64Array
from plusultra_core.features import kernels
from plusultra_core.features.arrays import BarArrays
from plusultra_core.features.kernels import ratio


def _bands(b: BarArrays, row: int) -> Float64Array:
    if "bands" not in b.shared:
        num_bins = b.long // 2
        b.shared["bands"] = kernels.band_energy(b.ret, b.starts, b.long, max(1, num_bins // 4), num_bins // 2 + 1)
    out: Float64Array = b.shared["bands"][row]
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


def autocorr_1(b: BarArrays) -> Float64Array:
    """Mean of r_t r_(t-1) over mean of r_t^2, over `long` bars (about zero, not the mean)."""
    need = b.need(b.long)
    product = kernels.rolling_mean(b.ret * kernels.shift(b.ret, b.starts, 1), b.starts, b.long, need - 1)
    return ratio(product, kernels.rolling_mean(b.ret * b.ret, b.starts, b.long, need))


def variance_ratio(b: BarArrays) -> Float64Array:
    """Variance of `short`-bar returns over `short` times that of one bar, over `long` bars, less 1.

    Source  Lo & MacKinlay (1988), Rev. Financial Studies 1; about zero drift, overlapping.
    """
    whole = kernels.rolling_mean(b.ret, b.starts, b.short, b.short) * b.short
    need = b.need(b.long)
    slow = kernels.rolling_mean(whole * whole, b.starts, b.long, max(2, need - b.short))
    return ratio(slow, b.short * kernels.rolling_mean(b.ret * b.ret, b.starts, b.long, need)) - 1.0
