"""What analysts said, and what can be learnt from it."""

from contextlib import closing

import dagster as dg
import polars as pl

from plusultra_core.artifacts import Artifact
from plusultra_dagster.assets.automation import LEARN
from plusultra_dagster.assets.record import Record, dressed
from plusultra_dagster.config import Feedback
from plusultra_dagster.places import places


@dg.asset(**dressed(__file__, "feedback", code=("feedback",), configs=("feedback",), automation=LEARN))
def annotations(
    context: dg.AssetExecutionContext, assets: pl.DataFrame, simulator_trace: Artifact, config: Feedback
) -> dg.MaterializeResult:
    """Judgements of this class's trades in the analysts' append-only store, and how often the outcome bore them out."""
    from plusultra_core.clock import now_ns
    from plusultra_core.feedback.annotations import FeedbackConfig, open_store, read
    from plusultra_core.feedback.outcomes import join_outcomes, read_trace

    record, cfg = Record(context, config), config.load(FeedbackConfig)
    path = places().feedback / "annotations.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(open_store(path, cfg)) as store:
        everything = read(store, now_ns())
    own = everything.filter(pl.col("symbol").is_null() | pl.col("symbol").is_in(assets["symbol"].to_list()))
    outcomes = join_outcomes(own, read_trace(simulator_trace.path), cfg.outcomes)
    judged = outcomes["agreed"].drop_nulls()
    return record.table(None, own, matched=int(outcomes["matched"].sum()), judged=len(judged), agreed=int(judged.sum()))


@dg.asset(**dressed(__file__, "feedback", code=("feedback",), configs=("feedback",), io="artifacts", kinds=("parquet",), automation=LEARN))
def offline_rl_dataset(
    context: dg.AssetExecutionContext, simulator_trace: Artifact, annotations: pl.DataFrame, config: Feedback
) -> dg.MaterializeResult:
    """Transitions of every strategy in the ledger, those that an analyst forbade marked as vetoed."""
    from plusultra_core.feedback.annotations import FeedbackConfig
    from plusultra_core.feedback.outcomes import build_vetoes, read_trace
    from plusultra_core.feedback.retrain import build_transitions, publish_transitions

    record, cfg = Record(context, config), config.load(FeedbackConfig)
    if not (record.store / record.provenance).exists():
        trace = read_trace(simulator_trace.path)
        vetoes = build_vetoes(annotations, trace, cfg.outcomes)
        publish_transitions(build_transitions(trace, vetoes), record.store, record.provenance, record.lineage)
    artifact = record.published()
    return record.artifact(artifact, transitions=int(artifact.manifest["rows"]))
