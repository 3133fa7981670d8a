"""Who serves."""

from functools import partial

import dagster as dg

from plusultra_core.artifacts import Artifact, publish
from plusultra_dagster.assets.automation import LEARN
from plusultra_dagster.assets.record import Record, dressed, write_json
from plusultra_dagster.config import Evaluation, digest_of
from plusultra_dagster.resources.registry import Registry


@dg.asset(
    **dressed(
        __file__,
        "promotion",
        code=("evaluation",),
        configs=("evaluation",),
        market="own",
        io="artifacts",
        kinds=("json",),
        automation=LEARN,
    )
)
def champion(context: dg.AssetExecutionContext, scorecard: Artifact, config: Evaluation, registry: Registry) -> dg.MaterializeResult:
    """The written rule applied to challenger and champion on the locked window: a signed, replayable decision."""
    from plusultra_core.evaluation.scorecard import EvaluationConfig

    record = Record(context, config)
    if not (record.store / record.provenance).exists():
        decided = registry.decide(str(record.partition.asset_class), scorecard, config.load(EvaluationConfig))
        publish(record.store, record.provenance, partial(write_json, "decision.json", decided), record.lineage)
    artifact = record.published()
    decision = record.read_json(artifact, "decision.json")["decision"]
    checks = [dg.TableRecord({name: str(value) for name, value in check.items()}) for check in decision["checks"]]
    version = digest_of(decision)  # without the signature: every home has its own key
    return record.artifact(artifact, version, promoted=decision["promoted"], reason=decision["reason"], rule=dg.MetadataValue.table(checks))
