"""Kernels of single indicators, over symbols laid end to end as in kernels.py.

A window kernel reads rows i - window + 1 to i; `follow` alone carries a state, and features call it through BarArrays.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from plusultra_core.arrays import Float64Array, Int64Array

if TYPE_CHECKING:
    F = TypeVar("F", bound=Callable[..., object])

    def njit(*, cache: bool) -> Callable[[F], F]:
        """numba.njit, as a type checker should see it."""
else:
    from numba import njit


@njit(cache=True)
def follow(x: Float64Array, step: Float64Array, starts: Int64Array) -> Float64Array:
    """y + step (x - y) from row to row, from the first row that has both; a missing value leaves y as it is.

    Looks   back over all the past of the symbol; the state is y alone.
    NaN     before that first row.
    """
    out = np.full(x.size, np.nan)
    for s in range(starts.size - 1):
        y = np.nan
        for i in range(starts[s], starts[s + 1]):
            if not (math.isnan(x[i]) or math.isnan(step[i])):
                y = x[i] if math.isnan(y) else y + step[i] * (x[i] - y)
            out[i] = y
    return out
