"""Ranks against counting."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plusultra_core.regimes import kernels

Array = np.ndarray[Any, Any]


def both(kernel: Callable[..., Array], *args: object) -> Array:
    """The result of the compiled kernel, which must be that of its Python source."""
    found = kernel(*args)
    np.testing.assert_array_equal(found, getattr(kernel, "py_func", kernel)(*args))
    return found


def rank(value: float, others: Array) -> float:
    return float(((others < value).sum() + 0.5 * (others == value).sum()) / others.size)


@pytest.mark.parametrize("window", [6, 1000])
def test_trailing_rank_counts_the_window(window: int) -> None:
    rng = np.random.default_rng(0)
    x = np.round(rng.standard_normal(80), 1)
    x[rng.random(80) < 0.2] = np.nan
    starts = np.array([0, 30, 31, 80])
    found = both(kernels.trailing_rank, x, starts, window, 4)
    for first, last in ((0, 30), (30, 31), (31, 80)):
        for i in range(first, last):
            part = x[max(first, i - window + 1) : i + 1]
            part = part[~np.isnan(part)]
            expected = math.nan if math.isnan(x[i]) or part.size < 4 else rank(x[i], part)
            np.testing.assert_equal(found[i], expected)
    assert np.isfinite(found).sum() > 20


def test_cross_rank_counts_the_values_of_one_time_that_are_known() -> None:
    rng = np.random.default_rng(1)
    times = rng.integers(0, 8, 60)
    known = times * 10 + rng.integers(0, 3, 60)
    x = np.round(rng.standard_normal(60), 1)
    x[rng.random(60) < 0.1] = np.nan
    order = np.argsort(times, kind="stable")
    starts = np.concatenate([[0], np.flatnonzero(np.diff(times[order])) + 1, [60]])
    found = both(kernels.cross_rank, x, known, order, starts, 3)
    for i in range(60):
        peers = x[(times == times[i]) & (known <= known[i]) & ~np.isnan(x)]
        expected = math.nan if math.isnan(x[i]) or peers.size < 3 else rank(x[i], peers)
        np.testing.assert_equal(found[i], expected)
    assert 10 < np.isfinite(found).sum() < 60
