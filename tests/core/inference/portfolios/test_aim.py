"""The aim portfolio: the closed form is the optimum of its recursion, and through the execution kernel no rule near it does better."""

from typing import Any

import numpy as np
import pytest

from plusultra_core.errors import ConfigError
from plusultra_core.inference.decide import SizingConfig
from plusultra_core.inference.portfolios.aim import AimRule, aim_rule, aiming
from plusultra_core.inference.portfolios.planted import COST, DECAY_K, SIGMA, Planted, planted_market, utility
from plusultra_core.inference.portfolios.rules import EqualWeightConfig, MeanVarianceConfig, equal_weight, mean_variance
from plusultra_core.inference.strategies import run_strategy, sized


def riccati(decay: np.ndarray, risk: float, cost: float, discount: float) -> np.ndarray:
    """x(t) = k @ (x(t - 1), f) from the recursion of the value function."""
    num = decay.size
    a, b = np.diag([0.0, *(1.0 - decay)]), np.eye(num + 1)[0]
    pay, own = np.array([cost, *np.ones(num)]), np.zeros((num + 1, num + 1))
    own[0, 0] = -cost
    value = np.zeros_like(own)
    for _ in range(20_000):
        onward = discount * value
        curve = risk + cost - b @ onward @ b
        slope = pay + a.T @ onward @ b
        value = own + a.T @ onward @ a + np.outer(slope, slope) / curve
    return slope / curve


@pytest.mark.parametrize("discount", [0.9, 0.99, 1.0])
@pytest.mark.parametrize(("risk", "cost"), [(1.0, 10.0), (4.5, 45.0), (2.0, 0.5)])
def test_the_closed_form_is_the_optimum_of_the_recursion(risk: float, cost: float, discount: float) -> None:
    decay = np.array([0.3, 0.05, 1.0])
    rule = aim_rule(decay, risk, cost, discount)
    assert riccati(decay, risk, cost, discount) == pytest.approx([1.0 - rule.rate, *(rule.rate * rule.aim_K)], rel=1e-8)


def test_where_trading_costs_next_to_nothing_it_is_the_myopic_rule_and_else_it_aims_at_what_lasts() -> None:
    cheap, dear = (aim_rule(np.array(DECAY_K), 1.0, cost, 1.0) for cost in (1e-6, 100.0))
    assert cheap.rate == pytest.approx(1.0, abs=1e-5) and cheap.aim_K == pytest.approx([1.0, 1.0], abs=1e-5)
    assert dear.rate < 0.1 and dear.aim_K[0] < 0.5 * dear.aim_K[1] < 0.5


def test_numbers_that_make_no_sense_are_refused() -> None:
    for decay, risk, cost, discount in (([0.0], 1, 1, 1), ([0.5], 0, 1, 1), ([0.5], 1, 0, 1), ([0.5], 1, 1, 1.1)):
        with pytest.raises(ConfigError, match="aim: expected"):
            aim_rule(np.array(decay), risk, cost, discount)


BARS = 3_000


@pytest.fixture(scope="module")
def planted() -> Planted:
    return planted_market(BARS, 12, seed=5)


def earned(planted: Planted, decide: Any) -> float:
    return float(utility(planted, run_strategy(planted.setting, (300, BARS), decide))[100:].mean())


def by_aim(planted: Planted, rules: list[AimRule]) -> float:
    return earned(planted, aiming(rules, planted.predictor_TAK, 0))


def test_through_the_kernel_no_rule_near_the_aim_portfolio_earns_more(planted: Planted) -> None:
    best, (rate, aim_K) = by_aim(planted, planted.rules), planted.rules[0]
    assert best > 0
    for other in (AimRule(0.7 * rate, aim_K), AimRule(1.4 * rate, aim_K), AimRule(rate, 0.7 * aim_K), AimRule(rate, 1.3 * aim_K)):
        assert by_aim(planted, [other] * 12) < best
    assert 0.5 * best < by_aim(planted, planted.myopic) < 0.95 * best


def test_what_the_kernel_pays_is_what_the_formula_says(planted: Planted) -> None:
    """The mean utility of the optimal rule without the kernel: positions follow it, costs are half COST x the square of each change."""
    rate, aim_K = planted.rules[0]
    risk, weight, total = planted.risk_aversion * SIGMA**2, np.zeros(12), []
    for t in range(300, BARS - 1):
        before, weight = weight, weight + rate * (planted.predictor_TAK[t] @ aim_K - weight)
        pay = weight * planted.predictor_TAK[t].sum(axis=1) - 0.5 * risk * weight**2 - 0.5 * COST * risk * (weight - before) ** 2
        total.append(pay.sum())
    assert by_aim(planted, planted.rules) == pytest.approx(np.mean(total[100:]), rel=0.02)


def test_the_other_rules_earn_less_than_the_optimum_in_the_same_kernel(planted: Planted) -> None:
    best, guard = by_aim(planted, planted.rules), planted.setting.guard
    own = MeanVarianceConfig(risk_aversion=planted.risk_aversion, lookback_bars=250, cost_factor=1.0, band=0.0)
    sizing = SizingConfig(gain=0.001, horizon_index=0, band=0.0, cost_factor=0.0)
    best_now = earned(planted, mean_variance(planted.quantiles_TAQ, 0, 1, planted.setting.market, guard, own))
    assert best_now == pytest.approx(by_aim(planted, planted.myopic), rel=0.1)
    assert best_now < 0.95 * best
    assert earned(planted, sized(planted.quantiles_TAQ, 0, 1, guard, sizing)) < best_now
    assert earned(planted, equal_weight(300, EqualWeightConfig(rebalance_bars=21, band=0.1))) < 0
