"""Rows carried and averaged along time, column by column; every row is made of rows at or before it."""

import numpy as np

from plusultra_core.arrays import BoolArray, Float64Array


def carry(values: Float64Array) -> tuple[Float64Array, BoolArray]:
    """The last finite value at or before each row, and whether there is one. Shapes  (T, N)."""
    rows = np.arange(values.shape[0])[:, None]
    last = np.maximum.accumulate(np.where(np.isfinite(values), rows, -1), axis=0)
    carried = np.take_along_axis(values, np.maximum(last, 0), axis=0)
    return np.where(last >= 0, carried, np.nan), last >= 0


def before(values: Float64Array) -> Float64Array:
    """The last finite value before each row; NaN where there is none. Shapes  (T, N)."""
    carried, _ = carry(values)
    return np.concatenate((np.full((1, values.shape[1]), np.nan), carried[:-1]))


def rolling_mean(values: Float64Array, num_bars: int, least: int = 1) -> Float64Array:
    """Mean of the finite values among the last `num_bars` rows; NaN where there are fewer than `least`. Shapes  (T, N)."""
    finite = np.isfinite(values)
    zero = np.zeros((1, values.shape[1]))
    total = np.concatenate((zero, np.cumsum(np.where(finite, values, 0.0), axis=0)))
    count = np.concatenate((zero, np.cumsum(finite, axis=0, dtype=np.float64)))
    start = np.maximum(np.arange(values.shape[0]) + 1 - num_bars, 0)
    num = count[1:] - count[start]
    mean = (total[1:] - total[start]) / np.maximum(num, 1.0)
    return np.where(num >= least, mean, np.nan)
