"""Typed, sorted frames of one asset class, read from a snapshot."""

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import polars as pl

from plusultra_core.artifacts import MANIFEST, sha256_bytes
from plusultra_core.clock import NS_PER_S, bar_ns
from plusultra_core.data.bars import BarsConfig
from plusultra_core.data.contract.frames import empty, sort
from plusultra_core.data.corporate_actions import CorporateActionsConfig
from plusultra_core.data.fx import build_rates, quote_currency, rates_beside, unit_rate
from plusultra_core.data.gate.assets import classify
from plusultra_core.data.gate.connection import GateConfig
from plusultra_core.data.gate.findings import ValidationConfig
from plusultra_core.data.gate.history import HistoryConfig
from plusultra_core.data.gate.ingest import FOLDER, QUARANTINE, VERSIONS
from plusultra_core.data.gate.rows import RESERVED
from plusultra_core.data.gate.schema import SHAPES, TableShape
from plusultra_core.data.increments.classes import rows_of
from plusultra_core.data.increments.files import Stamp, content_of, is_short, manifest_of, read_whole, stamp_of, unchanged
from plusultra_core.data.side_tables import SideTableConfig, lengthen
from plusultra_core.data.universe import UniverseConfig
from plusultra_core.errors import ArtifactError, ConfigError
from plusultra_core.market import ASSET_CLASSES, MarketConfig

TABLES = ("assets", "series", "indicators", "benchmarks", "trades", "side_tables", "corporate_actions", "exchange_rates")
"""Frames that `build_table` makes."""
_BARS = ("1m", "5m", "15m", "30m", "1h", "4h", "1d", "1w")
_LAYOUT = 1  # of the files of a snapshot; another number makes every older snapshot be taken again
_LIE_SORTED = ("series", "indicators", "benchmarks", "trades", "corporate_actions")
_PLAIN = re.compile(r"[A-Za-z0-9_ -]{1,100}")


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
        if odd := [name for name in names if not _PLAIN.fullmatch(name)]:
            raise ConfigError(f"side_tables: expected letters, digits, _ and - in the name of a table, found {odd[0]!r}")
        if len(set(names)) < len(names) or set(names) & set(SHAPES):
            raise ConfigError(f"side_tables: expected each table once and none of {sorted(SHAPES)}, found {names}")

    def shapes(self) -> tuple[TableShape, ...]:
        """Shapes of the tables that only the config knows."""
        return (self.corporate_actions.shape(), *(side.shape() for side in self.side_tables))


@lru_cache(maxsize=8)
def _digests(shapes: tuple[TableShape, ...]) -> dict[str, str]:
    return {shape.table: sha256_bytes(repr(shape).encode())[:12] for shape in sorted(shapes, key=lambda shape: shape.table)}


def shaped_by(cfg: DataConfig) -> dict[str, object]:
    """What of the config decides which rows and columns a snapshot holds; its manifest keeps it."""
    return {"layout": _LAYOUT, "mode": cfg.validation.mode, "tables": _digests((*SHAPES.values(), *cfg.shapes()))}


def check_shape(snapshot_dir: Path, cfg: DataConfig) -> None:
    """Refuse a snapshot that the config would have made another one.

    Raises  ArtifactError when it was taken by another version, for other columns, or set symbols aside that the config would refuse.
    """
    try:
        stamp = stamp_of(snapshot_dir / MANIFEST)
        manifest_of(snapshot_dir)
    except (OSError, ValueError) as error:
        again = f"remove the folder {snapshot_dir} and take the snapshot again"
        raise ArtifactError(f"{snapshot_dir.name}: no snapshot with a readable {MANIFEST} ({error}); {again}") from error
    _check_shape(snapshot_dir, stamp, cfg)


@lru_cache(maxsize=16)
def _check_shape(snapshot_dir: Path, stamp: Stamp | None, cfg: DataConfig) -> None:
    again = f"remove the folder {snapshot_dir} and take the snapshot again"
    manifest = manifest_of(snapshot_dir)
    taken, now = manifest.get("shaped_by", {}), shaped_by(cfg)
    if taken.get("layout") != now["layout"]:
        raise ArtifactError(f"{snapshot_dir.name}: taken by an older version, which kept no {FOLDER}; {again}")
    if cfg.validation.mode == "strict" and manifest["quarantined"]:
        found = f"{len(manifest['quarantined'])} symbols were set aside by validation.mode quarantine, and the config says strict"
        raise ArtifactError(f"{snapshot_dir.name}: {found}; {again}")
    there = {*manifest["counts"], *manifest["unread"]}
    other = {table for table, digest in _digests((*SHAPES.values(), *cfg.shapes())).items() if taken["tables"].get(table) != digest}
    if changed := sorted(there & other):
        raise ArtifactError(f"{snapshot_dir.name}: the config reads other columns of {', '.join(changed)} than it was taken for; {again}")


def classes_in(snapshot_dir: Path, markets: Mapping[str, MarketConfig], cfg: DataConfig) -> tuple[str, ...]:
    """Asset classes with at least one bar in the snapshot, sorted.

    Raises  ArtifactError where the snapshot must be taken again.
    """
    source = Source.open(snapshot_dir, markets, cfg)
    traded = source.read(SHAPES["series"], 0, None).select(pl.col("symbol").unique()).collect()
    return tuple(source.assets.join(traded, on="symbol", how="semi")["asset_class"].unique().sort().to_list())


def read_quarantine(snapshot_dir: Path) -> pl.DataFrame:
    """The rows that were set aside when the snapshot was taken: table, symbol, code, column, row, timestamp, value, reason.

    `row` counts from 1 in the order of the dump's table; texts are as they stand in the dump.
    Raises  ArtifactError where the snapshot has none, because an older version took it.
    """
    path = snapshot_dir / QUARANTINE
    if not path.exists():
        raise ArtifactError(f"{path}: no such file; remove the folder {snapshot_dir} and take the snapshot again")
    return pl.read_parquet(path)


def build_table(name: str, snapshot_dir: Path, asset_class: str, markets: Mapping[str, MarketConfig], cfg: DataConfig) -> pl.DataFrame:
    """One frame of the contract for one asset class; without rows where the dump has none.

    Raises  ConfigError for an unknown name or class; ArtifactError where the snapshot must be taken again.
    """
    if name not in TABLES:
        raise ConfigError(f"table: expected one of {TABLES}, found {name!r}")
    if asset_class not in ASSET_CLASSES:
        raise ConfigError(f"asset_class: expected one of {ASSET_CLASSES}, found {asset_class!r}")
    source = Source.open(snapshot_dir, markets, cfg)
    members, market = source.members(asset_class), markets.get(asset_class)
    if name == "assets":
        return frame_of(name, _with_bars(source, members, market).lazy())
    if name == "exchange_rates":
        rates = _exchange_rates(source, members, market)
        return rates if rates.is_empty() else frame_of(name, rates.lazy())
    symbols = None if name == "benchmarks" else members["symbol"].to_list()
    tables = [side.table for side in cfg.side_tables] if name == "side_tables" else [cfg.corporate_actions.table]
    paths = [source.folder / f"{table}.parquet" for table in ([name] if name in SHAPES else tables)]
    rows = rows_of((name, cfg.lags, cfg.side_tables, cfg.corporate_actions), paths, symbols, lambda: _rows(name, source, None))
    rows = _rows(name, source, symbols) if rows is None else rows
    if name != "side_tables" or (money := _money_beside(source, members, market)).is_empty():
        return rows
    return frame_of(name, pl.concat([rows, money]).lazy())


def frame_of(name: str, rows: pl.LazyFrame) -> pl.DataFrame:
    """Rows of a snapshot as the frame of the contract."""
    rows = rows.rename({"return": "ret_simple", "slippage_bp": "slippage_bps"}, strict=False)
    columns, there = empty(name).schema, rows.collect_schema()
    whole = [pl.col(column) if column in there else pl.lit(None).alias(column) for column in columns]
    frame = empty(name) if not there else rows.select(whole).cast(columns).collect()  # at once: each step more would be a copy
    return frame if name in _LIE_SORTED else sort(name, frame)


@dataclass(frozen=True, slots=True)
class Source:
    """The tables of a snapshot, each held to the manifest before it is read, and its assets with their classes."""

    folder: Path
    assets: pl.DataFrame
    by_class: Mapping[str, pl.DataFrame]
    cfg: DataConfig

    @classmethod
    def open(cls, snapshot_dir: Path, markets: Mapping[str, MarketConfig], cfg: DataConfig) -> "Source":
        """The snapshot, refused where the config would have made it another one; looked at again when its manifest or its assets change."""
        stamps = stamp_of(snapshot_dir / MANIFEST), stamp_of(snapshot_dir / FOLDER / "assets.parquet")
        return _opened(snapshot_dir, stamps, tuple(sorted(markets.items())), cfg)

    def file(self, table: str) -> Path:
        """Where a table lies; refused where its bytes are not those of the manifest."""
        return unchanged(self.folder / f"{table}.parquet")

    def members(self, asset_class: str) -> pl.DataFrame:
        """The assets of a class."""
        return self.by_class.get(asset_class, self.assets.clear())

    def pairs(self) -> list[str]:
        """Symbols of the pairs of currencies, whatever the class."""
        return self.by_class["forex"]["symbol"].to_list() if "forex" in self.by_class else []

    def read(self, shape: TableShape, lag_s: int, symbols: Sequence[str] | None) -> pl.LazyFrame:
        """Rows of a table, of some symbols or of all, with `ts_ns` and `known_ns`; no columns where the dump has no such rows."""
        path = self.folder / f"{shape.table}.parquet"
        if is_short(path):
            rows = read_whole(path).lazy()
        elif self.file(shape.table).exists():
            rows = pl.scan_parquet(path)
        else:
            return pl.LazyFrame()
        if symbols is not None and shape.symbol is not None:
            mine = pl.col(shape.symbol).is_in(list(symbols))
            rows = rows.filter(mine | pl.col(shape.symbol).is_null() if shape.null_symbol_allowed else mine)
        return known(rows, lag_s)


@lru_cache(maxsize=16)
def _opened(
    snapshot_dir: Path, stamps: tuple[Stamp | None, Stamp | None], markets: tuple[tuple[str, MarketConfig], ...], cfg: DataConfig
) -> Source:
    check_shape(snapshot_dir, cfg)
    folder = snapshot_dir / FOLDER
    return Source(folder, *_classified(content_of(folder / "assets.parquet"), markets), cfg)


@lru_cache(maxsize=4)
def _classified(content: bytes, markets: tuple[tuple[str, MarketConfig], ...]) -> tuple[pl.DataFrame, Mapping[str, pl.DataFrame]]:
    """Assets with their class, and those of each class: of dumps of one universe most often the same."""
    assets = classify(pl.read_parquet(io.BytesIO(content)), dict(markets))
    return assets, {part["asset_class"][0]: part for part in assets.partition_by("asset_class", maintain_order=True)}


def versions_in(snapshot_dir: Path) -> Mapping[str, Mapping[str, str]]:
    """Version of each owner's rows in each table of a snapshot that has rows, in the order in which they lie there.

    Raises  ArtifactError where its file is not the one of the manifest.
    """
    path = snapshot_dir / VERSIONS
    return _versions(path, stamp_of(path), stamp_of(snapshot_dir / MANIFEST))


@lru_cache(maxsize=16)
def _versions(path: Path, stamp: Stamp | None, manifest: Stamp | None) -> Mapping[str, Mapping[str, str]]:
    return {} if stamp is None else json.loads(content_of(path))  # type: ignore[no-any-return]


def known(rows: pl.LazyFrame, lag_s: int) -> pl.LazyFrame:
    """Rows with the time at which they were known: their own word, or their time and the lag."""
    known_ns = pl.col("ts_ns") + lag_s * NS_PER_S
    if "known_at_ns" in rows.collect_schema():
        known_ns = pl.col("known_at_ns").fill_null(known_ns)
    return rows.with_columns(known_ns=known_ns)


def side_rows(source: Source, symbols: Sequence[str] | None, tables: Sequence[SideTableConfig]) -> pl.DataFrame:
    """Some side tables as one long frame, of some symbols or of all."""
    parts = [empty("side_tables")]
    for side in tables:
        rows = source.read(side.shape(), side.lag_s, None if side.market_wide else symbols)
        parts.append(long_rows(rows, symbols, side))
    return pl.concat(parts)


def long_rows(rows: pl.LazyFrame, symbols: Sequence[str] | None, side: SideTableConfig) -> pl.DataFrame:
    """Rows of one side table, as the snapshot has them, as rows of the long frame; without any where it has no values."""
    frame, shape = rows.collect(), side.shape()
    keys = {*shape.required, *RESERVED, "known_ns"}
    values = [name for name in (shape.finite or frame.columns) if name in frame.columns and name not in keys]
    return lengthen(frame, values, symbols, side) if values else empty("side_tables")


def action_rows(source: Source, symbols: Sequence[str] | None) -> pl.LazyFrame:
    """Corporate actions of some symbols, or of all."""
    cfg = source.cfg.corporate_actions
    return named_actions(source.read(cfg.shape(), cfg.lag_s, symbols), cfg)


def named_actions(rows: pl.LazyFrame, cfg: CorporateActionsConfig) -> pl.LazyFrame:
    """Rows of the dump's table of actions under the names of the contract."""
    there = rows.collect_schema()
    return rows.select(**{name: pl.col(column) for name, column in cfg.columns().items() if column in there})


def _rows(name: str, source: Source, symbols: Sequence[str] | None) -> pl.DataFrame:
    """A frame of the contract of some symbols, or of all."""
    if name == "side_tables":
        return frame_of(name, side_rows(source, symbols, source.cfg.side_tables).lazy())
    if name == "corporate_actions":
        return frame_of(name, action_rows(source, symbols))
    return frame_of(name, source.read(SHAPES[name], source.cfg.lags.of(name), symbols))


def _exchange_rates(source: Source, members: pl.DataFrame, market: MarketConfig | None) -> pl.DataFrame:
    """What the pairs of the snapshot say of the currencies of a class."""
    if market is None or not foreign_in(members, market):
        return empty("exchange_rates")
    forex = source.read(SHAPES["series"], source.cfg.lags.of("series"), source.pairs()).collect()
    return build_rates(foreign_in(members, market), forex, market.currency, market.exchange)


def _money_beside(source: Source, members: pl.DataFrame, market: MarketConfig | None) -> pl.DataFrame:
    """The same by symbol, as rows of the side tables."""
    if market is None or not is_mixed(members, market):
        return empty("side_tables")
    first = source.read(SHAPES["series"], 0, members["symbol"].to_list()).select(pl.col("ts_ns").min()).collect().item()
    return money_beside(members, _exchange_rates(source, members, market), market, first)


def money_beside(members: pl.DataFrame, rates: pl.DataFrame, market: MarketConfig, first_ns: int | None) -> pl.DataFrame:
    """The rates of a class by symbol; `first_ns` is the time of its first row."""
    return rates_beside(_quoted(members), rates, market.currency, market.exchange, first_ns or 0)


def foreign_in(members: pl.DataFrame, market: MarketConfig) -> list[str | None]:
    """Currencies of a class that a market decides."""
    return [name for name in _quoted(members).values() if unit_rate(name, market.currency, market.exchange) is None]


def is_mixed(members: pl.DataFrame, market: MarketConfig | None) -> bool:
    """Whether an asset of a class is quoted in other money than the account's: then the side tables say what it was worth."""
    return market is not None and any(unit_rate(name, market.currency, market.exchange) != 1.0 for name in _quoted(members).values())


def _quoted(members: pl.DataFrame) -> dict[str, str | None]:
    """Currency of each symbol's price."""
    columns = [members.get_column(name).to_list() for name in ("symbol", "asset_class", "currency")]  # without a query
    return {symbol: quote_currency(symbol, asset_class, currency) for symbol, asset_class, currency in zip(*columns, strict=True)}


def _with_bars(source: Source, members: pl.DataFrame, market: MarketConfig | None) -> pl.DataFrame:
    """`bar` filled in from the commonest step of the series where the metadata does not say it."""
    silent = members.filter(pl.col("bar").is_null())["symbol"].to_list()
    usual = market.bar if market else "1d"
    if not silent:
        return members
    series = source.read(SHAPES["series"], 0, silent).select("symbol", "ts_ns").collect()
    step_ns = pl.when(pl.col("symbol") == pl.col("symbol").shift()).then(pl.col("ts_ns").diff())
    steps = series.select("symbol", step_ns=step_ns).drop_nulls().group_by("symbol").agg(pl.col("step_ns").mode().min())
    lengths = {bar: bar_ns(bar) for bar in _BARS}
    found = {symbol: min(_BARS, key=lambda bar: abs(lengths[bar] - step)) for symbol, step in steps.iter_rows()}
    inferred = pl.col("symbol").replace_strict(found, default=usual, return_dtype=pl.String)
    return members.with_columns(bar=pl.coalesce("bar", inferred))
