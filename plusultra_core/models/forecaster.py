"""A forecaster: one backbone and two heads. Targets are vol-scaled returns; positions come from elsewhere."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from plusultra_core.errors import ConfigError
from plusultra_core.models.heads import DirectionHead, QuantileHead, check_levels
from plusultra_core.models.hybrid import HybridBackbone, HybridConfig, most_floats
from plusultra_core.models.linear import LinearBackbone, LinearConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ForecasterConfig:
    """Which backbone, how large, which quantiles."""

    kind: Literal["hybrid", "linear"]
    """Backbone; its section below is filled, the other is null."""
    hybrid: HybridConfig | None
    """Size of the hybrid backbone."""
    linear: LinearConfig | None
    """Size of the linear floor."""
    quantile_levels: tuple[float, ...]
    """Levels of the quantile head, rising, with 0.5 among them."""
    num_classes: int
    """Classes of the direction head: down, flat, up."""

    def __post_init__(self) -> None:
        check_levels(self.quantile_levels)
        if self.num_classes < 2:
            raise ConfigError(f"num_classes: expected >= 2, found {self.num_classes}")
        if (self.hybrid is not None) != (self.kind == "hybrid") or (self.linear is not None) != (self.kind == "linear"):
            raise ConfigError(f"kind: expected the section {self.kind!r} filled and the other null")


@dataclass(frozen=True, kw_only=True, slots=True)
class InputShape:
    """What a forecaster is built for."""

    num_features: int
    lookback: int
    num_states: tuple[int, ...]
    """Size of the vocabulary of each state token."""
    num_horizons: int


MOST_WINDOWS = 2_048
_MOST_FLOATS = 1 << 28


def windows_at_once(cfg: ForecasterConfig, shape: InputShape) -> int:
    """Windows that are forecast together: so many that no layer holds more than a gigabyte of them, one at least."""
    widest = shape.lookback * shape.num_features
    widest = widest if cfg.hybrid is None else max(widest, most_floats(cfg.hybrid, shape.lookback))
    return min(MOST_WINDOWS, max(1, _MOST_FLOATS // max(1, widest)))


class Forecast(NamedTuple):
    """Shapes  quantiles (B, K, Q), logits (B, K, C), h (B, D). Quantiles in units of sigma * sqrt(horizon)."""

    quantiles_BKQ: Tensor
    logits_BKC: Tensor
    h_BD: Tensor


class Forecaster(nn.Module):
    """Window, state tokens and mask -> quantiles and direction of each horizon."""

    def __init__(self, cfg: ForecasterConfig, shape: InputShape) -> None:
        super().__init__()
        self.cfg = cfg
        self.shape = shape
        self.backbone: HybridBackbone | LinearBackbone
        if cfg.hybrid is not None:
            self.backbone = HybridBackbone(cfg.hybrid, shape.num_features, shape.lookback, shape.num_states)
        elif cfg.linear is not None:
            self.backbone = LinearBackbone(cfg.linear, shape.num_features, shape.lookback)
        self.quantile_head = QuantileHead(self.backbone.width, shape.num_horizons, cfg.quantile_levels)
        self.direction_head = DirectionHead(self.backbone.width, shape.num_horizons, cfg.num_classes)

    @property
    def width(self) -> int:
        """Width of `h_BD`."""
        return self.backbone.width

    def forward(self, x_BTF: Tensor, state_BTS: Tensor, mask_BT: Tensor) -> Forecast:
        """Forecast from the newest bar of each window.

        Shapes  x (B, T, F) float32, scaled, missing 0; state (B, T, S) int64; mask (B, T) bool, True where there is a bar.
        """
        h_BD = self.backbone(x_BTF, state_BTS, mask_BT)
        return Forecast(self.quantile_head(h_BD), self.direction_head(h_BD), h_BD)


def build_forecaster(cfg: ForecasterConfig, shape: InputShape, seed: int = 0) -> Forecaster:
    """A forecaster with fresh weights; equal seeds, equal weights. The global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Forecaster(cfg, shape)
