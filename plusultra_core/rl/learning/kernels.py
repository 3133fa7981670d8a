"""The loops between the matrix products of actor and critic: activations, heads, the loss and its gradient, Adam.

Rows are samples. Of W columns the first half belongs to the actor, the second to the critic; with the actor alone
there are W / 2. The slow twin of all of this is autograd on `Policy` with `ppo.losses`.
"""

import math

import numpy as np
from numba import njit

from plusultra_core.arrays import Float32Array, Float64Array, Int64Array

_SUMS = {"reassoc", "contract", "nsz"}
_END = np.float32(7.90531110763549805)
_A1, _A3, _A5 = np.float32(4.89352455891786e-03), np.float32(6.37261928875436e-04), np.float32(1.48572235717979e-05)
_A7, _A9 = np.float32(5.12229709037114e-08), np.float32(-8.60467152213735e-11)
_A11, _A13 = np.float32(2.00018790482477e-13), np.float32(-2.76076847742355e-16)
_B0, _B2 = np.float32(4.89352518554385e-03), np.float32(2.26843463243900e-03)
_B4, _B6 = np.float32(1.18534705686654e-04), np.float32(1.19825839466702e-06)
_ONE = np.float32(1.0)
_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)
NUM_SUMS = 5
"""What `loss_gradient` adds up: policy loss, value loss, approx_kl, clipfrac, gradient of logstd."""


@njit(cache=True, error_model="numpy")
def gather(obs_BP: Float32Array, index_M: Int64Array, out_MP: Float32Array) -> None:
    """Rows of a minibatch, or of a table, side by side."""
    for i in range(index_M.size):
        out_MP[i] = obs_BP[index_M[i]]


@njit(cache=True, error_model="numpy")
def draw(mean_M: Float32Array, logstd: float, u_M: Float32Array, logprob_M: Float32Array) -> None:
    """u := mean + std u, where u was standard normal; and its log density, in the arithmetic of the loss."""
    std, inverse = np.float32(math.exp(logstd)), math.exp(-logstd)
    for i in range(mean_M.size):
        u_M[i] = mean_M[i] + std * u_M[i]
        z = (np.float64(u_M[i]) - np.float64(mean_M[i])) * inverse
        logprob_M[i] = -0.5 * z * z - logstd - _HALF_LOG_TAU


@njit(cache=True, error_model="numpy", fastmath=_SUMS)
def add_tanh(z_MW: Float32Array, bias_W: Float32Array) -> None:
    """z := tanh(z + bias), in place, within 3e-7 of the exact function.

    Source  the rational approximation of Eigen and XLA (13th over 6th degree).
    """
    for i in range(z_MW.shape[0]):
        row = z_MW[i]
        for j in range(row.size):
            x = row[j] + bias_W[j]
            x = min(max(x, -_END), _END)
            s = x * x
            p = _A13 * s + _A11
            p = p * s + _A9
            p = p * s + _A7
            p = p * s + _A5
            p = p * s + _A3
            p = p * s + _A1
            q = _B6 * s + _B4
            q = q * s + _B2
            q = q * s + _B0
            row[j] = x * p / q


@njit(cache=True, error_model="numpy", fastmath=_SUMS)
def heads(h_MW: Float32Array, weight_W: Float32Array, bias_K: Float32Array, out_KM: Float32Array) -> None:
    """Mean of u, and the value where the critic is asked too. Shapes  out (1 or 2, M)."""
    num_heads = out_KM.shape[0]
    width = h_MW.shape[1] // num_heads
    for k in range(num_heads):
        weight = weight_W[k * width : (k + 1) * width]
        for i in range(h_MW.shape[0]):
            row = h_MW[i, k * width : (k + 1) * width]
            total = np.float32(0.0)
            for j in range(width):
                total += row[j] * weight[j]
            out_KM[k, i] = total + bias_K[k]


@njit(cache=True, error_model="numpy")
def logprobs(mean_M: Float32Array, u_M: Float32Array, logstd: float, out_M: Float32Array) -> None:
    """Log density of u."""
    inverse = math.exp(-logstd)
    for i in range(mean_M.size):
        z = (np.float64(u_M[i]) - np.float64(mean_M[i])) * inverse
        out_M[i] = -0.5 * z * z - logstd - _HALF_LOG_TAU


@njit(cache=True, error_model="numpy")
def loss_gradient(
    index_M: Int64Array,
    out_KM: Float32Array,
    u_B: Float32Array,
    logprob_B: Float32Array,
    advantage_B: Float32Array,
    return_B: Float32Array,
    heard_B: Float32Array,
    logstd: float,
    clip_coef: float,
    vf_coef: float,
    num_heard: float,
    num_all: float,
    d_KM: Float32Array,
    sums: Float64Array,
) -> None:
    """Gradient of the clipped loss to mean and value of every row; adds what it says about the update to `sums`.

    Shapes  index (M,) rows of the rollout; out, d (2, M); sums (5,).
    """
    inverse = math.exp(-logstd)
    for i in range(index_M.size):
        b = index_M[i]
        z = (np.float64(u_B[b]) - np.float64(out_KM[0, i])) * inverse
        logprob = np.float32(-0.5 * z * z - logstd - _HALF_LOG_TAU)
        logratio = np.float64(logprob) - np.float64(logprob_B[b]) if heard_B[b] > 0.0 else 0.0
        ratio = math.exp(logratio)
        advantage, part = np.float64(advantage_B[b]), np.float64(heard_B[b]) / num_heard
        clipped = min(max(ratio, 1.0 - clip_coef), 1.0 + clip_coef)
        plain, bound = -advantage * ratio, -advantage * clipped
        d_logprob = plain * part if clipped == ratio or plain > bound else 0.0
        error = np.float64(out_KM[1, i]) - np.float64(return_B[b])
        d_KM[0, i] = d_logprob * z * inverse
        d_KM[1, i] = vf_coef * error / num_all
        sums[0] += max(plain, bound) * part
        sums[1] += 0.5 * error * error / num_all
        sums[2] += (ratio - 1.0 - logratio) * part
        sums[3] += part if abs(ratio - 1.0) > clip_coef else 0.0
        sums[4] += d_logprob * (z * z - 1.0)


@njit(cache=True, error_model="numpy", fastmath=_SUMS)
def heads_backward(
    h_MW: Float32Array,
    d_KM: Float32Array,
    weight_W: Float32Array,
    dz_MW: Float32Array,
    g_weight_W: Float32Array,
    g_bias_W: Float32Array,
    g_head_K: Float32Array,
) -> None:
    """Gradient before the last tanh of both networks; adds to those of the heads and of the last bias."""
    width = h_MW.shape[1] // d_KM.shape[0]
    for k in range(d_KM.shape[0]):
        weight = weight_W[k * width : (k + 1) * width]
        g_weight, g_bias = g_weight_W[k * width : (k + 1) * width], g_bias_W[k * width : (k + 1) * width]
        for i in range(h_MW.shape[0]):
            row, out, d = h_MW[i, k * width : (k + 1) * width], dz_MW[i, k * width : (k + 1) * width], d_KM[k, i]
            g_head_K[k] += d
            for j in range(width):
                value = d * weight[j] * (_ONE - row[j] * row[j])
                g_weight[j] += d * row[j]
                g_bias[j] += value
                out[j] = value


@njit(cache=True, error_model="numpy", fastmath=_SUMS)
def tanh_backward(h_MW: Float32Array, dz_MW: Float32Array, g_bias_W: Float32Array) -> None:
    """dz := dz (1 - h^2), in place; adds its column sums to the gradient of the bias."""
    for i in range(h_MW.shape[0]):
        row, out = h_MW[i], dz_MW[i]
        for j in range(row.size):
            value = out[j] * (_ONE - row[j] * row[j])
            g_bias_W[j] += value
            out[j] = value


@njit(cache=True, error_model="numpy")
def adam(
    weight: Float32Array,
    grad: Float32Array,
    first: Float32Array,
    second: Float32Array,
    num_steps: int,
    learning_rate: float,
    max_grad_norm: float,
) -> float:
    """One step of Adam (0.9, 0.999, eps 1e-5) after the gradient was cut to `max_grad_norm`; returns the norm it had.

    Source  torch.optim.Adam and torch.nn.utils.clip_grad_norm_, in their arithmetic up to rounding.
    """
    total = 0.0
    for i in range(grad.size):
        total += np.float64(grad[i]) * np.float64(grad[i])
    norm = math.sqrt(total)
    cut = min(max_grad_norm / (norm + 1e-6), 1.0)
    rate, root = learning_rate / (1.0 - 0.9**num_steps), math.sqrt(1.0 - 0.999**num_steps)
    for i in range(grad.size):
        g = grad[i] * cut
        first[i] = 0.9 * first[i] + 0.1 * g
        second[i] = 0.999 * second[i] + 0.001 * g * g
        weight[i] -= rate * first[i] / (math.sqrt(second[i]) / root + 1e-5)
    return norm


@njit(cache=True, error_model="numpy")
def meet(row_M: Int64Array, slot_R: Int64Array, num: int, fresh_M: Int64Array) -> int:
    """Give each row of a table that has none yet the next slot, from `num` on; returns how many there were, and which in `fresh`."""
    found = 0
    for i in range(row_M.size):
        if slot_R[row_M[i]] < 0:
            slot_R[row_M[i]] = num + found
            fresh_M[found] = row_M[i]
            found += 1
    return found


@njit(cache=True, error_model="numpy")
def ranges(part_D: Int64Array, first_D: Int64Array, order_B: Int64Array, out_M: Int64Array) -> None:
    """The stretches of `order` that belong to some slots, one after the other."""
    filled = 0
    for d in part_D:
        for b in range(first_D[d], first_D[d + 1]):
            out_M[filled] = order_B[b]
            filled += 1


@njit(cache=True, error_model="numpy")
def runs(index_M: Int64Array, place_B: Int64Array, row_D: Int64Array, local_M: Int64Array, row_M: Int64Array) -> int:
    """Rows of the table that a chunk of samples needs, each once where equal ones stand side by side; returns how many.

    `local` is where among them each sample's row stands.
    """
    found = -1
    last = -1
    for i in range(index_M.size):
        place = place_B[index_M[i]]
        if place != last:
            found += 1
            row_M[found] = row_D[place]
            last = place
        local_M[i] = found
    return found + 1


@njit(cache=True, error_model="numpy", fastmath=_SUMS)
def expand(
    z_DW: Float32Array, local_M: Int64Array, own_MO: Float32Array, weight_OW: Float32Array, bias_W: Float32Array, h_MW: Float32Array
) -> None:
    """h := tanh(z of the sample's row + own state x weight + bias)."""
    num_own = own_MO.shape[1]
    for i in range(local_M.size):
        out, z = h_MW[i], z_DW[local_M[i]]
        out[:] = z[: out.size]
        for o in range(num_own):
            x, weight = own_MO[i, o], weight_OW[o]
            for j in range(out.size):
                out[j] += x * weight[j]
    add_tanh(h_MW, bias_W)


@njit(cache=True, error_model="numpy", fastmath=_SUMS)
def collapse(dz_MW: Float32Array, local_M: Int64Array, own_MO: Float32Array, dz_DW: Float32Array, g_weight_OW: Float32Array) -> None:
    """Gradients of the samples summed by their row, in their order, and those of the weights of the own state."""
    num_own = own_MO.shape[1]
    for i in range(local_M.size):
        row, out = dz_MW[i], dz_DW[local_M[i]]
        for j in range(row.size):
            out[j] += row[j]
        for o in range(num_own):
            x, weight = own_MO[i, o], g_weight_OW[o]
            for j in range(row.size):
                weight[j] += x * row[j]
