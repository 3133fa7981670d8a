"""Counter-based randomness: a number is a hash of its names, so it depends on no order of drawing."""

import numpy as np
from numba import njit

from plusultra_core.arrays import Float64Array, Int64Array

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MUL1 = np.uint64(0xBF58476D1CE4E5B9)
_MUL2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)


@njit(cache=True, error_model="numpy")
def mix(x: np.uint64) -> np.uint64:
    """Finaliser of splitmix64.

    Source  Steele, Lea, Flood 2014, section 4.
    """
    x = (x ^ (x >> _S30)) * _MUL1
    x = (x ^ (x >> _S27)) * _MUL2
    return x ^ (x >> _S31)


@njit(cache=True, error_model="numpy")
def draw_uniform(seed: int, stream: int, asset: int, t: int) -> float:
    """A number in [0, 1) that depends on nothing but its four names, each >= 0."""
    key = mix(np.uint64(seed) + _GAMMA)
    key = mix((key ^ np.uint64(stream)) + _GAMMA)
    key = mix((key ^ np.uint64(asset)) + _GAMMA)
    key = mix((key ^ np.uint64(t)) + _GAMMA)
    return np.float64(key >> _S11) * (1.0 / 9007199254740992.0)


@njit(cache=True, error_model="numpy")
def draw_latencies(
    seed: int,
    stream_E: Int64Array,
    asset_EA: Int64Array,
    t_E: Int64Array,
    latency_ns_L: Int64Array,
    cumulative_L: Float64Array,
    latency_EA: Int64Array,
) -> None:
    """Latency of an order that account e would send in slot a on bar t_E[e], written into latency_EA.

    Shapes  stream, t (E,); asset, latency (E, A); buckets (L,).
    Units   ns; cumulative_L holds the cumulative probabilities of the buckets.
    """
    last = latency_ns_L.size - 1
    for e in range(t_E.size):
        for a in range(asset_EA.shape[1]):
            u = draw_uniform(seed, stream_E[e], asset_EA[e, a], t_E[e])
            bucket = 0
            while bucket < last and u >= cumulative_L[bucket]:
                bucket += 1
            latency_EA[e, a] = latency_ns_L[bucket]
