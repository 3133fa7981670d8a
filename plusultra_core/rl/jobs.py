"""What the jobs of this station read and publish: panel, forecaster, limits, the policy's bundle."""

from dataclasses import replace
from typing import Any

from plusultra_core import artifacts, config
from plusultra_core.errors import ArtifactError, JobError
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.job import Job
from plusultra_core.market import MarketConfig
from plusultra_core.models.bundle import Bundle, load_bundle
from plusultra_core.models.policy import ACTOR, FORECASTER
from plusultra_core.rl.train import RLConfig, Trained
from plusultra_core.windows.panel import Panel, load_panel

TEACHER = "fold_0/hybrid"


def slot_limit(guard: GuardrailsConfig, num_assets: int) -> float:
    """Largest weight of one asset under a policy: its share of the gross limit."""
    return min(guard.max_weight, guard.max_gross / num_assets)


def book_limit(guard: GuardrailsConfig) -> float:
    """Largest weight of one asset under a policy that holds the whole book."""
    return min(guard.max_weight, guard.max_gross)


def read_inputs(job: Job) -> tuple[Panel, Bundle, Bundle | None]:
    """Panel, fold 0's forecaster and, where the job names one, the pretrained bundle.

    Raises  JobError for a missing input; ArtifactError for inputs that do not belong together.
    """
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


def policy_bundle(
    job: Job, cfg: RLConfig, teacher: Bundle, panel: Panel, limit: float, gross: float, first_bar: int, trained: Trained
) -> Bundle:
    """Forecaster, actor and critic as one bundle that needs nothing else."""
    own: dict[str, Any] = {
        "policy": config.to_dict(cfg.policy),
        "band": cfg.band,
        "limit": limit,
        "gross": gross,
        "episode_bars": cfg.train.episode_bars,
        "reward_scale": trained.metrics["reward_scale"],
        "shorts": config.parse(MarketConfig, job.config.get("market"), "job.config.market").costs.margin.shorts,
        "trained_from_ns": int(panel.ts_ns_T[first_bar]),
    }
    weights = {f"{FORECASTER}{name}": tensor for name, tensor in teacher.tensors.items()}
    weights |= {f"{ACTOR}{name}": tensor for name, tensor in trained.tensors.items()}
    return replace(
        teacher, kind="policy", config={**teacher.config, **own}, symbols=panel.symbols, lineage=lineage_of(job), tensors=weights
    )


def lineage_of(job: Job) -> dict[str, str]:
    """What the job was told of where it comes from, and the digests of its inputs."""
    return {**job.lineage, **{name: artifacts.open_artifact(path, verify=False).sha256 for name, path in job.inputs.items()}}
