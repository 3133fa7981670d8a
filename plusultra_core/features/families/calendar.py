"""Where a bar stands in the day, the week, the month and the year of its market. Known in advance, so never a leak."""

from typing import NamedTuple

import numpy as np
import polars as pl

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.clock import NS_PER_DAY
from plusultra_core.data.calendars import session_times
from plusultra_core.features import indicators
from plusultra_core.features.arrays import BarArrays

_WEEK = 2.0 * np.pi * np.arange(1, 8) / 7.0
_DAY = 2.0 * np.pi * np.arange(1, 1441) / 1440.0
_YEAR = 2.0 * np.pi * np.arange(366) / 365.25
_BEFORE_NS = 30 * NS_PER_DAY


class _Parts(NamedTuple):
    """Of each bar."""

    weekday: Int64Array
    minute: Int64Array
    yearday: Int64Array
    to_come: Float64Array
    session: Float64Array


def _parts(b: BarArrays) -> _Parts:
    def make() -> _Parts:
        stamps = pl.Series(b.ts_ns)
        times = stamps.unique().sort()
        # A bar that closes at midnight belongs to the day that ends there.
        local = pl.from_epoch(times - 1, time_unit="ns").dt.replace_time_zone("UTC").dt.convert_time_zone(b.session_tz)
        wall_ns = local.dt.replace_time_zone(None).cast(pl.Int64).to_numpy()
        place = indicators.place_of_times(b.ts_ns, b.starts, times.to_numpy())
        weekday, minute, yearday, to_come = indicators.calendar_parts(wall_ns)
        return _Parts(weekday[place], minute[place], yearday[place], to_come[place], _session(times, b.calendar)[place])

    return b.once("calendar_parts", make)


def _session(times: pl.Series, calendar: str) -> Float64Array:
    """Time since the last opening over the longest of the five sessions before, at most 1.

    The length of the session itself is not asked: that a day will close early is not always known when it opens.
    NaN     before the calendar's sixth session, and wherever it is not recorded.
    """
    if times.is_empty():
        return np.zeros(0)
    opens_ns, closes_ns = session_times(calendar, int(times[0]) - _BEFORE_NS, int(times[-1]))
    if not opens_ns.size:
        return np.full(len(times), np.nan)
    lengths = (closes_ns - opens_ns).astype(np.float64)
    usual_ns = np.full(lengths.size, np.nan)
    usual_ns[5:] = np.lib.stride_tricks.sliding_window_view(lengths, 5).max(axis=1)[:-1] if lengths.size > 5 else np.nan
    stamps = times.to_numpy()
    last = np.searchsorted(opens_ns, stamps, side="left") - 1
    since_ns = (stamps - opens_ns[last]).astype(np.float64)
    return np.where(last >= 0, np.minimum(since_ns / usual_ns[last], 1.0), np.nan)


def _wave(values: Float64Array, place: Int64Array) -> Float64Array:
    out: Float64Array = values[place]
    return out


def day_of_week_sin(b: BarArrays) -> Float64Array:
    """Sine of the day of the week at the market's place."""
    return _wave(np.sin(_WEEK), _parts(b).weekday)


def day_of_week_cos(b: BarArrays) -> Float64Array:
    """Cosine of the day of the week at the market's place."""
    return _wave(np.cos(_WEEK), _parts(b).weekday)


def hour_of_day_sin(b: BarArrays) -> Float64Array:
    """Sine of the local time of the close; constant on daily bars."""
    return _wave(np.sin(_DAY), _parts(b).minute)


def hour_of_day_cos(b: BarArrays) -> Float64Array:
    """Cosine of the local time of the close; constant on daily bars."""
    return _wave(np.cos(_DAY), _parts(b).minute)


def session_position(b: BarArrays) -> Float64Array:
    """Time since the session opened over the longest of the five sessions before, in (0, 1]; 1 on daily bars of an exchange.

    Source  Admati & Pfleiderer (1988), Rev. Financial Studies 1: why open and close are unlike noon.
    """
    return _parts(b).session


def month_end_distance(b: BarArrays) -> Float64Array:
    """Share of the month's days that are still to come, in [0, 1).

    Source  Ariel (1987), J. Financial Economics 18: the turn of the month.
    """
    return _parts(b).to_come


def year_sin(b: BarArrays) -> Float64Array:
    """Sine of the day of the year at the market's place."""
    return _wave(np.sin(_YEAR), _parts(b).yearday)


def year_cos(b: BarArrays) -> Float64Array:
    """Cosine of the day of the year at the market's place."""
    return _wave(np.cos(_YEAR), _parts(b).yearday)


def days_since_bar(b: BarArrays) -> Float64Array:
    """log(1 + days between this close and the symbol's previous bar's): nights, weekends and holidays.

    Source  French (1980), J. Financial Economics 8: what happens while a market is closed.
    """

    days = np.diff(b.ts_ns, prepend=b.ts_ns[:1]) / NS_PER_DAY
    days[b.starts[:-1]] = np.nan
    return np.log1p(days)


def bars_missing(b: BarArrays) -> Float64Array:
    """log(1 + bars of the class's grid missing since the symbol's previous bar)."""
    return np.log1p(b.gap_bars)
