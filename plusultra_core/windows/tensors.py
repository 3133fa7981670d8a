"""Windows gathered by index from the panel on its device: no copy per sample, no loader."""

import torch
from torch import Tensor


def gather_windows(x_NTF: Tensor, n_B: Tensor, t_B: Tensor, lookback: int) -> Tensor:
    """The `lookback` rows that end at (n, t), for each pair.

    Shapes  x (N, T, F) or (N, T); n, t (B,) int64 with t >= lookback - 1; result (B, lookback, F) or (B, lookback).
    """
    num_assets, num_times = x_NTF.shape[:2]
    end_B = n_B * num_times + t_B
    row_BL = end_B[:, None] + torch.arange(1 - lookback, 1, device=x_NTF.device)
    flat = x_NTF.reshape(num_assets * num_times, *x_NTF.shape[2:])
    return flat.index_select(0, row_BL.reshape(-1)).reshape(len(n_B), lookback, *x_NTF.shape[2:])
