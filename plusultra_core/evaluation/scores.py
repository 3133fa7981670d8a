"""Scores of probabilistic forecasts as plain formulas on arrays; `forecasts` decides what they are applied to."""

import math

import numpy as np

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.errors import ContractError

_PROBABILITY_FLOOR = 1e-12


def pinball(y_B: Float64Array, quantiles_BQ: Float64Array, levels_Q: Float64Array) -> Float64Array:
    """Quantile score max(level * d, (level - 1) * d) with d = y - quantile.

    Shapes  y_B (B,), quantiles_BQ (B, Q), levels_Q (Q,); result (B, Q).
    """
    excess_BQ = y_B[:, None] - quantiles_BQ
    return np.maximum(levels_Q * excess_BQ, (levels_Q - 1.0) * excess_BQ)


def crps_weights(levels_Q: Float64Array) -> Float64Array:
    """Weights so that their product with the pinball scores is 2 * integral over all levels.

    Trapezoids between the levels, down to 0 at levels 0 and 1, where the quantile score vanishes.
    Source  Laio and Tamea 2007; STATISTICS section 10.
    """
    edges = np.concatenate([[0.0], levels_Q, [1.0]])
    return np.asarray(edges[2:] - edges[:-2])


def crps(y_B: Float64Array, quantiles_BQ: Float64Array, levels_Q: Float64Array) -> Float64Array:
    """Continuous ranked probability score of a forecast known at some levels only; units of y."""
    return np.asarray(pinball(y_B, quantiles_BQ, levels_Q) @ crps_weights(levels_Q))


def crossings(quantiles_BQ: Float64Array) -> int:
    """Rows in which a higher level has a lower or equal quantile: ties count."""
    return int((np.diff(quantiles_BQ, axis=1) <= 0).any(axis=1).sum())


def pit_shares(y_B: Float64Array, quantiles_BQ: Float64Array) -> Float64Array:
    """Share of outcomes between neighbouring quantiles, first and last open; sums to 1.

    Under a calibrated forecast they are the differences of the levels. No interpolation is needed.
    """
    bucket_B = (y_B[:, None] > quantiles_BQ).sum(axis=1)
    return np.asarray(np.bincount(bucket_B, minlength=quantiles_BQ.shape[1] + 1) / len(y_B))


def newey_west_se(value_T: Float64Array, lag: int) -> float:
    """Standard error of a mean under autocorrelation up to `lag` (Bartlett weights); NaN below two values.

    Source  Newey and West 1987.
    """
    num = value_T.size
    if num < 2:
        return math.nan
    centred_T = value_T - value_T.mean()
    variance = float(centred_T @ centred_T) / num
    for step in range(1, min(lag, num - 1) + 1):
        covariance = float(centred_T[step:] @ centred_T[:-step]) / num
        variance += 2.0 * (1.0 - step / (lag + 1.0)) * covariance
    return math.sqrt(max(variance, 0.0) / num)


def brier(probability_BC: Float64Array, class_B: Int64Array) -> float:
    """Mean squared distance to the one-hot outcome, summed over classes: 0 is perfect, 2 the worst."""
    onehot_BC = np.eye(probability_BC.shape[1])[class_B]
    return float(((probability_BC - onehot_BC) ** 2).sum(axis=1).mean())


def negative_log_likelihood(probability_BC: Float64Array, class_B: Int64Array) -> float:
    """Mean -log of the probability given to what happened, in nats; probabilities below 1e-12 count as that."""
    picked_B = probability_BC[np.arange(len(class_B)), class_B]
    return float(-np.log(np.maximum(picked_B, _PROBABILITY_FLOOR)).mean())


def expected_calibration_error(probability_BC: Float64Array, class_B: Int64Array, num_bins: int) -> float:
    """Mean gap between confidence of the top class and how often it is right, over equal-width bins."""
    return float(sum(row[3] * abs(row[1] - row[2]) for row in reliability(probability_BC, class_B, num_bins)))


def reliability(probability_BC: Float64Array, class_B: Int64Array, num_bins: int) -> list[tuple[float, float, float, float]]:
    """Non-empty bins of the top class: (bin middle, mean confidence, share right, share of rows)."""
    confidence_B = probability_BC.max(axis=1)
    right_B = (probability_BC.argmax(axis=1) == class_B).astype(np.float64)
    bin_B = np.minimum((confidence_B * num_bins).astype(np.int64), num_bins - 1)
    count = np.bincount(bin_B, minlength=num_bins).astype(np.float64)
    confidence = np.bincount(bin_B, weights=confidence_B, minlength=num_bins)
    right = np.bincount(bin_B, weights=right_B, minlength=num_bins)
    return [
        (
            (index + 0.5) / num_bins,
            float(confidence[index] / count[index]),
            float(right[index] / count[index]),
            float(count[index] / len(class_B)),
        )
        for index in np.flatnonzero(count).tolist()
    ]


def check_probabilities(probability_BC: Float64Array, where: str) -> None:
    """Raises ContractError unless rows are probabilities that sum to 1 within 1e-4."""
    if not np.isfinite(probability_BC).all() or (probability_BC < -1e-6).any():
        raise ContractError(f"{where}: probabilities must be finite and >= 0; look at the direction head")
    worst = float(np.abs(probability_BC.sum(axis=1) - 1.0).max(initial=0.0))
    if worst > 1e-4:
        raise ContractError(f"{where}: probabilities of a row must sum to 1, found {worst:.2g} off; look at the direction head")
