"""What actor and critic read: the market row of a slot, its own state, and what is remembered of it.

A policy learns from what it saw, so nothing here drops out or looks at the batch: the same row gives the same numbers
in the rollout, in the update and at the desk.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.errors import ContractError
from plusultra_core.models.forecaster import Forecaster, windows_at_once
from plusultra_core.models.policies.recipe import MemoryConfig, RecipeConfig
from plusultra_core.models.policy import SILENT

Gather = Callable[[Tensor, Tensor], Sequence[Tensor]]
_CLIP = 5.0
_LEAST_STD = 1e-6
_MOST_WINDOWS = 1 << 24
"""Whole numbers that float32, in which observations are kept, can tell apart."""


class WindowRows(nn.Module):
    """Market rows out of numbered windows, through a forecaster whose backbone may learn; its heads are read, not taught.

    A row is h, quantiles and calibrated direction probabilities; of a backbone without taught heads, h alone.
    """

    temperature_K1: Tensor

    def __init__(self, forecaster: Forecaster, temperature: Sequence[float], with_heads: bool) -> None:
        super().__init__()
        self.forecaster = forecaster.eval()
        self.with_heads = with_heads
        self.register_buffer("temperature_K1", torch.tensor(tuple(temperature))[:, None])
        cfg = forecaster.cfg
        self.width = forecaster.width + with_heads * forecaster.shape.num_horizons * (len(cfg.quantile_levels) + cfg.num_classes)
        self._gather: Gather | None = None
        self.visible_bars = 0
        self._n_R = self._t_R = torch.zeros(0, dtype=torch.int64)
        self._table_RF: Tensor | None = None

    def train(self, mode: bool = True) -> "WindowRows":
        """Stays in eval mode: dropout would show the update another policy than the rollout."""
        return super().train(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> "WindowRows":
        """A copy with weights of its own; the windows are one for all copies."""
        for shared in (self._gather, self._n_R, self._t_R, self._table_RF):
            memo[id(shared)] = shared
        made = type(self).__new__(type(self))
        made.__dict__ = copy.deepcopy(self.__dict__, memo)
        return made

    def attach(self, gather: Gather, n_R: Int64Array, t_R: Int64Array) -> None:
        """Name the windows: number r is the one that ends at (n_R[r], t_R[r]). They stay on the CPU; what is asked for goes along.

        Raises  ContractError for more windows than an observation can number.
        """
        if len(n_R) > _MOST_WINDOWS:
            raise ContractError(f"policy: expected at most {_MOST_WINDOWS} windows, found {len(n_R)}; take a shorter span or kind mlp")
        self._gather = gather
        self._n_R, self._t_R = torch.from_numpy(n_R), torch.from_numpy(t_R)
        self.see(0)

    def see(self, num_bars: int) -> None:
        """Hide all but the newest bars of every window; 0 shows all. Rows of a backbone that does not learn are made here, once."""
        self.visible_bars, self._table_RF = num_bars, None
        if not any(parameter.requires_grad for parameter in self.parameters()):
            self._table_RF = self.whole()

    def whole(self) -> Tensor:
        """Rows of all windows, without a gradient. Shapes  (R, F)."""
        numbers = torch.arange(len(self._n_R), device=self.temperature_K1.device)
        batch = windows_at_once(self.forecaster.cfg, self.forecaster.shape)
        with torch.no_grad():
            parts = [self._encode(numbers[first : first + batch]) for first in range(0, len(numbers), batch)]
        return torch.cat([torch.zeros(0, self.width, device=numbers.device), *parts])

    def forward(self, number_B: Tensor) -> Tensor:
        """Rows of numbered windows; every distinct one is encoded once. Shapes  (B,) whole numbers -> (B, F)."""
        number_B = number_B.long()
        if self._table_RF is not None:
            self._table_RF = self._table_RF.to(number_B.device)
            return self._table_RF[number_B]
        distinct, place_B = torch.unique(number_B, return_inverse=True)
        return self._encode(distinct)[place_B]

    def _encode(self, number_B: Tensor) -> Tensor:
        if self._gather is None:
            raise ContractError("policy: no windows are attached; attach those of the panel before it acts")
        n_B, t_B = (axis_R[number_B.cpu()] for axis_R in (self._n_R, self._t_R))
        x_BTF, state_BTS, mask_BT = (part.to(number_B.device) for part in self._gather(n_B, t_B))
        if 0 < self.visible_bars < x_BTF.shape[1]:
            hidden_T = torch.arange(x_BTF.shape[1], device=x_BTF.device) < x_BTF.shape[1] - self.visible_bars
            x_BTF, state_BTS = (x.masked_fill(hidden_T[:, None], 0) for x in (x_BTF, state_BTS))
            mask_BT = mask_BT & ~hidden_T
        forecast = self.forecaster(x_BTF, state_BTS, mask_BT)
        h_BD: Tensor = forecast.h_BD.float()
        if not self.with_heads:
            return h_BD
        probability_BKC = (forecast.logits_BKC / self.temperature_K1).softmax(dim=-1)
        return torch.cat((h_BD, forecast.quantiles_BKQ.flatten(1), probability_BKC.flatten(1)), dim=1)


class Memory(nn.Module):
    """Own states so far in a fixed number of columns; zeros at the start of an episode."""

    def __init__(self, cfg: MemoryConfig, num_own: int) -> None:
        super().__init__()
        self.kind, self._num_own = cfg.kind, num_own
        self.width = {"none": 0, "window": cfg.bars * num_own, "gru": cfg.width}[cfg.kind]
        self.cell = nn.GRUCell(num_own, cfg.width) if cfg.kind == "gru" else None

    def forward(self, own_BO: Tensor, state_BS: Tensor) -> Tensor:
        """State after a bar. Shapes  (B, O), (B, S) -> (B, S)."""
        if self.cell is not None:
            moved_BS: Tensor = self.cell(own_BO, state_BS)
            return moved_BS
        return torch.cat((state_BS[:, self._num_own :], own_BO), dim=1) if self.kind == "window" else state_BS


class Body(nn.Module):
    """Observations of slots, (B, M + O), into what the networks read.

    The state of a slot is the row of its window, where the policy reads windows, and its memory.
    """

    center_F: Tensor
    scale_F: Tensor
    moments_3P: Tensor

    def __init__(self, cfg: RecipeConfig, num_rows: int, num_own: int, rows: WindowRows | None) -> None:
        """`num_rows` columns of a market row; with `rows` the observation holds the number of a window instead."""
        super().__init__()
        self.rows = rows
        self._num_market = num_rows if rows is None else 1
        self._num_row = 0 if rows is None else num_rows
        self.is_running = cfg.norm_obs == "running"
        self.memory = Memory(cfg.memory, num_own)
        self.num_obs = self._num_market + num_own
        self.num_state = self._num_row + self.memory.width
        self.width = num_rows + num_own + self.memory.width
        self.register_buffer("center_F", torch.zeros(num_rows))
        self.register_buffer("scale_F", torch.ones(num_rows))
        self.register_buffer("moments_3P", torch.zeros(3, self.num_obs, dtype=torch.float64))

    def fit_rows(self, rows_RF: Tensor) -> None:
        """Fit the scaler of market rows; give rows of the train span only. With running statistics they stay as they are."""
        if self.is_running and self.rows is None:
            return
        std_F = rows_RF.std(dim=0, correction=0)
        self.center_F.copy_(rows_RF.mean(dim=0))
        self.scale_F.copy_(torch.where(std_F > _LEAST_STD, std_F, SILENT))

    def scale_rows(self, rows_RF: Tensor) -> Tensor:
        """Market rows as the observation holds them, clipped to [-5, 5] unless running statistics do that."""
        scaled_RF = (rows_RF - self.center_F) / self.scale_F
        return scaled_RF if self.is_running and self.rows is None else scaled_RF.clamp(-_CLIP, _CLIP)

    def remember(self, obs_BP: Tensor, state_BS: Tensor) -> Tensor:
        """State after an observation. Shapes  (B, P), (B, S) -> (B, S)."""
        memory: Tensor = self.memory(self._normed(obs_BP)[:, self._num_market :], state_BS[:, self._num_row :])
        if self.rows is None:
            return memory
        return torch.cat((self.scale_rows(self.rows(obs_BP[:, 0])), memory), dim=1)

    def forward(self, obs_BP: Tensor, state_BS: Tensor) -> Tensor:
        """What the networks read: market row, own state, memory. Shapes  (B, P), (B, S) -> (B, X)."""
        normed_BP = self._normed(obs_BP)
        return torch.cat((normed_BP if self.rows is None else normed_BP[:, 1:], state_BS), dim=1)

    def moments(self, obs_BP: Tensor) -> Float64Array:
        """Count, sum and squares of the columns of a rollout, for `absorb`. Shapes  (3, P)."""
        x_BP = obs_BP.reshape(-1, self.num_obs).double().cpu().numpy()
        found: Float64Array = np.stack((np.full(self.num_obs, float(len(x_BP))), x_BP.sum(axis=0), (x_BP**2).sum(axis=0)))
        return found

    def absorb(self, moments_3P: Float64Array) -> None:
        """Let what was seen move the running statistics. Between an update and the next rollout, never within."""
        if self.is_running:
            self.moments_3P += torch.from_numpy(moments_3P).to(self.moments_3P.device)

    def _normed(self, obs_BP: Tensor) -> Tensor:
        if not self.is_running or float(self.moments_3P[0, 0]) == 0.0:
            return obs_BP
        num_P, total_P, square_P = self.moments_3P
        mean_P = total_P / num_P
        std_P = (square_P / num_P - mean_P.square()).clamp_min(0.0).sqrt()
        mean_P, std_P = (x.to(obs_BP.dtype) for x in (mean_P, torch.where(std_P > _LEAST_STD, std_P, torch.ones_like(std_P))))
        normed_BP = ((obs_BP - mean_P) / std_P).clamp(-_CLIP, _CLIP)
        return normed_BP if self.rows is None else torch.cat((obs_BP[:, :1], normed_BP[:, 1:]), dim=1)
