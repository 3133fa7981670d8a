"""The cross-asset view: what a class could see of itself and of its neighbours at each of its bars."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.clock import NS_PER_HOUR
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.market import ASSET_CLASSES, MarketConfig
from plusultra_core.views import alignment, kernels, sources
from plusultra_core.views.columns import Column, Rows, bar_rows, long, time_rows

Frames = Mapping[str, pl.DataFrame]


@dataclass(frozen=True, kw_only=True, slots=True)
class SideSeriesConfig:
    """A series of a side table: a rate, a volatility index that has no bars, funding."""

    name: str
    """One of `symbols`: stands in for it until it has bars; else shown under this name."""
    table: str
    field: str
    symbol: str | None
    """null: rows of the market as a whole; `*`: mean over the symbols."""
    asset_class: str | None
    """Own or context class whose side tables hold it; null: the own class."""
    log: bool
    """Changes are of the logarithm."""

    def __post_init__(self) -> None:
        if self.asset_class is not None and self.asset_class not in ASSET_CLASSES:
            raise ConfigError(f"side {self.name}: expected an asset_class of {ASSET_CLASSES} or null, found {self.asset_class!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewsConfig:
    """What is looked at, and how old it may be."""

    momentum: str
    """Feature whose mean over a class is that class's momentum."""
    symbols: tuple[str, ...]
    """Symbols of the own or a context class that are shown by name."""
    benchmarks: tuple[str, ...]
    """Symbols of the own or a context class that each own symbol is measured against."""
    side: tuple[SideSeriesConfig, ...]
    """Series of side tables of the own or a context class."""
    max_staleness_hours: float
    """A value older than this at the decision is null."""
    z_window: int
    """Bars of a named symbol that its level is measured against."""
    z_min_count: int
    z_clip: float
    relative_window: int
    """Bars over which beta, correlation, lead and relative strength are taken."""
    relative_min_count: int
    lead_max_bars: int
    """Lags, from 1 on, among which the largest correlation is looked for."""

    def __post_init__(self) -> None:
        if self.max_staleness_hours <= 0 or self.z_clip <= 0:
            raise ConfigError("views: expected max_staleness_hours > 0 and z_clip > 0")
        if not 3 <= self.z_min_count <= self.z_window:
            raise ConfigError(f"z_window: expected 3 <= z_min_count <= z_window, found {self.z_min_count}, {self.z_window}")
        if not 3 <= self.relative_min_count <= self.relative_window:
            raise ConfigError(
                f"relative_window: expected >= relative_min_count >= 3, found {self.relative_window}, {self.relative_min_count}"
            )
        if not 1 <= self.lead_max_bars <= self.relative_window:
            raise ConfigError(f"lead_max_bars: expected 1 to relative_window, found {self.lead_max_bars}")
        for names in (self.symbols, self.benchmarks, tuple(side.name for side in self.side)):
            if len(set(names)) != len(names):
                raise ConfigError(f"symbols, benchmarks, side: expected each once, found {list(names)}")


@dataclass(frozen=True, slots=True)
class View:
    """A view, the audit of what its alignment filled, and the context classes that the dump does not have."""

    frame: pl.DataFrame
    audit: pl.DataFrame
    missing: tuple[str, ...]


def build(own: str, bars: Frames, features: Frames, side_tables: Frames, market: MarketConfig, cfg: ViewsConfig) -> View:
    """Long view of class `own`: rows without symbol hold for the whole class at that time.

    Whole class: `ctx_<class>_{ret,mom,dispersion}` of the own and each context class, `ctx_<class>_{beta,corr,
    strength,lead,lead_bars}` of the own class against each context class, `sym_<symbol>_{ret,z}` of each named symbol,
    `side_<name>_{chg,z}` of each side series. Each own symbol: `rel_{beta,corr,strength,lead,lead_bars}` against the
    others, `vs_<symbol>_{beta,corr,strength}` against each benchmark but itself.
    Looks   back: a source row is seen from its known_ns on. A return is the change of an aligned level, so
            it is 0 when nothing new came and never repeated.
    NaN     none: no row before the first source row is known; null beyond max_staleness_hours and at warm-up.
    Raises  ContractError when the own class or the momentum feature is missing.
    """
    classes = [own, *(name for name in market.context_classes if name != own)]
    present = [name for name in classes if name in bars and name in features and bars[name].height > 0]
    _check(own, present, features, cfg)
    seen = _Builder(own, {name: sources.class_bars(bars[name]) for name in present}, cfg)
    for name in present:
        seen.show_class(name, features[name])
    since = {symbol: seen.show_symbol(symbol) for symbol in cfg.symbols}
    for side in cfg.side:
        where = side.asset_class or own
        if where in classes and where in side_tables:
            seen.show_side(side, side_tables[where], since.get(side.name))
    seen.show_relative()
    for symbol in cfg.benchmarks:
        seen.show_benchmark(symbol)
    return View(
        frame=long(seen.columns),
        audit=pl.DataFrame(seen.audits, schema=alignment.AUDIT),
        missing=tuple(name for name in classes if name not in present),
    )


class _Builder:
    """The columns and audits of one view, as they come."""

    def __init__(self, own: str, classes: Mapping[str, sources.ClassBars], cfg: ViewsConfig) -> None:
        self.own, self.classes, self.cfg = own, classes, cfg
        self.bars = classes[own]
        grid = self.bars.grid()
        self.times: Rows = time_rows(grid)
        self.rows: Rows = bar_rows(self.bars.symbol, self.bars.ts_ns, self.bars.known_ns)
        self.known_T: Int64Array = grid["known_ns"].to_numpy()
        self.whole: Int64Array = np.array([0, grid.height])
        self.max_staleness_ns = int(cfg.max_staleness_hours * NS_PER_HOUR)
        self.own_ret: Float64Array = np.empty(0)
        self.columns: list[Column] = []
        self.audits: list[dict[str, object]] = []

    def show_class(self, name: str, features: pl.DataFrame) -> None:
        """Return, momentum and dispersion of a class; of a context class also how the own class moves with it."""
        series = sources.class_series(self.classes[name], features, self.cfg.momentum)
        ret, staleness, first = self._whole(series, f"ctx_{name}", "ret", name)
        if name == self.own:
            self.own_ret = ret
            return
        cfg = self.cfg
        values = sources.relative_series(self.own_ret, ret, self.whole, cfg.relative_window, cfg.relative_min_count, cfg.lead_max_bars)
        for what, value in values.items():
            self.columns.append(Column(f"ctx_{name}_{what}", name, self.times, value, staleness, first))

    def show_symbol(self, symbol: str) -> int:
        """Return and deviation of a named symbol, where a class has it. Returns the decision time from which it is known."""
        home = self._home(symbol)
        if home is None:
            return int(self.whole[1])
        series = sources.symbol_series(self.classes[home], symbol, self.cfg.z_window, self.cfg.z_min_count, self.cfg.z_clip)
        return self._whole(series, f"sym_{symbol}", "ret", home)[2]

    def show_side(self, side: SideSeriesConfig, side_tables: pl.DataFrame, until: int | None) -> None:
        """Change and deviation of a side series; up to the decision time `until` where it stands in for a symbol."""
        series = sources.side_series(side_tables, side.table, side.field, side.symbol, side.log)
        if series.height:
            series = sources.with_deviation(series, self.cfg.z_window, self.cfg.z_min_count, self.cfg.z_clip)
            prefix, change = (f"side_{side.name}", "chg") if until is None else (f"sym_{side.name}", "ret")
            self._whole(series, prefix, change, f"side:{side.table}", until)

    def show_relative(self) -> None:
        """Each own symbol against the mean of the others of its bar."""
        bars, cfg = self.bars, self.cfg
        others = kernels.others_mean(bars.ret, bars.known_ns, bars.order, bars.bounds)
        staleness = pl.Series(bars.known_ns - bars.ts_ns)
        values = sources.relative_series(bars.ret, others, bars.starts, cfg.relative_window, cfg.relative_min_count, cfg.lead_max_bars)
        for what, value in values.items():
            self.columns.append(Column(f"rel_{what}", self.own, self.rows, value, staleness))

    def show_benchmark(self, symbol: str) -> None:
        """Each own symbol but itself against a named one, seen as of each of its bars."""
        home = self._home(symbol)
        if home is None:
            return
        bars, cfg, source = self.bars, self.cfg, self.classes[home]
        s = source.symbols.index(symbol)
        rows = slice(int(source.starts[s]), int(source.starts[s + 1]))
        series = pl.DataFrame({"ts_ns": source.ts_ns[rows], "known_ns": source.known_ns[rows], "level": source.level[rows]})
        aligned = alignment.as_of(bars.known_ns, bars.starts, series, self.max_staleness_ns)
        self.audits.append(alignment.audit(aligned, f"vs_{symbol}", home))
        against = kernels.step(aligned.values["level"], bars.starts)
        if home == self.own:
            against[rows] = np.nan
        staleness = pl.Series(aligned.staleness_ns)
        mask = aligned.staleness_ns >= 0
        values = sources.relative_series(bars.ret, against, bars.starts, cfg.relative_window, cfg.relative_min_count, 0)
        for what, value in values.items():
            self.columns.append(Column(f"vs_{symbol}_{what}", home, self.rows, value, staleness, mask=None if mask.all() else mask))

    def _home(self, symbol: str) -> str | None:
        return next((name for name, bars in self.classes.items() if symbol in bars.symbols), None)

    def _whole(
        self, series: pl.DataFrame, prefix: str, change: str, source_class: str, until: int | None = None
    ) -> tuple[Float64Array, pl.Series, int]:
        """Columns of a series on the decision times: the change of its level, and whatever else it has.

        Returns the change, the age and the first decision time at which the source was known.
        """
        aligned = alignment.as_of(self.known_T, self.whole, series, self.max_staleness_ns)
        self.audits.append(alignment.audit(aligned, prefix, source_class))
        first = int((aligned.staleness_ns < 0).sum())
        staleness = pl.Series(aligned.staleness_ns)
        values = dict(aligned.values)
        values = {change: kernels.step(values.pop("level"), self.whole), **values}
        for what, value in values.items():
            self.columns.append(Column(f"{prefix}_{what}", source_class, self.times, value, staleness, first, until))
        return values[change], staleness, first


def _check(own: str, present: list[str], features: Frames, cfg: ViewsConfig) -> None:
    if own not in present:
        raise ContractError(f"views: no bars or features of {own!r}, the class of the view itself; build them first")
    for name in present:
        if cfg.momentum not in features[name].columns:
            raise ContractError(f"features of {name}: column {cfg.momentum!r} is missing; views.yaml names it; build it in features.yaml")
