"""Splits and dividends: forward adjustment, so that no bar knows an action that lies after it."""

from dataclasses import dataclass
from typing import Literal

import polars as pl

from plusultra_core.clock import iso
from plusultra_core.data.gate.connection import quote
from plusultra_core.data.gate.schema import Rule, TableShape
from plusultra_core.errors import ConfigError, ContractError

ADJUSTMENTS = ("none", "split", "split+dividend")
"""What a source may have done to its prices already."""
Adjustment = Literal["raw", "split", "total_return"]
"""How far bars are adjusted: not at all, for splits, for splits and dividends (what a holder who reinvests has)."""


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
    """Dividend per share as the price counts shares (a split-adjusted price wants a split-adjusted amount), in its currency."""
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


def adjust(bars: pl.DataFrame, actions: pl.DataFrame, assets: pl.DataFrame, as_of_ns: int | None, adjustment: Adjustment) -> pl.DataFrame:
    """Bars with `adj_factor` and the actions' `known_ns` folded in.

    The factor of a bar is the product over the bars in (first bar, bar] of

        (product of the split ratios)  x  close before / (close before - dividends)

    where the dividends of one bar add up, each counted for the shares that one share before has become by then.
    Dividends and splits of the same moment: the dividend is paid on the old shares. The factor is 1 at the first bar.
    An action counts from the first bar at or after it on; one before the first bar is nobody's.
    `adjustment` says how far: raw not at all, split for splits alone, total_return for dividends too. What
    `price_adjustment` says the source has done already is not done again, and cannot be undone. Actions known after
    `as_of_ns` are left out.

    Shapes  bars sorted by symbol, ts_ns; assets: symbol, price_adjustment, currency; the result has the rows of bars.
    Units   amounts per share as the price counts shares, in the currency of the price.
    Looks   back only: at the actions up to a bar and the closes before them.
    Raises  ContractError where dividends are not below the close before them, or paid in another currency.
    """
    done = pl.col("price_adjustment")
    if adjustment == "raw" or actions.is_empty() or bars.is_empty():
        return bars.with_columns(adj_factor=pl.lit(1.0))
    split = (pl.col("action") == "split") & (done == "none")
    dividend = (pl.col("action") == "dividend") & (done != "split+dividend") & (adjustment == "total_return")
    facts = assets.select("symbol", "price_adjustment", price_currency="currency")
    wanted = actions.join(facts, on="symbol").filter(split | dividend)
    if as_of_ns is not None:
        wanted = wanted.filter(pl.col("known_ns") <= as_of_ns)
    joined = bars.join(_steps(bars, wanted), on=["symbol", "ts_ns"], how="left", maintain_order="left")
    known = pl.max_horizontal("known_ns", pl.col("action_known_ns").cum_max().forward_fill().over("symbol"))
    factor = pl.col("factor").fill_null(1.0).cum_prod().over("symbol")
    return joined.with_columns(adj_factor=factor, known_ns=known).drop("factor", "action_known_ns")


def _steps(bars: pl.DataFrame, actions: pl.DataFrame) -> pl.DataFrame:
    """One factor for each bar that is the first to trade without some right."""
    dated = bars.select("symbol", "ts_ns", before=pl.col("close").shift().over("symbol"), bar_ns="ts_ns").sort("ts_ns")
    placed = (
        actions.rename({"ts_ns": "action_ns", "known_ns": "action_known_ns"})
        .sort("action_ns")
        .join_asof(dated, left_on="action_ns", right_on="ts_ns", by="symbol", strategy="forward", check_sortedness=False)
        .filter(pl.col("before").is_not_null())
        .sort("symbol", "bar_ns", "action_ns", "action")  # of one moment, dividend before split
    )
    bar = ["symbol", "bar_ns"]
    ratio = pl.when(pl.col("action") == "split").then("ratio").otherwise(1.0)
    shares = ratio.cum_prod().shift(fill_value=1.0).over(bar)
    placed = placed.with_columns(
        ratio_or_1=ratio, paid=pl.when(pl.col("action") == "dividend").then(pl.col("amount") * shares).otherwise(0.0)
    )
    _refuse(placed.with_columns(total=pl.col("paid").sum().over(bar)))
    step = pl.col("ratio_or_1").product() * (pl.col("before").first() / (pl.col("before").first() - pl.col("paid").sum()))
    return (
        placed.group_by(bar, maintain_order=True)
        .agg(factor=step, action_known_ns=pl.col("action_known_ns").max())
        .rename({"bar_ns": "ts_ns"})
    )


def _refuse(placed: pl.DataFrame) -> None:
    """Raise on an action that no factor can be made of."""
    is_split = pl.col("action") == "split"
    unpaid = ~is_split & (pl.col("amount").is_null() | (pl.col("total") >= pl.col("before")))
    foreign = (~is_split & (pl.col("currency") != pl.col("price_currency"))).fill_null(False)
    for wrong, expected, remedy in (
        (
            unpaid,
            "dividends of a bar below the close before",
            "fix the amount; what pays out the whole price is a delisting, not a dividend",
        ),
        (is_split & pl.col("ratio").is_null(), "a ratio for every split", "add it"),
        (foreign, "dividends in the currency of the price", "convert the amount at its ex-date, or set bars.adjustment to split"),
    ):
        found = placed.filter(wrong)
        if found.height:
            row = found.row(0, named=True)
            raise ContractError(
                f"corporate_actions: {row['symbol']} {iso(row['action_ns'])}: {row['action']}, amount {row['amount']} "
                f"{row['currency'] or ''}, ratio {row['ratio']}, close before {row['before']} {row['price_currency'] or ''}; "
                f"expected {expected}; {remedy}"
            )


def beyond(assets: pl.DataFrame, adjustment: Adjustment) -> list[str]:
    """Symbols whose source has adjusted further than was asked for, which cannot be undone."""
    far = {"none": 0, "split": 1, "split+dividend": 2}
    asked = {"raw": 0, "split": 1, "total_return": 2}[adjustment]
    done = pl.col("price_adjustment").replace_strict(far, return_dtype=pl.Int32)
    return assets.filter(done > asked)["symbol"].sort().to_list()
