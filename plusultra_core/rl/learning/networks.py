"""Actor and critic as one flat vector of weights, and their gradient written by hand.

torch does the matrix products, `kernels` what lies between them, in chunks of rows that stay in the cache. The
tensors of the policy become views of the vector, so that the policy is always what was learned last.
"""

import numpy as np
import torch
from torch import Tensor, nn

from plusultra_core.arrays import Float32Array, Int64Array
from plusultra_core.errors import ContractError
from plusultra_core.models.policy import Policy
from plusultra_core.rl.learning import kernels

CHUNK = 1024
_BOTH = 2


class Networks:
    """The two networks of a policy, side by side: of W = 2 H columns of a layer the first H are the actor's."""

    def __init__(self, policy: Policy) -> None:
        pairs = list(zip(_linears(policy.actor), _linears(policy.critic), strict=True))
        parts = [p for pair in pairs for name in ("weight", "bias") for p in (getattr(layer, name) for layer in pair)]
        parts.append(policy.logstd)
        self.width = pairs[0][0].out_features
        self.flat = torch.cat([part.detach().flatten() for part in parts])
        self.grad = torch.zeros_like(self.flat)
        first = 0
        for part in parts:
            part.data = self.flat[first : first + part.numel()].view_as(part)
            first += part.numel()
        self._layers = [(pair[0].in_features, pair[0].out_features) for pair in pairs]
        self._weights, self._biases = _views(self.flat, self._layers)
        self._g_weights, self._g_biases = _views(self.grad, self._layers)
        self._x = torch.empty(CHUNK, self._layers[0][0])
        self._h = {k: [torch.empty(CHUNK, k * self.width) for _ in self._layers[:-1]] for k in (1, _BOTH)}
        self._dz = [torch.empty(CHUNK, _BOTH * self.width) for _ in self._layers[:-1]]

    @property
    def logstd(self) -> float:
        """Log of the deviation of u."""
        return float(self.flat[-1])

    def outputs(self, obs_BP: Tensor, num_heads: int) -> Float32Array:
        """Mean of u and, with two heads, the value of every row. Shapes  (B, P) -> (heads, B)."""
        out_KB: Float32Array = np.empty((num_heads, len(obs_BP)), dtype=np.float32)
        for first in range(0, len(obs_BP), CHUNK):
            out_KM = np.empty((num_heads, min(CHUNK, len(obs_BP) - first)), dtype=np.float32)
            self._forward(obs_BP[first : first + CHUNK], out_KM)
            out_KB[:, first : first + CHUNK] = out_KM
        return out_KB

    def rows(self, obs_BP: Float32Array, index_M: Int64Array) -> Float32Array:
        """Forward pass of at most CHUNK rows that are picked by index. Shapes  result (2, M)."""
        kernels.gather(obs_BP, index_M, self._x.numpy())
        out_KM: Float32Array = np.empty((_BOTH, index_M.size), dtype=np.float32)
        self._forward(self._x[: index_M.size], out_KM)
        return out_KM

    def backward(self, d_KM: Float32Array) -> None:
        """Add the gradient of the rows of the last `rows`, given those of their outputs, to `grad`."""
        num = d_KM.shape[1]
        h, dz = [buffer[:num] for buffer in self._h[_BOTH]], [buffer[:num] for buffer in self._dz]
        last = len(h) - 1
        kernels.heads_backward(
            h[last].numpy(), d_KM, self._weights[-1].numpy(), dz[last].numpy(), self._g_weights[-1].numpy(), self._g_biases[last].numpy(),
            self._g_biases[-1].numpy(),
        )  # fmt: skip
        for layer in range(last, 0, -1):
            for k in range(_BOTH):
                of = slice(k * self.width, (k + 1) * self.width)
                self._g_weights[layer][k].addmm_(dz[layer][:, of].T, h[layer - 1][:, of])
                torch.mm(dz[layer][:, of], self._weights[layer][k], out=dz[layer - 1][:, of])
            kernels.tanh_backward(h[layer - 1].numpy(), dz[layer - 1].numpy(), self._g_biases[layer - 1].numpy())
        self._g_weights[0].addmm_(dz[0].T, self._x[:num])

    def _forward(self, x_MP: Tensor, out_KM: Float32Array) -> None:
        heads = out_KM.shape[0]
        h = [buffer[: len(x_MP)] for buffer in self._h[heads]]
        columns = heads * self.width
        torch.mm(x_MP, self._weights[0][:columns].T, out=h[0])
        kernels.add_tanh(h[0].numpy(), self._biases[0].numpy())
        for layer in range(1, len(h)):
            for k in range(heads):
                of = slice(k * self.width, (k + 1) * self.width)
                torch.mm(h[layer - 1][:, of], self._weights[layer][k].T, out=h[layer][:, of])
            kernels.add_tanh(h[layer].numpy(), self._biases[layer].numpy())
        kernels.heads(h[-1].numpy(), self._weights[-1].numpy(), self._biases[-1].numpy(), out_KM)


def _linears(net: nn.Sequential) -> list[nn.Linear]:
    layers = list(net)
    found = [layer for layer in layers if isinstance(layer, nn.Linear)]
    if len(found) < 2 or any(not isinstance(layer, nn.Tanh) for layer in layers[1::2]) or len(found) != len(layers[::2]):
        raise ContractError("networks: expected linear layers with tanh between them, at least one hidden")
    return found


def _views(flat: Tensor, layers: list[tuple[int, int]]) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and biases of every layer as views: the first layer's (2 H, P), later ones' (2, H, H), the heads' (2 H)."""
    weights, biases, first = [], [], 0
    for number, (num_in, num_out) in enumerate(layers):
        shape = (_BOTH * num_out, num_in) if number == 0 else (-1,) if number == len(layers) - 1 else (_BOTH, num_out, num_in)
        weights.append(flat[first : first + _BOTH * num_in * num_out].view(shape))
        first += _BOTH * num_in * num_out
        biases.append(flat[first : first + _BOTH * num_out])
        first += _BOTH * num_out
    return weights, biases
