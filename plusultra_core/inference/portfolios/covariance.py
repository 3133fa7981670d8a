"""The covariance of a few assets from not many bars, shrunk towards equal variances without correlation."""

import numpy as np

from plusultra_core.arrays import Float64Array
from plusultra_core.errors import ContractError


def shrunk_covariance(ret_TN: Float64Array) -> tuple[Float64Array, float]:
    """Covariance about the mean, and how far it was pulled to a multiple of the identity: 0 not at all, 1 all the way.

    Shapes  ret_TN (T, N), T >= 2; result (N, N).
    NaN     refused: what is missing has to be filled first.
    Raises  ContractError for fewer than two rows or values that are not finite.
    Source  Ledoit, Wolf 2004, A well-conditioned estimator for large-dimensional covariance matrices, J. Multivariate Analysis 88(2).
    """
    num_bars, num_assets = ret_TN.shape
    if num_bars < 2 or not np.isfinite(ret_TN).all():
        raise ContractError(f"covariance: expected at least 2 rows of finite returns, found {ret_TN.shape}; fill what is missing")
    centred_TN = ret_TN - ret_TN.mean(axis=0)
    sample_NN = centred_TN.T @ centred_TN / num_bars
    level = float(np.trace(sample_NN)) / num_assets
    size = float((sample_NN**2).sum())
    distance = size - num_assets * level**2  # of the sample from its target, squared
    noise = (float(((centred_TN**2).sum(axis=1) ** 2).mean()) - size) / num_bars  # expected distance of the sample from the truth
    part = min(noise, distance) / distance if distance > 0 else 0.0
    shrunk_NN: Float64Array = (1.0 - part) * sample_NN
    shrunk_NN[np.diag_indices(num_assets)] += part * level
    return shrunk_NN, part
