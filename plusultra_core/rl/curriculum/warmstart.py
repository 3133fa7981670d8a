"""The actor begins as the rule that sizes forecasts, not as a coin."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plusultra_core.errors import ConfigError
from plusultra_core.models.policies.actors import BookPolicy
from plusultra_core.models.policies.build import AnyPolicy
from plusultra_core.models.policies.distributions import GridCategorical, SimplexDirichlet
from plusultra_core.simulation.observation import OWN_STATE

_LARGEST = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmstartConfig:
    """Behaviour cloning of the sizing rule before the first rollout."""

    num_steps: int
    """Gradient steps; 0 leaves the actor as it was drawn."""
    batch_size: int
    learning_rate: float

    def __post_init__(self) -> None:
        if self.num_steps < 0 or self.batch_size < 1 or self.learning_rate <= 0:
            raise ConfigError("warmstart: expected num_steps >= 0, batch_size >= 1, learning_rate > 0")


class Lessons(NamedTuple):
    """What the rule does on R market rows: of a slot each, or of the A slots of a book.

    Shapes  rows (R, M), parts of the limit (R,); of a book (R, A, M), (R, A) weights and (R, A) whether there is a forecast.
    """

    rows: Tensor
    part: Tensor
    allowed: Tensor | None = None


def clone_rule(policy: AnyPolicy, lessons: Lessons, cfg: WarmstartConfig, rng: np.random.Generator) -> list[float]:
    """Fit what the actor does to the lessons, with random own states; returns the loss of every step. A backbone is left as it is."""

    def draw() -> tuple[Tensor, Tensor, Tensor | None]:
        index_B = torch.from_numpy(rng.integers(0, len(lessons.rows), cfg.batch_size))
        row = lessons.rows[index_B]
        own = _own_states(row[..., 0].numel(), rng).reshape(*row.shape[:-1], len(OWN_STATE))
        allowed = None if lessons.allowed is None else lessons.allowed[index_B]
        return torch.cat((row, own), dim=-1).flatten(1), lessons.part[index_B], allowed

    return imitate(policy, draw, cfg)


def imitate(policy: AnyPolicy, draw: Callable[[], tuple[Tensor, Tensor, Tensor | None]], cfg: WarmstartConfig) -> list[float]:
    """Fit what the actor does to what is drawn: observations, the parts that a teacher asks for there, what is allowed."""
    parts = [policy.actor, policy.score, policy.cash] if isinstance(policy, BookPolicy) else [policy.actor]
    optimizer = torch.optim.Adam([parameter for part in parts for parameter in part.parameters()], lr=cfg.learning_rate)
    history = []
    for _ in range(cfg.num_steps):
        loss = _distance(policy, *draw())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        history.append(float(loss.detach()))
    return history


def _distance(policy: AnyPolicy, obs_BP: Tensor, part: Tensor, allowed: Tensor | None) -> Tensor:
    """Of a Gaussian the square of what the part lies off; of choices the surprise; of weights the cross entropy."""
    device = next(policy.parameters()).device
    obs_BP, part, allowed = obs_BP.to(device), part.to(device), None if allowed is None else allowed.to(device)
    with torch.no_grad():
        state_BS = policy.remember(obs_BP, obs_BP.new_zeros(len(obs_BP), policy.num_state))
    distribution = policy.distribution(obs_BP, state_BS, allowed)
    if isinstance(distribution, SimplexDirichlet):
        share_BW = torch.cat((part, 1.0 - part.sum(dim=1, keepdim=True)), dim=1)
        return -(share_BW * distribution.mode()).sum(dim=1).mean()
    if isinstance(distribution, GridCategorical):
        nearest_B = (part[:, None] - distribution.grid_G).abs().argmin(dim=1)
        return -distribution.log_prob(nearest_B).mean()
    return (distribution.parts(distribution.mode()) - part.clamp(-_LARGEST, _LARGEST)).square().mean()


def _own_states(num: int, rng: np.random.Generator) -> Tensor:
    """Own states of any account: positions and trades in [-1, 1], drawdown and time in [0, 1]."""
    own = rng.uniform(-1.0, 1.0, (num, len(OWN_STATE)))
    own[:, OWN_STATE.index("drawdown")] = 0.3 * np.abs(own[:, OWN_STATE.index("drawdown")])
    own[:, OWN_STATE.index("time_left")] = np.abs(own[:, OWN_STATE.index("time_left")])
    return torch.from_numpy(own.astype(np.float32))
