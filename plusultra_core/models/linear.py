"""The honest floor: a decomposed linear map of the window, after DLinear."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from plusultra_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearConfig:
    """Size of the linear floor."""

    width: int
    """Rank of the map from window to heads."""
    trend_bars: int
    """Length of the trailing mean that splits a window into trend and remainder."""
    lags: int
    """Newest bars whose remainder is used bar by bar."""

    def __post_init__(self) -> None:
        for name in ("width", "trend_bars", "lags"):
            if getattr(self, name) < 1:
                raise ConfigError(f"linear.{name}: expected >= 1, found {getattr(self, name)}")


class LinearBackbone(nn.Module):
    """h = W_s vec(newest remainders) + W_t vec(trend at those bars' end and at the window's start), no nonlinearity.

    DLinear (Zeng et al. 2205.13504) decomposes by a centred moving average; here it is a trailing one, hence causal.
    """

    def __init__(self, cfg: LinearConfig, num_features: int, lookback: int) -> None:
        super().__init__()
        self.trend_bars = min(cfg.trend_bars, lookback)
        self.lags = min(cfg.lags, lookback)
        self.width = cfg.width
        self.remainder = nn.Linear(self.lags * num_features, cfg.width)
        self.trend = nn.Linear(2 * num_features, cfg.width, bias=False)
        for layer in (self.remainder, self.trend):
            nn.init.normal_(layer.weight, std=0.1 / math.sqrt(layer.in_features))

    def forward(self, x_BTF: Tensor, state_BTS: Tensor, mask_BT: Tensor) -> Tensor:
        """Shapes  x (B, T, F), state and mask unused; result (B, D)."""
        newest_BF = x_BTF[:, -self.trend_bars :].mean(dim=1)
        oldest_BF = x_BTF[:, : self.trend_bars].mean(dim=1)
        recent_BLF = x_BTF[:, -self.lags :] - newest_BF[:, None]
        trend_BG = torch.cat((newest_BF, oldest_BF), dim=-1)
        result: Tensor = functional.linear(recent_BLF.flatten(1), self.remainder.weight, self.remainder.bias) + self.trend(trend_BG)
        return result
