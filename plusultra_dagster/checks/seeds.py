"""Whether the choice among the policy's seeds was one: never blocking."""

import json

import dagster as dg

from plusultra_core.artifacts import Artifact
from plusultra_dagster.partitions import snapshot_by_asset_class


@dg.asset_check(
    asset="policy_checkpoint",
    name="seeds",
    partitions_def=snapshot_by_asset_class,
    description="The validation scores of the policy's seeds lie closer together than they lie above doing nothing.",
)
def seeds(policy_checkpoint: Artifact) -> dg.AssetCheckResult:
    """WARN where the deviation over seeds exceeds their mean, which is that of doing nothing at 0: the choice is then among noise."""
    found = json.loads((policy_checkpoint.path / "metrics.json").read_text())
    mean, std = float(found["seeds.mean"]), float(found["seeds.std"])
    told = {"seeds": len(found["seeds"]), "served": int(found["seed"]), "mean": mean, "deviation": std}
    return dg.AssetCheckResult(passed=std <= mean, severity=dg.AssetCheckSeverity.WARN, metadata=told)


seed_checks = [seeds]
