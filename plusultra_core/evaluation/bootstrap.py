"""Stationary block bootstrap: dates are drawn in blocks, and for all strategies together."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from arch.bootstrap import StationaryBootstrap, optimal_block_length

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.evaluation import metrics

CI_METRICS = ("sharpe", "cagr", "max_drawdown", "cvar_95_historical", "hit_rate")
PAIRED: dict[str, metrics.Statistic] = {"sharpe": metrics.sharpe_or_zero, "cagr": metrics.cagr}
_CHUNK = 256

Interval = tuple[float, float] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class BootstrapConfig:
    """How uncertainty is drawn."""

    reps: int
    """Resamples of the dates."""
    confidence: float
    """Probability inside an interval."""
    min_bars: int
    """Shorter spans get no interval."""

    def __post_init__(self) -> None:
        if self.reps < 100:
            raise ConfigError(f"reps: expected >= 100, found {self.reps}")
        if not 0.5 < self.confidence < 1:
            raise ConfigError(f"confidence: expected in (0.5, 1), found {self.confidence}")
        if self.min_bars < 5:
            raise ConfigError(f"min_bars: expected >= 5, found {self.min_bars}")


def block_length(series: Sequence[Float64Array]) -> float:
    """Mean block length for resampling several series on the same dates: the longest of their optimal ones.

    Series without variation have no say. At least 1, at most a third of the bars.
    Source  Politis and White 2004; Patton, Politis and White 2009.
    """
    num_bars = series[0].shape[-1]
    lengths = [1.0]
    for ret_T in series:
        if num_bars >= 8 and ret_T.std() > 1e-12 * np.abs(ret_T).max():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                found = float(optimal_block_length(ret_T)["stationary"].iloc[0])
            if math.isfinite(found):
                lengths.append(found)
    return float(min(max(lengths), max(num_bars / 3, 1.0)))


def resample_indices(num_bars: int, block: float, reps: int, seed: int) -> Int64Array:
    """Row numbers of `reps` stationary-bootstrap resamples.

    Shapes  result (reps, num_bars).
    Source  Politis and Romano 1994.
    """
    draws = StationaryBootstrap(block, np.arange(num_bars), seed=seed)
    index_RT: Int64Array = np.empty((reps, num_bars), dtype=np.int64)
    for row, (position, _) in enumerate(draws.bootstrap(reps)):
        index_RT[row] = position[0]
    return index_RT


def intervals(ret_T: Float64Array, index_RT: Int64Array, periods_per_year: float, confidence: float) -> dict[str, Interval]:
    """Percentile interval of each of CI_METRICS; None where the metric is undefined on the series itself."""
    result: dict[str, Interval] = {}
    for name in CI_METRICS:
        statistic = metrics.STATISTICS[name]
        if not np.isfinite(statistic(ret_T, periods_per_year)):
            result[name] = None
            continue
        result[name] = percentile_interval(_resampled(statistic, ret_T, index_RT, periods_per_year), confidence)
    return result


def paired_differences(
    model_T: Float64Array, baseline_T: Float64Array, index_RT: Int64Array, periods_per_year: float, confidence: float
) -> dict[str, dict[str, float | Interval]]:
    """Model minus baseline on the same resampled dates: difference, interval, and share of resamples above 0.

    A rule that never trades has Sharpe 0 here, so that it can be compared.
    Raises  ContractError when the two series differ in length.
    Source  Ledoit and Wolf 2008 (pairing).
    """
    if model_T.shape != baseline_T.shape:
        raise ContractError(f"paired returns: expected equal lengths, found {model_T.shape} and {baseline_T.shape}; cut both to one span")
    result: dict[str, dict[str, float | Interval]] = {}
    for name, statistic in PAIRED.items():
        draws_R = _resampled(statistic, model_T, index_RT, periods_per_year)
        draws_R = draws_R - _resampled(statistic, baseline_T, index_RT, periods_per_year)
        value = float(statistic(model_T, periods_per_year) - statistic(baseline_T, periods_per_year))
        finite_R = draws_R[np.isfinite(draws_R)]
        result[name] = {
            "difference": value if math.isfinite(value) else None,
            "ci": percentile_interval(draws_R, confidence),
            "share_above_zero": float((finite_R > 0).mean()) if finite_R.size else None,
        }
    return result


def percentile_interval(draws_R: Float64Array, confidence: float) -> Interval:
    """Equal-tailed percentile interval of the finite draws; None when fewer than nine in ten are finite."""
    finite_R = draws_R[np.isfinite(draws_R)]
    if finite_R.size < 0.9 * draws_R.size:
        return None
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(finite_R, [tail, 1.0 - tail])
    return float(low), float(high)


def bootstrap_all(
    returns: Mapping[str, Float64Array], periods_per_year: float, cfg: BootstrapConfig, seed: int
) -> tuple[dict[str, dict[str, Interval]], Int64Array, float]:
    """Intervals of all strategies from one set of resampled dates, with that set and its mean block length.

    Spans shorter than `cfg.min_bars` get None everywhere and no resamples (shape (0, T)).
    """
    names = sorted(returns)
    num_bars = returns[names[0]].size
    if num_bars < cfg.min_bars:
        return {name: dict.fromkeys(CI_METRICS) for name in names}, np.empty((0, num_bars), dtype=np.int64), 1.0
    block = block_length([returns[name] for name in names])
    index_RT = resample_indices(num_bars, block, cfg.reps, seed)
    return {name: intervals(returns[name], index_RT, periods_per_year, cfg.confidence) for name in names}, index_RT, block


def _resampled(statistic: metrics.Statistic, ret_T: Float64Array, index_RT: Int64Array, periods_per_year: float) -> Float64Array:
    chunks = [statistic(ret_T[index_RT[start : start + _CHUNK]], periods_per_year) for start in range(0, len(index_RT), _CHUNK)]
    return np.concatenate(chunks) if chunks else np.empty(0)


def repeated_sharpe(run: Sequence[Float64Array], periods_per_year: float) -> float:
    """Sharpe of one strategy over several folds, trained with several seeds: that of the joined folds, the mean over seeds.

    A seed that never traded counts as 0. Shapes  run: one array (S, T_k) a fold, S seeds in the same order.
    """
    return float(metrics.sharpe_or_zero(np.concatenate(list(run), axis=1), periods_per_year).mean())


def repeated_draws(
    runs: Mapping[str, Sequence[Float64Array]], periods_per_year: float, cfg: BootstrapConfig, seed: int
) -> dict[str, Float64Array]:
    """Draws of `repeated_sharpe` for strategies over the same folds: dates and seeds are both left to chance.

    Within each fold dates are drawn in blocks (stationary bootstrap), the same for all strategies and seeds, and folds keep their length;
    of a strategy with S seeds, S are drawn with replacement, anew in each fold, because each fold is a training of its own. Folds
    themselves are not drawn: they are too few.
    Shapes  runs[name][k] (S, T_k), S may differ between strategies; result[name] (reps,), to be subtracted draw by draw.
    Raises  ContractError when strategies differ in the bars of a fold.
    """
    names = sorted(runs)
    lengths = {name: tuple(fold_ST.shape[1] for fold_ST in runs[name]) for name in names}
    if len(set(lengths.values())) != 1:
        raise ContractError(f"repeated runs: expected the same bars a fold, found {lengths}; run all strategies on one span")
    drawn: dict[str, list[Int64Array]] = {name: [] for name in names}
    dates: list[Int64Array] = []
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, 1))))
    for fold in range(len(runs[names[0]])):
        block = block_length([ret_T for name in names for ret_T in runs[name][fold]])
        dates.append(resample_indices(lengths[names[0]][fold], block, cfg.reps, seed + fold))
        for name in names:
            num_seeds = len(runs[name][fold])
            drawn[name].append(rng.integers(0, num_seeds, (cfg.reps, num_seeds)))

    def draws(name: str, rows: slice) -> Float64Array:
        parts = zip(runs[name], drawn[name], dates, strict=True)
        ret_RST = np.concatenate([fold[chosen[rows, :, None], index[rows, None, :]] for fold, chosen, index in parts], axis=2)
        return np.asarray(metrics.sharpe_or_zero(ret_RST, periods_per_year).mean(axis=1))

    chunks = [slice(start, start + _CHUNK) for start in range(0, cfg.reps, _CHUNK)]
    return {name: np.concatenate([draws(name, rows) for rows in chunks]) for name in names}
