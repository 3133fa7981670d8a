"""A tradable planted panel and the artifacts of a whole chain on it, made once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plusultra_core import artifacts, config
from plusultra_core.artifacts import Artifact
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.inference.strategies import Setting
from plusultra_core.inference.tasks import TASKS, InferenceConfig
from plusultra_core.inference.trace import open_stage
from plusultra_core.job import Job, run_job
from plusultra_core.market import MarketConfig
from plusultra_core.models.bundle import Bundle, Scaler, save_bundle
from plusultra_core.models.forecaster import ForecasterConfig, InputShape, build_forecaster
from plusultra_core.models.hybrid import HybridConfig
from plusultra_core.models.linear import LinearConfig
from plusultra_core.rl.tasks import TASKS as RL_TASKS
from plusultra_core.rl.train import RLConfig
from plusultra_core.simulation.engine import SimulationConfig
from plusultra_core.windows.panel import Panel, publish_panel, replace

ROOT = Path(__file__).resolve().parents[3]
LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
HYBRID = HybridConfig(
    width=8,
    num_blocks=1,
    num_heads=2,
    feedforward_factor=2,
    patch_bars=4,
    kernel_bars=2,
    dilations=(1,),
    ssm_states=2,
    state_embedding=True,
    dropout=0.3,
)
LINEAR = LinearConfig(width=4, trend_bars=4, lags=3)


class Chain:
    """Artifacts by name, and a way to run a job on them."""

    def __init__(self, panel: Panel, base: Path) -> None:
        self.panel = panel
        self.base = base
        self.paths = {"windows": publish_panel(panel, base / "store", "windows", {}).path}

    def settings(self) -> dict[str, Any]:
        smoke = ROOT / "configs" / "smoke"
        return {
            "rl": config.to_dict(config.load(RLConfig, smoke / "rl.yaml")),
            "inference": config.to_dict(config.load(InferenceConfig, smoke / "inference.yaml")),
            "simulation": config.to_dict(config.load(SimulationConfig, smoke / "simulation.yaml")),
            "guardrails": config.to_dict(config.load(GuardrailsConfig, smoke / "guardrails.yaml")),
            "market": config.to_dict(config.load(MarketConfig, ROOT / "configs" / "markets" / "equity.yaml")),
            "seed": 7,
        }

    @property
    def rl(self) -> RLConfig:
        return config.load(RLConfig, ROOT / "configs" / "smoke" / "rl.yaml")

    def setting(self) -> Setting:
        return open_stage(Job("trace", "x", self.settings(), self.paths, self.base, self.base, {})).setting

    def run(self, task: str, place: str = "store", settings: dict[str, Any] | None = None, **paths: Path) -> Artifact:
        inputs = {**self.paths, **paths}
        job = Job(
            task, f"{task}-key", settings or self.settings(), inputs, self.base / place, self.base / "work" / task, {"snapshot": "tiny"}
        )
        return run_job(job, {**RL_TASKS, **TASKS}, Silent())


class Silent:
    """Progress that nobody reads."""

    def report(self, message: str, **numbers: float) -> None:
        pass


def _bundle(panel: Panel, kind: str, fold: int) -> Bundle:
    cfg = ForecasterConfig(
        kind=kind,
        hybrid=HYBRID if kind == "hybrid" else None,
        linear=LINEAR if kind == "linear" else None,
        quantile_levels=LEVELS,
        num_classes=3,
    )
    shape = InputShape(
        num_features=len(panel.features), lookback=panel.lookback, num_states=panel.num_states, num_horizons=len(panel.horizons)
    )
    scaler = panel.folds[fold]
    return Bundle(
        kind="supervised",
        config={"forecaster": config.to_dict(cfg), "fold": fold, "asset_class": panel.asset_class},
        shape=shape,
        features=panel.features,
        tokens=panel.tokens,
        symbols=panel.symbols,
        horizons=panel.horizons,
        scaler=Scaler(center=tuple(map(float, scaler.center_F)), scale=tuple(map(float, scaler.scale_F)), clip=5.0),
        temperature=(1.0,) * len(panel.horizons),
        lineage={},
        tensors=build_forecaster(cfg, shape, seed=fold).state_dict(),
    )


@pytest.fixture(scope="session")
def chain(planted: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Windows, untrained forecasters, a policy and forecasts. The bars open where they closed, and one asset is halted for a while."""
    panel: Panel = planted(num_assets=4, num_times=160).panel
    opened = np.concatenate((panel.close_NT[:, :1], panel.close_NT[:, :-1]), axis=1)
    tradable, anchor = panel.tradable_NT.copy(), panel.anchor_NT.copy()
    tradable[1, 140:143] = anchor[1, 140:143] = False
    panel = replace(panel, open_NT=opened, tradable_NT=tradable, anchor_NT=anchor)
    made = Chain(panel, tmp_path_factory.mktemp("chain"))

    def fill(directory: Path) -> None:
        for fold in range(len(panel.folds)):
            for kind in ("hybrid", "linear"):
                save_bundle(directory / f"fold_{fold}" / kind, _bundle(panel, kind, fold))

    made.paths["supervised"] = artifacts.publish(made.base / "store", "supervised", fill, {}).path
    made.paths["policy"] = made.run("policy").path
    made.paths["forecasts"] = made.run("forecast").path
    return made
