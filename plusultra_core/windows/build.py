"""Long frames of one asset class -> the panel on the union of its bar times."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from plusultra_core.arrays import BoolArray, Float32Array, Float64Array, Int32Array, Int64Array
from plusultra_core.clock import NS_PER_S, bar_ns, iso
from plusultra_core.data.side_tables import vintage
from plusultra_core.errors import ConfigError, ContractError, LookaheadError
from plusultra_core.market import MarketConfig
from plusultra_core.views.panel import wide
from plusultra_core.windows.folds import FoldsConfig, build_folds
from plusultra_core.windows.panel import Fold, Panel, check_panel
from plusultra_core.windows.quotes import QUOTES, currencies_of
from plusultra_core.windows.scaling import fit_scaler, rows_of_windows

KEYS = ("symbol", "ts_ns", "known_ns")
NUM_STATES = 4
"""Vocabulary of every regime token: 0 unknown, 1 low, 2 mid, 3 high."""
VIEW_PREFIX = "view."
FUNDING_TABLES = ("funding_rates", "funding_rates_8h")
"""Where the venue's own funding stands, and where another's that stands in for it."""
FUNDING_FIELD = "rate"


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowsConfig:
    """What a usable window is, and how time is cut into folds."""

    lookback: int
    """Grid bars of a window."""
    min_coverage: float
    """Least share of a window's bars at which the asset has a usable row."""
    min_features_frac: float
    """Least share of an asset's own features that must be there for its row to be usable."""
    label_slack_bars: int
    """A label that ends more than its horizon plus this many grid bars ahead spans a gap and is dropped."""
    max_delay_s: int
    """A row that became known later than this after its bar's close was not there when the bar was decided on: no window ends at it."""
    folds: FoldsConfig
    """The walk-forward."""

    def __post_init__(self) -> None:
        if self.lookback < 2 or self.label_slack_bars < 0:
            raise ConfigError(f"windows: expected lookback >= 2 and label_slack_bars >= 0, found {self.lookback}, {self.label_slack_bars}")
        if self.max_delay_s < 0:
            raise ConfigError(f"windows.max_delay_s: expected >= 0, found {self.max_delay_s}")
        for name in ("min_coverage", "min_features_frac"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"windows.{name}: expected in (0, 1], found {getattr(self, name)}")


def build(
    bars: pl.DataFrame,
    features: pl.DataFrame,
    regimes: pl.DataFrame,
    targets: pl.DataFrame,
    view: pl.DataFrame,
    side_tables: pl.DataFrame,
    quotes: pl.DataFrame,
    market: MarketConfig,
    cfg: WindowsConfig,
) -> Panel:
    """The panel of one asset class, with folds and their scalers.

    Looks   x, state, sigma: back only; y, ret, direction, label_end, weight: ahead, they are labels.
    Raises  ContractError when frames disagree in their rows, LookaheadError when an input row was known later than its bar,
            ConfigError when there are too few bars for the folds.
    """
    if bars.height == 0:
        raise ContractError(f"windows: no bars of {market.asset_class}; leave this class out of the run")
    _check_rows(bars, {"features": features, "regimes": regimes, "targets": targets, "quotes": quotes})
    grid = _Grid(bars)
    names = tuple(name for name in features.columns if name not in KEYS)
    tokens = tuple(name for name in regimes.columns if name.endswith("_state"))
    tradable_NT = grid.scatter(np.ones(bars.height, np.bool_), False)
    own_NTF = grid.scatter(_matrix(features, names), np.nan)
    view_names, view_NTJ, view_known_NT = _pivot_view(view, grid, tradable_NT)
    derived_NT = np.maximum(view_known_NT, grid.scatter(_latest_known(features, regimes), -1))
    known_NT = _check_known(derived_NT, grid.scatter(_integers(bars, "known_ns"), -1), grid)
    labels = _labels(targets, grid, cfg.label_slack_bars)
    anchor_NT = _in_time(_anchors(tradable_NT, own_NTF, labels["sigma_NT"], cfg), known_NT, grid, cfg.max_delay_s)
    x_NTF = np.concatenate((own_NTF, view_NTJ), axis=2).astype(np.float32)
    panel = Panel(
        symbols=grid.symbols,
        currencies=currencies_of(quotes, market),
        features=names + view_names,
        tokens=tokens,
        num_states=(NUM_STATES,) * len(tokens),
        horizons=_horizons(targets),
        asset_class=market.asset_class,
        bar_ns=bar_ns(market.bar),
        periods_per_year=market.periods_per_year,
        lookback=cfg.lookback,
        ts_ns_T=grid.ts_ns_T,
        known_ns_NT=known_NT,
        x_NTF=np.where(np.isfinite(x_NTF), x_NTF, np.float32(np.nan)),
        state_NTS=grid.scatter(_matrix(regimes, tokens, fill=0.0).clip(0, NUM_STATES - 1).astype(np.int8), 0),
        tradable_NT=tradable_NT,
        anchor_NT=anchor_NT,
        **_prices(bars, grid),
        **labels,
        **{f"{name}_NT": grid.scatter(_matrix(quotes, (name,))[:, 0], np.nan) for name in QUOTES},
        funding_NT=bar_funding(side_tables.filter(market.costs.funding), grid.symbols, grid.ts_ns_T, bar_ns(market.bar)),
        folds=_folds(x_NTF, anchor_NT, labels["label_end_NTK"], cfg),
    )
    check_panel(panel)
    return panel


class _Grid:
    """Rows of the bars frame <-> (asset, time) on the union grid."""

    def __init__(self, bars: pl.DataFrame) -> None:
        self.symbols: tuple[str, ...] = tuple(bars["symbol"].unique().sort().to_list())
        self.ts_ns_T: Int64Array = np.unique(_integers(bars, "ts_ns"))
        self.n_R = self.asset_of(bars["symbol"])
        self.t_R = np.searchsorted(self.ts_ns_T, _integers(bars, "ts_ns"))
        if len(np.unique(self.n_R * len(self.ts_ns_T) + self.t_R)) != bars.height:
            raise ContractError("bars: a (symbol, ts_ns) stands twice; each bar is one row")

    def asset_of(self, symbol: pl.Series) -> Int64Array:
        """Row of each symbol; -1 for one that has no bars."""
        index = pl.DataFrame({"symbol": self.symbols, "n": np.arange(len(self.symbols))})
        joined = symbol.to_frame("symbol").join(index, on="symbol", how="left", maintain_order="left")
        return _integers(joined.fill_null(-1), "n")

    def time_of(self, ts_ns_R: Int64Array, where: str) -> Int64Array:
        """Grid index of each time; every one must be on the grid."""
        t_R: Int64Array = np.minimum(np.searchsorted(self.ts_ns_T, ts_ns_R), len(self.ts_ns_T) - 1)
        off = self.ts_ns_T[t_R] != ts_ns_R
        if off.any():
            raise ContractError(
                f"{where}: {int(off.sum())} rows at times without a bar, first {iso(int(ts_ns_R[off][0]))}; align it to the bars"
            )
        return t_R

    def scatter(self, values_R: NDArray[Any], fill: Any) -> NDArray[Any]:
        """Values per row of the bars frame -> (N, T, ...), `fill` where the asset has no bar."""
        panel = np.full((len(self.symbols), len(self.ts_ns_T), *values_R.shape[1:]), fill, dtype=values_R.dtype)
        panel[self.n_R, self.t_R] = values_R
        return panel


def _check_rows(bars: pl.DataFrame, frames: dict[str, pl.DataFrame]) -> None:
    keys = bars.select("symbol", "ts_ns")
    for name, frame in frames.items():
        if not frame.select("symbol", "ts_ns").equals(keys):
            raise ContractError(
                f"{name}: expected the {bars.height} rows of bars in their order, found {frame.height}; build it from these bars"
            )


def _integers(frame: pl.DataFrame, column: str) -> Int64Array:
    values: Int64Array = frame[column].cast(pl.Int64).to_numpy()
    return values


def _matrix(frame: pl.DataFrame, columns: tuple[str, ...], fill: float = math.nan) -> Float64Array:
    if not columns:
        return np.empty((frame.height, 0))
    return frame.select(pl.col(columns).cast(pl.Float64).fill_null(fill)).to_numpy()


def _latest_known(*frames: pl.DataFrame) -> Int64Array:
    latest: Int64Array = np.max([_integers(frame, "known_ns") for frame in frames], axis=0)
    return latest


def _check_known(derived_NT: Int64Array, bar_NT: Int64Array, grid: _Grid) -> Int64Array:
    """When each row's inputs were known; none may be later than every bar of the class up to that time."""
    seen_T = np.maximum.accumulate(bar_NT.max(axis=0))
    late_NT = (derived_NT > seen_T) & (bar_NT >= 0)
    if late_NT.any():
        n, t = (int(axis[0]) for axis in np.nonzero(late_NT))
        raise LookaheadError(
            f"windows: inputs of {grid.symbols[n]} at {iso(int(grid.ts_ns_T[t]))} were known at {iso(int(derived_NT[n, t]))}, "
            f"after the bar ({iso(int(seen_T[t]))}); {int(late_NT.sum())} such rows; join on known_ns"
        )
    known_NT: Int64Array = np.where(bar_NT >= 0, np.maximum(bar_NT, derived_NT), -1)
    return known_NT


def _pivot_view(view: pl.DataFrame, grid: _Grid, tradable_NT: BoolArray) -> tuple[tuple[str, ...], Float64Array, Int64Array]:
    """Long view -> (N, T, J): rows without symbol reach every asset that has a bar, rows with one reach that asset."""
    panel = wide(view, grid.symbols, grid.ts_ns_T)
    names = tuple(sorted({*panel.whole, *panel.own}))
    view_NTJ = np.full((*tradable_NT.shape, len(names)), np.nan)
    for c, name in enumerate(panel.whole):
        view_NTJ[:, :, names.index(name)] = panel.value_TC[:, c]
    for j, name in enumerate(panel.own):
        view_NTJ[:, :, names.index(name)] = panel.value_NTJ[..., j]
    view_NTJ[~tradable_NT] = np.nan
    known_NT = np.where(tradable_NT, np.maximum(panel.known_ns_NT, panel.known_ns_T), -1)
    return tuple(VIEW_PREFIX + name for name in names), view_NTJ, known_NT


def _horizons(targets: pl.DataFrame) -> tuple[int, ...]:
    found = (re.fullmatch(r"target_([1-9][0-9]*)", name) for name in targets.columns)
    horizons = tuple(sorted(int(match[1]) for match in found if match))
    if not horizons:
        raise ContractError("targets: expected a column target_<horizon>, found none; name a horizon in targets.yaml")
    return horizons


def _labels(targets: pl.DataFrame, grid: _Grid, slack_bars: int) -> dict[str, Any]:
    horizons = _horizons(targets)
    end_R = np.full((targets.height, len(horizons)), -1, dtype=np.int32)
    for k, horizon in enumerate(horizons):
        known = targets[f"label_end_ns_{horizon}"].is_not_null().to_numpy()
        end_R[known, k] = grid.time_of(_integers(targets.filter(known), f"label_end_ns_{horizon}"), f"targets.label_end_ns_{horizon}")
    kept_R = (end_R >= 0) & (end_R - grid.t_R[:, None] <= np.array(horizons) + slack_bars)
    y_R = _matrix(targets, tuple(f"target_{h}" for h in horizons))
    ret_R = _matrix(targets, tuple(f"ret_log_{h}" for h in horizons))
    direction_R = _matrix(targets, tuple(f"direction_{h}" for h in horizons), fill=-1.0)
    end_NTK: Int32Array = grid.scatter(np.where(kept_R, end_R, -1).astype(np.int32), -1)
    return {
        "y_NTK": grid.scatter(np.where(kept_R, y_R, np.nan).astype(np.float32), np.nan),
        "ret_NTK": grid.scatter(np.where(kept_R, ret_R, np.nan).astype(np.float32), np.nan),
        "direction_NTK": grid.scatter(np.where(kept_R, direction_R, -1).astype(np.int8), -1),
        "label_end_NTK": end_NTK,
        "weight_NT": grid.scatter(_matrix(targets, ("weight_uniqueness",), fill=0.0)[:, 0].astype(np.float32), 0),
        "sigma_NT": grid.scatter(_matrix(targets, ("sigma",))[:, 0], np.nan),
    }


def _anchors(tradable_NT: BoolArray, own_NTF: Float64Array, sigma_NT: Float64Array, cfg: WindowsConfig) -> BoolArray:
    """Times at which a window may end: the row is usable, sigma is known, and enough of the window is usable."""
    usable_NT = tradable_NT & (np.isfinite(own_NTF).mean(axis=2) >= cfg.min_features_frac)
    count_NT = np.cumsum(usable_NT, axis=1)
    count_NT[:, cfg.lookback :] -= count_NT[:, : -cfg.lookback].copy()
    enough_NT = count_NT >= math.ceil(cfg.min_coverage * cfg.lookback)
    enough_NT[:, : cfg.lookback - 1] = False
    anchor_NT: BoolArray = usable_NT & enough_NT & np.isfinite(sigma_NT) & (np.nan_to_num(sigma_NT) > 0)
    return anchor_NT


def _in_time(anchor_NT: BoolArray, known_NT: Int64Array, grid: _Grid, max_delay_s: int) -> BoolArray:
    """Anchors whose inputs were known when their bar was decided on: the market is met right after the close."""
    kept_NT: BoolArray = anchor_NT & (known_NT <= grid.ts_ns_T + max_delay_s * NS_PER_S)
    if anchor_NT.any() and not kept_NT.any():
        least_s = float((known_NT - grid.ts_ns_T)[anchor_NT].min() / NS_PER_S)
        raise LookaheadError(
            f"windows: every row was known {least_s:g} s or more after its bar, allowed {max_delay_s} (max_delay_s); "
            "no decision can rest on them: stamp bars when they are known, or allow the delay and give simulation.yaml that latency"
        )
    return kept_NT


def _prices(bars: pl.DataFrame, grid: _Grid) -> dict[str, Any]:
    columns = ("open", "high", "low", "close", "volume")
    return {f"{name}_NT": grid.scatter(_matrix(bars, (f"{name}_adj",))[:, 0], np.nan) for name in columns}


def bar_funding(side_tables: pl.DataFrame, symbols: Sequence[str], ts_ns_T: Int64Array, bar_length_ns: int) -> Float64Array:
    """Sum of the funding rates of the events in (ts[t-1], ts[t]], whatever their interval; 0 where there is none.

    A rate is what one event pays, a fraction of the notional. Of an event that is told several times counts what was known
    last: that was paid. A symbol pays by the first of FUNDING_TABLES that has events of it, never by two venues at once.

    Shapes  side_tables: the frame of that name; ts_ns_T the grid, rising; result (N, T) in the order of `symbols`.
    """
    rank = pl.col("table").replace_strict({table: place for place, table in enumerate(FUNDING_TABLES)}, default=None, return_dtype=pl.Int32)
    found = side_tables.filter((pl.col("field") == FUNDING_FIELD) & pl.col("value").is_finite() & rank.is_not_null())
    events = vintage(found.filter(rank == rank.min().over("symbol")), None)
    index = pl.DataFrame({"symbol": symbols, "n": np.arange(len(symbols))}, schema={"symbol": pl.String, "n": pl.Int64})
    inside = pl.col("ts_ns").is_between(int(ts_ns_T[0]) - bar_length_ns, int(ts_ns_T[-1]), closed="right")
    events = events.filter(inside).join(index, on="symbol", maintain_order="left")
    funding_NT = np.zeros((len(symbols), len(ts_ns_T)))
    np.add.at(funding_NT, (events["n"].to_numpy(), np.searchsorted(ts_ns_T, events["ts_ns"].to_numpy())), events["value"].to_numpy())
    return funding_NT


def _folds(x_NTF: Float32Array, anchor_NT: BoolArray, label_end_NTK: Int32Array, cfg: WindowsConfig) -> tuple[Fold, ...]:
    folds = []
    for index, spans in enumerate(build_folds(anchor_NT, label_end_NTK, cfg.lookback, cfg.folds)):
        center_F, scale_F = fit_scaler(x_NTF, rows_of_windows(anchor_NT, spans.train, cfg.lookback))
        folds.append(Fold(index=index, train=spans.train, valid=spans.valid, test=spans.test, center_F=center_F, scale_F=scale_F))
    return tuple(folds)
