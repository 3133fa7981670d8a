"""The shuffled-target null: the same folds, scalers and training on targets that belong elsewhere must forecast nothing.

Targets are turned round in time, all assets together, so that they keep their overlap and their correlation and lose
only their link to the inputs. What then still forecasts the test span has seen it.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from plusultra_core.arrays import Float64Array
from plusultra_core.models.forecaster import ForecasterConfig, InputShape, build_forecaster
from plusultra_core.training.loop import Row, fit, mix_seed
from plusultra_core.training.supervised import ForecastObjective, SupervisedConfig, predict_samples, samples_in, start_at_climate
from plusultra_core.windows.panel import Panel
from plusultra_core.windows.tensors import input_tensors

_NULL = 0x6E756C6C


class Null(NamedTuple):
    """Out-of-sample medians of models fitted to turned targets, and those targets: the first horizon, all test spans in a row.

    Shapes  (T, N), NaN where there is no forecast.
    """

    prediction_TN: Float64Array
    target_TN: Float64Array


def turn_targets(panel: Panel, fold: int, seed: int) -> Panel:
    """The panel with every target moved by a quarter to three quarters of the grid, round its end, the same for all assets."""
    num_times = panel.y_NTK.shape[1]
    shift = int(np.random.default_rng([seed, _NULL, fold]).integers(num_times // 4, 3 * num_times // 4))
    turned = {name: np.roll(getattr(panel, name), shift, axis=1) for name in ("y_NTK", "direction_NTK")}
    return dataclasses.replace(panel, **turned)


def train_null(
    fabric: Any,
    panel: Panel,
    model_cfg: ForecasterConfig,
    cfg: SupervisedConfig,
    input_clip: float,
    seed: int,
    work: Path,
    report: Callable[[int, Row], None],
) -> Null:
    """Fit the linear floor to turned targets on every fold and forecast its test span.

    Looks   at train and valid of each fold, as the real training does; at test for the forecasts only.
    """
    shape = InputShape(
        num_features=len(panel.features), lookback=panel.lookback, num_states=panel.num_states, num_horizons=len(panel.horizons)
    )
    prediction_TN = np.full(panel.tradable_NT.shape[::-1], np.nan)
    target_TN = prediction_TN.copy()
    for fold in panel.folds:
        turned, own_seed = turn_targets(panel, fold.index, seed), mix_seed(seed, _NULL, fold.index)
        inputs = input_tensors(turned, fold.center_F, fold.scale_F, input_clip, fabric.device)
        train, valid, test = (
            samples_in(turned, span, is_train and cfg.use_weights, fabric.device)
            for span, is_train in ((fold.train, True), (fold.valid, False), (fold.test, False))
        )
        model = build_forecaster(model_cfg, shape, own_seed)
        start_at_climate(model, train, model_cfg.quantile_levels, cfg.target_clip)
        objective = ForecastObjective(inputs, train, valid, model_cfg.quantile_levels, cfg)
        fit(fabric, model, objective, cfg.linear, own_seed, work / f"null_{fold.index}.pt", partial(report, fold.index))
        median_B = predict_samples(model.to(fabric.device), inputs, test).quantiles_BKQ[:, 0, model_cfg.quantile_levels.index(0.5)]
        at = test.t_B.cpu().numpy(), test.n_B.cpu().numpy()
        prediction_TN[at], target_TN[at] = median_B.cpu().double().numpy(), test.y_BK[:, 0].cpu().double().numpy()
    tested_T = np.isfinite(prediction_TN).any(axis=1)
    return Null(prediction_TN[tested_T], target_TN[tested_T])
