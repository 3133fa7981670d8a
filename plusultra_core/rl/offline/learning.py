"""Learning from transitions alone: behaviour cloning, and implicit Q-learning as the baseline that may do better than who it watched.

Both leave a squashed Gaussian of PPO's kind. Neither asks what an action would be worth that nobody took.
"""

import copy
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.models.policy import Policy
from plusultra_core.rl.offline.transitions import Transitions

LARGEST = 0.95
"""Actions nearer to the limit are learned as this: the squashing never reaches 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OfflineConfig:
    """Gradient steps on transitions."""

    num_steps: int
    batch_size: int
    learning_rate: float
    width: int
    """Units of each of two hidden layers of the critics."""
    gamma: float
    expectile: float
    """Of the action values that the state's value is: .5 is the behaviour's own, towards 1 the best that was seen."""
    temperature: float
    """Inverse: 0 clones the behaviour, larger values follow its better actions alone."""
    max_weight: float
    """Largest weight of an action in the actor's loss."""
    target_rate: float
    """Part of the way that the slow critics go after each step."""

    def __post_init__(self) -> None:
        if min(self.num_steps, self.batch_size, self.width) < 1 or self.learning_rate <= 0 or self.max_weight <= 0:
            raise ConfigError("offline: expected num_steps, batch_size, width >= 1, learning_rate, max_weight > 0")
        if not (0 < self.gamma < 1 and 0.5 <= self.expectile < 1 and self.temperature >= 0 and 0 < self.target_rate <= 1):
            raise ConfigError("offline: expected gamma in (0, 1), expectile in [.5, 1), temperature >= 0, target_rate in (0, 1]")


class Batch(NamedTuple):
    """Transitions as tensors."""

    obs: Tensor
    action: Tensor
    reward: Tensor
    following: Tensor
    goes_on: Tensor


class Critic(nn.Module):
    """Two networks of the same input; the smaller value counts. Shapes  (B, P), (B,) -> (B,).

    Source  Fujimoto et al. 2018, Addressing Function Approximation Error in Actor-Critic Methods (clipped double Q).
    """

    def __init__(self, num_inputs: int, width: int) -> None:
        super().__init__()
        self.nets = nn.ModuleList([mlp(num_inputs + 1, width) for _ in range(2)])

    def both(self, obs: Tensor, action: Tensor) -> Tensor:
        """Values of both. Shapes  -> (2, B)."""
        x = torch.cat((obs, action[:, None]), dim=1)
        return torch.stack([net(x).squeeze(-1) for net in self.nets])

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """The smaller of both."""
        return self.both(obs, action).amin(dim=0)


def mlp(num_inputs: int, width: int) -> nn.Sequential:
    """Two hidden layers, one output."""
    return nn.Sequential(nn.Linear(num_inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))


def as_tensors(data: Transitions) -> Batch:
    """All of the transitions.

    Raises  ContractError where a number is not finite: a policy would learn NaN without a word.
    """
    columns = (data.obs_BP, data.action_B, data.reward_B, data.next_BP)
    for name, values in zip(("obs", "action", "reward", "next"), columns, strict=True):
        if not np.isfinite(values).all():
            raise ContractError(f"transitions.{name}: expected finite numbers, found {int((~np.isfinite(values)).sum())} that are not")
    obs, action, reward, following = (torch.from_numpy(np.ascontiguousarray(values)) for values in columns)
    return Batch(obs, action, reward, following, torch.from_numpy(~data.terminated_B).float())


def surprise(policy: Policy, obs: Tensor, action: Tensor) -> Tensor:
    """Minus the log density of squashed actions, but for the Jacobian, which no weight moves. Shapes  -> (B,)."""
    return -policy.logprob(policy.mean(obs), torch.atanh(action.clamp(-LARGEST, LARGEST)))


def clone_behaviour(policy: Policy, data: Transitions, cfg: OfflineConfig, rng: np.random.Generator) -> list[dict[str, float]]:
    """Fit actor and deviation to what was done; a row for about every hundredth part of the steps."""
    batch = as_tensors(data)
    optimizer = torch.optim.Adam([*policy.actor.parameters(), policy.logstd], lr=cfg.learning_rate)
    history = []
    for number in range(cfg.num_steps):
        index = _draw(batch, cfg, rng)
        loss = surprise(policy, batch.obs[index], batch.action[index]).mean()
        _descend(optimizer, loss)
        if _is_told(number, cfg):
            history.append({"step": float(number + 1), "clone_loss": float(loss.detach())})
    return history


def learn_implicitly(policy: Policy, data: Transitions, cfg: OfflineConfig, rng: np.random.Generator, seed: int) -> list[dict[str, float]]:
    """Implicit Q-learning: values by expectile regression, actions weighted by exp(temperature x advantage).

    The rewards are learned in units of their deviation, so that `temperature` means the same in every market.
    Source  Kostrikov, Nair, Levine 2022, Offline Reinforcement Learning with Implicit Q-Learning, section 4.
    """
    batch = as_tensors(data)
    unit = float(batch.reward.std().clamp_min(1e-8))
    critic, value = _fresh(batch.obs.shape[1], cfg, seed)
    slow = copy.deepcopy(critic).requires_grad_(False)
    learned = [*critic.parameters(), *value.parameters()]
    judge = torch.optim.Adam(learned, lr=cfg.learning_rate)
    acting = torch.optim.Adam([*policy.actor.parameters(), policy.logstd], lr=cfg.learning_rate)
    history = []
    for number in range(cfg.num_steps):
        index = _draw(batch, cfg, rng)
        obs, action, reward, following, goes_on = (column[index] for column in batch)
        with torch.no_grad():
            worth = slow(obs, action)
            target = reward / unit + cfg.gamma * goes_on * value(following).squeeze(-1)
        state = value(obs).squeeze(-1)
        ahead = worth - state
        v_loss = (torch.where(ahead < 0, 1.0 - cfg.expectile, cfg.expectile) * ahead.square()).mean()
        q_loss = (critic.both(obs, action) - target).square().mean()
        _descend(judge, v_loss + q_loss)
        weight = torch.exp(cfg.temperature * ahead.detach()).clamp(max=cfg.max_weight)
        loss = (weight * surprise(policy, obs, action)).mean()
        _descend(acting, loss)
        with torch.no_grad():
            for old, new in zip(slow.parameters(), critic.parameters(), strict=True):
                old.lerp_(new, cfg.target_rate)
        if _is_told(number, cfg):
            row = {"v_loss": v_loss, "q_loss": q_loss, "actor_loss": loss, "weight": weight.mean()}
            history.append({"step": float(number + 1), **{name: float(x.detach()) for name, x in row.items()}})
    return history


def _fresh(num_inputs: int, cfg: OfflineConfig, seed: int) -> tuple[Critic, nn.Sequential]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Critic(num_inputs, cfg.width), mlp(num_inputs, cfg.width)


def _draw(batch: Batch, cfg: OfflineConfig, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.integers(0, len(batch.obs), cfg.batch_size))


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _is_told(number: int, cfg: OfflineConfig) -> bool:
    return (number + 1) % math.ceil(cfg.num_steps / 100) == 0 or number + 1 == cfg.num_steps
