"""Splits and dividends: forward adjustment, so that no bar knows an action that lies after it."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.clock import NS_PER_S, iso
from plusultra_core.data.contract.runs import Runs
from plusultra_core.data.gate.connection import quote
from plusultra_core.data.gate.ingest import PLACE
from plusultra_core.data.gate.rows import QUARANTINE_ROWS, Broken, Tally
from plusultra_core.data.gate.schema import Rule, TableShape
from plusultra_core.errors import ConfigError, ContractError

MAX_RATIO = 1_000_000
"""Most new shares for an old one, and most old ones for a new one: beyond it a price is lost in rounding."""
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
        absurd = f"{action} = 'split' AND ({ratio} < {1 / MAX_RATIO:.6f} OR {ratio} > {MAX_RATIO})"
        columns = ((self.ratio_column, "split"), (self.amount_column, "dividend"))
        return TableShape(
            table=self.table,
            rules=(
                Rule("bad_action", "error", self.action_column, unknown, "split or dividend"),
                Rule("bad_action", "error", self.ratio_column, no_ratio, "a ratio for every split", (self.ratio_column,)),
                Rule("bad_action", "error", self.amount_column, no_amount, "an amount for every dividend", (self.amount_column,)),
                Rule("bad_action", "error", self.ratio_column, absurd, f"1/{MAX_RATIO} <= ratio <= {MAX_RATIO}", (self.ratio_column,)),
                *(
                    Rule(
                        "bad_action",
                        "error",
                        self.action_column,
                        f"{action} = '{kind}'",
                        f"a column {name} for every {kind}",
                        lacks=(name,),
                    )
                    for name, kind in columns
                ),
            ),
            required=(self.time_column, self.symbol_column, self.action_column),
            optional=(self.amount_column, self.ratio_column, self.currency_column, self.known_at_column),
            time=self.time_column,
            known_at=self.known_at_column,
            symbol=self.symbol_column,
            keys=(self.time_column, self.symbol_column, self.action_column),
            positive=(self.amount_column, self.ratio_column),
        )

    def columns(self) -> dict[str, str]:
        """What the frame of actions is made of, by its own names."""
        named = {"symbol": self.symbol_column, "action": self.action_column, "amount": self.amount_column, "ratio": self.ratio_column}
        return {**named, "ts_ns": "ts_ns", "known_ns": "known_ns", "currency": self.currency_column}


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

    Shapes  bars sorted by symbol, ts_ns, with a column `carried` where a factor goes on that began earlier, in each symbol's
            first row; assets: symbol, price_adjustment, currency; the result has the rows of bars.
    Units   amounts per share as the price counts shares, in the currency of the price.
    Looks   back only: at the actions up to a bar and the closes before them.
    Raises  ContractError where dividends are not below the close before them, or paid in another currency.
    """
    if bars.is_empty():
        return bars.with_columns(adj_factor=pl.lit(1.0)).drop("carried", strict=False)
    wanted = actions.clear() if adjustment == "raw" or actions.is_empty() else _wanted(actions, assets, as_of_ns, adjustment)
    runs, factor = Runs.of(bars), np.ones(bars.height)
    if "carried" in bars.columns:
        factor[runs.starts] = bars["carried"].to_numpy()[runs.starts]
        bars = bars[[name for name in bars.columns if name != "carried"]]
    if wanted.is_empty():
        return bars.hstack([pl.Series("adj_factor", np.repeat(factor[runs.starts], runs.lengths))])
    steps = _steps(bars, wanted, runs)
    told_ns = np.full(bars.height, np.iinfo(np.int64).min)
    factor[steps.bar], told_ns[steps.bar] = steps.factor, steps.known_ns
    for start, end in zip(runs.starts.tolist(), runs.ends.tolist(), strict=True):
        np.multiply.accumulate(factor[start:end], out=factor[start:end])
        np.maximum.accumulate(told_ns[start:end], out=told_ns[start:end])
    known_ns = np.maximum(bars["known_ns"].to_numpy(), told_ns)
    return bars.with_columns(known_ns=pl.Series(known_ns), adj_factor=pl.Series(factor))


def _wanted(actions: pl.DataFrame, assets: pl.DataFrame, as_of_ns: int | None, adjustment: Adjustment) -> pl.DataFrame:
    """The actions that are applied, with the currency of the price."""
    done = pl.col("price_adjustment")
    split = (pl.col("action") == "split") & (done == "none")
    dividend = (pl.col("action") == "dividend") & (done != "split+dividend") & (adjustment == "total_return")
    facts = assets.select("symbol", "price_adjustment", price_currency="currency")
    wanted = actions.join(facts, on="symbol").filter(split | dividend)
    return wanted if as_of_ns is None else wanted.filter(pl.col("known_ns") <= as_of_ns)


def _placed(bars: pl.DataFrame, actions: pl.DataFrame) -> pl.DataFrame:
    """Each action with the first bar that trades without its right, the close before, and what the bar pays in all (`total`)."""
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
    paid = pl.when(pl.col("action") == "dividend").then(pl.col("amount") * shares).otherwise(0.0)
    return placed.with_columns(ratio_or_1=ratio, paid=paid).with_columns(total=pl.col("paid").sum().over(bar))


class _Steps(NamedTuple):
    """Bars that are the first to trade without some right: their rows, factors, and when the actions were known."""

    bar: Int64Array
    factor: Float64Array
    known_ns: Int64Array


def _steps(bars: pl.DataFrame, wanted: pl.DataFrame, runs: Runs) -> _Steps:
    """What `_placed` says, row by row, made of arrays; it is asked where something cannot be."""
    ts_ns, close = bars["ts_ns"].to_numpy(), bars["close"].to_numpy()
    wanted = wanted.sort("symbol")
    mine = Runs.of(wanted)
    action_ns, bar = wanted["ts_ns"].to_numpy(), np.zeros(wanted.height, np.int64)
    for place, first, last in zip(runs.place(mine.symbols).tolist(), mine.starts.tolist(), mine.ends.tolist(), strict=True):
        start, end = (runs.starts[place], runs.ends[place]) if place >= 0 else (0, 0)
        found = start + np.searchsorted(ts_ns[start:end], action_ns[first:last])
        bar[first:last] = np.where((found > start) & (found < end), found, 0)
    is_split = (wanted["action"] == "split").to_numpy()
    order = np.lexsort((is_split, action_ns, bar))
    order = order[bar[order] > 0]
    bar, is_split = bar[order], is_split[order]
    ratio = np.where(is_split, wanted["ratio"].to_numpy()[order], 1.0)
    amount = np.where(is_split, 0.0, wanted["amount"].to_numpy()[order])
    again = np.diff(bar, prepend=0) == 0
    shares = np.ones(bar.size)
    for i in np.flatnonzero(again):
        shares[i] = shares[i - 1] * ratio[i - 1]
    first = np.flatnonzero(~again)
    paid, before = np.add.reduceat(amount * shares, first), close[bar[first] - 1]
    other = ~is_split & (wanted["currency"] != wanted["price_currency"]).fill_null(False).to_numpy()[order]
    if not (paid < before).all() or np.isnan(ratio).any() or other.any():
        _refuse(_placed(bars, wanted))
    known_ns = np.maximum.reduceat(wanted["known_ns"].to_numpy()[order], first)
    return _Steps(bar[first], np.multiply.reduceat(ratio, first) * (before / (before - paid)), known_ns)


_ACTIONS = {"symbol": pl.String, PLACE: pl.Int64, "action": pl.String, "amount": pl.Float64, "ratio": pl.Float64}
_ACTIONS |= {"ts_ns": pl.Int64, "known_ns": pl.Int64, "currency": pl.String}
_IS_SPLIT = pl.col("action") == "split"
_IMPOSSIBLE = (
    (
        ~_IS_SPLIT & (pl.col("amount").is_null() | (pl.col("total") >= pl.col("before"))),
        "amount",
        "dividends of a bar below the close before",
        "fix the amount; what pays out the whole price is a delisting, not a dividend",
    ),
    (_IS_SPLIT & pl.col("ratio").is_null(), "ratio", "a ratio for every split", "add it"),
    (
        (~_IS_SPLIT & (pl.col("currency") != pl.col("price_currency"))).fill_null(False),
        "currency",
        "dividends in the currency of the price",
        "convert the amount at its ex-date, or set bars.adjustment to split",
    ),
)
"""Actions that no factor can be made of: when, which column, what is expected, what to do."""


class ActionsAudit:
    """The actions of a dump under judgement, and those that `adjust` would refuse, once their prices have gone by."""

    def __init__(self, cfg: CorporateActionsConfig, assets: pl.DataFrame, as_of_ns: int | None, adjustment: Adjustment) -> None:
        self.cfg, self.assets, self.as_of_ns, self.adjustment = cfg, assets, as_of_ns, adjustment
        self.frame = pl.DataFrame(schema=_ACTIONS)
        self.broken: dict[str, Broken] = {}

    def keep(self, rows: pl.DataFrame) -> None:
        """Take rows of the table as the gate has typed them, with their places."""
        known_ns = pl.col("ts_ns") + self.cfg.lag_s * NS_PER_S
        if "known_at_ns" in rows.columns:
            known_ns = pl.col("known_at_ns").fill_null(known_ns)
        named = {name: column for name, column in self.cfg.columns().items() if column in rows.columns and name != "symbol"}
        made = rows.select("symbol", PLACE, **{name: pl.col(column) for name, column in named.items()}).with_columns(
            pl.lit(None, dtype).alias(name) for name, dtype in _ACTIONS.items() if name not in (*named, "symbol", PLACE)
        )
        made = made.with_columns(known_ns=rows.select(known_ns).to_series())
        self.frame = pl.concat([self.frame, made.select(pl.col(name).cast(dtype, strict=False) for name, dtype in _ACTIONS.items())])

    def judge(self, bars: pl.DataFrame) -> None:
        """Count the actions that do not go with the prices of a group of whole symbols."""
        told = pl.when(_IS_SPLIT).then("ratio").otherwise("amount").is_finite()  # others break a rule of their own
        mine = self.frame.filter(told & pl.col("symbol").is_in(bars["symbol"].unique().implode()) & pl.col("ts_ns").is_not_null())
        prices = bars.filter(pl.col("symbol").is_in(mine["symbol"].unique().implode()) & (pl.col("close") > 0))
        if self.adjustment == "raw" or mine.is_empty() or prices.is_empty():
            return
        placed = _placed(prices, _wanted(mine, self.assets, self.as_of_ns, self.adjustment))
        for wrong, name, expected, _ in _IMPOSSIBLE:
            rows = placed.filter(wrong)
            if rows.height:
                rule = Broken("bad_action", "error", self.cfg.columns()[name], expected, Tally(QUARANTINE_ROWS))
                self.broken.setdefault(name, rule).tally.add(rows[PLACE].to_numpy(), rows["symbol"])


def _refuse(placed: pl.DataFrame) -> None:
    """Raise on an action that no factor can be made of."""
    for wrong, _, expected, remedy in _IMPOSSIBLE:
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
