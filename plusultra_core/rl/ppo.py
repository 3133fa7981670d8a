"""Proximal policy optimisation: the update, in CleanRL's words.

Source  Schulman et al. 2017; Huang et al. 2022, The 37 implementation details of PPO.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plusultra_core.errors import ConfigError
from plusultra_core.models.policy import Policy
from plusultra_core.rl.rollout import Rollout


@dataclass(frozen=True, kw_only=True, slots=True)
class PPOConfig:
    """The update."""

    learning_rate: float
    anneal_lr: bool
    """Learning rate falls linearly to 0 over the updates."""
    gamma: float
    gae_lambda: float
    update_epochs: int
    num_minibatches: int
    clip_coef: float
    ent_coef: float
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
    logratio_B = policy.logprob(policy.mean(batch.obs_BP), batch.u_B) - batch.logprob_B
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


def update(policy: Policy, optimizer: torch.optim.Optimizer, rollout: Rollout, cfg: PPOConfig, rng: np.random.Generator) -> Row:
    """Several epochs of minibatches over one rollout; returns the means of the last epoch, and `ratio_first`.

    `ratio_first` is the largest distance of the ratio from 1 before anything was updated: 0, or the rollout
    and the update do not see the same policy.
    """
    heard_B = rollout.heard_B > 0
    heard_advantage = rollout.advantage_B[heard_B] if bool(heard_B.any()) else rollout.advantage_B
    spread = heard_advantage.std(correction=0) + 1e-8
    rollout = rollout._replace(advantage_B=(rollout.advantage_B - heard_advantage.mean()) / spread)
    with torch.no_grad():
        ratio_B = (policy.logprob(policy.mean(rollout.obs_BP), rollout.u_B) - rollout.logprob_B).exp()
    num_samples = len(rollout.u_B)
    rows: list[Row] = []
    num_epochs = 0
    for _ in range(cfg.update_epochs):
        rows = []
        num_epochs += 1
        order = torch.from_numpy(rng.permutation(num_samples))
        for index_B in order.chunk(cfg.num_minibatches):
            loss, row = losses(policy, Rollout(*(field[index_B] for field in rollout)), cfg)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(policy.parameters(), cfg.max_grad_norm)
            optimizer.step()
            rows.append(row)
        if cfg.target_kl is not None and np.mean([row["approx_kl"] for row in rows]) > cfg.target_kl:
            break
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return {
        **means,
        "explained_variance": explained_variance(rollout.value_B, rollout.return_B),
        "ratio_first": float((ratio_B - 1.0).abs().max()),
        "num_epochs": float(num_epochs),
    }


def explained_variance(value_B: Tensor, return_B: Tensor) -> float:
    """1 - var(return - value) / var(return); 0 where the returns do not vary."""
    variance = float(return_B.var(correction=0))
    return 1.0 - float((return_B - value_B).var(correction=0)) / variance if variance > 0 else 0.0
