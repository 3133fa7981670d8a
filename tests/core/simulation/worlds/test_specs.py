"""Worlds are drawn by name: seed, family and number say all of them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.simulation.worlds.families import BootstrapConfig, CrisisConfig, EventConfig, PerturbationConfig, StressConfig
from plusultra_core.simulation.worlds.history import STATES
from plusultra_core.simulation.worlds.specs import (
    CALM,
    EVERY_ASSET,
    UNCHANGED,
    Past,
    World,
    draw_worlds,
    open_past,
    source_rows,
    stressed_costs,
    stressed_execution,
    uncounted,
)


def test_there_are_as_many_worlds_of_each_family_as_asked_for_and_the_calm_one_first(
    worlds: tuple[World, ...], stress: StressConfig
) -> None:
    assert worlds[0] is CALM
    families = [world.family for world in worlds]
    asked = {perturbation.name: perturbation.num_worlds for perturbation in stress.perturbations}
    asked |= {"calm": 1, "capacity": 2, "bootstrap": 4, "crisis": 3 * 2}
    asked |= {f"{state}_volatility": 2 for state in ("low", "mid", "high")}
    assert {family: families.count(family) for family in families} == asked
    assert len({world.name for world in worlds}) == len(worlds)
    assert {world.family for world in worlds if world.replaced} == {
        "crisis",
        "bootstrap",
        *(f"{s}_volatility" for s in ("low", "mid", "high")),
    }


def test_a_world_is_the_same_however_many_stand_beside_it(past: Past, stress: StressConfig, worlds: tuple[World, ...]) -> None:
    by_name = {world.name: world for world in worlds}
    more = replace(
        stress,
        perturbations=tuple(replace(item, num_worlds=item.num_worlds + 3) for item in reversed(stress.perturbations)),
        bootstrap=replace(stress.bootstrap, num_worlds=9),
    )
    found = {world.name: world for world in draw_worlds(past, more, True)}
    assert len(found) > len(by_name)
    for name, world in by_name.items():
        assert found[name] == world
        assert np.array_equal(source_rows(world, past), source_rows(found[name], past))


def test_another_seed_draws_other_worlds_and_two_of_a_family_differ(past: Past, stress: StressConfig, worlds: tuple[World, ...]) -> None:
    other = {world.name: world for world in draw_worlds(past._replace(seed=8), stress, True)}
    for name in ("crash/0", "volatility/1"):
        assert other[name] != next(world for world in worlds if world.name == name)
    first, second = (next(w for w in worlds if w.name == f"bootstrap/{i}") for i in (0, 1))
    assert not np.array_equal(source_rows(first, past), source_rows(second, past))
    assert not np.array_equal(source_rows(first, past), source_rows(other["bootstrap/0"], past._replace(seed=8)))


def test_draws_lie_in_their_ranges_and_events_in_the_span(worlds: tuple[World, ...], past: Past) -> None:
    for world in worlds:
        if world.family == "volatility":
            assert 2.0 <= world.factors.sigma <= 5.0
        for event in world.events:
            assert 0 <= event.step < past.num_steps
            assert event.asset == EVERY_ASSET or 0 <= event.asset < 5
        if world.family == "crash":
            assert all(-0.3 <= event.size_frac <= -0.1 for event in world.events)


def test_where_no_funding_is_charged_its_family_is_left_out(past: Past, stress: StressConfig) -> None:
    assert "funding" not in {world.family for world in draw_worlds(past, stress, funding=False)}


def test_a_span_without_history_has_perturbations_alone(world: Any, stress: StressConfig) -> None:
    market = world.market(30, 2)
    found = draw_worlds(open_past(market, 1, 30, 0.5, 7), stress, True)
    assert found
    assert not any(item.replaced for item in found)
    with pytest.raises(ContractError, match="expected 0 <= start"):
        open_past(market, 29, 30, 0.5, 7)


def cut(market: Any, absent_TN: Any) -> Any:
    prices = {name: np.where(absent_TN, np.nan, getattr(market, name)) for name in ("open", "high", "low", "close")}
    return market._replace(**prices, tradable=~absent_TN, volume=np.where(absent_TN, 0.0, market.volume))


@pytest.mark.parametrize("first", [59, 60, 70])
def test_an_asset_without_a_history_is_named_and_the_others_are_stressed_in_theirs(world: Any, stress: StressConfig, first: int) -> None:
    late = (np.arange(110) < first)[:, None] & (np.arange(3) == 1)
    past = open_past(cut(world.market(110, 3), late), 60, 100, 0.8, 7)
    assert uncounted(past) == [(1, 60 - min(first, 60), first)]
    drawn = draw_worlds(past, stress, True)
    assert {"crisis", "bootstrap"} <= {item.family for item in drawn}
    rows = {int(row) for item in drawn if item.family == "bootstrap" for row in source_rows(item, past)}
    assert len(rows) > 50  # of all years, not of the bars of the newcomer


def test_without_any_history_there_are_perturbations_and_without_a_bar_nothing(world: Any, stress: StressConfig) -> None:
    new = cut(world.market(110, 2), (np.arange(110) < 60)[:, None] & np.ones((1, 2), dtype=bool))
    past = open_past(new, 60, 100, 0.8, 7)
    assert [asset for asset, _, _ in uncounted(past)] == [0, 1]
    assert not any(item.replaced for item in draw_worlds(past, stress, True))
    with pytest.raises(ContractError, match="nothing to stress"):
        open_past(cut(new, (np.arange(110) > 60)[:, None] & np.ones((1, 2), dtype=bool)), 60, 100, 0.8, 7)


def test_rules_follow_their_factors_and_stay_when_nothing_changes(world: Any) -> None:
    factors = UNCHANGED._replace(fee=2.0, impact=3.0, latency=10.0, capital=5.0)
    cfg = replace(world.plain, latency_ms=(50.0, 70.0), latency_prob=(0.5, 0.5), permanent_coef=0.1)
    costs, execution = stressed_costs(world.costly, factors), stressed_execution(cfg, factors)
    assert (costs.fee_bps, costs.fee_min_ccy, costs.impact_coef) == (10.0, 2.0, 3.0)
    assert execution.latency_ms == (500.0, 700.0)
    assert execution.initial_capital_ccy == 5e6
    assert execution.permanent_coef == pytest.approx(0.3)
    assert stressed_costs(world.costly, UNCHANGED) == world.costly
    assert stressed_execution(cfg, UNCHANGED) == cfg


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: PerturbationConfig(name="x", num_worlds=1, factors={"mood": (1.0, 1.0)}, events=()), "x.mood"),
        (lambda: PerturbationConfig(name="x", num_worlds=1, factors={"spread": (0.0, 1.0)}, events=()), "x.spread"),
        (lambda: PerturbationConfig(name="x", num_worlds=2, factors={"fee": (1.0, 2.0)}, events=()), "given factors"),
        (lambda: PerturbationConfig(name="", num_worlds=1, factors={}, events=()), "expected a name"),
        (lambda: EventConfig(kind="gap", scope="market", size_frac=(-1.5, 0.0), at_frac=(0.5, 0.5), num_events=1, num_bars=1), "size_frac"),
        (lambda: EventConfig(kind="gap", scope="market", size_frac=(0.0, 0.0), at_frac=(0.6, 0.5), num_events=1, num_bars=1), "at_frac"),
        (lambda: EventConfig(kind="jump", scope="market", size_frac=(0.0, 0.0), at_frac=(0.5, 0.5), num_events=1, num_bars=3), "num_bars"),
        (lambda: CrisisConfig(num_bars=1, num_windows=1, num_places=1), "num_bars >= 2"),
        (lambda: BootstrapConfig(num_worlds=1, num_worlds_state=0, kind="stationary", block_bars=0), "block_bars >= 1"),
    ],
)
def test_a_family_that_makes_no_sense_is_refused(make: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()


def test_families_have_different_names(stress: StressConfig) -> None:
    for name in ("calm", *(f"{state}_volatility" for state in STATES)):  # two families under one name would draw the same numbers
        with pytest.raises(ConfigError, match="none of them that of another family"):
            replace(stress, perturbations=(PerturbationConfig(name=name, num_worlds=1, factors={}, events=()),))
    with pytest.raises(ConfigError, match="capital_factors"):
        replace(stress, capital_factors=(0.0,))
