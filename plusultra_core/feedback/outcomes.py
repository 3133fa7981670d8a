"""What became of the trades that analysts judged: annotations joined with the ledger of a trace."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from plusultra_core.artifacts import open_artifact
from plusultra_core.errors import ConfigError, ContractError

_DECISIONS = ("approve", "reject", "flag", "hold", "escalate")
COSTS = ("spread", "impact", "latency_drift", "fees", "funding", "borrow")

_ORDERS = ("strategy", "order_id", "symbol", "decision_ns", "side", "qty_filled", "price", "status", "reason")
_POSITIONS = ("strategy", "ts_ns", "symbol", "weight", "target_weight", "price_pnl", *COSTS)
_ACCOUNT = ("strategy", "fold", "ts_ns", "equity", "drawdown")
_MAX_RESIDUAL = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class OutcomesConfig:
    """How a judged trade is followed up."""

    veto_decisions: tuple[str, ...]
    """Decisions that forbid the position they are about."""
    outcome_bars: int
    """Steps from the decision over which the position's net pnl is counted."""

    def __post_init__(self) -> None:
        for name in self.veto_decisions:
            if name not in _DECISIONS:
                raise ConfigError(f"veto_decisions: expected names of {_DECISIONS}, found {name!r}")
        if self.outcome_bars < 1:
            raise ConfigError(f"outcome_bars: expected >= 1, found {self.outcome_bars}")


@dataclass(frozen=True, slots=True)
class Trace:
    """The ledger that feedback reads, with the sha256 of the artifact it came from."""

    sha256: str
    orders: pl.DataFrame
    steps: pl.DataFrame
    """One row a strategy and step: fold, decision_ns (close at which it was decided), ts_ns (close at which it ended),
    step (its number), equity_before, drawdown_before, done (the last step of the strategy's account)."""
    positions: pl.DataFrame
    """Rows of the ledger with `net_pnl`; a symbol that was neither held nor asked for in a step has no row."""


def read_trace(path: Path) -> Trace:
    """The ledger in a trace artifact.

    Raises  ArtifactError when the artifact is damaged; ContractError when a column is missing, a key stands
            twice, or the positions do not explain the account to 1e-9.
    """
    artifact = open_artifact(path)
    orders = _read(path / "orders.parquet", _ORDERS, ("strategy", "order_id"))
    positions = _read(path / "positions.parquet", _POSITIONS, ("strategy", "symbol", "ts_ns"))
    account = _read(path / "account.parquet", _ACCOUNT, ("strategy", "ts_ns"))
    positions = positions.with_columns(net_pnl=pl.col("price_pnl") - pl.sum_horizontal(COSTS))
    steps = _steps(account)
    _check_identity(steps, positions)
    return Trace(sha256=artifact.sha256, orders=orders, steps=steps, positions=positions)


def join_outcomes(annotations: pl.DataFrame, trace: Trace, cfg: OutcomesConfig) -> pl.DataFrame:
    """Each annotation with the order it is about and what the position earned afterwards; one row an annotation.

    `outcome_ccy` is the net pnl of the symbol's whole position (not of the order alone) in the `outcome_bars`
    steps from the decision; `agreed` says whether its sign bears out an approve or a reject.
    Looks   ahead outcome_bars: known at `outcome_ns`, a label, never an input.
    NaN     null where the trade is in no order of the trace, or the outcome is not known yet.
    """
    orders = _named_orders(trace.orders).select(
        "trade_id", "strategy", "decision_ns", "side", "qty_filled", "price", "status", "reason", symbol_traded="symbol"
    )
    first = trace.steps.select("strategy", "decision_ns", first_step="step", last_step=pl.col("step") + cfg.outcome_bars - 1)
    last = trace.steps.select("strategy", last_step="step", outcome_ns="ts_ns")
    judged = (
        annotations.join(orders, on="trade_id", how="left")
        .join(first, on=["strategy", "decision_ns"], how="left")
        .join(last, on=["strategy", "last_step"], how="left")
    )
    numbered = trace.positions.join(trace.steps.select("strategy", "ts_ns", "step"), on=["strategy", "ts_ns"])
    earned = (
        judged.select("annotation_id", "strategy", "symbol_traded", "first_step", "last_step")
        .join(numbered.select("strategy", "step", "net_pnl", symbol_traded="symbol"), on=["strategy", "symbol_traded"])
        .filter(pl.col("step").is_between("first_step", "last_step"))
        .group_by("annotation_id")
        .agg(earned=pl.col("net_pnl").sum())
    )
    sign = pl.when(pl.col("decision") == "approve").then(1.0).when(pl.col("decision") == "reject").then(-1.0)
    known = pl.when(pl.col("outcome_ns").is_not_null())
    return (
        judged.join(earned, on="annotation_id", how="left")
        .with_columns(matched=pl.col("strategy").is_not_null(), outcome_ccy=known.then(pl.col("earned").fill_null(0.0)))
        .with_columns(agreed=sign * pl.col("outcome_ccy") > 0)
        .drop("first_step", "last_step", "earned")
        .sort("annotation_id")
    )


def build_vetoes(annotations: pl.DataFrame, trace: Trace, cfg: OutcomesConfig) -> pl.DataFrame:
    """The decisions that analysts forbade: strategy, symbol, decision_ns, veto_known_ns; one row each.

    The last word on a trade counts. A veto with a context window covers every decision of its symbol inside it;
    without one, the decision in force at the trade's time. One that names an order of a strategy covers that
    strategy, any other all strategies.
    Looks   `veto_known_ns` is when the analyst said so, later than the decision: a label, never an input.
    """
    orders = _named_orders(trace.orders).select("trade_id", "strategy", symbol_traded="symbol")
    vetoes = (
        annotations.sort("annotation_id")
        .unique("trade_id", keep="last", maintain_order=True)
        .filter(pl.col("decision").is_in(cfg.veto_decisions))
        .join(orders, on="trade_id", how="left", maintain_order="left")
        .with_columns(symbol=pl.coalesce("symbol_traded", "symbol"), order_strategy="strategy")
        .filter(pl.col("symbol").is_not_null())
        .drop("strategy", "symbol_traded")
    )
    strategies = trace.steps.select("strategy").unique()
    each = vetoes.join(strategies, how="cross").filter(
        pl.col("order_strategy").is_null() | (pl.col("order_strategy") == pl.col("strategy"))
    )
    decisions = trace.steps.select("strategy", "decision_ns").sort("decision_ns")
    point = (
        each.filter(pl.col("context_window_start_ns").is_null())
        .sort("trade_ns")
        .join_asof(
            decisions,
            left_on="trade_ns",
            right_on="decision_ns",
            by="strategy",
            strategy="backward",
            coalesce=False,
            check_sortedness=False,
        )
        .filter(pl.col("decision_ns").is_not_null())
    )
    spans = (
        each.filter(pl.col("context_window_start_ns").is_not_null())
        .join(decisions, on="strategy")
        .filter(pl.col("decision_ns").is_between("context_window_start_ns", "context_window_end_ns"))
    )
    columns = ["strategy", "symbol", "decision_ns"]
    both = pl.concat([part.select(*columns, veto_known_ns="created_ns") for part in (point, spans)])
    return both.group_by(columns).agg(pl.col("veto_known_ns").min()).sort(columns)


def _named_orders(orders: pl.DataFrame) -> pl.DataFrame:
    return orders.with_columns(trade_id=pl.concat_str("strategy", pl.col("order_id").cast(pl.String), separator=":"))


def _read(path: Path, columns: tuple[str, ...], key: tuple[str, ...]) -> pl.DataFrame:
    frame = pl.read_parquet(path)
    if missing := sorted(set(columns) - set(frame.columns)):
        raise ContractError(f"{path.name}: column {missing[0]!r} is missing; trace the strategies again")
    frame = frame.select(columns).sort(key)
    if repeated := len(frame) - frame.n_unique(subset=list(key)):
        raise ContractError(f"{path.name}: {repeated} rows repeat a key {key}; allowed 0; trace the strategies again")
    return frame


def _steps(account: pl.DataFrame) -> pl.DataFrame:
    """The account's rows paired with the row before; a strategy has one account, through all folds."""
    before = {name: pl.col(name).shift(1).over("strategy") for name in ("ts_ns", "equity", "drawdown")}
    return (
        account.with_columns(
            decision_ns=before["ts_ns"],
            equity_before=before["equity"],
            drawdown_before=before["drawdown"],
            done=pl.col("ts_ns") == pl.col("ts_ns").max().over("strategy"),
        )
        .filter(pl.col("decision_ns").is_not_null())
        .sort("strategy", "ts_ns")
        .with_columns(step=pl.int_range(pl.len()).over("strategy"))
    )


def _check_identity(steps: pl.DataFrame, positions: pl.DataFrame) -> None:
    explained = positions.group_by("strategy", "ts_ns").agg(pl.col("net_pnl").sum())
    if stray := len(explained.join(steps, on=["strategy", "ts_ns"], how="anti")):
        raise ContractError(f"positions.parquet: {stray} closes are in no step of the account; trace the strategies again")
    joined = steps.join(explained, on=["strategy", "ts_ns"], how="left").with_columns(pl.col("net_pnl").fill_null(0.0))
    residual = (pl.col("equity") - pl.col("equity_before") - pl.col("net_pnl")).abs()
    bad = joined.filter(residual > _MAX_RESIDUAL * pl.max_horizontal(pl.col("equity_before").abs(), 1.0))
    if len(bad):
        row = bad.row(0, named=True)
        raise ContractError(
            f"positions.parquet: {len(bad)} steps do not explain the change of equity, first {row['strategy']} at {row['ts_ns']}; "
            "allowed 0; trace the strategies again"
        )
