"""Where a bar stands in the day, the week, the month and the year of its market. Known in advance, so never a leak."""

from typing import NamedTuple

import numpy as np
import polars as pl

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.clock import NS_PER_DAY
from plusultra_core.data.calendars import session_times
from plusultra_core.features import indicators
from plusultra_core.features.arrays import BarArrays

_WEEK, _DAY, _YEAR = 7.0, 1440.0, 365.25
_BEFORE_NS = 30 * NS_PER_DAY


class _Parts(NamedTuple):
    """Of each moment of the class."""

    week: Float64Array
    """(2, M) sine and cosine."""
    day: Float64Array
    year: Float64Array
    to_come: Float64Array
    session: Float64Array


def _parts(b: BarArrays) -> _Parts:
    def make() -> _Parts:
        # A bar that closes at midnight belongs to the day that ends there.
        weekday, minute, yearday, to_come = indicators.calendar_parts(_wall_ns(b.times_ns - 1, b.session_tz))
        waves = (_wave(weekday + 1, _WEEK), _wave(minute + 1, _DAY), _wave(yearday, _YEAR))
        return _Parts(*waves, to_come, _session(b.times_ns, b.calendar))

    return b.of_moments("calendar", make)


def _wall_ns(times_ns: Int64Array, zone: str) -> Int64Array:
    """What a clock on the wall there shows, as nanoseconds since 1970-01-01."""
    if zone == "UTC":
        return times_ns
    there = pl.from_epoch(pl.col("ts_ns"), time_unit="ns").dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    wall = pl.DataFrame({"ts_ns": times_ns}).select(there.dt.replace_time_zone(None).cast(pl.Int64))
    return wall.get_column("ts_ns").to_numpy()


def _wave(count: Int64Array, length: float) -> Float64Array:
    angle = 2.0 * np.pi * count / length
    return np.stack([np.sin(angle), np.cos(angle)])


def _at_bars(values: Float64Array, b: BarArrays) -> Float64Array:
    place = b.once("calendar_place", lambda: indicators.place_of_times(b.ts_ns, b.starts, b.times_ns))
    return values[place]


def _session(times_ns: Int64Array, calendar: str) -> Float64Array:
    """Time since the last opening over the longest of the five sessions before, at most 1.

    The length of the session itself is not asked: that a day will close early is not always known when it opens.
    NaN     before the calendar's sixth session, and wherever it is not recorded.
    """
    if not times_ns.size:
        return np.zeros(0)
    opens_ns, closes_ns = session_times(calendar, int(times_ns[0]) - _BEFORE_NS, int(times_ns[-1]))
    if not opens_ns.size:
        return np.full(times_ns.size, np.nan)
    lengths = (closes_ns - opens_ns).astype(np.float64)
    usual_ns = np.full(lengths.size, np.nan)
    usual_ns[5:] = np.lib.stride_tricks.sliding_window_view(lengths, 5).max(axis=1)[:-1] if lengths.size > 5 else np.nan
    last = np.searchsorted(opens_ns, times_ns, side="left") - 1
    since_ns = (times_ns - opens_ns[last]).astype(np.float64)
    return np.where(last >= 0, np.minimum(since_ns / usual_ns[last], 1.0), np.nan)


def day_of_week_sin(b: BarArrays) -> Float64Array:
    """Sine of the day of the week at the market's place."""
    return _at_bars(_parts(b).week[0], b)


def day_of_week_cos(b: BarArrays) -> Float64Array:
    """Cosine of the day of the week at the market's place."""
    return _at_bars(_parts(b).week[1], b)


def hour_of_day_sin(b: BarArrays) -> Float64Array:
    """Sine of the local time of the close; constant on daily bars."""
    return _at_bars(_parts(b).day[0], b)


def hour_of_day_cos(b: BarArrays) -> Float64Array:
    """Cosine of the local time of the close; constant on daily bars."""
    return _at_bars(_parts(b).day[1], b)


def session_position(b: BarArrays) -> Float64Array:
    """Time since the session opened over the longest of the five sessions before, in (0, 1]; 1 on daily bars of an exchange.

    Source  Admati & Pfleiderer (1988), Rev. Financial Studies 1: why open and close are unlike noon.
    """
    return _at_bars(_parts(b).session, b)


def month_end_distance(b: BarArrays) -> Float64Array:
    """Share of the month's days that are still to come, in [0, 1).

    Source  Ariel (1987), J. Financial Economics 18: the turn of the month.
    """
    return _at_bars(_parts(b).to_come, b)


def year_sin(b: BarArrays) -> Float64Array:
    """Sine of the day of the year at the market's place."""
    return _at_bars(_parts(b).year[0], b)


def year_cos(b: BarArrays) -> Float64Array:
    """Cosine of the day of the year at the market's place."""
    return _at_bars(_parts(b).year[1], b)


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
