"""Whether a challenger may serve: one written rule, and a decision that can be replayed. `registry` signs it and keeps it.

The rule. On the locked window, after costs, the strategy named in the config is promoted when all of these hold:
the window has `min_bars`; PSR reaches `min_psr`; for each of the baselines the lower end of the paired interval of its
Sharpe minus the baseline's reaches `min_gain_over_baseline`; and, where there is a champion, the same against the champion's
returns on the bars that both windows share reaches `min_gain_over_champion`. What cannot be computed fails: so does a
baseline that was not run.

Of the policy one training of several is served, and it may be a lucky one. With `needs_median_seed` it is therefore promoted only
where the trace ran `min_seeds` trainings, and the median of their Sharpes is not below that of the best baseline, by
`min_gain_over_baseline` either. Written rules have no seeds, and are not asked for them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from plusultra_core import config
from plusultra_core.artifacts import canonical_json, sha256_bytes
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.evaluation import metrics
from plusultra_core.evaluation.bootstrap import BootstrapConfig, block_length, paired_differences, resample_indices
from plusultra_core.evaluation.registry.records import Check, Decision
from plusultra_core.evaluation.seeds.runs import POLICY


@dataclass(frozen=True, kw_only=True, slots=True)
class PromotionConfig:
    """Thresholds of the rule."""

    strategy: str
    """Strategy of the scorecard that would serve."""
    baselines: tuple[str, ...]
    """Strategies that it must beat, every one of them."""
    min_bars: int
    """Bars of the locked window, and of what it shares with the champion's."""
    min_psr: float
    """Least probabilistic Sharpe ratio against 0."""
    min_gain_over_baseline: float
    """Least lower end of the paired interval of the annual Sharpe difference to a baseline."""
    min_gain_over_champion: float
    """The same against the champion; slightly negative lets an equal replace it."""
    needs_median_seed: bool
    """Whether the median of the policy's seeds must stand beside the baselines too."""
    min_seeds: int
    """Trainings that this median needs; of one it is that one."""

    def __post_init__(self) -> None:
        if not self.baselines or self.strategy in self.baselines:
            raise ConfigError(f"baselines: expected names other than {self.strategy!r}, found {self.baselines}")
        if self.min_bars < 2:
            raise ConfigError(f"min_bars: expected >= 2, found {self.min_bars}")
        if not 0 <= self.min_psr <= 1:
            raise ConfigError(f"min_psr: expected in [0, 1], found {self.min_psr}")
        if self.min_seeds < 1:
            raise ConfigError(f"min_seeds: expected >= 1, found {self.min_seeds}")


def decide(
    challenger: Mapping[str, Any], champion: Mapping[str, Any] | None, cfg: PromotionConfig, bootstrap_cfg: BootstrapConfig
) -> Decision:
    """Apply the rule to two scorecards; a pure function, so equal evidence gives an equal decision.

    Raises  ContractError when the challenger's scorecard lacks the strategy or every baseline.
    """
    strategies = challenger["strategies"]
    if cfg.strategy not in strategies:
        raise ContractError(f"scorecard: expected strategy {cfg.strategy!r}, found {sorted(strategies)}; run it in the trace")
    rivals = [name for name in cfg.baselines if name in strategies]
    if not rivals:
        raise ContractError(f"scorecard: expected one of the baselines {cfg.baselines}, found {sorted(strategies)}; run them in the trace")
    best = max(rivals, key=lambda name: (_sharpe(challenger, name), name))
    paired = challenger["paired"].get(cfg.strategy, {})
    checks = [
        _check("bars of the locked window", float(challenger["span"]["num_bars"]), float(cfg.min_bars)),
        _check("PSR against 0", strategies[cfg.strategy]["psr"], cfg.min_psr),
        *(_check(f"lower end of Sharpe minus {name}", _low(paired.get(name, {})), cfg.min_gain_over_baseline) for name in cfg.baselines),
    ]
    if cfg.needs_median_seed and cfg.strategy == POLICY:
        num_seeds, gain = _median_seed(challenger, best)
        checks.append(_check("seeds of the policy", num_seeds, float(cfg.min_seeds)))
        checks.append(_check("median seed's Sharpe minus the best baseline's", gain, cfg.min_gain_over_baseline))
    if champion is not None:
        shared, gain = _against_champion(challenger, champion, cfg, bootstrap_cfg)
        checks.append(_check("bars shared with the champion", float(shared), float(cfg.min_bars)))
        checks.append(_check("lower end of Sharpe minus the champion's", gain, cfg.min_gain_over_champion))
    failed = [check.name for check in checks if not check.passed]
    evidence = {
        "challenger_sha256": sha256_bytes(canonical_json(challenger)),
        "champion_sha256": sha256_bytes(canonical_json(champion)) if champion is not None else "none",
        "rule_digest": config.digest(cfg),
        "bootstrap_digest": config.digest(bootstrap_cfg),
        "seed": str(challenger["seed"]),
    }
    reason = f"not promoted: {'; '.join(failed)}" if failed else "promoted: every condition of the rule holds"
    return Decision(not failed, cfg.strategy, best, reason, tuple(checks), evidence)


def replay(
    decision: Decision,
    challenger: Mapping[str, Any],
    champion: Mapping[str, Any] | None,
    cfg: PromotionConfig,
    bootstrap_cfg: BootstrapConfig,
) -> bool:
    """Whether the same evidence and rule give the same decision again."""
    return decide(challenger, champion, cfg, bootstrap_cfg) == decision


def _against_champion(
    challenger: Mapping[str, Any], champion: Mapping[str, Any], cfg: PromotionConfig, bootstrap_cfg: BootstrapConfig
) -> tuple[int, float | None]:
    """Bars that both locked windows share, and the lower end of the paired Sharpe difference on them."""
    ours, theirs = challenger["series"]["locked"], champion["series"]["locked"]
    if challenger["asset_class"] != champion["asset_class"] or cfg.strategy not in theirs["ret"]:
        return 0, None
    _, own_T, other_T = np.intersect1d(np.asarray(ours["ts_ns"]), np.asarray(theirs["ts_ns"]), return_indices=True)
    if own_T.size < max(bootstrap_cfg.min_bars, 2):
        return int(own_T.size), None
    model_T = np.asarray(ours["ret"][cfg.strategy], dtype=np.float64)[own_T]
    champion_T = np.asarray(theirs["ret"][cfg.strategy], dtype=np.float64)[other_T]
    index_RT = resample_indices(own_T.size, block_length([model_T, champion_T]), bootstrap_cfg.reps, int(challenger["seed"]))
    year = float(challenger["periods_per_year"])
    paired = paired_differences(model_T, champion_T, index_RT, year, bootstrap_cfg.confidence)
    return int(own_T.size), _low(paired)


def _median_seed(card: Mapping[str, Any], baseline: str) -> tuple[float | None, float | None]:
    """Trainings of the policy on this scorecard, and the median of their Sharpes less a baseline's, from their returns."""
    seeds = card["series"].get("seeds", {})
    if not seeds:  # a scorecard of a trace that told of none
        return None, None
    gain = median(_sharpe_of(card, ret) for ret in seeds.values()) - _sharpe(card, baseline)
    return float(len(seeds)), gain if np.isfinite(gain) else None


def _sharpe(card: Mapping[str, Any], name: str) -> float:
    return _sharpe_of(card, card["series"]["locked"]["ret"][name])


def _sharpe_of(card: Mapping[str, Any], ret: Sequence[float]) -> float:
    """Sharpe of returns for ranking: 0 for those that never earned or lost, least for one that is undefined otherwise."""
    ret_T = metrics.checked_returns(np.asarray(ret))
    value = float(metrics.sharpe_or_zero(ret_T, float(card["periods_per_year"])))
    return value if np.isfinite(value) else -np.inf


def _low(paired: Mapping[str, Any]) -> float | None:
    interval = paired.get("sharpe", {}).get("ci")
    return float(interval[0]) if interval else None


def _check(name: str, found: float | None, required: float) -> Check:
    return Check(name, found, required, found is not None and found >= required)
