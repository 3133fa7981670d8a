"""Supervised training: train and valid only, calibrated, honest about what it does not know."""

import numpy as np
import pytest
import torch

from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.models.forecaster import InputShape, build_forecaster
from plusultra_core.training.supervised import (
    Predictions,
    Samples,
    SupervisedConfig,
    diagnose,
    fit_temperature,
    information_coefficient,
    samples_in,
    start_at_climate,
)
from plusultra_core.training.tasks import input_shape
from plusultra_core.windows.panel import replace


def test_samples_are_the_labelled_anchors_of_the_span(planted) -> None:
    panel = planted().panel
    fold = panel.folds[-1]
    samples = samples_in(panel, fold.test, False, "cpu")
    assert int(samples.t_B.min()) >= fold.test[0] and int(samples.t_B.max()) < fold.test[1]
    assert torch.isfinite(samples.y_BK).any(dim=1).all()
    anchors = panel.anchor_NT[:, fold.test[0] : fold.test[1]].sum()
    assert len(samples.n_B) == anchors - len(panel.symbols)
    assert np.array_equal(samples.y_BK.numpy(), panel.y_NTK[samples.n_B, samples.t_B], equal_nan=True)


def test_weights_average_one_and_a_row_without_weight_is_left_out(planted) -> None:
    panel = planted().panel
    weight = np.random.default_rng(0).random(panel.weight_NT.shape).astype(np.float32)
    weight[:, 50] = 0
    samples = samples_in(replace(panel, weight_NT=weight), (40, 60), True, "cpu")
    assert not (samples.t_B == 50).any()
    assert samples.weight_B.mean().item() == pytest.approx(1, abs=1e-5)
    assert samples_in(panel, (40, 60), False, "cpu").weight_B.unique().tolist() == [1.0]


def test_a_span_without_labels_is_refused(planted) -> None:
    panel = planted().panel
    with pytest.raises(ContractError, match="no labelled anchor in grid bars 0 to 3"):
        samples_in(panel, (0, 3), False, "cpu")


def test_training_starts_from_the_quantiles_and_shares_of_its_train_span(planted, training_config) -> None:
    panel = planted().panel
    train = samples_in(panel, panel.folds[0].train, False, "cpu")
    model = build_forecaster(training_config.model, input_shape(panel), 0).eval()
    start_at_climate(model, train, training_config.model.quantile_levels, 6.0)
    with torch.no_grad():
        quantiles = model.quantile_head(torch.zeros(1, model.width))[0].numpy()
        share = model.direction_head(torch.zeros(1, model.width)).softmax(-1)[0].numpy()
    for k in range(2):
        y = train.y_BK[:, k].numpy()
        assert np.allclose(quantiles[k], np.quantile(y, training_config.model.quantile_levels), atol=2e-3)
        assert np.allclose(share[k], np.bincount(train.direction_BK[:, k], minlength=3) / len(y), atol=0.02)


def test_the_climate_of_more_samples_than_torch_sorts_is_known(training_config) -> None:
    num, levels = (1 << 24) + 1, training_config.model.quantile_levels
    place = torch.zeros(num, dtype=torch.int8)
    train = Samples(place, place, torch.linspace(-1, 1, num)[:, None], place[:, None], place)
    model = build_forecaster(training_config.linear, InputShape(num_features=1, lookback=1, num_states=(), num_horizons=1), 0).eval()
    start_at_climate(model, train, levels, 6.0)
    with torch.no_grad():
        found = model.quantile_head(torch.zeros(1, model.width))[0, 0].numpy()
    assert found == pytest.approx(2.0 * np.array(levels) - 1.0, abs=1e-4)


def test_temperatures_are_tried_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    whole = torch.Tensor.log_softmax
    monkeypatch.setattr(torch.Tensor, "log_softmax", lambda x, dim: (sizes.append(x.numel()), whole(x, dim))[1])
    fit_temperature(torch.randn(500, 2, 3), torch.randint(0, 3, (500, 2)))
    assert max(sizes) == 500 * 3


def test_temperature_finds_the_factor_by_which_scores_are_too_sure() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 2, 3, generator=generator)
    direction = torch.stack([torch.multinomial(logits[:, k].softmax(-1), 1, generator=generator)[:, 0] for k in range(2)], dim=1)
    temperature = fit_temperature(logits * torch.tensor([2.5, 0.5])[:, None], direction)
    assert temperature[0] == pytest.approx(2.5, rel=0.06)
    assert temperature[1] == pytest.approx(0.5, rel=0.06)


def test_temperature_is_one_where_nothing_is_labelled() -> None:
    assert fit_temperature(torch.randn(10, 2, 3), torch.full((10, 2), -1)) == (1.0, 1.0)


def test_diagnostics_count_coverage_and_crossings() -> None:
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.standard_normal((50_000, 1))).float()
    levels = (0.1, 0.5, 0.9)
    quantiles = torch.tensor([-1.2816, 0.0, 1.2816]).expand(50_000, 1, 3).clone()
    samples = Samples(torch.zeros(50_000), torch.zeros(50_000), y, torch.zeros(50_000, 1), torch.ones(50_000))
    scores = diagnose(Predictions(quantiles, torch.zeros(50_000, 1, 3)), samples, levels, (5,))
    assert scores["crossings"] == 0
    assert scores["below_10_h5"] == pytest.approx(0.1, abs=0.005)
    assert scores["below_90_h5"] == pytest.approx(0.9, abs=0.005)
    assert scores["ic_h5"] == 0
    quantiles[:7, 0, 0] = 1.0
    assert diagnose(Predictions(quantiles, torch.zeros(50_000, 1, 3)), samples, levels, (5,))["crossings"] == 7


def test_a_horizon_of_which_validation_knows_nothing_has_no_diagnostics() -> None:
    quantiles = torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(0)).sort(dim=-1).values
    y = torch.stack((torch.linspace(-1, 1, 50), torch.full((50,), float("nan"))), dim=1)
    nothing = torch.zeros(50)
    scores = diagnose(Predictions(quantiles, quantiles), Samples(nothing, nothing, y, nothing, nothing), (0.1, 0.5, 0.9), (1, 21))
    assert "ic_h1" in scores and not [name for name in scores if name.endswith("_h21")]
    assert all(np.isfinite(value) for value in scores.values())


def test_information_coefficient_is_the_correlation() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 100))
    assert information_coefficient(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert information_coefficient(np.ones(100), b) == 0


def test_a_head_without_a_term_in_the_loss_is_refused(training_config) -> None:
    fits = {"hybrid": training_config.supervised.hybrid, "linear": training_config.supervised.linear}
    with pytest.raises(ConfigError, match="a head without a term in the loss is never trained"):
        SupervisedConfig(direction_weight=0.0, target_clip=6.0, use_weights=False, **fits)
