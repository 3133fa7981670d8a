"""What the gate accepted and does not keep to itself: warnings, symbols set aside, history that is not what it was. Never blocking."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import polars as pl

from plusultra_dagster.config import Data, markets
from plusultra_dagster.partitions import snapshot
from plusultra_dagster.places import places

_ROWS, _LETTERS = 50, 1_000


@dg.asset_check(asset="snapshot", name="findings", partitions_def=snapshot, description="What the gate accepted with a warning.")
def findings(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """WARN with the findings of the gate by the settings of now, by code and one by one; passed when there are none."""
    from plusultra_core.data.gate.findings import CODES
    from plusultra_core.data.snapshot import findings_now, open_snapshot
    from plusultra_core.data.tables import DataConfig

    taken = open_snapshot(places().snapshots, str(context.partition_key))
    found, again = findings_now(taken, Data().load(DataConfig), markets())
    codes = [
        {"code": code, "findings": count, "means": CODES[code].meaning, "remedy": CODES[code].remedy}
        for code, count in sorted(Counter(finding["code"] for finding in found).items())
    ]
    judged = "now: the snapshot was taken with other settings" if again else "when it was taken"
    return _warn(not found, {"findings": len(found), "judged": judged, "by code": _table(codes), "list": _table(found)})


@dg.asset_check(
    asset="snapshot",
    name="quarantine",
    partitions_def=snapshot,
    description="Symbols and rows that were set aside instead of refusing the dump (validation.mode: quarantine).",
)
def quarantine(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """WARN with the rows set aside; passed when there are none."""
    from plusultra_core.data.gate.ingest import QUARANTINE
    from plusultra_core.data.snapshot import open_snapshot

    taken = open_snapshot(places().snapshots, str(context.partition_key), verify=False)
    symbols = taken.manifest["quarantined"]
    rows = pl.read_parquet(taken.path / QUARANTINE)
    by_symbol = rows.group_by("symbol", "table", "code").agg(rows=pl.len()).sort("symbol", "table", "code", nulls_last=True)
    tables = {"by symbol": _table(by_symbol.to_dicts()), "rows set aside": _table(rows.head(_ROWS).to_dicts())}
    return _warn(not symbols, {"symbols": len(symbols), "rows": rows.height, **tables})


@dg.asset_check(
    asset="snapshot",
    name="revisions",
    partitions_def=snapshot,
    description="What it says otherwise than the snapshot that it follows: history revised, rows gone, symbols new and gone.",
)
def revisions(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """WARN where the past is not what it was or symbols came or went; new rows after the old end are told of and no warning."""
    from plusultra_core.data.revisions import since_previous
    from plusultra_core.data.snapshot import open_snapshot
    from plusultra_core.data.tables import DataConfig

    store = places().snapshots
    taken = open_snapshot(store, str(context.partition_key), verify=False)
    found = since_previous(store, taken.path, Data().load(DataConfig).shapes())
    if found is None:
        return _warn(True, {"previous": "none: first of its universe"})
    previous, told = found
    tables = {"by table": _table(told.by_table()), "changes": _table(told.changes(_ROWS))}
    warned = [finding.to_dict() for finding in told.findings]
    return _warn(not warned, {"previous": previous, **told.counts, **tables, "findings": len(warned), "list": _table(warned)})


def _warn(passed: bool, metadata: Mapping[str, Any]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=passed, severity=dg.AssetCheckSeverity.WARN, metadata=dict(metadata))


def _table(rows: Sequence[Mapping[str, Any]]) -> dg.TableMetadataValue | str:
    records = [dg.TableRecord({name: _cell(value) for name, value in row.items()}) for row in rows[:_ROWS]]
    return dg.MetadataValue.table(records) if records else "nothing"


def _cell(value: object) -> str:
    """A value as text, cut where it is long: a finding may name every symbol of the dump, and metadata lie in the event log."""
    text = "" if value is None else str(value)
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS]}\u2026"


gate_checks = [findings, quarantine, revisions]
