"""Typed, sorted frames of one asset class, read from a snapshot."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from plusultra_core.artifacts import MANIFEST
from plusultra_core.clock import NS_PER_S, bar_ns
from plusultra_core.data.bars import BarsConfig
from plusultra_core.data.contract import empty, sort
from plusultra_core.data.corporate_actions import CorporateActionsConfig
from plusultra_core.data.gate.assets import classify, read_assets
from plusultra_core.data.gate.connection import GateConfig, connect, number, quote, read_columns
from plusultra_core.data.gate.findings import ValidationConfig
from plusultra_core.data.gate.history import HistoryConfig
from plusultra_core.data.gate.schema import SHAPES, TableShape, find_tables
from plusultra_core.data.gate.timestamps import parse_times, to_ns
from plusultra_core.data.side_tables import SideTableConfig, lengthen
from plusultra_core.data.universe import UniverseConfig
from plusultra_core.errors import ConfigError
from plusultra_core.market import ASSET_CLASSES, MarketConfig

TABLES = ("assets", "series", "indicators", "benchmarks", "trades", "side_tables", "corporate_actions")
"""Frames that `build_table` makes."""
_BARS = ("1m", "5m", "15m", "30m", "1h", "4h", "1d", "1w")
_MAX_BOUND = 10_000  # symbols bound to one query; above it everything is read and filtered


@dataclass(frozen=True, kw_only=True, slots=True)
class LagsConfig:
    """Seconds between what a row describes and when it was known, where the dump has no `known_at`."""

    series_s: int
    indicators_s: int
    benchmarks_s: int
    trades_s: int

    def __post_init__(self) -> None:
        for name in ("series_s", "indicators_s", "benchmarks_s", "trades_s"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: expected >= 0, found {getattr(self, name)}")

    def of(self, table: str) -> int:
        """Seconds of one table."""
        return int(getattr(self, f"{table}_s"))


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """The data station: the gate, how strictly it judges, and where the dump keeps what."""

    gate: GateConfig
    validation: ValidationConfig
    history: HistoryConfig
    lags: LagsConfig
    bars: BarsConfig
    universe: UniverseConfig
    corporate_actions: CorporateActionsConfig
    side_tables: tuple[SideTableConfig, ...]

    def __post_init__(self) -> None:
        names = [shape.table for shape in self.shapes()]
        if len(set(names)) < len(names) or set(names) & set(SHAPES):
            raise ConfigError(f"side_tables: expected each table once and none of {sorted(SHAPES)}, found {names}")

    def shapes(self) -> tuple[TableShape, ...]:
        """Shapes of the tables that only the config knows."""
        return (self.corporate_actions.shape(), *(side.shape() for side in self.side_tables))


def classes_in(snapshot_dir: Path, markets: Mapping[str, MarketConfig], cfg: DataConfig) -> tuple[str, ...]:
    """Asset classes with at least one bar in the snapshot, sorted."""
    with _open(snapshot_dir, markets, cfg) as source:
        names = source.db.execute("SELECT DISTINCT symbol FROM series NOT INDEXED").fetchall()
        there = source.assets.filter(pl.col("symbol").is_in([name for (name,) in names]))
        return tuple(there["asset_class"].unique().sort().to_list())


def build_table(name: str, snapshot_dir: Path, asset_class: str, markets: Mapping[str, MarketConfig], cfg: DataConfig) -> pl.DataFrame:
    """One frame of the contract for one asset class; without rows where the dump has none.

    Raises  ConfigError for an unknown name or class; ContractError where the snapshot is not what the gate accepted.
    """
    if name not in TABLES:
        raise ConfigError(f"table: expected one of {TABLES}, found {name!r}")
    if asset_class not in ASSET_CLASSES:
        raise ConfigError(f"asset_class: expected one of {ASSET_CLASSES}, found {asset_class!r}")
    with _open(snapshot_dir, markets, cfg) as source:
        members = source.assets.filter(pl.col("asset_class") == asset_class)
        symbols = members["symbol"].to_list()
        if name == "assets":
            frame = _with_bars(source, members, markets.get(asset_class))
        elif name == "side_tables":
            frame = _side_tables(source, symbols)
        elif name == "corporate_actions":
            frame = _corporate_actions(source, symbols)
        elif name not in source.shapes:
            frame = empty(name)
        else:
            frame = source.read(source.shapes[name], cfg.lags.of(name), None if name == "benchmarks" else symbols)
    frame = frame.rename({"return": "ret_simple", "slippage_bp": "slippage_bps"}, strict=False)
    columns = empty(name).schema
    frame = frame.with_columns(pl.lit(None, dtype).alias(column) for column, dtype in columns.items() if column not in frame.columns)
    return sort(name, frame.select(columns.names()).cast(columns))


@dataclass(frozen=True, slots=True)
class _Source:
    """An open snapshot: its connection, the tables that are there, the assets that are not quarantined."""

    db: sqlite3.Connection
    shapes: dict[str, TableShape]
    assets: pl.DataFrame
    quarantined: tuple[str, ...]
    cfg: DataConfig

    def read(self, shape: TableShape, lag_s: int, symbols: Sequence[str] | None) -> pl.DataFrame:
        """Rows of a table, of some symbols or of all, with `ts_ns` and `known_ns`."""
        names = list(dict.fromkeys((*shape.required, *shape.optional)))
        shown = ", ".join(number(name) if name in shape.numbers else quote(name) for name in names)
        sql = f"SELECT {shown} FROM {quote(shape.table)} NOT INDEXED"
        bound: Sequence[str] = ()
        if symbols is not None and shape.symbol is not None and len(symbols) <= _MAX_BOUND:
            bound = symbols
            sql += f" WHERE {quote(shape.symbol)} IN ({', '.join('?' * len(symbols))})"
            sql += f" OR {quote(shape.symbol)} IS NULL" if shape.null_symbol_allowed else ""
        frame = read_columns(self.db, sql, names, bound)
        if shape.symbol is not None and not bound and frame.height:
            name = pl.col(shape.symbol)
            kept = name.is_in(list(symbols)) if symbols is not None else ~name.is_in(list(self.quarantined))
            frame = frame.filter(kept | name.is_null())
        assert shape.time is not None
        ts_ns = to_ns(frame[shape.time], f"{shape.table}.{shape.time}").cast(pl.Int64)
        frame = frame.with_columns(ts_ns.alias("ts_ns"), known_ns=ts_ns + lag_s * NS_PER_S)
        if shape.known_at is not None:
            known_ns = parse_times(frame[shape.known_at]).ts_ns.cast(pl.Int64)
            frame = frame.with_columns(known_ns=known_ns.fill_null(frame["known_ns"]))
        return frame


@contextmanager
def _open(snapshot_dir: Path, markets: Mapping[str, MarketConfig], cfg: DataConfig) -> Iterator[_Source]:
    manifest = snapshot_dir / MANIFEST
    quarantined = tuple(json.loads(manifest.read_bytes()).get("quarantined", ())) if manifest.exists() else ()
    with connect(snapshot_dir / "dump.sqlite", cfg.gate) as db:
        shapes, _ = find_tables(db, cfg.shapes())
        assets = classify(read_assets(db), markets).filter(~pl.col("symbol").is_in(list(quarantined)))
        yield _Source(db, shapes, assets, quarantined, cfg)


def _side_tables(source: _Source, symbols: Sequence[str]) -> pl.DataFrame:
    """All configured side tables as one long frame."""
    parts = [empty("side_tables")]
    for side in source.cfg.side_tables:
        shape = source.shapes.get(side.table)
        if shape is not None and shape.finite:
            frame = source.read(shape, side.lag_s, None if side.market_wide else symbols)
            parts.append(lengthen(frame, shape.finite, symbols, side))
    return pl.concat(parts)


def _corporate_actions(source: _Source, symbols: Sequence[str]) -> pl.DataFrame:
    cfg = source.cfg.corporate_actions
    shape = source.shapes.get(cfg.table)
    if shape is None:
        return empty("corporate_actions")
    frame = source.read(shape, cfg.lag_s, symbols)
    names = {"symbol": cfg.symbol_column, "action": cfg.action_column, "amount": cfg.amount_column, "ratio": cfg.ratio_column}
    names |= {"currency": cfg.currency_column}
    return frame.select("ts_ns", "known_ns", **{name: pl.col(column) for name, column in names.items() if column in frame.columns})


def _with_bars(source: _Source, members: pl.DataFrame, market: MarketConfig | None) -> pl.DataFrame:
    """`bar` filled in from the commonest step of the series where the metadata does not say it."""
    silent = members.filter(pl.col("bar").is_null())["symbol"].to_list()
    usual = market.bar if market else "1d"
    if not silent:
        return members
    series = source.read(replace(source.shapes["series"], optional=(), known_at=None), 0, silent).sort("symbol", "ts_ns")
    steps = (
        series.select("symbol", step_ns=pl.col("ts_ns").diff().over("symbol"))
        .drop_nulls()
        .group_by("symbol")
        .agg(pl.col("step_ns").mode().min())
    )
    lengths = {bar: bar_ns(bar) for bar in _BARS}
    found = {symbol: min(_BARS, key=lambda bar: abs(lengths[bar] - step)) for symbol, step in steps.iter_rows()}
    inferred = pl.col("symbol").replace_strict(found, default=usual, return_dtype=pl.String)
    return members.with_columns(bar=pl.coalesce("bar", inferred))
