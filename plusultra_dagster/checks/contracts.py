"""Blocking checks that re-read what was stored: a table that breaks its contract stops whatever reads it."""

import dagster as dg
import polars as pl

from plusultra_core.errors import ContractError
from plusultra_dagster.partitions import snapshot, snapshot_by_asset_class
from plusultra_dagster.places import places
from plusultra_dagster.provenance import GATES

_NAMES = {"cross_asset_view": "view"}


def _contract(asset: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset,
        name="contract",
        blocking=True,
        partitions_def=snapshot_by_asset_class,
        description=f"The stored {asset} table keeps its contract: columns, types, ranges, keys, order.",
    )
    def contract(table: pl.DataFrame) -> dg.AssetCheckResult:
        from plusultra_core.data.contract import validate

        try:
            validate(_NAMES.get(asset, asset), table)
        except ContractError as error:
            return dg.AssetCheckResult(passed=False, metadata={"error": str(error), "rows": len(table)})
        return dg.AssetCheckResult(passed=True, metadata={"rows": len(table)})

    return contract


@dg.asset_check(asset="snapshot", name="findings", partitions_def=snapshot, description="What the gate accepted with a warning.")
def findings(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """WARN with the findings of the gate, passed when there are none."""
    from plusultra_core.data.snapshot import open_snapshot

    manifest = open_snapshot(places().snapshots, str(context.partition_key)).manifest
    found = [{name: str(value) for name, value in finding.items()} for finding in manifest["findings"]]
    return dg.AssetCheckResult(
        passed=not found,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"findings": len(found), "list": dg.MetadataValue.table([dg.TableRecord(row) for row in found[:50]])},
    )


contracts = [_contract(asset) for asset, names in GATES.items() if "contract" in names]
