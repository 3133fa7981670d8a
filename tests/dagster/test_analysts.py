"""The analysts' store beside the side tables of the dump: read where the config of the features asks for it, and nowhere else."""

from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from typer.testing import CliRunner

from plusultra_core import config
from plusultra_core.features.build import FeaturesConfig
from plusultra_dagster.cli import app
from plusultra_dagster.places import CONFIGS, Places
from plusultra_dagster.resources.analysts import with_analysts

EXTRA = {"alternative.extra": {"analysts": {"table": "analysts", "fields": ["verdict"], "max_staleness_hours": 999.0, "scale": 1.0}}}
SAID = ["--at", "2016-12-20T21:00:00Z", "--symbol", "AAPL", "--decision", "reject", "--reason", "earnings", "--by", "ana"]


def features_config(overrides: dict[str, object]) -> FeaturesConfig:
    return config.load(FeaturesConfig, Path(CONFIGS) / "smoke/features.yaml", overrides)


@pytest.fixture
def side_tables() -> pl.DataFrame:
    row = {"table": "sentiment", "symbol": "AAPL", "field": "score", "ts_ns": 5, "known_ns": 5, "expires_ns": None, "value": 1.0}
    return pl.DataFrame([row], schema_overrides={"expires_ns": pl.Int64})


def test_without_a_source_that_asks_for_it_the_very_same_frame_comes_back(home: Places, side_tables: pl.DataFrame) -> None:
    assert CliRunner().invoke(app, ["annotations", "add", "--trade", "1", *SAID]).exit_code == 0
    assert with_analysts(side_tables, features_config({})) is side_tables


def test_what_was_said_by_command_stands_beside_the_dumps_rows(home: Places, side_tables: pl.DataFrame) -> None:
    assert with_analysts(side_tables, features_config(EXTRA)).equals(side_tables)
    assert CliRunner().invoke(app, ["annotations", "add", "--trade", "1", *SAID]).exit_code == 0
    both = with_analysts(side_tables, features_config(EXTRA))
    assert both["table"].to_list() == ["sentiment", "analysts"]
    assert both.filter(pl.col("table") == "analysts").select("symbol", "field", "value").rows() == [("AAPL", "verdict", -1.0)]


def test_the_features_asset_and_its_leak_checks_read_the_same_rows(
    landed: str, home: Places, instance: dg.DagsterInstance, defs: dg.Definitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile that asks for the analysts: the column is there, truncation and poison pass on it."""
    from plusultra_dagster import config as station

    monkeypatch.setattr(station.Features, "load", lambda self, cls: features_config(EXTRA))
    from plusultra_dagster.partitions import add_snapshot, multi_key

    add_snapshot(instance, landed)
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    taken = defs.resolve_job_def("take_snapshot").execute_in_process(instance=instance, partition_key=landed, run_config=quiet)
    assert taken.success
    done = defs.resolve_job_def("refresh_tables").execute_in_process(
        instance=instance, partition_key=multi_key(landed, "equity"), run_config=quiet, raise_on_error=False
    )
    assert done.success
    checks = {event.check_name: event.passed for event in done.get_asset_check_evaluations() if event.asset_key == dg.AssetKey("features")}
    assert checks == {"contract": True, "truncation": True, "poison": True}
    assert "side_analysts" in pl.read_parquet(home.lake / "features" / "equity" / f"{landed}.parquet").columns
