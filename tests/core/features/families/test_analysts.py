"""What analysts said, as a feature: it moves nothing before it was said."""

import dataclasses
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import polars as pl

from plusultra_core.config import load
from plusultra_core.features.build import FeaturesConfig
from plusultra_core.features.sides import SourceConfig
from plusultra_core.feedback.annotations import Annotation, FeedbackConfig, append, open_store
from plusultra_core.feedback.asides import TABLE, side_rows

SAID = {"rationale": "because", "confidence": None, "tags": (), "author": "ana", "metadata": None}
WINDOW = {"context_window_start_ns": None, "context_window_end_ns": None}


def test_a_judgement_moves_no_feature_of_any_bar_before_it_was_said(
    tmp_path: Path, root: Path, make_bars: Callable[..., pl.DataFrame], smoke: FeaturesConfig, of: Callable[..., pl.DataFrame]
) -> None:
    bars = make_bars(seed=5, num_symbols=2, num_times=100)
    times = bars.filter(pl.col("symbol") == "S00")["known_ns"].to_list()
    source = SourceConfig(table=TABLE, fields=("verdict",), max_staleness_hours=24.0 * 60, scale=1.0)
    cfg = dataclasses.replace(smoke, alternative=dataclasses.replace(smoke.alternative, extra={"analysts": source}))
    feedback = load(FeedbackConfig, root / "configs/smoke/feedback.yaml")

    def features(*said: tuple[int, str]) -> pl.DataFrame:
        """With judgements of one early trade of S00, each said right after the close of a bar."""
        path = tmp_path / f"{len(said)}.sqlite"
        with closing(open_store(path, feedback)) as store:
            for bar, decision in said:
                own = {"client_key": str(bar), "trade_id": f"policy:{bar}", "symbol": "S00", "decision": decision}
                append(store, Annotation(trade_ns=times[0], created_ns=times[bar] + 1, **own, **SAID, **WINDOW), feedback)  # type: ignore[arg-type]
        return of(bars, side=side_rows(path, 2**62), cfg=cfg)

    early = [(bar, "reject" if bar % 3 else "approve") for bar in range(0, 50, 2)]
    before, after = features(*early), features(*early, (60, "approve"))
    later = (pl.col("known_ns") > times[60]) & (pl.col("symbol") == "S00")
    assert before.filter(~later).equals(after.filter(~later))
    assert not before.filter(later)["side_analysts"].equals(after.filter(later)["side_analysts"])
    known = pl.col("side_analysts").is_not_null()
    assert before.filter(known)["symbol"].unique().to_list() == ["S00"]
    assert before.filter(known).height > 20
