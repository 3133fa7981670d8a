"""Easier worlds before the whole one: shorter episodes and windows, nearer horizons, lower costs.

Stages are counted in updates and come first; what is left of `train.num_updates` runs in the world as configured. So a
policy never ends in an easier world, and validation never sees one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from plusultra_core.errors import ConfigError
from plusultra_core.rl.env import World


@dataclass(frozen=True, kw_only=True, slots=True)
class StageConfig:
    """What is easier, for how long."""

    num_updates: int
    episode_bars: int
    """Length of an episode."""
    window_bars: int
    """Newest bars of its windows that a backbone inside the policy sees; 0: all."""
    gamma: float
    """Discount; the horizon is 1 / (1 - gamma) bars."""
    cost_factor: float
    """Multiplies fees, spreads, impact and loans: 0 costs nothing, 1 is the market's own."""

    def __post_init__(self) -> None:
        if self.num_updates < 1 or self.episode_bars < 2 or self.window_bars < 0:
            raise ConfigError("stage: expected num_updates >= 1, episode_bars >= 2, window_bars >= 0")
        if not 0 < self.gamma <= 1 or not 0 <= self.cost_factor <= 1:
            raise ConfigError(f"stage: expected gamma in (0, 1], cost_factor in [0, 1], found {self.gamma}, {self.cost_factor}")


@dataclass(frozen=True, kw_only=True, slots=True)
class CurriculumConfig:
    """Stages before the configured world; none: it is there from the start."""

    stages: tuple[StageConfig, ...]


class Stage(NamedTuple):
    """Updates first <= u < last, and the world they run in."""

    number: int
    first: int
    last: int
    episode_bars: int
    window_bars: int
    gamma: float
    cost_factor: float


def plan(stages: Sequence[StageConfig], num_updates: int, episode_bars: int, gamma: float) -> tuple[Stage, ...]:
    """The stages and, last, the configured world.

    Raises  ConfigError when the stages leave no update for it.
    """
    found: list[Stage] = []
    first = 0
    for cfg in stages:
        last = first + cfg.num_updates
        found.append(Stage(len(found), first, last, cfg.episode_bars, cfg.window_bars, cfg.gamma, cfg.cost_factor))
        first = last
    if first >= num_updates:
        raise ConfigError(f"curriculum: stages take {first} of {num_updates} updates; leave some for the world as configured")
    return (*found, Stage(len(found), first, num_updates, episode_bars, 0, gamma, 1.0))


def stage_of(stages: Sequence[Stage], update: int) -> Stage:
    """The stage in which an update runs, counted from 0; after the last update, the last."""
    return next((stage for stage in stages if update < stage.last), stages[-1])


def cheaper(world: World, factor: float) -> World:
    """The world at a part of its costs; with 1 the world itself."""
    if factor == 1.0:
        return world
    market, costs = world.market, world.costs
    easier = {
        name: factor * getattr(costs, name) for name in ("fee_bps", "fee_min_ccy", "half_spread_bps", "impact_coef", "borrow_bps_year")
    }
    arrays = {name: factor * getattr(market, name) for name in ("half_spread_bps", "tick", "conversion_bps")}
    simulation = replace(world.simulation, permanent_coef=factor * world.simulation.permanent_coef)
    return replace(world, market=market._replace(**arrays), costs=replace(costs, **easier), simulation=simulation)


def preview(stages: Sequence[Stage], samples_per_update: int) -> list[dict[str, float]]:
    """One row a stage, for a person."""
    return [
        {
            "stage": float(stage.number),
            "first_update": float(stage.first + 1),
            "last_update": float(stage.last),
            "samples": float((stage.last - stage.first) * samples_per_update),
            "episode_bars": float(stage.episode_bars),
            "window_bars": float(stage.window_bars),
            "horizon_bars": 1.0 / (1.0 - stage.gamma) if stage.gamma < 1 else float("inf"),
            "cost_factor": stage.cost_factor,
        }
        for stage in stages
    ]


def as_text(rows: Sequence[dict[str, float]]) -> str:
    """Rows under their names, aligned."""
    names = list(rows[0])
    cells = [[f"{row[name]:.6g}" for name in names] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(names, *cells, strict=True)]
    return "\n".join("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in (names, *cells))
