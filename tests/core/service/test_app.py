"""The door: what it answers, what it refuses, and what it never says."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.errors import ConfigError
from plusultra_core.service.app import ServiceConfig, create_app
from plusultra_core.service.gauges import FAMILIES

Door = Any
ACCOUNT = {"equity_ccy": 1e6, "peak_ccy": 1e6, "state": "active", "weights": {"AAPL": 0.1, "BTC/USDT:USDT": 0.0, "OLD": 0.0}}


def test_an_answer_has_quantiles_probabilities_a_guarded_target_and_lineage(door: Door) -> None:
    answer = door.forecast({"symbols": ["AAPL"], "account": ACCOUNT})
    assert answer.status_code == 200
    body = answer.json()
    prediction = body["predictions"][0]
    assert [forecast["horizon_bars"] for forecast in prediction["forecasts"]] == [1, 5]
    assert prediction["forecasts"][0]["quantiles_ret_log"] == {"0.05": -0.02, "0.5": 0.001, "0.95": 0.02}
    assert sum(prediction["forecasts"][0][name] for name in ("p_down", "p_flat", "p_up")) == pytest.approx(1.0)
    assert (prediction["proposed_weight"], prediction["target_weight"], prediction["reason"]) == (0.5, 0.2, "max_weight")
    assert body["lineage"] == {
        "dump": "first",
        "served_sha256": door.state.served.sha256,
        "bundle_sha256": "b" * 64,
        "panel_sha256": "c" * 64,
    }


def test_the_newest_bar_comes_first(door: Door) -> None:
    body = door.forecast({"symbols": ["OLD", "AAPL"]}).json()
    assert [row["symbol"] for row in body["predictions"]] == ["AAPL", "OLD"]
    assert [row["staleness_bars"] for row in body["predictions"]] == [0.0, 30.0]


def test_a_stale_bar_gives_a_forecast_and_no_new_position(door: Door) -> None:
    row = door.forecast({"symbols": ["OLD"], "account": ACCOUNT}).json()["predictions"][0]
    assert row["forecasts"]
    assert (row["target_weight"], row["reason"]) in [(0.0, "stale_price"), (None, "stale_price")]
    door.now_ns[0] += 10 * NS_PER_DAY
    assert door.forecast({"symbols": ["AAPL"], "account": ACCOUNT}).json()["predictions"][0]["reason"] == "stale_price"


def test_without_an_account_no_target_passes(door: Door) -> None:
    row = door.forecast({"symbols": ["AAPL"]}).json()["predictions"][0]
    assert row["target_weight"] in (None, 0.0)
    assert row["reason"] != "none"


def test_a_symbol_whose_holding_was_not_said_fails_closed(door: Door) -> None:
    row = door.forecast({"symbols": ["AAPL"], "account": {**ACCOUNT, "weights": {}}}).json()["predictions"][0]
    assert (row["target_weight"], row["reason"]) == (None, "not_finite")


def test_a_halted_account_stays_halted(door: Door) -> None:
    body = door.forecast({"symbols": ["AAPL"], "account": {**ACCOUNT, "state": "halted"}}).json()
    assert body["account_state"] == "halted"
    assert body["predictions"][0]["target_weight"] == 0.0


def test_a_symbol_is_data_and_is_journaled_as_data(door: Door) -> None:
    name = "x'; DROP TABLE predictions;--"
    assert door.forecast({"symbols": [name]}).status_code == 200
    assert door.journal.execute("SELECT symbol FROM predictions").fetchall() == [(name,)]


@pytest.mark.parametrize("key", [None, "nobody"])
def test_without_a_key_nothing_is_answered_and_nothing_explained(door: Door, key: str | None) -> None:
    door.keys["nobody"] = "wrong"
    for method, path in (("POST", "/v1/forecast"), ("GET", "/metrics"), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/nowhere")):
        answer = door.ask(method, path, key)
        assert answer.status_code == 401, path
        assert answer.json() == {"error": "unauthorized", "where": []}


def test_a_key_that_is_not_ascii_is_refused_and_does_not_break_the_door(door: Door) -> None:
    for token in (b"Bearer \xff\xfe", "Bearer schlüssel".encode(), b"", b"Bearer", b"Basic abc"):
        assert door.ask("POST", "/v1/forecast", None, headers={"Authorization": token}, json={}).status_code == 401


def test_a_key_opens_only_what_it_is_for(door: Door) -> None:
    assert door.forecast({"symbols": ["AAPL"]}, key="scraper").status_code == 403
    assert door.ask("GET", "/metrics", "desk").status_code == 403
    assert door.ask("GET", "/metrics", "scraper").status_code == 200


def test_there_are_no_docs_even_with_a_key(door: Door) -> None:
    assert [door.ask("GET", path).status_code for path in ("/docs", "/redoc", "/openapi.json")] == [404] * 3


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused_without_an_echo(door: Door, number: str) -> None:
    content = json.dumps({"symbols": ["AAPL"], "account": ACCOUNT}).replace("1000000.0", number, 1)
    assert number in content
    answer = door.ask("POST", "/v1/forecast", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json() == {"error": "invalid", "where": ["body.account.equity_ccy"]}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"symbols": []},
        {"symbols": "AAPL"},
        {"symbols": [1]},
        {"symbols": ["s3cret" * 40]},
        {"symbols": ["AAPL"], "s3cret": "s3cret"},
        {"symbols": ["AAPL"], "account": {**ACCOUNT, "weights": {"s3cret": "s3cret"}}},
        {"symbols": ["AAPL"], "account": {**ACCOUNT, "state": "s3cret"}},
        {"symbols": ["AAPL", "AAPL"]},
        {"symbols": [f"s3cret{i}" for i in range(65)]},
        "s3cret",
    ],
)
def test_what_does_not_fit_is_refused_and_never_sent_back(door: Door, body: object) -> None:
    answer = door.forecast(body)
    assert answer.status_code == 422
    assert "s3cret" not in answer.text


def test_an_unknown_symbol_is_named_by_its_place(door: Door) -> None:
    answer = door.forecast({"symbols": ["AAPL", "s3cret"]})
    assert (answer.status_code, answer.json()) == (404, {"error": "unknown_symbol", "where": ["symbols.1"]})


def test_deep_json_and_broken_json_are_refused(door: Door) -> None:
    for content in ("[" * 20_000, "{", "\xff"):
        answer = door.ask("POST", "/v1/forecast", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422)


def test_a_body_too_large_is_refused_declared_or_not(door: Door) -> None:
    size = door.cfg.max_body_bytes + 1

    async def drip() -> AsyncIterator[bytes]:
        for _ in range(0, size, 1024):
            yield b" " * 1024

    assert door.ask("POST", "/v1/forecast", content=b" " * size).status_code == 413
    assert door.ask("POST", "/v1/forecast", content=drip()).status_code == 413


def test_what_cannot_be_written_down_is_not_said(door: Door) -> None:
    door.journal.execute("CREATE TRIGGER full BEFORE INSERT ON predictions BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    answer = door.forecast({"symbols": ["AAPL"]})
    assert (answer.status_code, answer.json()) == (503, {"error": "journal", "where": []})


def test_every_request_is_in_the_journal_with_its_key_and_status(door: Door) -> None:
    door.forecast({"symbols": ["AAPL", "OLD"]})
    door.forecast({"symbols": []})
    door.forecast({"symbols": ["AAPL"]}, key=None)
    rows = door.journal.execute("SELECT client, status, num_symbols FROM requests ORDER BY id").fetchall()
    assert rows == [("desk", 200, 2), ("desk", 422, 0), ("", 401, 0)]
    assert all(text not in json.dumps(rows) for text in door.keys.values())


def test_before_there_is_something_to_serve_the_door_is_alive_and_not_ready(empty_door: Door) -> None:
    assert empty_door.ask("GET", "/v1/health", None).json() == {"status": "alive"}
    assert empty_door.ask("GET", "/v1/ready", None).status_code == 503
    assert empty_door.forecast({"symbols": ["AAPL"]}).status_code == 503
    assert "plusultra_service_ready 0.0" in empty_door.ask("GET", "/metrics", "scraper").text


def test_label_values_stay_few_whatever_is_asked(door: Door) -> None:
    for i in range(50):
        door.ask("GET", f"/path/{i}")
        door.forecast({"symbols": [f"symbol {i}"]})
    door.forecast({"symbols": ["AAPL"]})
    text = door.ask("GET", "/metrics", "scraper").text
    assert "AAPL" not in text
    assert "desk" not in text
    assert "/path" not in text
    assert 'plusultra_service_requests_total{route="other",status="4xx"} 50.0' in text
    assert len(text.splitlines()) < 150


def test_swaps_under_load_never_mix_two_versions(door: Door, served_dir: Any) -> None:
    versions = {artifact.sha256: artifact for artifact in (served_dir("first"), served_dir("second"))}

    async def run() -> list[Any]:
        import httpx

        transport = httpx.ASGITransport(door.app)
        headers = {"Authorization": f"Bearer {door.keys['desk']}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://door", headers=headers) as client:
            answers = []
            for i in range(30):
                artifact = list(versions.values())[i % 2]
                swap = asyncio.to_thread(door.state.swap, artifact.path, artifact.sha256)
                _, *some = await asyncio.gather(swap, *(client.post("/v1/forecast", json={"symbols": ["AAPL", "OLD"]}) for _ in range(5)))
                answers += some
            return answers

    answers = asyncio.run(run())
    assert {answer.status_code for answer in answers} == {200}
    for lineage in (answer.json()["lineage"] for answer in answers):
        assert versions[lineage["served_sha256"]].manifest["key"] == lineage["dump"]


def test_a_broken_journal_connection_does_not_break_health(door: Door) -> None:
    door.journal.execute("CREATE TRIGGER full BEFORE INSERT ON requests BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    assert door.forecast({"symbols": ["AAPL"]}).status_code == 200
    assert "plusultra_service_journal_failures_total 1.0" in door.ask("GET", "/metrics", "scraper").text
    with pytest.raises(sqlite3.IntegrityError):
        door.journal.execute("DELETE FROM predictions")


def test_the_door_stands_on_loopback_only(cfg: ServiceConfig) -> None:
    with pytest.raises(ConfigError, match="host: expected one of"):
        replace(cfg, host="0.0.0.0")


def test_verdicts_of_monitoring_stand_beside_the_services_own_metrics(door: Any, tmp_path: Path) -> None:
    path = tmp_path / "equity.prom"
    door.app = create_app(door.state, door.cfg, door.key_file, door.journal, lambda: door.now_ns[0], path)
    before = door.ask("GET", "/metrics", "scraper").text
    path.write_bytes(b"# HELP plusultra_drift_alarms x\n# TYPE plusultra_drift_alarms gauge\nplusultra_drift_alarms 2.0\n")
    text = door.ask("GET", "/metrics", "scraper").text
    assert "plusultra_drift_alarms 2.0" in text
    assert "plusultra_service_ready 1.0" in text
    names = [family.name for family in text_string_to_metric_families(text)]
    assert len(names) == len(set(names))
    told = {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}
    assert told["plusultra_service_verdicts_written_seconds"] == path.stat().st_mtime
    own = b"# HELP plusultra_service_ready x\n# TYPE plusultra_service_ready gauge\nplusultra_service_ready 0.0\n"
    lie = b'# HELP plusultra_drift_alarms x\nplusultra_drift_alarms{a="b} 2\n'
    for foreign in (b"<html>", b"# HELP plusultra_drift_alarms x\nhalf a li", own, lie, b"# HELP plusultra_\xff\n", b"up 1\n"):
        path.write_bytes(foreign)
        after = door.ask("GET", "/metrics", "scraper").text
        assert foreign.decode(errors="replace") not in after
        assert "plusultra_service_verdicts_written_seconds NaN" in after
    assert "plusultra_drift_alarms" not in before


def test_what_monitoring_writes_is_what_the_door_lets_through(root: Path) -> None:
    from plusultra_core.monitoring import metrics

    written = {value for name, value in vars(metrics).items() if name.isupper() and str(value).startswith("plusultra_")}
    assert written == FAMILIES
