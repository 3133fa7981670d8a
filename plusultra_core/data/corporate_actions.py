"""Splits and dividends: forward adjustment, so that no bar knows an action that lies after it."""

from dataclasses import dataclass

import polars as pl

from plusultra_core.clock import iso
from plusultra_core.data.gate.connection import quote
from plusultra_core.data.gate.schema import Rule, TableShape
from plusultra_core.errors import ConfigError, ContractError

ADJUSTMENTS = ("none", "split", "split+dividend")
"""What a source may have done to its prices already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CorporateActionsConfig:
    """Where the dump keeps its corporate actions."""

    table: str
    time_column: str
    """Start of trading without the right (ex-date)."""
    symbol_column: str
    action_column: str
    """split or dividend."""
    amount_column: str
    """Dividend per share, in the currency of the price."""
    ratio_column: str
    """New shares for one old share."""
    currency_column: str
    known_at_column: str
    """When the action was known; where the dump has no such column, its time plus `lag_s`."""
    lag_s: int

    def __post_init__(self) -> None:
        if self.lag_s < 0:
            raise ConfigError(f"lag_s: expected >= 0, found {self.lag_s}")

    def shape(self) -> TableShape:
        """What the gate expects of the table."""
        action, amount, ratio = quote(self.action_column), quote(self.amount_column), quote(self.ratio_column)
        unknown = f"{action} IS NULL OR {action} NOT IN ('split', 'dividend')"
        no_ratio = f"{action} = 'split' AND {ratio} IS NULL"
        no_amount = f"{action} = 'dividend' AND {amount} IS NULL"
        return TableShape(
            table=self.table,
            rules=(
                Rule("bad_action", "error", self.action_column, unknown, "split or dividend"),
                Rule("bad_action", "error", self.ratio_column, no_ratio, "a ratio for every split", (self.ratio_column,)),
                Rule("bad_action", "error", self.amount_column, no_amount, "an amount for every dividend", (self.amount_column,)),
            ),
            required=(self.time_column, self.symbol_column, self.action_column),
            optional=(self.amount_column, self.ratio_column, self.currency_column, self.known_at_column),
            time=self.time_column,
            known_at=self.known_at_column,
            symbol=self.symbol_column,
            keys=(self.time_column, self.symbol_column, self.action_column),
            positive=(self.amount_column, self.ratio_column),
        )


def adjust(bars: pl.DataFrame, actions: pl.DataFrame, assets: pl.DataFrame, as_of_ns: int | None) -> pl.DataFrame:
    """Bars with `adj_factor` and the actions' `known_ns` folded in.

    The factor of a bar is the product over the actions in (first bar, bar] of the split ratio and of
    1 / (1 - dividend / close before); it is 1 at the first bar. What `price_adjustment` says the source
    has done already is not done again. Actions known after `as_of_ns` are left out.

    Shapes  bars sorted by symbol, ts_ns; the result has the same rows.
    Looks   back only.
    Raises  ContractError where a dividend is not below the close before it.
    """
    if actions.is_empty() or bars.is_empty():
        return bars.with_columns(adj_factor=pl.lit(1.0))
    wanted = actions.join(assets.select("symbol", "price_adjustment"), on="symbol").filter(
        pl.when(pl.col("price_adjustment") == "none")
        .then(True)
        .when(pl.col("price_adjustment") == "split")
        .then(pl.col("action") == "dividend")
        .otherwise(False)
    )
    if as_of_ns is not None:
        wanted = wanted.filter(pl.col("known_ns") <= as_of_ns)
    steps = _factors(bars, wanted)
    joined = bars.join(steps, on=["symbol", "ts_ns"], how="left", maintain_order="left")
    known = pl.max_horizontal("known_ns", pl.col("action_known_ns").cum_max().forward_fill().over("symbol"))
    factor = pl.col("factor").fill_null(1.0).cum_prod().over("symbol")
    return joined.with_columns(adj_factor=factor, known_ns=known).drop("factor", "action_known_ns")


def _factors(bars: pl.DataFrame, actions: pl.DataFrame) -> pl.DataFrame:
    """One factor for each bar that is the first to trade without some right."""
    dated = bars.select("symbol", "ts_ns", before=pl.col("close").shift().over("symbol"), bar_ns="ts_ns").sort("ts_ns")
    placed = (
        actions.rename({"ts_ns": "action_ns", "known_ns": "action_known_ns"})
        .sort("action_ns")
        .join_asof(dated, left_on="action_ns", right_on="ts_ns", by="symbol", strategy="forward", check_sortedness=False)
        .filter(pl.col("before").is_not_null())
    )
    unpaid = (pl.col("action") == "dividend") & (pl.col("amount") < pl.col("before")).fill_null(False).not_()
    wrong = placed.filter(unpaid | ((pl.col("action") == "split") & pl.col("ratio").is_null()))
    if wrong.height:
        row = wrong.row(0, named=True)
        raise ContractError(
            f"corporate_actions: {row['symbol']} {iso(row['action_ns'])}: {row['action']}, amount {row['amount']}, ratio {row['ratio']}; "
            f"expected a ratio, or an amount below the close before ({row['before']}); fix the action"
        )
    dividend = 1.0 / (1.0 - pl.col("amount") / pl.col("before"))
    step = pl.when(pl.col("action") == "split").then(pl.col("ratio")).otherwise(dividend)
    by_bar = placed.with_columns(factor=step).group_by("symbol", "bar_ns").agg(pl.col("factor").product(), pl.col("action_known_ns").max())
    return by_bar.rename({"bar_ns": "ts_ns"})
