"""The best weights of one bar: expected gain less risk, less the cost of getting there, within the limits. Coordinate by coordinate."""

import numpy as np
from numba import njit

from plusultra_core.arrays import Float64Array

_SWEEPS = 2_000
_HALVINGS = 60
_STILL = 1e-12
_BISECTIONS = 50
"""Of the interval in which the cost of an order's last unit lies."""


@njit(cache=True, error_model="numpy")
def best_weight(gain: float, curve: float, held: float, cost: float, loan: float, toll: float, limit: float) -> float:
    """The w in [-limit, limit] with the most gain w - curve w^2 / 2 - cost |w - held| - loan max(-w, 0) - toll |w|.

    The slope falls by `curve` a unit and jumps down at 0 and at `held`: the answer is where it is 0, or the jump across which
    it changes its sign.
    """
    low, high = min(0.0, held), max(0.0, held)
    jump_low = loan + 2.0 * toll if low == 0.0 else 2.0 * cost
    jump_high = 2.0 * cost if low == 0.0 else loan + 2.0 * toll
    slope = gain + cost + loan + toll
    best = slope / curve
    if best > low:
        best = max((slope - jump_low) / curve, low)
    if best > high:
        best = max((slope - jump_low - jump_high) / curve, high)
    return min(max(best, -limit), limit)


@njit(cache=True, error_model="numpy")
def best_order(
    gain: float, curve: float, held: float, cost: float, steep: float, most: float, power: float, loan: float, toll: float, limit: float
) -> float:
    """`best_weight` where the last unit of an order of size x costs cost + min(steep x ^ power, most), and the whole order no less a unit.

    The dearer the last unit the smaller the order, and the smaller the order the cheaper its last unit: they meet once.
    """
    best: float = best_weight(gain, curve, held, cost, loan, toll, limit)
    if best == held or steep == 0.0:
        return best
    low, high = 0.0, min(steep * abs(best - held) ** power, most)
    for _ in range(_BISECTIONS):
        push = 0.5 * (low + high)
        best = best_weight(gain, curve, held, cost + push, loan, toll, limit)
        if min(steep * abs(best - held) ** power, most) > push:
            low = push
        else:
            high = push
    dearest: float = best_weight(gain, curve, held, cost + high, loan, toll, limit)
    return dearest


@njit(cache=True, error_model="numpy")
def settle(
    gain_A: Float64Array,
    risk_AA: Float64Array,
    held_A: Float64Array,
    cost_A: Float64Array,
    steep_A: Float64Array,
    most_A: Float64Array,
    power: float,
    loan_A: Float64Array,
    toll: float,
    limit: float,
    weight_A: Float64Array,
) -> float:
    """Improve one weight after the other until none moves; returns their gross. Starts from what stands in weight_A."""
    num_assets = gain_A.size
    for _ in range(_SWEEPS):
        moved = 0.0
        for a in range(num_assets):
            push = gain_A[a] + risk_AA[a, a] * weight_A[a]
            for b in range(num_assets):
                push -= risk_AA[a, b] * weight_A[b]
            best = best_order(push, risk_AA[a, a], held_A[a], cost_A[a], steep_A[a], most_A[a], power, loan_A[a], toll, limit)
            moved = max(moved, abs(best - weight_A[a]))
            weight_A[a] = best
        if moved < _STILL:
            break
    gross: float = np.abs(weight_A).sum()
    return gross


@njit(cache=True, error_model="numpy")
def optimal_weights(
    gain_A: Float64Array,
    risk_AA: Float64Array,
    held_A: Float64Array,
    cost_A: Float64Array,
    steep_A: Float64Array,
    most_A: Float64Array,
    power: float,
    loan_A: Float64Array,
    limit: float,
    max_gross: float,
    weight_A: Float64Array,
) -> None:
    """Write into weight_A the w with the most gain w - w risk w / 2 - cost |w - held| - impact - loan max(-w, 0) within the limits.

    Those are |w| <= limit for each asset and sum |w| <= max_gross. The impact of an order is the integral of min(steep x ^ power, most)
    over its size |w - held|.
    The limit of the gross is a toll on every unit held; the least toll that keeps it is found by halving.
    """
    weight_A[:] = 0.0
    if settle(gain_A, risk_AA, held_A, cost_A, steep_A, most_A, power, loan_A, 0.0, limit, weight_A) <= max_gross:
        return
    low, high = 0.0, 0.0
    for a in range(gain_A.size):  # at this toll nothing is worth holding
        high = max(high, abs(gain_A[a]) + cost_A[a] + most_A[a] + limit * np.abs(risk_AA[a]).sum())
    for _ in range(_HALVINGS):
        toll = 0.5 * (low + high)
        if settle(gain_A, risk_AA, held_A, cost_A, steep_A, most_A, power, loan_A, toll, limit, weight_A) > max_gross:
            low = toll
        else:
            high = toll
    settle(gain_A, risk_AA, held_A, cost_A, steep_A, most_A, power, loan_A, high, limit, weight_A)
