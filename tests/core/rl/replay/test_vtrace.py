"""V-trace with lambda: the compiled recursion is its Python, the paper's sums, and advantages of GAE where nobody moved."""

from itertools import product

import numpy as np
import pytest

from plusultra_core.rl.gae import advantages
from plusultra_core.rl.replay.vtrace import targets, targets_python


def make(seed: int = 0) -> tuple[np.ndarray, ...]:
    """Steps with ends in between; ratios around 1, a part of them beyond any cut."""
    rng = np.random.default_rng(seed)
    reward, value, following = rng.normal(size=(3, 30, 5))
    ratio = np.exp(rng.normal(size=(30, 5)))
    terminated = rng.random((30, 5)) < 0.1
    return reward, value, following, ratio, terminated, terminated | (rng.random((30, 5)) < 0.1)


@pytest.mark.parametrize("max_ratio", [1.0, 2.5])
def test_the_compiled_recursion_is_its_python(max_ratio: float) -> None:
    for found, slow in zip(targets(*make(), 0.97, 0.9, max_ratio), targets_python(*make(), 0.97, 0.9, max_ratio), strict=True):
        assert np.array_equal(found, slow)


@pytest.mark.parametrize("max_ratio", [1.0, 2.5])
def test_on_policy_the_advantages_are_those_of_gae_to_the_bit(max_ratio: float) -> None:
    reward, value, following, ratio, terminated, ended = make(1)
    found, target = targets(reward, value, following, np.ones_like(ratio), terminated, ended, 0.97, 0.9, max_ratio)
    assert np.array_equal(found, advantages(reward, value, following, terminated, ended, 0.97, 0.9))
    assert np.array_equal(target, value + found)


def test_targets_are_the_sums_of_the_paper() -> None:
    """v(s) = V(s) + sum over t of gamma^(t - s) prod of c(i), s <= i < t, times rho(t) delta(t), with c = lambda min(1.5, ratio)."""
    reward, value, following, ratio, terminated, ended = make(2)
    advantage, target = targets(reward, value, following, ratio, terminated, ended, 0.9, 0.8, 1.5)
    delta, rho = reward + 0.9 * np.where(terminated, 0.0, following) - value, np.minimum(ratio, 1.5)
    for e, s in product(range(5), range(30)):
        total, weight = 0.0, 1.0
        for t in range(s, 30):
            total += weight * rho[t, e] * delta[t, e]
            weight *= 0.9 * 0.8 * rho[t, e]
            if ended[t, e]:
                break
        assert target[s, e] == pytest.approx(value[s, e] + total)
        assert rho[s, e] * advantage[s, e] == pytest.approx(total)


def test_uncut_targets_are_on_average_what_the_policy_of_now_earns_whatever_the_critic_says() -> None:
    """Two coins in a row, thrown by an older policy; every outcome counted by how likely it was."""
    then, now, pay = np.array([[0.3, 0.7], [0.6, 0.4]]), np.array([[0.8, 0.2], [0.5, 0.5]]), np.array([[1.0, -2.0], [0.5, 4.0]])
    value, no, end = np.array([[0.7], [-1.3]]), np.zeros((2, 1), np.bool_), np.array([[False], [True]])
    mean = cut = 0.0
    for a, b in product((0, 1), (0, 1)):
        reward, ratio = np.array([[pay[0, a]], [pay[1, b]]]), np.array([[now[0, a] / then[0, a]], [now[1, b] / then[1, b]]])
        following = np.array([[value[1, 0]], [9.0]])
        mean += then[0, a] * then[1, b] * targets(reward, value, following, ratio, no | end, end, 0.9, 1.0, 100.0)[1][0, 0]
        cut += then[0, a] * then[1, b] * targets(reward, value, following, ratio, no | end, end, 0.9, 1.0, 1.0)[1][0, 0]
    assert mean == pytest.approx((now[0] * pay[0]).sum() + 0.9 * (now[1] * pay[1]).sum())
    assert abs(cut - mean) > 0.05
