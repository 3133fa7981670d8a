"""Side tables and the dump's own indicators, as they were known at each bar.

Everything joins backward as-of on `known_ns` and grows no older than the config allows. A table that
the dump does not have leaves its columns null.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.artifacts import sha256_bytes
from plusultra_core.clock import NS_PER_DAY, NS_PER_HOUR
from plusultra_core.data import side_tables
from plusultra_core.errors import ConfigError
from plusultra_core.features import kernels
from plusultra_core.features.kernels import ratio

_HOURS_PER_YEAR = 8760.0
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
    """`value` of the newest row known at each key, NaN where there is none or it is too old.

    keys has symbol and known_ns; rows has symbol, ts_ns, known_ns, value and, where its table sets one, expires_ns.
    """
    return side_tables.as_of(keys, rows, by_symbol, max_staleness_ns)["value"].to_numpy().astype(np.float64)


def _fields(side: pl.DataFrame, source: SourceConfig) -> list[pl.DataFrame]:
    mine = side.filter(pl.col("table") == source.table)
    return [mine.filter(pl.col("field") == field).with_columns(pl.col("value") * source.scale) for field in source.fields]


def _aligned(keys: pl.DataFrame, rows: pl.DataFrame, source: SourceConfig) -> Float64Array:
    limit = int(source.max_staleness_hours * NS_PER_HOUR)
    out = as_of(keys, rows.filter(pl.col("symbol").is_not_null()), limit, by_symbol=True)
    wide = rows.filter(pl.col("symbol").is_null())
    if wide.is_empty():
        return out
    return np.where(np.isnan(out), as_of(keys, wide, limit, by_symbol=False), out)


def _source(keys: pl.DataFrame, side: pl.DataFrame, source: SourceConfig) -> Float64Array:
    out = np.full(keys.height, np.nan)
    for rows in _fields(side, source):
        if not rows.is_empty():
            out = np.where(np.isnan(out), _aligned(keys, rows, source), out)
    return out


def _funding(keys: pl.DataFrame, side: pl.DataFrame, cfg: AlternativeConfig) -> Float64Array:
    """Funding rate a year: the rate of one payment times the payments in a year."""
    mine = side.filter(pl.col("table") == cfg.funding.table)
    hours = mine.filter(pl.col("field") == "interval_hours").select("symbol", "ts_ns", pl.col("value").alias("hours"))
    hours = hours.unique(["symbol", "ts_ns"], keep="last", maintain_order=True)
    out = np.full(keys.height, np.nan)
    for rows in _fields(side, cfg.funding):
        every = pl.col("hours").fill_null(cfg.funding_interval_hours)
        yearly = rows.join(hours, on=["symbol", "ts_ns"], how="left", maintain_order="left", nulls_equal=True)
        yearly = yearly.with_columns(pl.when(every > 0).then(pl.col("value") * _HOURS_PER_YEAR / every).alias("value"))
        out = np.where(np.isnan(out), _aligned(keys, yearly, cfg.funding), out)
    return out


def _macro(keys: pl.DataFrame, side: pl.DataFrame, cfg: MacroConfig) -> tuple[Float64Array, Float64Array]:
    """Age in days of the newest known event, and its change in root mean squares of that event's past changes."""
    parts = pl.col("field").str.splitn(".", 2).struct
    events = side.filter((pl.col("table") == cfg.table) & pl.col("value").is_not_null()).with_columns(
        parts.field("field_0").alias("event"), parts.field("field_1").alias("part")
    )
    if "*" not in cfg.events:
        events = events.filter(pl.col("event").is_in(list(cfg.events)))
    key = ["event", "ts_ns", "known_ns"]
    actual = events.filter(pl.col("part") == "actual").select(*key, pl.col("value").alias("actual"))
    before = events.filter(pl.col("part") == "previous").select(*key, pl.col("value").alias("previous"))
    rows = actual.join(before, on=key, how="left").sort("event", "known_ns", "ts_ns")
    change = pl.col("actual") - pl.col("previous").fill_null(pl.col("actual").shift(1).over("event"))
    past = (change * change).cum_sum() / (change * change).cum_count()
    typical = pl.when(change.cum_count() >= cfg.min_count).then(past.sqrt())
    surprise = pl.when(typical.over("event") > 0).then(change / typical.over("event"))
    rows = rows.with_columns(surprise.alias("surprise"), pl.lit(None, dtype=pl.String).alias("symbol")).sort("known_ns", "ts_ns", "event")
    limit = int(cfg.max_staleness_hours * NS_PER_HOUR)
    known = as_of(keys, rows.with_columns(pl.col("known_ns").cast(pl.Float64).alias("value")), limit, by_symbol=False)
    age_days = (keys["known_ns"].to_numpy() - known) / NS_PER_DAY
    return age_days, as_of(keys, rows.with_columns(pl.col("surprise").fill_null(np.nan).alias("value")), limit, by_symbol=False)


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
    side = _with_indicators(side, indicators, cfg)
    age_days, surprise = _macro(keys, side, cfg.macro)
    return {
        "funding": _funding(keys, side, cfg),
        "implied_vol": _source(keys, side, cfg.implied_vol),
        "market_vol": _source(keys, side, cfg.market_vol),
        "rate_short": _source(keys, side, cfg.rate_short),
        "rate_long": _source(keys, side, cfg.rate_long),
        "open_interest": _source(keys, side, cfg.open_interest),
        "onchain": _source(keys, side, cfg.onchain),
        "macro_age_days": age_days,
        "macro_surprise": surprise,
    }


def absent(column: str, side: pl.DataFrame, indicators: pl.DataFrame, cfg: AlternativeConfig) -> str:
    """What a side column would be made of where the dump has no value of it: table and fields; empty where it has one."""
    if column.startswith("macro_"):
        events = side.filter((pl.col("table") == cfg.macro.table) & pl.col("value").is_not_null())["field"].str.splitn(".", 2)
        named = events.struct.field("field_0").is_in(list(cfg.macro.events)) | ("*" in cfg.macro.events)
        there, fields = bool((named & (events.struct.field("field_1") == "actual")).any()), tuple(f"{e}.actual" for e in cfg.macro.events)
        return "" if there else f"{cfg.macro.table}: {' or '.join(fields)}"
    source: SourceConfig = getattr(cfg, column)
    rows = (
        indicators.filter(pl.col("name").is_in(source.fields))
        if source.table == "indicators"
        else side.filter((pl.col("table") == source.table) & pl.col("field").is_in(source.fields))
    )
    return "" if rows["value"].count() else f"{source.table}: {' or '.join(source.fields)}"


def _own_z(rows: pl.DataFrame, by: list[str], window: int, min_count: int, clip: float) -> Float64Array:
    """Each value in deviations from the last `window` values of its own series, itself among them."""
    value = rows["value"].to_numpy().astype(np.float64)
    mean, std = kernels.rolling_mean_std(value, segments(rows, by), window, min_count)
    return np.clip(ratio(value - mean, std), -clip, clip)


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
    limit = int(cfg.max_staleness_hours * NS_PER_HOUR)
    for name in sorted(chosen):
        rows = indicators.filter(pl.col("name") == name).drop_nulls("value").sort("symbol", "known_ns", "ts_ns")
        z = _own_z(rows, ["symbol"], cfg.z_window, cfg.z_min_count, cfg.clip)
        for column, value in ((column_name(name), z), (f"{column_name(name)}_raw", np.arcsinh(rows["value"].to_numpy()))):
            columns[column] = as_of(keys, rows.with_columns(pl.Series("value", value)), limit, by_symbol=True)
    return columns


def extra_columns(
    keys: pl.DataFrame, side: pl.DataFrame, extra: Mapping[str, SourceConfig], scaling: IndicatorsConfig
) -> dict[str, Float64Array]:
    """Columns `side_<name>` of the config's extra sources, in deviations from their own past."""
    columns: dict[str, Float64Array] = {}
    for name, source in sorted(extra.items()):
        out = np.full(keys.height, np.nan)
        for rows in _fields(side, source):
            ordered = rows.drop_nulls("value").sort("symbol", "known_ns", "ts_ns")
            z = _own_z(ordered, ["symbol"], scaling.z_window, scaling.z_min_count, scaling.clip)
            out = np.where(np.isnan(out), _aligned(keys, ordered.with_columns(pl.Series("value", z)), source), out)
        columns[f"side_{name}"] = out
    return columns
