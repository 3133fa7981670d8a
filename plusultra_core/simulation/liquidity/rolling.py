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
    num = rolling_sum(finite.astype(np.float64), num_bars)
    mean = rolling_sum(np.where(finite, values, 0.0), num_bars) / np.maximum(num, 1.0)
    return np.where(num >= least, mean, np.nan)


def rolling_sum(values: Float64Array, num_bars: int) -> Float64Array:
    """Sum of the last `num_bars` rows, fewer at the beginning; made of these rows alone. Shapes  (T, N).

    The difference of two running sums would remember for ever how large a row once was: after one volume of 1e25 every other is 0.
    Here a window is the end of one block of `num_bars` rows and the beginning of the next.
    Source  van Herk 1992, for maxima.
    """
    num_rows, num_columns = values.shape
    blocks = np.zeros((-(-num_rows // num_bars), num_bars, num_columns))
    blocks.reshape(-1, num_columns)[:num_rows] = values
    begun = np.cumsum(blocks, axis=1).reshape(-1, num_columns)[:num_rows]
    ended = np.cumsum(blocks[:, ::-1], axis=1)[:, ::-1].reshape(-1, num_columns)
    rows = np.arange(num_bars - 1, num_rows)
    rows = rows[(rows + 1) % num_bars != 0]
    begun[rows] += ended[rows - num_bars + 1]
    return begun
