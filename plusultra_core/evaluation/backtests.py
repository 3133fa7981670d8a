"""From a trace (account, orders, positions) to returns, a cost waterfall, attribution and fill statistics.

Everything is checked against the ledger identity first: what does not add up is refused, not reported.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.clock import NS_PER_MS
from plusultra_core.errors import ArtifactError, ContractError
from plusultra_core.evaluation import metrics

COSTS = ("spread", "impact", "latency_drift", "fees", "funding", "borrow")
TERMS = ("price_pnl", *COSTS)
REFUSED = "rejected"
"""Status of an order that the rulebook or the market let nothing of through: it was never sent."""
_STATES = ("unknown", "low", "mid", "high")
REGIMES = dict.fromkeys(("volatility_state", "liquidity_state", "rotation_state"), _STATES) | {
    "trend_state": ("unknown", "down", "flat", "up"),
    "hmm_state": _STATES,
}
"""Words for the codes 0 to 3 of each column of states."""
WALK_FORWARD = "walk_forward"
_TOLERANCE = 1e-8
_ACCOUNT = ("strategy", "fold", "ts_ns", "equity", *TERMS)
_ORDERS = ("strategy", "decision_ns", "arrival_ns", "fill_ns", "qty_ordered", "qty_filled", "price", "status", "reason")
_POSITIONS = ("strategy", "ts_ns", "symbol", "weight", "target_weight", *TERMS)


@dataclass(frozen=True, slots=True)
class Trace:
    """Tables of a trace artifact; every account row adds up. `limits` holds the largest weight a strategy may ask for."""

    account: pl.DataFrame
    orders: pl.DataFrame
    positions: pl.DataFrame
    limits: dict[str, float]


@dataclass(frozen=True, slots=True)
class Track:
    """One strategy on one span, in time order."""

    ts_ns_T: Int64Array
    ret_T: Float64Array
    fold_T: Int64Array
    turnover_T: Float64Array
    exposure_T: Float64Array
    result: dict[str, Any]


def load_trace(directory: Path) -> Trace:
    """The tables of a trace artifact.

    Raises  ArtifactError when a file is missing; ContractError for missing columns, repeated keys or money that does not add up.
    """
    frames: dict[str, pl.DataFrame] = {}
    for name, columns in (("account", _ACCOUNT), ("orders", _ORDERS), ("positions", _POSITIONS)):
        path = directory / f"{name}.parquet"
        if not path.is_file():
            raise ArtifactError(f"{path}: expected a file of a trace, found none; run the trace task")
        frames[name] = pl.read_parquet(path)
        if missing := sorted(set(columns) - set(frames[name].columns)):
            raise ContractError(f"{name}: missing column {missing[0]!r}; write the columns of a trace")
    _check_account(frames["account"])
    _check_positions(frames["positions"], frames["account"])
    return Trace(_bars_only(frames["account"]), frames["orders"], frames["positions"], _limits(directory / "trace.json"))


def _limits(path: Path) -> dict[str, float]:
    """Limits by strategy from the trace's summary; none where it has no summary."""
    if not path.is_file():
        return {}
    summary = json.loads(path.read_text(encoding="utf-8"))
    return {name: float(entry["limit"]) for name, entry in summary.get("strategies", {}).items() if "limit" in entry}


def _bars_only(account: pl.DataFrame) -> pl.DataFrame:
    """The account with `began_ns`, when each bar began, and without opening rows.

    A ledger's first row states the capital and moves no money: it is no bar. It is recognised by every run having one;
    later ones by equity that does not follow from the row before (an account opened anew for its fold).
    """
    still = pl.all_horizontal(pl.col(term) == 0 for term in TERMS)
    before = pl.col("equity").shift(1).over("strategy")
    ordered = account.sort("strategy", "ts_ns").with_columns(
        pl.col("ts_ns").shift(1).over("strategy").alias("began_ns"),
        (still & before.is_null()).alias("first"),
        (still & ((opening_equity() - before).abs() > _TOLERANCE * before.abs())).fill_null(False).alias("anew"),
    )
    if ordered["first"].sum() < ordered["strategy"].n_unique():
        ordered = ordered.with_columns(pl.lit(False).alias("first"))
    return ordered.filter(~pl.col("first") & ~pl.col("anew")).drop("first", "anew")


def opening_equity() -> pl.Expr:
    """Equity before the bar's money moved."""
    return pl.col("equity") - net_pnl()


def net_pnl() -> pl.Expr:
    """Price gain less every cost."""
    return pl.col("price_pnl") - pl.sum_horizontal(COSTS)


def spans(trace: Trace) -> tuple[dict[str, pl.DataFrame], dict[str, pl.DataFrame]]:
    """Account rows by strategy on the locked window (the last fold), and stitched over all folds where a strategy ran in more.

    A run named `<strategy>_walk_forward` is the stitched account of `<strategy>` and no row of the locked window.
    Raises  ContractError when strategies of the locked window do not share its bars.
    """
    last = trace.account["fold"].max()
    locked: dict[str, pl.DataFrame] = {}
    stitched: dict[str, pl.DataFrame] = {}
    for (name,), rows in trace.account.group_by(["strategy"], maintain_order=True):
        rows = rows.sort("ts_ns")
        strategy = str(name)
        if strategy.endswith(f"_{WALK_FORWARD}"):
            stitched[strategy.removesuffix(f"_{WALK_FORWARD}")] = rows
            continue
        if rows["fold"].n_unique() > 1:
            stitched.setdefault(strategy, rows)
        locked[strategy] = rows.filter(pl.col("fold") == last)
    grids = {name: rows["ts_ns"].to_list() for name, rows in locked.items()}
    first = next(iter(sorted(grids)), None)
    for name, grid in grids.items():
        if not grid or grid != grids[str(first)]:
            other = len(grids[str(first)])
            raise ContractError(f"account: {name} has {len(grid)} bars in the locked window, {first} has {other}; run all on one span")
    return dict(sorted(locked.items())), dict(sorted(stitched.items()))


def track(trace: Trace, rows: pl.DataFrame, regimes: pl.DataFrame, periods_per_year: float) -> Track:
    """Metrics, costs, attribution and fills of the account rows of one strategy.

    Looks   nowhere: every number is of bars that have closed.
    Raises  ContractError when positions and account disagree about a term.
    """
    name = str(rows["strategy"][0])
    opening_T = rows.select(opening_equity().alias("opening"))["opening"].to_numpy()
    money_T = rows.select(net_pnl().alias("net"))["net"].to_numpy()
    ret_T = np.divide(money_T, opening_T, out=np.zeros_like(money_T), where=opening_T > 0)
    gained_T = np.divide(rows["price_pnl"].to_numpy(), opening_T, out=np.zeros_like(money_T), where=opening_T > 0)
    keys = rows.select("ts_ns", "began_ns")
    ts_ns_T = keys["ts_ns"].to_numpy().astype(np.int64)
    positions = trace.positions.filter(pl.col("strategy") == name).join(keys, on="ts_ns", how="inner")
    orders = trace.orders.filter(pl.col("strategy") == name)
    turnover_T = _turnover(orders, rows, opening_T)
    exposure_T = _exposure(positions, keys)
    before = metrics.nulled({"sharpe_before_costs": float(metrics.sharpe(gained_T, periods_per_year))})
    result = {
        "metrics": {**metrics.performance(ret_T, periods_per_year, turnover_T=turnover_T, exposure_T=exposure_T), **before},
        "costs": waterfall(rows),
        "attribution": attribution(positions, rows, regimes),
        "saturated_frac": saturated_frac(positions, trace.limits.get(name)),
        "guarded_frac": float((rows["guard_state"] > 0).to_numpy().mean()) if "guard_state" in rows.columns else None,
        "fills": fill_statistics(orders, _began(keys), int(ts_ns_T[-1])),
    }
    return Track(ts_ns_T, ret_T, rows["fold"].to_numpy().astype(np.int64), turnover_T, exposure_T, result)


def waterfall(rows: pl.DataFrame) -> dict[str, Any]:
    """Price gain less each cost equals net gain, in account currency and as a fraction of the first equity.

    Raises  ContractError when the rest is more than rounding.
    """
    totals = {term: float(rows[term].sum()) for term in TERMS}
    per_fold = rows.group_by("fold", maintain_order=True).agg(opening_equity().first().alias("start"), pl.col("equity").last().alias("end"))
    change = float((per_fold["end"] - per_fold["start"]).sum())
    start = float(per_fold["start"][0])
    net = totals["price_pnl"] - sum(totals[term] for term in COSTS)
    residual = change - net
    scale = max(abs(start), _scale(rows))
    if not abs(residual) <= _TOLERANCE * scale:
        where = f"account {rows['strategy'][0]}"
        raise ContractError(f"{where}: equity changed by {change:.6g}, its terms add up to {net:.6g}; look at the step kernel")
    return {
        "start_equity_ccy": start,
        "end_equity_ccy": float(per_fold["end"][-1]),
        "terms_ccy": {"price_pnl": totals["price_pnl"], **{term: 0.0 - totals[term] for term in COSTS}},
        "net_ccy": net,
        "cost_ccy": sum(totals[term] for term in COSTS),
        "cost_frac": sum(totals[term] for term in COSTS) / start if start else None,
        "residual_ccy": residual,
    }


def attribution(positions: pl.DataFrame, rows: pl.DataFrame, regimes: pl.DataFrame) -> dict[str, Any]:
    """Net gain split by symbol and by regime; each split adds up to the account, term by term.

    The regime of a bar is the symbol's last state labelled when the bar began, `unknown` where there is none: the state
    that could be acted on, not the one that the bar's own move made.
    Raises  ContractError when a term of positions and account differs by more than rounding, or a join changes the rows.
    """
    scale = _scale(rows)
    for term in TERMS:
        gap = float(positions[term].sum()) - float(rows[term].sum())
        if not abs(gap) <= _TOLERANCE * scale:
            where = f"positions {rows['strategy'][0]}.{term}"
            raise ContractError(f"{where}: differs from the account by {gap:.6g}; write every cost on its symbol")
    states = regimes.select("symbol", pl.col("ts_ns").alias("state_ns"), *REGIMES).sort("state_ns", "symbol")
    began = positions.sort("began_ns", "symbol")
    labelled = began.join_asof(states, left_on="began_ns", right_on="state_ns", by="symbol", check_sortedness=False)
    total = rows.select(net_pnl().sum().alias("net"))["net"][0]
    by_symbol = _split(labelled, "symbol")
    by_regime: dict[str, list[dict[str, Any]]] = {}
    for kind, words in REGIMES.items():
        named = labelled.with_columns(pl.col(kind).fill_null(0).replace_strict(dict(enumerate(words)), return_dtype=pl.String))
        by_regime[kind.removesuffix("_state")] = _split(named, kind)
    residual = max(abs(sum(row["net_ccy"] for row in part) - total) for part in (by_symbol, *by_regime.values()))
    return {"by_symbol": by_symbol, "by_regime": by_regime, "residual_ccy": residual}


def saturated_frac(positions: pl.DataFrame, weight_limit: float | None) -> float | None:
    """Share of positions whose target weight is above .99 of the limit: near 1, the rule has one answer to everything."""
    if weight_limit is None or positions.is_empty():
        return None
    return float((positions["target_weight"].abs() > 0.99 * weight_limit).to_numpy().mean())


def fill_statistics(orders: pl.DataFrame, start_ns: int, end_ns: int) -> dict[str, Any]:
    """Counts by status and reason, and how much of what was asked for was filled, for orders decided in the span.

    The ratio and the latency are of orders that were sent: what the rulebook or the market let nothing of through met nobody.
    """
    orders = orders.filter(pl.col("decision_ns").is_between(start_ns, end_ns))
    filled = orders.filter(pl.col("qty_filled").abs() > 0)
    sent = orders.filter(pl.col("status") != REFUSED)
    ratio = sent.select((pl.col("qty_filled").abs() / pl.col("qty_ordered").abs()).fill_nan(None).alias("ratio"))["ratio"].mean()
    latency = sent.select(((pl.col("arrival_ns") - pl.col("decision_ns")) / NS_PER_MS).alias("latency"))["latency"].median()
    return {
        "num_orders": orders.height,
        "num_filled": filled.height,
        "fill_ratio_mean": _float(ratio),
        "latency_ms_median": _float(latency),
        "notional_ccy": _float((filled["qty_filled"].abs() * filled["price"]).sum()),
        "by_status": _counts(orders, "status"),
        "by_reason": _counts(orders, "reason"),
    }


def _split(labelled: pl.DataFrame, key: str) -> list[dict[str, Any]]:
    grouped = labelled.group_by(key).agg(
        pl.col("price_pnl").sum().alias("price_pnl_ccy"),
        pl.sum_horizontal(COSTS).sum().alias("cost_ccy"),
        net_pnl().sum().alias("net_ccy"),
        pl.col("weight").abs().mean().alias("weight_abs_mean"),
        pl.len().alias("num_rows"),
    )
    return grouped.rename({key: "name"}).sort("name").to_dicts()


def _counts(orders: pl.DataFrame, column: str) -> dict[str, int]:
    counted = orders.group_by(pl.col(column).cast(pl.String).fill_null("none")).len().sort(column)
    return {str(name): int(count) for name, count in counted.iter_rows()}


def _turnover(orders: pl.DataFrame, rows: pl.DataFrame, opening_T: Float64Array) -> Float64Array:
    """One-way turnover a bar: half the traded notional, summed over assets without netting, over opening equity."""
    grid_T = rows["ts_ns"].to_numpy()
    filled = orders.filter(pl.col("qty_filled").abs() > 0)
    fill_B = filled["fill_ns"].to_numpy()
    inside_B = (fill_B >= grid_T[0] - _bar(grid_T)) & (fill_B <= grid_T[-1])
    slot_B = np.searchsorted(grid_T, fill_B[inside_B], side="left")
    notional_B = (filled["qty_filled"].abs() * filled["price"]).to_numpy()[inside_B]
    traded_T = np.bincount(slot_B, weights=notional_B, minlength=grid_T.size)
    return np.asarray(np.divide(0.5 * traded_T, opening_T, out=np.zeros_like(opening_T), where=opening_T > 0))


def _scale(rows: pl.DataFrame) -> float:
    """Size of the account, against which rounding is measured."""
    return max(float(rows["equity"].abs().to_numpy().max()), 1.0)


def _began(keys: pl.DataFrame) -> int:
    """When the first bar began, and with it the first decision was taken."""
    first = keys["began_ns"][0]
    return int(keys["ts_ns"][0] if first is None else first)


def _bar(grid_T: Int64Array) -> int:
    return int(np.median(np.diff(grid_T))) if grid_T.size > 1 else 0


def _exposure(positions: pl.DataFrame, keys: pl.DataFrame) -> Float64Array:
    gross = positions.group_by("ts_ns").agg(pl.col("weight").abs().sum().alias("gross"))
    return np.asarray(keys.join(gross, on="ts_ns", how="left").sort("ts_ns")["gross"].fill_null(0.0).to_numpy())


def _check_account(account: pl.DataFrame) -> None:
    """Keys are unique, numbers are finite, and within a fold each bar opens with the equity that the last one left."""
    if account.is_empty():
        raise ContractError("account: no rows; run at least one strategy")
    if account.select("strategy", "ts_ns").is_duplicated().any():
        raise ContractError("account: keys (strategy, ts_ns) repeat; write one row a bar")
    numbers = ("equity", *TERMS)
    if broken := [name for name in numbers if not account[name].is_finite().fill_null(False).all()]:
        raise ContractError(f"account.{broken[0]}: values that are not finite; look at the step kernel")
    ordered = account.sort("strategy", "ts_ns").with_columns(
        (opening_equity() - pl.col("equity").shift(1).over("strategy", "fold")).abs().alias("gap")
    )
    limit = _TOLERANCE * pl.max_horizontal(pl.col("equity").abs().max().over("strategy"), pl.lit(1.0))
    broken_rows = ordered.filter(pl.col("gap") > limit)
    if broken_rows.height:
        row = broken_rows.row(0, named=True)
        raise ContractError(
            f"account {row['strategy']} at {row['ts_ns']}: equity is {row['gap']:.6g} off the equity before plus the bar's terms"
            f" ({broken_rows.height} rows); look at the step kernel"
        )


def _check_positions(positions: pl.DataFrame, account: pl.DataFrame) -> None:
    if positions.select("strategy", "ts_ns", "symbol").is_duplicated().any():
        raise ContractError("positions: keys (strategy, ts_ns, symbol) repeat; write one row an asset and bar")
    stray = positions.join(account, on=["strategy", "ts_ns"], how="anti")
    if stray.height:
        raise ContractError(f"positions: {stray.height} rows have no account row ({stray['strategy'][0]}); write both from one ledger")


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None
