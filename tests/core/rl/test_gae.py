"""Advantages: the compiled recursion is its Python, and a definition written as sums."""

import numpy as np
import pytest

from plusultra_core.rl.gae import advantages, advantages_python


def make(seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    reward, value, following = rng.normal(size=(3, 30, 5))
    terminated = rng.random((30, 5)) < 0.1
    ended = terminated | (rng.random((30, 5)) < 0.1)
    return reward, value, following, terminated, ended


def test_the_compiled_recursion_is_its_python() -> None:
    assert np.array_equal(advantages(*make(), 0.97, 0.9), advantages_python(*make(), 0.97, 0.9))


def test_advantages_are_the_discounted_sum_of_the_errors_up_to_the_end_of_the_episode() -> None:
    reward, value, following, terminated, ended = make(1)
    result = advantages(reward, value, following, terminated, ended, 0.9, 0.8)
    delta = reward + 0.9 * np.where(terminated, 0.0, following) - value
    for e in range(5):
        for t in range(30):
            total, weight = 0.0, 1.0
            for later in range(t, 30):
                total += weight * delta[later, e]
                weight *= 0.9 * 0.8
                if ended[later, e]:
                    break
            assert result[t, e] == pytest.approx(total)


def test_a_truncated_episode_is_bootstrapped_and_a_terminated_one_is_not() -> None:
    one = np.ones((1, 1))
    no, yes = np.zeros((1, 1), np.bool_), np.ones((1, 1), np.bool_)
    assert advantages(one, one, 5 * one, no, yes, 0.9, 0.9)[0, 0] == pytest.approx(1 + 4.5 - 1)
    assert advantages(one, one, 5 * one, yes, yes, 0.9, 0.9)[0, 0] == pytest.approx(0.0)
