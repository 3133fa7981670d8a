"""What a feature reads: the bars of a class as arrays, symbols end to end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.features import ranks
from plusultra_core.features.recursions import Recursions

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BarArrays:
    """What every feature function reads: the bars of a class, symbols end to end, NaN where missing.

    Prices and volume are adjusted. `side` holds the side-table columns as they were known at each bar.
    """

    starts: Int64Array
    ts_ns: Int64Array
    known_ns: Int64Array
    """When all bars of the symbol so far were known: rises within a symbol."""
    calendar: str
    session_tz: str
    periods_per_year: float
    open: Float64Array
    high: Float64Array
    low: Float64Array
    close: Float64Array
    volume: Float64Array
    gap_bars: Float64Array
    side: Mapping[str, Float64Array]
    short: int
    medium: int
    long: int
    min_fraction: float
    ret: Float64Array
    """ret_log_1: log return since the symbol's previous bar."""
    sigma: Float64Array
    """EWMA volatility a bar, to this bar."""
    recursions: Recursions
    """What depends on all the past."""
    shared: dict[str, Any] = field(default_factory=dict)
    """Work that several features of one build have in common, by name."""

    def need(self, window: int) -> int:
        """Values that a window must hold before it answers."""
        return max(2, int(np.ceil(self.min_fraction * window)))

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, made once a build and kept under `name`."""
        if name not in self.shared:
            self.shared[name] = make()
        kept: T = self.shared[name]
        return kept

    def ewma(self, name: str, x: Float64Array, alpha: float, min_count: int) -> Float64Array:
        """Exponentially weighted mean of all the past with normalised weights; `name` is unique within the catalogue.

        Looks   back over all the past of the symbol.
        NaN     before min_count values; a missing value leaves the mean as it is.
        """
        return self.recursions.ewma(name, x, alpha, min_count)

    def cumulative(self, name: str, x: Float64Array) -> Float64Array:
        """Running sum from the symbol's first bar; `name` is unique within the catalogue."""
        return self.recursions.cumulative(name, x)

    def follow(self, name: str, x: Float64Array, step: Float64Array) -> Float64Array:
        """y + step (x - y) from bar to bar: an average that paces itself; `name` is unique within the catalogue.

        Looks   back over all the past of the symbol.
        NaN     before the first bar with x and step; a missing value leaves y as it is.
        """
        return self.recursions.follow(name, x, step)

    def cross_rank(self, name: str, x: Float64Array, min_count: int) -> Float64Array:
        """Share of the class's values at the same ts_ns, known by then, that lie below x; equal ones count half.

        `name` is unique within the catalogue, and the feature wears the tag `cross_section`: it sees all symbols at once.
        Looks   at the bar and its peers only.
        NaN     where x is missing or fewer than min_count values are there.
        """
        at = self.once("moments", lambda: ranks.moments(self.ts_ns))
        return self.recursions.kept(name, lambda: ranks.cross_rank(x, self.known_ns, at.order, at.starts, min_count))
