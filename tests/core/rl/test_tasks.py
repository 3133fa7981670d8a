"""The job: a self-contained bundle, trained between the first test span and the last, the same bytes twice."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plusultra_core import artifacts, config
from plusultra_core.artifacts import Artifact
from plusultra_core.errors import ArtifactError, JobError
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.job import Job, run_job
from plusultra_core.market import MarketConfig
from plusultra_core.models.bundle import Bundle, Scaler, load_bundle, save_bundle
from plusultra_core.models.forecaster import ForecasterConfig, InputShape, build_forecaster
from plusultra_core.models.linear import LinearConfig
from plusultra_core.models.seeds import load_seed, open_seeds
from plusultra_core.rl.tasks import TASKS, best_seed, slot_limit
from plusultra_core.rl.train import RLConfig, Trained
from plusultra_core.rl.world import build_world, spans_of
from plusultra_core.simulation.engine import SimulationConfig
from plusultra_core.windows.panel import Panel, publish_panel
from plusultra_core.windows.panel import replace as replace_panel

LINEAR = LinearConfig(width=4, trend_bars=4, lags=3)
LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


class Silent:
    """Progress that nobody reads, and can stop the run at a given report."""

    def __init__(self, stop_at: int = -1) -> None:
        self.left = stop_at

    def report(self, message: str, **numbers: float) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def teacher(panel: Panel) -> Bundle:
    cfg = ForecasterConfig(kind="linear", hybrid=None, linear=LINEAR, quantile_levels=LEVELS, num_classes=3)
    shape = InputShape(
        num_features=len(panel.features), lookback=panel.lookback, num_states=panel.num_states, num_horizons=len(panel.horizons)
    )
    return Bundle(
        kind="supervised",
        config={"forecaster": config.to_dict(cfg)},
        shape=shape,
        features=panel.features,
        tokens=panel.tokens,
        symbols=panel.symbols,
        horizons=panel.horizons,
        scaler=Scaler(center=tuple(map(float, panel.folds[0].center_F)), scale=tuple(map(float, panel.folds[0].scale_F)), clip=5.0),
        temperature=(1.0,) * len(panel.horizons),
        lineage={},
        tensors=build_forecaster(cfg, shape, seed=0).state_dict(),
    )


@pytest.fixture(scope="module")
def panel(planted: Callable[..., Any]) -> Panel:
    made: Panel = planted(num_assets=3, num_times=160).panel
    return made


def settings(root: Path) -> dict[str, Any]:
    smoke = root / "configs" / "smoke"
    return {
        "rl": config.to_dict(config.load(RLConfig, smoke / "rl.yaml")),
        "simulation": config.to_dict(config.load(SimulationConfig, smoke / "simulation.yaml")),
        "guardrails": config.to_dict(config.load(GuardrailsConfig, smoke / "guardrails.yaml")),
        "market": config.to_dict(config.load(MarketConfig, root / "configs" / "markets" / "equity.yaml")),
    }


def run(panel: Panel, base: Path, root: Path, stop_at: int = -1, **changes: Any) -> Artifact:
    windows = publish_panel(panel, base / "store", "windows", {}).path
    supervised = artifacts.publish(base / "store", "supervised", lambda to: save_bundle(to / "fold_0" / "hybrid", teacher(panel)), {}).path
    parts = settings(root)
    parts["rl"] |= changes
    job = Job("policy", "policy-key", parts, {"windows": windows, "supervised": supervised}, base / "store", base / "work", {})
    return run_job(job, TASKS, Silent(stop_at))


def test_the_bundle_holds_forecaster_actor_critic_and_what_serving_needs(panel: Panel, tmp_path: Path, root: Path) -> None:
    artifact = run(panel, tmp_path, root)
    bundle = load_bundle(artifact.path)
    assert bundle.kind == "policy"
    source = teacher(panel)
    for name, tensor in source.tensors.items():
        assert torch.equal(bundle.tensors[f"forecaster.{name}"], tensor)
    assert bundle.config["limit"] == 0.25
    assert bundle.config["band"] == 0.1
    assert bundle.config["reward_scale"] > 0
    history = json.loads((artifact.path / "history.json").read_text())
    assert [row["update"] for row in history] == [0.0, 1.0, 2.0, 3.0]


def test_two_runs_and_a_killed_one_give_the_same_bytes(panel: Panel, tmp_path: Path, root: Path) -> None:
    first, second = run(panel, tmp_path / "a", root), run(panel, tmp_path / "b", root)
    with pytest.raises(KeyboardInterrupt):
        run(panel, tmp_path / "c", root, stop_at=2)
    third = run(panel, tmp_path / "c", root)
    assert first.manifest["files"] == second.manifest["files"] == third.manifest["files"]


def test_each_of_several_seeds_is_what_it_is_alone_and_the_best_on_validation_is_served(panel: Panel, tmp_path: Path, root: Path) -> None:
    many = run(panel, tmp_path / "many", root, num_seeds=3, band=0.0)
    told = json.loads((many.path / "metrics.json").read_text())
    assert [one["seed"] for one in told["seeds"]] == [7, 8, 9]
    assert len({json.dumps(one["curve"]) for one in told["seeds"]}) == 3
    for one in told["seeds"]:
        alone = run(panel, tmp_path / str(one["seed"]), root, seed=one["seed"], band=0.0)
        metrics = json.loads((alone.path / "metrics.json").read_text())
        assert metrics["seeds"] == [one]
        assert len(one["curve"]) == 4
        if one["seed"] == told["seed"]:
            for name in ("model.safetensors", "history.json"):
                assert alone.manifest["files"][name] == many.manifest["files"][name]
        else:
            assert_same(load_seed(many.path, one["seed"], load_bundle(many.path)), load_bundle(alone.path))
    index = open_seeds(many.path)
    assert index is not None and index.served == told["seed"] and set(index.others) == {7, 8, 9} - {told["seed"]}
    assert [(one.seed, one.valid_reward, one.update) for one in index.seeds] == [
        (one["seed"], one["valid_reward"], one["update"]) for one in told["seeds"]
    ]
    scores = [one["valid_reward"] for one in told["seeds"]]
    assert told["valid_reward"] == told["seeds.most"] == max(scores)
    assert told["seed"] == 7 + int(np.argmax(scores))
    assert told["seeds.mean"] == pytest.approx(np.mean(scores))
    assert told["seeds.std"] == pytest.approx(np.std(scores))


def assert_same(found: Bundle, expected: Bundle) -> None:
    """Two bundles to the last bit."""
    assert replace(found, tensors={}) == replace(expected, tensors={})
    assert sorted(found.tensors) == sorted(expected.tensors)
    assert all(torch.equal(tensor, expected.tensors[name]) for name, tensor in found.tensors.items())


def test_the_first_of_equal_seeds_is_served() -> None:
    """None of which found anything that beats doing nothing, say."""
    tried = {seed: Trained({}, {"valid_reward": score}, []) for seed, score in ((4, 0.0), (5, 0.2), (6, 0.2))}
    assert best_seed(tried) == 5


@pytest.mark.parametrize("stop_at", [2, 3, 5, 9])
def test_several_seeds_killed_anywhere_end_with_the_same_bytes(panel: Panel, tmp_path: Path, root: Path, stop_at: int) -> None:
    """In the first, between two, in the second, after the last checkpoint."""
    whole = run(panel, tmp_path / "a", root, num_seeds=3, band=0.0)
    with pytest.raises(KeyboardInterrupt):
        run(panel, tmp_path / "b", root, stop_at, num_seeds=3, band=0.0)
    assert run(panel, tmp_path / "b", root, num_seeds=3, band=0.0).manifest["files"] == whole.manifest["files"]


def test_the_policy_trains_after_its_forecaster_and_before_the_locked_window(panel: Panel) -> None:
    spans = spans_of(panel, 0.25)
    first, last = panel.folds[0], panel.folds[-1]
    assert first.valid[1] <= spans.train[0] < spans.train[1] == spans.valid[0] < spans.valid[1]
    assert spans.valid[1] <= last.test[0] - max(panel.horizons)


def test_nothing_of_the_locked_window_reaches_the_policy(panel: Panel, tmp_path: Path, root: Path) -> None:
    locked = panel.folds[-1].test[0]
    later = {name: getattr(panel, name).copy() for name in ("x_NTF", "close_NT", "open_NT", "high_NT", "low_NT", "sigma_NT")}
    rng = np.random.default_rng(0)
    for name in ("close_NT", "open_NT", "high_NT", "low_NT"):
        later[name][:, locked:] *= 3.0
    later["x_NTF"][:, locked:] = rng.normal(size=later["x_NTF"][:, locked:].shape)
    later["sigma_NT"][:, locked:] *= 2.0
    other = replace_panel(panel, **later)
    a, b = run(panel, tmp_path / "a", root), run(other, tmp_path / "b", root)
    assert a.manifest["files"]["model.safetensors"] == b.manifest["files"]["model.safetensors"]


def test_the_market_rows_are_scaled_by_the_train_span_alone(panel: Panel, root: Path) -> None:
    parts = settings(root)
    simulation = config.parse(SimulationConfig, parts["simulation"], "")
    guard = config.parse(GuardrailsConfig, parts["guardrails"], "")
    market = config.parse(MarketConfig, parts["market"], "")
    cfg = config.parse(RLConfig, parts["rl"], "")
    spans = spans_of(panel, 0.25)
    world, policy, rows = build_world(panel, teacher(panel), None, spans, simulation, market, guard, 0.25, cfg.policy, 7)
    assert torch.allclose(rows.rows_RF.mean(dim=0), torch.zeros(rows.rows_RF.shape[1]), atol=0.05)
    assert world.simulation.initial_capital_ccy == 0.25 * simulation.initial_capital_ccy
    assert not world.present_TN[: spans.train[0]].any()
    assert not world.present_TN[spans.valid[1] :].any()
    assert float(policy.scale_F.min()) > 0


def test_a_slot_gets_its_share_of_the_gross_limit(root: Path) -> None:
    guard = config.parse(GuardrailsConfig, settings(root)["guardrails"], "")
    assert slot_limit(guard, 2) == 0.25
    assert slot_limit(guard, 10) == pytest.approx(0.1)
    assert slot_limit(replace(guard, max_gross=2.0), 10) == pytest.approx(0.2)


def test_a_panel_with_one_fold_or_a_missing_input_is_refused(panel: Panel, tmp_path: Path, root: Path) -> None:
    with pytest.raises(ArtifactError, match="at least 2 folds"):
        spans_of(replace_panel(panel, folds=panel.folds[:1]), 0.25)
    with pytest.raises(JobError, match="'supervised' is missing"):
        windows = publish_panel(panel, tmp_path / "store", "windows", {}).path
        run_job(Job("policy", "k", settings(root), {"windows": windows}, tmp_path / "store", tmp_path / "work", {}), TASKS, Silent())


@pytest.mark.parametrize("source", ["pretrained", "supervised"])
def test_a_backbone_inside_begins_where_its_bundle_ended(panel: Panel, tmp_path: Path, root: Path, source: str) -> None:
    """Frozen, so that what the bundle holds is what it began with; the forecaster beside it stays the supervised one."""
    taught = teacher(panel)
    other = build_forecaster(config.parse(ForecasterConfig, taught.config["forecaster"], ""), taught.shape, seed=9).state_dict()
    backbone = {name: tensor for name, tensor in other.items() if name.startswith("backbone.")}
    pretrained = replace(taught, kind="pretrained", tensors=backbone)
    store = tmp_path / "store"
    inputs = {
        "windows": publish_panel(panel, store, "windows", {}).path,
        "supervised": artifacts.publish(store, "supervised", lambda to: save_bundle(to / "fold_0" / "hybrid", taught), {}).path,
    }
    parts = settings(root)
    parts["rl"]["policy"] |= {"kind": "backbone", "backbone": {"source": source, "tuning": "frozen", "depth_decay": 0.5}}
    if source == "pretrained":
        with pytest.raises(ArtifactError, match="names no pretrained bundle"):
            run_job(Job("policy", "no", parts, inputs, store, tmp_path / "no", {}), TASKS, Silent())
        inputs["pretrained"] = artifacts.publish(store, "pretrained", lambda to: save_bundle(to, pretrained), {}).path
    bundle = load_bundle(run_job(Job("policy", "yes", parts, inputs, store, tmp_path / "yes", {}), TASKS, Silent()).path)
    expected = backbone if source == "pretrained" else taught.tensors
    for name in backbone:
        assert torch.equal(bundle.tensors[f"policy.body.rows.forecaster.{name}"], expected[name])
        assert torch.equal(bundle.tensors[f"forecaster.{name}"], taught.tensors[name])
