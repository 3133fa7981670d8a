"""A market with halts, events and costs, and the worlds that are drawn from it."""

from typing import Any

import numpy as np
import pytest

from plusultra_core.simulation.worlds.families import BootstrapConfig, CrisisConfig, EventConfig, PerturbationConfig, StressConfig
from plusultra_core.simulation.worlds.specs import Past, World, draw_worlds, open_past

START, END = 60, 100


def event(
    kind: str, scope: str = "market", size: tuple[float, float] = (-0.3, -0.1), num_events: int = 2, num_bars: int = 1
) -> EventConfig:
    return EventConfig(kind=kind, scope=scope, size_frac=size, at_frac=(0.1, 0.9), num_events=num_events, num_bars=num_bars)


def perturbation(name: str, num_worlds: int, factors: dict[str, Any], *events: EventConfig) -> PerturbationConfig:
    return PerturbationConfig(name=name, num_worlds=num_worlds, factors=factors, events=events)


PERTURBATIONS = (
    perturbation("volatility", 3, {"sigma": (2.0, 5.0)}),
    perturbation("spread", 2, {"spread": (3.0, 9.0)}),
    perturbation("impact", 1, {"impact": (4.0, 4.0)}),
    perturbation("volume", 1, {"volume": (0.25, 0.25)}),
    perturbation("latency", 1, {"latency": (10.0, 10.0)}),
    perturbation("fee", 1, {"fee": (3.0, 3.0)}),
    perturbation("crash", 3, {}, event("gap")),
    perturbation("spike", 2, {}, event("jump", "asset", (0.2, 0.5))),
    perturbation("funding", 2, {}, event("funding", "asset", (0.001, 0.01), 5)),
    perturbation("all", 2, {"sigma": (2.0, 3.0), "spread": (3.0, 3.0), "volume": (0.25, 0.25), "latency": (10.0, 10.0)}, event("gap")),
)


@pytest.fixture(scope="session")
def stress() -> StressConfig:
    """Few worlds of every family."""
    return StressConfig(
        perturbations=PERTURBATIONS,
        crises=CrisisConfig(num_bars=8, num_windows=1, num_places=2),
        bootstrap=BootstrapConfig(num_worlds=4, num_worlds_state=2, kind="stationary", block_bars=6),
        capital_factors=(0.1, 10.0),
        min_assets_frac=0.6,
        path_points=9,
        chunk_mib=16,
        num_threads=1,
    )


@pytest.fixture(scope="session")
def past(world: Any) -> Past:
    """Five assets with halts; one lists late, one pays dividends, one quotes a depth."""
    market = world.market(110, 5, seed=4, gaps=0.08, half_spread_bps=2.0)
    rng = np.random.default_rng(5)
    late = (np.arange(110) < 75)[:, None] & (np.arange(5) == 4)
    prices = {name: np.where(late, np.nan, getattr(market, name)) for name in ("open", "high", "low", "close")}
    tradable = market.tradable & ~late
    tradable[START] = True  # a fresh price at the first decision
    tradable[START, 4] = False
    for name, array in prices.items():
        array[START, :4] = np.where(np.isfinite(array[START, :4]), array[START, :4], 100.0 if name != "low" else 99.0)
    for name in ("high", "low"):
        prices[name] = np.where(tradable, getattr(np, "fmax" if name == "high" else "fmin")(prices[name], prices["close"]), np.nan)
    market = market._replace(
        **prices,
        tradable=tradable,
        volume=np.where(tradable, np.maximum(market.volume, 1e3), 0.0),
        sigma=rng.uniform(0.01, 0.04, (110, 5)),
        adv_ccy=rng.uniform(2e7, 8e7, (110, 5)),
        dividend=np.where((rng.random((110, 5)) < 0.05) & tradable, 0.5, 0.0),
        depth=np.where(np.arange(5) == 1, rng.uniform(2e3, 2e4, (110, 5)), np.inf),
    )
    return open_past(market, START, END, 0.6, 7)


@pytest.fixture(scope="session")
def worlds(past: Past, stress: StressConfig) -> tuple[World, ...]:
    """All of them."""
    return draw_worlds(past, stress, funding=True)
