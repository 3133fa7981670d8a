"""How far the seeds of one policy lie apart on the locked window: the served one is one draw of them."""

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.evaluation import bootstrap, metrics
from plusultra_core.evaluation.backtests import Track
from plusultra_core.evaluation.seeds.runs import SeedRun

NUMBERS = ("sharpe", "total_return", "turnover_year", "max_drawdown")
_LEAST_RANKED = 3


def build_seeds(
    runs: Sequence[SeedRun],
    tracks: Mapping[str, Track],
    index_RT: Int64Array,
    baselines: Sequence[str],
    year: float,
    confidence: float,
) -> dict[str, Any] | None:
    """Numbers of every seed on the locked window and their spread; None where the trace tells of no seed.

    A seed that never traded has Sharpe 0. `rank_correlation` is Spearman's, of the validation score and the Sharpe: what the choice of the
    served seed was worth; null below three seeds and where all are equal. `apart` says whether the best and the worst Sharpe differ by
    more than the interval of one of them is wide: then the seed says more than the dates.
    Shapes  index_RT resampled dates, those of the contestants' intervals.
    NaN     none: what is undefined is null, and so is every number that rests on it.
    """
    if not runs:
        return None
    told = [_numbers(run, tracks[run.strategy], index_RT, year, confidence) for run in runs]
    served = next(one for one in told if one["is_served"])
    spread = {name: _spread([one[name] for one in told], served[name]) for name in ("valid_reward", *NUMBERS)}
    known = {name: float(metrics.sharpe_or_zero(tracks[name].ret_T, year)) for name in baselines if name in tracks}
    best = max((name for name in known if np.isfinite(known[name])), key=lambda name: known[name], default=None)
    sharpes = [one["sharpe"] for one in told]
    widths = [one["sharpe_ci"][1] - one["sharpe_ci"][0] for one in told if one["sharpe_ci"]]
    gap = None if None in sharpes else max(sharpes) - min(sharpes)
    return {
        "served": served["seed"],
        "num_seeds": len(told),
        "best_baseline": best,
        "best_baseline_sharpe": None if best is None else known[best],
        "num_above_best_baseline": None if best is None else sum(value is not None and value > known[best] for value in sharpes),
        "rank_correlation": _rank_correlation([one["valid_reward"] for one in told], sharpes),
        "sharpe_gap": gap,
        "narrowest_interval": min(widths, default=None),
        "apart": gap is not None and bool(widths) and gap > min(widths),
        **spread,
        "runs": told,
    }


def seed_warnings(seeds: Mapping[str, Any] | None) -> list[str]:
    """What must be said of the seeds beside every number of the policy."""
    if seeds is None or not seeds["apart"]:
        return []
    gap, width = seeds["sharpe_gap"], seeds["narrowest_interval"]
    return [
        f"{seeds['num_seeds']} trainings of the policy that differ by their seed alone lie {gap:.2f} apart in Sharpe, more than the "
        f"interval of one of them is wide ({width:.2f}): an interval of dates does not say how sure the policy is"
    ]


def _numbers(run: SeedRun, track: Track, index_RT: Int64Array, year: float, confidence: float) -> dict[str, Any]:
    found, ret_T = track.result["metrics"], track.ret_T
    sharpe = float(metrics.sharpe_or_zero(ret_T, year))
    interval = bootstrap.intervals(ret_T, index_RT, year, confidence)["sharpe"] if len(index_RT) else None
    return {
        "seed": run.seed,
        "strategy": run.strategy,
        "is_served": run.is_served,
        "valid_reward": run.valid_reward,
        "update": run.update,
        "is_flat": run.is_flat,
        **{name: found.get(name) for name in NUMBERS},
        "sharpe": sharpe if np.isfinite(sharpe) else None,
        "sharpe_ci": list(interval) if interval else None,
    }


def _spread(values: Sequence[float | None], served: float | None) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return {"served": served, **dict.fromkeys(("mean", "median", "std", "least", "most"))}
    spread = {"mean": fmean(known), "median": median(known), "std": float(np.std(known)), "least": min(known), "most": max(known)}
    return {"served": served, **spread}


def _rank_correlation(valid: Sequence[float], sharpes: Sequence[float | None]) -> float | None:
    known: Float64Array = np.array([np.nan if value is None else value for value in sharpes])
    if len(valid) < _LEAST_RANKED or not np.isfinite(known).all() or len(set(valid)) < 2 or len(set(known.tolist())) < 2:
        return None
    return float(spearmanr(valid, known).statistic)
