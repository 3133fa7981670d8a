"""The way back: ledger and vetoes as a dataset for offline RL, and the rule that says when to train again."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from plusultra_core.artifacts import Artifact, publish
from plusultra_core.clock import NS_PER_DAY
from plusultra_core.errors import ConfigError
from plusultra_core.feedback.outcomes import Trace
from plusultra_core.market import ASSET_CLASSES

DATASET = "transitions.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrainConfig:
    """When a retraining is worth its cost."""

    min_new_bars: int
    """Fewer new bars since the last training teach nothing."""
    min_new_vetoes: int
    """So many new vetoes ask for a retraining."""
    max_age_days: float
    """A model older than this is trained again."""
    cooldown_days: float
    """Least time between two attempts, whatever asks for one."""
    max_failures: int
    """After so many failures in a row a person must look."""
    asset_classes: tuple[str, ...]
    """Classes that train by themselves; of others nobody asks."""

    def __post_init__(self) -> None:
        if strange := sorted(set(self.asset_classes) - set(ASSET_CLASSES)):
            raise ConfigError(f"retrain.asset_classes: expected of {', '.join(ASSET_CLASSES)}, found {strange[0]!r}")
        for name in ("min_new_bars", "min_new_vetoes", "max_failures"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected >= 1, found {getattr(self, name)}")
        if not 0 <= self.cooldown_days <= self.max_age_days:
            raise ConfigError(f"cooldown_days: expected in [0, max_age_days], found {self.cooldown_days} and {self.max_age_days}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrainFacts:
    """What is known when the question is asked."""

    now_ns: int
    trained_ns: int | None
    """End of the last successful training; None if there was none."""
    attempted_ns: int | None
    """Start of the last attempt, whatever became of it."""
    num_failures: int
    """Attempts in a row that failed since the last success."""
    num_new_bars: int
    num_new_vetoes: int
    drift_alarm: bool


@dataclass(frozen=True, slots=True)
class RetrainDecision:
    """Whether to train, and every reason for and against."""

    retrain: bool
    reasons: tuple[str, ...]
    blocks: tuple[str, ...]


def should_retrain(facts: RetrainFacts, cfg: RetrainConfig) -> RetrainDecision:
    """The written rule: some reason, and nothing that blocks. Equal facts, equal decision.

    A failed attempt is no training: it neither resets the age nor hides; after `max_failures` it blocks.
    """
    age_days = None if facts.trained_ns is None else (facts.now_ns - facts.trained_ns) / NS_PER_DAY
    reasons = {
        "never_trained": age_days is None,
        "model_too_old": age_days is not None and age_days > cfg.max_age_days,
        "drift_alarm": facts.drift_alarm,
        "new_vetoes": facts.num_new_vetoes >= cfg.min_new_vetoes,
    }
    since_days = None if facts.attempted_ns is None else (facts.now_ns - facts.attempted_ns) / NS_PER_DAY
    blocks = {
        "cooldown": since_days is not None and since_days < cfg.cooldown_days,
        "too_few_new_bars": facts.num_new_bars < cfg.min_new_bars,
        "failed_too_often": facts.num_failures >= cfg.max_failures,
    }
    asked = tuple(sorted(name for name, holds in reasons.items() if holds))
    blocked = tuple(sorted(name for name, holds in blocks.items() if holds))
    return RetrainDecision(retrain=bool(asked) and not blocked, reasons=asked, blocks=blocked)


def build_transitions(trace: Trace, vetoes: pl.DataFrame) -> pl.DataFrame:
    """One row a strategy, symbol and decision: what was seen, done and earned; sorted by these three.

    The observation is named by its key (symbol, decision_ns) in the features, with the private state beside it
    (weight_before, drawdown_before). The ledger leaves out symbols that were neither held nor asked for: they are
    put back with action 0 and reward 0, `recorded` False. Where no target passed, the action is to keep what is held. An account that
    has nothing left, as after a gap on margin, is done: what stands in the ledger after that is nobody's decision.
    Units   action and weight_before signed fractions of equity; reward net pnl after costs over equity_before.
    Looks   reward is known at next_ns; veto is a label, known at veto_known_ns.
    """
    alive = (pl.col("equity_before") > 0.0).cast(pl.Int8).cum_min().over("strategy", order_by="ts_ns") == 1
    steps = trace.steps.filter(alive).with_columns(done=pl.col("ts_ns") == pl.col("ts_ns").max().over("strategy"))
    symbols = trace.positions.select("symbol").unique()
    key = ["strategy", "symbol", "ts_ns"]
    grid = steps.drop("equity", "drawdown").join(symbols, how="cross").sort(key)
    held = trace.positions.select(*key, "weight", "target_weight", "net_pnl", recorded=pl.lit(True))
    rows = grid.join(held, on=key, how="left", maintain_order="left").with_columns(
        pl.col("weight", "target_weight", "net_pnl").fill_null(0.0), pl.col("recorded").fill_null(False)
    )
    return (
        rows.with_columns(weight_before=pl.col("weight").shift(1, fill_value=0.0).over("strategy", "symbol"))
        .join(vetoes, on=["strategy", "symbol", "decision_ns"], how="left", maintain_order="left")
        .select(
            "strategy",
            "fold",
            "symbol",
            "decision_ns",
            "weight_before",
            "drawdown_before",
            "equity_before",
            "recorded",
            "done",
            "veto_known_ns",
            next_ns="ts_ns",
            action=pl.col("target_weight").fill_nan(pl.col("weight_before")),
            reward=pl.col("net_pnl") / pl.col("equity_before"),
            reward_ccy="net_pnl",
            veto=pl.col("veto_known_ns").is_not_null(),
        )
        .sort("strategy", "symbol", "decision_ns")
    )


def publish_transitions(transitions: pl.DataFrame, store: Path, key: str, manifest: Mapping[str, object]) -> Artifact:
    """Write the dataset as the artifact `store/key`; equal frames, equal bytes."""

    def fill(directory: Path) -> None:
        transitions.write_parquet(directory / DATASET, compression="zstd")

    return publish(store, key, fill, {**manifest, "rows": len(transitions)})
