"""When a market trades: its sessions, the windows of its bars, and which of them a symbol lacks.

Calendars are known ahead, so nothing here looks at prices and no count at t depends on what follows t.
"""

import datetime
import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl

from plusultra_core.arrays import Int64Array
from plusultra_core.clock import NS_PER_DAY, bar_ns, iso
from plusultra_core.data.contract.runs import Runs
from plusultra_core.data.gate.timestamps import local_days
from plusultra_core.errors import ConfigError
from plusultra_core.market import MarketConfig

CONTINUOUS = ("24/7", "24/5")
"""Calendars without an exchange; 24/5 is the week of currencies, Sunday 17:00 to Friday 17:00 in New York."""

_EPOCH = datetime.date(1970, 1, 1).toordinal()
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday
_WEEK_NS = 7 * NS_PER_DAY
_WEEK_OFFSET_NS = (7 - _EPOCH_WEEKDAY) * NS_PER_DAY  # weeks end on Monday 00:00 UTC
_HOLIDAYS_NS = 15 * NS_PER_DAY  # no exchange closes for longer, storms and golden weeks included
_FX_TZ, _FX_HOUR = "America/New_York", 17
_FX_HOLIDAYS = ((12, 25), (1, 1))  # traded by some, not by others: bars may be there and need not
_SESSION = {"session": pl.Date, "open_ns": pl.Int64, "close_ns": pl.Int64, "early_close": pl.Boolean}


def sessions(calendar: str, first_ns: int, last_ns: int) -> pl.DataFrame:
    """Sessions that touch [first_ns, last_ns]: session (its date), open_ns, close_ns, early_close; rising.

    Raises  ConfigError for a calendar that exchange_calendars does not have, or not for that time.
    """
    if calendar == "24/7":
        days = pl.Series(range(first_ns // NS_PER_DAY, last_ns // NS_PER_DAY + 1), dtype=pl.Int64)
        frame = pl.DataFrame({"session": days.cast(pl.Int32).cast(pl.Date), "open_ns": days * NS_PER_DAY})
        frame = frame.with_columns(close_ns=pl.col("open_ns") + NS_PER_DAY, early_close=False)
    elif calendar == "24/5":
        frame = _fx_sessions(*_decades(first_ns, last_ns))
    else:
        frame = _exchange(calendar, *_decades(first_ns, last_ns))
    return frame.filter((pl.col("close_ns") >= first_ns) & (pl.col("open_ns") <= last_ns)).select(*_SESSION)


def session_times(calendar: str, first_ns: int, last_ns: int) -> tuple[Int64Array, Int64Array]:
    """Opening and end of the sessions that touch [first_ns, last_ns], rising: `sessions` for who asks often.

    Raises  as `sessions`.
    """
    opens_ns, closes_ns = _session_times(calendar, *_decades(first_ns, last_ns))
    part = slice(int(np.searchsorted(closes_ns, first_ns)), int(np.searchsorted(opens_ns, last_ns, side="right")))
    return opens_ns[part], closes_ns[part]


@lru_cache(maxsize=32)
def _session_times(calendar: str, first_year: int, last_year: int) -> tuple[Int64Array, Int64Array]:
    if calendar == "24/7":
        first, last = (datetime.date(year, 1, 1).toordinal() - _EPOCH for year in (first_year - 1, last_year + 2))
        opens_ns = np.arange(first, last) * NS_PER_DAY
        return opens_ns, opens_ns + NS_PER_DAY
    known = _fx_sessions(first_year, last_year) if calendar == "24/5" else _exchange(calendar, first_year, last_year)
    return known["open_ns"].to_numpy(), known["close_ns"].to_numpy()


@lru_cache(maxsize=32)
def _fx_sessions(first_year: int, last_year: int) -> pl.DataFrame:
    """Days of the currencies' week: from 17:00 in New York to 17:00, under the date of their end; with a year to spare at both ends."""
    days = pl.date_range(datetime.date(first_year - 1, 1, 1), datetime.date(last_year + 1, 12, 31), eager=True)
    frame = pl.DataFrame({"session": days}).filter(pl.col("session").dt.weekday() <= 5)
    end = pl.col("session").cast(pl.Datetime("ns")) + pl.duration(hours=_FX_HOUR)
    frame = frame.with_columns(
        open_ns=_local_ns(end - pl.duration(days=1), _FX_TZ), close_ns=_local_ns(end, _FX_TZ), early_close=pl.lit(False)
    )
    return frame.filter(~_is_fx_holiday("session"))


def _local_ns(local: pl.Expr, zone: str) -> pl.Expr:
    return local.dt.replace_time_zone(zone).dt.timestamp("ns")


def _is_fx_holiday(date: str) -> pl.Expr:
    return pl.any_horizontal((pl.col(date).dt.month() == month) & (pl.col(date).dt.day() == day) for month, day in _FX_HOLIDAYS)


def _decades(first_ns: int, last_ns: int) -> tuple[int, int]:
    """First and last year of the decades that a span touches: a history that grows asks for the same again."""
    first, last = (datetime.date.fromordinal(_EPOCH + ns // NS_PER_DAY).year for ns in (first_ns, last_ns))
    return first // 10 * 10, last // 10 * 10 + 9


@lru_cache(maxsize=32)
def _exchange(calendar: str, first_year: int, last_year: int) -> pl.DataFrame:
    """Sessions of an exchange with a year to spare at both ends, as far as its calendar is recorded; today does not matter."""
    import exchange_calendars

    start, end = f"{first_year - 1}-01-01", f"{last_year + 1}-12-31"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of pandas, about what exchange_calendars does inside
            usual = exchange_calendars.get_calendar(calendar)
            least, most = usual.bound_min(), usual.bound_max()
            start = start if least is None else max(start, least.date().isoformat())
            end = end if most is None else min(end, most.date().isoformat())
            if start > end:
                return pl.DataFrame(schema={**_SESSION, "break_ns": pl.Int64, "resume_ns": pl.Int64})
            known = exchange_calendars.get_calendar(calendar, start=start, end=end)
            early = set(known.early_closes)
    except (ValueError, exchange_calendars.errors.CalendarError) as error:
        raise ConfigError(
            f"calendar: {calendar!r} from {start} to {end} is not to be had ({error}); name 24/7, 24/5 or one that is"
        ) from error
    frame = pl.DataFrame({"session": _ns(known.sessions), "open_ns": _ns(known.opens), "close_ns": _ns(known.closes)})
    breaks = pl.DataFrame({"break_ns": _ns(known.break_starts), "resume_ns": _ns(known.break_ends)})
    date = pl.from_epoch("session", time_unit="ns").cast(pl.Date)
    flags = pl.Series("early_close", [session in early for session in known.sessions], dtype=pl.Boolean)
    return frame.with_columns(date, flags).hstack(breaks)


def _ns(times: Any) -> pl.Series:
    """Times of pandas as integers, null where there is none."""
    naive = times.dt.tz_localize(None) if hasattr(times, "dt") else times
    return pl.Series(naive.to_numpy().astype("datetime64[ns]")).dt.timestamp("ns")


def window_ends(ts_ns: pl.Series, market: MarketConfig) -> pl.Series:
    """End of the window (end before, end] of the class's grid that each time belongs to; whatever comes after a close belongs to the next.

    Without an exchange windows are multiples of the bar in UTC, weeks end on Monday 00:00. On an exchange a day ends
    with its session, a week with its last one, shorter bars count from the open and the last of them ends at the close.
    Raises  ConfigError for bars of several days on an exchange.
    """
    length_ns = bar_ns(market.bar)
    if market.calendar in CONTINUOUS:
        offset_ns = _WEEK_OFFSET_NS if length_ns % _WEEK_NS == 0 else 0
        return pl.Series(ts_ns.name, -(-(ts_ns.to_numpy() - offset_ns) // length_ns) * length_ns + offset_ns)
    first_ns, last_ns = int(ts_ns.min()) - _HOLIDAYS_NS, int(ts_ns.max()) + _HOLIDAYS_NS  # type: ignore[arg-type]
    known = sessions(market.calendar, first_ns, last_ns)
    if known.is_empty() or known["open_ns"][0] > first_ns + _HOLIDAYS_NS or known["close_ns"][-1] < last_ns - _HOLIDAYS_NS:
        raise ConfigError(
            f"{market.asset_class}.calendar: {market.calendar} is not recorded for all of {iso(first_ns + _HOLIDAYS_NS)} to "
            f"{iso(last_ns - _HOLIDAYS_NS)}; resample what it reaches, or name another calendar"
        )
    if length_ns > NS_PER_DAY:
        _only_weeks(market)
        known = known.with_columns(close_ns=pl.col("close_ns").last().over(pl.col("session").dt.truncate("1w")))
    here = known[known["close_ns"].search_sorted(ts_ns, side="left")]
    if length_ns >= NS_PER_DAY:
        return here["close_ns"]
    passed = ((ts_ns - here["open_ns"] - 1) // length_ns).clip(lower_bound=0)
    return pl.select(pl.min_horizontal(here["open_ns"] + (passed + 1) * length_ns, here["close_ns"]).alias("end_ns")).to_series()


def _only_weeks(market: MarketConfig) -> None:
    if bar_ns(market.bar) != _WEEK_NS:
        raise ConfigError(f"{market.asset_class}.bar: {market.bar} of sessions of {market.calendar} is not defined; use 1w, 1d or less")


def windows(market: MarketConfig, first_ns: int, last_ns: int) -> pl.DataFrame:
    """Windows of the class's grid that end in the days of [first_ns, last_ns]: key, end_ns, session, required, early_close; rising.

    A bar belongs to the window of its `window_keys`. Where `required` is false a bar may be there and need not:
    Sunday evening, 25 December and 1 January of 24/5.
    """
    length_ns = bar_ns(market.bar)
    if market.calendar in CONTINUOUS:
        return _continuous(market, first_ns, last_ns + length_ns)
    if length_ns > NS_PER_DAY:
        _only_weeks(market)
    spare_ns = max(length_ns, 2 * NS_PER_DAY)
    inside = (pl.col("close_ns") >= first_ns - spare_ns) & (pl.col("open_ns") <= last_ns + spare_ns)
    known = _exchange(market.calendar, *_decades(first_ns, last_ns)).filter(inside).with_columns(required=pl.lit(True))
    if length_ns == NS_PER_DAY:
        known = known.with_columns(key=pl.col("session").cast(pl.Int64), end_ns="close_ns")
    elif length_ns > NS_PER_DAY:
        known = known.group_by(pl.col("session").dt.truncate("1w").alias("week"), maintain_order=True).agg(pl.all().last())
        known = known.with_columns(key=pl.col("week").cast(pl.Int64), end_ns="close_ns")
    else:
        steps = pl.int_ranges(pl.col("open_ns") + length_ns, pl.col("close_ns") + length_ns, length_ns)
        known = known.with_columns(end_ns=steps).explode("end_ns")
        resting = (pl.col("end_ns") - length_ns >= pl.col("break_ns")) & (pl.col("end_ns") <= pl.col("resume_ns"))
        known = known.filter(~resting.fill_null(False)).with_columns(end_ns=pl.min_horizontal("end_ns", "close_ns"))
        known = known.with_columns(key="end_ns")
    return known.select("key", "end_ns", "session", "required", "early_close")


def _continuous(market: MarketConfig, first_ns: int, last_ns: int) -> pl.DataFrame:
    length_ns = bar_ns(market.bar)
    first, last = window_ends(pl.Series([first_ns, last_ns]), market).to_list()
    frame = pl.select(end_ns=pl.int_range(first, last + 1, length_ns, dtype=pl.Int64))
    frame = frame.with_columns(session=pl.from_epoch(pl.col("end_ns") - 1, time_unit="ns").cast(pl.Date), early_close=pl.lit(False))
    required = pl.lit(True)
    if market.calendar == "24/5" and length_ns < _WEEK_NS:
        start, end = (
            pl.from_epoch(pl.col("end_ns") - back_ns, time_unit="ns").dt.replace_time_zone("UTC").dt.convert_time_zone(_FX_TZ)
            for back_ns in (length_ns, 1)
        )
        open_then = pl.any_horizontal(_in_fx_week(start), _in_fx_week(end))
        frame = frame.filter((pl.col("session").dt.weekday() != 6) if length_ns >= NS_PER_DAY else open_then)
        evening = (pl.col("session").dt.weekday() == 7) & (length_ns >= NS_PER_DAY)
        required = ~_is_fx_holiday("session") & ~evening
    return frame.select(pl.col("end_ns").alias("key"), "end_ns", "session", required.alias("required"), "early_close")


def _in_fx_week(local: pl.Expr) -> pl.Expr:
    day, hour = local.dt.weekday(), local.dt.hour()
    return (day < 5) | ((day == 5) & (hour < _FX_HOUR)) | ((day == 7) & (hour >= _FX_HOUR))


def window_keys(ts_ns: pl.Series, market: MarketConfig) -> pl.Series:
    """Key of the window that a bar of the grid fills: its end, and on an exchange from days on its local date or week.

    A daily bar is known by its date, so that it may be stamped at the close, after an early close or at midnight.
    """
    length_ns = bar_ns(market.bar)
    if market.calendar in CONTINUOUS or length_ns < NS_PER_DAY:
        return window_ends(ts_ns, market)
    days = local_days(ts_ns.to_numpy() - 1, market.session_tz)
    return pl.Series(ts_ns.name, days - (days + _EPOCH_WEEKDAY) % 7 if length_ns > NS_PER_DAY else days)


def expected_closes(market: MarketConfig, first_ns: int, last_ns: int) -> pl.Series:
    """Ends of the class's bars in [first_ns, last_ns] by its calendar, rising; those that need not be there are left out."""
    known = windows(market, first_ns, last_ns).filter("required")
    return known.filter(pl.col("end_ns").is_between(first_ns, last_ns))["end_ns"]


def _placed(bars: pl.DataFrame, market: MarketConfig, known: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Each bar with its key, `skipped` and `reached` (places of the windows required since the bar before); and those of `known`."""
    required = known.filter("required")
    keys = window_keys(bars["ts_ns"], market)
    before, through = (required["key"].search_sorted(keys, side=side).cast(pl.Int64) for side in ("left", "right"))
    placed = bars.select("symbol", "ts_ns").with_columns(
        key=keys, reached=before, through=through, known=keys.is_in(known["key"].implode())
    )
    skipped = pl.col("through").shift().over("symbol").fill_null(pl.col("reached"))
    return placed.with_columns(skipped=skipped), required


def recorded(bars: pl.DataFrame, market: MarketConfig) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Bars at times that the calendar reaches (beyond, nobody knows what is missing), and its windows from the first to the last."""
    known = windows(market, *_span(bars))
    ends_ns = [0, 0] if known.is_empty() else known["end_ns"][[0, -1]].to_list()
    reached = bars.filter(pl.col("ts_ns").is_between(ends_ns[0] - _HOLIDAYS_NS, ends_ns[1] + _HOLIDAYS_NS) & (known.height > 0))
    return reached, known if reached.height in (0, bars.height) else windows(market, *_span(reached))


def _span(bars: pl.DataFrame) -> tuple[int, int]:
    return int(bars["ts_ns"].min()), int(bars["ts_ns"].max())  # type: ignore[arg-type]


def gap_bars(bars: pl.DataFrame, market: MarketConfig) -> pl.Series:
    """Bars of the class's calendar that are missing since the symbol's bar before; 0 at its first, and where no calendar reaches.

    Shapes  bars: symbol, ts_ns, sorted by them; result (rows,), Int32.
    Looks   back to the bar before, and at the calendar in between.
    """
    if bars.is_empty():
        return pl.Series("gap_bars", [], dtype=pl.Int32)
    keys = window_keys(bars["ts_ns"], market).to_numpy()
    if market.calendar == "24/7":  # every window must be there
        reached = keys // bar_ns(market.bar)
        through = reached + 1
    else:
        reached, through = _counted(market, keys, *_span(bars))
    skipped = np.append(0, through[:-1])
    firsts = Runs.of(bars).starts
    skipped[firsts] = reached[firsts]
    return pl.Series("gap_bars", np.maximum(reached - skipped, 0).astype(np.int32))


def _counted(market: MarketConfig, keys: Int64Array, first_ns: int, last_ns: int) -> tuple[Int64Array, Int64Array]:
    """How many windows of the class that must be there come before each key, and how many with it; `keys` are of times in between."""
    if bar_ns(market.bar) < NS_PER_DAY:
        known = windows(market, first_ns, last_ns)
        required = known["key"].filter(known["required"]).to_numpy()
        return np.searchsorted(required, keys), np.searchsorted(required, keys, side="right")
    first, step, before = _tally(market, *_decades(first_ns, last_ns))
    place = np.clip((keys - first) // step, 0, before.size - 2)
    return before[place], before[place + 1]


@lru_cache(maxsize=32)
def _tally(market: MarketConfig, first_year: int, last_year: int) -> tuple[int, int, Int64Array]:
    """Windows of days or weeks that must be there in some years: the first key, the step from key to key, how many come before each."""
    start_ns, end_ns = ((datetime.date(*day).toordinal() - _EPOCH) * NS_PER_DAY for day in ((first_year, 1, 1), (last_year, 12, 31)))
    known = windows(market, start_ns, end_ns)
    required = known["key"].filter(known["required"]).to_numpy()
    step = bar_ns(market.bar) if market.calendar in CONTINUOUS else 1
    first, last = window_keys(pl.Series([start_ns - 7 * NS_PER_DAY, end_ns + 8 * NS_PER_DAY]), market).to_list()
    return first, step, np.searchsorted(required, np.arange(first, last + 2 * step, step))


def audit_gaps(bars: pl.DataFrame, market: MarketConfig, max_days: int) -> pl.DataFrame:
    """What each symbol lacks and has beyond the class's calendar, between its own first and last bar.

    Shapes  bars: symbol, ts_ns, sorted; result, one row a symbol: first_ns, last_ns, expected, present, missing,
            missing_days (the first `max_days` ends of them), extra (bars outside every window, or second in one),
            extra_days, early_closes (sessions that closed early and have their bar).
    Looks   at times alone; bars at times that the calendar is not recorded for are left out.
    """
    bars, known = recorded(bars, market) if bars.height else (bars, bars)
    if bars.is_empty():
        return pl.DataFrame(schema=_AUDIT)
    placed, required = _placed(bars, market, known)
    extra = ~pl.col("known") | ~pl.col("key").is_first_distinct().over("symbol")
    early = pl.col("key").is_in(required.filter("early_close")["key"].implode())
    hit = pl.col("through") > pl.col("reached")
    facts = placed.group_by("symbol", maintain_order=True).agg(
        first_ns=pl.col("ts_ns").first(),
        last_ns=pl.col("ts_ns").last(),
        expected=pl.col("through").last() - pl.col("reached").first(),
        present=(hit & ~extra).sum().cast(pl.Int64),
        extra=extra.sum().cast(pl.Int64),
        extra_days=pl.col("ts_ns").filter(extra).head(max_days),
        early_closes=(early & ~extra).sum().cast(pl.Int64),
    )
    holes = placed.filter(pl.col("reached") > pl.col("skipped")).select("symbol", place=pl.int_ranges("skipped", "reached"))
    lost = holes.explode("place").with_columns(end_ns=required["end_ns"].gather(holes.explode("place")["place"]))
    named = lost.group_by("symbol", maintain_order=True).agg(missing=pl.len().cast(pl.Int64), missing_days=pl.col("end_ns").head(max_days))
    audit = facts.join(named, on="symbol", how="left", maintain_order="left").with_columns(pl.col("missing").fill_null(0))
    stamps = [pl.col(name).fill_null([]).list.eval(_stamp()).cast(pl.List(pl.String)) for name in ("missing_days", "extra_days")]
    return audit.with_columns(stamps).select(_AUDIT.names())


def _stamp() -> pl.Expr:
    return pl.from_epoch(pl.element(), time_unit="ns").dt.strftime("%Y-%m-%dT%H:%M:%SZ")


_AUDIT = pl.Schema(
    {"symbol": pl.String, "first_ns": pl.Int64, "last_ns": pl.Int64, "expected": pl.Int64, "present": pl.Int64, "missing": pl.Int64}
    | {"missing_days": pl.List(pl.String), "extra": pl.Int64, "extra_days": pl.List(pl.String), "early_closes": pl.Int64}
)


def describe_audit(audit: pl.DataFrame, market: MarketConfig) -> str:
    """One sentence on an audit, for a warning; empty where nothing is missing and nothing is there twice or outside."""
    odd = audit.filter((pl.col("missing") > 0) | (pl.col("extra") > 0)).sort("missing", "extra", "symbol", descending=[True, True, False])
    if odd.is_empty():
        return ""
    worst = odd.row(0, named=True)
    return (
        f"bars: {odd.height} of {audit.height} symbols differ from the calendar {market.calendar}, {odd['missing'].sum()} bars missing, "
        f"{odd['extra'].sum()} outside it; most in {worst['symbol']} ({worst['missing']} missing since {iso(worst['first_ns'])}); "
        "nothing is filled, gap_bars says where"
    )
