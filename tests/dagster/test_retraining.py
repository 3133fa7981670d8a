"""The loop at the clockwork: the sensor asks feedback's rule about each class and starts that class's training alone."""

from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import dagster as dg
import polars as pl
import pytest

from plusultra_core.clock import NS_PER_DAY, now_ns
from plusultra_core.config import load
from plusultra_core.errors import ConfigError
from plusultra_core.feedback.annotations import Annotation, FeedbackConfig, append, open_store
from plusultra_core.feedback.retrain import RetrainConfig
from plusultra_core.monitoring.alarms import step_alarms
from plusultra_core.monitoring.drift import MonitoringConfig
from plusultra_dagster.build import build_defs
from plusultra_dagster.partitions import add_snapshot, multi_key
from plusultra_dagster.places import CONFIGS, Places
from plusultra_dagster.sensors.retraining import retraining
from plusultra_dagster.sensors.upkeep import hourly_watch


@pytest.fixture
def world(home: Places, instance: dg.DagsterInstance) -> Iterator[Any]:
    """Two snapshots, the newer with thirty bars more; tables of equity and etf in both."""
    for key, num_bars in (("a-1", 100), ("b-2", 130)):
        add_snapshot(instance, key)
        instance.report_runless_asset_event(dg.AssetMaterialization("snapshot", partition=key))
        for name in ("equity", "etf"):
            instance.report_runless_asset_event(dg.AssetMaterialization("targets", partition=str(multi_key(key, name))))
            for table, frame in (
                ("bars", pl.DataFrame({"ts_ns": range(num_bars)})),
                ("assets", pl.DataFrame({"symbol": ["AAPL" if name == "equity" else "SPY"]})),
            ):
                path = home.lake / table / name / f"{key}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                frame.write_parquet(path)

    def trained(key: str, name: str) -> None:
        instance.report_runless_asset_event(dg.AssetMaterialization("policy_checkpoint", partition=str(multi_key(key, name))))

    def attempt(name: str, status: dg.DagsterRunStatus) -> None:
        tags = {"dagster/partition/asset_class": name}
        instance.create_run_for_job(build_defs(home).resolve_job_def("train"), tags=tags, status=status)

    def tick() -> tuple[list[str], str]:
        found = retraining(dg.build_sensor_context(instance=instance))
        requests = found.run_requests or []
        return [f"{request.partition_key} {request.tags['plusultra/retrain']}" for request in requests], str(found.skip_reason)

    yield SimpleNamespace(home=home, instance=instance, trained=trained, attempt=attempt, tick=tick)


def later(monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    ahead = now_ns() + int(days * NS_PER_DAY)
    monkeypatch.setattr("plusultra_core.clock.now_ns", lambda: ahead)


def ring(at: Places, name: str) -> None:
    """Drift in as many comparisons as an alarm needs."""
    cfg = load(MonitoringConfig, CONFIGS / "smoke/monitoring.yaml")
    for number in range(cfg.raise_after):
        frame = pl.DataFrame({"feature": ["x"], "status": ["drift"], "psi": [float(number)]})
        step_alarms(at.alarms(name), {"newest": frame}, number, cfg)


def test_nothing_is_asked_before_there_are_tables(home: Places, instance: dg.DagsterInstance) -> None:
    found = retraining(dg.build_sensor_context(instance=instance))
    assert not found.run_requests
    assert "no snapshot with tables yet" in str(found.skip_reason)


def test_a_class_that_was_never_trained_is_trained(world: Any) -> None:
    assert world.tick()[0] == ["equity|b-2 never_trained", "etf|b-2 never_trained"]


def test_a_drift_alarm_trains_its_class_alone_and_the_cooldown_holds_it(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("equity", "etf"):
        world.trained("a-1", name)
    requests, said = world.tick()
    assert requests == []
    assert "equity: for nothing, against cooldown" in said
    ring(world.home, "etf")
    assert "etf: for drift_alarm, against cooldown" in world.tick()[1]
    later(monkeypatch, 20)
    assert world.tick()[0] == ["etf|b-2 drift_alarm"]


def test_without_new_bars_a_training_would_teach_nothing(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world.trained("b-2", "equity")
    ring(world.home, "equity")
    later(monkeypatch, 20)
    assert "equity|b-2" not in " ".join(world.tick()[0])
    world.trained("a-1", "equity")
    later(monkeypatch, 25)
    assert [asked for asked in world.tick()[0] if "equity" in asked] == ["equity|b-2 drift_alarm"]


def test_vetoes_of_the_class_count_from_when_they_were_said(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("equity", "etf"):
        world.trained("a-1", name)
    cfg = load(FeedbackConfig, CONFIGS / "smoke/feedback.yaml")
    later(monkeypatch, 20)
    from plusultra_core.clock import now_ns as ahead

    said = {"confidence": None, "tags": (), "author": "ana", "metadata": None}
    said |= {"context_window_start_ns": None, "context_window_end_ns": None}
    with closing(open_store(world.home.feedback / "annotations.sqlite", cfg)) as store:
        for number in range(cfg.retrain.min_new_vetoes):
            for symbol, decision, created in (("AAPL", "reject", ahead() - 1), ("SPY", "approve", ahead() - 1), ("SPY", "reject", 5)):
                key = f"{symbol}-{decision}-{number}"
                own = {"client_key": key, "trade_id": key, "symbol": symbol, "decision": decision, "created_ns": created}
                append(store, Annotation(trade_ns=1, rationale="no", **own, **said), cfg)  # type: ignore[arg-type]
    assert world.tick()[0] == ["equity|b-2 new_vetoes"]


def test_a_training_under_way_is_not_started_twice_and_failures_end_it(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world.attempt("equity", dg.DagsterRunStatus.STARTED)
    requests, _ = world.tick()
    assert requests == ["etf|b-2 never_trained"]
    cfg = load(FeedbackConfig, CONFIGS / "smoke/feedback.yaml").retrain
    for _ in range(cfg.max_failures):
        world.attempt("etf", dg.DagsterRunStatus.FAILURE)
    later(monkeypatch, 365)
    requests, said = world.tick()
    assert requests == []
    assert "etf: for never_trained, against failed_too_often" in said
    world.attempt("etf", dg.DagsterRunStatus.SUCCESS)
    later(monkeypatch, 800)
    assert world.tick()[0] == ["etf|b-2 never_trained"]


def test_what_cannot_be_read_of_one_class_holds_up_no_other(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("equity", "etf"):
        world.trained("a-1", name)
    later(monkeypatch, 365)
    book = world.home.alarms("equity")
    book.parent.mkdir(parents=True)
    book.write_text("{")
    assert world.tick()[0] == ["etf|b-2 model_too_old"]
    book.unlink()
    (world.home.lake / "bars" / "equity" / "a-1.parquet").unlink()
    assert world.tick()[0] == ["etf|b-2 model_too_old"]


def test_a_training_that_another_job_runs_is_not_started_beside_it(world: Any) -> None:
    tags = {"dagster/partition/asset_class": "equity"}
    job = build_defs(world.home).resolve_job_def("full_graph")
    chosen = frozenset({dg.AssetKey("policy_checkpoint")})
    world.instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED, asset_selection=chosen)
    assert world.tick()[0] == ["etf|b-2 never_trained"]


def test_a_class_that_the_config_leaves_out_is_not_asked_about(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from plusultra_dagster.config import Feedback

    overrides = {"retrain.asset_classes": ["etf"]}
    monkeypatch.setattr("plusultra_dagster.sensors.retraining.Feedback", lambda: Feedback(overrides=overrides))
    assert world.tick()[0] == ["etf|b-2 never_trained"]
    with pytest.raises(ConfigError, match="found 'stocks'"):
        RetrainConfig(min_new_bars=1, min_new_vetoes=1, max_age_days=9.0, cooldown_days=1.0, max_failures=1, asset_classes=("stocks",))


@pytest.mark.filterwarnings("ignore:Non-compliant tag keys")
def test_a_tick_resolves_to_runs_of_the_training_job(world: Any, defs: dg.Definitions) -> None:
    context = dg.build_sensor_context(instance=world.instance, instance_ref=world.instance.get_ref(), definitions=defs)
    tick = retraining.evaluate_tick(context)
    assert [request.partition_key for request in tick.run_requests or []] == ["equity|b-2", "etf|b-2"]
    first = {request.run_key for request in tick.run_requests or []}
    assert first == {request.run_key for request in retraining.evaluate_tick(context).run_requests or []}


def test_the_watch_looks_at_every_class_that_was_decided_about(world: Any) -> None:
    with dg.build_schedule_context(instance=world.instance) as context:
        assert isinstance(hourly_watch(context), dg.SkipReason)
    for key, name in (("a-1", "etf"), ("b-2", "equity")):
        world.instance.report_runless_asset_event(dg.AssetMaterialization("champion", partition=str(multi_key(key, name))))
    with dg.build_schedule_context(instance=world.instance) as context:
        assert [str(request.partition_key) for request in hourly_watch(context)] == ["equity|b-2"]  # type: ignore[union-attr]
