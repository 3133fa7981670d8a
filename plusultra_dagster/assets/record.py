"""What a materialisation says about itself: provenance, counts, ranges, schema, a small table, a sparkline."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from plusultra_core.artifacts import Artifact, canonical_json, open_artifact
from plusultra_core.clock import iso
from plusultra_core.config import to_dict
from plusultra_core.market import MarketConfig
from plusultra_dagster import provenance as provenance_module
from plusultra_dagster.assets.automation import REFRESH
from plusultra_dagster.assets.lineage import lineage_of
from plusultra_dagster.assets.schema import schema_of
from plusultra_dagster.config import Station, digest_of, markets
from plusultra_dagster.partitions import Partition, partition_of, snapshot_by_asset_class
from plusultra_dagster.places import places
from plusultra_dagster.resources.tables import version_of

OWNER = "team:research"
_TABLE_ROWS = 12
_SPARK_POINTS = 30


def dressed(
    module: str,
    group: str,
    *,
    code: Sequence[str],
    configs: Sequence[str] = (),
    market: str = "none",
    io: str | None = "tables",
    kinds: Sequence[str] = ("polars", "parquet"),
    partitions: dg.PartitionsDefinition | None = None,
    automation: dg.AutomationCondition | None = REFRESH,
    pool: str | None = None,
) -> dict[str, Any]:
    """Arguments of `dg.asset` that every asset states alike.

    `code` are the core packages whose sources, with all that they import and `module`'s own, make its content.
    """
    recipe = provenance_module.recipe(module, tuple(code), tuple(configs), market)
    return {
        "group_name": group,
        "partitions_def": partitions or snapshot_by_asset_class,
        "code_version": recipe["code"],
        "owners": [OWNER],
        "kinds": set(kinds),
        **({"io_manager_key": io} if io else {}),
        "automation_condition": automation,
        "pool": pool,
        "metadata": {provenance_module.RECIPE: recipe},
    }


class Record:
    """The record of one step: made at the start of an asset's body, turned into its result at the end."""

    def __init__(self, context: dg.AssetExecutionContext, config: Station | None = None) -> None:
        self.asset = context.asset_key.to_user_string()
        self.partition: Partition = partition_of(context.partition_key)
        self.parents = {key.to_user_string() for key in context.assets_def.asset_deps[context.asset_key]}
        self._instance = context.instance
        self.recipe = recipe = context.assets_def.metadata_by_key[context.asset_key][provenance_module.RECIPE]
        self.inputs = provenance_module.inputs(context.instance, self.asset, self.parents, self.partition)
        self.configs = provenance_module.digests(recipe, self.partition, config)
        self.provenance = provenance_module.provenance(self.asset, recipe, self.configs, self.inputs, self.partition)

    @property
    def market(self) -> MarketConfig:
        """The facts of this partition's class."""
        return markets()[str(self.partition.asset_class)]

    @property
    def market_dict(self) -> dict[str, Any]:
        """The same as JSON, for a child process."""
        return to_dict(self.market)

    @property
    def store(self) -> Path:
        """Where this asset's artifacts are published."""
        return places().artifacts / self.asset

    @property
    def lineage(self) -> dict[str, str]:
        """What goes into a manifest: names and digests, nothing of the moment."""
        return {
            "asset": self.asset,
            "partition": self.partition.key,
            **self._prefixed("config", self.configs),
            **self._prefixed("input", self.inputs),
        }

    def require_checks(self) -> None:
        """Refuse inputs whose blocking checks have not passed on this partition, whoever started the run."""
        open_checks = provenance_module.unpassed(self._instance, sorted(self.parents), self.partition.key)
        if open_checks:
            raise dg.Failure(
                description=f"{self.asset} {self.partition.key}: checks of its inputs have not passed: {', '.join(open_checks)}; "
                "materialise these assets with their checks first",
                allow_retries=False,
            )

    def table(
        self,
        contract: str | None,
        frame: pl.DataFrame,
        meanings: Mapping[str, str] | None = None,
        reads: Mapping[str, Sequence[str]] | None = None,
        **metadata: Any,
    ) -> dg.MaterializeResult:
        """Result of a table asset: refused before it is written when it breaks its contract; its data version is that of its rows.

        `meanings` and `reads` say of columns what only their station knows: what they are, and which columns they are made of.
        """
        if contract is not None:
            from plusultra_core.data.contract.validation import validate

            frame = validate(contract, frame)
        return dg.MaterializeResult(
            value=frame,
            data_version=dg.DataVersion(version_of(frame)),
            metadata={**describe(frame), **self._columns(contract, frame, meanings, reads), **metadata, **self.facts()},
        )

    def _columns(
        self, contract: str | None, frame: pl.DataFrame, meanings: Mapping[str, str] | None, reads: Mapping[str, Sequence[str]] | None
    ) -> dict[str, Any]:
        found: dict[str, Any] = {"dagster/column_schema": schema_of(contract, frame, meanings or {})}
        lineage = lineage_of(self.asset, frame.columns, reads)
        return found if lineage is None else {**found, "dagster/column_lineage": lineage}

    def artifact(self, artifact: Artifact, version: str | None = None, **metadata: Any) -> dg.MaterializeResult:
        """Result of an asset that is a directory; its data version is the sha256 of its manifest, unless another says what it says."""
        size = sum(int(entry["bytes"]) for entry in artifact.manifest["files"].values())
        own = {"artifact": dg.MetadataValue.path(str(artifact.path)), "sha256": artifact.sha256, "key": artifact.path.name, "bytes": size}
        return dg.MaterializeResult(
            value=artifact,
            data_version=dg.DataVersion(version or artifact.sha256[:16]),
            metadata={**metadata, **own, **self.facts()},
        )

    def published(self) -> Artifact:
        """The artifact of this provenance."""
        return open_artifact(self.store / self.provenance)

    def with_content(self, value: object) -> str:
        """Key of an artifact that also depends on what was found outside the graph."""
        return digest_of({"provenance": self.provenance, "found": value})

    @staticmethod
    def read_json(artifact: Artifact, name: str) -> Any:
        """A JSON file of an artifact."""
        return json.loads((artifact.path / name).read_text())

    def facts(self) -> dict[str, Any]:
        """Metadata that every materialisation carries."""
        return {
            provenance_module.PROVENANCE: self.provenance,
            "configs": dg.MetadataValue.json(self.configs),
            "inputs": dg.MetadataValue.json(self.inputs),
        }

    @staticmethod
    def _prefixed(prefix: str, values: Mapping[str, str]) -> dict[str, str]:
        return {f"{prefix}.{name}": value for name, value in values.items()}


def write_json(name: str, value: object, folder: Path) -> None:
    """Write a JSON file of an artifact that is being filled."""
    (folder / name).write_bytes(canonical_json(value))


def describe(frame: pl.DataFrame) -> dict[str, Any]:
    """Rows, ranges, a small table by symbol and a sparkline of a frame of the lake."""
    found: dict[str, Any] = {
        "dagster/row_count": len(frame),
        "rows": len(frame),
    }
    if "symbol" in frame.columns:
        found["symbols"] = frame["symbol"].n_unique()
    if "ts_ns" not in frame.columns or frame.is_empty():
        return found
    first, last = int(frame["ts_ns"].min()), int(frame["ts_ns"].max())  # type: ignore[arg-type]
    found |= {"first": iso(first), "last": iso(last)}
    if "symbol" in frame.columns:
        by_symbol = frame.group_by("symbol").agg(rows=pl.len(), first=pl.col("ts_ns").min(), last=pl.col("ts_ns").max())
        by_symbol = by_symbol.sort("symbol", nulls_last=True)
        rows, rest = by_symbol.head(_TABLE_ROWS).to_dicts(), by_symbol.slice(_TABLE_ROWS)
        if len(rest):
            rows += rest.select(
                symbol=pl.lit(f"{len(rest)} more"), rows=pl.sum("rows"), first=pl.min("first"), last=pl.max("last")
            ).to_dicts()
        records = [{"symbol": str(r["symbol"]), "rows": r["rows"], "first": iso(r["first"]), "last": iso(r["last"])} for r in rows]
        found["by symbol"] = dg.MetadataValue.table([dg.TableRecord(record) for record in records])
    width = max(1, (last - first) // _SPARK_POINTS + 1)
    bins = ((frame["ts_ns"] - first) // width).value_counts().sort("ts_ns")
    counts = dict(zip(bins["ts_ns"].to_list(), bins["count"].to_list(), strict=True))
    found["rows over time"] = sparkline([float(counts.get(i, 0)) for i in range(_SPARK_POINTS)])
    return found


def sparkline(values: Sequence[float]) -> dg.MarkdownMetadataValue:
    """A line of at most 30 points as inline SVG; the UI draws markdown under 1,000 characters in place."""
    finite = [value for value in values if value == value and abs(value) != float("inf")]
    step = max(1, -(-len(finite) // _SPARK_POINTS))
    points = finite[::step]
    low, high = (min(points), max(points)) if points else (0.0, 0.0)
    span = high - low or 1.0
    line = " ".join(f"{4 * i},{22 - round(20 * (value - low) / span)}" for i, value in enumerate(points))
    frame = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 120 24" width="240" height="48">'
    svg = f'{frame}<polyline points="{line}" fill="none" stroke="#36c"/></svg>'
    return dg.MetadataValue.md(f"![line](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})")


def numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers of a nested mapping under dotted names: the UI plots them over partitions."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf"):
            found[f"{prefix}{name}"] = float(value)
    return found
