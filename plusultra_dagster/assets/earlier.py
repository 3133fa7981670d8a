"""What was made of an earlier snapshot by the same code, configs and markets: later ones go on from it."""

from collections.abc import Iterator
from typing import NamedTuple

import dagster as dg
import polars as pl

from plusultra_dagster import provenance
from plusultra_dagster.assets.record import Record
from plusultra_dagster.partitions import Partition, partition_of
from plusultra_dagster.places import places
from plusultra_dagster.resources.tables import stored


class Earlier(NamedTuple):
    """One materialisation of the same class, with the tables that lie in the lake as they were written and read."""

    partition: Partition
    provenance: str
    table: pl.DataFrame
    inputs: dict[str, pl.DataFrame]


def earlier(instance: dg.DagsterInstance, record: Record) -> Iterator[Earlier]:
    """Materialisations of an asset that this code, these configs and markets made of other snapshots, the newest first."""
    for partition in _others(instance, record):
        versions = provenance.inputs(instance, record.asset, record.parents, partition)
        made = provenance.latest(instance, record.asset, partition.key)
        key = provenance.provenance(record.asset, record.recipe, record.configs, versions, partition)
        if made is None or made.provenance != key:
            continue
        wanted = {name: version for name, version in versions.items() if name != "snapshot"}
        tables = {name: stored(places().lake_url, name, partition, version) for name, version in wanted.items()}
        own = stored(places().lake_url, record.asset, partition, made.version)
        if own is not None and all(table is not None for table in tables.values()):
            yield Earlier(partition, key, own, {name: table for name, table in tables.items() if table is not None})


def told(found: Earlier | None, num_taken: int, num_rows: int) -> dict[str, str | int]:
    """Metadata: where rows were taken over from, how many, and how many were made."""
    source = found.partition.snapshot if found is not None and num_taken else "nothing"
    return {"taken_over_from": source, "rows_taken_over": num_taken, "rows_made": num_rows - num_taken}


def _others(instance: dg.DagsterInstance, record: Record) -> Iterator[Partition]:
    """Other partitions of the same class, the newest materialised first, each once."""
    seen = {record.partition}
    cursor = None
    while True:
        page = instance.fetch_materializations(dg.AssetKey(record.asset), limit=100, cursor=cursor)
        for event in page.records:
            partition = partition_of(event.partition_key)
            if partition.asset_class == record.partition.asset_class and partition not in seen:
                seen.add(partition)
                yield partition
        if not page.has_more:
            return
        cursor = page.cursor
