"""Every file under configs/ loads into its dataclass; the four profiles say the same things."""

import importlib
from pathlib import Path

import pytest

from plusultra_core import config, market

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
PROFILES = ("smoke", "base", "gpu24", "h200")
STATIONS = {
    "data": ("data.tables", "DataConfig"),
    "features": ("features.build", "FeaturesConfig"),
    "regimes": ("regimes.build", "RegimesConfig"),
    "targets": ("targets.build", "TargetsConfig"),
    "views": ("views.build", "ViewsConfig"),
    "windows": ("windows.build", "WindowsConfig"),
    "training": ("training.tasks", "TrainingConfig"),
    "rl": ("rl.train", "RLConfig"),
    "offline": ("rl.offline.tasks", "LedgersConfig"),
    "guardrails": ("guardrails.limits", "GuardrailsConfig"),
    "simulation": ("simulation.engine", "SimulationConfig"),
    "inference": ("inference.tasks", "InferenceConfig"),
    "evaluation": ("evaluation.scorecard", "EvaluationConfig"),
    "reporting": ("reporting.render", "ReportingConfig"),
    "monitoring": ("monitoring.drift", "MonitoringConfig"),
    "service": ("service.app", "ServiceConfig"),
    "feedback": ("feedback.annotations", "FeedbackConfig"),
}


def test_every_profile_has_one_file_a_station_and_no_other() -> None:
    for profile in PROFILES:
        assert sorted(path.stem for path in (CONFIGS / profile).iterdir()) == sorted(STATIONS)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("station", STATIONS)
def test_a_station_config_loads_and_survives_a_round_trip(profile: str, station: str) -> None:
    module, name = STATIONS[station]
    cls = getattr(importlib.import_module(f"plusultra_core.{module}"), name)
    loaded = config.load(cls, CONFIGS / profile / f"{station}.yaml")
    assert config.parse(cls, config.to_dict(loaded), "round trip") == loaded


@pytest.mark.parametrize("profile", PROFILES)
def test_promotion_asks_for_as_many_seeds_as_are_trained(profile: str) -> None:
    rl = config.load(importlib.import_module("plusultra_core.rl.train").RLConfig, CONFIGS / profile / "rl.yaml")
    judge = importlib.import_module("plusultra_core.evaluation.scorecard").EvaluationConfig
    evaluation = config.load(judge, CONFIGS / profile / "evaluation.yaml")
    assert evaluation.promotion.min_seeds == rl.num_seeds
    assert set(evaluation.promotion.baselines) == {*evaluation.baselines, *evaluation.models} - {evaluation.promotion.strategy}


def test_there_is_one_market_file_an_asset_class() -> None:
    loaded = {path.stem: config.load(market.MarketConfig, path) for path in (CONFIGS / "markets").glob("*.yaml")}
    assert set(loaded) == set(market.ASSET_CLASSES)
    assert all(name == facts.asset_class for name, facts in loaded.items())


def test_periods_per_year_differ_with_the_bar() -> None:
    hourly = config.load(market.MarketConfig, CONFIGS / "markets" / "crypto_perpetual.yaml")
    daily = config.load(market.MarketConfig, CONFIGS / "markets" / "equity.yaml")
    assert hourly.periods_per_year == 24 * 365
    assert daily.periods_per_year == 252
