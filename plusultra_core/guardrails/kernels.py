"""The rulebook as a kernel: requested weights -> weights that may be asked for, with a reason each.

The simulator calls it for E accounts before every step, the service for one. It reads the equity, peak
and weights of now and nothing later.
"""

import math

import numpy as np
from numba import njit

from plusultra_core.arrays import BoolArray, Float64Array, Int8Array
from plusultra_core.guardrails.limits import (
    ACTIVE,
    HALTED,
    MAX_GROSS,
    MAX_NET,
    MAX_PARTICIPATION,
    MAX_WEIGHT,
    NO_EQUITY,
    NONE,
    NOT_FINITE,
    REDUCING,
    STALE_PRICE,
    STATE_HALTED,
    STATE_REDUCING,
    Limits,
)


@njit(cache=True, error_model="numpy", _nrt=False)
def next_state(state: int, equity: float, peak: float, limits: Limits) -> int:
    """State of an account after its equity is known; HALTED is for good."""
    if state == HALTED:
        return HALTED
    drawdown = 1.0 - equity / peak if peak > 0.0 else 1.0
    if drawdown >= limits.halt_drawdown and drawdown > 0.0:
        return HALTED
    if drawdown >= limits.reduce_drawdown and drawdown > 0.0:
        return REDUCING
    if state == REDUCING and drawdown > limits.resume_drawdown:
        return REDUCING
    return ACTIVE


@njit(cache=True, error_model="numpy", _nrt=False)
def towards_zero(target: float, weight: float) -> float:
    """The part of a target that reduces the position: between zero and the weight held."""
    return min(max(target, min(weight, 0.0)), max(weight, 0.0))


@njit(cache=True, error_model="numpy", _nrt=False)
def limit_one(target: float, weight: float, fresh: bool, room: float, state: int, limits: Limits) -> tuple[float, int]:
    """One asset by itself. `room`: largest increase by one decision, as a weight; NaN fails closed."""
    if state == HALTED:
        return 0.0, (STATE_HALTED if target != 0.0 or weight != 0.0 else NONE)
    if math.isnan(target):
        return target, NONE
    reduced = towards_zero(target, weight)
    if math.isinf(target):
        return np.nan, NOT_FINITE
    if target == reduced:
        return target, NONE
    if state == REDUCING:
        return reduced, STATE_REDUCING
    if not fresh:
        return reduced, STALE_PRICE
    reason = NONE
    if abs(target) > limits.max_weight:
        target = math.copysign(limits.max_weight, target)
        reason = MAX_WEIGHT
    base = weight if weight * target > 0.0 else 0.0
    if not abs(target - base) <= room and abs(target) > abs(base):
        target = base + math.copysign(max(room, 0.0), target) if room > 0.0 else base
        reason = MAX_PARTICIPATION
    return target, reason


@njit(cache=True, error_model="numpy", _nrt=False)
def scale_book(target_A: Float64Array, weight_A: Float64Array, reason_A: Int8Array, limits: Limits) -> None:
    """Shrink what is asked for until gross and net fit; what is merely held (NaN target) counts and stays."""
    for rule in (MAX_GROSS, MAX_NET):
        held = 0.0
        asked = 0.0
        for a in range(target_A.size):
            hold = math.isnan(target_A[a])
            value = weight_A[a] if hold else target_A[a]
            if rule == MAX_GROSS:
                value = abs(value)
            if hold:
                held += value
            else:
                asked += value
        limit = limits.max_gross if rule == MAX_GROSS else limits.max_net
        if abs(held + asked) <= limit * (1.0 + 1e-12) or asked == 0.0:
            continue
        scale = min(max((math.copysign(limit, held + asked) - held) / asked, 0.0), 1.0)
        for a in range(target_A.size):
            if not math.isnan(target_A[a]) and target_A[a] != 0.0 and scale < 1.0:
                target_A[a] *= scale
                reason_A[a] = rule


@njit(cache=True, error_model="numpy", _nrt=False)
def clamp_targets(
    request_EA: Float64Array,
    weight_EA: Float64Array,
    fresh_EA: BoolArray,
    adv_EA: Float64Array,
    equity_E: Float64Array,
    peak_E: Float64Array,
    limits: Limits,
    state_E: Int8Array,
    target_EA: Float64Array,
    reason_EA: Int8Array,
) -> None:
    """Write target_EA, reason_EA and the new state_E.

    Shapes  request, weight, fresh, adv, target, reason (E, A); equity, peak, state (E,).
    Units   weights are signed fractions of equity; adv, equity, peak in account currency.
    Looks   at nothing after the decision.
    NaN     in a request: hold what is held. NaN equity or adv: only what reduces passes.
    """
    for e in range(request_EA.shape[0]):
        known = math.isfinite(equity_E[e]) and equity_E[e] > 0.0 and math.isfinite(peak_E[e])
        state = REDUCING
        if known or state_E[e] == HALTED:
            state = next_state(state_E[e], equity_E[e], peak_E[e], limits)
            state_E[e] = state
        target_A = target_EA[e]
        weight_A = weight_EA[e]
        reason_A = reason_EA[e]
        for a in range(target_A.size):
            room = limits.max_participation * adv_EA[e, a] / equity_E[e]
            fresh = fresh_EA[e, a]
            target, reason = limit_one(request_EA[e, a], weight_A[a], fresh, room, state, limits)
            target_A[a] = target
            reason_A[a] = NO_EQUITY if reason == STATE_REDUCING and not known else reason
        scale_book(target_A, weight_A, reason_A, limits)
