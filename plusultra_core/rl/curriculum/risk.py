"""What risk is charged beside the reward of a bar: differential Sharpe and Sortino, drawdown, CVaR, entropic risk.

Every term is a function of the change of log equity alone; its coefficient follows a schedule over the updates.
What belongs to an account (moments, its peak) starts anew with every episode; what belongs to the distribution of all
bars (the value at risk, the mean exponential) is shared by the accounts of a process and runs on.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numba import njit

from plusultra_core.arrays import BoolArray, Float32Array, Float64Array
from plusultra_core.errors import ConfigError
from plusultra_core.rl.env import Outcome

TERMS = ("sharpe", "sortino", "drawdown", "cvar", "entropic")
_BOUND = 10.0
_LEAST_VARIANCE = 1e-12
_LARGEST_EXPONENT = 20.0
_NUM_OWN = 5
"""Of an account: first and second moment, downside moment, log equity since the start, its peak."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """A coefficient over the updates."""

    kind: Literal["constant", "linear", "cosine"]
    """constant: `start` throughout; linear, cosine: from `start` at the first update to `end` at the last."""
    start: float
    end: float

    def __post_init__(self) -> None:
        if min(self.start, self.end) < 0:
            raise ConfigError(f"schedule: expected start, end >= 0, found {self.start}, {self.end}")

    def at(self, progress: float) -> float:
        """The coefficient when this part of the updates is done, 0 to 1."""
        way = {"constant": 0.0, "linear": progress, "cosine": 0.5 - 0.5 * math.cos(math.pi * progress)}[self.kind]
        return self.start + (self.end - self.start) * way

    @property
    def is_off(self) -> bool:
        """Whether it is 0 at every update."""
        return self.start == 0.0 and (self.kind == "constant" or self.end == 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class RiskConfig:
    """Scheduled terms; the constant ones of `reward` stand beside them."""

    sharpe: Schedule
    """Pays the differential Sharpe ratio."""
    sortino: Schedule
    """Pays the differential Sortino ratio."""
    drawdown: Schedule
    """Charges every increase of the drawdown."""
    cvar: Schedule
    """Charges the conditional value at risk of the loss of a bar."""
    entropic: Schedule
    """Charges the entropic risk of the loss of a bar."""
    decay: float
    """Per bar, of moments, value at risk and mean exponential."""
    level: float
    """Part of the bars that the tail of CVaR holds."""
    aversion: float
    """Of the entropic risk, per unit of log return of the whole book."""

    def __post_init__(self) -> None:
        if not 0 < self.decay < 1 or not 0 < self.level < 1 or self.aversion <= 0:
            raise ConfigError(f"risk: expected decay, level in (0, 1), aversion > 0, found {self.decay}, {self.level}, {self.aversion}")

    @property
    def is_off(self) -> bool:
        """Whether no term is ever charged."""
        return all(getattr(self, name).is_off for name in TERMS)

    def coefs(self, progress: float) -> Float64Array:
        """Coefficients in the order of TERMS."""
        return np.array([getattr(self, name).at(progress) for name in TERMS], dtype=np.float64)


def of_share(cfg: RiskConfig, share: float) -> RiskConfig:
    """The terms of a slot that holds `share` of a book: entropic risk is of second order in it, the others of first."""
    return replace(cfg, aversion=cfg.aversion * share)


@njit(cache=True, error_model="numpy")
def differential_sharpe(ret: float, first: float, second: float) -> float:
    """Derivative of A / sqrt(B - A^2) to the weight of the newest return; 0 while there is no variance.

    Source  Moody, Saffell 2001, Learning to Trade via Direct Reinforcement, equation 8.
    """
    variance = second - first * first
    if variance <= _LEAST_VARIANCE:
        return 0.0
    value: float = (second * (ret - first) - 0.5 * first * (ret * ret - second)) / variance**1.5
    return min(max(value, -_BOUND), _BOUND)


@njit(cache=True, error_model="numpy")
def differential_sortino(ret: float, first: float, down: float) -> float:
    """Derivative of A / sqrt(D), D the mean square of the negative returns, to the weight of the newest; 0 while nothing fell.

    Source  Moody, Saffell 2001, equation 11 (downside deviation ratio).
    """
    if down <= _LEAST_VARIANCE:
        return 0.0
    fall = min(ret, 0.0)
    value: float = (ret - first) / math.sqrt(down) - 0.5 * first * (fall * fall - down) / down**1.5
    return min(max(value, -_BOUND), _BOUND)


@njit(cache=True, error_model="numpy")
def drawdown_increase(log_before: float, log_after: float, log_peak: float) -> float:
    """How much deeper equity lies under its peak, fraction of the peak; 0 where it rose. `log_peak` is that of before."""
    before = 1.0 - math.exp(log_before - log_peak)
    after = 1.0 - math.exp(min(log_after - log_peak, 0.0))
    return max(after - before, 0.0)


@njit(cache=True, error_model="numpy")
def tail_loss(ret: float, var: float, level: float) -> float:
    """v + (loss - v)+ / level: its mean is the CVaR of the loss where v is the value at risk, and more anywhere else.

    Source  Rockafellar, Uryasev 2000, Optimization of Conditional Value-at-Risk, equation 5.
    """
    return var + max(-ret - var, 0.0) / level


@njit(cache=True, error_model="numpy")
def entropic_loss(ret: float, mean_exp: float, aversion: float) -> float:
    """(exp(-a ret) / m - 1 + log m) / a: its mean is log E exp(-a ret) / a where m is the mean exponential, and more anywhere else.

    Source  log x = min over m of x / m - 1 + log m; Foellmer, Schied 2002, section 4.9 for the measure.
    """
    exponent = min(-aversion * ret, _LARGEST_EXPONENT)
    return (math.exp(exponent) / mean_exp - 1.0 + math.log(mean_exp)) / aversion


@njit(cache=True, error_model="numpy")
def charge(
    ret_E: Float64Array, own_EM: Float64Array, shared: Float64Array, coefs: Float64Array, decay: float, level: float, aversion: float,
    out_E: Float64Array,
) -> None:  # fmt: skip
    """What risk adds to the reward of each account; moves the moments by what was seen.

    Shapes  ret, out (E,); own (E, 5); shared (4,): value at risk, mean exponential, mean square, bars seen; coefs (5,), as TERMS.
    """
    var, mean_exp = shared[0], shared[1] if shared[3] > 0.0 else 1.0
    beyond, exp_sum, square_sum = 0.0, 0.0, 0.0
    for e in range(ret_E.size):
        ret, own = ret_E[e], own_EM[e]
        log_after = own[3] + ret
        total = coefs[0] * differential_sharpe(ret, own[0], own[1]) + coefs[1] * differential_sortino(ret, own[0], own[2])
        total -= coefs[2] * drawdown_increase(own[3], log_after, own[4])
        total -= coefs[3] * tail_loss(ret, var, level) + coefs[4] * entropic_loss(ret, mean_exp, aversion)
        out_E[e] = total
        fall = min(ret, 0.0)
        own[0] += decay * (ret - own[0])
        own[1] += decay * (ret * ret - own[1])
        own[2] += decay * (fall * fall - own[2])
        own[3] = log_after
        own[4] = max(own[4], log_after)
        beyond += 1.0 if -ret > var else 0.0
        exp_sum += math.exp(min(-aversion * ret, _LARGEST_EXPONENT))
        square_sum += ret * ret
    num = ret_E.size
    weight = decay if shared[3] > 0.0 else 1.0
    shared[0] += decay * math.sqrt(shared[2]) * (beyond / num / level - 1.0)
    shared[1] = mean_exp + weight * (exp_sum / num - mean_exp)
    shared[2] += weight * (square_sum / num - shared[2])
    shared[3] += 1.0


class Charged:
    """Episodes whose reward has the scheduled terms; everything else is the environment's own.

    `scale` multiplies the terms as `reward.scale` does the rest.
    """

    def __init__(self, env: Any, cfg: RiskConfig, scale: float) -> None:
        self._env, self._cfg, self._scale = env, cfg, scale
        num = int(env.obs_EP.shape[0])
        self._own_EM: Float64Array = np.zeros((num, _NUM_OWN))
        self._shared: Float64Array = np.zeros(4)
        self._coefs = cfg.coefs(0.0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    @property
    def obs_EP(self) -> Float32Array:
        """What each episode sees."""
        obs_EP: Float32Array = self._env.obs_EP
        return obs_EP

    def set_progress(self, progress: float) -> None:
        """Take the coefficients of this part of the updates, 0 to 1."""
        self._coefs = self._cfg.coefs(progress)

    def reset(self, rng: np.random.Generator) -> Float32Array:
        """Start every episode anew."""
        self._own_EM[...] = 0.0
        obs_EP: Float32Array = self._env.reset(rng)
        return obs_EP

    def present(self) -> BoolArray:
        """Whether the action of each episode is heard."""
        heard_E: BoolArray = self._env.present()
        return heard_E

    def step(self, action: Float64Array, rng: np.random.Generator | None) -> Outcome:
        """One bar of every episode, with what risk adds."""
        outcome: Outcome = self._env.step(action, rng)
        added_E = np.empty_like(outcome.ret_E)
        cfg = self._cfg
        charge(outcome.ret_E, self._own_EM, self._shared, self._coefs, cfg.decay, cfg.level, cfg.aversion, added_E)
        self._own_EM[outcome.ended_E] = 0.0
        return outcome._replace(reward_E=outcome.reward_E + self._scale * added_E)

    def state(self) -> dict[str, np.ndarray]:
        """Everything that a checkpoint needs, by name."""
        own: dict[str, np.ndarray] = {"risk_own": self._own_EM.copy(), "risk_shared": self._shared.copy()}
        return {**self._env.state(), **own}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state`, bit for bit."""
        self._env.load_state({name: array for name, array in state.items() if not name.startswith("risk_")})
        self._own_EM[...], self._shared[...] = state["risk_own"], state["risk_shared"]
