"""Targets and advantages of steps that an older policy made; the recursion in Python and its compiled twin."""

import numpy as np
from numba import njit

from plusultra_core.arrays import BoolArray, Float64Array


def targets_python(
    reward_TE: Float64Array,
    value_TE: Float64Array,
    next_value_TE: Float64Array,
    ratio_TE: Float64Array,
    terminated_TE: BoolArray,
    ended_TE: BoolArray,
    gamma: float,
    gae_lambda: float,
    max_ratio: float,
) -> tuple[Float64Array, Float64Array]:
    """Advantage and target of the value of every step, by V-trace with lambda.

    `ratio` is the density of the action now over that when it was drawn. Both of V-trace's weights, rho of a step's own
    error and c of what comes after it, are the ratio cut at `max_ratio`. With ratios of 1 the advantage is that of
    `gae.advantages`, to the bit. The advantage is not yet weighed by the step's own ratio: that is the update's to do.
    Shapes  all (T, E); results (T, E).
    Source  Espeholt et al. 2018, IMPALA, equation 1 and remark 2; lambda in the advantage as rlax's `vtrace_td_error_and_advantage`.
    """
    advantage_TE, target_TE = np.zeros_like(reward_TE), np.zeros_like(reward_TE)
    for e in range(reward_TE.shape[1]):
        running = 0.0
        for t in range(reward_TE.shape[0] - 1, -1, -1):
            alive = 0.0 if terminated_TE[t, e] else 1.0
            delta = reward_TE[t, e] + gamma * alive * next_value_TE[t, e] - value_TE[t, e]
            advantage = delta + gamma * gae_lambda * (0.0 if ended_TE[t, e] else running)
            running = min(ratio_TE[t, e], max_ratio) * advantage
            advantage_TE[t, e] = advantage
            target_TE[t, e] = value_TE[t, e] + running
    return advantage_TE, target_TE


targets = njit(cache=True, error_model="numpy")(targets_python)
