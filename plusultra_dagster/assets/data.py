"""The dump, its snapshot, and the typed tables of each class in it."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from plusultra_core.market import MarketConfig
from plusultra_dagster.assets.earlier import earlier, told
from plusultra_dagster.assets.record import Record, dressed
from plusultra_dagster.config import Data, markets
from plusultra_dagster.partitions import snapshot as snapshots
from plusultra_dagster.places import places
from plusultra_dagster.resources.landing import Landing, key_of

if TYPE_CHECKING:
    from plusultra_core.data.snapshot import Snapshot
    from plusultra_core.data.tables import DataConfig

_DAYS, _ROWS = 3, 12  # of the gaps: days named of a symbol, symbols shown

DESCRIPTIONS = {
    "assets": "What is traded: one row a symbol of this class, with its currency, exchange, bar and how its prices are adjusted.",
    "series": "Prices and volumes as the dump has them, typed, in UTC, with the time at which each row could be known.",
    "indicators": "Named indicator values of this class's symbols.",
    "benchmarks": "Benchmark returns and levels that concern this class.",
    "trades": "Trades of this class's symbols as the dump records them.",
    "side_tables": "Alternative data in one long frame: rates, calendars, funding, sentiment, on-chain, fundamentals.",
    "corporate_actions": "Splits and dividends of this class's symbols, dated by when they take effect.",
    "exchange_rates": "What the currencies of this class's symbols were worth in that of the account, as the forex pairs of the dump said.",
}


@dg.observable_source_asset(
    group_name="data", partitions_def=snapshots, description="Dumps in the landing folder, observed: their data version is their content."
)
def dump(landing: Landing) -> dg.DataVersionsByPartition:
    """Data version of each dump that lies in the landing folder, by snapshot key."""
    keys = [key_of(path) for path in landing.files()]
    return dg.DataVersionsByPartition({key: key.rsplit("-", 1)[-1] for key in keys})


@dg.asset(
    **dressed(__file__, "data", code=("data",), configs=("data",), market="all", partitions=snapshots, io=None, kinds=("sqlite",)),
    deps=["dump"],
)
def snapshot(context: dg.AssetExecutionContext, landing: Landing, config: Data) -> dg.MaterializeResult:
    """Read-only, content-addressed copy of a dump that has passed the gate, with its manifest: hash, counts, ranges, findings."""
    from plusultra_core.data.tables import DataConfig, classes_in

    record, store = Record(context, config), places().snapshots
    cfg, known = config.load(DataConfig), markets()
    taken = _taken(context.partition_key, landing, store, cfg)
    classes = classes_in(taken.path, known, cfg)
    facts = {"sha256": taken.sha256, "classes": dg.MetadataValue.json(list(classes)), "path": dg.MetadataValue.path(str(taken.path))}
    told = _story(store, taken, cfg, known)
    return dg.MaterializeResult(data_version=dg.DataVersion(taken.sha256[:16]), metadata={**told, **record.facts(), **facts})


def _taken(key: str, landing: Landing, store: Path, cfg: "DataConfig") -> "Snapshot":
    """The snapshot of that key: the one that is there, where the config would make it so, else taken of the file with its content."""
    from plusultra_core.data.snapshot import open_snapshot, snapshot_key, take_snapshot
    from plusultra_core.data.tables import check_shape

    if (store / key).exists():
        check_shape(store / key, cfg)
        return open_snapshot(store, key)
    path = landing.find(key)
    if path is None:
        raise dg.Failure(f"{key}: no file in {landing.folder} has this content any more; land the dump again", allow_retries=False)
    stem, _, digest = key.rpartition("-")
    taken = take_snapshot(path, store, cfg, markets(), name=None if snapshot_key(path.stem, digest) == key else stem)
    if taken.key != key:
        raise dg.Failure(f"{key}: {path.name} was written while it was read, it is {taken.key} now; land it again", allow_retries=False)
    return taken


def _story(store: Path, taken: "Snapshot", cfg: "DataConfig", known: dict[str, MarketConfig]) -> dict[str, Any]:
    """Rows of the dump, warnings by code, what is set aside, and what changed since the snapshot that it follows."""
    from plusultra_core.data.revisions import since_previous
    from plusultra_core.data.snapshot import findings_now

    manifest = taken.manifest
    warned = Counter(f"warnings.{finding['code']}" for finding in findings_now(taken, cfg, known)[0])
    story = {"rows": sum(manifest["counts"].values()), "symbols_quarantined": len(manifest["quarantined"]), **dict(sorted(warned.items()))}
    found = since_previous(store, taken.path, cfg.shapes())
    if found is None:
        return {"previous": "none: first of its universe", **story}
    previous, revisions = found
    changed = [dg.TableRecord({name: str(value) for name, value in row.items()}) for row in revisions.by_table()]
    return {"previous": previous, "since previous": dg.MetadataValue.table(changed) if changed else "nothing", **revisions.counts, **story}


def _table(name: str) -> dg.AssetsDefinition:
    """One asset for each table of the contract; they differ in their name and schema only."""

    @dg.asset(
        name=name,
        deps=["snapshot"],
        description=DESCRIPTIONS[name],
        **dressed(__file__, "data", code=("data",), configs=("data",), market="all"),
    )
    def table(context: dg.AssetExecutionContext, config: Data) -> dg.MaterializeResult:
        """Owners whose rows an earlier snapshot has word for word are taken over from its table; the result is the same, byte by byte."""
        from plusultra_core.data.increments.tables import PreviousTable, extend_table
        from plusultra_core.data.snapshot import open_snapshot
        from plusultra_core.data.tables import DataConfig

        record, store = Record(context, config), places().snapshots
        taken = open_snapshot(store, record.partition.snapshot, verify=False)
        known = (found for found in earlier(context.instance, record) if (store / found.partition.snapshot).exists())
        before = next(known, None)
        previous = None if before is None else PreviousTable(store / before.partition.snapshot, before.table)
        made = extend_table(name, taken.path, str(record.partition.asset_class), markets(), config.load(DataConfig), previous)
        return record.table(name, made.frame, **told(before, made.num_rows_taken, made.frame.height))

    return table


tables = [_table(name) for name in DESCRIPTIONS]


@dg.asset(**dressed(__file__, "data", code=("data",), configs=("data",), market="own"))
def bars(
    context: dg.AssetExecutionContext, series: pl.DataFrame, assets: pl.DataFrame, corporate_actions: pl.DataFrame, config: Data
) -> dg.MaterializeResult:
    """Bars on the class's grid, raw and adjusted forward (so that no bar knows a later split), with gaps counted.

    Those of an earlier snapshot whose rows are unchanged are taken over; the result is the same to the last bit.
    """
    from plusultra_core.data.increments.bars import PreviousBars, extend_bars
    from plusultra_core.data.tables import DataConfig

    record, cfg = Record(context, config), config.load(DataConfig)
    before = next(earlier(context.instance, record), None)
    previous = None if before is None else PreviousBars(**before.inputs, bars=before.table)
    made = extend_bars(previous, series, assets, corporate_actions, record.market, cfg.bars)
    facts = {**_gaps(made.bars, record.market), **_lives(made.bars, assets, record.market, cfg)}
    return record.table("bars", made.bars, **facts, **told(before, made.num_rows_taken, made.bars.height))


def _gaps(bars: pl.DataFrame, market: MarketConfig) -> dict[str, Any]:
    """What the bars lack of the calendar of their class, and have beyond it."""
    from plusultra_core.data.calendars import audit_gaps, describe_audit

    audit = audit_gaps(bars, market, _DAYS)
    odd = audit.filter((pl.col("missing") > 0) | (pl.col("extra") > 0)).sort("missing", "extra", "symbol", descending=[True, True, False])
    shown = odd.head(_ROWS).select(
        "symbol", "expected", "missing", pl.col("missing_days").list.join(" "), "extra", pl.col("extra_days").list.join(" ")
    )
    records = [dg.TableRecord(row) for row in shown.to_dicts()]
    return {
        "calendar": describe_audit(audit, market) or f"{market.calendar}: no bar is missing, none is beyond it",
        "missing_bars": int(audit["missing"].sum()),
        "extra_bars": int(audit["extra"].sum()),
        "bars against the calendar": dg.MetadataValue.table(records) if records else "nothing",
    }


def _lives(bars: pl.DataFrame, assets: pl.DataFrame, market: MarketConfig, cfg: "DataConfig") -> dict[str, Any]:
    """Who trades, who is gone and since when, as far as the newest bar tells; and what is odd about the class."""
    from plusultra_core.data.bars import remarks
    from plusultra_core.data.universe import lifetimes

    lives = lifetimes(bars, assets, market, cfg.universe, None)
    gone = lives.filter("delisted").select("symbol", "reason", since=pl.from_epoch("delisted_ns", time_unit="ns").dt.strftime("%Y-%m-%d"))
    records = [dg.TableRecord(row) for row in gone.head(_ROWS).to_dicts()]
    told = {f"symbols_{reason.replace(' ', '_')}": count for reason, count in sorted(Counter(lives["reason"]).items())}
    return {**told, "delisted": dg.MetadataValue.table(records) if records else "nobody", **remarks(assets, market, cfg.bars)}
