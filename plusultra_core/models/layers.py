"""Building blocks of the backbones. All are causal: output t reads inputs <= t only."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

MOST_CELLS = 1 << 26
"""Numbers of the matrices of a state space that are held at once: of long windows they are made by groups of channels."""


class RotaryEmbedding(nn.Module):
    """Rotation of query and key pairs by angles proportional to their position, so that scores depend on the lag alone.

    Source  Su et al. 2104.09864, section 3.2.
    """

    cos_TE: Tensor
    sin_TE: Tensor

    def __init__(self, head_width: int, num_positions: int, base: float = 10_000.0) -> None:
        super().__init__()
        rate_E = base ** (-torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
        angle_TE = torch.arange(num_positions, dtype=torch.float64)[:, None] * rate_E
        self.register_buffer("cos_TE", angle_TE.cos().float(), persistent=False)
        self.register_buffer("sin_TE", angle_TE.sin().float(), persistent=False)

    def forward(self, x_BHTE: Tensor) -> Tensor:
        """Rotated x; the norm of each pair is kept."""
        first, second = x_BHTE.chunk(2, dim=-1)
        num_times = x_BHTE.shape[-2]
        cos, sin = self.cos_TE[:num_times], self.sin_TE[:num_times]
        return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


class CausalAttention(nn.Module):
    """Multi-head attention over the past and present tokens that are there.

    A token with nothing to look at but itself sees itself, so no row of the softmax is empty.
    """

    causal_TT: Tensor

    def __init__(self, width: int, num_heads: int, num_positions: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.rotary = RotaryEmbedding(width // num_heads, num_positions)
        self.register_buffer("causal_TT", torch.ones(num_positions, num_positions).tril().bool(), persistent=False)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Shapes  x (B, T, D); mask (B, T) bool, False where there is no token; result (B, T, D)."""
        num_batch, num_times, width = x_BTD.shape
        heads = (num_batch, num_times, 3, self.num_heads, width // self.num_heads)
        query, key, value = self.qkv(x_BTD).view(heads).permute(2, 0, 3, 1, 4)
        query, key = self.rotary(query), self.rotary(key)
        score_BHTT = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        itself_TT = torch.eye(num_times, dtype=torch.bool, device=x_BTD.device)
        seen_BTT = (self.causal_TT[:num_times, :num_times] & mask_BT[:, None, :]) | itself_TT
        share_BHTT = score_BHTT.masked_fill(~seen_BTT[:, None], -torch.inf).softmax(dim=-1)
        share_BHTT = functional.dropout(share_BHTT, self.dropout, self.training)
        mixed_BTD = (share_BHTT @ value).transpose(1, 2).reshape(num_batch, num_times, width)
        projected: Tensor = self.out(mixed_BTD)
        return projected


class CausalConv(nn.Module):
    """Depthwise dilated convolution over past and present, then a pointwise mix."""

    def __init__(self, width: int, kernel_bars: int, dilation_bars: int) -> None:
        super().__init__()
        self.dilation_bars = dilation_bars
        self.tap_KD = nn.Parameter(torch.randn(kernel_bars, width) / math.sqrt(kernel_bars))
        self.mix = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Shapes  x and result (B, T, D); receptive field 1 + (kernel - 1) * dilation bars."""
        num_times = x_BTD.shape[1]
        total_BTD = x_BTD * self.tap_KD[0]
        for k in range(1, len(self.tap_KD)):
            lag = k * self.dilation_bars
            if lag >= num_times:
                break
            total_BTD = total_BTD + functional.pad(x_BTD[:, : num_times - lag] * self.tap_KD[k], (0, 0, lag, 0))
        mixed: Tensor = self.mix(functional.gelu(total_BTD))
        return mixed


class DiagonalSSM(nn.Module):
    """Linear state space with diagonal complex state, x' = A x + B u, y = Re(C x) + D u, discretised by zero-order hold.

    Applied as the convolution with its own impulse response, a lower-triangular matrix per channel: exact and causal.
    Source  S4D, Gu et al. 2206.11893, sections 3-4 (S4D-Lin initialisation).
    """

    def __init__(self, width: int, num_states: int) -> None:
        super().__init__()
        step = torch.linspace(math.log(1e-2), math.log(0.5), width)
        self.log_step_D = nn.Parameter(step)
        self.log_decay_DN = nn.Parameter(torch.full((width, num_states), math.log(0.5)))
        self.frequency_DN = nn.Parameter(math.pi * torch.arange(num_states).float().repeat(width, 1))
        self.out_DN2 = nn.Parameter(torch.randn(width, num_states, 2) / math.sqrt(2 * num_states))
        self.skip_D = nn.Parameter(torch.ones(width))
        self.mix = nn.Linear(width, width)

    def discrete(self) -> tuple[Tensor, Tensor]:
        """Per-step factor of the state and the weight with which input reaches output: both (D, N) complex."""
        rate_DN = torch.complex(-self.log_decay_DN.exp(), self.frequency_DN)
        factor_DN = torch.exp(self.log_step_D.exp()[:, None] * rate_DN)
        gain_DN = torch.view_as_complex(self.out_DN2) * (factor_DN - 1) / rate_DN
        return factor_DN, gain_DN

    def response(self, num_times: int) -> Tensor:
        """Impulse response without the skip: (D, T)."""
        factor_DN, gain_DN = self.discrete()
        lag_T = torch.arange(num_times, device=factor_DN.device)
        power_DNT = factor_DN[..., None] ** lag_T
        return 2 * (gain_DN[..., None] * power_DNT).sum(dim=1).real

    def convolve(self, x_BTD: Tensor) -> Tensor:
        """The state space alone, before the mix. Shapes  x and result (B, T, D)."""
        num_times = x_BTD.shape[1]
        response_DT = self.response(num_times)
        time_T = torch.arange(num_times, device=x_BTD.device)
        lag_TT = time_T[:, None] - time_T
        x_DTB = x_BTD.permute(2, 1, 0)
        group = max(1, MOST_CELLS // num_times**2)
        parts = []
        for first in range(0, len(response_DT), group):
            matrix_DTT = response_DT[first : first + group, lag_TT.clamp(min=0)] * (lag_TT >= 0)
            parts.append(matrix_DTT @ x_DTB[first : first + group])
        result_DTB = parts[0] if len(parts) == 1 else torch.cat(parts)
        return result_DTB.permute(2, 1, 0) + self.skip_D * x_BTD

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Shapes  x and result (B, T, D)."""
        mixed: Tensor = self.mix(functional.gelu(self.convolve(x_BTD)))
        return mixed


class FeedForward(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, width: int, factor: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(width, factor * width)
        self.down = nn.Linear(factor * width, width)
        self.dropout = dropout

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Shapes  x and result (B, T, D)."""
        hidden = functional.dropout(functional.gelu(self.up(x_BTD)), self.dropout, self.training)
        result: Tensor = self.down(hidden)
        return result


class StateEmbedding(nn.Module):
    """Sum of one learned vector per regime token; token 0 is 'unknown'."""

    offset_S: Tensor

    def __init__(self, num_states: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(max(1, sum(num_states)), width)
        nn.init.normal_(self.table.weight, std=0.1)
        offset = torch.tensor([sum(num_states[:s]) for s in range(len(num_states))], dtype=torch.int64)
        self.register_buffer("offset_S", offset, persistent=False)

    def forward(self, state_BTS: Tensor) -> Tensor:
        """Shapes  state (B, T, S) int64; result (B, T, D)."""
        embedded: Tensor = self.table(state_BTS + self.offset_S).sum(dim=2)
        return embedded
