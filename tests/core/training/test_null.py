"""The shuffled-target null: honest folds know nothing of turned targets, folds that overlap give themselves away."""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load_file

from plusultra_core.errors import LookaheadError
from plusultra_core.separation import check_shuffled_null
from plusultra_core.training.null import turn_targets
from plusultra_core.training.tasks import NULL


def test_turned_targets_keep_their_values_and_lose_their_place(planted) -> None:
    panel = planted().panel
    turned = turn_targets(panel, 0, 7)
    assert not np.array_equal(turned.y_NTK, panel.y_NTK, equal_nan=True)
    for before, after in zip(panel.y_NTK, turned.y_NTK, strict=True):
        shift = next(s for s in range(before.shape[0]) if np.array_equal(np.roll(before, s, axis=0), after, equal_nan=True))
        assert before.shape[0] // 4 <= shift < 3 * before.shape[0] // 4
    assert np.array_equal(turned.x_NTF, panel.x_NTF, equal_nan=True)


def test_another_fold_is_turned_by_another_shift(planted) -> None:
    panel = planted().panel
    assert not np.array_equal(turn_targets(panel, 0, 7).y_NTK, turn_targets(panel, 1, 7).y_NTK, equal_nan=True)


def test_the_null_of_a_run_covers_the_test_spans_and_knows_nothing(planted, run) -> None:
    panel = planted().panel
    null = load_file(run("supervised", panel).path / NULL)
    assert null["prediction_TN"].shape[0] == sum(fold.test[1] - fold.test[0] for fold in panel.folds)
    assert np.nanstd(null["prediction_TN"]) > 0
    check_shuffled_null(null["prediction_TN"], null["target_TN"], 200, 7, 4.0)


def test_a_fold_that_trains_on_its_test_span_is_found(planted, run, training_config) -> None:
    panel = planted().panel
    seen = tuple(dataclasses.replace(fold, train=fold.test, valid=fold.test) for fold in panel.folds)
    long = dataclasses.replace(training_config.supervised.linear, max_epochs=40, patience=40, learning_rate=0.01, batch_size=64)
    cfg = dataclasses.replace(training_config, supervised=dataclasses.replace(training_config.supervised, linear=long))
    null = load_file(run("supervised", dataclasses.replace(panel, folds=seen), cfg=cfg).path / NULL)
    with pytest.raises(LookaheadError, match="the model has seen these targets"):
        check_shuffled_null(null["prediction_TN"], null["target_TN"], 200, 7, 4.0)
