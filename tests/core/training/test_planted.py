"""The base profile on planted panels: it finds what is there, and nothing where nothing is."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from plusultra_core import config
from plusultra_core.inference.predict import predict
from plusultra_core.models.bundle import load_bundle
from plusultra_core.training.tasks import TrainingConfig
from plusultra_core.windows.folds import FoldsConfig
from plusultra_core.windows.panel import Panel, anchors_in

MEDIAN = 3
LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


@pytest.fixture
def base(root: Path) -> TrainingConfig:
    """The base profile on one thread."""
    return config.load(TrainingConfig, root / "configs/base/training.yaml", {"hardware.num_threads": 1})


def _test_span(panel: Panel, path: Path, kind: str) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Quantiles of one bar ahead and targets over the test span of fold 0, and the anchors' places."""
    n, t = anchors_in(panel, panel.folds[0].test)
    known = np.isfinite(panel.y_NTK[n, t, 0])
    n, t = n[known], t[known]
    quantiles = predict(load_bundle(path / "fold_0" / kind), panel, n, t).quantiles_BKQ[:, 0].astype(float)
    return quantiles, panel.y_NTK[n, t, 0].astype(float), (n, t)


@pytest.mark.slow
def test_the_base_profile_reaches_most_of_the_bayes_correlation(planted, run, base) -> None:
    folds = FoldsConfig(num_folds=1, test_frac=0.2, valid_frac=0.12, embargo_bars=5, min_train_bars=250)
    panel, signal = planted(num_assets=24, num_times=1_700, num_noise=30, lookback=32, horizons=(1, 5), folds=folds, seed=11)
    pretrained = run("pretrain", panel, cfg=base).path
    artifact = run("supervised", panel, cfg=base, pretrained=pretrained)
    for kind in ("hybrid", "linear"):
        quantiles, y, place = _test_span(panel, artifact.path, kind)
        bayes = np.corrcoef(signal[place], y)[0, 1]
        found = np.corrcoef(quantiles[:, MEDIAN], y)[0, 1]
        print(f"{kind}: IC {found:.4f}, Bayes {bayes:.4f}, share {found / bayes:.3f}")
        assert bayes == pytest.approx(0.3, abs=3 / np.sqrt(len(y)))
        assert found >= 0.8 * bayes
        assert found <= 0.3 + 3 / np.sqrt(len(y)), "better than the optimum: a leak"
        assert np.corrcoef(quantiles[:, MEDIAN], signal[place])[0, 1] > 0.85
        below = (y[:, None] <= quantiles).mean(axis=0)
        assert np.abs(below - LEVELS).max() < 0.03
        assert (np.diff(quantiles, axis=1) > 0).all()
    history = json.loads((artifact.path / "history.json").read_text())
    assert {row["model"] for row in history} == {"hybrid", "linear"}


@pytest.mark.slow
def test_shuffled_targets_leave_nothing_to_find(planted, run, base) -> None:
    fit = dataclasses.replace(base.supervised.hybrid, max_epochs=2)
    linear = dataclasses.replace(base.supervised.linear, max_epochs=4)
    cfg = dataclasses.replace(base, supervised=dataclasses.replace(base.supervised, hybrid=fit, linear=linear))
    folds = FoldsConfig(num_folds=1, test_frac=0.3, valid_frac=0.12, embargo_bars=2, min_train_bars=100)
    found: dict[str, list[float]] = {"hybrid": [], "linear": []}
    size = 0
    for seed in range(5):
        panel = planted(
            num_assets=8, num_times=600, num_noise=10, lookback=16, horizons=(1, 5), folds=folds, seed=100 + seed, shuffle=True
        ).panel
        artifact = run("supervised", panel, place=f"null-{seed}", cfg=dataclasses.replace(cfg, seed=seed))
        for kind, scores in found.items():
            quantiles, y, _ = _test_span(panel, artifact.path, kind)
            scores.append(float(np.corrcoef(quantiles[:, MEDIAN], y)[0, 1]))
            size = len(y)
    for kind, scores in found.items():
        print(f"{kind}: mean IC {np.mean(scores):.4f}, standard error {1 / np.sqrt(5 * size):.4f}, seeds {np.round(scores, 4)}")
        assert abs(np.mean(scores)) <= 3 / np.sqrt(5 * size)
