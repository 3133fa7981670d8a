"""Partition keys, however Dagster hands them over."""

import dagster as dg
import pytest

from plusultra_dagster.partitions import Partition, add_snapshot, multi_key, partition_of, snapshot_by_asset_class


def test_a_key_is_read_whether_it_is_an_object_or_text() -> None:
    cell = Partition("demo-0123456789ab", "equity")
    assert partition_of(multi_key(cell.snapshot, "equity")) == cell
    assert partition_of("equity|demo-0123456789ab") == cell
    assert partition_of("demo-0123456789ab") == Partition("demo-0123456789ab")


def test_a_cell_writes_the_key_that_dagster_would() -> None:
    assert Partition("s-1", "crypto_perpetual").key == str(multi_key("s-1", "crypto_perpetual"))
    assert Partition("s-1").key == "s-1"


def test_dimensions_are_two() -> None:
    assert [dimension.name for dimension in snapshot_by_asset_class.partitions_defs] == ["asset_class", "snapshot"]


@pytest.mark.parametrize("key", ["a|b", "a,b", "a...b", "a/b", "", "ä"])
def test_a_snapshot_key_that_would_break_a_backfill_is_refused(key: str) -> None:
    with dg.DagsterInstance.ephemeral() as instance, pytest.raises(ValueError, match="snapshot key"):
        add_snapshot(instance, key)


def test_a_snapshot_is_registered_once() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        add_snapshot(instance, "demo-1")
        add_snapshot(instance, "demo-1")
        assert list(instance.get_dynamic_partitions("snapshot")) == ["demo-1"]
