"""Causal features of every bar: one frame, the rows of bars, a column a feature."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from plusultra_core.arrays import Float64Array
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.features import sides
from plusultra_core.features.arrays import BarArrays
from plusultra_core.features.catalog import BUNDLES, CATALOG, FeatureSpec
from plusultra_core.features.families import returns
from plusultra_core.features.sides import AlternativeConfig, IndicatorsConfig
from plusultra_core.market import MarketConfig

KEYS = ("symbol", "ts_ns", "known_ns")
_SIDE_COLUMNS = ("table", "symbol", "field", "ts_ns", "known_ns", "value")
_INDICATOR_COLUMNS = ("symbol", "name", "ts_ns", "known_ns", "value")


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
    _check(bars, indicators, side_tables, specs, cfg)
    keys = bars.select("symbol", "ts_ns", pl.col("known_ns").cum_max().over("symbol"))
    arrays = _bar_arrays(bars, keys, side_tables, indicators, market, cfg)
    columns: dict[str, Float64Array] = {}
    for spec in specs:
        columns[spec.name] = spec.function(arrays)
    columns |= sides.extra_columns(keys, side_tables, cfg.alternative.extra, cfg.indicators)
    columns |= sides.indicator_columns(keys, indicators, cfg.indicators)
    values = [pl.Series(name, np.where(np.isfinite(value), value, np.nan), nan_to_null=True) for name, value in columns.items()]
    return keys.hstack(values)


def coverage(features: pl.DataFrame, bars: pl.DataFrame) -> pl.DataFrame:
    """How much of each column is there, and why the rest is not.

    Columns: feature, num_rows, num_valid, share_valid, symbols_without (symbols that have no value at
    all), remark ("" | no open/high/low for k symbols | no volume for k symbols | no side table).
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
        remarks.append("no side table")
    return "; ".join(remarks)


def _check(
    bars: pl.DataFrame, indicators: pl.DataFrame, side_tables: pl.DataFrame, specs: Sequence[FeatureSpec], cfg: FeaturesConfig
) -> None:
    always = ("open_adj", "high_adj", "low_adj", "close_adj", "volume_adj", "gap_bars")
    for column in KEYS + always:
        if column not in bars.columns:
            users = [spec.name for spec in specs if column in spec.inputs]
            raise ContractError(f"bars: column {column!r} is missing; it is read by {users or 'every feature'}; build bars again")
    for frame, name, columns in ((side_tables, "side_tables", _SIDE_COLUMNS), (indicators, "indicators", _INDICATOR_COLUMNS)):
        for column in columns:
            if column not in frame.columns:
                raise ContractError(f"{name}: column {column!r} is missing; expected {list(columns)}, found {frame.columns}")
    present = set(side_tables["table"].unique().to_list())
    for table in cfg.required_tables:
        if table not in present:
            raise ContractError(f"side_tables: required table {table!r} is missing, found {sorted(present)}; add it or require less")
    disorder = (pl.col("symbol") < pl.col("symbol").shift(1)) | (
        (pl.col("symbol") == pl.col("symbol").shift(1)) & (pl.col("ts_ns") <= pl.col("ts_ns").shift(1))
    )
    if num_rows := bars.select(disorder.sum()).item():
        raise ContractError(f"bars: {num_rows} rows out of order or twice; expected rising symbol, ts_ns; sort them")


def _bar_arrays(
    bars: pl.DataFrame, keys: pl.DataFrame, side: pl.DataFrame, indicators: pl.DataFrame, market: MarketConfig, cfg: FeaturesConfig
) -> BarArrays:
    def column(name: str) -> Float64Array:
        return bars[name].cast(pl.Float64).to_numpy().astype(np.float64)

    starts = sides.segments(bars, ["symbol"])
    windows = cfg.windows
    ret = returns.log_return(column("close_adj"), starts, 1)
    return BarArrays(
        starts=starts,
        ts_ns=bars["ts_ns"].to_numpy(),
        known_ns=keys["known_ns"].to_numpy(),
        session_tz=market.session_tz,
        periods_per_year=market.periods_per_year,
        open=column("open_adj"),
        high=column("high_adj"),
        low=column("low_adj"),
        close=column("close_adj"),
        volume=column("volume_adj"),
        gap_bars=column("gap_bars"),
        side=sides.side_arrays(keys, side, indicators, cfg.alternative),
        short=windows.short,
        medium=windows.medium,
        long=windows.long,
        min_fraction=windows.min_fraction,
        ret=ret,
        sigma=returns.ewma_volatility(ret, starts, windows.sigma_halflife_bars, windows.sigma_min_count),
    )
