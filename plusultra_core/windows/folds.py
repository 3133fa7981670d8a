"""Walk-forward folds by date: expanding train, then valid, then test, with purge and embargo between them.

An anchor at grid time t reads inputs from t - lookback + 1 and its label is known at label_end(t). The intervals
[first input, label end] of train, valid and test of a fold never meet, and `embargo_bars` more lie between them.
Source  Lopez de Prado 2018, Advances in Financial Machine Learning, chapters 7 and 12.
"""

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from plusultra_core.arrays import BoolArray, Int32Array, Int64Array
from plusultra_core.errors import ConfigError

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldsConfig:
    """How the grid is cut. Shares are of the usable grid: from the first anchor to the newest bar."""

    num_folds: int
    """Refits of the walk-forward; each has its own test span, and the test spans follow each other to the newest bar."""
    test_frac: float
    """Share that all test spans cover together."""
    valid_frac: float
    """Share that each validation span covers."""
    embargo_bars: int
    """Bars left out between label end of one span and first input of the next, beyond the purge."""
    min_train_bars: int
    """Least length of the first train span, in grid bars."""

    def __post_init__(self) -> None:
        if self.num_folds < 1 or self.embargo_bars < 0 or self.min_train_bars < 1:
            raise ConfigError("folds: expected num_folds >= 1, embargo_bars >= 0, min_train_bars >= 1")
        if self.test_frac <= 0 or self.valid_frac <= 0 or self.test_frac + self.valid_frac >= 1:
            raise ConfigError(f"folds: expected test_frac, valid_frac > 0 with sum < 1, found {self.test_frac}, {self.valid_frac}")


class FoldSpans(NamedTuple):
    """Half-open ranges of anchor times."""

    train: Span
    valid: Span
    test: Span


def build_folds(anchor_NT: BoolArray, label_end_NTK: Int32Array, lookback: int, cfg: FoldsConfig) -> tuple[FoldSpans, ...]:
    """Spans of every fold, oldest first. The newest test span reaches the newest bar, labelled or not.

    Shapes  anchor (N, T); label_end (N, T, K), grid index or -1.
    Raises  ConfigError saying how many bars are needed and how many were found.
    """
    num_times = anchor_NT.shape[1]
    anchored_T: BoolArray = np.any(anchor_NT, axis=0)
    start = int(np.argmax(anchored_T)) if anchored_T.any() else num_times
    end_T = resolve_label_end(anchor_NT, label_end_NTK)
    num_bars = num_times - start
    num_test, num_valid = _lengths(num_bars, cfg)
    folds = []
    for i in range(cfg.num_folds):
        test_start = num_times - (cfg.num_folds - i) * num_test
        valid_end = _purged_end(end_T, test_start - lookback + 1 - cfg.embargo_bars)
        valid_start = valid_end - num_valid
        train_end = _purged_end(end_T, valid_start - lookback + 1 - cfg.embargo_bars)
        folds.append(FoldSpans((start, train_end), (valid_start, valid_end), (test_start, test_start + num_test)))
    if num_test < 1 or folds[0].train[1] - start < cfg.min_train_bars:
        span = int(np.max(end_T - np.arange(num_times), initial=0))
        needed = _needed(lookback, span, cfg)
        raise ConfigError(
            f"windows.folds: expected at least {needed} usable bars for {cfg.num_folds} folds with lookback {lookback}, "
            f"labels of {span} bars and {cfg.min_train_bars} train bars, found {num_bars}; use a smaller profile or a longer dump"
        )
    for i, fold in enumerate(folds):
        for name, (first, last) in fold._asdict().items():
            if not anchored_T[first:last].any():
                raise ConfigError(f"windows.folds[{i}].{name}: no usable window in grid bars {first} to {last}; the dump has a hole there")
    return tuple(folds)


def resolve_label_end(anchor_NT: BoolArray, label_end_NTK: Int32Array) -> Int64Array:
    """Grid index by which every label of anchors at t is known: the latest over assets and horizons, t itself where none is.

    Shapes  (N, T), (N, T, K); result (T,).
    """
    num_times = anchor_NT.shape[1]
    end_NT = np.where(anchor_NT, label_end_NTK.max(axis=2, initial=-1), -1)
    end_T: Int64Array = np.maximum(end_NT.max(axis=0, initial=-1), np.arange(num_times)).astype(np.int64)
    return end_T


def _purged_end(end_T: Int64Array, limit: int) -> int:
    """First anchor time at which a label so far reaches `limit` or beyond: the span before it is purged."""
    return int(np.searchsorted(np.maximum.accumulate(end_T), limit, side="left")) if limit > 0 else 0


def _needed(lookback: int, label_bars: int, cfg: FoldsConfig) -> int:
    """Least number of usable bars with which every span has its length, if every label takes `label_bars`."""
    gap = lookback - 1 + label_bars + cfg.embargo_bars
    for num_bars in itertools.count(1):
        num_test, num_valid = _lengths(num_bars, cfg)
        if num_test >= 1 and num_bars - cfg.num_folds * num_test - num_valid - 2 * gap >= cfg.min_train_bars:
            break
    return num_bars


def _lengths(num_bars: int, cfg: FoldsConfig) -> tuple[int, int]:
    """Bars of one test span and of one validation span."""
    return math.floor(cfg.test_frac * num_bars / cfg.num_folds), max(1, round(cfg.valid_frac * num_bars))
