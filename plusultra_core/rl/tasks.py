"""The job of this station: `policy`. Reads a panel, fold 0's hybrid and, where a backbone begins there, the pretrained one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, pstdev

import torch

from plusultra_core import artifacts, config
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.job import Job, Progress
from plusultra_core.market import MarketConfig
from plusultra_core.models import seeds as beside
from plusultra_core.models.bundle import Bundle, save_bundle
from plusultra_core.rl.curriculum import risk
from plusultra_core.rl.jobs import book_limit, lineage_of, policy_bundle, read_inputs, slot_limit
from plusultra_core.rl.offline.tasks import run_offline
from plusultra_core.rl.reward import of_share
from plusultra_core.rl.train import Place, RLConfig, Trained, train_policy
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
    share = 1.0 if cfg.policy.is_book else limit
    own = replace(cfg, reward=of_share(cfg.reward, share), risk=risk.of_share(cfg.risk, share))

    def train(seed: int) -> Trained:
        world, policy, rows = build_world(panel, teacher, pretrained, spans, simulation, market, guard, limit, cfg.policy, seed)
        place, checkpoint = Place(world, rows, spans, limit), job.work / f"policy-{seed}.pt"
        return train_policy(replace(own, seed=seed), place, policy, checkpoint, _Named(progress, seed))

    tried = {seed: train(seed) for seed in range(cfg.seed, cfg.seed + cfg.num_seeds)}
    served = best_seed(tried)
    trained = tried[served]

    def bundle_of(one: Trained) -> Bundle:
        return policy_bundle(job, cfg, teacher, panel, limit, guard.max_gross, spans.train[0], one)

    metrics = {**trained.metrics, "limit": limit, "num_train_bars": float(spans.train[1] - spans.train[0]), **seed_metrics(tried)}

    def fill(directory: Path) -> None:
        save_bundle(directory, bundle_of(trained))
        others = {seed: bundle_of(one) for seed, one in tried.items() if seed != served}
        beside.save_seeds(directory, seed_records(tried), others)
        artifacts.write_atomic(directory / "metrics.json", artifacts.canonical_json(metrics))
        artifacts.write_atomic(directory / "history.json", artifacts.canonical_json(trained.history))

    artifacts.publish(job.store, job.key, fill, {"task": job.task, "config": job.config, "lineage": lineage_of(job)})
    return {"metrics": metrics, "history": trained.history}


def best_seed(tried: Mapping[int, Trained]) -> int:
    """The seed whose policy scores best on the validation span, and nothing else; of equals the first."""
    return max(tried, key=lambda seed: (tried[seed].metrics["valid_reward"], -seed))


def seed_metrics(tried: Mapping[int, Trained]) -> dict[str, object]:
    """Which seed is served, how far all of them lie apart on validation, and of each its score and its curve."""
    scores = [trained.metrics["valid_reward"] for trained in tried.values()]
    spread = {"mean": fmean(scores), "std": pstdev(scores), "least": min(scores), "most": max(scores)}
    seeds = [
        {
            "seed": seed,
            **trained.metrics,
            "curve": [[row["update"], row["valid_reward"]] for row in trained.history if "valid_reward" in row],
        }
        for seed, trained in tried.items()
    ]
    return {"seed": best_seed(tried), **{f"seeds.{name}": value for name, value in spread.items()}, "seeds": seeds}


def seed_records(tried: Mapping[int, Trained]) -> beside.Seeds:
    """The same as whoever judges the policy is told of it: nothing of the locked window, in the order of training."""
    records = tuple(
        beside.SeedRecord(
            seed=seed,
            valid_reward=trained.metrics["valid_reward"],
            update=int(trained.metrics.get("update", 0.0)),
            is_flat=trained.metrics.get("is_flat", 0.0) == 1.0,
        )
        for seed, trained in tried.items()
    )
    return beside.Seeds(schema=beside.SCHEMA, served=best_seed(tried), seeds=records)


@dataclass(frozen=True, slots=True)
class _Named:
    """Progress of one of several trainings."""

    progress: Progress
    seed: int

    def report(self, message: str, **numbers: float) -> None:
        self.progress.report(message, seed=float(self.seed), **numbers)


TASKS = {"policy": run_policy, "offline": run_offline}
