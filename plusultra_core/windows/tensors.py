"""Windows gathered by index from the panel on its device: no copy per sample, no loader."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plusultra_core.windows.panel import Panel
from plusultra_core.windows.scaling import apply_scale


class WindowInput(NamedTuple):
    """What a forecaster reads. Shapes  x (B, L, F) float32, state (B, L, S) int64, mask (B, L) bool."""

    x_BTF: Tensor
    state_BTS: Tensor
    mask_BT: Tensor


class InputTensors(NamedTuple):
    """Inputs of the whole panel on one device, scaled by one fold's scaler; missing features are 0."""

    x_NTF: Tensor
    state_NTS: Tensor
    mask_NT: Tensor
    lookback: int

    def gather(self, n_B: Tensor, t_B: Tensor) -> WindowInput:
        """The windows that end at (n, t)."""
        return WindowInput(
            gather_windows(self.x_NTF, n_B, t_B, self.lookback),
            gather_windows(self.state_NTS, n_B, t_B, self.lookback).long(),
            gather_windows(self.mask_NT, n_B, t_B, self.lookback),
        )


def input_tensors(panel: Panel, center_F: object, scale_F: object, clip: float, device: torch.device | str) -> InputTensors:
    """Scale the panel's inputs and put them on a device. `center` and `scale` are (F,) arrays or sequences."""
    x_NTF = apply_scale(panel.x_NTF, np.asarray(center_F, np.float32), np.asarray(scale_F, np.float32), clip)
    return InputTensors(
        torch.from_numpy(x_NTF).to(device),
        torch.from_numpy(panel.state_NTS).to(device),
        torch.from_numpy(panel.tradable_NT).to(device),
        panel.lookback,
    )


def gather_windows(x_NTF: Tensor, n_B: Tensor, t_B: Tensor, lookback: int) -> Tensor:
    """The `lookback` rows that end at (n, t), for each pair.

    Shapes  x (N, T, F) or (N, T); n, t (B,) int64 with t >= lookback - 1; result (B, lookback, F) or (B, lookback).
    """
    num_assets, num_times = x_NTF.shape[:2]
    end_B = n_B * num_times + t_B
    row_BL = end_B[:, None] + torch.arange(1 - lookback, 1, device=x_NTF.device)
    flat = x_NTF.reshape(num_assets * num_times, *x_NTF.shape[2:])
    return flat.index_select(0, row_BL.reshape(-1)).reshape(len(n_B), lookback, *x_NTF.shape[2:])
