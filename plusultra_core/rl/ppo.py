"""Proximal policy optimisation: the update, in CleanRL's words.

`losses` says in torch what a minibatch is charged; `Learner` has the same and its gradient in compiled form.

Source  Schulman et al. 2017; Huang et al. 2022, The 37 implementation details of PPO.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plusultra_core.arrays import Float64Array
from plusultra_core.errors import ConfigError
from plusultra_core.models.policy import Policy
from plusultra_core.rl.learning.learner import Learns, Team
from plusultra_core.rl.rollout import Rollout


@dataclass(frozen=True, kw_only=True, slots=True)
class PPOConfig:
    """The update."""

    learning_rate: float
    anneal_lr: bool
    """Learning rate falls linearly to 0 over the updates."""
    norm_reward: bool
    """Learn from rewards over the deviation of their discounted sum."""
    gamma: float
    gae_lambda: float
    update_epochs: int
    num_minibatches: int
    clip_coef: float
    ent_coef: float
    """Pays for the entropy of what is drawn: of a Gaussian before it is squashed, of choices, of weights."""
    vf_coef: float
    max_grad_norm: float
    target_kl: float | None
    """An update stops after the epoch in which approx_kl passes this."""

    def __post_init__(self) -> None:
        if not (0 < self.gamma <= 1 and 0 <= self.gae_lambda <= 1):
            raise ConfigError(f"gamma, gae_lambda: expected in (0, 1], [0, 1], found {self.gamma}, {self.gae_lambda}")
        if min(self.learning_rate, self.clip_coef, self.max_grad_norm, self.update_epochs, self.num_minibatches) <= 0:
            raise ConfigError("ppo: expected learning_rate, clip_coef, max_grad_norm, update_epochs, num_minibatches > 0")
        if min(self.ent_coef, self.vf_coef) < 0 or (self.target_kl is not None and self.target_kl <= 0):
            raise ConfigError("ppo: expected ent_coef, vf_coef >= 0 and target_kl > 0 or null")


Row = dict[str, float]


def losses(policy: Policy, batch: Rollout, cfg: PPOConfig) -> tuple[Tensor, Row]:
    """Loss of one minibatch and what it says about the update. Samples whose action was not heard teach the critic only."""
    logratio_B = torch.where(batch.heard_B > 0, policy.logprob(policy.mean(batch.obs_BP), batch.u_B) - batch.logprob_B, 0.0)
    ratio_B = logratio_B.exp()
    heard = batch.heard_B.sum().clamp_min(1.0)
    advantage_B = batch.advantage_B
    pg_B = torch.max(-advantage_B * ratio_B, -advantage_B * ratio_B.clamp(1.0 - cfg.clip_coef, 1.0 + cfg.clip_coef))
    pg_loss = (pg_B * batch.heard_B).sum() / heard
    v_loss = 0.5 * (policy.value(batch.obs_BP) - batch.return_B).square().mean()
    entropy = policy.entropy().mean()
    loss = pg_loss - cfg.ent_coef * entropy + cfg.vf_coef * v_loss
    moved_B = ratio_B.detach() - 1.0
    row = {
        "pg_loss": float(pg_loss.detach()),
        "v_loss": float(v_loss.detach()),
        "entropy": float(entropy.detach()),
        "approx_kl": float(((moved_B - logratio_B.detach()) * batch.heard_B).sum() / heard),
        "clipfrac": float(((moved_B.abs() > cfg.clip_coef) * batch.heard_B).sum() / heard),
    }
    return loss, row


def update(learner: Learns, rollout: Rollout, cfg: PPOConfig, rng: np.random.Generator) -> Row:
    """Several epochs of minibatches over one rollout; returns the means of the last epoch, and `ratio_first`.

    `ratio_first` is the largest distance of the ratio from 1 before anything was updated, over the first rows: 0, or
    the rollout and the update do not see the same policy. In a team every minibatch is made of a part of each rollout.
    """
    rollout = rollout._replace(advantage_B=_standardised(rollout, learner.team))
    ratio_first = learner.first_distance(rollout)
    heard_B = rollout.heard_B.numpy()
    sums: Float64Array = np.zeros((0, 0))
    num_epochs = 0
    for _ in range(cfg.update_epochs):
        num_epochs += 1
        parts = learner.parts(rollout, cfg.num_minibatches, rng)
        counts = np.array([(heard_B[part].sum(dtype=np.float64), part.size) for part in parts])
        learner.team.total(counts)
        sums = np.stack(
            [
                learner.step(rollout, part, max(heard, 1.0), num, cfg.clip_coef, cfg.vf_coef, cfg.ent_coef, cfg.max_grad_norm)
                for part, (heard, num) in zip(parts, counts, strict=True)
            ]
        )
        if cfg.target_kl is not None and sums[:, 2].mean() > cfg.target_kl:
            break
    names = ("pg_loss", "v_loss", "approx_kl", "clipfrac", "grad_norm", "entropy")
    return {
        **dict(zip(names, map(float, sums.mean(axis=0)), strict=True)),
        "explained_variance": explained_variance(rollout.value_B, rollout.return_B),
        "ratio_first": ratio_first,
        "num_epochs": float(num_epochs),
    }


def _standardised(rollout: Rollout, team: Team) -> Tensor:
    """Advantages less their mean, over their deviation, over all of the team's samples whose action was heard.

    Where samples are weighed, so are mean and deviation, and then what comes out: a mean taken off after weighing would not cancel.
    """
    advantage_B, heard_B = rollout.advantage_B.numpy().astype(np.float64), rollout.heard_B.numpy().astype(np.float64)
    weight_B = heard_B if heard_B.any() else np.ones_like(heard_B)
    own_B = None if rollout.weight_B is None else rollout.weight_B.numpy().astype(np.float64)
    weight_B = weight_B if own_B is None else weight_B * own_B
    moments: Float64Array = np.array([weight_B.sum(), (weight_B * advantage_B).sum()])
    team.total(moments)
    mean = moments[1] / moments[0]
    square: Float64Array = np.array([(weight_B * (advantage_B - mean) ** 2).sum()])
    team.total(square)
    spread = float(np.sqrt(square[0] / moments[0])) + 1e-8
    standard_B = (advantage_B - mean) / spread
    return torch.from_numpy((standard_B if own_B is None else standard_B * own_B).astype(np.float32))


def explained_variance(value_B: Tensor, return_B: Tensor) -> float:
    """1 - var(return - value) / var(return); 0 where the returns do not vary."""
    variance = float(return_B.var(correction=0))
    return 1.0 - float((return_B - value_B).var(correction=0)) / variance if variance > 0 else 0.0
