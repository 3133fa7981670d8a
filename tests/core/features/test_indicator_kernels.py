"""Kernels of single indicators against slow twins, compiled and not."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plusultra_core.features import indicators

Array = np.ndarray[Any, Any]
WINDOW, NEED = 7, 5
STARTS = np.array([0, 40, 41, 41, 100], dtype=np.int64)
FIRST = np.isin(np.arange(100), STARTS[:-1])


@pytest.fixture(scope="module")
def bars() -> dict[str, Array]:
    """Three symbols with holes, a bar without range and a price that stands."""
    rng = np.random.default_rng(3)
    close = 50.0 + np.cumsum(rng.standard_normal(100))
    high, low = close + rng.exponential(1.0, 100), close - rng.exponential(1.0, 100)
    high[20] = low[20] = close[20]
    close[71] = close[70]
    high[71], low[71] = high[70], low[70]
    volume = rng.exponential(100.0, 100)
    volume[rng.random(100) < 0.1] = np.nan
    missing = rng.random(100) < 0.1
    high[missing] = low[missing] = np.nan
    return {"high": high, "low": low, "close": close, "volume": volume}


def both(kernel: Callable[..., Any], *args: object) -> Any:
    """The result of the compiled kernel, which must be that of its Python source."""
    compiled, plain = kernel(*args), getattr(kernel, "py_func", kernel)(*args)
    for one, two in zip(compiled, plain, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-12)
    return compiled


def before(x: Array) -> Array:
    return np.where(FIRST, np.nan, np.concatenate([[np.nan], x[:-1]]))


def test_true_range_and_what_of_it_lies_below_the_close(bars: dict[str, Array]) -> None:
    high, low, close = bars["high"], bars["low"], bars["close"]
    spread, bought = both(indicators.ranges, high, low, close, STARTS)
    known = ~np.isnan(high)
    top, bottom = np.fmax(high, before(close)), np.fmin(low, before(close))
    np.testing.assert_allclose(spread, np.where(known, top - bottom, np.nan))
    np.testing.assert_allclose(bought, np.where(known, close - bottom, np.nan))
    assert (bought[known] <= spread[known] + 1e-12).all() and known.sum() > 50


def test_only_the_larger_of_two_moves_is_directional(bars: dict[str, Array]) -> None:
    plus, minus = both(indicators.directional_moves, bars["high"], bars["low"], STARTS)
    rise, fall = bars["high"] - before(bars["high"]), before(bars["low"]) - bars["low"]
    np.testing.assert_allclose(plus, np.where(np.isnan(rise + fall), np.nan, np.where((rise > fall) & (rise > 0), rise, 0.0)))
    np.testing.assert_allclose(minus, np.where(np.isnan(rise + fall), np.nan, np.where((fall > rise) & (fall > 0), fall, 0.0)))
    assert np.isnan(plus[STARTS[:3]]).all() and np.nanmin(np.minimum(plus, minus)) == 0.0 == np.nanmax(np.minimum(plus, minus))


@pytest.mark.parametrize("window", [1, 2, 7, 60])
def test_bars_since_the_largest_are_counted_to_the_newest_of_equals(window: int) -> None:
    rng = np.random.default_rng(4)
    x = np.where(rng.random(100) < 0.2, np.nan, rng.integers(0, 6, 100).astype(float))
    need = max(1, window // 2)
    found = both(indicators.bars_since_max, x, STARTS, window, need)
    expected = np.full(100, np.nan)
    for first, last in itertools.pairwise(STARTS.tolist()):
        for i in range(first, last):
            part = x[max(first, i - window + 1) : i + 1][::-1]
            if (~np.isnan(part)).sum() >= need:
                expected[i] = np.nanargmax(part)
    np.testing.assert_array_equal(found, expected)


def test_the_place_of_the_close_weighs_the_volume(bars: dict[str, Array]) -> None:
    high, low, close, volume = (bars[name] for name in ("high", "low", "close", "volume"))
    flow, weight = both(indicators.accumulation, high, low, close, volume)
    with np.errstate(invalid="ignore"):
        place = np.where(high == low, 0.0, (2 * close - high - low) / (high - low))
    np.testing.assert_allclose(flow, place * volume)
    np.testing.assert_allclose(weight, np.where(np.isnan(place * volume), np.nan, volume))
    assert flow[20] == 0.0 and weight[20] == volume[20]


def test_money_flows_with_the_sign_of_the_change(bars: dict[str, Array]) -> None:
    typical, volume = bars["close"], bars["volume"]
    signed, size = both(indicators.money_flow, typical, volume, STARTS)
    np.testing.assert_allclose(signed, np.sign(typical - before(typical)) * typical * volume)
    np.testing.assert_allclose(size, np.abs(signed))
    assert np.isnan(volume[71]) or signed[71] == 0.0


def test_a_pure_spread_is_found_and_a_gap_is_none_of_it() -> None:
    # Every bar is bid to ask, 2 % apart around a middle that stands: the range of two bars is that of one.
    half = 0.01
    high, low, close = np.full(6, half), np.full(6, -half), np.tile([half, -half], 3)
    starts = np.array([0, 6])
    np.testing.assert_allclose(both(indicators.corwin_schultz, high, low, close, starts)[1:], 2.0 * math.tanh(half), rtol=1e-9)
    jump = np.where(np.arange(6) >= 4, 0.5, 0.0)  # the middle moves between two bars, the first of which closed at its low
    found = indicators.corwin_schultz(high + jump, low + jump, close + jump, starts)
    assert np.isnan(found[0]) and found[4] == pytest.approx(2.0 * math.tanh(half), rel=1e-9)


def test_a_range_that_grows_like_a_walk_has_no_spread() -> None:
    starts = np.array([0, 2])
    high, low, close = np.array([0.01, 0.03]), np.array([-0.01, 0.01]), np.array([0.01, 0.02])  # together twice as wide as each
    assert indicators.corwin_schultz(high, low, close, starts)[1] == 0.0


def test_entropy_of_levels() -> None:
    rng = np.random.default_rng(5)
    x = np.where(rng.random(100) < 0.1, np.nan, rng.standard_normal(100))
    found = both(indicators.level_entropy, x, STARTS, WINDOW, NEED)
    expected = np.full(100, np.nan)
    for first, last in itertools.pairwise(STARTS.tolist()):
        for i in range(first, last):
            part = x[max(first, i - WINDOW + 1) : i + 1]
            part = part[~np.isnan(part)]
            if part.size >= NEED:
                share = np.histogram(part, [-np.inf, -1.5, -0.5, 0.5, 1.5, np.inf])[0] / part.size
                expected[i] = -sum(p * math.log(p) for p in share if p > 0) / math.log(5)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    still = indicators.level_entropy(np.zeros(20), np.array([0, 20]), WINDOW, NEED)
    np.testing.assert_allclose(still[NEED:], 0.0, atol=1e-12)


def test_each_row_finds_its_time() -> None:
    times = np.array([3, 5, 8, 13, 21], dtype=np.int64)
    ts_ns = np.array([3, 8, 21, 5, 3, 5, 8, 13, 21], dtype=np.int64)
    starts = np.array([0, 3, 4, 4, 9], dtype=np.int64)
    np.testing.assert_array_equal(times[both(indicators.place_of_times, ts_ns, starts, times)], ts_ns)


def test_the_parts_of_dates_before_and_after_1970() -> None:
    days = np.array(
        ["1904-02-29", "1969-12-31", "1970-01-01", "2000-02-29", "2023-12-31", "2024-12-31", "2100-02-28"], dtype="datetime64[D]"
    )
    wall_ns = days.astype("datetime64[ns]").astype(np.int64) + 90 * 60_000_000_000
    weekday, minute, yearday, to_come = both(indicators.calendar_parts, wall_ns)
    assert weekday.tolist() == [0, 2, 3, 1, 6, 1, 6] and set(minute.tolist()) == {90}
    assert yearday.tolist() == [59, 364, 0, 59, 364, 365, 58]
    np.testing.assert_allclose(to_come, [0.0, 0.0, 30 / 31, 0.0, 0.0, 0.0, 0.0])
