"""The two dimensions, `snapshot` and `asset_class`, defined here and nowhere else."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import dagster as dg

from plusultra_core.market import ASSET_CLASSES

SNAPSHOT_KEY = re.compile(r"[A-Za-z0-9_-]+")

asset_class = dg.StaticPartitionsDefinition(list(ASSET_CLASSES))
snapshot = dg.DynamicPartitionsDefinition(name="snapshot")
snapshot_by_asset_class = dg.MultiPartitionsDefinition({"asset_class": asset_class, "snapshot": snapshot})


class Partition(NamedTuple):
    """One cell: a dump, and (after the snapshot) one class of it."""

    snapshot: str
    asset_class: str | None = None

    @property
    def key(self) -> str:
        """The partition key as Dagster stores it."""
        return self.snapshot if self.asset_class is None else f"{self.asset_class}|{self.snapshot}"


def partition_of(key: object) -> Partition:
    """The cell that a partition key names, whether it came as MultiPartitionKey or, from GraphQL, as plain text."""
    text = str(key)
    if "|" not in text:
        return Partition(text)
    dimensions = snapshot_by_asset_class.get_partition_key_from_str(text).keys_by_dimension
    return Partition(dimensions["snapshot"], dimensions["asset_class"])


def multi_key(snapshot_key: str, asset_class_key: str) -> dg.MultiPartitionKey:
    """Partition key of one class of one snapshot."""
    return dg.MultiPartitionKey({"asset_class": asset_class_key, "snapshot": snapshot_key})


def across_context(context_classes: Mapping[str, tuple[str, ...]]) -> dg.MultiPartitionMapping:
    """Same snapshot; from each class to the classes whose view reads it, itself among them.

    `context_classes` names for each class those that its view reads beside itself.
    """
    readers: dict[str, list[str]] = {name: [name] for name in context_classes}
    for own, others in context_classes.items():
        for name in others:
            readers[name].append(own)
    across = dg.StaticPartitionMapping({name: sorted(set(own)) for name, own in readers.items()})
    return dg.MultiPartitionMapping(
        {
            "asset_class": dg.DimensionPartitionMapping("asset_class", across),
            "snapshot": dg.DimensionPartitionMapping("snapshot", dg.IdentityPartitionMapping()),
        }
    )


def add_snapshot(instance: dg.DagsterInstance, key: str) -> None:
    """Register a snapshot. Dagster takes any text; a key with `|` or `,` would break every backfill later."""
    if not SNAPSHOT_KEY.fullmatch(key):
        raise ValueError(f"snapshot key: expected {SNAPSHOT_KEY.pattern}, found {key!r}")
    if not instance.has_dynamic_partition(str(snapshot.name), key):
        instance.add_dynamic_partitions(str(snapshot.name), [key])
