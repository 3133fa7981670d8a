"""What the regimes and the targets say of themselves, and that a side which looks ahead is found."""

import dagster as dg
import polars as pl
import pytest

from plusultra_core.regimes.build import COLUMNS
from plusultra_core.targets import build as targets
from plusultra_dagster import provenance
from plusultra_dagster.checks.leaks import run_leak_check
from plusultra_dagster.partitions import multi_key
from plusultra_dagster.places import Places


def _records(instance: dg.DagsterInstance, asset: str, key: str, name: str) -> list[dict[str, object]]:
    found = provenance.latest(instance, asset, f"equity|{key}")
    assert found is not None
    return [dict(record.data) for record in found.metadata[name].value.records]


def test_regimes_show_coverage_dwell_times_and_transitions_of_every_column(with_tables: str, instance: dg.DagsterInstance) -> None:
    covered = _records(instance, "regimes", with_tables, "coverage and dwell times")
    moved = _records(instance, "regimes", with_tables, "transitions")
    assert (
        [record["column"] for record in covered] == [record["column"] for record in moved] == [name for name in COLUMNS for _ in range(4)]
    )
    for name in COLUMNS:
        assert sum(float(str(record["share"])) for record in covered if record["column"] == name) == pytest.approx(1.0)
    for record in moved:
        assert sum(float(str(record[f"to_{j}"])) for j in range(4)) == pytest.approx(1.0) or not any(record[f"to_{j}"] for j in range(4))
    dwell = {record["state"]: record["dwell_bars"] for record in covered if record["column"] == "trend_state"}
    assert set(dwell) == {"unknown", "down", "flat", "up"} and float(str(dwell["flat"])) >= 1


def test_targets_show_the_classes_of_every_horizon_and_what_the_side_was_worth(with_tables: str, instance: dg.DagsterInstance) -> None:
    assert [record["horizon"] for record in _records(instance, "targets", with_tables, "classes")] == [1, 5, 0]
    found = provenance.latest(instance, "targets", f"equity|{with_tables}")
    assert found is not None
    for name in ("share of bars with a side", "share of sides that pay"):
        assert 0 < float(found.metadata[name]) < 1


@pytest.mark.parametrize("kind", ["truncation", "poison"])
def test_a_side_that_knows_the_next_bar_fails_the_check(kind: str, with_tables: str, home: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    bars = pl.read_parquet(home.lake / "bars" / "equity" / f"{with_tables}.parquet")
    honest = targets._add_side

    def ahead(frame: pl.DataFrame, cfg: targets.MetaConfig) -> pl.DataFrame:
        return honest(frame.with_columns(pl.col("price").shift(-1).over("symbol")), cfg).with_columns(frame["price"])

    monkeypatch.setattr(targets, "_add_side", ahead)
    failed = run_leak_check(kind, "targets", multi_key(with_tables, "equity"), {"bars": bars})
    assert not failed.passed
    assert "meta_side" in str(failed.metadata["error"].value)
