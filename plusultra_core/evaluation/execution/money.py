"""Where the money of a trace went: from price gain to net by cost, and from the decision's price to the fill, with nothing left over."""

import polars as pl

from plusultra_core.errors import ContractError
from plusultra_core.evaluation.backtests import COSTS, REFUSED, Trace, net_pnl

PARTS = ("delay", "waiting", "spread", "impact", "fees", "opportunity")
"""Of the implementation shortfall: an order's result at the price of its decision, less its real one."""
_TOLERANCE = 1e-9
_MONEY = ("price_pnl", *COSTS)
_NUMBERS = ("arrival_ns", "decision_price", "end_price", "translated", "translation", *PARTS)
_LIVED = ("qty_filled", *(part for part in PARTS if part != "opportunity"))
SHARES = ("liquidation", "currency_pnl", "conversion")
"""Parts of other terms: of fees, of price_pnl, of spread."""


def waterfall(trace: Trace) -> pl.DataFrame:
    """Price gain, each cost and the net gain, by strategy and symbol; the row without a symbol is the whole account.

    Columns strategy, symbol, price_pnl, the costs (positive when they lose), the SHARES of them, net, time_in_market.
    Raises  ContractError when symbols and account differ by more than 1e-9 of the account.
    """
    account, positions = trace.account, trace.positions
    bars = account.group_by("strategy").agg(pl.len().alias("num_bars"))
    terms = [pl.col(name).sum() for name in (*_MONEY, *SHARES)]
    held = (pl.col("position") != 0).sum().alias("held")
    exposed = positions.filter(pl.col("position") != 0).group_by("strategy").agg(pl.col("ts_ns").n_unique().alias("held"))
    whole = account.group_by("strategy").agg(*terms).join(exposed, on="strategy", how="left")
    parts = positions.group_by("strategy", "symbol").agg(*terms, held)
    both = pl.concat([parts, whole], how="diagonal_relaxed").with_columns(pl.col("held").fill_null(0))
    found = (
        both.join(bars, on="strategy")
        .with_columns(net_pnl().alias("net"), (pl.col("held") / pl.col("num_bars")).alias("time_in_market"))
        .drop("held", "num_bars")
        .sort("strategy", "symbol", nulls_last=False)
    )
    size = _size(trace)
    for term in (*_MONEY, *SHARES, "net"):
        _require_no_rest(found, term, size, "positions")
    return found


def shortfall(trace: Trace) -> pl.DataFrame:
    """Implementation shortfall by strategy and symbol of the orders that were sent; the row without a symbol is their sum.

    Columns strategy, symbol, num_orders, asked_ccy (at the price of the decision), filled_ccy (as paid), the PARTS, shortfall, bps (of what
            was asked).
    Raises  ContractError when a number of an order is missing, its parts are not its paper result less its real one, or its costs are
            not those of the account.
    Source  Perold 1988, The Implementation Shortfall: Paper versus Reality.
    """
    sent = priced(trace.orders).filter(pl.col("status") != REFUSED)
    for name in _NUMBERS:
        if missing := sent[name].null_count():
            raise ContractError(f"orders.{name}: {missing} of the orders that were sent have none; allowed 0; run the trace task again")
    _require_paper_less_real(sent)
    by_symbol = sent.group_by("strategy", "symbol").agg(*_sums())
    whole = sent.group_by("strategy").agg(*_sums())
    found = (
        pl.concat([by_symbol, whole], how="diagonal_relaxed")
        .with_columns(total().alias("shortfall"))
        .sort("strategy", "symbol", nulls_last=False)
    )
    size = _size(trace)
    for part in (*PARTS, "shortfall"):
        _require_no_rest(found, part, size, "orders")
    _require_the_costs_of_the_account(trace, whole, size)
    return found.with_columns(bps(pl.col("shortfall"), pl.col("asked_ccy")).alias("bps"))


def priced(orders: pl.DataFrame) -> pl.DataFrame:
    """Orders with what they asked for at the price of their decision, and what they paid for what they got."""
    return orders.with_columns(
        (pl.col("qty_ordered") * pl.col("decision_price")).fill_null(0.0).alias("asked_ccy"),
        (pl.col("qty_filled") * pl.col("price")).fill_null(0.0).alias("filled_ccy"),
        (pl.col("qty_filled") * pl.col("decision_price")).fill_null(0.0).alias("got_ccy"),
    )


def total() -> pl.Expr:
    """The whole shortfall."""
    return pl.sum_horizontal(PARTS)


def bps(cost: pl.Expr, of: pl.Expr) -> pl.Expr:
    """Basis points; null of nothing."""
    return pl.when(of > 0).then(1e4 * cost / of)


def _sums() -> list[pl.Expr]:
    return [pl.len().alias("num_orders"), *(pl.col(name).sum() for name in ("asked_ccy", "filled_ccy", *PARTS))]


def _size(trace: Trace) -> pl.DataFrame:
    """Size of each account, against which rounding is measured: the greater of its equity and what it traded in all."""
    traded = priced(trace.orders).group_by("strategy").agg(pl.col("filled_ccy").sum().alias("traded"))
    equity = trace.account.group_by("strategy").agg(pl.col("equity").abs().max().alias("equity"))
    return equity.join(traded, on="strategy", how="left").select(
        "strategy", pl.max_horizontal("equity", pl.col("traded").fill_null(0.0), pl.lit(1.0)).alias("size")
    )


def _require_no_rest(found: pl.DataFrame, term: str, size: pl.DataFrame, of: str) -> None:
    """The rows with a symbol add up to the one without."""
    sums = found.group_by("strategy").agg(
        (pl.col(term).filter(pl.col("symbol").is_not_null()).sum() - pl.col(term).filter(pl.col("symbol").is_null()).sum()).alias("rest")
    )
    _refuse(sums.join(size, on="strategy"), f"{of}.{term}", "symbols leave {rest:.6g} of the account unexplained")


def _require_paper_less_real(sent: pl.DataFrame) -> None:
    """Independent of the parts: everything at the decision's price, less what was really paid, both marked at the order's end."""
    side = pl.when(pl.col("side") == "buy").then(1.0).otherwise(-1.0)
    end = pl.col("end_price") - pl.col("translated")
    paper = side * pl.col("qty_ordered") * (end - pl.col("decision_price"))
    real = side * (pl.col("qty_filled") * end - pl.col("filled_ccy")) + pl.col("translation") - pl.col("fees")
    rest = sent.with_columns((total() - (paper - real)).alias("rest"), (pl.col("asked_ccy") + 1e-9).alias("size"))
    _refuse(rest, "orders", "the parts of an order's shortfall leave {rest:.6g} of paper less real")


def require_bars_of_orders(orders: pl.DataFrame, executions: pl.DataFrame) -> None:
    """What orders got and paid is the sum of the bars in which they lived.

    Raises  ContractError for the first order of which it is not.
    """
    key = ["strategy", "order_id"]
    lived = executions.group_by(key).agg(pl.col(name).sum() for name in _LIVED)
    both = priced(orders).join(lived, on=key, how="full", coalesce=True, suffix="_bars").sort(key)
    for name in _LIVED:
        rest = both.select(
            "strategy",
            (pl.col(f"{name}_bars").fill_null(0.0) - pl.col(name).fill_null(0.0)).alias("rest"),
            (pl.col("qty_ordered" if name == "qty_filled" else "asked_ccy").fill_null(0.0) + 1e-9).alias("size"),
        )
        _refuse(rest, f"executions.{name}", "its bars leave {rest:.6g} of the order unexplained")


def _require_the_costs_of_the_account(trace: Trace, whole: pl.DataFrame, size: pl.DataFrame) -> None:
    charged = trace.account.group_by("strategy").agg(
        pl.col("spread").sum(), pl.col("impact").sum(), (pl.col("fees") - pl.col("liquidation")).sum().alias("fees")
    )
    both = charged.join(whole, on="strategy", how="left", suffix="_orders").join(size, on="strategy")
    for term in ("spread", "impact", "fees"):
        rest = both.with_columns((pl.col(f"{term}_orders").fill_null(0.0) - pl.col(term)).alias("rest"))
        _refuse(rest, f"orders.{term}", "orders leave {rest:.6g} of the account's cost unexplained")


def _refuse(rows: pl.DataFrame, where: str, what: str) -> None:
    broken = rows.filter(pl.col("rest").abs() > _TOLERANCE * pl.col("size"))
    if broken.height:
        row = broken.row(0, named=True)
        raise ContractError(f"{where} {row['strategy']}: {what.format(rest=row['rest'])}; allowed 1e-9 of it; look at the step kernel")
