"""The cross-asset view: what a class could see of itself and of its neighbours at each of its bars."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from plusultra_core.clock import NS_PER_HOUR
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.market import MarketConfig
from plusultra_core.views import alignment, sources

COLUMNS = ("symbol", "ts_ns", "known_ns", "feature", "value", "staleness_ns", "source_class")
_RELATIVE = ("beta", "corr", "strength")


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewsConfig:
    """What is looked at, and how old it may be."""

    momentum: str
    """Feature whose mean over a class is that class's momentum."""
    symbols: tuple[str, ...]
    """Symbols of the own or a context class that are shown by name."""
    max_staleness_hours: float
    """A value older than this at the decision is null."""
    z_window: int
    """Bars of a named symbol that its level is measured against."""
    z_min_count: int
    z_clip: float
    relative_window: int
    """Bars over which beta, correlation and relative strength are taken."""
    relative_min_count: int

    def __post_init__(self) -> None:
        if self.max_staleness_hours <= 0 or self.z_clip <= 0:
            raise ConfigError("views: expected max_staleness_hours > 0 and z_clip > 0")
        if not 3 <= self.z_min_count <= self.z_window:
            raise ConfigError(f"z_window: expected 3 <= z_min_count <= z_window, found {self.z_min_count}, {self.z_window}")
        if not 3 <= self.relative_min_count <= self.relative_window:
            raise ConfigError(
                f"relative_window: expected >= relative_min_count >= 3, found {self.relative_window}, {self.relative_min_count}"
            )
        if len(set(self.symbols)) != len(self.symbols):
            raise ConfigError(f"symbols: expected each once, found {list(self.symbols)}")


@dataclass(frozen=True, slots=True)
class View:
    """A view, the audit of what its alignment filled, and the context classes that the dump does not have."""

    frame: pl.DataFrame
    audit: pl.DataFrame
    missing: tuple[str, ...]


def build(own: str, bars: Mapping[str, pl.DataFrame], features: Mapping[str, pl.DataFrame], market: MarketConfig, cfg: ViewsConfig) -> View:
    """Long view of class `own`: rows without symbol hold for the whole class at that time.

    Features: `ctx_<class>_{ret,mom,dispersion}` of the own and each context class, `sym_<symbol>_{ret,z}`
    of each named symbol, `rel_{beta,corr,strength}` of each own symbol against the others.
    Looks   back: a source row is seen from its known_ns on. A return is the change of an aligned level, so
            it is 0 when nothing new came and never repeated.
    NaN     none: no row before the first source row is known; null beyond max_staleness_hours and at warm-up.
    Raises  ContractError when the own class or the momentum feature is missing.
    """
    classes = [own, *(name for name in market.context_classes if name != own)]
    present = [name for name in classes if name in bars and name in features and bars[name].height > 0]
    _check(own, present, features, cfg)
    # A row for the whole class must be known to its earliest symbol.
    grid = bars[own].group_by("ts_ns").agg(pl.col("known_ns").min()).sort("ts_ns").with_columns(pl.col("known_ns").cum_max())
    frames, audits = [_relative(bars[own], own, cfg)], []
    for name in present:
        series = sources.class_series(bars[name], features[name], cfg.momentum)
        frame, audit = _aligned(grid, series, f"ctx_{name}", name, cfg)
        frames.append(frame)
        audits.append(audit)
    for symbol in cfg.symbols:
        home = next((name for name in present if (bars[name]["symbol"] == symbol).any()), None)
        if home is not None:
            series = sources.symbol_series(bars[home], symbol, cfg.z_window, cfg.z_min_count, cfg.z_clip)
            frame, audit = _aligned(grid, series, f"sym_{symbol}", home, cfg)
            frames.append(frame)
            audits.append(audit)
    view = pl.concat(frames).sort("feature", "symbol", "ts_ns", nulls_last=False, maintain_order=True)
    return View(frame=view, audit=pl.concat(audits), missing=tuple(name for name in classes if name not in present))


def _aligned(grid: pl.DataFrame, series: pl.DataFrame, name: str, source_class: str, cfg: ViewsConfig) -> tuple[pl.DataFrame, pl.DataFrame]:
    aligned = alignment.as_of(grid, series, int(cfg.max_staleness_hours * NS_PER_HOUR))
    audit = alignment.audit(aligned, name, source_class)
    aligned = aligned.with_columns(alignment.difference("level").alias("ret"))
    aligned = aligned.filter(pl.col("source_ts_ns").is_not_null())
    shown = [column for column in ("ret", "mom", "dispersion", "z") if column in aligned.columns]
    return _long(aligned.with_columns(pl.lit(None, dtype=pl.String).alias("symbol")), shown, f"{name}_", source_class), audit


def _relative(bars: pl.DataFrame, own: str, cfg: ViewsConfig) -> pl.DataFrame:
    series = sources.relative_series(bars, cfg.relative_window, cfg.relative_min_count)
    return _long(series.with_columns((pl.col("known_ns") - pl.col("ts_ns")).alias("staleness_ns")), _RELATIVE, "rel_", own)


def _long(wide: pl.DataFrame, names: Sequence[str], prefix: str, source_class: str) -> pl.DataFrame:
    return wide.unpivot(names, index=["symbol", "ts_ns", "known_ns", "staleness_ns"], variable_name="feature").select(
        "symbol",
        "ts_ns",
        "known_ns",
        (pl.lit(prefix) + pl.col("feature")).alias("feature"),
        pl.col("value").cast(pl.Float64).fill_nan(None),
        "staleness_ns",
        pl.lit(source_class).alias("source_class"),
    )


def _check(own: str, present: list[str], features: Mapping[str, pl.DataFrame], cfg: ViewsConfig) -> None:
    if own not in present:
        raise ContractError(f"views: no bars or features of {own!r}, the class of the view itself; build them first")
    for name in present:
        if cfg.momentum not in features[name].columns:
            raise ContractError(f"features of {name}: column {cfg.momentum!r} is missing; views.yaml names it; build it in features.yaml")
