"""Draws by name on a device: splitmix64 on int64, whose products wrap as those of uint64 do."""

from dataclasses import dataclass

import torch
from torch import Tensor

_GAMMA, _MUL1, _MUL2 = 0x9E3779B97F4A7C15 - (1 << 64), 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)


@dataclass(frozen=True, slots=True)
class Latency:
    """The law of latencies on a device."""

    ns: Tensor
    cumulative: Tensor

    def draw(self, key: Tensor, t: Tensor) -> Tensor:
        """Latency of an order that would be sent at bar t, by the names of slot and bar alone. Shapes  (E, A), (E,) -> (E, A) ns."""
        hashed = _mix((key ^ t[:, None]) + _GAMMA)
        uniform = ((hashed >> 11) & ((1 << 53) - 1)).double() * (1.0 / 9007199254740992.0)
        return self.ns[torch.searchsorted(self.cumulative[:-1].contiguous(), uniform, right=True)]


def stream_keys(seed: int, stream: Tensor, asset: Tensor) -> Tensor:
    """What the draws of a slot begin with, as `tiles.stream_keys` has it, on the device. Shapes  broadcast, int64, each >= 0."""
    key = _mix(torch.full_like(stream, seed) + _GAMMA)
    key = _mix((key ^ stream) + _GAMMA)
    return _mix((key ^ asset) + _GAMMA)


def _mix(x: Tensor) -> Tensor:
    """Finaliser of splitmix64 on int64, whose products wrap; a shift to the right brings the sign along, which the mask takes off."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _MUL1
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _MUL2
    return x ^ ((x >> 31) & ((1 << 33) - 1))
