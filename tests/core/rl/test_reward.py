"""The reward is growth after costs, less what risk is charged."""

from dataclasses import replace

import numpy as np
import pytest

from plusultra_core.errors import ConfigError
from plusultra_core.rl.reward import RewardConfig, differential_sharpe, growth, of_share, shape_reward

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
