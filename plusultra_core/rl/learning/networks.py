"""Actor and critic as one flat vector of weights, and their gradient written by hand.

torch does the matrix products, `kernels` what lies between them, in chunks of rows that stay in the cache. The
tensors of the policy become views of the vector, so that the policy is always what was learned last.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from plusultra_core.arrays import Float32Array, Int64Array
from plusultra_core.errors import ContractError
from plusultra_core.models.policy import Policy
from plusultra_core.rl.learning import kernels
from plusultra_core.rl.learning.tables import LEAST_ROWS, Lookup, Market

CHUNK = 1024
_BOTH = 2
_MOST_WAYS = 64


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
        self._chunk: _Chunk | None = None
        self._ways: dict[tuple[int, int], _Way] = {}
        self._num_rows = 0

    @property
    def logstd(self) -> float:
        """Log of the deviation of u."""
        return float(self.flat[-1])

    def outputs(self, obs_BP: Tensor, num_heads: int) -> Float32Array:
        """Mean of u and, with two heads, the value of every row. Shapes  (B, P) -> (heads, B)."""
        out_KB: Float32Array = np.empty((num_heads, len(obs_BP)), dtype=np.float32)
        for first in range(0, len(obs_BP), CHUNK):
            x_MP, out_KM = obs_BP[first : first + CHUNK], out_KB[:, first : first + CHUNK]
            way = self._way(num_heads, len(x_MP))
            torch.mm(x_MP, way.weight_PW, out=way.h_MW)
            kernels.add_tanh(way.h_numpy_MW, way.bias_W)
            way.onward(out_KM)
        return out_KB

    def looked_up(self, lookup: Lookup, row_B: Int64Array, own_BO: Float32Array) -> Float32Array:
        """Mean and value of samples whose market rows are looked up. Shapes  (B,), (B, O) -> (2, B)."""
        z_DW, place_B = lookup.places(row_B, self._multiply)
        weight_OW = self._own_weights(own_BO.shape[1])
        out_KB: Float32Array = np.empty((_BOTH, row_B.size), dtype=np.float32)
        for first in range(0, row_B.size, CHUNK):
            of = slice(first, first + CHUNK)
            way = self._way(_BOTH, place_B[of].size)
            kernels.expand(z_DW, place_B[of], own_BO[of], weight_OW, way.bias_W, way.h_numpy_MW)
            way.onward(out_KB[:, of])
        return out_KB

    def rows(self, obs_BP: Float32Array, index_M: Int64Array, market: Market | None = None) -> Float32Array:
        """Forward pass of at most CHUNK samples that are picked by index. Shapes  result (2, M).

        With a market `obs` is the own state alone, and what stands before it is the sample's row of the table.
        """
        num = index_M.size
        way = self._way(_BOTH, num)
        if market is None:
            kernels.gather(obs_BP, index_M, self._x.numpy())
            torch.mm(self._x[:num], way.weight_PW, out=way.h_MW)
            kernels.add_tanh(way.h_numpy_MW, way.bias_W)
        else:
            chunk = self._chunk_of(market.table_RF.shape[1])
            self._num_rows = kernels.runs(index_M, market.place_B, market.row_D, chunk.local_M, chunk.row_M)
            chunk.row_M[self._num_rows : LEAST_ROWS] = 0
            self._multiply(market.table_RF, chunk.row_M[: max(self._num_rows, LEAST_ROWS)], chunk.z_MW)
            kernels.gather(obs_BP, index_M, chunk.own_MO)
            weight_OW = self._own_weights(obs_BP.shape[1])
            kernels.expand(chunk.z_MW, chunk.local_M[:num], chunk.own_MO, weight_OW, way.bias_W, way.h_numpy_MW)
        out_KM: Float32Array = np.empty((_BOTH, num), dtype=np.float32)
        way.onward(out_KM)
        return out_KM

    def backward(self, d_KM: Float32Array, market: Market | None = None) -> None:
        """Add the gradient of the samples of the last `rows`, given those of their outputs, to `grad`."""
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
        if market is None:
            self._g_weights[0].addmm_(dz[0].T, self._x[:num])
        else:
            self._backward_rows(dz[0], market.table_RF.shape[1])

    def _backward_rows(self, dz_MW: Tensor, num_market: int) -> None:
        chunk, num, rows = self._chunk, len(dz_MW), self._num_rows
        assert chunk is not None
        chunk.z_MW[:rows] = 0.0
        g_OW = np.zeros((chunk.own_MO.shape[1], dz_MW.shape[1]), dtype=np.float32)
        kernels.collapse(dz_MW.numpy(), chunk.local_M[:num], chunk.own_MO, chunk.z_MW, g_OW)
        self._g_weights[0][:, :num_market].addmm_(torch.from_numpy(chunk.z_MW[:rows]).T, chunk.x_MF[:rows])
        self._g_weights[0][:, num_market:] += torch.from_numpy(g_OW).T

    def _multiply(self, table_RF: Float32Array, row_M: Int64Array, z_MW: Float32Array) -> None:
        num_market = table_RF.shape[1]
        weight, chunk = self._weights[0][:, :num_market].T, self._chunk_of(num_market)
        for first in range(0, row_M.size, CHUNK):
            part_M = row_M[first : first + CHUNK]
            x_MF = chunk.x_MF[: part_M.size]
            kernels.gather(table_RF, part_M, x_MF.numpy())
            torch.mm(x_MF, weight, out=torch.from_numpy(z_MW[first : first + part_M.size]))

    def _own_weights(self, num_own: int) -> Float32Array:
        weights: Float32Array = self._weights[0][:, -num_own:].T.contiguous().numpy()
        return weights

    def _chunk_of(self, num_market: int) -> "_Chunk":
        if self._chunk is None:
            num_own = self._layers[0][0] - num_market
            z_MW, own_MO = np.zeros((CHUNK, _BOTH * self.width), np.float32), np.zeros((CHUNK, num_own), np.float32)
            self._chunk = _Chunk(torch.empty(CHUNK, num_market), z_MW, own_MO, np.zeros(CHUNK, np.int64), np.zeros(CHUNK, np.int64))
        return self._chunk

    def _way(self, heads: int, num: int) -> "_Way":
        """The views that a pass of `num` rows needs; making them costs as much as the product of few rows."""
        if (heads, num) not in self._ways:
            if len(self._ways) == _MOST_WAYS:
                self._ways.clear()
            h = [buffer[:num] for buffer in self._h[heads]]
            parts = [slice(k * self.width, (k + 1) * self.width) for k in range(heads)]
            layers = [
                (
                    [(h[n - 1][:, of], self._weights[n][k].T, h[n][:, of]) for k, of in enumerate(parts)],
                    h[n].numpy(),
                    self._biases[n].numpy(),
                )
                for n in range(1, len(h))
            ]
            head = (h[-1].numpy(), self._weights[-1].numpy(), self._biases[-1].numpy())
            weight_PW = self._weights[0][: heads * self.width].T
            self._ways[heads, num] = _Way(h[0], h[0].numpy(), weight_PW, self._biases[0].numpy(), layers, head)
        return self._ways[heads, num]


class _Way(NamedTuple):
    """From the first hidden layer to the heads, for a given number of rows."""

    h_MW: Tensor
    h_numpy_MW: Float32Array
    weight_PW: Tensor
    bias_W: Float32Array
    layers: list[tuple[list[tuple[Tensor, Tensor, Tensor]], Float32Array, Float32Array]]
    head: tuple[Float32Array, Float32Array, Float32Array]

    def onward(self, out_KM: Float32Array) -> None:
        """From what stands in the first hidden layer."""
        for products, h_MW, bias_W in self.layers:
            for x_MH, weight_HH, z_MH in products:
                torch.mm(x_MH, weight_HH, out=z_MH)
            kernels.add_tanh(h_MW, bias_W)
        kernels.heads(*self.head, out_KM)


class _Chunk(NamedTuple):
    """Room for a chunk of samples that look their rows up."""

    x_MF: Tensor
    z_MW: Float32Array
    own_MO: Float32Array
    local_M: Int64Array
    row_M: Int64Array


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
