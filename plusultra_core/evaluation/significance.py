"""Could it be luck? PSR and MinTRL of one track, DSR over all trials, SPA against a benchmark, PBO of the selection."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from arch.bootstrap import SPA
from scipy.special import ndtr, ndtri

from plusultra_core.arrays import Float64Array
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.evaluation import metrics
from plusultra_core.evaluation.bootstrap import BootstrapConfig, block_length
from plusultra_core.evaluation.seeds.runs import is_seed_run
from plusultra_core.evaluation.trials import Trial, returns_matrix

_EULER = 0.5772156649015329


@dataclass(frozen=True, kw_only=True, slots=True)
class SignificanceConfig:
    """What is tested, and against what."""

    alpha: float
    """Level of MinTRL: the track must be this long for PSR to reach 1 - alpha."""
    spa_benchmarks: tuple[str, ...]
    """Strategies that the models must beat all together."""
    pbo_blocks: int
    """Even number of time blocks of the combinatorial split."""
    pbo_min_trials: int
    """Fewer trials on one span give no PBO."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5:
            raise ConfigError(f"alpha: expected in (0, 0.5), found {self.alpha}")
        if self.pbo_blocks < 4 or self.pbo_blocks % 2 or self.pbo_blocks > 16:
            raise ConfigError(f"pbo_blocks: expected even, 4 to 16, found {self.pbo_blocks}")
        if self.pbo_min_trials < 2:
            raise ConfigError(f"pbo_min_trials: expected >= 2, found {self.pbo_min_trials}")


def probabilistic_sharpe(ret_T: Float64Array, benchmark_per_bar: float) -> float | None:
    """Probability that the true Sharpe exceeds a benchmark; both per bar, not annualised. Assumes independent bars.

    NaN     None for fewer than three bars or returns that do not vary.
    Source  Bailey and Lopez de Prado 2012, J. Risk 15(2).
    """
    found = _sharpe_and_spread(ret_T)
    if found is None:
        return None
    sharpe, spread = found
    return float(ndtr((sharpe - benchmark_per_bar) * math.sqrt(ret_T.size - 1) / spread))


def min_track_record(ret_T: Float64Array, benchmark_per_bar: float, alpha: float) -> float | None:
    """Bars needed for PSR to reach 1 - alpha at this Sharpe; None where it is not above the benchmark.

    Source  Bailey and Lopez de Prado 2012, J. Risk 15(2), equation 11.
    """
    found = _sharpe_and_spread(ret_T)
    if found is None or found[0] <= benchmark_per_bar:
        return None
    sharpe, spread = found
    return 1.0 + (spread * float(ndtri(1.0 - alpha)) / (sharpe - benchmark_per_bar)) ** 2


def expected_max_sharpe(trial_sharpes: Sequence[float]) -> float:
    """Sharpe per bar that the best of so many worthless independent trials is expected to show; 0 for one trial.

    Source  Bailey and Lopez de Prado 2014, J. Portfolio Management 40(5).
    """
    num = len(trial_sharpes)
    if num < 2:
        return 0.0
    spread = float(np.std(np.asarray(trial_sharpes), ddof=1))
    return spread * float((1.0 - _EULER) * ndtri(1.0 - 1.0 / num) + _EULER * ndtri(1.0 - 1.0 / (num * math.e)))


def counted_sharpes(trials: Sequence[Trial]) -> list[float]:
    """Sharpes per bar that the best of all trials is measured by.

    A trial that never traded was one too: it shows 0. Seeds of a policy are trials as others are. They are also alike, and so are those
    that show 0: where they lie so close together that the best of all would show less by luck than the best without them, these are
    counted alone, so that no trial more makes anything less strict.
    """
    shown = [(trial.sharpe_per_bar, trial.sharpe_per_bar is not None, not is_seed_run(trial.strategy)) for trial in trials]
    every = [sharpe or 0.0 for sharpe, _, _ in shown]
    traded = [sharpe for sharpe, _, _ in shown if sharpe is not None]
    ideas = [sharpe or 0.0 for sharpe, _, is_idea in shown if is_idea]
    both = [sharpe for sharpe, _, is_idea in shown if is_idea and sharpe is not None]
    return max(every, traded, ideas, both, key=expected_max_sharpe)


def deflated_sharpe(ret_T: Float64Array, trial_sharpes: Sequence[float]) -> float | None:
    """PSR against what the best of all trials would show by luck; with one trial it is PSR against 0."""
    return probabilistic_sharpe(ret_T, expected_max_sharpe(trial_sharpes))


def superior_predictive_ability(
    benchmark_T: Float64Array, models_TK: Float64Array, block: float, reps: int, seed: int
) -> dict[str, float] | None:
    """Hansen's SPA: p-value of "no model is better than the benchmark" in mean return; lower and upper bracket it.

    Each difference is divided by its long-run deviation first, since arch 8 stores `studentize` and does not use it.
    Models that differ from the benchmark nowhere or by a constant are left out; None when none remains.
    Shapes  benchmark_T (T,), models_TK (T, K) returns.
    Source  Hansen 2005, JBES 23(4).
    """
    if models_TK.ndim != 2 or models_TK.shape[0] != benchmark_T.size:
        raise ContractError(f"SPA: expected models of shape ({benchmark_T.size}, K), found {models_TK.shape}; put time first")
    gain_TK = models_TK - benchmark_T[:, None]
    deviation_K = np.array([_long_run_deviation(gain_T, block) for gain_T in gain_TK.T])
    varied_K = deviation_K > 1e-12 * np.maximum(np.abs(gain_TK).max(axis=0), 1e-300)
    if not varied_K.any() or benchmark_T.size < 10:
        return None
    losses_TK = -gain_TK[:, varied_K] / deviation_K[varied_K]
    test = SPA(np.zeros(benchmark_T.size), losses_TK, block_size=max(round(block), 1), reps=reps, seed=seed)
    test.compute()
    return {name: float(test.pvalues[name]) for name in ("lower", "consistent", "upper")}


def overfitting_probability(returns_NT: Float64Array, num_blocks: int) -> dict[str, float] | None:
    """PBO by combinatorially symmetric cross-validation: how often the best half-sample trial ends below the median.

    Shapes  returns_NT (N, T): one row a trial. Refused when N > T, which is how a transposed matrix looks.
    Source  Bailey, Borwein, Lopez de Prado and Zhu 2017, J. Computational Finance.
    """
    num, bars = returns_NT.shape
    if num > bars:
        raise ContractError(f"PBO: expected (trials, bars) with fewer trials than bars, found {returns_NT.shape}; transpose it")
    return _split_halves(returns_NT, num_blocks)


def _split_halves(returns_NT: Float64Array, num_blocks: int) -> dict[str, float] | None:
    """`overfitting_probability` of any number of trials: a ledger that has grown for long holds more of them than a window has bars."""
    num, bars = returns_NT.shape
    if num < 2 or bars < 2 * num_blocks:
        return None
    blocks = np.array_split(returns_NT, num_blocks, axis=1)
    sums_SN = np.array([block.sum(axis=1) for block in blocks])
    squares_SN = np.array([(block**2).sum(axis=1) for block in blocks])
    counts_S = np.array([block.shape[1] for block in blocks], dtype=np.float64)
    picks = np.array(list(itertools.combinations(range(num_blocks), num_blocks // 2)))
    inside_CS = np.zeros((len(picks), num_blocks))
    inside_CS[np.arange(len(picks))[:, None], picks] = 1.0
    in_CN = _block_sharpe(inside_CS, sums_SN, squares_SN, counts_S)
    out_CN = _block_sharpe(1.0 - inside_CS, sums_SN, squares_SN, counts_S)
    best_C = in_CN.argmax(axis=1)
    chosen_C = out_CN[np.arange(len(picks)), best_C]
    below_C = (out_CN < chosen_C[:, None]).sum(axis=1) + 0.5 * ((out_CN == chosen_C[:, None]).sum(axis=1) - 1) + 1.0
    omega_C = below_C / (num + 1.0)
    return {
        "pbo": float((omega_C <= 0.5).mean()),
        "share_of_losses": float((chosen_C < 0).mean()),
        "num_splits": float(len(picks)),
        "num_trials": float(num),
    }


def build_significance(
    returns: Mapping[str, Sequence[float]],
    models: Sequence[str],
    trials: Sequence[Trial],
    cfg: SignificanceConfig,
    bootstrap_cfg: BootstrapConfig,
    seed: int,
) -> dict[str, Any]:
    """Tests of every strategy's locked-window returns, with the trial count taken from the ledger.

    `trials` are those of this asset class, in the order of the ledger. N counts them all as independent, which
    makes DSR stricter than it need be when they are alike; seeds of the policy count too. PBO is asked of ideas alone: among
    seeds nobody chooses by what is measured here, and their number would only make up for trials that are not there.
    """
    series = {name: metrics.checked_returns(np.asarray(values)) for name, values in returns.items()}
    counted = counted_sharpes(trials)
    strategies = {
        name: {
            "psr": probabilistic_sharpe(ret_T, 0.0),
            "min_track_record_bars": min_track_record(ret_T, 0.0, cfg.alpha),
            "num_bars": ret_T.size,
            "dsr": deflated_sharpe(ret_T, counted) if name in models else None,
            "autocorrelation_1": _autocorrelation(ret_T),
        }
        for name, ret_T in sorted(series.items())
    }
    block = block_length([series[name] for name in sorted(series)])
    spa: dict[str, Any] = {}
    for benchmark in cfg.spa_benchmarks:
        rivals = [name for name in models if name in series and name != benchmark]
        if benchmark in series and rivals:
            stacked_TK = np.stack([series[name] for name in rivals], axis=1)
            spa[benchmark] = superior_predictive_ability(series[benchmark], stacked_TK, block, bootstrap_cfg.reps, seed)
    ideas = [trial for trial in trials if not is_seed_run(trial.strategy)]
    matrix_NT, _ = returns_matrix(ideas)
    enough = len(matrix_NT) >= cfg.pbo_min_trials
    return {
        "strategies": strategies,
        "num_trials": len(trials),
        "num_seed_trials": len(trials) - len(ideas),
        "num_trials_with_sharpe": sum(trial.sharpe_per_bar is not None for trial in trials),
        "expected_max_sharpe_per_bar": expected_max_sharpe(counted),
        "spa": spa,
        "spa_block": block,
        "pbo": _split_halves(matrix_NT, cfg.pbo_blocks) if enough else None,
        "pbo_min_trials": cfg.pbo_min_trials,
    }


def _sharpe_and_spread(ret_T: Float64Array) -> tuple[float, float] | None:
    """Sharpe per bar and the deviation of its estimate times sqrt(T - 1)."""
    sharpe = float(metrics.sharpe(ret_T, 1.0))
    if ret_T.size < 3 or not math.isfinite(sharpe):
        return None
    skew, kurtosis = float(metrics.skewness(ret_T, 1.0)), float(metrics.kurtosis(ret_T, 1.0))
    variance = 1.0 - skew * sharpe + (kurtosis - 1.0) / 4.0 * sharpe**2
    return (sharpe, math.sqrt(variance)) if variance > 0 else None


def _long_run_deviation(gain_T: Float64Array, block: float) -> float:
    """Deviation of sqrt(T) times the mean under the stationary bootstrap with this mean block (Politis and Romano 1994)."""
    num = gain_T.size
    centred_T = gain_T - gain_T.mean()
    spectrum = np.abs(np.fft.rfft(centred_T, 2 * num)) ** 2
    covariance_L = np.fft.irfft(spectrum)[:num] / num
    lag_L = np.arange(1, num)
    stay = 1.0 - 1.0 / max(block, 1.0)
    kernel_L = (1.0 - lag_L / num) * stay**lag_L + (lag_L / num) * stay ** (num - lag_L)
    return math.sqrt(max(float(covariance_L[0] + 2.0 * kernel_L @ covariance_L[1:]), 0.0))


def _block_sharpe(inside_CS: Float64Array, sums_SN: Float64Array, squares_SN: Float64Array, counts_S: Float64Array) -> Float64Array:
    count_C = (inside_CS @ counts_S)[:, None]
    mean_CN = inside_CS @ sums_SN / count_C
    variance_CN = np.maximum(inside_CS @ squares_SN / count_C - mean_CN**2, 0.0) * count_C / (count_C - 1.0)
    return np.divide(mean_CN, np.sqrt(variance_CN), out=np.zeros_like(mean_CN), where=variance_CN > 1e-24)


def _autocorrelation(ret_T: Float64Array) -> float | None:
    """First autocorrelation: where it is far from 0, PSR and DSR are too sure (they assume independent bars)."""
    centred_T = ret_T - ret_T.mean()
    total = float(centred_T @ centred_T)
    return float(centred_T[1:] @ centred_T[:-1]) / total if total > 0 and ret_T.size > 2 else None
