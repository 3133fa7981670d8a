"""Ranks against counting."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plusultra_core.regimes import kernels

Array = np.ndarray[Any, Any]


def both(kernel: Callable[..., Array], *args: object) -> Array:
    """The result of the compiled kernel, which must be that of its Python source."""
    found = kernel(*args)
    np.testing.assert_array_equal(found, getattr(kernel, "py_func", kernel)(*args))
    return found


def slow_rank(x: Array, starts: Array, window: int, min_count: int) -> Array:
    """Counting in every window, as the kernel once did."""
    out = np.full(x.size, np.nan)
    for first, last in itertools.pairwise(starts):
        for i in range(first, last):
            part = x[max(first, i - window + 1) : i + 1]
            part = part[~np.isnan(part)]
            if not math.isnan(x[i]) and part.size >= min_count:
                out[i] = rank(x[i], part)
    return out


def rank(value: float, others: Array) -> float:
    return float(((others < value).sum() + 0.5 * (others == value).sum()) / others.size)


@pytest.mark.parametrize("window", [4, 6, 1000])
def test_trailing_rank_counts_the_window(window: int) -> None:
    rng = np.random.default_rng(0)
    x = np.round(rng.standard_normal(80), 1)
    x[rng.random(80) < 0.2] = np.nan
    starts = np.array([0, 30, 31, 80])
    found = both(kernels.trailing_rank, x, starts, window, 4)
    np.testing.assert_array_equal(found, slow_rank(x, starts, window, 4))
    assert np.isfinite(found).sum() > 20


@given(seed=st.integers(0, 10_000), digits=st.sampled_from([0, 1, 9]), window=st.sampled_from([3, 25, 10_000]))
@settings(max_examples=25, deadline=None)
def test_a_tree_of_counts_says_what_counting_says(seed: int, digits: int, window: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.round(np.cumsum(rng.standard_normal(200)), digits)
    x[rng.random(200) < 0.2] = np.nan
    starts = np.unique(np.r_[0, rng.integers(0, 200, 2), 200])
    np.testing.assert_array_equal(kernels.trailing_rank(x, starts, window, 3), slow_rank(x, starts, window, 3))


def test_by_time_sorts_rows_by_time_and_turn() -> None:
    rng = np.random.default_rng(2)
    parts = [np.flatnonzero(rng.random(40) > 0.3) * 7 for _ in range(5)]
    ts_ns, starts = np.concatenate(parts), np.cumsum([0, *(part.size for part in parts)])
    turn = np.array([3, 1, 4, 0, 2])
    place = np.repeat(np.argsort(turn), np.diff(starts))
    order, borders = kernels.by_time(ts_ns, np.unique(ts_ns), starts, turn)
    np.testing.assert_array_equal(order, np.lexsort((place, ts_ns)))
    np.testing.assert_array_equal(borders, np.r_[0, np.flatnonzero(np.diff(ts_ns[order])) + 1, ts_ns.size])
    plain = getattr(kernels.by_time, "py_func", kernels.by_time)(ts_ns, np.unique(ts_ns), starts, turn)
    np.testing.assert_array_equal(order, plain[0])


@pytest.mark.parametrize("late", [False, True])
def test_cross_rank_counts_the_values_of_one_time_that_are_known(late: bool) -> None:
    rng = np.random.default_rng(1)
    times = rng.integers(0, 8, 60)
    known = times * 10 + (rng.integers(0, 3, 60) if late else 0)
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


def test_trend_strength_is_the_mean_over_its_standard_error() -> None:
    price = np.cumsum(np.random.default_rng(3).standard_normal(50)) * 0.01
    starts = np.array([0, 20, 50])
    found = both(kernels.trend_strength, price, starts, 0.1, 5)
    for first, last in ((0, 20), (20, 50)):
        ret = np.diff(price[first:last])
        assert np.isnan(found[first : first + 5]).all()
        for i in range(5, last - first):
            weight = 0.9 ** np.arange(i)[::-1]
            mean, square = np.average(ret[:i], weights=weight), np.average(ret[:i] ** 2, weights=weight)
            assert found[first + i] == pytest.approx(mean / np.sqrt(square * (weight**2).sum() / weight.sum() ** 2), rel=1e-10)
    assert (both(kernels.trend_strength, np.zeros(50), starts, 0.1, 5)[10:20] == 0).all()


def test_a_trend_lasts_until_its_strength_falls_back_within_the_inner_band() -> None:
    strength = np.array([math.nan, 0.0, 1.4, 1.5, 0.6, 0.5, 0.4, 1.0, -1.5, -0.5, -0.4, -2.0, 1.6, 1.0])
    found = both(kernels.hysteresis, np.tile(strength, 2), np.array([0, 14, 28]), 1.5, 0.5)
    assert found.tolist() == [0, 2, 2, 3, 3, 3, 2, 2, 1, 1, 2, 1, 3, 3] * 2
