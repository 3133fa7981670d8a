"""Collect T steps of E episodes into one buffer."""

import math
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from plusultra_core.arrays import BoolArray, Float32Array, Float64Array
from plusultra_core.rl.env import Outcome
from plusultra_core.rl.gae import advantages
from plusultra_core.rl.learning.learner import Learner
from plusultra_core.rl.reward import RewardScale


class Rollout(NamedTuple):
    """Samples of one collection, flattened over (T, E)."""

    obs_BP: Tensor
    u_B: Tensor
    """Action before squashing."""
    logprob_B: Tensor
    value_B: Tensor
    advantage_B: Tensor
    return_B: Tensor
    heard_B: Tensor
    """1 where the action had an effect, else 0."""


class Summary(NamedTuple):
    """What the episodes of a collection gave, for the history."""

    reward_mean: float
    ret_mean: float
    num_ended: int
    num_terminated: int
    action_abs: float
    saturated: float
    """Share of actions beyond .99 of the limit."""


class Episodes(Protocol):
    """E episodes in lockstep, as `TradingEnv` has them."""

    obs_EP: Float32Array

    def present(self) -> BoolArray:
        """Whether the action of each episode is heard."""

    def step(self, action_E: Float64Array, rng: np.random.Generator | None) -> Outcome:
        """One step of every episode; `obs_EP` then holds what follows, after any reset."""


def collect(
    learner: Learner,
    env: Episodes,
    num_steps: int,
    gamma: float,
    gae_lambda: float,
    rng: np.random.Generator,
    scale: RewardScale | None = None,
) -> tuple[Rollout, Summary]:
    """Let the policy act, with exploration, for `num_steps` bars of every episode; with a `scale` it learns from scaled rewards.

    Shapes  T = num_steps, E accounts of `env`, B = T E in time-major order.
    """
    num_accounts, num_columns = env.obs_EP.shape
    shape = (num_steps, num_accounts)
    obs_TEP = torch.empty(*shape, num_columns)
    u_TE: Float32Array = rng.standard_normal(shape, dtype=np.float32)
    u_TE *= np.float32(math.exp(learner.networks.logstd))
    reward_TE: Float64Array = np.empty(shape)
    ret_TE: Float64Array = np.empty(shape)
    terminated_TE: BoolArray = np.empty(shape, dtype=np.bool_)
    ended_TE: BoolArray = np.empty(shape, dtype=np.bool_)
    heard_TE: BoolArray = np.empty(shape, dtype=np.bool_)
    action_TE: Float64Array = np.empty(shape)
    final: list[Float32Array] = []
    for t in range(num_steps):
        obs_TEP[t] = torch.from_numpy(env.obs_EP)
        heard_TE[t] = env.present()
        u_TE[t] += learner.networks.outputs(obs_TEP[t], 1)[0]
        action_TE[t] = np.tanh(u_TE[t])
        outcome = env.step(action_TE[t], rng)
        reward_TE[t], ret_TE[t] = outcome.reward_E, outcome.ret_E
        terminated_TE[t], ended_TE[t] = outcome.terminated_E, outcome.ended_E
        final.append(outcome.final_obs_EP[outcome.ended_E if t < num_steps - 1 else slice(None)])
    obs_BP = obs_TEP.flatten(0, 1)
    mean_B, value_B = learner.networks.outputs(obs_BP, 2)
    logprob_B = learner.logprobs(mean_B, u_TE.reshape(-1))
    value_TE = value_B.reshape(shape).astype(np.float64)
    next_TE = _next_values(learner, value_TE, ended_TE, np.concatenate(final))
    paid_TE = reward_TE if scale is None else scale.scaled(reward_TE, ended_TE, gamma, learner.team)
    advantage_TE = advantages(paid_TE, value_TE, next_TE, terminated_TE, ended_TE, gamma, gae_lambda)
    tensors = [torch.from_numpy(x.astype(np.float32)).flatten() for x in (advantage_TE, advantage_TE + value_TE, heard_TE)]
    size = np.abs(action_TE)
    summary = Summary(
        float(reward_TE.mean()), float(ret_TE.mean()), int(ended_TE.sum()), int(terminated_TE.sum()), float(size.mean()),
        float((size > 0.99).mean()),
    )  # fmt: skip
    columns = [torch.from_numpy(x) for x in (u_TE.reshape(-1), logprob_B, value_B)]
    return Rollout(obs_BP, *columns, *tensors), summary


def _next_values(learner: Learner, value_TE: Float64Array, ended_TE: BoolArray, final_RP: Float32Array) -> Float64Array:
    """Value of the observation that followed each step: the next row's, but the final one's where the episode ended or the rollout did."""
    next_TE: Float64Array = np.empty_like(value_TE)
    next_TE[:-1] = value_TE[1:]
    last_TE = ended_TE.copy()
    last_TE[-1] = True
    next_TE[last_TE] = learner.networks.outputs(torch.from_numpy(final_RP), 2)[1]
    return next_TE
