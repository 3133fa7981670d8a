"""Rollouts that stay on the device: what the policy sees, draws and learns from is never copied out but for a few numbers a step."""

import numpy as np
import torch
from torch import Tensor

from plusultra_core.arrays import Float64Array
from plusultra_core.errors import ConfigError
from plusultra_core.models.policies.distributions import SquashedGaussian
from plusultra_core.rl.device.episodes import TensorEpisodes
from plusultra_core.rl.gae import advantages
from plusultra_core.rl.learning.autograd import TorchLearner
from plusultra_core.rl.rollout import Rollout, Summary

_REFUSED = "device: rollouts on the device are made of squashed Gaussians without memory; set autograd.device: cpu"


def collect(
    learner: TorchLearner, env: TensorEpisodes, num_steps: int, gamma: float, gae_lambda: float, noise: torch.Generator
) -> tuple[Rollout, Summary]:
    """Let a squashed Gaussian without memory act, with exploration, for `num_steps` bars of every episode.

    Observations and actions stay where they are; rewards, values and flags come to the host once, at the end.
    Shapes  T = num_steps, E accounts of `env`, B = T E in time-major order.
    Raises  ConfigError for a policy with a memory or another head.
    """
    policy = learner.policy
    if policy.has_memory:
        raise ConfigError(_REFUSED)
    seen: list[tuple[Tensor, ...]] = []
    with torch.no_grad(), learner.mixed():
        for _ in range(num_steps):
            obs, heard = env.obs, env.present()
            state = policy.remember(obs, obs.new_zeros(len(obs), policy.num_state))
            distribution = policy.distribution(obs, state)
            if not isinstance(distribution, SquashedGaussian):
                raise ConfigError(_REFUSED)
            mean, logstd = distribution.mean_B.float(), distribution.logstd_B.float()
            u = mean + torch.randn(mean.shape, generator=noise, device=mean.device) * logstd.exp()
            outcome = env.step(distribution.parts(u))
            after = policy.remember(outcome.final_obs, obs.new_zeros(len(obs), policy.num_state))
            value = policy.value(obs, state).float()
            following = policy.value(outcome.final_obs, after).float()
            seen.append((obs, u, distribution.log_prob(u).float(), value, following, heard, *outcome[:4]))
    obs_T, u_T, logprob_T, value_T, next_T, heard_T, reward_T, ret_T, terminated_T, ended_T = (
        torch.stack(column) for column in zip(*seen, strict=True)
    )
    reward_TE, value_TE, next_TE, ret_TE = (_host(x) for x in (reward_T, value_T, next_T, ret_T))
    terminated_TE, ended_TE = terminated_T.cpu().numpy(), ended_T.cpu().numpy()
    advantage_TE = advantages(reward_TE, value_TE, next_TE, terminated_TE, ended_TE, gamma, gae_lambda)
    size_T = u_T.tanh().abs()
    summary = Summary(
        float(reward_TE.mean()), float(ret_TE.mean()), int(ended_TE.sum()), int(terminated_TE.sum()), float(size_T.mean()),
        float((size_T > 0.99).float().mean()),
    )  # fmt: skip
    rollout = Rollout(
        obs_BP=obs_T.flatten(0, 1),
        u_B=u_T.flatten(),
        logprob_B=logprob_T.flatten().cpu(),
        value_B=value_T.flatten().cpu(),
        advantage_B=_column(advantage_TE),
        return_B=_column(advantage_TE + value_TE),
        heard_B=heard_T.flatten().float().cpu(),
    )
    return rollout, summary


def _column(values_TE: Float64Array) -> Tensor:
    return torch.from_numpy(values_TE.astype(np.float32)).flatten()


def _host(values: Tensor) -> Float64Array:
    return np.ascontiguousarray(values.double().cpu().numpy())
