"""The scaler sees train inputs only."""

import numpy as np
import pytest
import torch

from plusultra_core.errors import LookaheadError
from plusultra_core.windows.scaling import apply_scale, check_scaler, fit_scaler, rows_of_windows


def test_centre_and_scale_are_those_of_a_normal_sample() -> None:
    rng = np.random.default_rng(0)
    x = (3 + 2 * rng.standard_normal((4, 20_000, 1))).astype(np.float32)
    center, scale = fit_scaler(x, np.ones((4, 20_000), np.bool_))
    assert abs(center[0] - 3) < 0.03
    assert abs(scale[0] - 2) < 0.03


def test_a_rare_column_is_scaled_by_its_standard_deviation() -> None:
    x = np.zeros((1, 1_000, 1), np.float32)
    x[0, :5, 0] = 1
    _, scale = fit_scaler(x, np.ones((1, 1_000), np.bool_))
    assert scale[0] == np.float32(x.std(dtype=np.float64))


def test_a_column_that_train_does_not_know_is_silent_ever_after() -> None:
    x = np.full((1, 200, 2), np.nan, np.float32)
    x[..., 0] = 7
    rows = np.zeros((1, 200), np.bool_)
    rows[:, :100] = True
    x[:, 100:] = 1_000
    center, scale = fit_scaler(x, rows)
    assert center.tolist() == [7, 0]
    assert np.isfinite(scale).all()
    assert np.abs(apply_scale(x, center, scale, 5.0)).max() < 1e-20


def test_rows_outside_the_train_windows_change_nothing() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 200, 4)).astype(np.float32)
    anchor = np.ones((3, 200), np.bool_)
    anchor[:, :7] = False
    rows = rows_of_windows(anchor, (7, 100), 8)
    before = fit_scaler(x, rows)
    x[:, 100:] = 1e6 * rng.standard_normal((3, 100, 4))
    after = fit_scaler(x, rows)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    x[:, 99] = 1e6
    assert not np.array_equal(fit_scaler(x, rows)[0], before[0])


def test_rows_of_windows_equal_a_loop_over_anchors() -> None:
    rng = np.random.default_rng(2)
    anchor = rng.random((3, 60)) > 0.7
    anchor[:, :4] = False
    slow = np.zeros_like(anchor)
    for n, t in zip(*np.nonzero(anchor), strict=True):
        if 10 <= t < 40:
            slow[n, t - 4 : t + 1] = True
    assert np.array_equal(rows_of_windows(anchor, (10, 40), 5), slow)


def test_the_scaler_of_the_train_rows_passes_and_one_fitted_on_anything_more_does_not() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((3, 90, 4)).astype(np.float32)
    anchor = rng.random((3, 90)) > 0.3
    anchor[:, :7], anchor[:, 60] = False, True
    check_scaler(x, anchor, (7, 60), 8, *fit_scaler(x, rows_of_windows(anchor, (7, 60), 8)))
    for rows in (np.ones_like(anchor), rows_of_windows(anchor, (7, 61), 8)):
        with pytest.raises(LookaheadError, match=r"of feature \d: expected .* from the train rows of bars 7 to 60, found"):
            check_scaler(x, anchor, (7, 60), 8, *fit_scaler(x, rows))
    center, scale = fit_scaler(x, rows_of_windows(anchor, (7, 60), 8))
    with pytest.raises(LookaheadError, match="scale of feature 2"):
        check_scaler(x, anchor, (7, 60), 8, center, scale * np.array([1, 1, 2, 1], np.float32))


def test_numpy_and_torch_scale_alike_and_missing_becomes_zero() -> None:
    x = np.array([[1.0, np.nan, 100.0], [-100.0, 2.0, 0.5]], np.float32)
    center, scale = np.array([0, 1, 0], np.float32), np.array([2, 1, 1], np.float32)
    expected = np.array([[0.5, 0, 5], [-5, 1, 0.5]], np.float32)
    assert np.array_equal(apply_scale(x, center, scale, 5.0), expected)
    scaled = apply_scale(torch.from_numpy(x), torch.from_numpy(center), torch.from_numpy(scale), 5.0)
    assert np.array_equal(scaled.numpy(), expected)


def test_windows_are_not_scaled_one_by_one() -> None:
    """The level of a window against the train span survives: a per-window z-score would remove it."""
    low, high = np.full((1, 8, 1), -1.0, np.float32), np.full((1, 8, 1), 1.0, np.float32)
    center, scale = np.zeros(1, np.float32), np.ones(1, np.float32)
    assert not np.array_equal(apply_scale(low, center, scale, 5.0), apply_scale(high, center, scale, 5.0))
