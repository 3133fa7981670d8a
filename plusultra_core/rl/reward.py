"""What the policy is paid: growth after all costs, less what risk is charged."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numba import njit

from plusultra_core.arrays import BoolArray, Float64Array, Int64Array
from plusultra_core.errors import ConfigError
from plusultra_core.rl.learning.learner import Team

_LEAST_EQUITY_FRAC = 1e-3
_CLIP = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardConfig:
    """Terms of the reward; a coefficient of 0 leaves its term out."""

    scale: float
    """Multiplies the whole."""
    variance_coef: float
    """Charges half the square of the return of the bar (risk aversion of a mean-variance investor in the whole book)."""
    drawdown_coef: float
    """Charges every increase of the drawdown."""
    sharpe_coef: float
    """Pays the differential Sharpe ratio instead of nothing."""
    sharpe_decay: float
    """Decay per bar of its moments."""

    def __post_init__(self) -> None:
        if self.scale <= 0 or min(self.variance_coef, self.drawdown_coef, self.sharpe_coef) < 0 or not 0 < self.sharpe_decay < 1:
            raise ConfigError("reward: expected scale > 0, coefficients >= 0, sharpe_decay in (0, 1)")


def of_share(cfg: RewardConfig, share: float) -> RewardConfig:
    """The reward of a slot that holds `share` of a book, where `cfg` is the book's: its variance is charged by that share.

    A book of slots with returns r_i and shares s_i earns sum s_i r_i; with slots that do not move together its
    variance charge is coef / 2 x sum s_i^2 r_i^2, which per unit of a slot's own capital is s_i coef / 2 x r_i^2.
    Growth and drawdown are of first order in s_i and stay as they are.
    """
    return replace(cfg, variance_coef=cfg.variance_coef * share)


def growth(equity_before: Float64Array, equity_after: Float64Array) -> Float64Array:
    """Change of log equity; what is left of a ruined account counts as a thousandth.

    Shapes  (E,), (E,) -> (E,).
    """
    ratio = np.maximum(equity_after / equity_before, _LEAST_EQUITY_FRAC)
    log_ratio: Float64Array = np.log(ratio)
    return log_ratio


def differential_sharpe(ret: Float64Array, moments: Float64Array, decay: float) -> Float64Array:
    """Derivative of the exponential Sharpe ratio to the newest return; `moments` (E, 2) are updated in place.

    Shapes  ret (E,); result (E,); 0 while there is no variance yet.
    Source  Moody, Saffell 2001, Learning to Trade via Direct Reinforcement, equation 8.
    """
    first, second = moments[:, 0], moments[:, 1]
    d_first, d_second = ret - first, ret**2 - second
    variance = second - first**2
    known = variance > 1e-12
    safe = np.where(known, variance, 1.0)
    value: Float64Array = np.where(known, (second * d_first - 0.5 * first * d_second) / safe**1.5, 0.0)
    moments[:, 0] += decay * d_first
    moments[:, 1] += decay * d_second
    return np.clip(value, -10.0, 10.0)


def shape_reward(
    ret: Float64Array, drawdown_before: Float64Array, drawdown_after: Float64Array, moments: Float64Array, cfg: RewardConfig
) -> Float64Array:
    """Reward of one step of every account.

    Shapes  all (E,), moments (E, 2).
    Units   `ret` is the change of log equity.
    """
    reward = ret - 0.5 * cfg.variance_coef * ret**2
    reward -= cfg.drawdown_coef * np.maximum(drawdown_after - drawdown_before, 0.0)
    if cfg.sharpe_coef:
        reward += cfg.sharpe_coef * differential_sharpe(ret, moments, cfg.sharpe_decay)
    return cfg.scale * reward


@njit(cache=True, error_model="numpy", _nrt=False)
def pay(
    before_E2: Float64Array, equity_E: Float64Array, peak_E: Float64Array, done_E: BoolArray, t_E: Int64Array, start_E: Int64Array,
    episode_bars: int, moments_E2: Float64Array, scale: float, variance_coef: float, drawdown_coef: float, sharpe_coef: float,
    decay: float, reward_E: Float64Array, ret_E: Float64Array, terminated_E: BoolArray, ended_E: BoolArray,
) -> None:  # fmt: skip
    """`growth` and `shape_reward` of one step, compiled, and which episodes ended. `before_E2`: equity and drawdown before it."""
    for e in range(equity_E.size):
        ret = math.log(max(equity_E[e] / before_E2[e, 0], _LEAST_EQUITY_FRAC))
        reward = ret - 0.5 * variance_coef * ret * ret
        reward -= drawdown_coef * max((1.0 - equity_E[e] / peak_E[e]) - before_E2[e, 1], 0.0)
        if sharpe_coef != 0.0:
            first, second = moments_E2[e, 0], moments_E2[e, 1]
            variance = second - first * first
            value = (second * (ret - first) - 0.5 * first * (ret * ret - second)) / variance**1.5 if variance > 1e-12 else 0.0
            moments_E2[e, 0] = first + decay * (ret - first)
            moments_E2[e, 1] = second + decay * (ret * ret - second)
            reward += sharpe_coef * min(max(value, -_CLIP), _CLIP)
        reward_E[e] = scale * reward
        ret_E[e] = ret
        terminated_E[e] = done_E[e]
        ended_E[e] = done_E[e] or t_E[e] - start_E[e] >= episode_bars


class RewardScale:
    """Divides rewards by the deviation of their discounted sum so far, so that markets of any volatility teach alike.

    `state` is all of it: the discounted sum that runs in each account, and how many there were, their sum and their squares.
    Source  Engstrom et al. 2020, Implementation Matters in Deep Policy Gradients, section 3 (reward scaling).
    """

    def __init__(self, num_accounts: int) -> None:
        self.state: dict[str, Float64Array] = {"running_E": np.zeros(num_accounts), "moments": np.zeros(3)}

    @property
    def divisor(self) -> float:
        """The deviation; 1 before anything was seen or where rewards never vary."""
        num, total, square = self.state["moments"]
        variance = square / num - (total / num) ** 2 if num else 0.0
        return float(np.sqrt(variance)) if variance > 1e-16 else 1.0

    def scaled(self, reward_TE: Float64Array, ended_TE: BoolArray, gamma: float, team: Team) -> Float64Array:
        """Rewards of a rollout in units of the deviation that they are part of, within [-10, 10]. Shapes  (T, E)."""
        running_E = self.state["running_E"]
        moments: Float64Array = np.zeros(3)
        for reward_E, ended_E in zip(reward_TE, ended_TE, strict=True):
            running_E *= gamma
            running_E += reward_E
            moments += (running_E.size, running_E.sum(), (running_E**2).sum())
            running_E[ended_E] = 0.0
        team.total(moments)
        self.state["moments"] += moments
        return self.in_units(reward_TE)

    def in_units(self, reward_TE: Float64Array) -> Float64Array:
        """Rewards over the deviation as it is, within [-10, 10]; moves nothing. Shapes  (T, E)."""
        return np.clip(reward_TE / self.divisor, -_CLIP, _CLIP)
