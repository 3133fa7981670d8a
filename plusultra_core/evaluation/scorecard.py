"""One JSON-able dict with everything that is claimed about one asset class of one snapshot."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from plusultra_core import config
from plusultra_core.artifacts import canonical_json
from plusultra_core.clock import NS_PER_YEAR, iso
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.evaluation import backtests, bootstrap, metrics
from plusultra_core.evaluation.factors import FactorsConfig
from plusultra_core.evaluation.forecasts import ForecastScoresConfig, score_forecasts
from plusultra_core.evaluation.promotion import PromotionConfig
from plusultra_core.evaluation.seeds.runs import SEED_RUN, contestants, read_seed_runs
from plusultra_core.evaluation.seeds.spread import build_seeds, seed_warnings
from plusultra_core.evaluation.significance import SignificanceConfig, probabilistic_sharpe
from plusultra_core.evaluation.trials import Trial, sharpe_per_bar
from plusultra_core.market import MarketConfig

SCHEMA_VERSION = 1
_SHORT_YEARS = 0.25
_YEAR_TOLERANCE = 0.1
_GUARDED_FRAC = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """Everything that judgement depends on besides the evidence."""

    seed: int
    """Seed of every resampling."""
    models: tuple[str, ...]
    """Strategies that are ours and must earn their place."""
    baselines: tuple[str, ...]
    """Strategies that anybody could run."""
    min_locked_bars: int
    """A shorter locked window gets a warning."""
    bootstrap: bootstrap.BootstrapConfig
    forecasts: ForecastScoresConfig
    significance: SignificanceConfig
    promotion: PromotionConfig
    factors: FactorsConfig

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed: expected >= 0, found {self.seed}")
        if not self.models or not self.baselines or set(self.models) & set(self.baselines):
            raise ConfigError(f"models, baselines: expected two lists without a common name, found {self.models} and {self.baselines}")


def build_scorecard(
    trace_dir: Path,
    forecasts: pl.DataFrame,
    regimes: pl.DataFrame,
    bars: pl.DataFrame,
    market: MarketConfig,
    cfg: EvaluationConfig,
    lineage: Mapping[str, str],
    targets: pl.DataFrame | None = None,
) -> dict[str, Any]:
    """The scorecard: strategies on the locked window and over all folds, forecasts, regimes, data, warnings.

    `lineage` names digests of what was used; its `snapshot` becomes the card's. `targets` gives climatology its train span.
    NaN     none: what is undefined is null.
    Raises  ContractError when the trace, the forecasts or the regimes do not keep their contract.
    """
    trace = backtests.load_trace(trace_dir)
    locked, stitched = backtests.spans(trace)
    year = market.periods_per_year
    every = {name: backtests.track(trace, rows, regimes, year) for name, rows in locked.items()}
    tracks = contestants(every)
    walked = {name: backtests.track(trace, rows, regimes, year) for name, rows in stitched.items()}
    returns = {name: track.ret_T for name, track in tracks.items()}
    cis, index_RT, block = bootstrap.bootstrap_all(returns, year, cfg.bootstrap, cfg.seed)
    paired = _paired(returns, index_RT, year, cfg)
    runs = read_seed_runs(trace_dir, every)
    seeds = build_seeds(runs, every, index_RT, cfg.baselines, year, cfg.bootstrap.confidence)
    scored, notes = score_forecasts(forecasts, regimes, targets, cfg.forecasts, cfg.bootstrap, cfg.seed)
    ts_ns_T = next(iter(tracks.values())).ts_ns_T
    data = _data(bars)
    notes = [*notes, *_warnings(tracks, data, year, cfg), *_money_warnings(tracks, market), *_forced(trace.account), *seed_warnings(seeds)]
    card: dict[str, Any] = {
        **_heading(market, cfg, lineage),
        "bootstrap": {**config.to_dict(cfg.bootstrap), "block_bars": block},
        "span": {"start": iso(int(ts_ns_T[0])), "end": iso(int(ts_ns_T[-1])), "num_bars": int(ts_ns_T.size)},
        "models": [name for name in cfg.models if name in tracks],
        "baselines": [name for name in cfg.baselines if name in tracks],
        "strategies": {
            name: {**track.result, "ci": _listed(cis[name]), "psr": probabilistic_sharpe(track.ret_T, 0.0)}
            for name, track in tracks.items()
        },
        "policy": {"seeds": seeds},
        "walk_forward": {name: _walk_forward(track, year, cfg) for name, track in walked.items()},
        "paired": paired,
        "verdict": _verdict(returns, paired, year, cfg),
        "forecasts": scored,
        "regimes": _regimes(regimes),
        "data": data,
        "series": {**_series(tracks, walked), "seeds": {str(run.seed): every[run.strategy].ret_T.tolist() for run in runs}},
        "lineage": dict(sorted(lineage.items())),
        "warnings": sorted(notes),
    }
    canonical_json(card)
    return card


def _heading(market: MarketConfig, cfg: EvaluationConfig, lineage: Mapping[str, str]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "asset_class": market.asset_class,
        "snapshot": lineage.get("snapshot"),
        "bar": market.bar,
        "periods_per_year": market.periods_per_year,
        "currency": market.currency,
        "seed": cfg.seed,
        "config_digest": config.digest(cfg),
    }


def _series(tracks: Mapping[str, backtests.Track], walked: Mapping[str, backtests.Track]) -> dict[str, Any]:
    """Returns per bar after costs, from which every curve is drawn and the champion is compared."""
    first = next(iter(tracks.values()))
    return {
        "locked": {"ts_ns": first.ts_ns_T.tolist(), "ret": {name: track.ret_T.tolist() for name, track in tracks.items()}},
        "walk_forward": {name: {"ts_ns": track.ts_ns_T.tolist(), "ret": track.ret_T.tolist()} for name, track in walked.items()},
    }


def trials_of(card: Mapping[str, Any], config_digest: str) -> tuple[Trial, ...]:
    """Trials for the ledger: one for each model of the scorecard and each seed of the policy that is not served.

    They are keyed by what was trained on what and scored when.
    """
    series, seeds = card["series"]["locked"], card["policy"]["seeds"]
    tried = {name: series["ret"][name] for name in card["models"]}
    if seeds is not None:
        others = [run["seed"] for run in seeds["runs"] if not run["is_served"]]
        tried |= {f"{SEED_RUN}{seed}": card["series"]["seeds"][str(seed)] for seed in others}
    return tuple(
        Trial(
            key=f"{card['asset_class']}-{card['snapshot']}-{name}-{config_digest}-{series['ts_ns'][0]}-{series['ts_ns'][-1]}",
            asset_class=str(card["asset_class"]),
            snapshot=str(card["snapshot"]),
            strategy=name,
            config_digest=config_digest,
            start_ns=int(series["ts_ns"][0]),
            end_ns=int(series["ts_ns"][-1]),
            num_bars=len(series["ts_ns"]),
            sharpe_per_bar=sharpe_per_bar(np.asarray(ret)),
            returns=tuple(ret),
        )
        for name, ret in tried.items()
    )


def _paired(returns: Mapping[str, Any], index_RT: Any, year: float, cfg: EvaluationConfig) -> dict[str, Any]:
    """Every model against every other strategy; empty where the window is too short for resampling."""
    if not len(index_RT):
        return {}
    result: dict[str, Any] = {}
    for model in (name for name in cfg.models if name in returns):
        result[model] = {
            other: {
                metric: {**values, "ci": list(values["ci"]) if isinstance(values["ci"], tuple) else None}
                for metric, values in bootstrap.paired_differences(
                    returns[model], returns[other], index_RT, year, cfg.bootstrap.confidence
                ).items()
            }
            for other in sorted(returns)
            if other != model
        }
    return result


def _verdict(returns: Mapping[str, Any], paired: Mapping[str, Any], year: float, cfg: EvaluationConfig) -> dict[str, Any]:
    """Best model and best baseline by Sharpe after costs, and whether the paired interval parts them.

    A model that never traded earned nothing and lost nothing: it is named among `idle_models` and is no best model; where all are
    idle the outcome is `idle`.
    """
    ranked = {name: float(metrics.sharpe_or_zero(ret_T, year)) for name, ret_T in returns.items()}
    known = [name for name in cfg.models if np.isfinite(ranked.get(name, np.nan))]
    idle = [name for name in known if not np.any(returns[name])]
    models = [name for name in known if name not in idle]
    baselines = [name for name in cfg.baselines if np.isfinite(ranked.get(name, np.nan))]
    baseline = max(baselines, key=lambda name: ranked[name]) if baselines else None
    if not models or baseline is None:
        outcome = "idle" if idle and baseline is not None else "unknown"
        return {"outcome": outcome, "best_model": None, "best_baseline": baseline, "idle_models": idle, "sharpe": None}
    model = max(models, key=lambda name: ranked[name])
    sharpe = paired.get(model, {}).get(baseline, {}).get("sharpe")
    interval = sharpe["ci"] if sharpe else None
    outcome = "undecided"
    if interval and interval[0] > 0:
        outcome = "model"
    elif interval and interval[1] < 0:
        outcome = "baseline"
    return {"outcome": outcome, "best_model": model, "best_baseline": baseline, "idle_models": idle, "sharpe": sharpe}


def _walk_forward(track: backtests.Track, year: float, cfg: EvaluationConfig) -> dict[str, Any]:
    cis, _, block = bootstrap.bootstrap_all({"run": track.ret_T}, year, cfg.bootstrap, cfg.seed)
    folds = [
        {"fold": int(fold), **metrics.performance(track.ret_T[track.fold_T == fold], year)} for fold in np.unique(track.fold_T).tolist()
    ]
    span = {"start": iso(int(track.ts_ns_T[0])), "end": iso(int(track.ts_ns_T[-1])), "num_bars": int(track.ts_ns_T.size)}
    psr = probabilistic_sharpe(track.ret_T, 0.0)
    return {**track.result, "span": span, "folds": folds, "ci": _listed(cis["run"]), "psr": psr, "block_bars": block}


def _listed(cis: Mapping[str, bootstrap.Interval]) -> dict[str, list[float] | None]:
    return {name: list(interval) if interval else None for name, interval in cis.items()}


def _regimes(regimes: pl.DataFrame) -> dict[str, Any]:
    """Share of each state and how often one follows another on the next bar of the same symbol; rows sum to 1."""
    result: dict[str, Any] = {}
    ordered = regimes.sort("symbol", "ts_ns")
    for column, words in backtests.REGIMES.items():
        pairs = ordered.select(pl.col(column).fill_null(0).alias("now"), pl.col(column).fill_null(0).shift(-1).over("symbol").alias("next"))
        now = np.bincount(pairs["now"].to_numpy(), minlength=len(words))
        both = pairs.drop_nulls()
        code = both["now"].to_numpy().astype(np.int64) * len(words) + both["next"].to_numpy().astype(np.int64)
        counts = np.bincount(code, minlength=len(words) ** 2).reshape(len(words), -1).astype(np.float64)
        totals = counts.sum(axis=1, keepdims=True)
        shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
        result[column.removesuffix("_state")] = {
            "states": list(words),
            "share": (now / max(now.sum(), 1)).tolist(),
            "transitions": [row if total > 0 else None for row, total in zip(shares.tolist(), totals[:, 0].tolist(), strict=True)],
        }
    return result


def _data(bars: pl.DataFrame) -> dict[str, Any]:
    """What the tables held: symbols, bars, gaps, and how much of it has a range and a volume."""
    if bars.is_empty():
        raise ContractError("bars: no rows; nothing can be judged")
    ts_ns_T = bars["ts_ns"].unique().sort().to_numpy()
    last = bars["ts_ns"].max()
    ended = bars.group_by("symbol").agg(pl.col("ts_ns").max().alias("end")).filter(pl.col("end") < last)
    return {
        "num_symbols": bars["symbol"].n_unique(),
        "num_bars": bars.height,
        "start": iso(int(ts_ns_T[0])),
        "end": iso(int(ts_ns_T[-1])),
        "bars_per_year": float((ts_ns_T.size - 1) * NS_PER_YEAR / (ts_ns_T[-1] - ts_ns_T[0])) if ts_ns_T.size > 1 else None,
        "missing_bars": int(bars["gap_bars"].fill_null(0).sum()),
        "share_with_range": float(bars["has_ohl"].cast(pl.Float64).to_numpy().mean()),
        "share_with_volume": float(bars["has_volume"].cast(pl.Float64).to_numpy().mean()),
        "symbols_ended_early": ended.height,
    }


def _warnings(tracks: Mapping[str, backtests.Track], data: Mapping[str, Any], year: float, cfg: EvaluationConfig) -> list[str]:
    num_bars = next(iter(tracks.values())).ret_T.size
    notes: list[str] = []
    if num_bars < cfg.min_locked_bars:
        notes.append(f"the locked window has {num_bars} bars, fewer than {cfg.min_locked_bars}: its numbers say little")
    if num_bars < _SHORT_YEARS * year:
        notes.append(f"the locked window is {num_bars / year:.2g} years long: what is stated a year is stretched from that")
    if data["bars_per_year"] and abs(data["bars_per_year"] / year - 1.0) > _YEAR_TOLERANCE:
        notes.append(f"there are {data['bars_per_year']:.0f} bars a year, the market's config says {year:g}: what is stated a year is off")
    missing = [name for name in (*cfg.models, *cfg.baselines) if name not in tracks]
    if missing:
        notes.append(f"strategies not in the trace: {', '.join(missing)}")
    notes.extend(
        f"{name} was never in the market" for name, track in tracks.items() if name != "no_trade" and not (track.exposure_T > 0).any()
    )
    if data["share_with_volume"] < 1.0:
        notes.append(f"{1.0 - data['share_with_volume']:.0%} of the bars have no volume: fills there use the market's assumed liquidity")
    if data["share_with_range"] < 1.0:
        notes.append(f"{1.0 - data['share_with_range']:.0%} of the bars have a close only: their range is not known")
    return notes


def _forced(account: pl.DataFrame) -> list[str]:
    """Runs that were closed by force: one bad print is enough, and whoever is compared with them looks good."""
    if "liquidation" not in account.columns:
        return []
    first = account.filter(pl.col("liquidation") > 0).sort("strategy", "ts_ns").unique("strategy", keep="first", maintain_order=True)
    return [
        f"{row['strategy']} was closed by force in the bar to {iso(row['ts_ns'])} and lost {row['liquidation']:,.0f} there: "
        "look at the range of that bar before anything is compared with it"
        for row in first.iter_rows(named=True)
    ]


def _money_warnings(tracks: Mapping[str, backtests.Track], market: MarketConfig) -> list[str]:
    """What a desk would ask of the accounts: who was stopped by its drawdown, and whether what must be paid was paid."""
    notes = [
        f"{name} was held back by its drawdown in {track.result['guarded_frac']:.0%} of the bars: its ratios are of the rest"
        for name, track in tracks.items()
        if (track.result["guarded_frac"] or 0.0) > _GUARDED_FRAC
    ]
    held = [track for track in tracks.values() if (track.exposure_T > 0).any()]
    if market.costs.funding and held and not any(track.result["costs"]["terms_ccy"]["funding"] for track in held):
        notes.append("positions paid no funding although the market asks for it: there are no funding_rates for the locked window")
    return notes
