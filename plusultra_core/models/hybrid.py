"""Hybrid backbone: causal dilated convolutions and a state space over bars, attention over patches of bars."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from plusultra_core.errors import ConfigError
from plusultra_core.models.layers import CausalAttention, CausalConv, DiagonalSSM, FeedForward, StateEmbedding


@dataclass(frozen=True, kw_only=True, slots=True)
class HybridConfig:
    """Size of the hybrid backbone."""

    width: int
    """Width of the residual stream."""
    num_blocks: int
    """Attention blocks over patches."""
    num_heads: int
    """Attention heads; width / heads must be even (rotary pairs)."""
    feedforward_factor: int
    """Hidden width of the feed-forward part, in widths."""
    patch_bars: int
    """Bars that become one token of the attention."""
    kernel_bars: int
    """Taps of each causal convolution."""
    dilations: tuple[int, ...]
    """One convolution per dilation, in bars."""
    ssm_states: int
    """Complex states per channel of the state space; 0 leaves it out."""
    state_embedding: bool
    """Whether regime tokens are embedded."""
    dropout: float
    """Share dropped in training."""

    def __post_init__(self) -> None:
        for name in ("width", "num_blocks", "num_heads", "feedforward_factor", "patch_bars", "kernel_bars"):
            if getattr(self, name) < 1:
                raise ConfigError(f"hybrid.{name}: expected >= 1, found {getattr(self, name)}")
        if self.width % (2 * self.num_heads):
            raise ConfigError(f"hybrid.width: expected a multiple of 2 * num_heads = {2 * self.num_heads}, found {self.width}")
        if self.ssm_states < 0 or any(dilation < 1 for dilation in self.dilations):
            raise ConfigError("hybrid: expected ssm_states >= 0 and dilations >= 1")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"hybrid.dropout: expected in [0, 1), found {self.dropout}")


def most_floats(cfg: HybridConfig, lookback: int) -> int:
    """Numbers that the widest layer holds of one window."""
    patches = math.ceil(lookback / cfg.patch_bars)
    of_patch = cfg.width * max(3, cfg.feedforward_factor, cfg.patch_bars)
    return patches * max(of_patch, cfg.num_heads * patches)


class AttentionBlock(nn.Module):
    """Pre-norm attention and feed-forward, each on a residual stream."""

    def __init__(self, cfg: HybridConfig, num_positions: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(cfg.width)
        self.attention = CausalAttention(cfg.width, cfg.num_heads, num_positions, cfg.dropout)
        self.norm_feedforward = nn.LayerNorm(cfg.width)
        self.feedforward = FeedForward(cfg.width, cfg.feedforward_factor, cfg.dropout)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Shapes  x and result (B, T, D)."""
        x_BTD = x_BTD + self.attention(self.norm_attention(x_BTD), mask_BT)
        result: Tensor = x_BTD + self.feedforward(self.norm_feedforward(x_BTD))
        return result


class HybridBackbone(nn.Module):
    """Window -> tokens -> the state of its newest bar."""

    def __init__(self, cfg: HybridConfig, num_features: int, lookback: int, num_states: tuple[int, ...]) -> None:
        super().__init__()
        self.width = cfg.width
        self.patch_bars = cfg.patch_bars
        self.pad_bars = -lookback % cfg.patch_bars
        num_patches = (lookback + self.pad_bars) // cfg.patch_bars
        self.embed = nn.Linear(num_features, cfg.width)
        self.missing_D = nn.Parameter(torch.randn(cfg.width) * 0.1)
        embeds = cfg.state_embedding and len(num_states) > 0
        self.state = StateEmbedding(num_states, cfg.width) if embeds else None
        self.stem = nn.ModuleList(CausalConv(cfg.width, cfg.kernel_bars, dilation) for dilation in cfg.dilations)
        self.ssm = DiagonalSSM(cfg.width, cfg.ssm_states) if cfg.ssm_states else None
        self.patch = nn.Linear(cfg.patch_bars * cfg.width, cfg.width)
        self.blocks = nn.ModuleList(AttentionBlock(cfg, num_patches) for _ in range(cfg.num_blocks))
        self.norm_out = nn.LayerNorm(cfg.width)
        self.skip_bars = min(cfg.patch_bars, lookback)
        self.skip = nn.Linear(self.skip_bars * num_features, cfg.width, bias=False)
        nn.init.normal_(self.skip.weight, std=0.1 / math.sqrt(self.skip.in_features))

    def encode(self, x_BTF: Tensor, state_BTS: Tensor, mask_BT: Tensor) -> Tensor:
        """Tokens of all patches, oldest first; token p reads bars up to the end of patch p.

        Shapes  x (B, T, F) scaled, missing 0; state (B, T, S) int64; mask (B, T) bool, True where there is a bar;
        result (B, P, D).
        """
        bars_BTD = self.embed(x_BTF) + (~mask_BT)[..., None] * self.missing_D
        if self.state is not None:
            bars_BTD = bars_BTD + self.state(state_BTS)
        for conv in self.stem:
            bars_BTD = bars_BTD + conv(bars_BTD)
        if self.ssm is not None:
            bars_BTD = bars_BTD + self.ssm(bars_BTD)
        bars_BTD = functional.pad(bars_BTD, (0, 0, self.pad_bars, 0))
        mask_BT = functional.pad(mask_BT, (self.pad_bars, 0))
        num_batch, num_times, width = bars_BTD.shape
        num_patches = num_times // self.patch_bars
        token_BPD: Tensor = self.patch(bars_BTD.reshape(num_batch, num_patches, self.patch_bars * width))
        present_BP = mask_BT.view(num_batch, num_patches, self.patch_bars).any(dim=-1)
        for block in self.blocks:
            token_BPD = block(token_BPD, present_BP)
        return token_BPD

    def forward(self, x_BTF: Tensor, state_BTS: Tensor, mask_BT: Tensor) -> Tensor:
        """Shapes  as `encode`; result (B, D): the newest token, and past it a linear map of the newest patch's bars.

        The skip lets what is linear be learned as fast as the floor learns it (after TiDE, Das et al. 2304.08424).
        """
        newest_BD = self.norm_out(self.encode(x_BTF, state_BTS, mask_BT)[:, -1])
        result: Tensor = newest_BD + self.skip(x_BTF[:, -self.skip_bars :].flatten(1))
        return result
