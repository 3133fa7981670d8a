"""The rule that nobody beats where predictors revert and trading costs the square: trade a part of the way to the aim."""

import math
from typing import NamedTuple

import numpy as np

from plusultra_core.arrays import Float64Array
from plusultra_core.errors import ConfigError
from plusultra_core.inference.strategies import Decide
from plusultra_core.simulation.engine import Environment
from plusultra_core.simulation.records import Step


class AimRule(NamedTuple):
    """x(t) = x(t - 1) + rate (aim_K @ f(t) - x(t - 1)) for one asset."""

    rate: float
    aim_K: Float64Array


def aim_rule(decay_K: Float64Array, risk: float, cost: float, discount: float) -> AimRule:
    """The optimum for one asset whose next return is the sum of K predictors, each of which loses `decay` of itself a bar.

    What is maximised is the sum over bars, discounted, of x f - risk x^2 / 2 - cost (change of x)^2 / 2; assets that do not move
    together have a rule each.
    Units   f in returns; risk is risk aversion x variance of the return; discount 1: the mean of all bars.
    Raises  ConfigError unless risk > 0, cost > 0, discount in (0, 1], decays in (0, 1].
    Source  Garleanu, Pedersen 2013, Dynamic Trading with Predictable Returns and Transaction Costs, J. Finance 68(6), proposition 4. There
            the cost is paid a bar before the gain; here both fall into one bar, hence cost x discount.
    """
    decay_K = np.asarray(decay_K, dtype=np.float64)
    if not (risk > 0 and cost > 0 and 0 < discount <= 1 and np.all((decay_K > 0) & (decay_K <= 1))):
        raise ConfigError(
            f"aim: expected risk, cost > 0, discount in (0, 1], decays in (0, 1], found {risk}, {cost}, {discount}, {decay_K}"
        )
    charge, rho = cost * discount, 1.0 - discount
    drag = risk * discount + charge * rho
    pull = (math.sqrt(drag**2 + 4.0 * risk * charge * discount**2) - drag) / (2.0 * discount)
    return AimRule(pull / charge, 1.0 / (risk * (1.0 + decay_K * pull / risk)))


def aiming(rules: list[AimRule], predictor_TAK: Float64Array, first: int) -> Decide:
    """Every asset by its own rule; row 0 of the predictors is bar `first`."""
    rate_A = np.array([rule.rate for rule in rules])
    aim_AK = np.array([rule.aim_K for rule in rules])

    def decide(t: int, env: Environment, last: Step) -> Float64Array:
        weight_A = env.accounts.weight_EA[0]
        aim_A = (aim_AK * predictor_TAK[t - first]).sum(axis=1)
        request: Float64Array = weight_A + rate_A * (aim_A - weight_A)
        return request[None]

    return decide
