"""Judges of what learns: do its samples keep apart in time, and does it know targets that it never saw?"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.errors import ConfigError, ContractError, LookaheadError


class Intervals(NamedTuple):
    """Closed intervals [first input, label end] of samples, UTC nanoseconds (or grid indices), each (N,)."""

    start: Int64Array
    end: Int64Array


class NullReport(NamedTuple):
    """Pooled information coefficient and its standard error under the null."""

    ic: float
    se: float


def check_overlap(spans: Mapping[str, Intervals]) -> int:
    """Samples of different spans (train, valid, test) never share a moment. Returns how many samples were looked at.

    Raises  LookaheadError naming both spans and the two intervals; ContractError where an interval ends before it starts.
    """
    names = sorted(spans)
    for name in names:
        start, end = spans[name]
        if start.shape != end.shape or bool((end < start).any()):
            raise ContractError(f"{name}: expected intervals that end after they start, one end a start; build them again")
    for i, left in enumerate(names):
        for right in names[i + 1 :]:
            _check_pair(left, spans[left], right, spans[right])
    return sum(spans[name].start.size for name in names)


def null_ic(prediction_TN: Float64Array, target_TN: Float64Array, num_shifts: int, seed: int) -> NullReport:
    """Pooled information coefficient, and its spread when the targets are turned round in time.

    Turning (a circular shift of all assets together) keeps overlap of horizons and correlation between assets, so the
    standard error is right where 1 / sqrt(n) is far too small.

    Shapes  (T, N); result two numbers.
    NaN     a cell with NaN on either side is left out.
    """
    num_times = prediction_TN.shape[0]
    if prediction_TN.shape != target_TN.shape or num_times < 20 or num_shifts < 10:
        raise ConfigError(
            f"null_ic: expected two (T, N) arrays of 20 times and 10 shifts at least, found {prediction_TN.shape}, {num_shifts}"
        )
    shifts = np.random.default_rng(seed).integers(num_times // 10 + 1, num_times - num_times // 10, num_shifts)
    turned = [_pooled_ic(prediction_TN, np.roll(target_TN, int(shift), axis=0)) for shift in shifts]
    return NullReport(ic=_pooled_ic(prediction_TN, target_TN), se=float(np.std(turned)))


def check_shuffled_null(prediction_TN: Float64Array, target_TN: Float64Array, num_shifts: int, seed: int, num_se: float) -> NullReport:
    """Predictions of a model trained on shuffled targets know nothing: their pooled IC lies within `num_se` standard errors of 0.

    Give the out-of-sample predictions of a model fitted to shuffled targets, and the shuffled targets it never saw.

    Raises  LookaheadError when it does not: the model has seen what it is judged by.
    """
    report = null_ic(prediction_TN, target_TN, num_shifts, seed)
    if not abs(report.ic) <= num_se * report.se:
        raise LookaheadError(
            f"shuffled null: expected an IC within {num_se:g} standard errors ({num_se * report.se:.4f}) of 0, found {report.ic:.4f}; "
            "the model has seen these targets: look at splits, scalers and feature selection"
        )
    return report


def _check_pair(left: str, a: Intervals, right: str, b: Intervals) -> None:
    """Sort the right by start; of those that start by the end of a left one, the latest end must lie before its start."""
    if not a.start.size or not b.start.size:
        return
    order = np.argsort(b.start, kind="stable")
    latest = np.maximum.accumulate(b.end[order])
    count = np.searchsorted(b.start[order], a.end, side="right")
    meets = (count > 0) & (latest[np.maximum(count - 1, 0)] >= a.start)
    if meets.any():
        i = int(np.argmax(meets))
        j = int(order[np.argmax(b.end[order][: count[i]] >= a.start[i])])
        raise LookaheadError(
            f"{left} and {right}: {int(meets.sum())} samples overlap, the first [{a.start[i]}, {a.end[i]}] meets "
            f"[{b.start[j]}, {b.end[j]}]; allowed 0; widen the purge"
        )


def _pooled_ic(prediction_TN: Float64Array, target_TN: Float64Array) -> float:
    sure = np.isfinite(prediction_TN) & np.isfinite(target_TN)
    a, b = prediction_TN[sure], target_TN[sure]
    if a.size < 2 or a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
