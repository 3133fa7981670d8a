"""The one place where a strategy's returns become numbers: table, chart, JSON and bootstrap all call it.

Every formula takes per-bar net simple returns with time on the last axis, so that the same line
serves one series (T,) and a thousand resamples of it (R, T).
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from plusultra_core.arrays import Float64Array
from plusultra_core.errors import ContractError

TAIL_FRAC = 0.05
_FLAT = 1e-12

Statistic = Callable[[Float64Array, float], Float64Array]


def performance(
    ret_T: Float64Array,
    periods_per_year: float,
    *,
    turnover_T: Float64Array | None = None,
    exposure_T: Float64Array | None = None,
) -> dict[str, float | None]:
    """All metrics of one strategy; what is undefined is None (JSON null), never NaN.

    Shapes  ret_T, turnover_T, exposure_T (T,), in time order.
    Units   ret_T simple return per bar after costs; turnover_T one-way traded notional over equity; exposure_T gross weight.
    NaN     refused: a missing return is not a zero return.
    Raises  ContractError when ret_T is empty, not one-dimensional or not finite, or periods_per_year is not above 0.
    Source  STATISTICS: Rockafellar and Uryasev 2000 (CVaR), Martin 1989 (Ulcer).
    """
    ret_T = checked_returns(ret_T)
    if not periods_per_year > 0:
        raise ContractError(f"periods_per_year: expected > 0, found {periods_per_year}; take it from the market's config")
    values: dict[str, float] = {name: float(statistic(ret_T, periods_per_year)) for name, statistic in STATISTICS.items()}
    if turnover_T is not None:
        values["turnover_year"] = float(np.mean(turnover_T)) * periods_per_year
    if exposure_T is not None:
        values["exposure_mean"] = float(np.mean(exposure_T))
        values["exposure_max"] = float(np.max(exposure_T))
    return {"num_bars": float(ret_T.size), **nulled(values)}


def checked_returns(ret_T: Float64Array) -> Float64Array:
    """The same returns as float64.

    Raises  ContractError when they are empty, not one-dimensional or not finite.
    """
    ret_T = np.asarray(ret_T, dtype=np.float64)
    if ret_T.ndim != 1 or ret_T.size == 0:
        raise ContractError(f"returns: expected one non-empty series, found shape {ret_T.shape}; score a span that has bars")
    if not np.isfinite(ret_T).all():
        raise ContractError(f"returns: {int((~np.isfinite(ret_T)).sum())} of {ret_T.size} are not finite; look at the ledger's equity")
    return ret_T


def nulled(values: Mapping[str, float]) -> dict[str, float | None]:
    """The same numbers with NaN and infinity as None."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def equity_curve(ret_T: Float64Array) -> Float64Array:
    """Wealth after each bar, starting from 1; once nothing is left it stays at 0.

    Shapes  ret_T (..., T); result the same.
    """
    return np.asarray(np.cumprod(1.0 + np.maximum(ret_T, -1.0), axis=-1), dtype=np.float64)


def drawdown_curve(ret_T: Float64Array) -> Float64Array:
    """Loss from the highest wealth so far, the start included, as a fraction in [0, 1]."""
    equity_T = equity_curve(ret_T)
    peak_T = np.maximum(np.maximum.accumulate(equity_T, axis=-1), 1.0)
    return 1.0 - equity_T / peak_T


def total_return(ret_T: Float64Array, periods_per_year: float) -> Float64Array:
    """Compounded return of the whole span; -1 at most is lost."""
    return np.asarray(equity_curve(ret_T)[..., -1] - 1.0)


def cagr(ret_T: Float64Array, periods_per_year: float) -> Float64Array:
    """Compounded return a year. Says little on spans far below a year."""
    with np.errstate(over="ignore"):
        return np.asarray(equity_curve(ret_T)[..., -1] ** (periods_per_year / ret_T.shape[-1]) - 1.0)


def volatility(ret_T: Float64Array, periods_per_year: float) -> Float64Array:
    """Standard deviation (ddof 1) a year; NaN for a single bar."""
    return _deviation(ret_T) * math.sqrt(periods_per_year)


def sharpe(ret_T: Float64Array, periods_per_year: float) -> Float64Array:
    """Mean over standard deviation (ddof 1), a year, against cash at rate 0; NaN where returns do not vary."""
    return _ratio(ret_T.mean(axis=-1), _deviation(ret_T), ret_T) * math.sqrt(periods_per_year)


def sharpe_or_zero(ret_T: Float64Array, periods_per_year: float) -> Float64Array:
    """Sharpe, 0 where nothing was earned at all: what a rule that never trades is compared by."""
    return np.where((ret_T == 0.0).all(axis=-1), 0.0, sharpe(ret_T, periods_per_year))


def sortino(ret_T: Float64Array, periods_per_year: float) -> Float64Array:
    """Mean over downside deviation below 0, a year; NaN where no bar lost."""
    downside = np.sqrt(np.mean(np.minimum(ret_T, 0.0) ** 2, axis=-1))
    return _ratio(ret_T.mean(axis=-1), downside, ret_T) * math.sqrt(periods_per_year)


def max_drawdown(ret_T: Float64Array, periods_per_year: float) -> Float64Array:
    """Deepest drawdown as a positive fraction, at most 1."""
    return np.asarray(drawdown_curve(ret_T).max(axis=-1))


def calmar(ret_T: Float64Array, periods_per_year: float) -> Float64Array:
    """CAGR over the deepest drawdown; NaN without a drawdown."""
    return _ratio(cagr(ret_T, periods_per_year), max_drawdown(ret_T, periods_per_year), ret_T)


def ulcer(ret_T: Float64Array, periods_per_year: float) -> Float64Array:
    """Root mean square of the compounded drawdown, a fraction."""
    return np.asarray(np.sqrt(np.mean(drawdown_curve(ret_T) ** 2, axis=-1)))


def hit_rate(ret_T: Float64Array, periods_per_year: float) -> Float64Array:
    """Share of bars with a gain among bars with a gain or a loss; NaN where nothing moved."""
    moved = (ret_T != 0.0).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((ret_T > 0.0).sum(axis=-1) / np.where(moved > 0, moved, np.nan))


def value_at_risk(ret_T: Float64Array, periods_per_year: float) -> Float64Array:
    """Historical VaR at 95 % per bar: the least loss exceeded with probability at most 5 %; positive is a loss."""
    loss_T = np.sort(0.0 - ret_T, axis=-1)
    rank = math.ceil((1.0 - TAIL_FRAC) * ret_T.shape[-1] - 1e-9)
    return np.asarray(loss_T[..., max(rank, 1) - 1])


def conditional_value_at_risk(ret_T: Float64Array, periods_per_year: float) -> Float64Array:
    """Historical CVaR at 95 % per bar: the mean loss of the worst 5 % of probability; never below VaR."""
    var = value_at_risk(ret_T, periods_per_year)
    beyond_T = np.maximum(-ret_T - var[..., None], 0.0)
    return np.asarray(var + beyond_T.mean(axis=-1) / TAIL_FRAC)


def tail_ratio(ret_T: Float64Array, periods_per_year: float) -> Float64Array:
    """Absolute 95 % quantile over absolute 5 % quantile of returns; NaN where the latter is 0."""
    low, high = np.quantile(ret_T, [TAIL_FRAC, 1.0 - TAIL_FRAC], axis=-1)
    return _ratio(np.abs(high), np.abs(low), ret_T)


def skewness(ret_T: Float64Array, periods_per_year: float) -> Float64Array:
    """Third standardised moment of the sample."""
    return _moment(ret_T, 3)


def kurtosis(ret_T: Float64Array, periods_per_year: float) -> Float64Array:
    """Fourth standardised moment of the sample, not in excess: 3 for a normal."""
    return _moment(ret_T, 4)


STATISTICS: dict[str, Statistic] = {
    "total_return": total_return,
    "cagr": cagr,
    "volatility": volatility,
    "sharpe": sharpe,
    "sortino": sortino,
    "calmar": calmar,
    "max_drawdown": max_drawdown,
    "ulcer": ulcer,
    "hit_rate": hit_rate,
    "var_95_historical": value_at_risk,
    "cvar_95_historical": conditional_value_at_risk,
    "tail_ratio": tail_ratio,
    "skew": skewness,
    "kurtosis": kurtosis,
}


def _deviation(ret_T: Float64Array) -> Float64Array:
    if ret_T.shape[-1] < 2:
        return np.full(ret_T.shape[:-1], np.nan)
    return np.asarray(ret_T.std(axis=-1, ddof=1))


def _ratio(numerator: Float64Array, denominator: Float64Array, ret_T: Float64Array) -> Float64Array:
    """The quotient, NaN where the denominator is nothing but rounding of the returns."""
    floor = _FLAT * np.abs(ret_T).max(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(denominator > floor, numerator / denominator, np.nan))


def _moment(ret_T: Float64Array, order: int) -> Float64Array:
    centred_T = ret_T - ret_T.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred_T**2).mean(axis=-1))
    scale = _ratio(np.ones_like(deviation), deviation, ret_T)
    return np.asarray(((centred_T * scale[..., None]) ** order).mean(axis=-1))
