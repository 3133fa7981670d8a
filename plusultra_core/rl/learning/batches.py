"""A rollout on the device of its policy, and what a minibatch of it is charged."""

from typing import NamedTuple

import torch
from torch import Tensor

from plusultra_core.rl.learning.learner import Samples


class Batch(NamedTuple):
    """Samples of a rollout. Those of accounts with a memory stand time-major, (T, E)."""

    obs_BP: Tensor
    u_B: Tensor
    logprob_B: Tensor
    advantage_B: Tensor
    return_B: Tensor
    heard_B: Tensor
    allowed_BC: Tensor | None
    state_ES: Tensor
    ended_TE: Tensor | None


class Charged(NamedTuple):
    """What the loss reads of samples beside what the policy says of them now."""

    logprob_M: Tensor
    advantage_M: Tensor
    return_M: Tensor
    heard_M: Tensor


def batch_of(samples: Samples, num_state: int, device: str) -> Batch:
    """The samples on a device."""
    obs_BP, u_B, logprob_B, advantage_B, return_B, heard_B = (
        column.to(device)
        for column in (samples.obs_BP, samples.u_B, samples.logprob_B, samples.advantage_B, samples.return_B, samples.heard_B)
    )
    state_ES = torch.zeros(0, num_state) if samples.state_ES is None else samples.state_ES
    allowed_BC, ended_TE = (None if x is None else x.to(device) for x in (samples.allowed_BC, samples.ended_TE))
    return Batch(obs_BP, u_B, logprob_B, advantage_B, return_B, heard_B, allowed_BC, state_ES.to(device), ended_TE)


def charge(
    logprob_M: Tensor, entropy_M: Tensor, value_M: Tensor, seen: Charged, num_heard: float, num_all: float, clip_coef: float
) -> Tensor:
    """Sums over a part of a minibatch: policy loss, value loss, approx_kl, clipfrac, 0, entropy. The losses and entropy have a gradient.

    Samples whose action was not heard teach the critic only. `num_heard` and `num_all` count the whole minibatch.
    Shapes  all (M,); result (6,) float64. Source  Schulman et al. 2017, equation 7.
    """
    heard_M = seen.heard_M > 0
    logratio_M = torch.where(heard_M, logprob_M - seen.logprob_M, 0.0).double()
    ratio_M = logratio_M.exp()
    advantage_M, part_M = seen.advantage_M.double(), heard_M.double() / num_heard
    pg_M = torch.max(-advantage_M * ratio_M, -advantage_M * ratio_M.clamp(1.0 - clip_coef, 1.0 + clip_coef))
    error_M = value_M.double() - seen.return_M.double()
    moved_M = (ratio_M - 1.0).detach()
    sums_6: Tensor = torch.stack(
        (
            (pg_M * part_M).sum(),
            0.5 * error_M.square().sum() / num_all,
            ((moved_M - logratio_M.detach()) * part_M).sum(),
            ((moved_M.abs() > clip_coef) * part_M).sum(),
            torch.zeros_like(part_M[0]),
            (torch.where(heard_M, entropy_M, 0.0).double() * part_M).sum(),
        )
    )
    return sums_6
