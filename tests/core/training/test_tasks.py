"""The two jobs: deterministic, resumable, blind to the test span, whole or not there."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from plusultra_core import config
from plusultra_core.errors import ArtifactError, ConfigError, JobError
from plusultra_core.job import Job, read_job, run_job, write_job
from plusultra_core.models.bundle import load_bundle
from plusultra_core.training.tasks import TASKS, TrainingConfig
from plusultra_core.windows.panel import publish_panel, replace


def test_a_supervised_run_leaves_a_bundle_for_every_fold_and_model(planted, run, recorder) -> None:
    panel, progress = planted().panel, recorder()
    artifact = run("supervised", panel, progress=progress)
    for fold in panel.folds:
        for kind in ("hybrid", "linear"):
            bundle = load_bundle(artifact.path / f"fold_{fold.index}" / kind)
            assert bundle.kind == "supervised"
            assert bundle.features == panel.features
            assert bundle.horizons == panel.horizons
            assert bundle.config["fold"] == fold.index
            assert list(bundle.scaler.center) == [float(value) for value in fold.center_F]
            assert bundle.lineage["snapshot"] == "tiny" and len(bundle.lineage["windows"]) == 64
    assert artifact.manifest["champion"] == "fold_1/hybrid"
    history = json.loads((artifact.path / "history.json").read_text())
    assert len(history) == len(progress.rows)
    assert {(row["fold"], row["model"]) for row in history} == {(f, m) for f in (0, 1) for m in ("hybrid", "linear")}
    diagnostics = json.loads((artifact.path / "diagnostics.json").read_text())
    assert all(scores["crossings"] == 0 for scores in diagnostics.values())


def test_every_fold_is_fitted_anew_on_what_was_known_by_then(planted, run) -> None:
    """Other weights in every fold, and a fold that ends earlier does not change when a later one is left out."""
    panel = planted().panel
    both = run("supervised", panel).path
    first = run("supervised", dataclasses.replace(panel, folds=panel.folds[:1]), place="first").path
    for kind in ("hybrid", "linear"):
        old, new = (load_bundle(both / f"fold_{fold}" / kind).tensors for fold in (0, 1))
        assert all(not torch.equal(old[name], new[name]) for name in old if old[name].dim() == 2)
        alone = load_bundle(first / "fold_0" / kind).tensors
        assert all(torch.equal(old[name], alone[name]) for name in old)


def test_the_same_job_twice_gives_the_same_bytes(planted, run) -> None:
    panel = planted().panel
    one, two = (run("supervised", panel, place=place) for place in ("a", "b"))
    assert one.sha256 == two.sha256


def test_another_seed_gives_other_bytes(planted, run, training_config) -> None:
    panel = planted().panel
    other = run("supervised", panel, place="b", cfg=dataclasses.replace(training_config, seed=8))
    assert run("supervised", panel).manifest["files"] != other.manifest["files"]


@pytest.mark.parametrize("stop_at", [1, 2, 4, 8])
def test_a_run_stopped_after_any_epoch_resumes_to_the_same_bytes(planted, run, recorder, tmp_path: Path, stop_at: int) -> None:
    panel = planted().panel
    whole = run("supervised", panel, place="whole")
    with pytest.raises(KeyboardInterrupt):
        run("supervised", panel, place="cut", progress=recorder(stop_at))
    assert not (tmp_path / "cut" / "store" / "supervised-key").exists()
    progress = recorder()
    resumed = run("supervised", panel, place="cut", progress=progress)
    assert resumed.sha256 == whole.sha256
    assert len(progress.rows) < len(json.loads((whole.path / "history.json").read_text()))
    assert not (tmp_path / "cut" / "work" / "supervised").exists()


def test_nothing_after_the_validation_span_reaches_a_fold(planted, run) -> None:
    panel = planted().panel
    fold = panel.folds[0]
    x, y, direction = panel.x_NTF.copy(), panel.y_NTK.copy(), panel.direction_NTK.copy()
    x[:, fold.test[0] :], y[:, fold.test[0] :], direction[:, fold.test[0] :] = 50.0, 9.0, 0
    one = run("supervised", panel)
    two = run("supervised", replace(panel, x_NTF=x, y_NTK=y, direction_NTK=direction), place="b")
    for kind in ("hybrid", "linear"):
        first, second = (load_bundle(artifact.path / "fold_0" / kind) for artifact in (one, two))
        assert all((first.tensors[name] == second.tensors[name]).all() for name in first.tensors)
        assert first.temperature == second.temperature
    x[:, fold.train[1] - 1] = 50.0
    three = run("supervised", replace(panel, x_NTF=x), place="c")
    first, third = (load_bundle(artifact.path / "fold_0/linear") for artifact in (one, three))
    assert any((first.tensors[name] != third.tensors[name]).any() for name in first.tensors)


def test_a_child_process_does_the_same_as_a_call(planted, run, training_config, tmp_path: Path) -> None:
    panel = planted().panel
    here = run("pretrain", panel)
    base = tmp_path / "child"
    windows = publish_panel(panel, base / "store", "windows", {}).path
    settings = {"training": config.to_dict(training_config)}
    write_job(
        base / "job.json", Job("pretrain", "pretrain-key", settings, {"windows": windows}, base / "store", base / "w", {"snapshot": "tiny"})
    )
    command = [sys.executable, "-m", "plusultra_core.training", str(base / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "pretrain epoch=1 " in done.stdout
    job = read_job(base / "job.json")
    assert run_job(job, TASKS, _Silent()).sha256 == here.sha256


@pytest.mark.slow
def test_a_child_killed_in_the_middle_leaves_no_half_and_is_resumed(planted, run, training_config, tmp_path: Path) -> None:
    longer = dataclasses.replace(training_config.supervised.hybrid, max_epochs=30, patience=30)
    cfg = dataclasses.replace(training_config, supervised=dataclasses.replace(training_config.supervised, hybrid=longer))
    panel = planted().panel
    whole = run("supervised", panel, cfg=cfg)
    base = tmp_path / "killed"
    windows = publish_panel(panel, base / "store", "windows", {}).path
    settings = {"training": config.to_dict(cfg)}
    job = Job("supervised", "supervised-key", settings, {"windows": windows}, base / "store", base / "w", {"snapshot": "tiny"})
    write_job(base / "job.json", job)
    command = [sys.executable, "-m", "plusultra_core.training", str(base / "job.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(4):
            assert child.stdout.readline().startswith("fold_0-hybrid")
        child.kill()
    assert [path.name for path in (base / "store").iterdir()] == ["windows"]
    assert (base / "w" / "fold_0-hybrid.pt").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.count("fold_0-hybrid") < 30
    assert run_job(job, TASKS, _Silent()).sha256 == whole.sha256


class _Silent:
    def report(self, message: str, **numbers: float) -> None:
        assert "already made" in message


def test_a_job_without_windows_or_with_another_config_is_refused(training_config, tmp_path: Path) -> None:
    settings = {"training": config.to_dict(training_config)}
    with pytest.raises(JobError, match="input 'windows' is missing"):
        run_job(Job("supervised", "k", settings, {}, tmp_path / "s", tmp_path / "w", {}), TASKS, _Silent())
    del settings["training"]["seed"]
    with pytest.raises(ConfigError, match="missing key 'seed'"):
        run_job(Job("supervised", "k", settings, {}, tmp_path / "s", tmp_path / "w", {}), TASKS, _Silent())


def test_a_panel_without_folds_is_refused(planted, run) -> None:
    with pytest.raises(ArtifactError, match="the panel has no folds"):
        run("supervised", dataclasses.replace(planted().panel, folds=()))


def test_models_of_one_config_answer_at_the_same_quantiles(training_config) -> None:
    other = dataclasses.replace(training_config.linear, quantile_levels=(0.1, 0.5, 0.9))
    with pytest.raises(ConfigError, match="the same quantile_levels"):
        dataclasses.replace(training_config, linear=other)
    with pytest.raises(ConfigError, match=r"expected model\.kind hybrid"):
        dataclasses.replace(training_config, model=training_config.linear)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_other_classes_than_down_flat_and_up_are_refused_before_anything_is_trained(training_config, num_classes: int) -> None:
    """There are three labels, and three columns in the table of forecasts."""
    for name in ("model", "linear"):
        with pytest.raises(ConfigError, match=f"training.{name}.num_classes: expected 3.* found {num_classes}"):
            dataclasses.replace(training_config, **{name: dataclasses.replace(getattr(training_config, name), num_classes=num_classes)})


@pytest.mark.parametrize("profile", ["smoke", "base", "gpu24", "h200"])
def test_every_shipped_config_trains_a_step(profile: str, planted, run, root: Path) -> None:
    cfg = config.load(TrainingConfig, root / f"configs/{profile}/training.yaml")
    small = {"max_epochs": 1, "patience": 1}
    cut = dataclasses.replace(
        cfg,
        supervised=dataclasses.replace(
            cfg.supervised,
            hybrid=dataclasses.replace(cfg.supervised.hybrid, **small),
            linear=dataclasses.replace(cfg.supervised.linear, **small),
        ),
        hardware=dataclasses.replace(cfg.hardware, accelerator="cpu", precision="32-true", num_threads=1),
    )
    artifact = run("supervised", planted(num_assets=1, num_times=127).panel, cfg=cut)
    assert load_bundle(artifact.path / "fold_1" / "hybrid").config["forecaster"] == config.to_dict(cfg.model)
