"""The job of this station: `policy`. Reads a panel, fold 0's hybrid and, where a backbone begins there, the pretrained one."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from plusultra_core import artifacts, config
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.job import Job, Progress
from plusultra_core.market import MarketConfig
from plusultra_core.models.bundle import save_bundle
from plusultra_core.rl.curriculum import risk
from plusultra_core.rl.jobs import book_limit, lineage_of, policy_bundle, read_inputs, slot_limit
from plusultra_core.rl.offline.tasks import run_offline
from plusultra_core.rl.reward import of_share
from plusultra_core.rl.train import Place, RLConfig, train_policy
from plusultra_core.rl.world import build_world, spans_of
from plusultra_core.simulation.engine import SimulationConfig


def run_policy(job: Job, progress: Progress) -> Mapping[str, object]:
    """Train a policy between the first test span and the last; publishes bundle, metrics and history."""
    cfg = config.parse(RLConfig, job.config.get("rl"), "job.config.rl")
    simulation = config.parse(SimulationConfig, job.config.get("simulation"), "job.config.simulation")
    guard = config.parse(GuardrailsConfig, job.config.get("guardrails"), "job.config.guardrails")
    market = config.parse(MarketConfig, job.config.get("market"), "job.config.market")
    panel, teacher, pretrained = read_inputs(job)
    torch.set_num_threads(cfg.num_threads)
    limit = book_limit(guard) if cfg.policy.is_book else slot_limit(guard, len(panel.symbols))
    spans = spans_of(panel, cfg.train.valid_frac)
    world, policy, rows = build_world(panel, teacher, pretrained, spans, simulation, market, guard, limit, cfg.policy, cfg.seed)
    share = 1.0 if cfg.policy.is_book else limit
    own = replace(cfg, reward=of_share(cfg.reward, share), risk=risk.of_share(cfg.risk, share))
    trained = train_policy(own, Place(world, rows, spans, limit), policy, job.work / "policy.pt", progress)
    bundle = policy_bundle(job, cfg, teacher, panel, limit, guard.max_gross, spans.train[0], trained)
    metrics = {**trained.metrics, "limit": limit, "num_train_bars": float(spans.train[1] - spans.train[0])}

    def fill(directory: Path) -> None:
        save_bundle(directory, bundle)
        artifacts.write_atomic(directory / "metrics.json", artifacts.canonical_json(metrics))
        artifacts.write_atomic(directory / "history.json", artifacts.canonical_json(trained.history))

    artifacts.publish(job.store, job.key, fill, {"task": job.task, "config": job.config, "lineage": lineage_of(job)})
    return {"metrics": metrics, "history": trained.history}


TASKS = {"policy": run_policy, "offline": run_offline}
