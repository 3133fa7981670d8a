"""Masked reconstruction: hide blocks of bars and have the backbone rebuild them.

Blocks are contiguous in time and hide all channels at once, because the columns of one bar reveal each other. The
corpus is the train span of the oldest fold, which lies inside the train span of every later one.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from plusultra_core.errors import ConfigError
from plusultra_core.models.forecaster import Forecaster
from plusultra_core.models.hybrid import HybridBackbone
from plusultra_core.training.loop import FitConfig, Row, mix_seed
from plusultra_core.windows.tensors import InputTensors

SCORE_SEED = 20_111
SCORE_BATCH = 2_048


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig:
    """What is hidden and how the reconstruction is fitted."""

    mask_frac: float
    """Share of a window's bars to hide, before blocks overlap."""
    block_bars: int
    """Length of a hidden block."""
    fit: FitConfig
    """The fit."""

    def __post_init__(self) -> None:
        if not 0 < self.mask_frac < 1 or self.block_bars < 1:
            raise ConfigError(f"pretrain: expected mask_frac in (0, 1), block_bars >= 1, found {self.mask_frac}, {self.block_bars}")


class Reconstruction(nn.Module):
    """The backbone of a forecaster with a linear decoder from each token to the bars of its patch."""

    def __init__(self, backbone: HybridBackbone, num_features: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.decode = nn.Linear(backbone.width, backbone.patch_bars * num_features)

    def forward(self, x_BTF: Tensor, state_BTS: Tensor, mask_BT: Tensor) -> Tensor:
        """Shapes  as the backbone's; result (B, T, F)."""
        token_BPD = self.backbone.norm_out(self.backbone.encode(x_BTF, state_BTS, mask_BT))
        bars_BTF = self.decode(token_BPD).reshape(len(x_BTF), -1, x_BTF.shape[-1])
        rebuilt: Tensor = bars_BTF[:, self.backbone.pad_bars :]
        return rebuilt


class MaskedReconstruction:
    """The objective of pretraining over a set of windows."""

    def __init__(self, inputs: InputTensors, n_B: Tensor, t_B: Tensor, cfg: PretrainConfig, seed: int) -> None:
        self.num_samples = len(n_B)
        self._inputs, self._n, self._t, self._cfg = inputs, n_B, t_B, cfg
        self._seed = mix_seed(seed, SCORE_SEED)

    def loss(self, model: nn.Module, index_B: Tensor, generator: torch.Generator) -> Tensor:
        """Huber loss over hidden bars that exist."""
        return self._error(model, index_B, generator)[0]

    def validate(self, model: nn.Module) -> Row:
        """Loss on fixed masks, and the share of the loss of predicting zero that is explained. Not held out: it is the corpus."""
        generator = torch.Generator().manual_seed(self._seed)
        num = min(self.num_samples, SCORE_BATCH)
        index_B = torch.arange(num, device=self._n.device) * self.num_samples // num  # evenly over all assets
        loss, baseline = self._error(model, index_B, generator)
        return {"loss": float(loss), "explained": 1 - float(loss) / max(float(baseline), 1e-12)}

    def _error(self, model: nn.Module, index_B: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x_BTF, state_BTS, mask_BT = self._inputs.gather(self._n[index_B], self._t[index_B])
        hidden_BT = draw_blocks(len(x_BTF), x_BTF.shape[1], self._cfg, generator).to(x_BTF.device)
        rebuilt_BTF = model(
            x_BTF.masked_fill(hidden_BT[..., None], 0), state_BTS.masked_fill(hidden_BT[..., None], 0), mask_BT & ~hidden_BT
        )
        counted_BT = (hidden_BT & mask_BT).float()
        total = counted_BT.sum().clamp(min=1) * x_BTF.shape[-1]
        loss_BTF = functional.smooth_l1_loss(rebuilt_BTF.float(), x_BTF, reduction="none")
        zero_BTF = functional.smooth_l1_loss(torch.zeros_like(x_BTF), x_BTF, reduction="none")
        return (loss_BTF * counted_BT[..., None]).sum() / total, (zero_BTF * counted_BT[..., None]).sum() / total


def draw_blocks(num_windows: int, lookback: int, cfg: PretrainConfig, generator: torch.Generator) -> Tensor:
    """Which bars to hide: contiguous blocks at random places. Shapes  result (B, T) bool."""
    length = min(cfg.block_bars, lookback)
    num_blocks = max(1, math.ceil(cfg.mask_frac * lookback / length))
    start_BM = torch.randint(0, lookback - length + 1, (num_windows, num_blocks), generator=generator)
    time_T = torch.arange(lookback)
    inside_BMT = (time_T >= start_BM[..., None]) & (time_T < start_BM[..., None] + length)
    return inside_BMT.any(dim=1)


def build_reconstruction(forecaster: Forecaster, seed: int) -> Reconstruction:
    """A reconstruction around the forecaster's backbone.

    Raises  ConfigError unless the backbone has tokens per patch.
    """
    if not isinstance(forecaster.backbone, HybridBackbone):
        raise ConfigError(
            f"pretrain: expected model.kind hybrid, found {forecaster.cfg.kind}; only a backbone with tokens can be pretrained"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Reconstruction(forecaster.backbone, forecaster.shape.num_features)
