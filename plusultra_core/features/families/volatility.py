"""How much a price moves: estimators of volatility, their ratios and the shape of returns."""

import numpy as np

from plusultra_core.arrays import Float64Array
from plusultra_core.features import indicators, kernels
from plusultra_core.features.arrays import BarArrays
from plusultra_core.features.families.returns import intraday, log_high, log_low, log_open, overnight
from plusultra_core.features.kernels import log, ratio

_FOUR_LOG_2 = 4.0 * np.log(2.0)


def _annual(variance: Float64Array, b: BarArrays) -> Float64Array:
    root: Float64Array = np.sqrt(np.maximum(variance, 0.0) * b.periods_per_year)
    return root


def _mean(x: Float64Array, b: BarArrays, window: int) -> Float64Array:
    return kernels.rolling_mean(x, b.starts, window, b.need(window), b.since)


def ranges(b: BarArrays) -> tuple[Float64Array, Float64Array]:
    """True range, and what of it lies below the close."""
    return b.once("ranges", lambda: indicators.ranges(b.high, b.low, b.close, b.starts))


def true_range(b: BarArrays) -> Float64Array:
    """max(high, previous close) - min(low, previous close); high - low on a symbol's first bar."""
    return ranges(b)[0]


def squares(b: BarArrays) -> Float64Array:
    """Squared log returns."""
    return b.once("squares", lambda: b.ret * b.ret)


def mean_square(b: BarArrays, window: int) -> Float64Array:
    """Mean of squared log returns over `window` bars."""
    return b.once(f"mean_square.{window}", lambda: _mean(squares(b), b, window))


def _range_squares(b: BarArrays) -> Float64Array:
    def make() -> Float64Array:
        spread = log_high(b) - log_low(b)
        return spread * spread

    return b.once("range_squares", make)


def _parkinson(b: BarArrays) -> Float64Array:
    return b.once("parkinson", lambda: _mean(_range_squares(b), b, b.medium) / _FOUR_LOG_2)


def _rogers_satchell(b: BarArrays) -> Float64Array:
    def make() -> Float64Array:
        up, down, move = log_high(b) - log_open(b), log_low(b) - log_open(b), intraday(b)
        return _mean(up * (up - move) + down * (down - move), b, b.medium)

    return b.once("rogers_satchell", make)


def vol_ewma(b: BarArrays) -> Float64Array:
    """EWMA volatility of log returns, a year."""
    yearly: Float64Array = b.sigma * np.sqrt(b.periods_per_year)
    return yearly


def vol_parkinson(b: BarArrays) -> Float64Array:
    """High-low volatility over `medium` bars, a year: mean of ln(H/L)^2 / (4 ln 2).

    Source  Parkinson (1980), J. Business 53.
    """
    return _annual(_parkinson(b), b)


def vol_garman_klass(b: BarArrays) -> Float64Array:
    """Open-high-low-close volatility over `medium` bars, a year: mean of ln(H/L)^2 / 2 - (2 ln 2 - 1) ln(C/O)^2.

    Source  Garman & Klass (1980), J. Business 53.
    """
    move = intraday(b)
    return _annual(_mean(0.5 * _range_squares(b) - (0.5 * _FOUR_LOG_2 - 1.0) * move * move, b, b.medium), b)


def vol_rogers_satchell(b: BarArrays) -> Float64Array:
    """Open-high-low-close volatility over `medium` bars that a drift does not raise, a year.

    Mean of ln(H/O) ln(H/C) + ln(L/O) ln(L/C).
    Source  Rogers & Satchell (1991), Annals of Applied Probability 1.
    """
    return _annual(_rogers_satchell(b), b)


def vol_yang_zhang(b: BarArrays) -> Float64Array:
    """Volatility with overnight gaps and drift over `medium` bars, a year.

    var(open gap) + k var(close / open) + (1 - k) mean of Rogers-Satchell, sample variances,
    k = .34 / (1.34 + (n + 1) / (n - 1)), n = medium.
    Source  Yang & Zhang (2000), J. Business 73.
    """
    n = float(b.medium)
    k = 0.34 / (1.34 + (n + 1.0) / (n - 1.0))
    bessel = n / (n - 1.0)
    _, gap_std = kernels.rolling_mean_std(overnight(b), b.starts, b.medium, b.need(b.medium), b.since)
    _, move_std = kernels.rolling_mean_std(intraday(b), b.starts, b.medium, b.need(b.medium), b.since)
    return _annual(bessel * gap_std * gap_std + k * bessel * move_std * move_std + (1.0 - k) * _rogers_satchell(b), b)


def vol_ratio(b: BarArrays) -> Float64Array:
    """Log of realised volatility over `short` bars over that of `long` bars."""
    return 0.5 * log(ratio(mean_square(b, b.short), mean_square(b, b.long)))


def vol_of_vol(b: BarArrays) -> Float64Array:
    """Standard deviation of log sigma over `medium` bars."""
    _, std = kernels.rolling_mean_std(log(b.sigma), b.starts, b.medium, b.need(b.medium), b.since)
    return std


def range_vol_ratio(b: BarArrays) -> Float64Array:
    """Log of Parkinson over close-to-close volatility, both over `medium` bars: movement that the close does not show."""
    return 0.5 * log(ratio(_parkinson(b), mean_square(b, b.medium)))


def atr(b: BarArrays) -> Float64Array:
    """Average true range: Wilder's mean over `medium` bars.

    Units   price.
    NaN     where high or low is missing.
    Source  Wilder (1978), New Concepts in Technical Trading Systems; normalised weights in place of his start.
    """
    spread = true_range(b)
    return np.where(np.isnan(spread), np.nan, b.ewma("atr_ratio.atr", spread, 1.0 / b.medium, b.need(b.medium)))


def atr_ratio(b: BarArrays) -> Float64Array:
    """Average true range (Wilder, `medium` bars) over the close, over sigma.

    Source  Wilder (1978), New Concepts in Technical Trading Systems; normalised weights.
    """
    return ratio(atr(b), b.close * b.sigma)


def _fall_squares(b: BarArrays) -> Float64Array:
    def make() -> Float64Array:
        fall = np.minimum(b.ret, 0.0)
        return fall * fall

    return b.once("fall_squares", make)


def downside_share(b: BarArrays) -> Float64Array:
    """Share of squared returns over `long` bars that came from falls, less one half."""
    return ratio(_mean(_fall_squares(b), b, b.long), mean_square(b, b.long)) - 0.5


def vol_down(b: BarArrays) -> Float64Array:
    """Semi-deviation over `medium` bars, a year: root of the mean of min(log return, 0)^2."""
    return _annual(_mean(_fall_squares(b), b, b.medium), b)


def vol_realised(b: BarArrays) -> Float64Array:
    """Close-to-close volatility over `medium` bars about zero, a year."""
    return _annual(mean_square(b, b.medium), b)


def ret_times_before(b: BarArrays) -> Float64Array:
    """Log return times that of the bar before."""
    return b.once("ret_times_before", lambda: b.ret * kernels.shift(b.ret, b.starts, 1))


def _bipower(b: BarArrays) -> Float64Array:
    # Pairs within the window only: a jump that has left the squares must not stay in the products.
    pairs = b.long - 1
    return b.once("bipower", lambda: kernels.rolling_mean(np.abs(ret_times_before(b)), b.starts, pairs, b.need(b.long) - 1, b.since))


def jump_share(b: BarArrays) -> Float64Array:
    """1 - bipower over realised variance, within `long` bars: what jumps added; below 0 by chance.

    Bipower variation is the mean of pi / 2 |r_t| |r_(t-1)| over the pairs within these bars.
    Source  Barndorff-Nielsen & Shephard (2004), J. Financial Econometrics 2.
    """
    return 1.0 - 0.5 * np.pi * ratio(_bipower(b), mean_square(b, b.long))


def overnight_share(b: BarArrays) -> Float64Array:
    """Share of the squared moves of `medium` bars that came between close and open, less one half."""
    gap, move = overnight(b), intraday(b)
    night = _mean(gap * gap, b, b.medium)
    return ratio(night, night + _mean(move * move, b, b.medium)) - 0.5


def vol_clustering(b: BarArrays) -> Float64Array:
    """Covariance of |r_t| and |r_(t-1)| over the variance of |r_t|, within `long` bars: how long calm and storm last."""
    mean, std = kernels.rolling_mean_std(np.abs(b.ret), b.starts, b.long, b.need(b.long), b.since)
    return ratio(_bipower(b) - mean * mean, std * std)


def _shape(b: BarArrays, row: int) -> Float64Array:
    return b.once("shape", lambda: kernels.rolling_shape(b.ret, b.starts, b.long, b.need(b.long), b.since))[row]


def skew(b: BarArrays) -> Float64Array:
    """Skewness of log returns over `long` bars."""
    return _shape(b, 0)


def kurtosis(b: BarArrays) -> Float64Array:
    """Excess kurtosis of log returns over `long` bars."""
    return _shape(b, 1)
