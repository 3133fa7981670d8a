"""What of the past may come again: crises found by a rule, blocks that keep what belongs together, states by volatility."""

from typing import Any

import numpy as np
import pytest

from plusultra_core.simulation.worlds.history import (
    STATES,
    block_rows,
    closes_before,
    common_history,
    find_crises,
    volatility_states,
    window_drawdowns,
)


def moved(market: Any, ret_TN: Any) -> Any:
    """The market with other closes; bars of one price."""
    close = 100.0 * np.exp(np.cumsum(ret_TN, axis=0))
    return market._replace(**{name: close.copy() for name in ("open", "high", "low", "close")})


@pytest.fixture
def planted(world: Any) -> Any:
    """A calm history with a fall at 60..69, wild days at 120..129 and names that part at 180..189; the span begins at 260."""
    rng = np.random.default_rng(3)
    ret_TN = rng.normal(0.0, 0.002, (300, 5))
    ret_TN[60:70] -= 0.03
    ret_TN[120:130] += 0.04 * np.where(np.arange(10) % 2, -1.0, 1.0)[:, None]
    ret_TN[180:190] += 0.03 * np.array([1.0, -1.0, 0.0, 1.0, -1.0])
    ret_TN[270:280] -= 0.2
    return moved(world.market(300, 5), ret_TN)


def test_the_finder_finds_what_was_planted_by_each_rule(planted: Any) -> None:
    found = find_crises(planted, 260, common_history(planted, 260, 0.8).eligible_T, 10, 1)
    assert [crisis.rule for crisis in found] == ["drawdown", "volatility", "dispersion"]
    assert [crisis.first for crisis in found] == [60, 120, 180]
    assert found[0].size == pytest.approx(1.0 - np.exp(-0.3), abs=0.02)


def test_what_comes_after_the_start_is_not_looked_at(planted: Any) -> None:
    other = planted._replace(close=np.where(np.arange(300)[:, None] >= 260, 1.0, planted.close))
    eligible = common_history(planted, 260, 0.8).eligible_T
    assert np.array_equal(common_history(other, 260, 0.8).eligible_T, eligible)
    assert find_crises(other, 260, eligible, 10, 3) == find_crises(planted, 260, eligible, 10, 3)
    assert np.array_equal(volatility_states(other, 260, eligible), volatility_states(planted, 260, eligible))


def test_windows_of_a_rule_do_not_overlap_and_come_worst_first(planted: Any) -> None:
    found = find_crises(planted, 260, common_history(planted, 260, 0.8).eligible_T, 10, 4)
    for rule in ("drawdown", "volatility", "dispersion"):
        own = [crisis for crisis in found if crisis.rule == rule]
        firsts = sorted(crisis.first for crisis in own)
        assert np.diff(firsts).min() >= 10
        assert [crisis.size for crisis in own] == sorted((crisis.size for crisis in own), reverse=True)


def test_one_asset_has_no_dispersion(world: Any) -> None:
    market = world.market(60, 1)
    found = find_crises(market, 50, common_history(market, 50, 1.0).eligible_T, 5, 2)
    assert {crisis.rule for crisis in found} == {"drawdown", "volatility"}


def test_the_depth_of_a_window_is_that_of_a_plain_loop(world: Any) -> None:
    ret_T = np.random.default_rng(0).normal(0, 0.02, 40)
    found = window_drawdowns(ret_T, 7)
    for first in range(34):
        wealth = np.concatenate(([1.0], np.cumprod(1.0 + ret_T[first : first + 7])))
        assert found[first] == pytest.approx((1.0 - wealth / np.maximum.accumulate(wealth)).max(), abs=1e-15)
    assert window_drawdowns(ret_T, 41).size == 0


def test_a_bar_that_few_assets_had_does_not_come_again(world: Any) -> None:
    market = world.market(40, 4)
    absent = np.zeros((40, 4), dtype=bool)
    absent[:10, :2] = True
    absent[20, :3] = True
    prices = {name: np.where(absent, np.nan, getattr(market, name)) for name in ("open", "high", "low", "close")}
    market = market._replace(**prices, tradable=~absent)
    eligible = common_history(market, 30, 0.75).eligible_T
    assert np.array_equal(np.flatnonzero(~eligible), [*range(11), 20, 21])
    halting = np.where((np.arange(40) % 2 == 0)[:, None], np.nan, market.close)
    nothing = common_history(market._replace(close=halting, tradable=np.isfinite(halting)), 30, 0.75)
    assert not nothing.eligible_T.any()
    assert not nothing.counted_N.any()


def listed(market: Any, first_N: list[int]) -> Any:
    """The market where each asset has its first bar."""
    absent = np.arange(len(market.close))[:, None] < np.array(first_N)
    prices = {name: np.where(absent, np.nan, getattr(market, name)) for name in ("open", "high", "low", "close")}
    return market._replace(**prices, tradable=~absent, volume=np.where(absent, 0.0, market.volume))


@pytest.mark.parametrize("num_bars", [10, 1, 0])
def test_an_asset_that_was_listed_of_late_does_not_take_the_years_of_the_others(world: Any, num_bars: int) -> None:
    common = common_history(listed(world.market(300, 3), [0, 0, 260 - num_bars]), 260, 0.8)
    assert common.counted_N.tolist() == [True, True, False]
    assert np.flatnonzero(~common.eligible_T).tolist() == [0]


def test_assets_are_counted_on_as_long_as_they_bring_more_than_they_take(world: Any) -> None:
    market = listed(world.market(300, 6), [0, 0, 0, 20, 30, 200])  # the last brings itself, and takes bars of five others
    common = common_history(market, 260, 1.0)
    assert common.counted_N.tolist() == [True] * 5 + [False]
    assert np.flatnonzero(common.eligible_T)[0] == 31
    lenient = common_history(market, 260, 0.8)  # five of six are enough: it takes nothing
    assert lenient.counted_N.all()
    assert np.flatnonzero(lenient.eligible_T)[0] == 31


def test_the_close_before_is_the_last_one_known(world: Any) -> None:
    close = np.array([[np.nan, 1.0], [2.0, np.nan], [np.nan, np.nan], [3.0, 4.0]])
    assert np.array_equal(closes_before(close), [[np.nan] * 2, [np.nan, 1.0], [2.0, 1.0], [2.0, 1.0]], equal_nan=True)


@pytest.mark.parametrize("fixed", [True, False])
def test_rows_follow_each_other_within_a_block_and_blocks_have_their_length(fixed: bool) -> None:
    rng = np.random.default_rng(1)
    eligible = np.ones(500, dtype=bool)
    rows = block_rows(eligible, rng.random(60_000), rng.random(60_000), 12, fixed)
    joins = np.flatnonzero(rows[1:] != (rows[:-1] + 1) % 500) + 1
    lengths = np.diff(joins)
    assert lengths.mean() == pytest.approx(12, rel=0.05)
    assert fixed == (len(set(lengths.tolist())) == 1 or set(lengths.tolist()) <= {12, 24})
    counts = np.bincount(rows, minlength=500)
    assert counts.min() > 60  # every row comes about 120 times, the first and the last as often as others
    assert counts.max() < 190


def test_a_path_of_one_state_has_rows_of_that_state_alone(planted: Any) -> None:
    market = planted._replace(sigma=np.where(np.arange(300)[:, None] % 90 < 30, 0.05, 0.01) * np.ones((1, 5)))
    eligible = common_history(market, 260, 0.8).eligible_T
    state = volatility_states(market, 260, eligible)
    assert set(state[eligible].tolist()) <= set(range(len(STATES)))
    assert state[0] == -1
    assert market.sigma[:260][state == 2].min() == 0.05
    rng = np.random.default_rng(2)
    rows = block_rows(state == 2, rng.random(400), rng.random(400), 10, False)
    assert (state[rows] == 2).all()
    assert (np.diff(rows) == 1).mean() > 0.5
