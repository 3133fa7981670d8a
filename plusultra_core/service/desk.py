"""From a served directory to forecasts of the newest bars and the desk's decision: inference, sizing, guardrails.

The same `latest`, sizing rule and rulebook as in the backtest; nothing here has an opinion of its own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from plusultra_core import config
from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.artifacts import Artifact, canonical_json, sha256_bytes, sha256_file
from plusultra_core.errors import ArtifactError
from plusultra_core.guardrails.check import Holding, check_targets
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.guardrails.margin import within_margin, without_shorts
from plusultra_core.inference.decide import Book, size_forecast
from plusultra_core.inference.predict import Forecasts, latest
from plusultra_core.inference.trace import InferenceConfig
from plusultra_core.market import MarketConfig
from plusultra_core.models.bundle import Bundle, forecaster_config, load_bundle
from plusultra_core.service.champions.accounts import MEAN_VARIANCE, Wish, mean_variance_wish, policy_wish, take_seat
from plusultra_core.service.state import (
    BUNDLE,
    PANEL,
    POLICY,
    Books,
    Decide,
    Held,
    Horizon,
    Outlook,
    Served,
    Verdict,
    part_sha256,
    publish_served,
)
from plusultra_core.simulation.engine import SimulationConfig, build_rules, open_account
from plusultra_core.simulation.market import BARS, last_close, market_arrays
from plusultra_core.simulation.records import MarketArrays
from plusultra_core.windows.panel import Panel, load_panel

SIZED = "sized"
"""The sizing rule on the bundle's forecasts; `sized_<model>` is the champion's name for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeskSettings:
    """The configs that were promoted with the bundle; `settings` in the manifest of a served directory."""

    market: MarketConfig
    simulation: SimulationConfig
    guardrails: GuardrailsConfig
    inference: InferenceConfig


def open_desk(path: Path, artifact: Artifact) -> Served:
    """Load a verified directory and forecast every symbol once.

    Raises  ArtifactError when bundle and panel do not fit or a forecast is not finite; ConfigError for other settings.
    """
    settings = config.parse(DeskSettings, artifact.manifest.get("settings"), f"{path}: settings")
    bundle, panel = load_bundle(path / BUNDLE), load_panel(path / PANEL)
    if settings.inference.sizing.horizon_index >= len(panel.horizons):
        raise ArtifactError(f"{path}: sizing.horizon_index: expected below {len(panel.horizons)}, found another; promote fitting settings")
    newest = forecast_newest(bundle, panel)
    outlooks = build_outlooks(bundle, panel, newest, average_notional(panel, settings.market, settings.simulation))
    strategy = str(artifact.manifest.get("strategy", SIZED))
    wish = _wish_of(strategy, path, bundle, panel, newest, settings)
    return Served(
        sha256=artifact.sha256,
        bundle_sha256=part_sha256(path, BUNDLE),
        panel_sha256=part_sha256(path, PANEL),
        lineage={**bundle.lineage, **artifact.manifest.get("lineage", {})},
        bar_ns=panel.bar_ns,
        outlooks=outlooks,
        decide=build_decide(bundle, panel, newest, outlooks, settings, wish),
        whole_account=strategy == POLICY,
    )


def load_settings(configs: Path, market: Path) -> DeskSettings:
    """The configs of a profile's folder and of a market, as they are served."""
    return DeskSettings(
        market=config.load(MarketConfig, market),
        simulation=config.load(SimulationConfig, configs / "simulation.yaml"),
        guardrails=config.load(GuardrailsConfig, configs / "guardrails.yaml"),
        inference=config.load(InferenceConfig, configs / "inference.yaml"),
    )


def publish_desk(
    bundle: Path,
    panel: Path,
    settings: DeskSettings,
    store: Path,
    policy: Path | None = None,
    strategy: str = SIZED,
    lineage: Mapping[str, str] = MappingProxyType({}),
) -> Artifact:
    """Publish a served directory under the digest of what is in it, and open it once as the service will.

    Raises  ArtifactError when the service would refuse it.
    """
    folders = [bundle, panel] if policy is None else [bundle, panel, policy]
    files = [(place, file) for place, part in enumerate(folders) for file in sorted(part.iterdir()) if file.is_file()]
    parts = {f"{place}/{file.name}": sha256_file(file) for place, file in files}
    manifest = {"settings": config.to_dict(settings), "lineage": dict(lineage), "strategy": strategy}
    key = sha256_bytes(canonical_json({"parts": parts, **manifest}))[:16]
    served = publish_served(bundle, panel, store, key, manifest, policy)
    if any(served.manifest.get(name) != value for name, value in manifest.items()):
        raise ArtifactError(f"{served.path}: other settings, lineage or strategy than were to be served; remove it and publish again")
    open_desk(served.path, served)
    return served


class Latest(NamedTuple):
    """Forecasts of the newest windows: asset and time of each row."""

    n_B: Int64Array
    t_B: Int64Array
    forecasts: Forecasts


def forecast_newest(bundle: Bundle, panel: Panel) -> Latest:
    """Forecast every symbol from its newest window.

    Raises  ArtifactError when the bundle is no supervised one, the panel is not what it was trained on, or has no window.
    """
    if bundle.kind != "supervised":
        raise ArtifactError(f"served bundle: expected kind supervised, found {bundle.kind}; the desk sizes forecasts")
    newest = Latest(*latest(bundle, panel))
    if not len(newest.n_B):
        raise ArtifactError("served panel: no symbol has a window to forecast from; build the windows again")
    return newest


def build_outlooks(bundle: Bundle, panel: Panel, newest: Latest, adv_N: Float64Array) -> dict[str, Outlook]:
    """Forecasts by symbol, in log returns.

    Shapes  adv_N (N,) average notional per bar of the panel's symbols.
    Raises  ArtifactError when a forecast is not finite.
    """
    outlooks = {}
    for row, (n, t) in enumerate(zip(newest.n_B.tolist(), newest.t_B.tolist(), strict=True)):
        sigma = float(panel.sigma_NT[n, t])
        outlooks[panel.symbols[n]] = Outlook(
            symbol=panel.symbols[n],
            ts_ns=int(panel.ts_ns_T[t]),
            known_ns=int(panel.known_ns_NT[n, t]),
            sigma_per_bar=sigma,
            adv_ccy=float(adv_N[n]),
            horizons=tuple(_horizon(bundle, newest.forecasts, row, k, sigma) for k in range(len(panel.horizons))),
        )
    for outlook in outlooks.values():
        numbers = [outlook.sigma_per_bar, *(value for h in outlook.horizons for value in (*h.quantiles_ret_log.values(), *h[2:]))]
        if not all(math.isfinite(number) for number in numbers) or outlook.sigma_per_bar <= 0:
            raise ArtifactError(f"served bundle: forecast of {outlook.symbol!r} is not finite; train or build the windows again")
    return outlooks


def build_decide(
    bundle: Bundle, panel: Panel, newest: Latest, outlooks: Mapping[str, Outlook], settings: DeskSettings, wish: Wish | None = None
) -> Decide:
    """Sizing, or the rule `wish` in its place, and guardrails as the backtest has them: the whole panel, then the symbols asked for.

    A symbol whose newest window does not end at the panel's newest bar has no forecast there: it is not sized and not fresh.
    The desk is not told of orders at work: it sizes as if there were none.
    """
    levels = forecaster_config(bundle).quantile_levels
    current_B = newest.t_B == len(panel.ts_ns_T) - 1
    quantiles_NQ = current_quantiles(panel, newest, len(levels), settings.inference.sizing.horizon_index)
    current = {panel.symbols[n] for n in newest.n_B[current_B]}
    margin, sizing = settings.market.costs.margin, settings.inference.sizing
    guard = within_margin(settings.guardrails, margin)
    rules = build_rules(settings.simulation, settings.market.costs, panel.bar_ns)
    nothing_N = np.zeros(len(panel.symbols))
    adv_N = np.array([outlooks[name].adv_ccy if name in outlooks else math.nan for name in panel.symbols])
    spread_N = half_spreads(panel, settings.market, settings.simulation)

    def decide(asked: Sequence[str], held: Mapping[str, Held], books: Books) -> tuple[dict[str, Verdict], str]:
        weight_N = np.array([held[name].weight or 0.0 if name in held else 0.0 for name in panel.symbols])
        equity_ccy = math.nan if books.equity_ccy is None else books.equity_ccy
        horizon_bars = panel.horizons[sizing.horizon_index]
        book = Book(weight_N, nothing_N, panel.sigma_NT[:, -1], adv_N, spread_N, equity_ccy, rules, horizon_bars, margin.shorts)
        if wish is None:
            target_N = size_forecast(quantiles_NQ, levels, book, guard.max_weight, settings.guardrails.max_gross, sizing)
        else:  # without equity there is no account to decide for
            target_N = wish(held, books) if equity_ccy > 0 else nothing_N * math.nan
        wished = dict(zip(panel.symbols, without_shorts(target_N, margin).tolist(), strict=True))
        holdings = {
            name: Holding(
                weight=row.weight,
                fresh=row.fresh and name in current,
                adv_ccy=outlooks[name].adv_ccy if name in outlooks else None,
            )
            for name, row in held.items()
        }
        proposed = {name: None if math.isnan(wished[name]) else wished[name] for name in asked}
        checked = check_targets(proposed, holdings, books.equity_ccy, books.peak_ccy, books.state, guard)
        return {name: Verdict(proposed[name], checked.targets[name], checked.reasons[name]) for name in asked}, checked.state

    return decide


def current_quantiles(panel: Panel, newest: Latest, num_levels: int, horizon_index: int) -> Float64Array:
    """Quantiles of one horizon at the panel's newest bar. Shapes  result (N, Q). NaN  symbols whose newest window ends before it."""
    quantiles_NQ: Float64Array = np.full((len(panel.symbols), num_levels), np.nan)
    current_B = newest.t_B == len(panel.ts_ns_T) - 1
    quantiles_NQ[newest.n_B[current_B]] = newest.forecasts.quantiles_BKQ[current_B, horizon_index]
    return quantiles_NQ


def _wish_of(strategy: str, path: Path, bundle: Bundle, panel: Panel, newest: Latest, settings: DeskSettings) -> Wish | None:
    """What decides in place of the sizing rule.

    Raises  ArtifactError for a strategy that nobody serves.
    """
    if strategy == SIZED or strategy.startswith(f"{SIZED}_"):
        return None
    if strategy not in (POLICY, MEAN_VARIANCE):
        raise ArtifactError(f"{path}: expected strategy sized_*, {MEAN_VARIANCE} or {POLICY}, found {strategy!r}; baselines are not served")
    market, costs = _newest_market(panel, settings.market, settings.simulation), settings.market.costs
    env = open_account(market, 0, panel.bar_ns, settings.simulation, costs, settings.guardrails)
    seat = take_seat(env, panel, last_close(market)[-1])
    if strategy == POLICY:
        return policy_wish(load_bundle(path / POLICY), panel, seat)
    sizing, levels = settings.inference.sizing, forecaster_config(bundle).quantile_levels
    quantiles_NQ = current_quantiles(panel, newest, len(levels), sizing.horizon_index)
    horizon_bars = panel.horizons[sizing.horizon_index]
    return mean_variance_wish(quantiles_NQ, levels, seat, horizon_bars, settings.guardrails, settings.inference.mean_variance)


def average_notional(panel: Panel, market: MarketConfig, cfg: SimulationConfig) -> Float64Array:
    """Average notional per bar at the newest time, as the simulator counts it, account currency. Shapes  result (N,)."""
    adv_N: Float64Array = _newest_market(panel, market, cfg).adv_ccy[-1]
    return adv_N


def half_spreads(panel: Panel, market: MarketConfig, cfg: SimulationConfig) -> Float64Array:
    """Half the spread, basis points, that an order decided at the newest time is taken to meet. Shapes  result (N,)."""
    spread_N: Float64Array = _newest_market(panel, market, cfg).half_spread_bps[-1]
    return spread_N


def _newest_market(panel: Panel, market: MarketConfig, cfg: SimulationConfig) -> MarketArrays:
    bars_NT = {name: getattr(panel, f"{name}_NT") for name in BARS}
    return market_arrays(panel.ts_ns_T, bars_NT, panel.sigma_NT, panel.tradable_NT, market, cfg.adv_bars, cfg.fallback_sigma)


def _horizon(bundle: Bundle, forecasts: Forecasts, row: int, k: int, sigma: float) -> Horizon:
    scale = sigma * math.sqrt(bundle.horizons[k])
    levels = forecaster_config(bundle).quantile_levels
    down, flat, up = (float(value) for value in forecasts.probability_BKC[row, k])
    return Horizon(
        horizon_bars=bundle.horizons[k],
        quantiles_ret_log={f"{level:g}": float(q) * scale for level, q in zip(levels, forecasts.quantiles_BKQ[row, k], strict=True)},
        p_down=down,
        p_flat=flat,
        p_up=up,
        confidence=float(forecasts.confidence_BK[row, k]),
    )
