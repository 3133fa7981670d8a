"""The desk on a real bundle and panel: the newest bar, in log returns, the same numbers as inference gives."""

import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plusultra_core.artifacts import Artifact, sha256_file
from plusultra_core.config import load, to_dict
from plusultra_core.errors import ArtifactError
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.inference.predict import predict
from plusultra_core.inference.strategies import Setting, run_strategy, sized
from plusultra_core.inference.trace import InferenceConfig
from plusultra_core.market import MarketConfig
from plusultra_core.models.bundle import Bundle, Scaler, save_bundle
from plusultra_core.models.forecaster import ForecasterConfig, InputShape, build_forecaster
from plusultra_core.models.linear import LinearConfig
from plusultra_core.service.__main__ import main
from plusultra_core.service.app import create_app
from plusultra_core.service.desk import DeskSettings, average_notional, build_decide, build_outlooks, forecast_newest, open_desk
from plusultra_core.service.state import Books, Held, Outlook, ServiceState, publish_served
from plusultra_core.simulation.engine import SimulationConfig
from plusultra_core.simulation.market import BARS, market_arrays
from plusultra_core.windows.panel import Panel, publish_panel

LEVELS = (0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95)


def make_bundle(panel: Panel, kind: Any = "supervised") -> Bundle:
    """An untrained linear forecaster that fits the panel."""
    cfg = ForecasterConfig(
        kind="linear", hybrid=None, linear=LinearConfig(width=4, trend_bars=3, lags=4), quantile_levels=LEVELS, num_classes=3
    )
    shape = InputShape(
        num_features=len(panel.features), lookback=panel.lookback, num_states=panel.num_states, num_horizons=len(panel.horizons)
    )
    torch.manual_seed(0)
    fold = panel.folds[-1]
    return Bundle(
        kind=kind,
        config={"forecaster": to_dict(cfg)},
        shape=shape,
        features=panel.features,
        tokens=panel.tokens,
        symbols=panel.symbols,
        horizons=panel.horizons,
        scaler=Scaler(center=tuple(map(float, fold.center_F)), scale=tuple(map(float, fold.scale_F)), clip=5.0),
        temperature=(1.0,) * len(panel.horizons),
        lineage={"windows": "w" * 64},
        tensors=dict(build_forecaster(cfg, shape).state_dict()),
    )


def outlook_of(bundle: Bundle, panel: Panel) -> dict[str, Outlook]:
    return build_outlooks(bundle, panel, forecast_newest(bundle, panel), np.ones(len(panel.symbols)))


@pytest.fixture(scope="module")
def panel(planted: Callable[..., Any]) -> Panel:
    made: Panel = planted(num_assets=3, num_times=120).panel
    return made


@pytest.fixture(scope="module")
def settings(root: Path) -> DeskSettings:
    """Smoke's, with a band and a hurdle that forecasts of an untrained model pass."""
    inference = load(InferenceConfig, root / "configs/smoke/inference.yaml")
    return DeskSettings(
        market=load(MarketConfig, root / "configs/markets/equity.yaml"),
        simulation=load(SimulationConfig, root / "configs/smoke/simulation.yaml"),
        guardrails=load(GuardrailsConfig, root / "configs/smoke/guardrails.yaml"),
        inference=replace(inference, sizing=replace(inference.sizing, band=0.01, cost_factor=0.5)),
    )


def truncate(panel: Panel, num_times: int) -> Panel:
    """The panel as it was when its newest bar was `num_times - 1`."""
    cut = {field.name: getattr(panel, field.name)[:, :num_times] for field in fields(Panel) if "_NT" in field.name}
    return replace(panel, ts_ns_T=panel.ts_ns_T[:num_times], **cut)


def test_every_symbol_is_forecast_from_the_newest_bar(panel: Panel) -> None:
    outlooks = outlook_of(make_bundle(panel), panel)
    assert tuple(outlooks) == panel.symbols
    assert {outlook.ts_ns for outlook in outlooks.values()} == {int(panel.ts_ns_T[-1])}


def test_a_symbol_that_stopped_trading_is_forecast_from_its_own_last_bar(panel: Panel) -> None:
    anchor = panel.anchor_NT.copy()
    anchor[1, -5:] = False
    anchor[2] = False
    outlooks = outlook_of(make_bundle(panel), replace(panel, anchor_NT=anchor))
    assert sorted(outlooks) == ["S00", "S01"]
    assert outlooks["S01"].ts_ns == int(panel.ts_ns_T[-6])


def test_the_numbers_are_those_of_inference_times_volatility(panel: Panel) -> None:
    bundle = make_bundle(panel)
    outlook = outlook_of(bundle, panel)["S01"]
    last = len(panel.ts_ns_T) - 1
    forecasts = predict(bundle, panel, np.array([1]), np.array([last]))
    sigma = panel.sigma_NT[1, last]
    for k, horizon in enumerate(outlook.horizons):
        expected = forecasts.quantiles_BKQ[0, k].astype(float) * sigma * np.sqrt(horizon.horizon_bars)
        assert list(horizon.quantiles_ret_log) == ["0.05", "0.1", "0.25", "0.5", "0.75", "0.9", "0.95"]
        assert list(horizon.quantiles_ret_log.values()) == pytest.approx(expected.tolist(), rel=1e-5)
        assert (horizon.p_down, horizon.p_flat, horizon.p_up) == pytest.approx(tuple(forecasts.probability_BKC[0, k].tolist()), rel=1e-5)


def test_a_bundle_that_cannot_forecast_is_refused(panel: Panel) -> None:
    with pytest.raises(ArtifactError, match="expected kind supervised, found pretrained"):
        outlook_of(make_bundle(panel, "pretrained"), panel)
    with pytest.raises(ArtifactError, match="horizons of the bundle are"):
        outlook_of(make_bundle(panel), replace(panel, horizons=(1, 4)))


def test_a_forecast_that_is_not_finite_is_refused(panel: Panel) -> None:
    sigma = panel.sigma_NT.copy()
    sigma[0, -1] = np.nan
    with pytest.raises(ArtifactError, match="forecast of 'S00' is not finite"):
        outlook_of(make_bundle(panel), replace(panel, sigma_NT=sigma))


def test_the_average_notional_is_the_simulators(panel: Panel, settings: DeskSettings) -> None:
    expected = (panel.close_NT * panel.volume_NT)[:, -settings.simulation.adv_bars :].mean(axis=1)
    assert average_notional(panel, settings.market, settings.simulation) == pytest.approx(expected)


def test_the_desk_decides_as_the_backtest_does(panel: Panel, settings: DeskSettings) -> None:
    """Same forecasts, weights and account: the target of the desk is the target in the simulator's ledger."""
    short = replace(panel, anchor_NT=panel.anchor_NT & (np.arange(len(panel.ts_ns_T)) <= 100))
    bundle = make_bundle(panel)
    _, t_B, forecasts = forecast_newest(bundle, short)
    assert set(t_B) == {100}
    bars = {name: getattr(panel, f"{name}_NT") for name in BARS}
    cfg = settings.simulation
    arrays = market_arrays(panel.ts_ns_T, bars, panel.sigma_NT, panel.tradable_NT, settings.market, cfg.adv_bars, cfg.fallback_sigma)
    setting = Setting(arrays, panel.bar_ns, cfg, settings.market.costs, settings.guardrails)
    quantiles_TAQ = forecasts.quantiles_BKQ[None, :, settings.inference.sizing.horizon_index].astype(np.float64)
    sizing = settings.inference.sizing
    rule = sized(quantiles_TAQ, 100, panel.horizons[sizing.horizon_index], settings.guardrails, sizing)
    ledger = run_strategy(setting, (100, 102), rule)
    assert np.nanmax(np.abs(ledger.steps.target[0])) > 0

    cut = truncate(panel, 101)
    served = forecast_newest(bundle, cut)
    outlooks = build_outlooks(bundle, cut, served, average_notional(cut, settings.market, cfg))
    decide = build_decide(bundle, cut, served, outlooks, settings)
    capital = cfg.initial_capital_ccy
    verdicts, state = decide(cut.symbols, dict.fromkeys(cut.symbols, Held(0.0, True)), Books(capital, capital, "active"))
    assert state == "active"
    found = [np.nan if verdicts[name].target is None else verdicts[name].target for name in cut.symbols]
    assert found == pytest.approx(ledger.steps.target[0].tolist(), nan_ok=True, rel=1e-6)


def test_asking_for_one_symbol_gives_what_asking_for_all_gives(panel: Panel, settings: DeskSettings) -> None:
    bundle = make_bundle(panel)
    newest = forecast_newest(bundle, panel)
    decide = build_decide(bundle, panel, newest, outlook_of(bundle, panel), settings)
    flat = dict.fromkeys(panel.symbols, Held(0.0, True))
    books = Books(1e6, 1e6, "active")
    every, _ = decide(panel.symbols, flat, books)
    one, _ = decide(["S01"], flat, books)
    assert one["S01"].proposed == every["S01"].proposed


@pytest.fixture
def served_dir_of_real_parts(panel: Panel, settings: DeskSettings, tmp_path: Path) -> Artifact:
    """A bundle and a panel as training and windows publish them, promoted into a served directory."""
    windows = publish_panel(panel, tmp_path / "windows", "w", {})
    save_bundle(tmp_path / "bundle", make_bundle(panel))
    manifest = {"settings": to_dict(settings), "lineage": {"snapshot": "s" * 64}}
    return publish_served(tmp_path / "bundle", windows.path, tmp_path / "served", "k", manifest)


def test_a_real_bundle_is_served_end_to_end(empty_door: Any, served_dir_of_real_parts: Artifact, panel: Panel) -> None:
    artifact = served_dir_of_real_parts
    empty_door.state = ServiceState(open_desk)
    empty_door.app = create_app(empty_door.state, empty_door.cfg, empty_door.key_file, empty_door.journal, lambda: int(panel.ts_ns_T[-1]))
    assert empty_door.state.swap(artifact.path, artifact.sha256), empty_door.state.refusal
    weights = dict.fromkeys(panel.symbols, 0.0)
    account = {"equity_ccy": 1e6, "peak_ccy": 1e6, "state": "active", "weights": weights}
    body = empty_door.forecast({"symbols": list(panel.symbols), "account": account}).json()
    assert body["lineage"]["windows"] == "w" * 64
    assert body["lineage"]["snapshot"] == "s" * 64
    assert body["lineage"]["panel_sha256"] == sha256_file(artifact.path / "panel" / "manifest.json")
    for row in body["predictions"]:
        assert row["ts_ns"] == int(panel.ts_ns_T[-1])
        levels = list(row["forecasts"][0]["quantiles_ret_log"].values())
        assert levels == sorted(levels)
    targets = [row["target_weight"] for row in body["predictions"] if row["target_weight"] is not None]
    assert targets
    assert max(map(abs, targets)) <= 0.25


def test_weights_that_are_not_finite_are_refused_and_the_old_bundle_serves_on(
    served_dir_of_real_parts: Artifact, panel: Panel, settings: DeskSettings, tmp_path: Path
) -> None:
    state = ServiceState(open_desk)
    assert state.swap(served_dir_of_real_parts.path, served_dir_of_real_parts.sha256)
    before = state.served
    bad = make_bundle(panel)
    name = sorted(bad.tensors)[0]
    with pytest.raises(ArtifactError, match="finite"):
        save_bundle(tmp_path / "bad", replace(bad, tensors={**bad.tensors, name: bad.tensors[name] * float("nan")}))
    shutil.copytree(served_dir_of_real_parts.path / "bundle", tmp_path / "other")
    weights = tmp_path / "other" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + np.float32(np.nan).tobytes())
    manifest = {"settings": to_dict(settings), "lineage": {}}
    artifact = publish_served(tmp_path / "other", served_dir_of_real_parts.path / "panel", tmp_path / "served", "nan", manifest)
    assert not state.swap(artifact.path, artifact.sha256)
    assert state.served is before
    assert "ArtifactError" in state.refusal


def test_a_directory_without_settings_is_refused(served_dir_of_real_parts: Artifact, tmp_path: Path) -> None:
    path = served_dir_of_real_parts.path
    artifact = publish_served(path / "bundle", path / "panel", tmp_path / "served", "bare", {})
    state = ServiceState(open_desk)
    assert not state.swap(artifact.path, artifact.sha256)
    assert "settings: expected a mapping for DeskSettings" in state.refusal


def test_what_is_published_by_command_is_served(panel: Panel, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    windows = publish_panel(panel, tmp_path / "windows", "w", {})
    save_bundle(tmp_path / "hybrid", make_bundle(panel))
    names = {"bundle": tmp_path / "hybrid", "windows": windows.path, "store": tmp_path / "served", "pointer": tmp_path / "current.json"}
    names |= {"configs": root / "configs/smoke", "market": root / "configs/markets/equity.yaml"}
    arguments = ["publish", *(part for name, path in names.items() for part in (f"--{name}", str(path)))]
    assert main(arguments) == main(arguments) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == said[1] and len(list((tmp_path / "served").iterdir())) == 1
    state = ServiceState(open_desk)
    assert state.refresh(tmp_path / "current.json"), state.refusal
    assert state.served is not None and tuple(state.served.outlooks) == panel.symbols
    assert said[0].endswith(state.served.sha256)


def test_nothing_is_pointed_to_that_the_service_would_refuse(
    panel: Panel, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    windows = publish_panel(panel, tmp_path / "windows", "w", {})
    save_bundle(tmp_path / "policy", make_bundle(panel, "pretrained"))
    names = {"windows": windows.path, "store": tmp_path / "served", "pointer": tmp_path / "current.json"}
    names |= {"configs": root / "configs/smoke", "market": root / "configs/markets/equity.yaml"}
    arguments = ["publish", *(part for name, path in names.items() for part in (f"--{name}", str(path)))]
    for bundle, words in ((tmp_path / "policy", "expected kind supervised"), (tmp_path / "none", "expected a folder")):
        assert main([*arguments, "--bundle", str(bundle)]) == 1
        assert words in capsys.readouterr().err
    assert not (tmp_path / "current.json").exists()
