"""Barriers and weights against walking through the bars one by one."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plusultra_core.targets import kernels
from plusultra_core.targets.kernels import Barriers

Array = np.ndarray[Any, Any]
STARTS = np.array([0, 60, 63, 63, 150], dtype=np.int64)


def both(kernel: Callable[..., Any], *args: object) -> tuple[Array, ...]:
    """The result of the compiled kernel, which must be that of its Python source."""
    found, plain = kernel(*args), getattr(kernel, "py_func", kernel)(*args)
    found, plain = (value if isinstance(value, tuple) else (value,) for value in (found, plain))
    for one, two in zip(found, plain, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-12)
    return tuple(found)


def slow_barrier(bars: Array, sigma: float, side: int, b: Barriers) -> tuple[int, float, int, bool] | None:
    """Label, gain, bars until the end, ambiguous; bars (horizon + 1, 4) of open, high, low, close, the first being the entry.

    A short is a long in a world where every price is turned into its inverse; None where the rule is to skip.
    """
    if side < 0:
        bars = 1.0 / bars[:, [0, 2, 1, 3]]
    entry = bars[0, 3]
    width = sigma * math.sqrt(b.horizon)
    gain, loss = b.profit * width + b.cost * sigma, b.stop * width - b.cost * sigma
    top, bottom = entry * math.exp(gain), entry * math.exp(-loss)
    for k in range(1, b.horizon + 1):
        open_, high, low, close = bars[k]
        touched_top = (close if np.isnan(high) else high) >= top
        touched_bottom = (close if np.isnan(low) else low) <= bottom
        if open_ >= top:
            return 1, math.log(open_ / entry), k, False
        if open_ <= bottom:
            return -1, math.log(open_ / entry), k, False
        if np.isnan(high) and (touched_top or touched_bottom):
            return (1 if touched_top else -1), math.log(close / entry), k, False
        if touched_top and touched_bottom:
            if b.rule == kernels.SKIP:
                return None
            nearer_top = b.rule == kernels.OPEN_DISTANCE and math.log(top / open_) < math.log(open_ / bottom)
            return (1, gain, k, True) if nearer_top else (-1, -loss, k, True)
        if touched_bottom:
            return -1, -loss, k, False
        if touched_top:
            return 1, gain, k, False
    return 0, math.log(bars[b.horizon, 3] / entry), b.horizon, False


def bars(seed: int) -> Array:
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(0.02 * rng.standard_normal(150)))
    open_ = close * np.exp(0.015 * rng.standard_normal(150))
    high = np.maximum(open_, close) * np.exp(0.02 * rng.random(150))
    low = np.minimum(open_, close) * np.exp(-0.02 * rng.random(150))
    whole = np.stack([open_, high, low, close], axis=1)
    whole[rng.random(150) < 0.1, :3] = np.nan
    return whole


@given(
    seed=st.integers(0, 10_000),
    horizon=st.integers(1, 8),
    profit=st.sampled_from([0.3, 1.0, 9.0]),
    stop=st.sampled_from([0.2, 1.0, 9.0]),
    cost=st.sampled_from([0.0, 0.1]),
    rule=st.sampled_from([kernels.WORST, kernels.SKIP, kernels.OPEN_DISTANCE]),
)
@settings(max_examples=60, deadline=None)
def test_the_first_barrier_met_is_that_of_a_walk(seed: int, horizon: int, profit: float, stop: float, cost: float, rule: int) -> None:
    panel, barriers = bars(seed), Barriers(horizon, profit, stop, cost, rule)
    side = np.random.default_rng(seed).integers(-1, 2, 150).astype(np.int8)
    sigma = np.full(150, 0.02)
    sigma[[5, 70]] = np.nan
    sigma[80] = 0.0
    label, ret, end, ambiguous = kernels.triple_barrier(*panel.T.copy(), sigma, side, STARTS, barriers)
    for first, last in ((0, 60), (60, 63), (63, 150)):
        for i in range(first, last):
            if i + horizon >= last or not sigma[i] > 0 or side[i] == 0:
                assert end[i] == -1 and math.isnan(ret[i]) and not ambiguous[i]
                continue
            expected = slow_barrier(panel[i : i + horizon + 1], sigma[i], int(side[i]), barriers)
            if expected is None:
                assert end[i] == -1 and math.isnan(ret[i]) and ambiguous[i] and label[i] == 0
                continue
            assert (label[i], end[i] - i, ambiguous[i]) == (expected[0], expected[2], expected[3])
            assert ret[i] == pytest.approx(expected[1])


def test_compiled_kernels_are_their_python_source() -> None:
    panel = bars(0)
    side = np.where(np.arange(150) % 2, 1, -1).astype(np.int8)
    for rule in (kernels.WORST, kernels.SKIP, kernels.OPEN_DISTANCE):
        label, _, end, _ = both(kernels.triple_barrier, *panel.T.copy(), np.full(150, 0.02), side, STARTS, Barriers(5, 1.0, 1.0, 0.1, rule))
        assert set(label) == {-1, 0, 1}
    both(kernels.average_uniqueness, end, STARTS)


def one_bar(
    open_: float, high: float, low: float, close: float, side: int = 1, rule: int = kernels.WORST, cost: float = 0.0
) -> tuple[int, float, bool]:
    """What a single bar after an entry at 100 with barriers at 110 and 90.9 does: label, the price left at over the entry, ambiguous."""
    panel = np.array([[100.0, 100.0, 100.0, 100.0], [open_, high, low, close]])
    sigma, sides = np.full(2, math.log(1.1)), np.full(2, side, np.int8)
    label, ret, _, ambiguous = kernels.triple_barrier(*panel.T.copy(), sigma, sides, np.array([0, 2]), Barriers(1, 1.0, 1.0, cost, rule))
    return int(label[0]), float(np.exp(side * ret[0])), bool(ambiguous[0])


@pytest.mark.parametrize(
    ("bar", "expected"),
    [
        ((100.0, 120.0, 80.0, 100.0), (-1, 1 / 1.1, True)),  # both touched: the worse
        ((112.0, 120.0, 80.0, 100.0), (1, 1.12, False)),  # opens beyond: the open, known to come first
        ((85.0, 120.0, 80.0, 100.0), (-1, 0.85, False)),
        ((100.0, 111.0, 95.0, 100.0), (1, 1.1, False)),
        ((100.0, 105.0, 90.0, 100.0), (-1, 1 / 1.1, False)),
        ((100.0, 105.0, 95.0, 104.0), (0, 1.04, False)),
        ((math.nan, math.nan, math.nan, 115.0), (1, 1.15, False)),  # close only: at the close
        ((math.nan, math.nan, math.nan, 104.0), (0, 1.04, False)),
    ],
)
def test_a_bar_ends_at_the_price_it_could_have_been_left_at(bar: tuple[float, ...], expected: tuple[int, float, bool]) -> None:
    label, gross, ambiguous = one_bar(*bar)
    assert (label, ambiguous) == (expected[0], expected[2])
    assert gross == pytest.approx(expected[1])


@pytest.mark.parametrize(
    ("bar", "expected"),
    [
        ((100.0, 120.0, 80.0, 100.0), (-1, 1.1, True)),  # both touched: the worse of a short is the top
        ((112.0, 120.0, 80.0, 100.0), (-1, 1.12, False)),
        ((85.0, 120.0, 80.0, 100.0), (1, 0.85, False)),
        ((100.0, 111.0, 95.0, 100.0), (-1, 1.1, False)),
        ((100.0, 105.0, 90.0, 100.0), (1, 1 / 1.1, False)),
        ((100.0, 105.0, 95.0, 104.0), (0, 1.04, False)),
    ],
)
def test_a_short_profits_below_and_stops_above(bar: tuple[float, ...], expected: tuple[int, float, bool]) -> None:
    label, price, ambiguous = one_bar(*bar, side=-1)
    assert (label, ambiguous) == (expected[0], expected[2])
    assert price == pytest.approx(expected[1])


@pytest.mark.parametrize(
    ("open_", "side", "rule", "label"),
    [
        (105.0, 1, kernels.WORST, -1),
        (105.0, 1, kernels.OPEN_DISTANCE, 1),
        (95.0, 1, kernels.OPEN_DISTANCE, -1),
        (105.0, -1, kernels.OPEN_DISTANCE, -1),
        (95.0, -1, kernels.OPEN_DISTANCE, 1),
        (105.0, 1, kernels.SKIP, 0),
        (105.0, -1, kernels.SKIP, 0),
    ],
)
def test_a_bar_that_spans_both_barriers_ends_by_the_rule(open_: float, side: int, rule: int, label: int) -> None:
    found, price, ambiguous = one_bar(open_, 120.0, 80.0, 100.0, side, rule)
    assert (found, ambiguous) == (label, True)
    assert math.isnan(price) == (rule == kernels.SKIP)


def test_a_cost_moves_the_profit_away_and_the_stop_nearer() -> None:
    assert [one_bar(100.0, 110.5, 99.0, 105.0, cost=cost)[0] for cost in (0.0, 0.1)] == [1, 0]
    assert [one_bar(100.0, 101.0, 91.5, 95.0, cost=cost)[0] for cost in (0.0, 0.1)] == [0, -1]
    assert [one_bar(100.0, 101.0, 90.5, 95.0, side=-1, cost=cost)[0] for cost in (0.0, 0.1)] == [1, 0]


def test_uniqueness_is_the_mean_share_of_the_bars_a_label_lives_on() -> None:
    rng = np.random.default_rng(4)
    end = np.full(150, -1, dtype=np.int64)
    for first, last in ((0, 60), (60, 63), (63, 150)):
        for i in range(first, last - 1):
            if rng.random() > 0.2:
                end[i] = min(last - 1, i + int(rng.integers(1, 9)))
    (found,) = both(kernels.average_uniqueness, end, STARTS)
    alive = np.zeros(150)
    for i in np.flatnonzero(end >= 0):
        alive[i + 1 : end[i] + 1] += 1
    for i in range(150):
        expected = float(np.mean(1 / alive[i + 1 : end[i] + 1])) if end[i] >= 0 else math.nan
        assert found[i] == pytest.approx(expected, nan_ok=True)
    assert np.nanmin(found) > 0 and np.nanmax(found) <= 1


def test_labels_that_never_meet_are_wholly_unique() -> None:
    end = np.array([2, -1, 4, -1, -1])
    np.testing.assert_allclose(kernels.average_uniqueness(end, np.array([0, 5])), [1, np.nan, 1, np.nan, np.nan])
