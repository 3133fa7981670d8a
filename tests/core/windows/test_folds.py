"""Walk-forward folds: intervals never meet, time only moves forward."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plusultra_core.errors import ConfigError
from plusultra_core.windows.folds import FoldsConfig, FoldSpans, build_folds, resolve_label_end


def _world(seed: int, num_times: int, lookback: int, horizon: int, jitter: int) -> tuple[np.ndarray, np.ndarray]:
    """Anchors with holes, and labels that end horizon to horizon + jitter bars ahead, some missing."""
    rng = np.random.default_rng(seed)
    anchor = rng.random((3, num_times)) > 0.1
    anchor[:, : lookback - 1] = False
    end = np.arange(num_times)[None, :, None] + horizon + rng.integers(0, jitter + 1, (3, num_times, 2))
    end = np.where((end >= num_times) | (rng.random(end.shape) < 0.1), -1, end)
    return anchor, end.astype(np.int32)


def _interval(anchor: np.ndarray, end: np.ndarray, span: tuple[int, int], lookback: int) -> tuple[int, int]:
    """First input and last label end over the anchors of a span, by brute force over every anchor and horizon."""
    first, last = 10**9, -1
    for n in range(anchor.shape[0]):
        for t in range(*span):
            if anchor[n, t]:
                first = min(first, t - lookback + 1)
                last = max(last, t, *(int(value) for value in end[n, t]))
    return first, last


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_times=st.integers(120, 260),
    lookback=st.integers(2, 12),
    horizon=st.integers(1, 6),
    jitter=st.integers(0, 4),
    num_folds=st.integers(1, 4),
    embargo=st.integers(0, 5),
)
def test_intervals_of_train_valid_and_test_never_meet(seed, num_times, lookback, horizon, jitter, num_folds, embargo) -> None:
    anchor, end = _world(seed, num_times, lookback, horizon, jitter)
    cfg = FoldsConfig(num_folds=num_folds, test_frac=0.3, valid_frac=0.12, embargo_bars=embargo, min_train_bars=5)
    for fold in build_folds(anchor, end, lookback, cfg):
        train, valid, test = (_interval(anchor, end, span, lookback) for span in fold)
        assert train[1] + embargo < valid[0]
        assert valid[1] + embargo < test[0]


def test_train_expands_and_tests_follow_each_other_to_the_newest_bar() -> None:
    anchor, end = _world(1, 400, 8, 3, 0)
    folds = build_folds(anchor, end, 8, FoldsConfig(num_folds=4, test_frac=0.4, valid_frac=0.1, embargo_bars=2, min_train_bars=50))
    assert len({fold.train[0] for fold in folds}) == 1
    for before, after in itertools.pairwise(folds):
        assert before.train[1] < after.train[1]
        assert before.test[1] == after.test[0]
        assert before.train[1] <= before.valid[0] < before.valid[1] <= before.test[0]
    assert folds[-1].test[1] == 400


def test_a_fold_of_the_first_day_lies_inside_every_later_train_span() -> None:
    anchor, end = _world(2, 300, 8, 3, 2)
    folds = build_folds(anchor, end, 8, FoldsConfig(num_folds=3, test_frac=0.4, valid_frac=0.1, embargo_bars=0, min_train_bars=20))
    assert all(fold.train[0] <= folds[0].train[0] and folds[0].train[1] <= fold.train[1] for fold in folds)


def test_a_late_label_purges_the_anchors_before_it() -> None:
    anchor, end = np.ones((1, 200), np.bool_), np.full((1, 200, 1), -1, np.int32)
    anchor[:, :4] = False
    end[0, :199, 0] = np.arange(1, 200)
    cfg = FoldsConfig(num_folds=1, test_frac=0.3, valid_frac=0.1, embargo_bars=0, min_train_bars=10)
    plain = build_folds(anchor, end, 5, cfg)[0]
    end[0, plain.train[1] - 4, 0] = plain.valid[0]
    assert build_folds(anchor, end, 5, cfg)[0].train[1] == plain.train[1] - 4


def test_one_daily_symbol_of_127_bars_gives_two_folds() -> None:
    anchor = np.zeros((1, 127), np.bool_)
    anchor[:, 22:] = True
    end = np.where(np.arange(127) < 124, np.arange(127) + 3, -1)[None, :, None].astype(np.int32)
    folds = build_folds(anchor, end, 8, FoldsConfig(num_folds=2, test_frac=0.3, valid_frac=0.12, embargo_bars=1, min_train_bars=20))
    assert [fold.test for fold in folds] == [(97, 112), (112, 127)]
    assert folds[0].train[1] - folds[0].train[0] >= 20


def test_too_few_bars_are_refused_with_the_number_needed_and_found() -> None:
    cfg = FoldsConfig(num_folds=2, test_frac=0.3, valid_frac=0.12, embargo_bars=1, min_train_bars=20)
    found = None
    for num_times in range(20, 200):
        anchor, end = np.ones((1, num_times), np.bool_), np.full((1, num_times, 1), -1, np.int32)
        end[0, :-3, 0] = np.arange(3, num_times)
        try:
            build_folds(anchor, end, 8, cfg)
            break
        except ConfigError as error:
            found = str(error)
    assert found is not None
    needed = int(found.split("at least ")[1].split(" ")[0])
    assert f"found {num_times - 1}" in found
    assert needed == num_times


def test_a_hole_where_a_span_should_be_is_refused() -> None:
    anchor, end = _world(3, 300, 8, 3, 0)
    cfg = FoldsConfig(num_folds=2, test_frac=0.4, valid_frac=0.1, embargo_bars=0, min_train_bars=20)
    first, last = build_folds(anchor, end, 8, cfg)[0].test
    anchor[:, first:last] = False
    with pytest.raises(ConfigError, match=r"folds\[0\]\.test: no usable window"):
        build_folds(anchor, end, 8, cfg)


def test_label_end_is_the_latest_over_assets_and_horizons() -> None:
    anchor = np.array([[True, True, False], [True, False, False]])
    end = np.array([[[1, 2], [2, -1], [2, 2]], [[-1, -1], [2, 2], [-1, -1]]], np.int32)
    assert resolve_label_end(anchor, end).tolist() == [2, 2, 2]


@pytest.mark.parametrize("change", [{"num_folds": 0}, {"test_frac": 0.0}, {"test_frac": 0.9}, {"embargo_bars": -1}, {"min_train_bars": 0}])
def test_impossible_configs_are_refused(change: dict[str, float]) -> None:
    good = {"num_folds": 2, "test_frac": 0.3, "valid_frac": 0.12, "embargo_bars": 1, "min_train_bars": 20}
    with pytest.raises(ConfigError, match="folds: expected"):
        FoldsConfig(**{**good, **change})


def test_spans_are_named() -> None:
    assert FoldSpans._fields == ("train", "valid", "test")
