"""The actor begins as the rule that sizes forecasts, not as a coin."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plusultra_core.errors import ConfigError
from plusultra_core.models.policy import Policy
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


def clone_rule(policy: Policy, rows_RF: Tensor, part_R: Tensor, cfg: WarmstartConfig, rng: np.random.Generator) -> list[float]:
    """Fit the actor's action to `part_R` on market rows with random own states; returns the loss of every step.

    Shapes  rows (R, F), scaled; parts of the limit (R,).
    """
    optimizer = torch.optim.Adam(policy.actor.parameters(), lr=cfg.learning_rate)
    target_R = part_R.clamp(-_LARGEST, _LARGEST)
    history = []
    for _ in range(cfg.num_steps):
        index_B = torch.from_numpy(rng.integers(0, len(rows_RF), cfg.batch_size))
        own_BO = _own_states(cfg.batch_size, rng)
        loss = (policy.act(torch.cat((rows_RF[index_B], own_BO), dim=1)) - target_R[index_B]).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        history.append(float(loss.detach()))
    return history


def _own_states(num: int, rng: np.random.Generator) -> Tensor:
    """Own states of any account: positions and trades in [-1, 1], drawdown and time in [0, 1]."""
    own = rng.uniform(-1.0, 1.0, (num, len(OWN_STATE)))
    own[:, OWN_STATE.index("drawdown")] = 0.3 * np.abs(own[:, OWN_STATE.index("drawdown")])
    own[:, OWN_STATE.index("time_left")] = np.abs(own[:, OWN_STATE.index("time_left")])
    return torch.from_numpy(own.astype(np.float32))
