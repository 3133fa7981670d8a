"""The factor sheet: what each feature has said about later returns, with errors, and corrected for how many were asked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import stats

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.clock import iso
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.evaluation.scores import newey_west_se
from plusultra_core.market import CostsConfig

KEYS = ("symbol", "ts_ns", "known_ns")
_CHUNK = 16  # features looked at together: bounds the memory
_TIE = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class FactorsConfig:
    """How features are judged one by one."""

    horizons: tuple[int, ...]
    """Bars ahead over which the decay is drawn."""
    primary_horizon: int
    """The one of them that errors, spreads and discoveries are about."""
    min_names: int
    """Names a date needs for a cross-section; with too few such dates everything is pooled over time."""
    quantiles: int
    """Groups that a cross-section is cut into."""
    min_dates: int
    """Fewer dates give no verdict on a feature."""
    discovery_rate: float
    """Expected share of false ones among what is called a discovery."""

    def __post_init__(self) -> None:
        if not self.horizons or list(self.horizons) != sorted(set(self.horizons)) or self.horizons[0] < 1:
            raise ConfigError(f"horizons: expected rising numbers of bars from 1, found {list(self.horizons)}")
        if self.primary_horizon not in self.horizons:
            raise ConfigError(f"primary_horizon: expected one of {list(self.horizons)}, found {self.primary_horizon}")
        if self.min_names < 3 or self.quantiles < 2 or self.min_dates < 20:
            raise ConfigError(f"factors: expected min_names >= 3, quantiles >= 2 and min_dates >= 20, found {self}")
        if not 0 < self.discovery_rate < 1:
            raise ConfigError(f"discovery_rate: expected in (0, 1), found {self.discovery_rate}")


@dataclass(frozen=True, slots=True)
class FactorSheet:
    """Tables of one class; `method` is cross_sectional or pooled.

    factors    feature, coverage, symbols_without, num_dates, ic, ic_se, rank_ic, rank_ic_se, t, p, q, discovery, spread_bps,
               spread_se_bps, traded_frac, net_spread_bps, breakeven_bps, rank_autocorr, years_same_sign; the surest first
    decay      feature, horizon, rank_ic, rank_ic_se
    states     feature, column, state, rank_ic, rank_ic_se, num_dates
    quantiles  feature, quantile (1 lowest), ret_bps
    years      feature, year, rank_ic, num_dates
    """

    factors: pl.DataFrame
    decay: pl.DataFrame
    states: pl.DataFrame
    quantiles: pl.DataFrame
    years: pl.DataFrame
    method: str
    primary_horizon: int
    until_ns: int
    num_dates: int
    discovery_rate: float
    cost_bps: float


def build_factors(
    features: pl.DataFrame,
    bars: pl.DataFrame,
    targets: pl.DataFrame,
    regimes: pl.DataFrame,
    costs: CostsConfig,
    cfg: FactorsConfig,
    until_ns: int,
) -> FactorSheet:
    """Judge every feature on labels that end before `until_ns`, so that a locked window stays locked.

    IC is the correlation of a feature with the vol-scaled log return of the next bars, rank IC that of the ranks: by date
    across names and averaged over dates, or pooled over time where names are few. Errors are Newey-West over dates
    with twice the horizon as lag; `q` is the Benjamini-Hochberg adjusted p-value of the rank IC over all features.
    The spread is the mean log return of the highest quantile less that of the lowest over the primary horizon, a horizon's
    return; `traded_frac` what rebalancing both trades of one side's value; net of fee and half spread on it. Pooled quantiles are cut
    over the whole span: they describe, nobody could have traded them.

    Looks   ahead: this is a judge. Nothing of it may feed a model that is scored on the same span.
    NaN     none: what is undefined is null.
    Raises  ContractError when the frames differ in their rows.
    Source  Grinold and Kahn 2000 ch. 6; Newey and West 1987; Benjamini and Hochberg 1995.
    """
    rows, names = _rows(features, bars, targets, regimes, cfg, until_ns)
    sizes = rows.filter(pl.col(f"_y_{cfg.primary_horizon}").is_not_null())["ts_ns"].value_counts()["count"]
    cross = bool(sizes.len()) and bool((sizes >= cfg.min_names).mean() >= 0.5)  # type: ignore[operator]
    judge = _Judge(cfg, cross, costs.fee_bps + costs.half_spread_bps)
    parts = [judge.chunk(rows, names[start : start + _CHUNK]) for start in range(0, len(names), _CHUNK)]
    tables = {name: pl.concat([part[name] for part in parts], how="vertical_relaxed") for name in parts[0]}
    return FactorSheet(
        factors=_discoveries(tables["factors"], cfg),
        decay=tables["decay"],
        states=tables["states"],
        quantiles=tables["quantiles"],
        years=tables["years"],
        method="cross_sectional" if cross else "pooled",
        primary_horizon=cfg.primary_horizon,
        until_ns=until_ns,
        num_dates=sizes.len(),
        discovery_rate=cfg.discovery_rate,
        cost_bps=judge.cost_bps,
    )


def _rows(
    features: pl.DataFrame, bars: pl.DataFrame, targets: pl.DataFrame, regimes: pl.DataFrame, cfg: FactorsConfig, until_ns: int
) -> tuple[pl.DataFrame, list[str]]:
    """Features, outcomes and states side by side, by time; outcomes that end at or after `until_ns` are null.

    What is no feature has a leading underscore, which no feature has: an outcome under a feature's name would be judged in its place.
    """
    keys = bars.select("symbol", "ts_ns")
    for name, frame in (("features", features), ("targets", targets), ("regimes", regimes)):
        if not keys.equals(frame.select("symbol", "ts_ns")):
            raise ContractError(
                f"{name}: expected the {bars.height} rows of bars, found {frame.height} rows or others; build it of these bars"
            )
    names = [name for name in features.columns if name not in KEYS]
    states = regimes.select(pl.col("^.*_state$"))
    rows = keys.hstack(features.select(names)).hstack(states).with_columns(_sigma=targets["sigma"], _close=bars["close_adj"])
    for h in cfg.horizons:
        ret = pl.col("_close").log().shift(-h).over("symbol") - pl.col("_close").log()
        in_time = pl.col("ts_ns").shift(-h).over("symbol") < until_ns
        rows = rows.with_columns(pl.when(in_time).then(ret).fill_nan(None).alias(f"_ret_{h}"))
        scaled = pl.col(f"_ret_{h}") / (pl.col("_sigma") * math.sqrt(h))
        rows = rows.with_columns(pl.when(pl.col("_sigma") > 0).then(scaled).fill_nan(None).alias(f"_y_{h}"))
    rows = rows.drop("_close", "_sigma").filter(pl.col("ts_ns") < until_ns).sort("ts_ns", "symbol")
    if rows.is_empty() or not names:
        raise ContractError(
            f"features: expected columns and rows before {iso(until_ns)}, found {len(names)} columns and {rows.height} rows"
        )
    return rows.with_columns(pl.col(names).cast(pl.Float64).fill_nan(None)), names


@dataclass(frozen=True, slots=True)
class _Judge:
    cfg: FactorsConfig
    cross: bool
    cost_bps: float

    def chunk(self, rows: pl.DataFrame, names: Sequence[str]) -> dict[str, pl.DataFrame]:
        """All tables for a few features."""
        first = self.cfg.primary_horizon
        known = rows.filter(pl.col(f"_y_{first}").is_not_null())
        dates = _borders(known["ts_ns"])
        values = known.select(names).to_numpy().astype(np.float64)
        y_BF = np.broadcast_to(known[f"_y_{first}"].to_numpy()[:, None], values.shape)
        _, ic_DF = self._information(values, y_BF, dates)
        product_BF, rank_ic_DF = self._information(*self._ranks(known, names, first), dates)
        spread, quantiles = self._quantiles(known, names, dates)
        factors = self._coverage(rows, names).hstack(self._errors(ic_DF, first).rename({"mean": "ic", "se": "ic_se"}))
        factors = factors.hstack(self._errors(rank_ic_DF, first).rename({"mean": "rank_ic", "se": "rank_ic_se"}))
        factors = factors.with_columns(num_dates=pl.Series(np.isfinite(rank_ic_DF).sum(axis=0))).hstack(spread)
        years = self._years(rank_ic_DF, known["ts_ns"].gather(dates), names)
        same = years.join(factors.select("feature", whole="rank_ic"), on="feature", how="left", maintain_order="left")
        same = same.group_by("feature", maintain_order=True).agg(
            years_same_sign=(pl.col("rank_ic").sign() == pl.col("whole").sign()).mean()
        )
        return {
            "factors": factors.join(same, on="feature", how="left", maintain_order="left"),
            "decay": self._decay(rows, names),
            "states": self._states(known, product_BF, names),
            "quantiles": quantiles,
            "years": years,
        }

    def _ranks(self, rows: pl.DataFrame, names: Sequence[str], horizon: int) -> tuple[Float64Array, Float64Array]:
        """Ranks of features, and of outcomes among the rows where that feature is known; by date or over all."""
        group = pl.col("ts_ns") if self.cross else pl.lit(1)
        y = pl.col(f"_y_{horizon}")
        of_x = rows.select(pl.col(name).rank("average").over(group).alias(name) for name in names)
        of_y = rows.select(pl.when(pl.col(name).is_not_null()).then(y).rank("average").over(group).alias(name) for name in names)
        return of_x.to_numpy().astype(np.float64), of_y.to_numpy().astype(np.float64)

    def _information(self, x_BF: Float64Array, y_BF: Float64Array, dates: Int64Array) -> tuple[Float64Array, Float64Array]:
        """Products of standardised values (B, F), and their means by date (D, F): correlations where dates are cross-sections."""
        valid = np.isfinite(x_BF) & np.isfinite(y_BF)
        groups = dates if self.cross else np.zeros(1, dtype=np.int64)
        least = self.cfg.min_names if self.cross else 2
        product = _standardised(x_BF, valid, groups, least) * _standardised(y_BF, valid, groups, least)
        usable = np.isfinite(product)
        total = np.add.reduceat(np.where(usable, product, 0.0), dates, axis=0)
        count = np.add.reduceat(usable, dates, axis=0, dtype=np.float64)
        if not self.cross:  # every row counts alike, so that the mean over dates is the correlation itself
            count = np.broadcast_to(count.mean(axis=0), total.shape)
        return product, np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)

    def _errors(self, series_DF: Float64Array, horizon: int) -> pl.DataFrame:
        """Mean over dates and its standard error; null below `min_dates`."""
        means, errors = [], []
        for column in series_DF.T:
            series = column[np.isfinite(column)]
            enough = series.size >= self.cfg.min_dates
            means.append(_null(float(series.mean())) if enough else None)
            errors.append(_null(newey_west_se(series, 2 * horizon)) if enough else None)
        return pl.DataFrame({"mean": means, "se": errors}, schema={"mean": pl.Float64, "se": pl.Float64})

    def _coverage(self, rows: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
        there = rows.select(pl.col(names).is_not_null().mean()).row(0)
        without = rows.group_by("symbol").agg(~pl.col(names).is_not_null().any()).select(pl.col(names).sum()).row(0)
        return pl.DataFrame(
            {"feature": list(names), "coverage": there, "symbols_without": without}, schema_overrides={"coverage": pl.Float64}
        )

    def _decay(self, rows: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
        parts = []
        for h in self.cfg.horizons:
            known = rows.filter(pl.col(f"_y_{h}").is_not_null())
            if known.height:
                _, series_DF = self._information(*self._ranks(known, names, h), _borders(known["ts_ns"]))
                found = self._errors(series_DF, h).rename({"mean": "rank_ic", "se": "rank_ic_se"})
                parts.append(pl.DataFrame({"feature": list(names), "horizon": [h] * len(names)}).hstack(found))
        schema = {"feature": pl.String, "horizon": pl.Int64, "rank_ic": pl.Float64, "rank_ic_se": pl.Float64}
        return pl.concat(parts) if parts else pl.DataFrame(schema=schema)

    def _states(self, known: pl.DataFrame, product_BF: Float64Array, names: Sequence[str]) -> pl.DataFrame:
        """Mean product by date among the rows of one state: its part in the rank IC."""
        parts = []
        for column in (name for name in known.columns if name.endswith("_state")):
            state_B = known[column].to_numpy()
            for state in sorted({int(value) for value in np.unique(state_B)} - {0}):
                at = np.flatnonzero(state_B == state)
                dates = _borders(known["ts_ns"].gather(at))
                usable = np.isfinite(product_BF[at])
                count = np.add.reduceat(usable, dates, axis=0, dtype=np.int64)
                total = np.add.reduceat(np.where(usable, product_BF[at], 0.0), dates, axis=0)
                series = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
                found = self._errors(series, self.cfg.primary_horizon).rename({"mean": "rank_ic", "se": "rank_ic_se"})
                where = pl.DataFrame({"feature": list(names), "column": column, "state": state})
                parts.append(where.hstack(found).with_columns(num_dates=pl.Series(np.isfinite(series).sum(axis=0))))
        schema = {"feature": pl.String, "column": pl.String, "state": pl.Int64, "rank_ic": pl.Float64, "rank_ic_se": pl.Float64}
        return pl.concat(parts) if parts else pl.DataFrame(schema={**schema, "num_dates": pl.Int64})

    def _years(self, rank_ic_DF: Float64Array, ts_ns: pl.Series, names: Sequence[str]) -> pl.DataFrame:
        years = pl.from_epoch(ts_ns, time_unit="ns").dt.year()
        wide = pl.DataFrame(rank_ic_DF, schema=list(names)).with_columns(_year=years)
        long = wide.unpivot(list(names), index="_year", variable_name="feature").filter(pl.col("value").is_finite())
        found = long.group_by("feature", year="_year").agg(rank_ic=pl.col("value").mean(), num_dates=pl.len().cast(pl.Int64))
        return found.select("feature", pl.col("year").cast(pl.Int64), "rank_ic", "num_dates").sort("feature", "year")

    def _quantiles(self, known: pl.DataFrame, names: Sequence[str], dates: Int64Array) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Spread between the outer quantiles with its error and its trading, and the mean return of each quantile."""
        last, first = self.cfg.quantiles, self.cfg.primary_horizon
        group = pl.col("ts_ns") if self.cross else pl.lit(1)
        least = max(self.cfg.min_names, last) if self.cross else 2 * last
        spreads, groups = [], []
        for name in names:
            size = pl.col(name).count().over(group)
            cut = ((pl.col(name).rank("average").over(group) - 0.5) / size * last).floor().clip(0, last - 1) + 1
            told = known.select(
                "symbol",
                "ts_ns",
                ret=pl.col(f"_ret_{first}"),
                place=pl.col(name).rank("average").over(group) / size,
                q=pl.when(size >= least).then(cut).cast(pl.Int8),
            )
            told = told.with_columns(before=pl.col("q").shift(first).over("symbol"), last=pl.col("place").shift(1).over("symbol"))
            spreads.append(self._spread(told, dates))
            mean = told.drop_nulls("q").group_by("q").agg(ret_bps=pl.col("ret").mean() * 1e4).sort("q")
            groups.append(mean.select(feature=pl.lit(name), quantile=pl.col("q").cast(pl.Int64), ret_bps="ret_bps"))
        return pl.DataFrame(spreads, schema=_SPREAD), pl.concat(groups)

    def _spread(self, told: pl.DataFrame, dates: Int64Array) -> dict[str, float | None]:
        """Of the outer quantiles of one feature; every date counts alike in a cross-section, every row where pooled."""
        q_B, ret_B = told["q"].fill_null(0).to_numpy(), told["ret"].fill_null(np.nan).to_numpy()
        by_date = []
        for place in (self.cfg.quantiles, 1):
            there = (q_B == place) & np.isfinite(ret_B)
            total = np.add.reduceat(np.where(there, ret_B, 0.0), dates)
            count = np.add.reduceat(there, dates, dtype=np.int64) if self.cross else np.full(dates.size, there.sum() / dates.size)
            by_date.append(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))
        series = by_date[0] - by_date[1]
        series = series[np.isfinite(series)]
        if series.size < self.cfg.min_dates:
            return dict.fromkeys(_SPREAD)
        mean = float(series.mean()) * 1e4
        kept = told.drop_nulls(["q", "before"])
        entered = [kept.filter(pl.col("q") == place).select((pl.col("before") != place).mean()).item() for place in (self.cfg.quantiles, 1)]
        traded = None if None in entered else 2.0 * float(sum(entered))
        steady = told.select(pl.corr("place", "last")).item()
        return {
            "spread_bps": mean,
            "spread_se_bps": _null(newey_west_se(series, 2 * self.cfg.primary_horizon) * 1e4),
            "traded_frac": traded,
            "net_spread_bps": None if traded is None else abs(mean) - self.cost_bps * traded,
            "breakeven_bps": abs(mean) / traded if traded else None,
            "rank_autocorr": _null(steady) if steady is not None else None,
        }


_SPREAD = dict.fromkeys(("spread_bps", "spread_se_bps", "traded_frac", "net_spread_bps", "breakeven_bps", "rank_autocorr"), pl.Float64)


def _discoveries(factors: pl.DataFrame, cfg: FactorsConfig) -> pl.DataFrame:
    """t, p and q of the rank IC; a discovery has q at most `discovery_rate`."""
    t = np.array([_ratio(row) for row in factors.select("rank_ic", "rank_ic_se").iter_rows()])
    p = np.where(np.isfinite(t), 2.0 * stats.norm.sf(np.abs(t)), np.nan)
    q = np.full(t.size, np.nan)
    if (known := np.isfinite(p)).any():
        q[known] = stats.false_discovery_control(p[known], method="bh")
    columns = {name: pl.Series(value, nan_to_null=True) for name, value in (("t", t), ("p", p), ("q", q))}
    judged = factors.with_columns(**columns).with_columns(discovery=(pl.col("q") <= cfg.discovery_rate).fill_null(False))
    order = ["feature", "coverage", "symbols_without", "num_dates", "ic", "ic_se", "rank_ic", "rank_ic_se", "t", "p", "q", "discovery"]
    return judged.select(*order, *_SPREAD, "years_same_sign").sort("p", "feature", nulls_last=True)


def _ratio(row: tuple[float | None, float | None]) -> float:
    mean, error = row
    return mean / error if mean is not None and error else math.nan


def _borders(ts_ns: pl.Series) -> Int64Array:
    """First row of each date of sorted times."""
    lengths = ts_ns.rle().struct.field("len").to_numpy().astype(np.int64)
    return np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)


def _standardised(x_BF: Float64Array, valid: np.ndarray, groups: Int64Array, least: int) -> Float64Array:
    """Values less the mean over the deviation of their group; NaN in groups that are too small or do not vary."""
    sizes = np.diff(np.append(groups, len(x_BF)))
    count = np.add.reduceat(valid, groups, axis=0, dtype=np.int64)
    known = np.where(valid, x_BF, 0.0)
    scale = np.maximum(np.abs(known).max(axis=0), 1e-300)
    mean = np.add.reduceat(known, groups, axis=0) / np.maximum(count, 1)
    gap = np.where(valid, x_BF - np.repeat(mean, sizes, axis=0), 0.0)
    deviation = np.sqrt(np.add.reduceat(gap * gap, groups, axis=0) / np.maximum(count, 1))
    usable = (count >= least) & (deviation > _TIE * scale)
    spread = np.repeat(np.where(usable, deviation, np.nan), sizes, axis=0)
    result: Float64Array = np.where(valid, gap / spread, np.nan)
    return result


def _null(value: float) -> float | None:
    return value if math.isfinite(value) else None
