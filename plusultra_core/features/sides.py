"""Side tables and the dump's own indicators, as they were known at each bar.

Everything joins backward as-of on `known_ns` and grows no older than the config allows. A table that
the dump does not have leaves its columns null. No column is held of all bars: what it is made of is found
once (`find_sides`), its values are made for some symbols at a time.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.artifacts import sha256_bytes
from plusultra_core.clock import NS_PER_HOUR
from plusultra_core.data.increments.unchanged import text_runs
from plusultra_core.errors import ConfigError
from plusultra_core.features import kernels
from plusultra_core.features.arrays import kept, runs
from plusultra_core.features.beside import events, joins
from plusultra_core.features.beside.columns import Own, Part, Sides
from plusultra_core.features.beside.events import MacroConfig
from plusultra_core.features.beside.joins import NOBODY, Beside, Keys, Rows
from plusultra_core.features.kernels import ratio

INDICATORS = "indicators"
"""Name by which a source means the dump's indicators."""
_SOURCES = ("implied_vol", "market_vol", "rate_short", "rate_long", "open_interest", "onchain")
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
    at = joins.keys_of(keys.select("symbol", "known_ns")[order])
    table = joins.beside(at, rows, None)
    some = (joins.own_rows if by_symbol else joins.wide_rows)(table, np.arange(table.owner.size))
    out = np.empty(order.size)
    out[order] = joins.take(some.value, joins.newest(at, some, max_staleness_ns))
    return out


def _limit(source: SourceConfig) -> int:
    return int(source.max_staleness_hours * NS_PER_HOUR)


@dataclass(frozen=True, slots=True)
class _Fields:
    """Where the fields that sources name lie: the tables beside the bars, and the rows of each (table, field)."""

    moments: Keys
    """The moments of the bars, as those of one symbol."""
    rows: dict[tuple[str, str], tuple[Beside, Int64Array]]

    @classmethod
    def find(
        cls, keys: Keys, moments: Keys, frames: Mapping[str | None, pl.DataFrame], named: Sequence[tuple[str, str]], limit_ns: int
    ) -> "_Fields":
        """Rows of the fields named that may count at the keys; `indicators` are a table by that name, and never expire."""
        found = {}
        for of, frame in frames.items():
            pairs = [pair for pair in named if (pair[0] == INDICATORS) is (of == INDICATORS)]
            if not pairs or frame.is_empty():
                continue
            beside = joins.beside(keys, frame, limit_ns)
            field = beside.frame.get_column("field" if of is None else "name")
            tables = {of: None} if of else {table: beside.frame.get_column("table") == table for table, _ in pairs}
            for table, name in pairs:
                inside = tables[table]
                if inside is None or inside.any():
                    mark = field == name if inside is None else inside & (field == name)
                    if mark.any():
                        found[table, name] = beside, np.flatnonzero(mark.to_numpy())
        return cls(moments, found)

    def of(self, source: SourceConfig) -> list[tuple[Beside, Int64Array]]:
        """Rows of a source's fields, one after the other, those that are there."""
        return [self.rows[source.table, field] for field in source.fields if (source.table, field) in self.rows]

    def column(self, source: SourceConfig) -> list[Part]:
        """What counts: the first of the fields that says something."""
        scaled = [(beside, rows, joins.picked(beside.value, rows)) for beside, rows in self.of(source)]
        if source.scale != 1.0:
            scaled = [(beside, rows, value * source.scale) for beside, rows, value in scaled]
        return [part for one in scaled for part in self.parts(*one, _limit(source))]

    def parts(self, table: Beside, rows: Int64Array, value: Float64Array, limit_ns: int) -> Iterator[Part]:
        """Of the values of some rows, which rise, a symbol's own, then those of rows without symbol."""
        wide = joins.picked(table.owner, rows) == NOBODY
        if not wide.all():
            yield Own(joins.own_rows(table, rows, value), limit_ns)
        if wide.any():
            some = joins.wide_rows(table, *((rows, value) if wide.all() else (rows[wide], value[wide])))
            yield joins.take(some.value, joins.newest(self.moments, some, limit_ns))


def _funding(fields: _Fields, cfg: AlternativeConfig) -> list[Part]:
    """Funding rate a year: the rate of one payment times the payments in a year."""
    found: list[Part] = []
    beside, intervals = fields.rows.get((cfg.funding.table, "interval_hours"), (None, np.zeros(0, dtype=np.int64)))
    for table, rows in fields.of(cfg.funding):
        hours = np.full(rows.size, cfg.funding_interval_hours)
        if beside is not None:  # of one vintage: an interval that was corrected later was not that of the rate before
            hours = _of_same_row(table, rows, intervals, hours)
        with np.errstate(divide="ignore", invalid="ignore"):
            yearly = joins.picked(table.value, rows) * cfg.funding.scale * _HOURS_PER_YEAR / hours
        paid = hours > 0
        found += fields.parts(table, *((rows, yearly) if paid.all() else (rows[paid], yearly[paid])), _limit(cfg.funding))
    return found


def _of_same_row(table: Beside, rows: Int64Array, others: Int64Array, otherwise: Float64Array) -> Float64Array:
    """The value of that one of the others that has the same symbol and times, for each row."""
    if rows.size == others.size and all(np.array_equal(x[rows], x[others]) for x in (table.owner, table.ts_ns, table.known_ns)):
        return table.value[others]
    keys = ["symbol", "ts_ns", "known_ns"]
    told = table.frame[others].select(*keys, hours=pl.col("value").cast(pl.Float64)).unique(keys, keep="last", maintain_order=True)
    hours = table.frame[rows].select(keys).join(told, on=keys, how="left", maintain_order="left", nulls_equal=True)["hours"].to_numpy()
    return np.where(np.isnan(hours), otherwise, hours)


def find_sides(
    at: Keys, moments_ns: Int64Array, side: pl.DataFrame, indicators: pl.DataFrame, names: Sequence[str], cfg: AlternativeConfig
) -> Sides:
    """What every side column that a feature may ask for is made of; `names` are those of the indicators.

    Columns of tables that are not there are all NaN.
    """
    moments = Keys(pl.Series(["*"]), np.array([0, moments_ns.size]), moments_ns)
    news = events.news(moments, side, cfg.macro)  # nobody's own: the same for all that is known at one time
    sources: dict[str, SourceConfig] = {name: getattr(cfg, name) for name in _SOURCES}
    named = [(source.table, field) for source in (cfg.funding, *sources.values()) for field in source.fields]
    limit_ns = max(_limit(source) for source in (cfg.funding, *sources.values()))
    there = any(table == INDICATORS and field in names for table, field in named)
    frames: dict[str | None, pl.DataFrame] = {None: side, INDICATORS: indicators} if there else {None: side}
    fields = _Fields.find(at, moments, frames, [*dict.fromkeys([*named, (cfg.funding.table, "interval_hours")])], limit_ns)
    parts: dict[str, Sequence[Part]] = {name: fields.column(source) for name, source in sources.items()}
    for name, value in zip(("macro_age_days", "macro_surprise"), news, strict=True):
        parts[name] = [] if np.isnan(value).all() else [value]
    return Sides(at, moments_ns, parts | {"funding": _funding(fields, cfg)}, joins.money(at, side))


def absent(column: str, side: pl.DataFrame, indicators: pl.DataFrame, cfg: AlternativeConfig) -> str:
    """What a side column would be made of where the dump has no value of it: table and fields; empty where it has one."""
    if column.startswith("macro_"):
        there = bool((events.events_of(side, cfg.macro)[2] == "actual").any())
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
    lowest = joins.lowest(place, starts, rows.starts)
    begin = first + np.maximum((lowest - first) // kernels.BLOCK * kernels.BLOCK - reach, 0)
    lengths = rows.starts[1:] - begin
    part = np.append(0, np.cumsum(lengths))
    skipped = begin - part[:-1]
    z = _own_z(rows.value[np.arange(part[-1]) + np.repeat(skipped, lengths)], part, cfg, lowest - begin)
    return joins.take(z, np.where(place < 0, -1, place - np.repeat(skipped, np.diff(starts))))


def _own_z(value: Float64Array, starts: Int64Array, cfg: IndicatorsConfig, since: Int64Array) -> Float64Array:
    """Each value in deviations from the last z_window values of its own series, itself among them."""
    mean, std = kernels.rolling_mean_std(value, starts, cfg.z_window, cfg.z_min_count, since)
    return np.clip(ratio(value - mean, std), -cfg.clip, cfg.clip)


def names_of(indicators: pl.DataFrame) -> list[str]:
    """Names of the dump's indicators, sorted."""
    column = indicators.get_column("name")
    found = text_runs(column)
    return sorted(set((column.unique() if found is None else found[0]).to_list()))


def column_name(indicator: str) -> str:
    """Column of an indicator: `ind_<name>` for a plain name, else its plain letters and a digest of the name.

    A name that ends in _raw gets a digest too, so that no two indicators share a column.
    """
    if _PLAIN.fullmatch(indicator) and not indicator.endswith("_raw"):
        return f"ind_{indicator}"
    plain = re.sub(r"[^a-z0-9]+", "_", indicator.lower())[:40].strip("_")
    return f"ind_{plain}_{sha256_bytes(indicator.encode())[:8]}"


def indicator_columns(
    at: Keys, indicators: pl.DataFrame, names: Sequence[str], cfg: IndicatorsConfig
) -> Iterator[tuple[str, Float64Array]]:
    """Columns of the dump's own indicators, whose names are `names`, one by one: `ind_<name>` and `ind_<name>_raw`.

    `ind_<name>` is the value in deviations from the last z_window observations of that symbol's
    indicator, clipped; `ind_<name>_raw` is asinh(value), which no history scales.
    """
    chosen = [*names[: cfg.max_columns]] if "*" in cfg.names else []
    chosen += [name for name in cfg.names if name != "*" and name not in chosen]
    limit = int(cfg.max_staleness_hours * NS_PER_HOUR)
    for name in sorted(chosen):
        alone = len(names) == 1 and name in names
        table = joins.beside(at, indicators if alone else kept(indicators, indicators.get_column("name") == name), None)
        rows = joins.own_rows(table, np.arange(table.owner.size))
        place = joins.newest(at, rows, limit)
        yield column_name(name), _z_of_found(rows, place, at.starts, cfg)
        yield f"{column_name(name)}_raw", np.arcsinh(joins.take(rows.value, place))


def extra_columns(
    at: Keys, side: pl.DataFrame, extra: Mapping[str, SourceConfig], scaling: IndicatorsConfig
) -> Iterator[tuple[str, Float64Array]]:
    """Columns `side_<name>` of the config's extra sources, one by one, in deviations from their own past."""
    for name, source in sorted(extra.items()):
        out = np.full(at.known_ns.size, np.nan)
        for field in source.fields:
            mine = side.filter((pl.col("table") == source.table) & (pl.col("field") == field) & pl.col("value").is_not_null())
            ordered = mine.sort("symbol", "known_ns", "ts_ns", maintain_order=True)
            if ordered.is_empty():
                continue
            value = ordered["value"].to_numpy().astype(np.float64) * source.scale
            starts = runs(ordered.get_column("symbol"))[1]
            z = _own_z(value, starts, scaling, np.zeros(starts.size - 1, dtype=np.int64))
            table = joins.beside(at, ordered.with_columns(pl.Series("value", z)), None)
            out = joins.fill(out, joins.aligned(table, np.arange(ordered.height), table.value, _limit(source)))
        yield f"side_{name}", out
