"""Side tables and the dump's own indicators, as they were known at each bar.

Everything joins backward as-of on `known_ns` and grows no older than the config allows. A table that
the dump does not have leaves its columns null.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
import polars as pl

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.artifacts import sha256_bytes
from plusultra_core.clock import NS_PER_DAY, NS_PER_HOUR
from plusultra_core.errors import ConfigError
from plusultra_core.features import joins, kernels
from plusultra_core.features.joins import Keys, Rows
from plusultra_core.features.kernels import ratio

_HOURS_PER_YEAR = 8760.0
_EVENT = r"^(.*)\.([^.]*)$"  # <event>.<part>; an event, or its several keys, may hold dots itself
_PLAIN = re.compile(r"[a-z0-9][a-z0-9_]{0,59}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """Where one side column comes from."""

    table: str
    """A side table, or `indicators` for indicators of the dump (not for funding and macro)."""
    fields: tuple[str, ...]
    """Fields of the side table; the first that has a value at a bar is taken. Rows without symbol serve every symbol."""
    max_staleness_hours: float
    scale: float
    """Factor on the value: 0.01 turns percent into a fraction."""

    def __post_init__(self) -> None:
        if not self.fields:
            raise ConfigError("fields: expected at least one field name")
        if self.max_staleness_hours <= 0:
            raise ConfigError(f"max_staleness_hours: expected > 0, found {self.max_staleness_hours}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MacroConfig:
    """Which dated events count, and how surprise is scaled."""

    table: str
    events: tuple[str, ...]
    """Event names; `*` for all."""
    max_staleness_hours: float
    min_count: int
    """Changes of an event that must be known before one is called large or small."""

    def __post_init__(self) -> None:
        if self.max_staleness_hours <= 0 or self.min_count < 2:
            raise ConfigError(f"macro: expected max_staleness_hours > 0 and min_count >= 2, found {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class AlternativeConfig:
    """Sources of the alternative family."""

    funding: SourceConfig
    funding_interval_hours: float
    """Hours between payments where the table does not say (`interval_hours`)."""
    implied_vol: SourceConfig
    """Implied volatility of the symbol itself, a fraction a year."""
    market_vol: SourceConfig
    """Implied volatility of the market as a whole."""
    rate_short: SourceConfig
    rate_long: SourceConfig
    macro: MacroConfig
    open_interest: SourceConfig
    """Open interest of the symbol, in any one unit."""
    onchain: SourceConfig
    """Activity on the symbol's chain: transactions, active addresses."""
    extra: dict[str, SourceConfig]
    """More side columns by name: `side_<name>` is the value in deviations from its own past."""

    def __post_init__(self) -> None:
        for name in self.extra:
            if not _PLAIN.fullmatch(name):
                raise ConfigError(f"extra: expected names of lower-case letters, digits and _, found {name!r}")
        if self.funding_interval_hours <= 0:
            raise ConfigError(f"funding_interval_hours: expected > 0, found {self.funding_interval_hours}")


@dataclass(frozen=True, kw_only=True, slots=True)
class IndicatorsConfig:
    """Which indicators of the dump become columns, and how they are scaled."""

    names: tuple[str, ...]
    """Indicator names; `*` for all there are."""
    max_columns: int
    """At most so many indicators under `*`, the first by name."""
    z_window: int
    """Observations of the indicator itself that its deviation is measured against."""
    z_min_count: int
    clip: float
    max_staleness_hours: float

    def __post_init__(self) -> None:
        if self.max_columns < 0 or self.z_min_count < 2 or self.z_window < self.z_min_count:
            raise ConfigError(f"indicators: expected max_columns >= 0 and 2 <= z_min_count <= z_window, found {self}")
        if self.clip <= 0 or self.max_staleness_hours <= 0:
            raise ConfigError(f"indicators: expected clip and max_staleness_hours > 0, found {self}")


def as_of(keys: pl.DataFrame, rows: pl.DataFrame, max_staleness_ns: int, by_symbol: bool) -> Float64Array:
    """The value that counted at each key, NaN where there is none or it is too old: `data.side_tables.as_of`, as an array.

    keys has symbol and known_ns, in any order of symbols, known_ns rising within each; rows has symbol,
    ts_ns, known_ns, value. A late revision of an older row does not displace a newer one.
    """
    order = np.lexsort((keys["known_ns"].to_numpy(), keys["symbol"].rank("dense").to_numpy()))
    found = _joined(joins.keys_of(keys.select("symbol", "known_ns")[order]), rows, max_staleness_ns, by_symbol)
    out = np.empty(found.size)
    out[order] = found
    return out


def _joined(keys: Keys, rows: pl.DataFrame, max_staleness_ns: int, by_symbol: bool) -> Float64Array:
    ordered = joins.own_rows(keys, rows) if by_symbol else joins.wide_rows(rows)
    return joins.take(ordered.value, joins.newest(keys, ordered, max_staleness_ns))


def _fields(side: pl.DataFrame, source: SourceConfig) -> list[pl.DataFrame]:
    needed = [name for name in ("symbol", "ts_ns", "known_ns", "expires_ns") if name in side.columns]
    mine = side.lazy().filter(pl.col("table") == source.table)
    fields = [mine.filter(pl.col("field") == field).select(*needed, pl.col("value") * source.scale).collect() for field in source.fields]
    return [rows for rows in fields if rows.height]


def _aligned(keys: Keys, rows: pl.DataFrame, source: SourceConfig) -> Float64Array:
    limit, num_wide = int(source.max_staleness_hours * NS_PER_HOUR), rows["symbol"].null_count()
    if num_wide == rows.height:
        return _joined(keys, rows, limit, by_symbol=False)
    out = _joined(keys, rows, limit, by_symbol=True)
    return joins.fill(out, _joined(keys, rows.filter(pl.col("symbol").is_null()), limit, by_symbol=False)) if num_wide else out


def _source(keys: Keys, side: pl.DataFrame, source: SourceConfig) -> Float64Array:
    return _first_there(keys, [_aligned(keys, rows, source) for rows in _fields(side, source)])


def _first_there(keys: Keys, found: list[Float64Array]) -> Float64Array:
    nothing = np.broadcast_to(np.nan, keys.known_ns.size)  # takes no memory
    return reduce(joins.fill, found) if found else nothing


def _funding(keys: Keys, side: pl.DataFrame, cfg: AlternativeConfig) -> Float64Array:
    """Funding rate a year: the rate of one payment times the payments in a year."""
    row = ["symbol", "ts_ns", "known_ns"]  # of one vintage: an interval that was corrected later was not that of the rate before
    hours = side.filter((pl.col("table") == cfg.funding.table) & (pl.col("field") == "interval_hours"))
    hours = hours.select(*row, pl.col("value").alias("hours")).unique(row, keep="last", maintain_order=True)
    found = []
    for rows in _fields(side, cfg.funding):
        rows = rows.join(hours, on=row, how="left", maintain_order="left", nulls_equal=True) if hours.height else rows
        every = pl.col("hours").fill_null(cfg.funding_interval_hours) if hours.height else pl.lit(cfg.funding_interval_hours)
        yearly = rows.with_columns(pl.when(every > 0).then(pl.col("value") * _HOURS_PER_YEAR / every).alias("value"))
        found.append(_aligned(keys, yearly, cfg.funding))
    return _first_there(keys, found)


def _macro(keys: Keys, side: pl.DataFrame, cfg: MacroConfig) -> tuple[Float64Array, Float64Array]:
    """Age in days of the newest known event, and its change in root mean squares of that event's past changes.

    A change is counted once for each time of the event, when it is news, and is from what was said last of the time
    before. A revision of the newest one is held against the same, and against the changes counted so far.
    """
    events = _events(side, cfg)
    key = ["event", "ts_ns", "known_ns"]
    actual = events.filter(pl.col("part") == "actual").select(*key, pl.col("value").alias("actual"))
    before = events.filter(pl.col("part") == "previous").select(*key, pl.col("value").alias("previous"))
    rows = actual.join(before, on=key, how="left").sort("event", "known_ns", "ts_ns")
    newest = pl.col("ts_ns").cum_max()
    news = (pl.col("ts_ns") > newest.shift()).fill_null(True).over("event")
    stood = pl.when(pl.col("ts_ns") >= newest).then("actual").forward_fill().shift().over("event")
    last = pl.when(news).then(stood).forward_fill().over("event")
    change = pl.col("actual") - pl.coalesce("previous", last)
    rows = rows.with_columns(change=change, counted=pl.when(news).then(change))
    num = pl.col("counted").cum_count()
    past = ((pl.col("counted") * pl.col("counted")).cum_sum().forward_fill() / num).sqrt()
    typical = pl.when(num >= cfg.min_count).then(past).over("event")
    surprise = pl.when(typical > 0).then(pl.col("change") / typical)
    rows = rows.with_columns(value=surprise.fill_null(np.nan), symbol=pl.lit(None, dtype=pl.String)).sort("known_ns", "ts_ns", "event")
    place = joins.newest(keys, ordered := joins.wide_rows(rows), int(cfg.max_staleness_hours * NS_PER_HOUR))
    age = joins.take(ordered.known_ns.astype(np.float64), place)
    np.subtract(keys.known_ns, age, out=age)
    age /= NS_PER_DAY
    return age, joins.take(ordered.value, place)


def _events(side: pl.DataFrame, cfg: MacroConfig) -> pl.DataFrame:
    """Rows of the events that count, with their event and part; those of a single symbol are nobody else's news."""
    event, part = (pl.col("field").str.extract(_EVENT, group) for group in (1, 2))
    mine = (pl.col("table") == cfg.table) & pl.col("value").is_not_null() & pl.col("symbol").is_null()
    events = side.filter(mine).with_columns(event=event, part=part)
    return events if "*" in cfg.events else events.filter(pl.col("event").is_in(list(cfg.events)))


def _with_indicators(side: pl.DataFrame, indicators: pl.DataFrame, cfg: AlternativeConfig) -> pl.DataFrame:
    """Side tables, and the indicators that a source names by `table: indicators`."""
    sources = (cfg.implied_vol, cfg.market_vol, cfg.rate_short, cfg.rate_long, cfg.open_interest, cfg.onchain)
    names = sorted({field for source in sources if source.table == "indicators" for field in source.fields})
    rows = indicators.filter(pl.col("name").is_in(names))
    if rows.is_empty():
        return side
    beside = rows.select(
        pl.lit("indicators").alias("table"), "symbol", pl.col("name").alias("field"), "ts_ns", "known_ns", pl.col("value").cast(pl.Float64)
    )
    return pl.concat([side, beside], how="diagonal_relaxed")  # indicators never expire


def side_arrays(keys: pl.DataFrame, side: pl.DataFrame, indicators: pl.DataFrame, cfg: AlternativeConfig) -> dict[str, Float64Array]:
    """Every side column that a feature may ask for, one value a bar.

    keys has symbol and known_ns of the bars. Columns of tables that are not there are all NaN.
    """
    at = joins.keys_of(keys)
    age_days, surprise = _macro(at, side.filter(pl.col("symbol").is_null()), cfg.macro)
    sources = (cfg.funding, cfg.implied_vol, cfg.market_vol, cfg.rate_short, cfg.rate_long, cfg.open_interest, cfg.onchain)
    limit = int(max(source.max_staleness_hours for source in sources) * NS_PER_HOUR)
    side = _with_indicators(joins.still_counting(at, side, limit), joins.still_counting(at, indicators, limit), cfg)
    return {
        "funding": _funding(at, side, cfg),
        "implied_vol": _source(at, side, cfg.implied_vol),
        "market_vol": _source(at, side, cfg.market_vol),
        "rate_short": _source(at, side, cfg.rate_short),
        "rate_long": _source(at, side, cfg.rate_long),
        "open_interest": _source(at, side, cfg.open_interest),
        "onchain": _source(at, side, cfg.onchain),
        "macro_age_days": age_days,
        "macro_surprise": surprise,
    }


def absent(column: str, side: pl.DataFrame, indicators: pl.DataFrame, cfg: AlternativeConfig) -> str:
    """What a side column would be made of where the dump has no value of it: table and fields; empty where it has one."""
    if column.startswith("macro_"):
        there = bool((_events(side, cfg.macro)["part"] == "actual").any())
        fields = tuple(f"{event}.actual" for event in cfg.macro.events)
        return "" if there else f"{cfg.macro.table}: {' or '.join(fields)}"
    source: SourceConfig = getattr(cfg, column)
    rows = (
        indicators.filter(pl.col("name").is_in(source.fields))
        if source.table == "indicators"
        else side.filter((pl.col("table") == source.table) & pl.col("field").is_in(source.fields))
    )
    return "" if rows["value"].count() else f"{source.table}: {' or '.join(source.fields)}"


def _z_of_found(rows: Rows, place: Int64Array, starts: Int64Array, cfg: IndicatorsConfig) -> Float64Array:
    """Deviations of the rows that were found, from sums that begin where those of all rows are made anew."""
    first = rows.starts[:-1]
    reach = -(-cfg.z_window // kernels.BLOCK) * kernels.BLOCK
    begin = first + np.maximum((joins.lowest(place, starts, rows.starts) - first) // kernels.BLOCK * kernels.BLOCK - reach, 0)
    lengths = rows.starts[1:] - begin
    part = np.append(0, np.cumsum(lengths))
    of = np.arange(part[-1]) + np.repeat(begin - part[:-1], lengths)
    out = np.full(rows.value.size, np.nan)
    out[of] = _own_z(rows.value[of], part, cfg)
    return joins.take(out, place)


def _own_z(value: Float64Array, starts: Int64Array, cfg: IndicatorsConfig) -> Float64Array:
    """Each value in deviations from the last z_window values of its own series, itself among them."""
    mean, std = kernels.rolling_mean_std(value, starts, cfg.z_window, cfg.z_min_count)
    return np.clip(ratio(value - mean, std), -cfg.clip, cfg.clip)


def segments(rows: pl.DataFrame, by: list[str]) -> Int64Array:
    """First row of each run of equal keys, and the number of rows."""
    lengths = rows.select(pl.struct(by).rle().struct.field("len"))["len"] if rows.height else pl.Series([], dtype=pl.Int64)
    return np.concatenate([[0], np.cumsum(lengths.to_numpy())]).astype(np.int64)


def column_name(indicator: str) -> str:
    """Column of an indicator: `ind_<name>` for a plain name, else its plain letters and a digest of the name.

    A name that ends in _raw gets a digest too, so that no two indicators share a column.
    """
    if _PLAIN.fullmatch(indicator) and not indicator.endswith("_raw"):
        return f"ind_{indicator}"
    plain = re.sub(r"[^a-z0-9]+", "_", indicator.lower())[:40].strip("_")
    return f"ind_{plain}_{sha256_bytes(indicator.encode())[:8]}"


def indicator_columns(keys: pl.DataFrame, indicators: pl.DataFrame, cfg: IndicatorsConfig) -> dict[str, Float64Array]:
    """Columns of the dump's own indicators: `ind_<name>` and `ind_<name>_raw`.

    `ind_<name>` is the value in deviations from the last z_window observations of that symbol's
    indicator, clipped; `ind_<name>_raw` is asinh(value), which no history scales.
    """
    present = sorted(indicators["name"].unique().to_list())
    chosen = present[: cfg.max_columns] if "*" in cfg.names else []
    chosen += [name for name in cfg.names if name != "*" and name not in chosen]
    columns: dict[str, Float64Array] = {}
    limit, at = int(cfg.max_staleness_hours * NS_PER_HOUR), joins.keys_of(keys)
    for name in sorted(chosen):
        rows = joins.own_rows(at, indicators.filter(pl.col("name") == name) if len(present) > 1 or name not in present else indicators)
        place = joins.newest(at, rows, limit)
        columns[column_name(name)] = _z_of_found(rows, place, at.starts, cfg)
        columns[f"{column_name(name)}_raw"] = np.arcsinh(joins.take(rows.value, place))
    return columns


def extra_columns(
    keys: pl.DataFrame, side: pl.DataFrame, extra: Mapping[str, SourceConfig], scaling: IndicatorsConfig
) -> dict[str, Float64Array]:
    """Columns `side_<name>` of the config's extra sources, in deviations from their own past."""
    columns: dict[str, Float64Array] = {}
    at = joins.keys_of(keys)
    for name, source in sorted(extra.items()):
        out = np.full(keys.height, np.nan)
        for rows in _fields(side, source):
            ordered = rows.drop_nulls("value").sort("symbol", "known_ns", "ts_ns", maintain_order=True)
            z = _own_z(ordered["value"].to_numpy().astype(np.float64), segments(ordered, ["symbol"]), scaling)
            out = joins.fill(out, _aligned(at, ordered.with_columns(pl.Series("value", z)), source))
        columns[f"side_{name}"] = out
    return columns
