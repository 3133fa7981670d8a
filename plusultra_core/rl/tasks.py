"""The job of this station: `policy`. Reads a panel, fold 0's hybrid and, where a backbone begins there, the pretrained one."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from plusultra_core import artifacts, config
from plusultra_core.errors import ArtifactError, JobError
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.job import Job, Progress
from plusultra_core.market import MarketConfig
from plusultra_core.models.bundle import Bundle, load_bundle, save_bundle
from plusultra_core.models.policy import ACTOR, FORECASTER
from plusultra_core.rl.curriculum import risk
from plusultra_core.rl.reward import of_share
from plusultra_core.rl.train import Place, RLConfig, Trained, train_policy
from plusultra_core.rl.world import build_world, spans_of
from plusultra_core.simulation.engine import SimulationConfig
from plusultra_core.windows.panel import Panel, load_panel

TEACHER = "fold_0/hybrid"


def run_policy(job: Job, progress: Progress) -> Mapping[str, object]:
    """Train a policy between the first test span and the last; publishes bundle, metrics and history."""
    cfg = config.parse(RLConfig, job.config.get("rl"), "job.config.rl")
    simulation = config.parse(SimulationConfig, job.config.get("simulation"), "job.config.simulation")
    guard = config.parse(GuardrailsConfig, job.config.get("guardrails"), "job.config.guardrails")
    market = config.parse(MarketConfig, job.config.get("market"), "job.config.market")
    panel, teacher, pretrained = _inputs(job)
    torch.set_num_threads(cfg.num_threads)
    limit = book_limit(guard) if cfg.policy.is_book else slot_limit(guard, len(panel.symbols))
    spans = spans_of(panel, cfg.train.valid_frac)
    world, policy, rows = build_world(panel, teacher, pretrained, spans, simulation, market, guard, limit, cfg.policy, cfg.seed)
    share = 1.0 if cfg.policy.is_book else limit
    own = replace(cfg, reward=of_share(cfg.reward, share), risk=risk.of_share(cfg.risk, share))
    trained = train_policy(own, Place(world, rows, spans, limit), policy, job.work / "policy.pt", progress)
    bundle = _bundle(job, cfg, teacher, panel, limit, guard.max_gross, spans.train[0], trained)
    metrics = {**trained.metrics, "limit": limit, "num_train_bars": float(spans.train[1] - spans.train[0])}

    def fill(directory: Path) -> None:
        save_bundle(directory, bundle)
        artifacts.write_atomic(directory / "metrics.json", artifacts.canonical_json(metrics))
        artifacts.write_atomic(directory / "history.json", artifacts.canonical_json(trained.history))

    artifacts.publish(job.store, job.key, fill, {"task": job.task, "config": job.config, "lineage": _lineage(job)})
    return {"metrics": metrics, "history": trained.history}


def slot_limit(guard: GuardrailsConfig, num_assets: int) -> float:
    """Largest weight of one asset under a policy: its share of the gross limit."""
    return min(guard.max_weight, guard.max_gross / num_assets)


def book_limit(guard: GuardrailsConfig) -> float:
    """Largest weight of one asset under a policy that holds the whole book."""
    return min(guard.max_weight, guard.max_gross)


def _inputs(job: Job) -> tuple[Panel, Bundle, Bundle | None]:
    for name in ("windows", "supervised"):
        if name not in job.inputs:
            raise JobError(f"{job.task}: input {name!r} is missing; name the directory of its artifact")
    panel = load_panel(job.inputs["windows"])
    artifacts.open_artifact(job.inputs["supervised"])
    teacher = load_bundle(job.inputs["supervised"] / TEACHER)
    if teacher.features != panel.features or teacher.horizons != panel.horizons:
        raise ArtifactError(f"{job.inputs['supervised']}: trained on other windows; train it again on {job.inputs['windows'].name}")
    if "pretrained" not in job.inputs:
        return panel, teacher, None
    artifacts.open_artifact(job.inputs["pretrained"])
    return panel, teacher, load_bundle(job.inputs["pretrained"])


def _bundle(job: Job, cfg: RLConfig, teacher: Bundle, panel: Panel, limit: float, gross: float, first_bar: int, trained: Trained) -> Bundle:
    own: dict[str, Any] = {
        "policy": config.to_dict(cfg.policy),
        "band": cfg.band,
        "limit": limit,
        "gross": gross,
        "episode_bars": cfg.train.episode_bars,
        "reward_scale": trained.metrics["reward_scale"],
        "trained_from_ns": int(panel.ts_ns_T[first_bar]),
    }
    weights = {f"{FORECASTER}{name}": tensor for name, tensor in teacher.tensors.items()}
    weights |= {f"{ACTOR}{name}": tensor for name, tensor in trained.tensors.items()}
    return replace(teacher, kind="policy", config={**teacher.config, **own}, symbols=panel.symbols, lineage=_lineage(job), tensors=weights)


def _lineage(job: Job) -> dict[str, str]:
    return {**job.lineage, **{name: artifacts.open_artifact(path, verify=False).sha256 for name, path in job.inputs.items()}}


TASKS = {"policy": run_policy}
