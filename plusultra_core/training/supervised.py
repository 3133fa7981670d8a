"""Supervised training of one model on one fold: fit on train, stop on valid, calibrate on valid, never look at test."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from plusultra_core.arrays import Float64Array
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.models.forecaster import Forecaster
from plusultra_core.models.heads import level_digits
from plusultra_core.training.loop import FitConfig, Row
from plusultra_core.training.losses import forecast_loss
from plusultra_core.windows.panel import Fold, Panel, anchors_in
from plusultra_core.windows.tensors import InputTensors

EVAL_BATCH = 2_048
TEMPERATURES = torch.linspace(-1.6, 1.6, 129, dtype=torch.float64).exp()


@dataclass(frozen=True, kw_only=True, slots=True)
class SupervisedConfig:
    """The losses, and a fit for each model."""

    direction_weight: float
    """Weight of the direction's log-likelihood beside the pinball loss."""
    target_clip: float
    """Vol-scaled targets are clipped at this many units in the loss, and only there."""
    use_weights: bool
    """Whether samples count by their uniqueness."""
    hybrid: FitConfig
    """Fit of the hybrid."""
    linear: FitConfig
    """Fit of the linear floor."""

    def __post_init__(self) -> None:
        if self.direction_weight <= 0 or self.target_clip <= 0:
            raise ConfigError("supervised: expected direction_weight, target_clip > 0; a head without a term in the loss is never trained")


class Samples(NamedTuple):
    """Anchors of one span with their labels. Shapes  n, t, weight (B,); y, direction (B, K)."""

    n_B: Tensor
    t_B: Tensor
    y_BK: Tensor
    direction_BK: Tensor
    weight_B: Tensor


class Predictions(NamedTuple):
    """Outputs over a set of samples, on the CPU."""

    quantiles_BKQ: Tensor
    logits_BKC: Tensor


def samples_in(panel: Panel, span: tuple[int, int], use_weights: bool, device: torch.device | str) -> Samples:
    """The anchors of a span that have at least one label; weights have mean 1.

    Raises  ContractError when there is none.
    """
    n_B, t_B = anchors_in(panel, span)
    labelled_B = np.isfinite(panel.y_NTK[n_B, t_B]).any(axis=1)
    weight_B = panel.weight_NT[n_B, t_B] if use_weights else np.ones(len(n_B), np.float32)
    kept_B = labelled_B & (weight_B > 0)
    if not kept_B.any():
        raise ContractError(f"windows: no labelled anchor in grid bars {span[0]} to {span[1]}; check targets and folds")
    n_B, t_B, weight_B = n_B[kept_B], t_B[kept_B], weight_B[kept_B]
    return Samples(
        torch.from_numpy(n_B).to(device),
        torch.from_numpy(t_B).to(device),
        torch.from_numpy(panel.y_NTK[n_B, t_B]).to(device),
        torch.from_numpy(panel.direction_NTK[n_B, t_B].astype(np.int64)).to(device),
        torch.from_numpy(weight_B / weight_B.mean()).to(device),
    )


class ForecastObjective:
    """Pinball + direction likelihood over train, and the same over valid."""

    def __init__(self, inputs: InputTensors, train: Samples, valid: Samples, levels: tuple[float, ...], cfg: SupervisedConfig) -> None:
        self.num_samples = len(train.n_B)
        self._inputs, self._train, self._valid, self._cfg = inputs, train, valid, cfg
        self._levels_Q = torch.tensor(levels, device=train.y_BK.device)

    def loss(self, model: nn.Module, index_B: Tensor, generator: torch.Generator) -> Tensor:
        """Mean loss of some train samples."""
        train = self._train
        forecast = model(*self._inputs.gather(train.n_B[index_B], train.t_B[index_B]))
        return self._parts(forecast.quantiles_BKQ, forecast.logits_BKC, Samples(*(part[index_B] for part in train)))[0]

    def validate(self, model: nn.Module) -> Row:
        """Loss and its parts over the validation span."""
        quantiles_BKQ, logits_BKC = predict_samples(model, self._inputs, self._valid)
        total, quantile_part, direction_part = self._parts(quantiles_BKQ, logits_BKC, self._valid)
        return {"loss": float(total), "pinball": float(quantile_part), "nll": float(direction_part)}

    def _parts(self, quantiles_BKQ: Tensor, logits_BKC: Tensor, samples: Samples) -> tuple[Tensor, Tensor, Tensor]:
        device, cfg = samples.y_BK.device, self._cfg
        return forecast_loss(
            quantiles_BKQ.to(device),
            logits_BKC.to(device),
            samples.y_BK,
            samples.direction_BK,
            samples.weight_B,
            self._levels_Q,
            cfg.direction_weight,
            cfg.target_clip,
        )


def start_at_climate(model: Forecaster, train: Samples, levels: tuple[float, ...], target_clip: float) -> None:
    """Set the heads' biases to the train span's own quantiles and class shares: training starts from climatology, not from noise."""
    y_BK = train.y_BK.cpu().double().clamp(-target_clip, target_clip)
    known = [y_B[np.isfinite(y_B)] for y_B in y_BK.numpy().T]
    climate_KQ = np.stack([np.quantile(y_B, levels) if y_B.size else np.linspace(-1, 1, len(levels)) for y_B in known])
    model.quantile_head.set_climate(torch.from_numpy(climate_KQ).float())
    classes = torch.arange(model.cfg.num_classes)
    count_KC = (train.direction_BK.cpu()[..., None] == classes).sum(dim=0).float() + 1
    model.direction_head.set_climate(count_KC / count_KC.sum(dim=-1, keepdim=True))


def predict_samples(model: nn.Module, inputs: InputTensors, samples: Samples) -> Predictions:
    """Forecasts of all samples, in their order."""
    with torch.no_grad():
        parts = [
            model(*inputs.gather(n_B, t_B))[:2]
            for n_B, t_B in zip(torch.split(samples.n_B, EVAL_BATCH), torch.split(samples.t_B, EVAL_BATCH), strict=True)
        ]
    return Predictions(torch.cat([quantiles for quantiles, _ in parts]), torch.cat([logits for _, logits in parts]))


def fit_temperature(logits_BKC: Tensor, direction_BK: Tensor) -> tuple[float, ...]:
    """Per horizon, the temperature of a fixed grid in [0.2, 5] with the least negative log-likelihood; 1 where nothing is labelled.

    Source  Guo et al. 1706.04599.
    """
    result = []
    for k in range(logits_BKC.shape[1]):
        labelled_B = direction_BK[:, k] >= 0
        if not bool(labelled_B.any()):
            result.append(1.0)
            continue
        logits_BC = logits_BKC[labelled_B, k].cpu().double()
        class_B1 = direction_BK[labelled_B, k].cpu()[:, None]
        nll_M = torch.stack([-(logits_BC / t).log_softmax(dim=-1).gather(-1, class_B1).mean() for t in TEMPERATURES])
        result.append(float(TEMPERATURES[int(nll_M.argmin())]))
    return tuple(result)


def diagnose(predictions: Predictions, samples: Samples, levels: tuple[float, ...], horizons: tuple[int, ...]) -> dict[str, float]:
    """Calibration and correlation on validation: share below each level, crossings, IC, per horizon of which an outcome is known."""
    quantiles_BKQ = predictions.quantiles_BKQ.cpu().double().numpy()
    y_BK = samples.y_BK.cpu().double().numpy()
    scores = {"crossings": float((np.diff(quantiles_BKQ, axis=-1) <= 0).sum())}
    for k, horizon in enumerate(horizons):
        known = np.isfinite(y_BK[:, k])
        if not known.any():
            continue
        below_Q = (y_BK[known, k, None] <= quantiles_BKQ[known, k]).mean(axis=0)
        scores |= {f"below_{level_digits(level)}_h{horizon}": float(below_Q[q]) for q, level in enumerate(levels)}
        scores[f"ic_h{horizon}"] = information_coefficient(quantiles_BKQ[known, k, levels.index(0.5)], y_BK[known, k])
    return scores


def information_coefficient(forecast_B: Float64Array, y_B: Float64Array) -> float:
    """Pearson correlation, pooled; 0 where either side is constant."""
    if len(y_B) < 2 or np.std(forecast_B) < 1e-12 or np.std(y_B) < 1e-12:
        return 0.0
    return float(np.corrcoef(forecast_B, y_B)[0, 1])


def check_pretraining_span(pretrain_fold: Fold, folds: tuple[Fold, ...]) -> None:
    """Raises  ContractError unless the pretraining span lies inside the train span of every fold."""
    for fold in folds:
        if not (fold.train[0] <= pretrain_fold.train[0] and pretrain_fold.train[1] <= fold.train[1]):
            raise ContractError(f"pretrain: span {pretrain_fold.train} is not inside the train span {fold.train} of fold {fold.index}")
