"""Where a bar stands in the day, the week and the month of its market. Known in advance, so never a leak."""

import numpy as np
import polars as pl

from plusultra_core.arrays import Float64Array
from plusultra_core.features.arrays import BarArrays

_WEEK, _DAY_MINUTES = 7.0, 1440.0


def _local(b: BarArrays) -> pl.Series:
    # A bar that closes at midnight belongs to the day that ends there.
    return pl.from_epoch(pl.Series(b.ts_ns - 1), time_unit="ns").dt.replace_time_zone("UTC").dt.convert_time_zone(b.session_tz)


def _weekday(b: BarArrays) -> Float64Array:
    return b.once("weekday", lambda: 2.0 * np.pi * _local(b).dt.weekday().to_numpy().astype(np.float64) / _WEEK)


def _minute(b: BarArrays) -> Float64Array:
    def make() -> Float64Array:
        local = _local(b).dt
        minutes = local.hour().cast(pl.Float64) * 60.0 + local.minute() + 1.0
        return 2.0 * np.pi * minutes.to_numpy() / _DAY_MINUTES

    return b.once("minute", make)


def day_of_week_sin(b: BarArrays) -> Float64Array:
    """Sine of the day of the week at the market's place."""
    return np.sin(_weekday(b))


def day_of_week_cos(b: BarArrays) -> Float64Array:
    """Cosine of the day of the week at the market's place."""
    return np.cos(_weekday(b))


def hour_of_day_sin(b: BarArrays) -> Float64Array:
    """Sine of the local time of the close; constant on daily bars."""
    return np.sin(_minute(b))


def hour_of_day_cos(b: BarArrays) -> Float64Array:
    """Cosine of the local time of the close; constant on daily bars."""
    return np.cos(_minute(b))


def month_end_distance(b: BarArrays) -> Float64Array:
    """Share of the month's days that are still to come, in [0, 1)."""
    local = _local(b)
    days = local.dt.days_in_month().cast(pl.Float64)
    return ((days - local.dt.day()) / days).to_numpy()


def bars_missing(b: BarArrays) -> Float64Array:
    """log(1 + bars of the class's grid missing since the symbol's previous bar)."""
    return np.log1p(b.gap_bars)
