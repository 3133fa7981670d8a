"""The job `offline`: a policy out of ledgers alone, judged off policy and, since there is a kernel, on policy too."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from plusultra_core import artifacts, config
from plusultra_core.errors import ArtifactError, ConfigError, JobError
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.job import Job, Progress
from plusultra_core.market import MarketConfig
from plusultra_core.models.bundle import save_bundle
from plusultra_core.models.policy import Policy
from plusultra_core.rl.jobs import lineage_of, policy_bundle, read_inputs, slot_limit
from plusultra_core.rl.offline.evaluation import evaluate
from plusultra_core.rl.offline.learning import OfflineConfig, clone_behaviour, learn_implicitly
from plusultra_core.rl.offline.transitions import SlotTerms, Transitions, read_history, transitions_of
from plusultra_core.rl.reward import of_share
from plusultra_core.rl.train import Place, RLConfig, Trained, flattened, validate
from plusultra_core.rl.world import build_world, spans_of
from plusultra_core.simulation.engine import SimulationConfig
from plusultra_core.windows.panel import Panel

Row = dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgersConfig:
    """What is learned from, and how it is judged."""

    behaviours: tuple[str, ...]
    """Strategies of the trace whose ledgers reach before the locked window."""
    learn: OfflineConfig
    judge: OfflineConfig
    """Of fitted Q evaluation; expectile and temperature are not used."""
    num_refits: int
    """Bootstrap samples behind the interval of an estimate."""

    def __post_init__(self) -> None:
        if not self.behaviours or self.num_refits < 2:
            raise ConfigError("offline: expected at least one behaviour and num_refits >= 2")


def run_offline(job: Job, progress: Progress) -> Mapping[str, object]:
    """Clone the behaviours, and learn from them by implicit Q-learning; publishes the better of both and of doing nothing.

    Steps before the validation span teach, those in it judge; nothing is read of the locked window. The rewards are those
    of `rl.yaml`, a slot at a time. What is kept is decided by the kernel on the validation span, as PPO's updates are; the
    off-policy estimates stand beside it, to be seen for what they are worth.
    """
    cfg = config.parse(RLConfig, job.config.get("rl"), "job.config.rl")
    own = config.parse(LedgersConfig, job.config.get("offline"), "job.config.offline")
    simulation = config.parse(SimulationConfig, job.config.get("simulation"), "job.config.simulation")
    guard = config.parse(GuardrailsConfig, job.config.get("guardrails"), "job.config.guardrails")
    market = config.parse(MarketConfig, job.config.get("market"), "job.config.market")
    if "trace" not in job.inputs:
        raise JobError(f"{job.task}: input 'trace' is missing; name the directory of its artifact")
    if not cfg.policy.is_plain:
        raise ConfigError("offline: learns squashed Gaussians over market rows; set policy.kind: mlp, head: gaussian, memory: none")
    panel, teacher, _ = read_inputs(job)
    torch.set_num_threads(cfg.num_threads)
    limit, spans = slot_limit(guard, len(panel.symbols)), spans_of(panel, cfg.train.valid_frac)
    world, policy, rows = build_world(panel, teacher, None, spans, simulation, market, guard, limit, cfg.policy, cfg.seed)
    assert isinstance(policy, Policy)
    run = replace(cfg, reward=of_share(cfg.reward, limit))
    place = Place(world, rows, spans, limit)
    terms = SlotTerms(
        limit=limit, capital_ccy=simulation.initial_capital_ccy, episode_bars=cfg.train.episode_bars, reward=run.reward
    )  # fmt: skip
    taught, judged = (_steps(job.inputs["trace"], panel, place, terms, own.behaviours, span) for span in (spans.train, spans.valid))
    if judged.trajectory_B[-1] < 1:
        raise ArtifactError("offline: the validation span holds a single trajectory, nothing can be judged by it; name more behaviours")
    candidates, history = _learn(policy, taught, own, cfg.seed)
    metrics: Row = {"num_taught": float(taught.reward_B.size), "num_judged": float(judged.reward_B.size)}
    metrics["behaviour.reward"] = float(judged.reward_B.mean())
    scores: dict[str, Row] = {}
    for name, candidate in candidates.items():
        scores[name] = validate(run, place, candidate)
        found = evaluate(candidate.act, judged, own.judge, cfg.seed, own.num_refits)
        row = {**scores[name], "estimate": found.value, "estimate_low": found.low, "estimate_high": found.high}
        metrics |= {f"{name}.{key}": value for key, value in row.items()}
        progress.report(name, **row)
    best = max(scores, key=lambda name: (scores[name]["valid_reward"], name == "flat"))
    metrics |= {"is_flat": float(best == "flat"), "is_cloned": float(best == "cloned"), "reward_scale": 1.0, **scores[best]}
    tensors = {name: tensor.detach().clone() for name, tensor in candidates[best].state_dict().items()}
    trained = Trained(tensors, metrics, history)
    bundle = policy_bundle(job, cfg, teacher, panel, limit, guard.max_gross, spans.train[0], trained)

    def fill(directory: Path) -> None:
        save_bundle(directory, bundle)
        artifacts.write_atomic(directory / "metrics.json", artifacts.canonical_json(metrics))
        artifacts.write_atomic(directory / "history.json", artifacts.canonical_json(history))

    artifacts.publish(job.store, job.key, fill, {"task": job.task, "config": job.config, "lineage": lineage_of(job)})
    return {"metrics": metrics, "history": history}


def _steps(trace: Path, panel: Panel, place: Place, terms: SlotTerms, behaviours: tuple[str, ...], span: tuple[int, int]) -> Transitions:
    """Transitions of all behaviours in a span, their trajectories numbered through."""
    world = place.world
    artifacts.open_artifact(trace)
    parts: list[Transitions] = []
    for name in behaviours:
        history = read_history(trace, name, panel.symbols, panel.ts_ns_T)
        found = transitions_of(history, terms, world.table_TNF, world.present_TN, span)
        first = int(parts[-1].trajectory_B[-1]) + 1 if parts else 0
        parts.append(found._replace(trajectory_B=found.trajectory_B + first))
    return Transitions(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _learn(policy: Policy, taught: Transitions, own: LedgersConfig, seed: int) -> tuple[dict[str, Policy], list[Row]]:
    """Policies by how they were learned, and the history of both."""
    cloned, learned = copy.deepcopy(policy), copy.deepcopy(policy)
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, 0))))
    history = [{"stage": 0.0, **row} for row in clone_behaviour(cloned, taught, own.learn, rng)]
    history += [{"stage": 1.0, **row} for row in learn_implicitly(learned, taught, own.learn, rng, seed)]
    flat = flattened(policy)
    assert isinstance(flat, Policy)
    return {"flat": flat, "cloned": cloned, "implicit": learned}, history
