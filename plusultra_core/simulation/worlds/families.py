"""Families of worlds as config: the market made worse, its crises come again, its past in another order, other capital."""

from dataclasses import dataclass
from typing import Literal

from plusultra_core.errors import ConfigError

Range = tuple[float, float]
"""Least and greatest of what is drawn; equal: given."""

FAMILIES = ("calm", "capacity", "crisis", "bootstrap", "low_volatility", "mid_volatility", "high_volatility")
"""What is no perturbation."""
DRAWN_FACTORS = ("sigma", "spread", "volume")
"""Factors of the bars: each world may have its own."""
GIVEN_FACTORS = ("impact", "latency", "fee")
"""Factors of the rules: one value a family, so that its worlds share a tile."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EventConfig:
    """Something that strikes at a bar."""

    kind: Literal["gap", "jump", "funding"]
    """gap: before the open, nobody trades in between; jump: within the bar, which opens where it would have;
    funding: added to the rate of the bar."""
    scope: Literal["market", "asset"]
    """Every asset alike, or one that is drawn."""
    size_frac: Range
    """Of price, or of notional for funding; drawn evenly."""
    at_frac: Range
    """Part of the stressed span at which it begins; drawn evenly."""
    num_events: int
    num_bars: int
    """Bars that funding is raised for; a price moves once."""

    def __post_init__(self) -> None:
        low, high = self.size_frac
        if not (low <= high and (low > -1 or self.kind == "funding") and high < 10):
            raise ConfigError(f"size_frac: expected low <= high in (-1, 10), found {self.size_frac}")
        if not 0 <= self.at_frac[0] <= self.at_frac[1] <= 1:
            raise ConfigError(f"at_frac: expected 0 <= low <= high <= 1, found {self.at_frac}")
        if self.num_events < 1 or self.num_bars < 1 or (self.kind != "funding" and self.num_bars != 1):
            raise ConfigError(f"event {self.kind}: expected num_events >= 1, and num_bars >= 1 for funding, else 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class PerturbationConfig:
    """The market's own bars, made worse. What is not named stays as it is."""

    name: str
    num_worlds: int
    factors: dict[str, Range]
    """sigma (log returns and their volatility), spread, volume (and depth, average notional), drawn evenly in their logarithm;
    impact, latency, fee, which are given: low = high."""
    events: tuple[EventConfig, ...]

    def __post_init__(self) -> None:
        if not self.name or self.num_worlds < 1:
            raise ConfigError(f"perturbation {self.name!r}: expected a name and num_worlds >= 1, found {self.num_worlds}")
        for name, (low, high) in self.factors.items():
            if name not in (*DRAWN_FACTORS, *GIVEN_FACTORS) or not 0 < low <= high:
                known = ", ".join((*DRAWN_FACTORS, *GIVEN_FACTORS))
                raise ConfigError(f"perturbation {self.name}.{name}: expected 0 < low <= high for one of {known}, found {low, high}")
            if name in GIVEN_FACTORS and low != high:
                raise ConfigError(f"perturbation {self.name}.{name}: the rules have given factors, expected low = high, found {low, high}")


@dataclass(frozen=True, kw_only=True, slots=True)
class CrisisConfig:
    """Windows of the market's own history before the stressed span, found by a rule, in the place of its bars."""

    num_bars: int
    """Length of a window."""
    num_windows: int
    """Windows of each rule: deepest drawdown, highest volatility, widest dispersion; none overlaps another of its rule."""
    num_places: int
    """Places of the span that each is laid over, evenly spread."""

    def __post_init__(self) -> None:
        if self.num_bars < 2 or self.num_windows < 0 or self.num_places < 1:
            raise ConfigError("crises: expected num_bars >= 2, num_windows >= 0 and num_places >= 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class BootstrapConfig:
    """Bars of history in blocks, all assets together, in the place of the span."""

    num_worlds: int
    num_worlds_state: int
    """Worlds of each volatility state, their bars drawn from that state alone."""
    kind: Literal["stationary", "circular"]
    """Blocks of random length, or of one length; the last bar of history is followed by its first."""
    block_bars: int
    """Mean length of a block, or its length."""

    def __post_init__(self) -> None:
        if min(self.num_worlds, self.num_worlds_state) < 0 or self.block_bars < 1:
            raise ConfigError("bootstrap: expected num_worlds, num_worlds_state >= 0 and block_bars >= 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class StressConfig:
    """Every world of a stress, and how the sweep through them runs."""

    perturbations: tuple[PerturbationConfig, ...]
    crises: CrisisConfig
    bootstrap: BootstrapConfig
    capital_factors: tuple[float, ...]
    """Multiples of the initial capital: the capacity curve."""
    min_assets_frac: float
    """A bar of history may come again where at least this part of the assets that traded just before the span has one."""
    path_points: int
    """Bars of an equity path that are kept for drawing."""
    chunk_mib: int
    """Memory of the worlds that are in the making at once, one thread; no number depends on it."""
    num_threads: int
    """Chunks at a time; no number depends on it."""

    def __post_init__(self) -> None:
        names = [item.name for item in self.perturbations]
        if len(set(names)) != len(names) or set(names) & set(FAMILIES):
            raise ConfigError(f"perturbations: expected different names, none of them that of another family, found {names}")
        if any(not factor > 0 for factor in self.capital_factors):
            raise ConfigError(f"capital_factors: expected factors > 0, found {self.capital_factors}")
        if not 0 < self.min_assets_frac <= 1 or self.path_points < 2 or self.chunk_mib < 1 or self.num_threads < 1:
            raise ConfigError("stress: expected min_assets_frac in (0, 1], path_points >= 2, chunk_mib >= 1, num_threads >= 1")
