"""Generalised advantage estimation; the recursion in Python and its compiled twin."""

import numpy as np
from numba import njit

from plusultra_core.arrays import BoolArray, Float64Array


def advantages_python(
    reward_TE: Float64Array,
    value_TE: Float64Array,
    next_value_TE: Float64Array,
    terminated_TE: BoolArray,
    ended_TE: BoolArray,
    gamma: float,
    gae_lambda: float,
) -> Float64Array:
    """Advantage of every step.

    `next_value` is the value of the observation that followed, also where the episode was truncated there:
    a truncated episode is bootstrapped, a terminated one is not; neither leaks into the one after it.
    Shapes  all (T, E); result (T, E).
    Source  Schulman et al. 2016, equation 16.
    """
    advantage_TE = np.zeros_like(reward_TE)
    for e in range(reward_TE.shape[1]):
        running = 0.0
        for t in range(reward_TE.shape[0] - 1, -1, -1):
            alive = 0.0 if terminated_TE[t, e] else 1.0
            delta = reward_TE[t, e] + gamma * alive * next_value_TE[t, e] - value_TE[t, e]
            running = delta + gamma * gae_lambda * (0.0 if ended_TE[t, e] else running)
            advantage_TE[t, e] = running
    return advantage_TE


advantages = njit(cache=True, error_model="numpy")(advantages_python)
