"""Collect T steps of E episodes into one buffer."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plusultra_core.arrays import BoolArray, Float64Array
from plusultra_core.models.policy import Policy
from plusultra_core.rl.env import TradingEnv
from plusultra_core.rl.gae import advantages


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


def collect(
    policy: Policy, env: TradingEnv, num_steps: int, gamma: float, gae_lambda: float, rng: np.random.Generator
) -> tuple[Rollout, Summary]:
    """Let the policy act, with exploration, for `num_steps` bars of every episode.

    Shapes  T = num_steps, E accounts of `env`, B = T E in time-major order.
    """
    num_accounts, num_columns = env.obs_EP.shape
    obs_TEP = torch.empty(num_steps, num_accounts, num_columns)
    final_TEP = torch.empty(num_steps, num_accounts, num_columns)
    noise_TE = torch.from_numpy(rng.standard_normal((num_steps, num_accounts), dtype=np.float32))
    u_TE = torch.empty(num_steps, num_accounts)
    reward_TE: Float64Array = np.empty((num_steps, num_accounts))
    ret_TE: Float64Array = np.empty((num_steps, num_accounts))
    terminated_TE: BoolArray = np.empty((num_steps, num_accounts), dtype=np.bool_)
    ended_TE: BoolArray = np.empty((num_steps, num_accounts), dtype=np.bool_)
    heard_TE: BoolArray = np.empty((num_steps, num_accounts), dtype=np.bool_)
    with torch.no_grad():
        std = policy.logstd.exp()
        for t in range(num_steps):
            obs_TEP[t] = torch.from_numpy(env.obs_EP)
            heard_TE[t] = env.present()
            u_TE[t] = policy.mean(obs_TEP[t]) + std * noise_TE[t]
            outcome = env.step(torch.tanh(u_TE[t]).double().numpy(), rng)
            final_TEP[t] = torch.from_numpy(outcome.final_obs_EP)
            reward_TE[t], ret_TE[t] = outcome.reward_E, outcome.ret_E
            terminated_TE[t], ended_TE[t] = outcome.terminated_E, outcome.ended_E
        obs_BP, u_B = obs_TEP.flatten(0, 1), u_TE.flatten()
        value_B = policy.value(obs_BP)
        logprob_B = policy.logprob(policy.mean(obs_BP), u_B)
        value_TE = value_B.view(num_steps, num_accounts).double().numpy()
        next_TE = policy.value(final_TEP.flatten(0, 1)).view(num_steps, num_accounts).double().numpy()
    advantage_TE = advantages(reward_TE, value_TE, next_TE, terminated_TE, ended_TE, gamma, gae_lambda)
    tensors = [torch.from_numpy(x.astype(np.float32)).flatten() for x in (advantage_TE, advantage_TE + value_TE, heard_TE)]
    action = np.abs(np.tanh(u_TE.numpy()))
    summary = Summary(
        float(reward_TE.mean()), float(ret_TE.mean()), int(ended_TE.sum()), int(terminated_TE.sum()), float(action.mean()),
        float((action > 0.99).mean()),
    )  # fmt: skip
    return Rollout(obs_BP, u_B, logprob_B, value_B, tensors[0], tensors[1], tensors[2]), summary
