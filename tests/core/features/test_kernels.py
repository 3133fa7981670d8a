"""Each kernel against a slow twin, compiled and not."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from plusultra_core.features import kernels, rows
from plusultra_core.features.kernels import BLOCK

WINDOW, NEED = 7, 5
STARTS = np.array([0, 40, 41, 41, 100], dtype=np.int64)


@pytest.fixture(scope="module")
def x() -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(1)
    values = 100.0 + rng.standard_normal(100)
    values[rng.random(100) < 0.15] = np.nan
    values[60:68] = 100.0
    return values


def windows(x: np.ndarray[Any, Any], of: Callable[[np.ndarray[Any, Any]], float], need: int = NEED) -> np.ndarray[Any, Any]:
    """`of` the values present in each window, NaN under `need` of them."""
    out = np.full(x.size, np.nan)
    for first, last in itertools.pairwise(STARTS):
        for i in range(first, last):
            part = x[max(first, i - WINDOW + 1) : i + 1]
            part = part[~np.isnan(part)]
            if part.size >= need:
                out[i] = of(part)
    return out


def both(kernel: Callable[..., Any], *args: object) -> np.ndarray[Any, Any]:
    """The result of the compiled kernel, which must be that of its Python source."""
    compiled, plain = kernel(*args), getattr(kernel, "py_func", kernel)(*args)
    np.testing.assert_allclose(np.asarray(compiled), np.asarray(plain), rtol=1e-12, atol=1e-12)
    return np.asarray(compiled)


def close_to(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    assert np.isfinite(found).any() and np.isnan(found).any()


def test_mean_and_deviation_of_a_window(x: np.ndarray[Any, Any]) -> None:
    mean, std = both(kernels.rolling_mean_std, x, STARTS, WINDOW, NEED)
    close_to(mean, windows(x, np.mean))
    close_to(std, windows(x, np.std))
    close_to(both(kernels.rolling_mean, x, STARTS, WINDOW, NEED), windows(x, np.mean))


def test_a_constant_window_has_no_deviation_at_all() -> None:
    values = np.concatenate([[3.0, 5.0, 1.0], np.full(20, 1e6 + 0.1)])
    _, std = kernels.rolling_mean_std(values, np.array([0, values.size]), WINDOW, NEED)
    assert (std[9:] == 0.0).all()


@pytest.mark.parametrize("stands", range(33, 49))
@pytest.mark.parametrize("level", [0.0, 97.3])
def test_of_what_has_left_the_window_no_residue_is_taken_for_movement(stands: int, level: float) -> None:
    noise = np.random.default_rng(stands).standard_normal(100)
    noise[stands:] = 0.0
    starts, still = np.array([0, 100]), slice(stands + WINDOW, None)
    values = level + noise
    squares = kernels.rolling_mean(noise * noise, starts, WINDOW, NEED)
    assert (squares[still] == 0.0).all() and (squares[WINDOW:stands] > 0.0).all()
    _, std = kernels.rolling_mean_std(values, starts, WINDOW, NEED)
    assert (std[still] == 0.0).all() and (std[WINDOW:stands] > 0.1).all()
    for unknown in (*kernels.rolling_shape(values, starts, WINDOW, NEED), kernels.rolling_slope(values, starts, WINDOW)[1]):
        assert np.isnan(unknown[still]).all() and np.isfinite(unknown[WINDOW:stands]).all()


def test_an_enormous_value_is_forgotten_once_the_sums_are_made_anew() -> None:
    values = np.random.default_rng(2).standard_normal(60)
    starts = np.array([0, 60])
    values_hit = values.copy()
    values_hit[10] = 1e18
    mean, std = kernels.rolling_mean_std(values, starts, WINDOW, NEED)
    mean_hit, std_hit = kernels.rolling_mean_std(values_hit, starts, WINDOW, NEED)
    np.testing.assert_allclose(mean_hit[2 * BLOCK :], mean[2 * BLOCK :], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(std_hit[2 * BLOCK :], std[2 * BLOCK :], rtol=1e-12)


def test_largest_value_and_mean_absolute_deviation(x: np.ndarray[Any, Any]) -> None:
    close_to(both(kernels.rolling_max, x, STARTS, WINDOW, NEED), windows(x, np.max))
    close_to(both(kernels.rolling_mean_abs_dev, x, STARTS, WINDOW, NEED), windows(x, lambda v: float(np.abs(v - v.mean()).mean())))


def test_skewness_and_kurtosis_are_missing_where_nothing_varies(x: np.ndarray[Any, Any]) -> None:
    def shape(power: int) -> Callable[[np.ndarray[Any, Any]], float]:
        return lambda v: float(np.mean((v - v.mean()) ** power) / v.std() ** power) if v.std() > 1e-9 else math.nan

    skew, kurtosis = both(kernels.rolling_shape, x, STARTS, WINDOW, NEED)
    close_to(skew, windows(x, shape(3)))
    close_to(kurtosis, windows(x, shape(4)) - 3.0)
    assert np.isnan(skew[67])


def test_slope_wants_every_value_and_fits_least_squares(x: np.ndarray[Any, Any]) -> None:
    slope, corr = both(kernels.rolling_slope, x, STARTS, WINDOW)
    close_to(slope, windows(x, lambda v: float(np.polyfit(np.arange(WINDOW), v, 1)[0]), need=WINDOW))
    time = np.arange(WINDOW)
    close_to(corr, windows(x, lambda v: float(np.corrcoef(time, v)[0, 1]) if v.std() > 1e-9 else math.nan, need=WINDOW))


def test_shift_stays_within_the_symbol(x: np.ndarray[Any, Any]) -> None:
    shifted = both(kernels.shift, x, STARTS, 3)
    for first, last in itertools.pairwise(STARTS):
        np.testing.assert_array_equal(shifted[first:last], pd.Series(x[first:last]).shift(3))


def test_band_energy_is_that_of_the_fourier_transform(x: np.ndarray[Any, Any]) -> None:
    window, low_bins, high_bin = 8, 1, 3
    low, high, entropy = both(kernels.band_energy, x, STARTS, window, low_bins, high_bin)
    seen = 0
    for first, last in itertools.pairwise(STARTS):
        for i in range(first, last):
            part = x[i - window + 1 : i + 1]
            if i - first < window - 1 or np.isnan(part).any() or part.std() == 0:
                assert np.isnan(low[i]) or part.std() == 0
                continue
            energy = np.abs(np.fft.rfft(part)[1:]) ** 2
            share = energy / energy.sum()
            np.testing.assert_allclose((low[i], high[i]), (share[:low_bins].sum(), share[high_bin - 1 :].sum()), rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(entropy[i], -(share * np.log(share + 1e-300)).sum() / np.log(window // 2), rtol=1e-6, atol=1e-9)
            seen += 1
    assert seen > 10


def test_order_entropy_counts_the_orders_of_three(x: np.ndarray[Any, Any]) -> None:
    values = np.round(x, 1)
    found = both(kernels.order_entropy, values, STARTS, WINDOW, 3)
    for first, last in itertools.pairwise(STARTS):
        for i in range(first, last):
            triples = [values[j - 2 : j + 1] for j in range(max(first + 2, i - WINDOW + 1), i + 1)]
            orders = [tuple(np.argsort(t, kind="stable")) for t in triples if not np.isnan(t).any()]
            share = np.unique(np.array(orders).reshape(-1, 3), axis=0, return_counts=True)[1] / max(1, len(orders))
            expected = -(share * np.log(share)).sum() / np.log(6) if len(orders) >= 3 else math.nan
            np.testing.assert_allclose(found[i], expected, atol=1e-12)
    assert np.isfinite(found).sum() > 20


def test_no_window_crosses_from_one_symbol_to_the_next(x: np.ndarray[Any, Any]) -> None:
    other = x.copy()
    other[:41] = np.random.default_rng(9).standard_normal(41) * 1e3
    for kernel, args in (
        (kernels.rolling_mean_std, (WINDOW, NEED)),
        (kernels.rolling_mean, (WINDOW, NEED)),
        (kernels.rolling_max, (WINDOW, NEED)),
        (kernels.rolling_mean_abs_dev, (WINDOW, NEED)),
        (kernels.rolling_shape, (WINDOW, NEED)),
        (kernels.rolling_slope, (WINDOW,)),
        (kernels.band_energy, (8, 1, 3)),
        (kernels.order_entropy, (WINDOW, 3)),
        (kernels.shift, (2,)),
    ):
        one, two = np.asarray(kernel(x, STARTS, *args)), np.asarray(kernel(other, STARTS, *args))
        np.testing.assert_array_equal(one[..., 41:], two[..., 41:], err_msg=str(kernel))


def test_quotient_and_logarithm_of_nothing_are_missing() -> None:
    np.testing.assert_array_equal(kernels.ratio(np.ones(3), np.array([2.0, 0.0, -1.0])), [0.5, np.nan, np.nan])
    np.testing.assert_array_equal(kernels.log(np.array([1.0, 0.0, np.nan])), [0.0, np.nan, np.nan])


def test_a_build_that_begins_at_a_block_says_the_same_to_the_last_bit() -> None:
    rng = np.random.default_rng(5)
    values = 100.0 + np.cumsum(rng.standard_normal(200))
    values[rng.random(200) < 0.02] = np.nan
    begin, window = 4 * BLOCK, 9
    whole, part = np.array([0, 200]), np.array([0, 200 - begin])
    for kernel, args in (
        (kernels.rolling_mean_std, (window, NEED)),
        (kernels.rolling_mean, (window, NEED)),
        (kernels.rolling_max, (window, NEED)),
        (kernels.rolling_mean_abs_dev, (window, NEED)),
        (kernels.rolling_shape, (window, NEED)),
        (kernels.rolling_slope, (window,)),
        (kernels.band_energy, (8, 1, 3)),
        (kernels.order_entropy, (window, 3)),
    ):
        one = np.asarray(kernel(values, whole, *args))[..., begin + window + BLOCK :]
        two = np.asarray(kernel(values[begin:], part, *args))[..., window + BLOCK :]
        np.testing.assert_array_equal(one, two, err_msg=str(kernel))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_new_values_are_kept_in_a_row_and_none_that_is_not_finite(dtype: type[np.floating[Any]]) -> None:
    value = np.array([1.0, 2.0, math.inf, 4.0, 1e300, 0.1, 7.0])
    starts, num_done = np.array([0, 3, 3, 7]), np.array([1, 0, 1])
    for kernel in (rows.store, getattr(rows.store, "py_func", rows.store)):
        out: np.ndarray[Any, Any] = np.zeros(5, dtype=dtype)
        with np.errstate(over="ignore"):
            kernel(value, starts, num_done, out)
        large = 1e300 if dtype is np.float64 else math.nan
        np.testing.assert_array_equal(out, np.array([2.0, math.nan, large, 0.1, 7.0]).astype(dtype))


def test_quotients_and_logarithms_are_of_what_is_above_zero() -> None:
    x = np.array([-1.0, 0.0, math.nan, 2.0, math.inf])
    close = np.array([math.nan, math.nan, math.nan, 0.5, 0.0])
    np.testing.assert_array_equal(both(kernels.ratio, np.ones(5), x), close)
    np.testing.assert_array_equal(kernels.log(x), [math.nan, math.nan, math.nan, math.log(2.0), math.inf])
    np.testing.assert_array_equal(both(kernels.above_zero, x)[3:], x[3:])
