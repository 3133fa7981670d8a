"""What a feature reads: the bars of a class as arrays, symbols end to end."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.features import kernels


@dataclass(frozen=True, slots=True)
class BarArrays:
    """What every feature function reads: the bars of a class, symbols end to end, NaN where missing.

    Prices and volume are adjusted. `side` holds the side-table columns as they were known at each bar.
    """

    starts: Int64Array
    ts_ns: Int64Array
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
    shared: dict[str, Float64Array] = field(default_factory=dict)
    """Work that several features of one build have in common, by name."""

    def need(self, window: int) -> int:
        """Values that a window must hold before it answers."""
        return max(2, int(np.ceil(self.min_fraction * window)))

    def ewma(self, name: str, x: Float64Array, alpha: float, min_count: int) -> Float64Array:
        """Exponentially weighted mean of all the past with normalised weights; `name` is unique within the catalogue.

        Looks   back over all the past of the symbol.
        NaN     before min_count values; a missing value leaves the mean as it is.
        """
        return kernels.ewma(x, self.starts, alpha, min_count)

    def cumulative(self, name: str, x: Float64Array) -> Float64Array:
        """Running sum from the symbol's first bar; `name` is unique within the catalogue."""
        return kernels.cumulative(x, self.starts)
