"""The bars of a world: what was before is untouched, what comes after is what its spec says, and rows stay whole."""

from typing import Any

import numpy as np
import pytest

from plusultra_core.errors import ContractError
from plusultra_core.simulation.market import check_market
from plusultra_core.simulation.worlds.history import closes_before
from plusultra_core.simulation.worlds.layout import BY_BAR, empty_bars, lay_worlds, open_ground
from plusultra_core.simulation.worlds.specs import CALM, EVERY_ASSET, FUNDING, GAP, JUMP, UNCHANGED, Event, Past, World, source_rows


def lay(past: Past, *worlds: World) -> Any:
    ground = open_ground(past, whole=True)
    return lay_worlds(ground, worlds, empty_bars(ground, len(worlds)))


def of(market: Any, w: int, num_assets: int = 5) -> dict[str, Any]:
    return {name: getattr(market, name)[:, w * num_assets : (w + 1) * num_assets] for name in BY_BAR}


def bent(*events: Event, **factors: float) -> World:
    return World("bent", "bent/0", UNCHANGED._replace(**factors), events)


def test_every_world_is_a_market_that_the_kernel_takes(past: Past, worlds: tuple[World, ...]) -> None:
    check_market(lay(past, *worlds))


def test_up_to_the_start_every_world_has_the_bars_of_the_market_bit_for_bit(past: Past, worlds: tuple[World, ...]) -> None:
    laid = lay(past, *worlds)
    for w in range(len(worlds)):
        for name, array in of(laid, w).items():
            last = past.start if name in ("half_spread_bps", "depth", "sigma", "adv_ccy") else past.start + 1  # met in the next bar
            assert np.array_equal(array[:last], getattr(past.market, name)[:last], equal_nan=True), (worlds[w].name, name)


def test_a_world_without_changes_is_the_market_bit_for_bit_wherever_it_stands(past: Past, worlds: tuple[World, ...]) -> None:
    laid = lay(past, worlds[5], CALM, worlds[-1], CALM)
    for w in (1, 3):
        for name, array in of(laid, w).items():
            assert np.array_equal(array, getattr(past.market, name)[: past.end], equal_nan=True), name


def test_the_ground_keeps_the_last_close_of_every_asset_and_nothing_earlier(past: Past) -> None:
    ground = open_ground(past, whole=False)
    assert 0 < ground.head <= past.start
    close = past.market.close[ground.head : past.start + 1]
    assert np.array_equal(np.isfinite(close).any(axis=0), np.isfinite(past.market.close[: past.start + 1]).any(axis=0))
    short = lay_worlds(ground, (CALM,), empty_bars(ground, 1))
    assert np.array_equal(short.close, past.market.close[ground.head : past.end], equal_nan=True)


def test_rows_of_returns_of_a_resampled_world_are_rows_of_the_market(past: Past, worlds: tuple[World, ...]) -> None:
    close = past.market.close
    real = np.log(close / closes_before(close))
    for world in worlds:
        if world.blocks is None:
            continue
        laid = of(lay(past, world), 0)
        ret = np.log(laid["close"] / closes_before(laid["close"]))[past.start + 1 :]
        rows = source_rows(world, past)
        seen = np.isfinite(ret) & np.isfinite(real[rows])
        assert seen[:, :4].mean() > 0.7
        assert np.allclose(ret[seen], real[rows][seen], rtol=0, atol=1e-12)
        for name in ("sigma", "adv_ccy", "tradable", "proxy", "half_spread_bps", "funding"):
            assert np.array_equal(laid[name][past.start + 1 :], getattr(past.market, name)[rows], equal_nan=True), name
        money = laid["volume"] * np.nan_to_num(laid["close"])
        assert np.allclose(money[past.start + 1 :], (past.market.volume * np.nan_to_num(close))[rows])
        assert np.allclose((laid["open"] / laid["close"])[past.start + 1 :], (past.market.open / close)[rows], equal_nan=True)


def test_resampled_assets_move_together_as_the_market_does(world: Any, stress: Any) -> None:
    from plusultra_core.simulation.worlds.specs import open_past, resample

    market = world.market(600, 3)
    common = np.random.default_rng(1).normal(0, 0.02, (600, 1))
    close = 100.0 * np.exp(np.cumsum(common + np.random.default_rng(2).normal(0, 0.005, (600, 3)), axis=0))
    market = market._replace(**{name: close.copy() for name in ("open", "high", "low", "close")})
    past = open_past(market, 400, 600, 1.0, 3)
    for drawn in resample(past, stress.bootstrap):
        laid = lay_worlds(open_ground(past, whole=False), (drawn,), empty_bars(open_ground(past, whole=False), 1))
        ret = np.diff(np.log(laid.close[-199:]), axis=0)
        assert np.corrcoef(ret.T)[0, 1] > 0.85, drawn.name


def test_a_crisis_is_laid_over_the_span_and_the_market_goes_on_after_it(past: Past, worlds: tuple[World, ...]) -> None:
    crisis = next(world for world in worlds if world.crisis is not None and world.step > 0)
    assert crisis.crisis is not None
    rows = source_rows(crisis, past)
    length, first = crisis.crisis.num_bars, crisis.crisis.first
    assert rows[: crisis.step].tolist() == list(range(past.start + 1, past.start + 1 + crisis.step))
    assert rows[crisis.step : crisis.step + length].tolist() == list(range(first, first + length))
    assert first + length <= past.start
    laid = of(lay(past, crisis), 0)
    before = past.start + 1 + crisis.step
    assert np.array_equal(laid["close"][:before], past.market.close[:before], equal_nan=True)


def test_volatility_stretches_log_returns_sigma_and_the_shape_of_bars(past: Past) -> None:
    laid, market, after = of(lay(past, bent(sigma=3.0)), 0), past.market, slice(past.start + 1, past.end)
    for a in range(4):
        own, real = laid["close"][past.start : past.end, a], market.close[past.start : past.end, a]
        seen = np.isfinite(real)
        wide, calm = np.diff(np.log(own[seen])), np.diff(np.log(real[seen]))
        assert np.allclose(wide - wide.mean(), 3.0 * (calm - calm.mean()))
        assert wide.mean() + wide.var() / 2 == pytest.approx(calm.mean() + calm.var() / 2)  # what a holder expects
    assert np.allclose(laid["sigma"][after], 3.0 * market.sigma[after])
    for name in ("open", "high", "low"):
        shape = np.log(getattr(market, name)[after] / market.close[after])
        assert np.allclose(np.log(laid[name][after] / laid["close"][after]), 3.0 * shape, equal_nan=True)


def test_a_gap_moves_the_open_and_a_jump_only_what_comes_after_it(past: Past) -> None:
    gap, jump = of(lay(past, bent(Event(GAP, 4, 1, EVERY_ASSET, -0.2))), 0), of(lay(past, bent(Event(JUMP, 4, 1, EVERY_ASSET, -0.2))), 0)
    at, real = past.start + 5, past.market
    for name in ("open", "high", "low", "close"):
        assert np.array_equal(gap[name][:at], getattr(real, name)[:at], equal_nan=True)
        assert np.allclose(gap[name][at:], 0.8 * getattr(real, name)[at : past.end], equal_nan=True)
        assert np.allclose(jump[name][at + 1 :], 0.8 * getattr(real, name)[at + 1 : past.end], equal_nan=True)
    assert np.array_equal(jump["open"][at], real.open[at], equal_nan=True)
    assert np.array_equal(jump["high"][at], real.high[at], equal_nan=True)
    assert np.allclose(jump["low"][at], 0.8 * real.low[at], equal_nan=True)
    assert np.allclose(jump["close"][at], 0.8 * real.close[at], equal_nan=True)
    up = of(lay(past, bent(Event(JUMP, 4, 1, EVERY_ASSET, 0.5))), 0)
    assert np.allclose(up["high"][at], 1.5 * real.high[at], equal_nan=True)
    assert np.array_equal(up["low"][at], real.low[at], equal_nan=True)


def test_an_event_of_one_asset_leaves_the_others_alone_and_funding_lasts_as_long_as_it_says(past: Past) -> None:
    one = of(lay(past, bent(Event(GAP, 4, 1, 2, -0.5), Event(FUNDING, 6, 3, 1, 0.01))), 0)
    others = [0, 1, 3, 4]
    assert np.array_equal(one["close"][:, others], past.market.close[: past.end, others], equal_nan=True)
    assert np.allclose(one["close"][past.start + 5 :, 2], 0.5 * past.market.close[past.start + 5 : past.end, 2], equal_nan=True)
    raised = one["funding"] - past.market.funding[: past.end]
    expected = np.zeros(raised.shape)
    expected[past.start + 7 : past.start + 10, 1] = 0.01
    assert np.allclose(raised, expected, atol=1e-15)


def test_spread_volume_depth_and_average_follow_their_factors(past: Past) -> None:
    laid, market = of(lay(past, bent(spread=4.0, volume=0.25)), 0), past.market
    after, met = slice(past.start + 1, past.end), slice(past.start, past.end)
    assert np.allclose(laid["half_spread_bps"][met], 4.0 * market.half_spread_bps[met])
    assert np.allclose(laid["volume"][after], 0.25 * market.volume[after])
    assert np.allclose(laid["adv_ccy"][after], 0.25 * market.adv_ccy[after])
    assert np.allclose(laid["depth"][met], 0.25 * market.depth[met])
    assert np.array_equal(laid["close"], market.close[: past.end], equal_nan=True)


def test_a_field_that_worlds_know_nothing_of_is_refused(past: Past) -> None:
    class Odd:
        _fields = (*past.market._fields, "mood")

        def __getattr__(self, name: str) -> Any:
            return getattr(past.market, name)

    with pytest.raises(ContractError, match="mood"):
        open_ground(past._replace(market=Odd()), whole=True)  # type: ignore[arg-type]
