"""The scaler: robust centre and scale per feature, fitted on the inputs of train windows only."""

from typing import Any

import numpy as np

from plusultra_core.arrays import BoolArray, Float32Array
from plusultra_core.errors import LookaheadError

IQR_OF_NORMAL = 1.3489795003921634
"""Distance between the quartiles of a standard normal: scale = IQR / this is a standard deviation for normal data."""
SILENT = 1e30
"""Scale of a feature that the train span does not know: whatever comes later is divided to zero."""


def fit_scaler(x_NTF: Float32Array, row_NT: BoolArray) -> tuple[Float32Array, Float32Array]:
    """Median and normalised interquartile range of each feature over the rows of `row_NT`.

    A feature without range there is scaled by its standard deviation if it has one. One that is constant or missing
    there is silenced: nothing can be learned of it, and an untrained weight must not read it later.
    Shapes  x (N, T, F), rows (N, T); results (F,).
    NaN     is left out; the results are finite.
    """
    rows_RF = x_NTF[row_NT].astype(np.float64)
    num_features = x_NTF.shape[2]
    center_F = np.zeros(num_features)
    scale_F = np.full(num_features, SILENT)
    for f in range(num_features):
        column = rows_RF[:, f]
        column = column[np.isfinite(column)]
        if column.size == 0:
            continue
        low, center_F[f], high = np.quantile(column, (0.25, 0.5, 0.75))
        scale = (high - low) / IQR_OF_NORMAL
        floor = 1e-9 * max(1.0, abs(center_F[f]))
        if scale <= floor:
            scale = float(column.std())
        scale_F[f] = scale if scale > floor else SILENT
    return center_F.astype(np.float32), scale_F.astype(np.float32)


def rows_of_windows(anchor_NT: BoolArray, span: tuple[int, int], lookback: int) -> BoolArray:
    """Rows (asset, time) that lie in a window of `lookback` bars ending at an anchor inside the half-open span.

    Shapes  anchor (N, T); result (N, T).
    """
    num_assets, num_times = anchor_NT.shape
    inside_NT = np.zeros((num_assets, num_times), dtype=np.int64)
    inside_NT[:, span[0] : span[1]] = anchor_NT[:, span[0] : span[1]]
    count_NT = np.concatenate((np.zeros((num_assets, 1), np.int64), np.cumsum(inside_NT, axis=1)), axis=1)
    start_T = np.arange(num_times)
    rows_NT: BoolArray = count_NT[:, np.minimum(start_T + lookback, num_times)] > count_NT[:, start_T]
    return rows_NT


def check_scaler(
    x_NTF: Float32Array, anchor_NT: BoolArray, span: tuple[int, int], lookback: int, center_F: Float32Array, scale_F: Float32Array
) -> None:
    """The scaler is the one that the windows of the span give when nothing else is there to be seen.

    Raises  LookaheadError naming the first feature whose centre or scale is another.
    """
    start, end = span
    row_NT = np.zeros_like(anchor_NT[:, :end])
    for lag in range(lookback):  # the slow way of rows_of_windows, so that an error there shows
        row_NT[:, max(0, start - lag) : end - lag] |= anchor_NT[:, max(start, lag) : end]
    alone = fit_scaler(np.where(row_NT[..., None], x_NTF[:, :end], np.float32(np.nan)), row_NT)
    for name, expected_F, found_F in zip(("centre", "scale"), alone, (center_F, scale_F), strict=True):
        if not np.array_equal(expected_F, found_F):
            f = int(np.argmax(expected_F != found_F))
            raise LookaheadError(
                f"{name} of feature {f}: expected {expected_F[f]:.9g} from the train rows of bars {start} to {end}, "
                f"found {found_F[f]:.9g}; fit the scaler on train rows only"
            )


def apply_scale(x: Any, center_F: Any, scale_F: Any, clip: float) -> Any:
    """(x - centre) / scale, clipped to [-clip, clip], NaN to 0; for numpy arrays and torch tensors alike.

    Shapes  x (..., F); result the same, float32.
    """
    scaled = (x - center_F) / scale_F
    if isinstance(scaled, np.ndarray):
        return np.nan_to_num(np.clip(scaled, -clip, clip), nan=0.0).astype(np.float32, copy=False)
    return scaled.clamp(-clip, clip).nan_to_num(nan=0.0)
