"""Causal features of every bar: one frame, the rows of bars, a column a feature."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from plusultra_core.arrays import Float32Array, Float64Array, Int64Array
from plusultra_core.errors import ConfigError
from plusultra_core.features import ranks, sides
from plusultra_core.features.arrays import BarArrays, Columns, Waiting, groups
from plusultra_core.features.beside.columns import Sides
from plusultra_core.features.beside.joins import Keys
from plusultra_core.features.catalog import BUNDLES, CATALOG, FeatureSpec
from plusultra_core.features.families import returns
from plusultra_core.features.recursions import Recursions, Trace, join_traces, part_of_traces, rows_from
from plusultra_core.features.rows import KEYS, READS, Bars, bars_of, check, frame_of, keys_frame, store
from plusultra_core.features.sides import AlternativeConfig, IndicatorsConfig
from plusultra_core.market import MarketConfig

ACROSS = "cross_section"
"""Tag of the features that see all symbols of a moment."""
_STORED = np.float32
"""Precision in which columns are kept; they are computed in double."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowsConfig:
    """How far features look back, in bars of the symbol."""

    short: int
    medium: int
    long: int
    min_fraction: float
    """Part of a window that must be present before it answers."""
    sigma_halflife_bars: float
    """Half-life of the EWMA volatility that scales returns."""
    sigma_min_count: int
    """Returns before that volatility is known."""

    def __post_init__(self) -> None:
        if not 4 <= self.short < self.medium < self.long:
            raise ConfigError(f"windows: expected 4 <= short < medium < long, found {self.short}, {self.medium}, {self.long}")
        if not 0.5 <= self.min_fraction <= 1:
            raise ConfigError(f"min_fraction: expected in [.5, 1], found {self.min_fraction}")
        if self.sigma_halflife_bars <= 0 or self.sigma_min_count < 2:
            raise ConfigError(f"windows: expected sigma_halflife_bars > 0 and sigma_min_count >= 2, found {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class FeaturesConfig:
    """Which features are built, and from what."""

    bundles: tuple[str, ...]
    """Names of BUNDLES: `all`, `core`, or a family."""
    include: tuple[str, ...]
    """Features beside those of the bundles."""
    exclude: tuple[str, ...]
    windows: WindowsConfig
    indicators: IndicatorsConfig
    alternative: AlternativeConfig
    required_tables: tuple[str, ...]
    """Side tables without which nothing is built."""

    def __post_init__(self) -> None:
        for bundle in self.bundles:
            if bundle not in BUNDLES:
                raise ConfigError(f"bundles: unknown bundle {bundle!r}; there are {list(BUNDLES)}")
        known = {spec.name for spec in CATALOG}
        for name in (*self.include, *self.exclude):
            if name not in known:
                raise ConfigError(f"include/exclude: unknown feature {name!r}; docs/features.md lists them")


def chosen_specs(cfg: FeaturesConfig) -> tuple[FeatureSpec, ...]:
    """Features that the config asks for, in the order of the catalogue."""
    bundles = set(cfg.bundles)
    wanted = {spec.name for spec in CATALOG if "all" in bundles or bundles & set(spec.tags)}
    wanted = (wanted | set(cfg.include)) - set(cfg.exclude)
    return tuple(spec for spec in CATALOG if spec.name in wanted)


def build(
    bars: pl.DataFrame, indicators: pl.DataFrame, side_tables: pl.DataFrame, market: MarketConfig, cfg: FeaturesConfig
) -> pl.DataFrame:
    """Features of every bar, columns fixed by the config (`ind_*` by config and dump).

    Shapes  the rows of bars, in their order.
    Looks   back only; side tables and indicators as known at the bar's known_ns.
    NaN     none: what cannot be said is null (warm-up, no open/high/low, no volume, no side table).
    Raises  ContractError when a column or a required table is missing or bars are not sorted.
    """
    specs = chosen_specs(cfg)
    check(bars, indicators, side_tables, specs, cfg.required_tables, cfg.include, cfg.alternative)
    rows = bars_of(bars)
    made = compute(span_of(rows), indicators, side_tables, market, cfg, specs)
    return frame_of(keys_frame(bars, rows.known_ns), made.columns)


def coverage(features: pl.DataFrame, bars: pl.DataFrame) -> pl.DataFrame:
    """How much of each column is there, and why the rest is not.

    Columns: feature, num_rows, num_valid, share_valid, symbols_without (symbols that have no value at
    all), remark ("" | no open/high/low for k symbols | no volume for k symbols | no side table for a column).
    """
    names = [name for name in features.columns if name not in KEYS]
    valid = features.group_by("symbol").agg(pl.col(names).is_not_null().any())
    without_ohl = int((~bars.group_by("symbol").agg(pl.col("has_ohl").any())["has_ohl"]).sum())
    without_volume = int((~bars.group_by("symbol").agg(pl.col("has_volume").any())["has_volume"]).sum())
    inputs = {spec.name: spec.inputs for spec in CATALOG}
    rows = []
    for name in names:
        num_valid = features.height - features[name].null_count()
        remark = _remark(inputs.get(name, ()), without_ohl, without_volume, num_valid)
        rows.append((name, features.height, num_valid, num_valid / max(1, features.height), int((~valid[name]).sum()), remark))
    schema = {
        "feature": pl.String,
        "num_rows": pl.Int64,
        "num_valid": pl.Int64,
        "share_valid": pl.Float64,
        "symbols_without": pl.Int64,
        "remark": pl.String,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def _remark(inputs: Sequence[str], without_ohl: int, without_volume: int, num_valid: int) -> str:
    remarks = []
    if without_ohl and {"open_adj", "high_adj", "low_adj"} & set(inputs):
        remarks.append(f"no open/high/low for {without_ohl} symbols")
    if without_volume and "volume_adj" in inputs:
        remarks.append(f"no volume for {without_volume} symbols")
    if not num_valid and any(name.startswith("side:") for name in inputs):
        remarks.append(f"no side table for {', '.join(name.removeprefix('side:') for name in inputs if name.startswith('side:'))}")
    return "; ".join(remarks)


@dataclass(frozen=True, slots=True)
class Span:
    """Bars to compute: of each symbol the last rows, of which the first `num_done` have been made before."""

    bars: Bars
    num_done: Int64Array
    before: Mapping[str, Trace]
    """What the recursions said at the rows done, on all rows of the span, and their states after them."""
    keep: Int64Array | None
    """Row of each symbol from which the values of recursions are left behind; none where nothing is."""

    @property
    def new_starts(self) -> Int64Array:
        """Where the rows of each symbol that are new begin among those of all."""
        return np.append(0, np.cumsum(self.bars.num_rows - self.num_done))

    @property
    def new_keys(self) -> Keys:
        """Keys of the new rows."""
        return Keys(self.bars.symbols, self.new_starts, self.new(self.bars.known_ns))

    def new(self, value: NDArray[Any]) -> NDArray[Any]:
        """Of a value a row those of the new rows."""
        return value[rows_from(self.bars.starts, self.num_done)] if self.num_done.any() else value


@dataclass(frozen=True, slots=True)
class Made:
    """Columns of the new rows of a span, and what the recursions leave behind of the rows to keep."""

    columns: dict[str, Float32Array]
    traces: dict[str, Trace]


def arrays_of(
    bars: pl.DataFrame, indicators: pl.DataFrame, side_tables: pl.DataFrame, market: MarketConfig, cfg: FeaturesConfig
) -> BarArrays:
    """What the feature functions read, of all bars at once: to ask one feature in double precision."""
    span = span_of(bars_of(bars))
    whole = _bar_arrays(span, market, cfg)
    beside = _sides(whole, span, side_tables, indicators, sides.names_of(indicators), cfg)
    return _part(whole, span, beside, slice(0, span.num_done.size), slice(0, bars.height), cfg.windows)


def span_of(bars: Bars) -> Span:
    """All of some bars, nothing of them made before, nothing left behind."""
    return Span(bars, np.zeros(len(bars.symbols), dtype=np.int64), {}, None)


def compute(
    span: Span, indicators: pl.DataFrame, side_tables: pl.DataFrame, market: MarketConfig, cfg: FeaturesConfig, specs: Sequence[FeatureSpec]
) -> Made:
    """Columns of the new rows of a span, some symbols at a time: what they share stays in the cache, and little else in memory.

    What needs doubles of all bars comes first, when other columns are not there yet: what is ranked, and the dump's indicators.
    """
    names = sides.names_of(indicators)
    keys, whole = span.new_keys, _bar_arrays(span, market, cfg)
    more = chain(
        sides.extra_columns(keys, side_tables, cfg.alternative.extra, cfg.indicators),
        sides.indicator_columns(keys, indicators, names, cfg.indicators),
    )
    columns = {name: _single(value) for name, value in more}
    beside = _sides(whole, span, side_tables, indicators, names, cfg)
    across, alone = ([spec for spec in specs if (ACROSS in spec.tags) is seen] for seen in (True, False))
    ranked, traces = _ranked(whole, beside, span, across, cfg.windows)
    plain, others = _by_groups(whole, beside, span, alone, cfg.windows, None, span.before.keys() - traces.keys())
    return Made({spec.name: (ranked if ACROSS in spec.tags else plain)[spec.name] for spec in specs} | columns, others | traces)


def _ranked(
    whole: BarArrays, beside: Sides, span: Span, specs: Sequence[FeatureSpec], windows: WindowsConfig
) -> tuple[dict[str, Float32Array], dict[str, Trace]]:
    """Features that see all symbols of a moment: what is ranked is made a group at a time, ranks of all."""
    if not specs:
        return {}, {}
    queue = list[Waiting]()
    values, traces = _by_groups(whole, beside, span, specs, windows, queue, set())
    at = ranks.moments(span.new(whole.ts_ns), span.new(whole.known_ns), span.new_starts, whole.times_ns)
    least = [waiting.min_count for waiting in queue] or [0] * len(specs)
    return {spec.name: _single(ranks.cross_rank(values.pop(spec.name), at, k)) for spec, k in zip(specs, least, strict=True)}, traces


def _by_groups(
    whole: BarArrays,
    beside: Sides,
    span: Span,
    specs: Sequence[FeatureSpec],
    windows: WindowsConfig,
    queue: list[Waiting] | None,
    continued: Set[str],
) -> tuple[dict[str, Any], dict[str, Trace]]:
    """Columns of some features, as kept or, with a queue, in double; and what the recursions leave behind.

    Little is held at a time: recursions go after each feature, other shared work after each family; who needs it again makes it again.
    Features of side tables that are not there share one column without values. They come last, for recursions that are `continued`.
    """
    dtype, places = _STORED if queue is None else np.float64, span.new_starts
    silent = {spec.name for spec in specs if spec.sides and not any(beside.parts[name] for name in spec.sides)}
    order = sorted(specs, key=lambda spec: spec.name in silent)
    nothing = np.full(int(places[-1]) if silent else 0, np.nan, dtype=dtype)
    columns: dict[str, Any] = {spec.name: nothing if spec.name in silent else np.empty(int(places[-1]), dtype=dtype) for spec in specs}
    traces = []
    for first, last in groups(whole.starts):
        rows = slice(int(whole.starts[first]), int(whole.starts[last]))
        arrays = replace(_part(whole, span, beside, slice(first, last), rows, windows), waiting=queue)
        num_done = span.num_done[first:last]
        fresh = rows_from(arrays.starts, num_done) if num_done.any() else None
        kept = None if span.keep is None else rows_from(arrays.starts, span.keep[first:last])
        left, made = dict[str, Trace](), arrays.recursions.made
        for _, family in groupby(order, key=lambda spec: spec.tags[0]):
            for spec in family:
                if spec.name in silent and (kept is None or (continued and continued <= left.keys())):
                    continue
                value, out = spec.function(arrays), columns[spec.name][places[first] : places[last]]
                if queue is not None:
                    out[:] = value if fresh is None else value[fresh]
                elif spec.name not in silent:
                    store(value, arrays.starts, num_done, out)
                if kept is not None:
                    left |= {name: Trace(trace.values[kept], trace.state) for name, trace in made.items()}
                made.clear()
            arrays.shared.clear()
            arrays.side.clear()
        del (queue or [])[len(specs) :]  # each group asks for the same
        traces.append(left)
    return columns, join_traces(traces)


def _single(value: Float64Array) -> Float32Array:
    """As it is kept."""
    out = np.empty(value.size, dtype=_STORED)
    store(value, np.array([0, value.size]), np.zeros(1, dtype=np.int64), out)
    return out


def _sides(whole: BarArrays, span: Span, side: pl.DataFrame, indicators: pl.DataFrame, names: Sequence[str], cfg: FeaturesConfig) -> Sides:
    """What the side columns of a span are made of."""
    known_ns = span.bars.known_ns
    moments_ns = whole.times_ns if np.array_equal(known_ns, span.bars.ts_ns) else np.unique(known_ns)
    return sides.find_sides(span.bars.keys, moments_ns, side, indicators, names, cfg.alternative)


def _bar_arrays(span: Span, market: MarketConfig, cfg: FeaturesConfig) -> BarArrays:
    """Arrays of a span: what is made once; prices, side columns, returns and sigma are made a part at a time."""
    windows, bars = cfg.windows, span.bars
    return BarArrays(
        starts=bars.starts,
        times_ns=np.unique(bars.ts_ns),
        ts_ns=bars.ts_ns,
        known_ns=bars.known_ns,
        calendar=market.calendar,
        session_tz=market.session_tz,
        periods_per_year=market.periods_per_year,
        open=np.empty(0),
        high=np.empty(0),
        low=np.empty(0),
        close=np.empty(0),
        volume=np.empty(0),
        gap_bars=np.empty(0),
        side={},
        short=windows.short,
        medium=windows.medium,
        long=windows.long,
        min_fraction=windows.min_fraction,
        ret=np.empty(0),
        sigma=np.empty(0),
        recursions=Recursions(bars.starts, span.num_done, span.before),
    )


def _values(bars: Bars, name: str, rows: slice) -> Float64Array:
    """Some rows of a column of bars."""
    return bars.values.some(name, rows) if isinstance(bars.values, Columns) else bars.values[name][rows].astype(np.float64)


def _part(b: BarArrays, span: Span, beside: Sides, symbols: slice, rows: slice, windows: WindowsConfig) -> BarArrays:
    """Some symbols of arrays, with their prices, side columns, returns and sigma."""
    starts = b.starts[symbols.start : symbols.stop + 1] - b.starts[symbols.start]
    recursions = Recursions(starts, b.recursions.num_done[symbols], part_of_traces(b.recursions.before, symbols, rows))
    open_, high, low, close, volume, gap_bars = (_values(span.bars, name, rows) for name in READS)
    ret = returns.log_return(close, starts, 1)
    alpha = 1.0 - 0.5 ** (1.0 / windows.sigma_halflife_bars)
    return replace(
        b,
        starts=starts,
        ts_ns=b.ts_ns[rows],
        known_ns=b.known_ns[rows],
        open=open_,
        high=high,
        low=low,
        close=close,
        volume=volume,
        gap_bars=gap_bars,
        side=beside.some(symbols, rows),
        ret=ret,
        sigma=np.sqrt(recursions.ewma("sigma", ret * ret, alpha, windows.sigma_min_count)),
        recursions=recursions,
        shared={},
    )
