"""Heads: monotone quantiles outward from the median, and the direction's class scores."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from plusultra_core.errors import ConfigError

MEDIAN = 0.5


def check_levels(levels: tuple[float, ...]) -> None:
    """Raises  ConfigError unless the levels rise inside (0, 1), hold the median and have three decimals at most: their names."""
    if MEDIAN not in levels or any(not 0 < level < 1 for level in levels) or list(levels) != sorted(set(levels)):
        raise ConfigError(f"quantile_levels: expected rising numbers in (0, 1) that hold 0.5, found {list(levels)}")
    if any(abs(1e3 * level - round(1e3 * level)) > 1e-6 for level in levels):
        raise ConfigError(f"quantile_levels: expected at most three decimals, found {list(levels)}; columns are named by them")


def level_digits(level: float) -> str:
    """Decimals of a level, two at least, as columns are named: 0.05 -> 05, 0.5 -> 50, 0.975 -> 975."""
    digits = f"{level:.3f}"[2:]
    return digits[:2] if digits[2] == "0" else digits


class QuantileHead(nn.Module):
    """q50 = m; above m + cumsum softplus(u), below m - cumsum softplus(l): quantiles never cross.

    The steps' biases start at -1; the sums are taken in float32 whatever the autocast.
    """

    def __init__(self, width: int, num_horizons: int, levels: tuple[float, ...]) -> None:
        super().__init__()
        check_levels(levels)
        self.num_horizons = num_horizons
        self.num_below = levels.index(MEDIAN)
        self.num_levels = len(levels)
        self.project = nn.Linear(width, num_horizons * len(levels))
        with torch.no_grad():
            self.project.weight.mul_(0.1)
            bias_KQ = self.project.bias.view(num_horizons, len(levels))
            bias_KQ.fill_(-1.0)
            bias_KQ[:, self.num_below] = 0.0

    def set_climate(self, quantiles_KQ: Tensor) -> None:
        """Let the biases alone answer these quantiles, whatever the input.

        Shapes  quantiles (K, Q), rising along Q; steps below a thousandth are widened to it.
        """
        median_K1 = quantiles_KQ[:, self.num_below : self.num_below + 1]
        width = quantiles_KQ.diff(dim=-1).clamp(min=1e-3)
        step = torch.where(width > 50.0, width, torch.log(torch.expm1(width.clamp(max=50.0))))  # there they are one
        with torch.no_grad():
            raw_KQ = torch.cat((step[:, : self.num_below], median_K1, step[:, self.num_below :]), dim=-1)
            self.project.bias.copy_(raw_KQ.reshape(-1))

    def forward(self, h_BD: Tensor) -> Tensor:
        """Shapes  h (B, D); result (B, K, Q), rising along Q. Units: those of the target."""
        raw_BKQ = self.project(h_BD).view(len(h_BD), self.num_horizons, self.num_levels).float()
        median_BK1 = raw_BKQ[..., self.num_below : self.num_below + 1]
        below = functional.softplus(raw_BKQ[..., : self.num_below].flip(-1)).cumsum(dim=-1).flip(-1)
        above = functional.softplus(raw_BKQ[..., self.num_below + 1 :]).cumsum(dim=-1)
        return torch.cat((median_BK1 - below, median_BK1, median_BK1 + above), dim=-1)


class DirectionHead(nn.Module):
    """Scores of down, flat, up per horizon."""

    def __init__(self, width: int, num_horizons: int, num_classes: int) -> None:
        super().__init__()
        self.num_horizons = num_horizons
        self.num_classes = num_classes
        self.project = nn.Linear(width, num_horizons * num_classes)
        nn.init.normal_(self.project.weight, std=0.1 / math.sqrt(width))
        nn.init.zeros_(self.project.bias)

    def set_climate(self, share_KC: Tensor) -> None:
        """Let the biases alone answer these class probabilities. Shapes  share (K, C), positive."""
        with torch.no_grad():
            self.project.bias.copy_(share_KC.log().reshape(-1))

    def forward(self, h_BD: Tensor) -> Tensor:
        """Shapes  h (B, D); result (B, K, C)."""
        logits: Tensor = self.project(h_BD).view(len(h_BD), self.num_horizons, self.num_classes).float()
        return logits
