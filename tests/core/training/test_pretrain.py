"""Masked reconstruction: blocks across all channels, loss on what is hidden, weights passed on."""

import dataclasses

import pytest
import torch

from plusultra_core.errors import ArtifactError, ConfigError, ContractError
from plusultra_core.models.bundle import load_bundle
from plusultra_core.models.forecaster import build_forecaster
from plusultra_core.training.pretrain import MaskedReconstruction, build_reconstruction, draw_blocks
from plusultra_core.training.supervised import check_pretraining_span
from plusultra_core.training.tasks import input_shape
from plusultra_core.windows.panel import replace
from plusultra_core.windows.tensors import input_tensors


def test_hidden_bars_form_blocks_of_about_the_configured_share(training_config) -> None:
    cfg = dataclasses.replace(training_config.pretrain, block_bars=4, mask_frac=0.4)
    hidden = draw_blocks(500, 32, cfg, torch.Generator().manual_seed(0))
    assert 0.28 < hidden.float().mean() < 0.45
    for row in hidden:
        runs = torch.diff(torch.nn.functional.pad(row.int(), (1, 1))).nonzero().flatten().view(-1, 2)
        assert (runs[:, 1] - runs[:, 0] >= 4).all()


def _objective(planted, training_config):
    panel = planted().panel
    fold = panel.folds[0]
    inputs = input_tensors(panel, fold.center_F, fold.scale_F, 5.0, "cpu")
    n, t = torch.zeros(20, dtype=torch.int64), torch.arange(20, 40)
    model = build_reconstruction(build_forecaster(training_config.model, input_shape(panel), 0), 0).eval()
    return MaskedReconstruction(inputs, n, t, training_config.pretrain, 0), model, inputs, panel


def test_what_is_hidden_does_not_reach_the_reconstruction(planted, training_config) -> None:
    objective, model, _inputs, panel = _objective(planted, training_config)
    seen = []
    wrapped = lambda *batch: (seen.append(batch), model(*batch))[1]  # noqa: E731
    objective.loss(wrapped, torch.arange(20), torch.Generator().manual_seed(1))
    hidden = draw_blocks(20, panel.lookback, training_config.pretrain, torch.Generator().manual_seed(1))
    x, state, mask = seen[0]
    assert (x[hidden] == 0).all() and (state[hidden] == 0).all() and not mask[hidden].any()
    assert mask[~hidden].all()


def test_the_loss_counts_hidden_bars_only(planted, training_config) -> None:
    objective, _, inputs, panel = _objective(planted, training_config)
    n, t = torch.zeros(20, dtype=torch.int64), torch.arange(20, 40)
    x = inputs.gather(n, t).x_BTF
    hidden = draw_blocks(20, panel.lookback, training_config.pretrain, torch.Generator().manual_seed(1))
    perfect_where_hidden = torch.where(hidden[..., None], x, torch.full_like(x, 99.0))
    loss = objective.loss(lambda *batch: perfect_where_hidden, torch.arange(20), torch.Generator().manual_seed(1))
    assert loss.item() == 0


@pytest.mark.parametrize("num", [20, 4_095, 5_000])
def test_the_score_is_of_windows_of_the_whole_corpus(planted, training_config, num: int) -> None:
    """Windows stand asset by asset: the first of them are of the first assets."""
    _, _, inputs, _ = _objective(planted, training_config)
    t = torch.arange(num) % 40 + 20
    objective = MaskedReconstruction(inputs, torch.arange(num) * 4 // num, t, training_config.pretrain, 0)
    seen = []
    objective._error = lambda model, index_B, generator: (seen.append(index_B), (torch.ones(()), torch.ones(())))[1]
    objective.validate(lambda *batch: batch[0])
    assert len(seen[0]) == min(num, 2_048)
    share = torch.bincount(seen[0] * 4 // num) / len(seen[0])
    assert torch.allclose(share, torch.full((4,), 0.25), atol=0.01)


def test_pretraining_learns_something_of_smooth_features(planted, training_config, run) -> None:
    fit = dataclasses.replace(training_config.pretrain.fit, max_epochs=12, learning_rate=5e-3)
    cfg = dataclasses.replace(training_config, pretrain=dataclasses.replace(training_config.pretrain, fit=fit))
    artifact = run("pretrain", planted(num_times=400).panel, cfg=cfg)
    import json

    metrics = json.loads((artifact.path / "metrics.json").read_text())
    assert metrics["explained"] > 0.1


def test_the_corpus_is_the_train_span_of_the_oldest_fold(planted, run) -> None:
    panel = planted().panel
    first = run("pretrain", panel)
    end = panel.folds[0].train[1]
    x = panel.x_NTF.copy()
    x[:, end:] = 1e3
    poisoned = run("pretrain", replace(panel, x_NTF=x), place="b")
    one, two = load_bundle(first.path), load_bundle(poisoned.path)
    assert all(torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors)
    x[:, end - 1] = 1e3
    other = load_bundle(run("pretrain", replace(panel, x_NTF=x), place="c").path)
    assert any(not torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


def test_a_pretraining_span_outside_a_train_span_is_refused(planted) -> None:
    folds = planted().panel.folds
    with pytest.raises(ContractError, match="is not inside the train span"):
        check_pretraining_span(folds[1], folds)


def test_every_later_train_span_holds_the_pretraining_span(planted) -> None:
    folds = planted().panel.folds
    check_pretraining_span(folds[0], folds)
    assert all(fold.train[1] >= folds[0].train[1] for fold in folds)


def test_the_pretrained_backbone_is_what_training_starts_from(planted, training_config, run) -> None:
    panel = planted().panel
    pretrained = run("pretrain", panel).path
    frozen = dataclasses.replace(training_config.supervised.hybrid, learning_rate=1e-12, max_epochs=1, weight_decay=0.0)
    cfg = dataclasses.replace(training_config, supervised=dataclasses.replace(training_config.supervised, hybrid=frozen))
    artifact = run("supervised", panel, cfg=cfg, pretrained=pretrained)
    expected = load_bundle(pretrained).tensors
    for fold in panel.folds:
        tensors = load_bundle(artifact.path / f"fold_{fold.index}" / "hybrid").tensors
        assert set(expected) == {name for name in tensors if name.startswith("backbone.")}
        assert all(torch.allclose(tensors[name], expected[name], atol=1e-9) for name in expected)


def test_weights_pretrained_for_another_model_are_refused(planted, training_config, run) -> None:
    panel = planted().panel
    pretrained = run("pretrain", panel).path
    wider = dataclasses.replace(training_config.model, hybrid=dataclasses.replace(training_config.model.hybrid, width=32))
    with pytest.raises(ArtifactError, match="pretrained for another model"):
        run("supervised", panel, cfg=dataclasses.replace(training_config, model=wider), pretrained=pretrained)


def test_a_backbone_without_tokens_cannot_be_pretrained(planted, training_config) -> None:
    linear = build_forecaster(training_config.linear, input_shape(planted().panel), 0)
    with pytest.raises(ConfigError, match=r"expected model\.kind hybrid"):
        build_reconstruction(linear, 0)
