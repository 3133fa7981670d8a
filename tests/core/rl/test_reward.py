"""The reward is growth after costs, less what risk is charged."""

from dataclasses import replace

import numpy as np
import pytest

from plusultra_core.errors import ConfigError
from plusultra_core.rl.learning.learner import Alone
from plusultra_core.rl.reward import RewardConfig, RewardScale, differential_sharpe, growth, of_share, pay, shape_reward

PLAIN = RewardConfig(scale=1.0, variance_coef=0.0, drawdown_coef=0.0, sharpe_coef=0.0, sharpe_decay=0.1)


def shaped(cfg: RewardConfig, ret: float = 0.01, before: float = 0.0, after: float = 0.0) -> float:
    return float(shape_reward(np.array([ret]), np.array([before]), np.array([after]), np.zeros((1, 2)), cfg)[0])


def test_without_risk_terms_the_reward_is_the_scaled_growth() -> None:
    assert growth(np.array([100.0]), np.array([101.0]))[0] == pytest.approx(np.log(1.01))
    assert shaped(replace(PLAIN, scale=100.0)) == pytest.approx(1.0)


def test_a_ruined_account_has_a_finite_reward() -> None:
    assert growth(np.array([100.0]), np.array([-5.0]))[0] == pytest.approx(np.log(1e-3))


def test_variance_is_charged_on_gains_and_losses_alike() -> None:
    cfg = replace(PLAIN, variance_coef=4.0)
    assert shaped(cfg, 0.1) == pytest.approx(0.1 - 2 * 0.01)
    assert shaped(cfg, -0.1) == pytest.approx(-0.1 - 2 * 0.01)


def test_only_a_growing_drawdown_is_charged() -> None:
    cfg = replace(PLAIN, drawdown_coef=2.0)
    assert shaped(cfg, 0.0, 0.1, 0.15) == pytest.approx(-0.1)
    assert shaped(cfg, 0.0, 0.15, 0.1) == 0.0


def test_the_differential_sharpe_is_the_derivative_of_the_exponential_sharpe() -> None:
    decay, first, second, ret = 1e-6, 0.001, 2e-4, 0.02
    moments = np.array([[first, second]])
    found = differential_sharpe(np.array([ret]), moments, decay)[0]

    def sharpe(a: float, b: float) -> float:
        return a / np.sqrt(b - a**2)

    a, b = first + decay * (ret - first), second + decay * (ret**2 - second)
    assert found == pytest.approx((sharpe(a, b) - sharpe(first, second)) / decay, rel=1e-3)
    assert moments[0].tolist() == pytest.approx([a, b])


def test_slots_charged_by_their_share_add_up_to_the_charge_of_the_book() -> None:
    """Two slots of a book whose returns never fall on one bar: growth of the book less its charge is theirs, weighted."""
    book = replace(PLAIN, variance_coef=6.0)
    share, ret = np.array([0.25, 0.4]), np.array([[0.02, 0.0], [0.0, -0.03], [0.01, 0.0]])
    whole = sum(shaped(book, float(row @ share)) for row in ret)
    slots = sum(s * shaped(of_share(book, s), r) for row in ret for s, r in zip(share, row, strict=True))
    assert slots == pytest.approx(whole, rel=1e-12)


def test_coefficients_below_zero_are_refused() -> None:
    with pytest.raises(ConfigError, match="reward"):
        replace(PLAIN, variance_coef=-1.0)


def test_scaled_rewards_have_a_discounted_sum_of_deviation_one_in_any_unit() -> None:
    rng = np.random.default_rng(0)
    ended = rng.random((400, 16)) < 0.02
    reward = rng.normal(0.1, 1.0, (400, 16))
    first, second = RewardScale(16), RewardScale(16)
    a = first.scaled(reward, ended, 0.9, Alone())
    b = second.scaled(1e-4 * reward, ended, 0.9, Alone())
    assert np.allclose(a, b)
    running, sums = np.zeros(16), []
    for paid, over in zip(a, ended, strict=True):
        running = 0.9 * running + paid
        sums.append(running.copy())
        running[over] = 0.0
    assert np.std(sums) == pytest.approx(1.0)


def test_the_scale_goes_on_over_rollouts_and_never_divides_by_nothing() -> None:
    rng = np.random.default_rng(0)
    reward, ended = rng.normal(size=(60, 4)), np.zeros((60, 4), np.bool_)
    whole, parts = RewardScale(4), RewardScale(4)
    assert whole.scaled(np.zeros((5, 4)), ended[:5], 0.9, Alone()).max() == 0.0
    assert whole.divisor == 1.0
    whole = RewardScale(4)
    whole.scaled(reward, ended, 0.9, Alone())
    for part in (slice(0, 20), slice(20, 60)):
        parts.scaled(reward[part], ended[part], 0.9, Alone())
    assert parts.divisor == pytest.approx(whole.divisor, rel=1e-12)


def test_the_compiled_pay_is_that_of_the_plain_functions() -> None:
    rng = np.random.default_rng(3)
    cfg = RewardConfig(scale=3.0, variance_coef=2.0, drawdown_coef=0.3, sharpe_coef=0.2, sharpe_decay=0.05)
    slow, fast = np.zeros((64, 2)), np.zeros((64, 2))
    reward, ret = np.empty((2, 64))
    terminated, ended = np.empty((2, 64), dtype=np.bool_)
    start, done = np.zeros(64, dtype=np.int64), rng.random(64) < 0.2
    for t in range(1, 6):
        before, after = rng.uniform(0.5, 1.0, (2, 64))
        after[:3] = (-0.1, 0.0, 1e-9)
        fall = 1.0 - before
        t_E = rng.integers(0, 9, 64)
        expected = growth(before, after)
        paid = shape_reward(expected, fall, 1.0 - after, slow, cfg)
        pay(
            np.stack((before, fall), axis=1), after, np.ones(64), done, t_E, start, 5, fast, cfg.scale, cfg.variance_coef,
            cfg.drawdown_coef, cfg.sharpe_coef, cfg.sharpe_decay, reward, ret, terminated, ended,
        )  # fmt: skip
        assert np.allclose(ret, expected, rtol=1e-13, atol=0)
        assert np.allclose(reward, paid, rtol=1e-10, atol=1e-12), t
        assert np.allclose(fast, slow, rtol=1e-12, atol=1e-15)
        assert np.array_equal(terminated, done)
        assert np.array_equal(ended, done | (t_E >= 5))
