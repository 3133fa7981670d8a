"""What has to be made again: everything whose provenance, stored data or checks are not what they should be."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from upath import UPath

from plusultra_dagster import provenance
from plusultra_dagster.partitions import Partition
from plusultra_dagster.places import Places


def stale(
    instance: dg.DagsterInstance,
    graph: BaseAssetGraph,
    names: Sequence[str],
    partition: Partition,
    at: Places,
    changed: frozenset[str] = frozenset(),
) -> list[str]:
    """Those of `names` (in the order of the graph) that a run on this partition has to make.

    `changed` are upstream assets known to be made anew elsewhere. An asset is left out when the newest materialisation
    has the provenance that a run would have now, what it stored is still there, and its blocking checks have passed.
    """
    again: list[str] = []
    for key in graph.toposorted_asset_keys:
        name = key.to_user_string()
        if name not in names:
            continue
        node = graph.get(key)
        parents = {parent.to_user_string() for parent in node.parent_keys}
        if parents & {*again, *changed} or not _is_current(instance, name, parents, node.metadata, partition, at):
            again.append(name)
    return again


def is_stored(at: Places, asset: str, partition: Partition) -> bool:
    """Whether the data of a materialisation is still there."""
    if partition.asset_class is None:
        return (at.snapshots / partition.snapshot / "manifest.json").exists()
    table = UPath(at.lake_url) / asset / partition.asset_class / f"{partition.snapshot}.parquet"
    return table.exists() or reference_of(at, asset, partition) is not None


def reference_of(at: Places, asset: str, partition: Partition) -> Path | None:
    """Folder of the artifact that belongs to a partition, None where there is none."""
    path = UPath(at.lake_url) / asset / str(partition.asset_class) / f"{partition.snapshot}.json"
    if not path.exists():
        return None
    reference = json.loads(path.read_bytes())
    folder = at.artifacts / str(reference["store"]) / str(reference["key"])
    return folder if (folder / "manifest.json").exists() else None


def _is_current(
    instance: dg.DagsterInstance, name: str, parents: set[str], metadata: Mapping[str, Any], partition: Partition, at: Places
) -> bool:
    newest = provenance.latest(instance, name, partition.key)
    if newest is None or not is_stored(at, name, partition) or provenance.unpassed(instance, [name], partition.key):
        return False
    recipe = metadata[provenance.RECIPE]
    recipe = getattr(recipe, "value", recipe)
    versions = provenance.inputs(instance, name, parents, partition)
    return newest.provenance == provenance.provenance(name, recipe, provenance.digests(recipe, partition), versions, partition)
