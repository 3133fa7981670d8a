"""A policy at work without exploration, bar after bar, with what it remembers of each row."""

import numpy as np
import torch
from torch import Tensor

from plusultra_core.arrays import BoolArray, Float32Array, Float64Array
from plusultra_core.models.policies.build import AnyPolicy


class Acting:
    """Rows that a policy acts on in turn; validation and desk use this, so that they cannot differ."""

    def __init__(self, policy: AnyPolicy, num_rows: int) -> None:
        self.policy, self.num_rows = policy, num_rows
        self._device = next(policy.parameters()).device
        self._state_BS: Tensor = torch.zeros(num_rows, policy.num_state, device=self._device)

    def act(self, obs_BP: Float32Array, fresh_B: BoolArray | None = None, allowed_BC: BoolArray | None = None) -> Float64Array:
        """Parts of the limit that are wished for; what was remembered of `fresh` rows is forgotten first. Shapes  (B,) or (B, A)."""
        policy, obs = self.policy, torch.from_numpy(obs_BP).to(self._device)
        if fresh_B is not None:
            self._state_BS[torch.from_numpy(fresh_B.copy()).to(self._device)] = 0.0
        with torch.no_grad():
            self._state_BS = policy.remember(obs, self._state_BS)
            allowed = None if allowed_BC is None else torch.from_numpy(allowed_BC).to(self._device)
            distribution = policy.distribution(obs, self._state_BS, allowed)
            parts: Float64Array = distribution.parts(distribution.mode()).double().cpu().numpy()
        return parts


def allowed_parts(grid_G: Float32Array, position_N: Float64Array, free_N: BoolArray) -> BoolArray:
    """Which parts of the limit a slot may ask for: all where it is free; else 0 and those that do not lead past what is held.

    The grid's first part beyond the position stays, since the rulebook holds it to what is held: keeping must remain possible.
    Shapes  grid (G,), position (N,) parts of the limit, free (N,); result (N, G).
    """
    least_G = np.abs(grid_G)
    step_G = np.where(grid_G > 0, np.concatenate((grid_G[:1], grid_G[:-1])), np.concatenate((grid_G[1:], grid_G[-1:])))
    inner_G = np.where(grid_G == 0, 0.0, np.minimum(np.abs(step_G), least_G))
    same_NG = (np.sign(grid_G)[None] * position_N[:, None] > 0) & (inner_G[None] < np.abs(position_N)[:, None])
    allowed: BoolArray = free_N[:, None] | same_NG | (grid_G == 0)[None]
    return allowed


def book_parts(weight_EA: Float64Array, held_EA: Float64Array, allowed_EA: BoolArray, max_gross: float, limit: float) -> Float64Array:
    """Wished parts of the limit of each slot out of a book's weights: of the gross limit, less what is held where nothing may be asked.

    Shapes  all (E, A). Units  `weight` parts of the book, `held` signed fractions of equity, result parts of `limit`, at most 1.
    """
    stuck_E = np.where(allowed_EA, 0.0, np.abs(held_EA)).sum(axis=1)
    room_E = np.maximum(max_gross - stuck_E, 0.0)
    parts: Float64Array = np.minimum(weight_EA * room_E[:, None] / limit, 1.0)
    return parts
