"""The catalogue: every feature by name, what it reads, how far it looks back.

`python -m plusultra_core.features.catalog` writes docs/features.md from it.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from plusultra_core.arrays import Float64Array
from plusultra_core.features.arrays import BarArrays
from plusultra_core.features.families import (
    alternative,
    calendar,
    cross_section,
    fusion,
    oscillators,
    returns,
    spectral,
    trend,
    volatility,
    volume,
)

CLOSE = ("close_adj",)
OPEN_CLOSE = ("open_adj", "close_adj")
RANGE = ("high_adj", "low_adj", "close_adj")
OHLC = ("open_adj", "high_adj", "low_adj", "close_adj")
VOLUME = ("close_adj", "volume_adj")
RANGE_VOLUME = ("high_adj", "low_adj", "close_adj", "volume_adj")
HIGH_LOW = ("high_adj", "low_adj")
NO_BARS = ("ts_ns",)
UNBOUNDED = "unbounded"
_KEYWORDS = ("Shapes", "Units", "Looks", "NaN", "Raises", "Source")


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """One feature. `inputs` are columns of bars, or `side:<column>` of sides.find_sides."""

    function: Callable[[BarArrays], Float64Array]
    inputs: tuple[str, ...]
    lookback: str
    """Bars it reads, the bar itself among them: 1, or a sum of short, medium, long, sigma, numbers and 'unbounded'."""
    tags: tuple[str, ...]
    unit: str

    @property
    def name(self) -> str:
        """Name of the column."""
        return self.function.__name__

    @property
    def sides(self) -> tuple[str, ...]:
        """Side columns that it reads."""
        return tuple(name.removeprefix("side:") for name in self.inputs if name.startswith("side:"))

    @property
    def doc(self) -> str:
        """First line of the function's docstring."""
        return (self.function.__doc__ or "").strip().splitlines()[0]

    @property
    def formula(self) -> str:
        """The lines of the docstring between the first one and those that a keyword begins: the formula, spelt out."""
        lines = [line.strip() for line in (self.function.__doc__ or "").strip().splitlines()[1:]]
        return " ".join(line for line in lines if line and line.split()[0] not in _KEYWORDS)

    @property
    def source(self) -> str:
        """Paper or book behind the formula, if the docstring names one."""
        lines = [line.strip() for line in (self.function.__doc__ or "").splitlines()]
        return next((line.removeprefix("Source").strip() for line in lines if line.startswith("Source")), "")

    def lookback_bars(self, short: int, medium: int, long: int) -> int | None:
        """Bars that it reads at most, the bar itself among them; None for all the past."""
        if UNBOUNDED in self.lookback:
            return None
        sizes = {"short": short, "medium": medium, "long": long}
        return sum(sizes[part] if part in sizes else int(part) for part in self.lookback.split(" + "))


_ALL = UNBOUNDED  # an exponential average forgets, but never wholly

CATALOG: tuple[FeatureSpec, ...] = (
    FeatureSpec(returns.ret_1, CLOSE, _ALL, ("returns", "core"), "sigma"),
    FeatureSpec(returns.ret_short, CLOSE, _ALL, ("returns", "core"), "sigma"),
    FeatureSpec(returns.ret_medium, CLOSE, _ALL, ("returns", "core"), "sigma"),
    FeatureSpec(returns.ret_long, CLOSE, _ALL, ("returns", "core"), "sigma"),
    FeatureSpec(returns.momentum_skip, CLOSE, _ALL, ("returns",), "sigma"),
    FeatureSpec(returns.gap_open, OPEN_CLOSE, _ALL, ("returns",), "sigma"),
    FeatureSpec(returns.body, OPEN_CLOSE, _ALL, ("returns",), "sigma"),
    FeatureSpec(returns.drawdown, CLOSE, _ALL, ("returns", "core"), "sigma"),
    FeatureSpec(returns.recovery, CLOSE, _ALL, ("returns",), "sigma"),
    FeatureSpec(returns.max_return, CLOSE, _ALL, ("returns",), "sigma"),
    FeatureSpec(returns.min_return, CLOSE, _ALL, ("returns",), "sigma"),
    FeatureSpec(returns.overnight_drift, OPEN_CLOSE, _ALL, ("returns",), "sigma"),
    FeatureSpec(volatility.vol_ewma, CLOSE, _ALL, ("volatility", "core"), "a year"),
    FeatureSpec(volatility.vol_realised, CLOSE, "medium + 1", ("volatility",), "a year"),
    FeatureSpec(volatility.vol_down, CLOSE, "medium + 1", ("volatility",), "a year"),
    FeatureSpec(volatility.vol_parkinson, HIGH_LOW, "medium", ("volatility",), "a year"),
    FeatureSpec(volatility.vol_garman_klass, OHLC, "medium", ("volatility",), "a year"),
    FeatureSpec(volatility.vol_rogers_satchell, OHLC, "medium", ("volatility",), "a year"),
    FeatureSpec(volatility.vol_yang_zhang, OHLC, "medium + 1", ("volatility",), "a year"),
    FeatureSpec(volatility.vol_ratio, CLOSE, "long + 1", ("volatility", "core"), "log"),
    FeatureSpec(volatility.vol_of_vol, CLOSE, _ALL, ("volatility",), "log"),
    FeatureSpec(volatility.vol_clustering, CLOSE, "long + 1", ("volatility",), "none"),
    FeatureSpec(volatility.range_vol_ratio, RANGE, "medium + 1", ("volatility",), "log"),
    FeatureSpec(volatility.atr_ratio, RANGE, _ALL, ("volatility",), "sigma"),
    FeatureSpec(volatility.downside_share, CLOSE, "long + 1", ("volatility",), "share"),
    FeatureSpec(volatility.overnight_share, OPEN_CLOSE, "medium + 1", ("volatility",), "share"),
    FeatureSpec(volatility.jump_share, CLOSE, "long + 1", ("volatility",), "share"),
    FeatureSpec(volatility.skew, CLOSE, "long + 1", ("volatility",), "none"),
    FeatureSpec(volatility.kurtosis, CLOSE, "long + 1", ("volatility",), "none"),
    FeatureSpec(trend.macd, CLOSE, _ALL, ("trend", "core"), "sigma"),
    FeatureSpec(trend.macd_histogram, CLOSE, _ALL, ("trend",), "sigma"),
    FeatureSpec(trend.ppo, CLOSE, _ALL, ("trend",), "sigma"),
    FeatureSpec(trend.trix, CLOSE, _ALL, ("trend",), "sigma"),
    FeatureSpec(trend.kama_distance, CLOSE, _ALL, ("trend",), "sigma"),
    FeatureSpec(trend.bollinger_z, CLOSE, "medium", ("trend", "core"), "deviations"),
    FeatureSpec(trend.bollinger_bandwidth, CLOSE, _ALL, ("trend",), "sigma"),
    FeatureSpec(trend.adx, HIGH_LOW, _ALL, ("trend",), "[0, 1]"),
    FeatureSpec(trend.directional_move, RANGE, _ALL, ("trend",), "[-1, 1]"),
    FeatureSpec(trend.aroon, HIGH_LOW, "medium + 1", ("trend",), "[-1, 1]"),
    FeatureSpec(trend.donchian_position, RANGE, "long + 1", ("trend",), "none"),
    FeatureSpec(trend.ichimoku_distance, RANGE, _ALL, ("trend",), "sigma"),
    FeatureSpec(trend.trend_slope, CLOSE, _ALL, ("trend",), "sigma"),
    FeatureSpec(trend.trend_fit, CLOSE, "long", ("trend",), "[-1, 1]"),
    FeatureSpec(trend.efficiency, CLOSE, "medium + 1", ("trend",), "[-1, 1]"),
    FeatureSpec(oscillators.rsi, CLOSE, _ALL, ("oscillators", "core"), "[-1, 1]"),
    FeatureSpec(oscillators.stochastic, RANGE, "medium", ("oscillators",), "[-.5, .5]"),
    FeatureSpec(oscillators.stochastic_d, RANGE, "medium + 4", ("oscillators",), "[-.5, .5]"),
    FeatureSpec(oscillators.williams_r, RANGE, "short", ("oscillators",), "[-.5, .5]"),
    FeatureSpec(oscillators.cci, RANGE, "medium", ("oscillators",), "none"),
    FeatureSpec(oscillators.tsi, CLOSE, _ALL, ("oscillators",), "[-1, 1]"),
    FeatureSpec(oscillators.ultimate_oscillator, RANGE, "long + 1", ("oscillators",), "[-.5, .5]"),
    FeatureSpec(volume.volume_z, ("volume_adj",), "long", ("volume", "core"), "deviations"),
    FeatureSpec(volume.volume_trend, ("volume_adj",), "long", ("volume",), "[-1, 1]"),
    FeatureSpec(volume.turnover_ratio, VOLUME, "long", ("volume",), "log"),
    FeatureSpec(volume.obv_slope, VOLUME, _ALL, ("volume",), "none"),
    FeatureSpec(volume.obv_balance, VOLUME, "long + 1", ("volume",), "[-1, 1]"),
    FeatureSpec(volume.force_index, VOLUME, _ALL, ("volume",), "none"),
    FeatureSpec(volume.cmf, RANGE_VOLUME, "medium", ("volume",), "[-1, 1]"),
    FeatureSpec(volume.chaikin_oscillator, RANGE_VOLUME, _ALL, ("volume",), "none"),
    FeatureSpec(volume.mfi, RANGE_VOLUME, "medium + 1", ("volume",), "[-1, 1]"),
    FeatureSpec(volume.vwap_ratio, RANGE_VOLUME, _ALL, ("volume",), "sigma"),
    FeatureSpec(volume.amihud, VOLUME, "medium + 1", ("volume",), "log 1 / currency"),
    FeatureSpec(volume.amihud_change, VOLUME, "long + 1", ("volume",), "log"),
    FeatureSpec(volume.kyle_lambda, VOLUME, _ALL, ("volume",), "none"),
    FeatureSpec(volume.roll_spread, CLOSE, _ALL, ("volume",), "sigma"),
    FeatureSpec(volume.corwin_schultz_spread, RANGE, _ALL, ("volume",), "sigma"),
    FeatureSpec(spectral.spectral_low, CLOSE, "long + 1", ("spectral",), "share"),
    FeatureSpec(spectral.spectral_high, CLOSE, "long + 1", ("spectral",), "share"),
    FeatureSpec(spectral.spectral_entropy, CLOSE, "long + 1", ("spectral",), "[0, 1]"),
    FeatureSpec(spectral.order_entropy, CLOSE, "long + 3", ("spectral",), "[0, 1]"),
    FeatureSpec(spectral.return_entropy, CLOSE, _ALL, ("spectral",), "[0, 1]"),
    FeatureSpec(spectral.autocorr_1, CLOSE, "long + 1", ("spectral",), "[-1, 1]"),
    FeatureSpec(spectral.autocorr_short, CLOSE, "long + 1", ("spectral",), "[-1, 1]"),
    FeatureSpec(spectral.variance_ratio, CLOSE, "long + 1", ("spectral",), "none"),
    FeatureSpec(calendar.day_of_week_sin, NO_BARS, "1", ("calendar",), "[-1, 1]"),
    FeatureSpec(calendar.day_of_week_cos, NO_BARS, "1", ("calendar",), "[-1, 1]"),
    FeatureSpec(calendar.hour_of_day_sin, NO_BARS, "1", ("calendar",), "[-1, 1]"),
    FeatureSpec(calendar.hour_of_day_cos, NO_BARS, "1", ("calendar",), "[-1, 1]"),
    FeatureSpec(calendar.session_position, NO_BARS, "1", ("calendar",), "(0, 1]"),
    FeatureSpec(calendar.month_end_distance, NO_BARS, "1", ("calendar",), "[0, 1)"),
    FeatureSpec(calendar.year_sin, NO_BARS, "1", ("calendar",), "[-1, 1]"),
    FeatureSpec(calendar.year_cos, NO_BARS, "1", ("calendar",), "[-1, 1]"),
    FeatureSpec(calendar.days_since_bar, NO_BARS, "2", ("calendar",), "log days"),
    FeatureSpec(calendar.bars_missing, ("gap_bars",), "1", ("calendar",), "log"),
    FeatureSpec(cross_section.rank_ret_short, CLOSE, _ALL, ("cross_section",), "(-.5, .5)"),
    FeatureSpec(cross_section.rank_ret_medium, CLOSE, _ALL, ("cross_section",), "(-.5, .5)"),
    FeatureSpec(cross_section.rank_ret_long, CLOSE, _ALL, ("cross_section",), "(-.5, .5)"),
    FeatureSpec(cross_section.rank_vol, CLOSE, _ALL, ("cross_section",), "(-.5, .5)"),
    FeatureSpec(cross_section.rank_turnover, VOLUME, "medium", ("cross_section",), "(-.5, .5)"),
    FeatureSpec(cross_section.rank_amihud, VOLUME, "medium + 1", ("cross_section",), "(-.5, .5)"),
    FeatureSpec(alternative.funding_carry, ("side:funding",), "medium", ("alternative",), "a year"),
    FeatureSpec(alternative.funding_z, ("side:funding",), "long", ("alternative",), "deviations"),
    FeatureSpec(alternative.implied_spread, ("close_adj", "side:implied_vol"), _ALL, ("alternative",), "a year"),
    FeatureSpec(alternative.implied_change, ("side:implied_vol",), "short + 1", ("alternative",), "log"),
    FeatureSpec(alternative.implied_z, ("side:implied_vol",), "long", ("alternative",), "deviations"),
    FeatureSpec(alternative.market_vol_level, ("side:market_vol",), "1", ("alternative",), "log"),
    FeatureSpec(alternative.market_vol_change, ("side:market_vol",), "short + 1", ("alternative",), "log"),
    FeatureSpec(alternative.rate_level, ("side:rate_short",), "1", ("alternative",), "a year"),
    FeatureSpec(alternative.rate_change, ("side:rate_long", "side:rate_short"), "medium + 1", ("alternative",), "a year"),
    FeatureSpec(alternative.rate_slope, ("side:rate_long", "side:rate_short"), "1", ("alternative",), "a year"),
    FeatureSpec(alternative.macro_age, ("side:macro_age_days",), "1", ("alternative",), "log days"),
    FeatureSpec(alternative.macro_surprise, ("side:macro_surprise",), "1", ("alternative",), "none"),
    FeatureSpec(alternative.open_interest_change, ("side:open_interest",), "short + 1", ("alternative",), "log"),
    FeatureSpec(alternative.onchain_activity, ("side:onchain",), "long", ("alternative",), "deviations"),
    FeatureSpec(fusion.carry_momentum, ("close_adj", "side:funding"), _ALL, ("fusion",), "sigma"),
    FeatureSpec(fusion.implied_trend, ("close_adj", "side:implied_vol"), _ALL, ("fusion",), "sigma"),
    FeatureSpec(fusion.open_interest_confirmation, ("close_adj", "side:open_interest"), _ALL, ("fusion",), "log"),
    FeatureSpec(fusion.rate_momentum, ("close_adj", "side:rate_long", "side:rate_short"), _ALL, ("fusion",), "percent sigma"),
    FeatureSpec(fusion.onchain_divergence, ("close_adj", "side:onchain"), "long", ("fusion",), "deviations"),
    FeatureSpec(fusion.macro_vol_response, ("close_adj", "side:macro_age_days"), "long + 1", ("fusion",), "log"),
    FeatureSpec(fusion.fear_response, ("close_adj", "side:market_vol"), _ALL, ("fusion",), "sigma"),
    FeatureSpec(fusion.market_vol_spread, ("close_adj", "side:market_vol"), _ALL, ("fusion",), "log"),
)

BUNDLES: tuple[str, ...] = ("all", "core", *dict.fromkeys(spec.tags[0] for spec in CATALOG))


def render() -> str:
    """The catalogue as a page."""
    lines = [
        "# Features",
        "",
        "Written by `python -m plusultra_core.features.catalog`; do not edit. `sigma` is the symbol's own EWMA volatility a bar;",
        "`short`, `medium`, `long` are the windows of features.yaml. Every feature of a bar reads that bar and earlier ones only.",
        f"{len(CATALOG)} features; beside them `ind_<name>` and `ind_<name>_raw` for each indicator chosen, `side_<name>` for each",
        "extra source of the config.",
        "",
        "| feature | what it is, formula | reads | looks back, bars | unit | bundles | source |",
        "|---|---|---|---|---|---|---|",
    ]
    for spec in CATALOG:
        meaning = f"{spec.doc} {spec.formula}".strip()
        cells = (f"`{spec.name}`", meaning, ", ".join(spec.inputs), spec.lookback, spec.unit, ", ".join(spec.tags), spec.source)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2] / "docs" / "features.md"
    target.write_text(render(), encoding="utf-8")
