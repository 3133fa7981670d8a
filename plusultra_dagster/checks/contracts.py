"""Blocking checks that re-read what was stored: a table that breaks its contract stops whatever reads it."""

import dagster as dg
import polars as pl

from plusultra_core.errors import ContractError
from plusultra_dagster.partitions import snapshot_by_asset_class
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
        from plusultra_core.data.contract.validation import validate

        try:
            validate(_NAMES.get(asset, asset), table)
        except ContractError as error:
            return dg.AssetCheckResult(passed=False, metadata={"error": str(error), "rows": len(table)})
        return dg.AssetCheckResult(passed=True, metadata={"rows": len(table)})

    return contract


contracts = [_contract(asset) for asset, names in GATES.items() if "contract" in names]
