"""Every notation of a timestamp in a dump, as int64 nanoseconds since 1970, UTC.

One column speaks one notation: text (`2017-06-30 20:00:00`, with `T`, fractions, `Z` or an offset) or
integer epoch in s, ms, us or ns. The ranges of the epoch units do not meet, so that a unit is never guessed.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import polars as pl

from plusultra_core.arrays import Int64Array
from plusultra_core.clock import NS_PER_DAY, NS_PER_MS, NS_PER_S
from plusultra_core.errors import ContractError

UNIT_NS = {"epoch_s": NS_PER_S, "epoch_ms": NS_PER_MS, "epoch_us": 1_000, "epoch_ns": 1}
"""Nanoseconds in one step of each epoch notation."""
FIRST_EPOCH_S = 157_766_400
"""1975-01-01: earlier epochs could be another unit's; write them as text."""
LAST_EPOCH_S = 4_102_444_800
"""2100-01-01."""
FIRST_TEXT_NS = -(270 * 365 + 65) * NS_PER_DAY
"""1700-01-01, near the start of what int64 nanoseconds can say."""
LAST_TEXT_NS = LAST_EPOCH_S * NS_PER_S

_TEXT = r"^([0-9]{4}-[0-9]{2}-[0-9]{2})([ T])([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}(?::?[0-9]{2})?)?$"
_USUAL = r"^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-5][0-9]$"
_BAD = "unreadable"


@dataclass(frozen=True, slots=True)
class ParsedTimes:
    """A column of timestamps, read.

    `ts_ns` is null where a value could not be read; `notation` names each value's notation and is null
    for a null; `notations` lists the notations found, most frequent first.
    """

    ts_ns: pl.Series
    notation: pl.Series
    notations: tuple[str, ...]

    @property
    def has_offset(self) -> bool:
        """Whether some value carried an offset from UTC."""
        return any(name.endswith("offset") for name in self.notations)


def parse_times(values: pl.Series) -> ParsedTimes:
    """Read a column of text or integers; what cannot be read becomes null with notation `unreadable`.

    Shapes  values (N,) String or Int64; both results (N,).
    Units   result in int64 nanoseconds since 1970, UTC.
    NaN     null stays null.
    Raises  ContractError for another dtype.
    """
    name = values.name
    if (usual := _parse_usual(values)) is not None:
        notation = pl.select(pl.when(values.is_not_null()).then(pl.lit("text_space")).alias(name)).to_series()
        return ParsedTimes(usual, notation, ("text_space",))
    distinct = pl.DataFrame({"value": values.unique()})
    if values.dtype == pl.String:
        parsed = _parse_text(distinct)
    elif values.dtype.is_integer():
        parsed = _parse_epoch(distinct)
    elif values.dtype == pl.Null:
        parsed = distinct.with_columns(ts_ns=pl.lit(None, pl.Int64), notation=pl.lit(None, pl.String))
    else:
        raise ContractError(f"{name}: expected timestamps as text or integer epoch, found {values.dtype}")
    joined = pl.DataFrame({"value": values}).join(parsed, on="value", how="left", maintain_order="left")
    counts = joined.group_by("notation").len().filter(pl.col("notation").is_not_null() & (pl.col("notation") != _BAD))
    ordered = counts.sort(["len", "notation"], descending=[True, False])["notation"].to_list()
    return ParsedTimes(joined["ts_ns"].alias(name), joined["notation"].alias(name), tuple(ordered))


def to_ns(values: pl.Series, where: str) -> pl.Series:
    """A column of timestamps in one notation as nanoseconds.

    Raises  ContractError when a value is missing or unreadable, or two notations are mixed.
    """
    parsed = parse_times(values)
    if len(parsed.notations) > 1:
        raise ContractError(f"{where}: expected one notation, found {' and '.join(parsed.notations)}; write the column in one")
    if missing := parsed.ts_ns.null_count():
        first = values.filter(parsed.ts_ns.is_null())[0]
        raise ContractError(f"{where}: {missing} timestamps cannot be read, first {first!r}; write YYYY-MM-DD HH:MM:SS, UTC")
    return parsed.ts_ns


def _parse_usual(values: pl.Series) -> pl.Series | None:
    """Times of a column of which every value is `2017-06-30 20:00:00`; None for any other, and for one without values."""
    if values.dtype != pl.String or values.null_count() == len(values) or not values.str.contains(_USUAL).all():
        return None
    wall_us = values.str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False).to_physical()
    if wall_us.null_count() > values.null_count() or not wall_us.is_between(FIRST_TEXT_NS // 1_000, LAST_TEXT_NS // 1_000).all():
        return None
    return wall_us * 1_000


def _parse_text(distinct: pl.DataFrame) -> pl.DataFrame:
    text = pl.col("value")
    parts = distinct.with_columns(part=text.str.extract_groups(_TEXT)).with_columns(
        date=pl.col("part").struct.field("1"),
        separator=pl.col("part").struct.field("2"),
        time=pl.col("part").struct.field("3"),
        fraction=pl.col("part").struct.field("4"),
        zone=pl.col("part").struct.field("5"),
    )
    moment = pl.concat_str([pl.col("date"), pl.lit(" "), pl.col("time")])
    wall_us = moment.str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False).to_physical()
    in_range = wall_us.is_between(FIRST_TEXT_NS // 1_000, LAST_TEXT_NS // 1_000) & (pl.col("time").str.slice(6, 2) < "60")
    fraction_ns = pl.col("fraction").str.pad_end(9, "0").cast(pl.Int64).fill_null(0)
    ts_ns = pl.when(in_range).then(wall_us * 1_000 + fraction_ns - _offset_ns(pl.col("zone")))
    kind = pl.when(pl.col("zone").is_null()).then(pl.lit("")).when(pl.col("zone") == "Z").then(pl.lit("Z")).otherwise(pl.lit("+offset"))
    separator = pl.when(pl.col("separator") == "T").then(pl.lit("T")).otherwise(pl.lit("space"))
    notation = pl.concat_str([pl.lit("text_"), separator, kind])
    read = parts.with_columns(ts_ns=ts_ns).with_columns(
        notation=pl.when(text.is_null()).then(None).when(pl.col("ts_ns").is_null()).then(pl.lit(_BAD)).otherwise(notation)
    )
    digits = text.str.contains(r"^-?[0-9]{1,19}$")
    if not distinct.select(digits.any()).item():
        return read.select("value", "ts_ns", "notation")
    numbers = _parse_epoch(distinct.select(pl.when(digits).then(text).cast(pl.Int64, strict=False).alias("value")))
    epochs = distinct.select("value", digits=digits).with_columns(numbers.select("ts_ns", pl.col("notation").alias("epoch")))
    both = read.select("value", "notation", text_ns="ts_ns").hstack(epochs.select("digits", "ts_ns", "epoch"))
    return both.select(
        "value",
        ts_ns=pl.when("digits").then("ts_ns").otherwise("text_ns"),
        notation=pl.when("digits").then("epoch").otherwise("notation"),
    )


def _offset_ns(zone: pl.Expr) -> pl.Expr:
    """Nanoseconds east of UTC; null (unreadable) beyond 18 hours."""
    signed = zone.str.slice(0, 1).replace_strict({"+": 1, "-": -1}, default=None, return_dtype=pl.Int64)
    digits = zone.str.slice(1).str.replace_all(":", "", literal=True).str.pad_end(4, "0")
    hours = digits.str.slice(0, 2).cast(pl.Int64, strict=False)
    minutes = digits.str.slice(2, 2).cast(pl.Int64, strict=False)
    offset = pl.when((hours < 18) & (minutes < 60)).then(signed * (hours * 3_600 + minutes * 60) * NS_PER_S)
    return pl.when(zone.is_null() | (zone == "Z")).then(0).otherwise(offset)


def _parse_epoch(distinct: pl.DataFrame) -> pl.DataFrame:
    value = pl.col("value")
    ts_ns: pl.Expr = pl.lit(None, pl.Int64)
    notation: pl.Expr = pl.when(value.is_not_null()).then(pl.lit(_BAD))
    for name, unit_ns in UNIT_NS.items():
        steps_per_s = NS_PER_S // unit_ns
        inside = value.is_between(FIRST_EPOCH_S * steps_per_s, LAST_EPOCH_S * steps_per_s)
        ts_ns = pl.when(inside).then(value * unit_ns).otherwise(ts_ns)
        notation = pl.when(inside).then(pl.lit(name)).otherwise(notation)
    return distinct.select("value", ts_ns=ts_ns.cast(pl.Int64), notation=notation)


def local_days(ts_ns: Int64Array, zone: str) -> Int64Array:
    """The date that a clock in a time zone shows at each time, as days since 1970.

    Shapes  ts_ns (N,), N >= 1; result (N,).
    """
    years = (int(ns) // (146_097 * NS_PER_DAY // 400) + 1970 for ns in (ts_ns.min(), ts_ns.max()))  # by their mean length: near enough
    since_ns, ahead_ns = _ahead(zone, *(year // 10 * 10 for year in years))
    days: Int64Array = (ts_ns + ahead_ns[np.searchsorted(since_ns, ts_ns, side="right") - 1]) // NS_PER_DAY
    return days


@lru_cache(maxsize=32)
def _ahead(zone: str, first_decade: int, last_decade: int) -> tuple[Int64Array, Int64Array]:
    """How far a zone was ahead of UTC in some decades, with a year to spare: since when, and the nanoseconds."""

    def ahead_s(seconds: Int64Array) -> Int64Array:
        utc = pl.from_epoch(pl.Series(seconds), time_unit="s").dt.replace_time_zone("UTC")
        return (utc.dt.convert_time_zone(zone).dt.replace_time_zone(None).dt.timestamp("ms") // 1000).to_numpy() - seconds

    day_s = NS_PER_DAY // NS_PER_S
    grid = np.arange((first_decade - 1971) * 365 * day_s, (last_decade - 1957) * 366 * day_s, day_s)
    found = ahead_s(grid)
    turns = np.flatnonzero(found[1:] != found[:-1])
    before, after = grid[turns], grid[turns + 1]
    while (after - before > 1).any():
        middle = (before + after) // 2
        is_old = ahead_s(middle) == found[turns]
        before, after = np.where(is_old, middle, before), np.where(is_old, after, middle)
    return np.append(np.iinfo(np.int64).min, after * NS_PER_S), found[np.append(0, turns + 1)] * NS_PER_S
