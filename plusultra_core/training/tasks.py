"""The jobs of this station: `pretrain` and `supervised`. Each reads a panel and publishes one artifact."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import save
from torch import Tensor

from plusultra_core import artifacts, config
from plusultra_core.errors import ArtifactError, ConfigError, JobError
from plusultra_core.job import Job, Progress
from plusultra_core.models.bundle import Bundle, Kind, Scaler, fill_module, load_bundle, save_bundle
from plusultra_core.models.forecaster import Forecaster, ForecasterConfig, InputShape, build_forecaster
from plusultra_core.training import loop
from plusultra_core.training.loop import HardwareConfig, Row, mix_seed
from plusultra_core.training.null import train_null
from plusultra_core.training.pretrain import MaskedReconstruction, PretrainConfig, build_reconstruction
from plusultra_core.training.supervised import (
    ForecastObjective,
    SupervisedConfig,
    check_pretraining_span,
    diagnose,
    fit_temperature,
    predict_samples,
    samples_in,
    start_at_climate,
)
from plusultra_core.windows.panel import Fold, Panel, anchors_in, load_panel
from plusultra_core.windows.tensors import input_tensors

BACKBONE = "backbone."
CHAMPION = "hybrid"
NULL = "null.safetensors"
NUM_CLASSES = 3
"""Of the labels, and of the columns in which forecasts are kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """Models and how they are fitted."""

    model: ForecasterConfig
    """The hybrid forecaster."""
    linear: ForecasterConfig
    """The linear floor, trained beside it."""
    input_clip: float
    """Scaled inputs are clipped at this many units."""
    pretrain: PretrainConfig
    """Masked reconstruction."""
    supervised: SupervisedConfig
    """Forecasting."""
    hardware: HardwareConfig
    """Where it runs."""
    seed: int
    """Of weights, order, dropout and masks."""

    def __post_init__(self) -> None:
        if (self.model.kind, self.linear.kind) != ("hybrid", "linear"):
            raise ConfigError(f"training: expected model.kind hybrid and linear.kind linear, found {self.model.kind}, {self.linear.kind}")
        if self.model.quantile_levels != self.linear.quantile_levels:
            raise ConfigError("training: expected the same quantile_levels in model and linear")
        for name, model in (("model", self.model), ("linear", self.linear)):
            if model.num_classes != NUM_CLASSES:
                raise ConfigError(f"training.{name}.num_classes: expected {NUM_CLASSES} (down, flat, up), found {model.num_classes}")
        if self.input_clip <= 0:
            raise ConfigError(f"input_clip: expected > 0, found {self.input_clip}")


def run_pretrain(job: Job, progress: Progress) -> Mapping[str, object]:
    """Pretrain the hybrid's backbone on the train span of the oldest fold."""
    cfg = config.parse(TrainingConfig, job.config.get("training"), "job.config.training")
    panel = _panel(job)
    fold = panel.folds[0]
    check_pretraining_span(fold, panel.folds)
    seed = mix_seed(cfg.seed, 0)
    with loop.open_fabric(cfg.hardware) as fabric:
        inputs = input_tensors(panel, fold.center_F, fold.scale_F, cfg.input_clip, fabric.device)
        forecaster = build_forecaster(cfg.model, input_shape(panel), seed)
        model = build_reconstruction(forecaster, seed)
        n_B, t_B = (_to(axis, fabric.device) for axis in anchors_in(panel, fold.train))
        objective = MaskedReconstruction(inputs, n_B, t_B, cfg.pretrain, seed)
        fitted = loop.fit(fabric, model, objective, cfg.pretrain.fit, seed, job.work / "pretrain.pt", _reporter(progress, "pretrain"))
    bundle = _bundle("pretrained", cfg.model, cfg, panel, fold, (1.0,) * len(panel.horizons), _lineage(job), forecaster, BACKBONE)
    best = fitted.history[fitted.best_check]
    metrics = {"loss": best["valid_loss"], "explained": best["valid_explained"], "epochs": fitted.history[-1]["epoch"]}
    history = [{"fold": 0, "model": "pretrain", **row} for row in fitted.history]

    def fill(directory: Path) -> None:
        save_bundle(directory, bundle)
        _write_results(directory, metrics, history, {})

    artifacts.publish(job.store, job.key, fill, _manifest(job))
    return {"metrics": metrics, "history": history}


def run_supervised(job: Job, progress: Progress) -> Mapping[str, object]:
    """Train hybrid and linear on every fold; the hybrid starts from the pretrained backbone if there is one.

    Beside the bundles stands the null: forecasts of the linear floor fitted to turned targets, for the check that it knows nothing.
    """
    cfg = config.parse(TrainingConfig, job.config.get("training"), "job.config.training")
    panel = _panel(job)
    backbone = _pretrained(job, cfg, panel)
    lineage = _lineage(job)
    bundles: dict[str, Bundle] = {}
    metrics: dict[str, float] = {}
    history: list[dict[str, Any]] = []
    diagnostics: dict[str, Any] = {}
    with loop.open_fabric(cfg.hardware) as fabric:
        for fold in panel.folds:
            for model_cfg in (cfg.model, cfg.linear):
                name = f"fold_{fold.index}/{model_cfg.kind}"
                bundle, rows, scores = _train(job, progress, fabric, cfg, model_cfg, panel, fold, backbone, lineage)
                bundles[name] = bundle
                history += [{"fold": fold.index, "model": model_cfg.kind, **row} for row in rows]
                diagnostics[name] = scores
                metrics |= {f"fold_{fold.index}.{model_cfg.kind}.{key}": scores[key] for key in ("loss", "pinball", "nll", "best_epoch")}
        null = train_null(fabric, panel, cfg.linear, cfg.supervised, cfg.input_clip, cfg.seed, job.work, lambda fold, row: None)

    def fill(directory: Path) -> None:
        for name, bundle in bundles.items():
            save_bundle(directory / name, bundle)
        artifacts.write_atomic(directory / NULL, save({"prediction_TN": null.prediction_TN, "target_TN": null.target_TN}))
        _write_results(directory, metrics, history, diagnostics)

    manifest = {**_manifest(job), "champion": f"fold_{panel.folds[-1].index}/{CHAMPION}"}
    artifacts.publish(job.store, job.key, fill, manifest)
    return {"metrics": metrics, "history": history}


def _train(
    job: Job,
    progress: Progress,
    fabric: Any,
    cfg: TrainingConfig,
    model_cfg: ForecasterConfig,
    panel: Panel,
    fold: Fold,
    backbone: dict[str, Tensor] | None,
    lineage: dict[str, str],
) -> tuple[Bundle, list[Row], dict[str, float]]:
    label = f"fold_{fold.index}-{model_cfg.kind}"
    kinds = {"hybrid": cfg.supervised.hybrid, "linear": cfg.supervised.linear}
    seed = mix_seed(cfg.seed, 1 + fold.index, sorted(kinds).index(model_cfg.kind))
    inputs = input_tensors(panel, fold.center_F, fold.scale_F, cfg.input_clip, fabric.device)
    train = samples_in(panel, fold.train, cfg.supervised.use_weights, fabric.device)
    valid = samples_in(panel, fold.valid, False, fabric.device)
    model = build_forecaster(model_cfg, input_shape(panel), seed)
    if backbone is not None and model_cfg.kind == cfg.model.kind:
        fill_module(model.backbone, backbone)
    start_at_climate(model, train, model_cfg.quantile_levels, cfg.supervised.target_clip)
    objective = ForecastObjective(inputs, train, valid, model_cfg.quantile_levels, cfg.supervised)
    report = _reporter(progress, label)
    fitted = loop.fit(fabric, model, objective, kinds[model_cfg.kind], seed, job.work / f"{label}.pt", report)
    predictions = predict_samples(model.to(fabric.device), inputs, valid)
    temperature = fit_temperature(predictions.logits_BKC, valid.direction_BK)
    best = fitted.history[fitted.best_check]
    scores = {
        **{name.removeprefix("valid_"): value for name, value in best.items() if name.startswith("valid_")},
        **diagnose(predictions, valid, model_cfg.quantile_levels, panel.horizons),
        **{f"temperature_h{horizon}": temperature[k] for k, horizon in enumerate(panel.horizons)},
        "best_epoch": best["epoch"],
        "num_train": float(len(train.n_B)),
        "num_valid": float(len(valid.n_B)),
        "num_parameters": float(sum(p.numel() for p in model.parameters())),
    }
    return _bundle("supervised", model_cfg, cfg, panel, fold, temperature, lineage, model, ""), fitted.history, scores


def input_shape(panel: Panel) -> InputShape:
    """What a forecaster for this panel is built for."""
    return InputShape(
        num_features=len(panel.features), lookback=panel.lookback, num_states=panel.num_states, num_horizons=len(panel.horizons)
    )


def _bundle(
    kind: Kind,
    model_cfg: ForecasterConfig,
    cfg: TrainingConfig,
    panel: Panel,
    fold: Fold,
    temperature: tuple[float, ...],
    lineage: dict[str, str],
    model: Forecaster,
    prefix: str,
) -> Bundle:
    return Bundle(
        kind=kind,
        config={"forecaster": config.to_dict(model_cfg), "fold": fold.index, "asset_class": panel.asset_class},
        shape=input_shape(panel),
        features=panel.features,
        tokens=panel.tokens,
        symbols=panel.symbols,
        horizons=panel.horizons,
        scaler=Scaler(
            center=tuple(float(value) for value in fold.center_F), scale=tuple(float(value) for value in fold.scale_F), clip=cfg.input_clip
        ),
        temperature=temperature,
        lineage=lineage,
        tensors={name: tensor for name, tensor in model.state_dict().items() if name.startswith(prefix)},
    )


def _panel(job: Job) -> Panel:
    if "windows" not in job.inputs:
        raise JobError(f"{job.task}: input 'windows' is missing; name the directory of a panel")
    panel = load_panel(job.inputs["windows"])
    if not panel.folds:
        raise ArtifactError(f"{job.inputs['windows']}: the panel has no folds; build the windows again")
    return panel


def _pretrained(job: Job, cfg: TrainingConfig, panel: Panel) -> dict[str, Tensor] | None:
    """Backbone tensors of the pretrained bundle, if the job names one."""
    if "pretrained" not in job.inputs:
        return None
    path = job.inputs["pretrained"]
    artifacts.open_artifact(path)
    bundle = load_bundle(path)
    expected = (config.to_dict(cfg.model), panel.features, panel.tokens, input_shape(panel))
    if (bundle.config["forecaster"], bundle.features, bundle.tokens, bundle.shape) != expected or bundle.kind != "pretrained":
        raise ArtifactError(f"{path}: pretrained for another model or other inputs; pretrain again with this config and these windows")
    return {name.removeprefix(BACKBONE): tensor for name, tensor in bundle.tensors.items()}


def _lineage(job: Job) -> dict[str, str]:
    inputs = {name: artifacts.open_artifact(path, verify=False).sha256 for name, path in job.inputs.items()}
    return {**job.lineage, **inputs, "key": job.key}


def _manifest(job: Job) -> dict[str, object]:
    return {"task": job.task, "lineage": _lineage(job), "config": job.config}


def _write_results(directory: Path, metrics: Mapping[str, float], history: object, diagnostics: object) -> None:
    for name, value in (("metrics", metrics), ("history", history), ("diagnostics", diagnostics)):
        artifacts.write_atomic(directory / f"{name}.json", artifacts.canonical_json(value))


def _reporter(progress: Progress, label: str) -> Callable[[Row], None]:
    return lambda row: progress.report(label, **row)


def _to(axis: Any, device: Any) -> Tensor:
    return torch.from_numpy(axis).to(device)


TASKS = {"pretrain": run_pretrain, "supervised": run_supervised}
