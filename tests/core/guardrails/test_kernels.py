"""The rulebook: limits hold, what reduces passes, the past alone decides."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plusultra_core.guardrails import limits as words
from plusultra_core.guardrails.kernels import clamp_targets
from plusultra_core.guardrails.limits import GuardrailsConfig, Limits

LIMITS = GuardrailsConfig(
    max_weight=0.3,
    max_gross=1.0,
    max_net=0.5,
    max_participation=0.1,
    reduce_drawdown=0.2,
    resume_drawdown=0.1,
    halt_drawdown=0.4,
).limits()


def clamp(
    request: list[float],
    weight: list[float] | None = None,
    fresh: list[bool] | None = None,
    adv: float = 1e12,
    equity: float = 100.0,
    peak: float = 100.0,
    state: int = words.ACTIVE,
    limits: Limits = LIMITS,
    kernel: Any = clamp_targets,
) -> tuple[list[float], list[int], int]:
    size = len(request)
    target, reason = np.empty((1, size)), np.zeros((1, size), np.int8)
    state_E = np.array([state], np.int8)
    kernel(
        np.array([request], float),
        np.array([weight or [0.0] * size], float),
        np.array([fresh or [True] * size]),
        np.full((1, size), adv),
        np.array([equity]),
        np.array([peak]),
        limits,
        state_E,
        target,
        reason,
    )
    return target[0].tolist(), reason[0].tolist(), int(state_E[0])


def test_a_target_within_all_limits_passes_unchanged() -> None:
    assert clamp([0.2, -0.1]) == ([0.2, -0.1], [0, 0], words.ACTIVE)


def test_a_weight_above_the_limit_is_cut_to_it_on_both_sides() -> None:
    assert clamp([0.9, -0.9])[:2] == ([0.3, -0.3], [words.MAX_WEIGHT] * 2)


def test_gross_and_net_are_scaled_and_what_is_held_counts() -> None:
    target, reason, _ = clamp([0.3, -0.3, 0.3, -0.3, 0.3, -0.3])
    assert sum(map(abs, target)) == pytest.approx(1.0)
    assert set(reason) == {words.MAX_GROSS}
    target, reason, _ = clamp([0.3, 0.3])
    assert sum(target) == pytest.approx(0.5)
    assert set(reason) == {words.MAX_NET}
    target, _, _ = clamp([math.nan, 0.3], weight=[0.4, 0.0])
    assert math.isnan(target[0])
    assert target[1] == pytest.approx(0.1)


def test_a_reduction_passes_in_every_state_and_on_a_stale_price() -> None:
    for state, fresh in ((words.ACTIVE, False), (words.REDUCING, True)):
        peak = 100.0 if state == words.ACTIVE else 130.0
        assert clamp([0.1, -0.1], [0.4, -0.2], [fresh] * 2, state=state, peak=peak)[0] == [0.1, -0.1]


def test_reducing_cuts_a_flip_at_zero_and_holds_an_increase() -> None:
    target, reason, state = clamp([-0.2, 0.3, 0.1], [0.1, 0.2, 0.0], equity=75.0)
    assert target == [0.0, 0.2, 0.0]
    assert reason == [words.STATE_REDUCING] * 3
    assert state == words.REDUCING


def test_reducing_ends_below_the_resume_drawdown_only() -> None:
    assert clamp([0.1], equity=85.0, state=words.REDUCING)[2] == words.REDUCING
    assert clamp([0.1], equity=91.0, state=words.REDUCING)[2] == words.ACTIVE


def test_halted_flattens_and_never_comes_back() -> None:
    target, reason, state = clamp([0.3, math.nan], [0.1, 0.2], equity=55.0)
    assert (target, reason, state) == ([0.0, 0.0], [words.STATE_HALTED] * 2, words.HALTED)
    assert clamp([0.3], equity=100.0, state=words.HALTED)[0] == [0.0]


def test_missing_equity_lets_only_reductions_pass_and_forces_nothing() -> None:
    target, reason, state = clamp([0.3, 0.1, math.nan], [0.0, 0.2, 0.2], equity=math.nan)
    assert target[:2] == [0.0, 0.1]
    assert math.isnan(target[2])
    assert reason == [words.NO_EQUITY, 0, 0]
    assert state == words.ACTIVE


def test_missing_volume_lets_only_reductions_pass() -> None:
    assert clamp([0.3, 0.1], [0.1, 0.2], adv=math.nan)[0] == [0.1, 0.1]


def test_an_infinite_target_is_not_followed() -> None:
    target, reason, _ = clamp([math.inf])
    assert math.isnan(target[0])
    assert reason == [words.NOT_FINITE]


def test_participation_bounds_the_increase_and_not_the_reduction() -> None:
    assert clamp([0.3, 0.0], [0.1, 0.3], adv=100.0)[0] == pytest.approx([0.2, 0.0])
    assert clamp([-0.3], [0.3], adv=100.0)[0] == pytest.approx([-0.1])


weights = st.one_of(st.floats(-2, 2), st.just(math.nan), st.just(math.inf), st.just(0.0))


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(st.tuples(weights, st.floats(-0.5, 0.5), st.booleans()), min_size=1, max_size=5),
    equity=st.one_of(st.floats(1, 200), st.just(math.nan), st.just(-1.0)),
    peak=st.floats(100, 200),
    state=st.sampled_from([words.ACTIVE, words.REDUCING, words.HALTED]),
    adv=st.one_of(st.floats(0, 1e6), st.just(math.nan)),
)
def test_nothing_grows_beyond_its_limit_and_the_kernel_is_its_python(
    rows: list[tuple[float, float, bool]], equity: float, peak: float, state: int, adv: float
) -> None:
    request, weight, fresh = (list(column) for column in zip(*rows, strict=True))
    target, reason, after = clamp(request, weight, fresh, adv, equity, peak, state)
    with np.errstate(all="ignore"):
        slow = clamp(request, weight, fresh, adv, equity, peak, state, kernel=getattr(clamp_targets, "py_func", clamp_targets))
    assert np.allclose(target, slow[0], equal_nan=True, rtol=0, atol=0)
    assert (reason, after) == slow[1:]
    for asked, now, held, is_fresh in zip(request, target, weight, fresh, strict=True):
        if math.isnan(now):
            assert not math.isfinite(asked)
            continue
        grows = abs(now) > abs(held) or now * held < 0
        assert not (grows and (not is_fresh or after != words.ACTIVE or not equity > 0))
        assert not grows or abs(now) <= LIMITS.max_weight
    asked_gross = sum(abs(now) for now in target if not math.isnan(now))
    kept_gross = sum(abs(held) for now, held in zip(target, weight, strict=True) if math.isnan(now))
    assert asked_gross <= max(LIMITS.max_gross - kept_gross, 0.0) + 1e-9
