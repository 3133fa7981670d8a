"""Synthetic dumps of any size: seeded, in the contract, with or without something to find.

Log returns are r_{t+1} = sigma_t * y_{t+1} with unit-variance y: a class factor, Student-t noise and rare
jumps. log sigma is a slow AR(1), part common to the class (it rises when the factor falls), part of the
symbol, so that an exponentially weighted average of past squared returns follows it.

Planted: y_{t+1} = ic * s_t + sqrt(1 - ic^2) * eps_{t+1}, s_t = .8 * alpha_1[t] + .6 * alpha_2[t - 2],
where alpha_1 and alpha_2 are AR(.5) indicators of unit variance, published with the bar that decides.
Nothing else tells of y: the best forecast is ic * s_t and its information coefficient is `ic`, also when
both sides are multiplied by the same known scale. With `ic` 0 the same indicators are worth nothing.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy.signal import lfilter

from plusultra_core.arrays import BoolArray, Float64Array, Int64Array
from plusultra_core.clock import NS_PER_DAY, NS_PER_HOUR
from plusultra_core.data.samples.dump_writer import NEW_YORK, Days, long_rows, new_york_ns, new_york_sessions, write_dump
from plusultra_core.errors import ConfigError

_ALPHA_AR = 0.5
_WEIGHTS, _LAG_BARS = (0.8, 0.6), 2
_COMPONENTS = (("alpha_1", 0, _WEIGHTS[0]), ("alpha_2", _LAG_BARS, _WEIGHTS[1]))
_EWMA_HALFLIFE_BARS, _HORIZONS = 20, (1, 5, 20)
_VOL_AR = {"1d": 0.99, "1h": 0.998}
_DIVIDEND_YIELD, _DIVIDEND_BARS, _INDEX = 0.005, 63, "SYN-INDEX"


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticConfig:
    """Size and content of a synthetic dump."""

    seed: int
    start: str
    num_bars: int
    """New York sessions; forex gets all days but Saturdays of the same span."""
    num_hourly_bars: int
    """Bars of the hourly classes (crypto, crypto_perpetual); they end with the last session."""
    num_equity: int
    num_etf: int
    num_forex: int
    num_crypto: int
    num_crypto_perpetual: int
    num_volatility_index: int
    gap_frac: float
    """Share of bars that are missing; with more than 0, about every eighth symbol lists late and another is delisted."""
    jump_frac: float
    """Share of bars whose own noise is five times as large."""
    planted_ic: float | None
    """Information coefficient of the planted signal; 0 plants noise, null publishes no alpha indicators."""

    def __post_init__(self) -> None:
        if min(self.num_bars, self.num_hourly_bars) < 100:
            raise ConfigError(f"num_bars, num_hourly_bars: expected >= 100, found {self.num_bars}, {self.num_hourly_bars}")
        counts = {spec.asset_class: _count(self, spec) for spec in _SPECS}
        if min(counts.values()) < 0 or max(counts.values()) > 99_999 or not any(counts.values()):
            raise ConfigError(f"num_<class>: expected 0..99999 each and one above 0, found {counts}")
        for name in ("gap_frac", "jump_frac"):
            if not 0 <= getattr(self, name) < 0.5:
                raise ConfigError(f"{name}: expected in [0, .5), found {getattr(self, name)}")
        if self.planted_ic is not None and not 0 <= self.planted_ic < 1:
            raise ConfigError(f"planted_ic: expected in [0, 1) or null, found {self.planted_ic}")
        if re.fullmatch(r"(19|20)\d\d-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])", self.start) is None:
            raise ConfigError(f"start: expected a day up to the 28th such as 2015-01-02, found {self.start!r}")


@dataclass(frozen=True, slots=True)
class _Spec:
    asset_class: str
    name: str
    bar: str
    close_local: str | None
    calendar: str
    vol_bar: float
    price: float
    notional_ccy: float


_SPECS = (
    _Spec("equity", "EQ{:03d}", "1d", "16:00", "XNYS", 0.016, 80.0, 5e7),
    _Spec("etf", "ETF{:03d}", "1d", "16:00", "XNYS", 0.010, 60.0, 2e8),
    _Spec("forex", "FX{:03d}USD", "1d", None, "24/5", 0.005, 5.0, 0.0),
    _Spec("crypto", "CR{:03d}-USD", "1h", None, "24/7", 0.007, 200.0, 1e6),
    _Spec("crypto_perpetual", "CP{:03d}-PERP", "1h", None, "24/7", 0.008, 200.0, 2e6),
    _Spec("volatility_index", "^SVIX{:03d}", "1d", "16:15", "XNYS", 0.0, 0.0, 0.0),
)


@dataclass(frozen=True, slots=True)
class _Paths:
    """One class, simulated. `sigma_TN[t]` is known at t and scales the return of t + 1; `raw_TN` is the quoted close."""

    spec: _Spec
    symbols: tuple[str, ...]
    ts_ns_T: Int64Array
    ret_TN: Float64Array
    sigma_TN: Float64Array
    signal_TN: Float64Array
    alpha_TNK: Float64Array
    present_TN: BoolArray
    split_TN: Float64Array
    dividend_TN: Float64Array
    raw_TN: Float64Array


def _count(cfg: SyntheticConfig, spec: _Spec) -> int:
    return int(getattr(cfg, f"num_{spec.asset_class}"))


def small_config(seed: int, planted_ic: float | None) -> SyntheticConfig:
    """A dump of every class in under a second: 300 sessions, 8 equities, two to three symbols of each other class."""
    return SyntheticConfig(
        seed=seed, start="2015-01-02", num_bars=300, num_hourly_bars=24 * 30, num_equity=8, num_etf=3, num_forex=2, num_crypto=2,
        num_crypto_perpetual=2, num_volatility_index=1, gap_frac=0.002, jump_frac=0.002, planted_ic=planted_ic,
    )  # fmt: skip


def make_synthetic(path: Path, cfg: SyntheticConfig) -> dict[str, dict[str, object]]:
    """Write a synthetic dump; equal configs give equal bytes. A class's paths do not depend on the other classes.

    Returns what each asset's metadata says under `planted`, by asset class; empty where nothing was planted.
    Raises  ConfigError when the span has no room for the bars.
    """
    sessions = new_york_sessions(cfg.start, cfg.num_bars)
    daily = np.arange(sessions[0], sessions[-1] + np.timedelta64(1, "D"))
    factor_day = np.random.default_rng([cfg.seed, 0]).standard_normal(daily.size)
    classes: list[_Paths] = []
    for i, spec in enumerate(_SPECS):
        if _count(cfg, spec) and spec.vol_bar:
            ts_ns = _grid(spec, cfg, sessions)
            day = np.clip((ts_ns - daily[0].astype("datetime64[ns]").astype(np.int64)) // NS_PER_DAY, 0, daily.size - 1)
            shared_T = factor_day[day] if spec.bar == "1d" else np.zeros(ts_ns.size)
            classes.append(_simulate(spec, cfg, ts_ns, shared_T, np.random.default_rng([cfg.seed, i + 1])))
    planted = {p.spec.asset_class: _planted(p, cfg.planted_ic) for p in classes if cfg.planted_ic is not None}
    tables = {
        "assets": _assets(cfg, planted),
        "series": pl.concat([*(_bars(p, cfg) for p in classes), _volatility_index(cfg, sessions, classes)], how="diagonal"),
        "indicators": pl.concat([_indicators(p, cfg) for p in classes]) if classes else pl.DataFrame(),
        **_side_tables(cfg, sessions, classes),
    }
    write_dump(path, tables)
    return planted


def _grid(spec: _Spec, cfg: SyntheticConfig, sessions: Days) -> Int64Array:
    """Bar closes of a class."""
    if spec.close_local is not None:
        return new_york_ns(sessions, spec.close_local)
    if spec.bar == "1h":
        return np.asarray(new_york_ns(sessions[-1:], "16:00")[0] - np.arange(cfg.num_hourly_bars)[::-1] * NS_PER_HOUR, dtype=np.int64)
    days = np.arange(sessions[0], sessions[-1] + np.timedelta64(1, "D"))
    # a forex day closes at the next midnight UTC; there is none on Saturday
    return np.asarray((days[np.is_busday(days, "1111101")] + np.timedelta64(1, "D")).astype("datetime64[ns]").astype(np.int64))


def _ar1(shocks: Float64Array, phi: float) -> Float64Array:
    """AR(1) of unit variance along time, started in its stationary law."""
    scaled = shocks * np.sqrt(1 - phi * phi)
    scaled[0] = shocks[0]
    return np.asarray(lfilter([1.0], [1.0, -phi], scaled, axis=0))


def _simulate(spec: _Spec, cfg: SyntheticConfig, ts_ns: Int64Array, shared_T: Float64Array, rng: np.random.Generator) -> _Paths:
    num, T = _count(cfg, spec), ts_ns.size
    own = rng.standard_normal(T)
    factor_T = 0.8 * shared_T + 0.6 * own if shared_T.any() else own
    phi = _VOL_AR[spec.bar]
    common_T = _ar1(-0.6 * factor_T + 0.8 * rng.standard_normal(T), phi)
    level_N = spec.vol_bar * np.exp(0.25 * rng.standard_normal(num))
    sigma_TN = level_N * np.exp(0.22 * common_T[:, None] + 0.15 * _ar1(rng.standard_normal((T, num)), phi))
    noise_TN = rng.standard_t(8, (T, num)) / np.sqrt(8 / 6)
    noise_TN *= np.where(rng.random((T, num)) < cfg.jump_frac, 5.0, 1.0) / np.sqrt(1 + 24 * cfg.jump_frac)
    beta_N = rng.uniform(0.4, 0.75, num)
    eps_TN = beta_N * factor_T[:, None] + np.sqrt(1 - beta_N**2) * noise_TN
    alpha_TNK = _ar1(rng.standard_normal((T, num, 2)), _ALPHA_AR)
    signal_TN = _WEIGHTS[0] * alpha_TNK[..., 0]
    signal_TN[_LAG_BARS:] += _WEIGHTS[1] * alpha_TNK[:-_LAG_BARS, :, 1]
    ic = cfg.planted_ic or 0.0
    ret_TN = np.zeros((T, num))
    ret_TN[1:] = sigma_TN[:-1] * (ic * signal_TN[:-1] + np.sqrt(1 - ic * ic) * eps_TN[1:])
    present_TN, split_TN, dividend_TN = _presence(spec, cfg, T, rng)
    factor_TN = np.cumprod(split_TN / (1 - dividend_TN), axis=0)
    return _Paths(
        spec=spec, symbols=tuple(spec.name.format(i) for i in range(num)), ts_ns_T=ts_ns, ret_TN=ret_TN, sigma_TN=sigma_TN,
        signal_TN=signal_TN, alpha_TNK=alpha_TNK, present_TN=present_TN, split_TN=split_TN, dividend_TN=dividend_TN,
        raw_TN=spec.price * np.exp(0.5 * rng.standard_normal(num) + np.cumsum(ret_TN, axis=0)) / factor_TN,
    )  # fmt: skip


def _presence(spec: _Spec, cfg: SyntheticConfig, T: int, rng: np.random.Generator) -> tuple[BoolArray, Float64Array, Float64Array]:
    """Which bars exist, split ratios (1 where none) and dividend yields (0 where none), each (T, N)."""
    num = _count(cfg, spec)
    t_T1, i_N = np.arange(T)[:, None], np.arange(num)
    listed_TN = np.ones((T, num), dtype=np.bool_)
    if cfg.gap_frac > 0:
        listed_TN &= (t_T1 >= int(0.3 * T)) | (i_N % 8 != 3)
        listed_TN &= (t_T1 < int(0.8 * T)) | (i_N % 8 != 5)
    present_TN = listed_TN & (rng.random((T, num)) >= cfg.gap_frac)
    split_TN, dividend_TN = np.ones((T, num)), np.zeros((T, num))
    split_t_N = rng.integers(int(0.35 * T), int(0.75 * T), num)
    phase_N = rng.integers(0, _DIVIDEND_BARS, num)
    if spec.asset_class == "equity":
        known_TN = listed_TN & np.vstack([np.zeros((1, num), dtype=np.bool_), listed_TN[:-1]])
        split_TN[(t_T1 == split_t_N) & (i_N % 4 == 1) & known_TN] = 2.0
        dividend_TN[((t_T1 + phase_N) % _DIVIDEND_BARS == 0) & (i_N % 2 == 0) & known_TN] = _DIVIDEND_YIELD
        acts_TN = (split_TN != 1) | (dividend_TN > 0)
        present_TN |= acts_TN
        present_TN[:-1] |= acts_TN[1:]
    return present_TN, split_TN, dividend_TN


def _bars(p: _Paths, cfg: SyntheticConfig) -> pl.DataFrame:
    """Quoted bars around the closes; prices to six decimals, so that the order of low, open, close, high stays."""
    rng, (T, num) = np.random.default_rng([cfg.seed, 50 + _SPECS.index(p.spec)]), p.raw_TN.shape
    before_TN = p.raw_TN * np.exp(-p.ret_TN)
    overnight_TN = 0.3 * p.ret_TN + 0.25 * p.sigma_TN * rng.standard_normal((T, num)) if p.spec.bar == "1d" else 0.05 * p.ret_TN
    close_TN = np.round(p.raw_TN, 6)
    open_TN = np.round(before_TN * np.exp(overnight_TN), 6)
    reach_TN = 0.4 * p.sigma_TN * np.abs(rng.standard_normal((2, T, num)))
    high_TN = np.round(np.maximum(open_TN, close_TN) * np.exp(reach_TN[0]), 6)
    low_TN = np.round(np.minimum(open_TN, close_TN) * np.exp(-reach_TN[1]), 6)
    frame = {"open": open_TN, "high": high_TN, "low": low_TN, "close": close_TN}
    if p.spec.notional_ccy > 0:
        activity_TN = 0.4 * _ar1(rng.standard_normal((T, num)), 0.7) + 0.3 * np.abs(p.ret_TN / p.sigma_TN)
        vwap_TN = np.round((high_TN + low_TN + close_TN) / 3, 6)
        volume_TN = np.round(p.spec.notional_ccy * np.exp(0.5 * rng.standard_normal(num) + activity_TN) / p.raw_TN, 2)
        frame |= {"volume": volume_TN, "vwap": vwap_TN, "turnover": np.round(vwap_TN * volume_TN, 2)}
    return long_rows(p.ts_ns_T, p.symbols, p.present_TN, frame)


def _indicators(p: _Paths, cfg: SyntheticConfig) -> pl.DataFrame:
    """Indicators at every bar: the spread in basis points and, where planted, alpha_1 and alpha_2."""
    values = {"spread_bps": np.round(2.0 + 100 * p.sigma_TN, 4)}
    if cfg.planted_ic is not None:
        values |= {"alpha_1": p.alpha_TNK[..., 0], "alpha_2": p.alpha_TNK[..., 1]}
    rows = long_rows(p.ts_ns_T, p.symbols, p.present_TN, values)
    return rows.unpivot(index=["ts_ns", "symbol"], variable_name="name", value_name="value")


def _volatility_index(cfg: SyntheticConfig, sessions: Days, classes: list[_Paths]) -> pl.DataFrame:
    """Closes only: 100 x annualised mean volatility of the first daily class, or a slow wave where there is none, with noise."""
    rng, num = np.random.default_rng([cfg.seed, 90]), cfg.num_volatility_index
    wave_T = 0.012 * np.exp(0.3 * _ar1(rng.standard_normal(sessions.size), 0.98))
    level_T = next((p.sigma_TN.mean(axis=1) for p in classes if p.spec.calendar == "XNYS"), wave_T) * 100 * np.sqrt(252)
    close_TN = np.round(level_T[:, None] * np.exp(0.05 * _ar1(rng.standard_normal((sessions.size, num)), 0.9)), 2)
    symbols = [_SPECS[-1].name.format(i) for i in range(num)]
    return long_rows(new_york_ns(sessions, "16:15"), symbols, close_TN > 0, {"close": close_TN})


def _assets(cfg: SyntheticConfig, planted: dict[str, dict[str, object]]) -> pl.DataFrame:
    rows: list[dict[str, object]] = []
    for spec in _SPECS:
        facts: dict[str, object] = {"asset_class": spec.asset_class, "bar": spec.bar, "calendar": spec.calendar, "source": "synthetic"}
        facts["price_adjustment"] = "split+dividend" if spec.asset_class == "etf" else "none"
        facts |= {"close_local": spec.close_local, "timezone": NEW_YORK} if spec.close_local else {"timezone": "UTC"}
        facts |= {"planted": planted[spec.asset_class]} if spec.asset_class in planted else {}
        common = {"currency": "USD", "exchange": "SYNTHETIC", "metadata": json.dumps(facts, sort_keys=True)}
        for i in range(_count(cfg, spec)):
            sector = ("Technology", "Financials", "Energy")[i % 3] if spec.asset_class == "equity" else None
            rows.append({"asset_id": len(rows) + 1, "symbol": spec.name.format(i), "sector": sector, **common})
    return pl.DataFrame(rows, schema_overrides={"sector": pl.String})


def _side_tables(cfg: SyntheticConfig, sessions: Days, classes: list[_Paths]) -> dict[str, pl.DataFrame]:
    """Everything beside assets, series and indicators."""
    rng = np.random.default_rng([cfg.seed, 91])
    rates_TN = np.round(np.array([2.0, 3.0]) + 0.5 * _ar1(rng.standard_normal((sessions.size, 2)), 0.999), 4)
    months = np.unique(sessions.astype("datetime64[M]"), return_index=True)[1]
    cpi = np.round(240 * np.exp(np.cumsum(0.002 + 0.002 * rng.standard_normal(months.size))), 3)
    tables = {
        "macro_rates": long_rows(new_york_ns(sessions, "18:00"), ("UST_3MONTH", "UST_10YEAR"), rates_TN > -np.inf, {"value": rates_TN})
        .rename({"symbol": "name"}).with_columns(unit=pl.lit("percent")),
        "macro_calendar": pl.DataFrame({"ts_ns": new_york_ns(sessions[months], "08:30"), "actual": cpi})
        .with_columns(event=pl.lit("CPI"), region=pl.lit("US"), previous=pl.col("actual").shift(1), unit=pl.lit("index"))
        .with_columns(time_kind=pl.lit("release"), impact=pl.lit(2.0), source=pl.lit("synthetic")),
    }  # fmt: skip
    for p in classes:
        if p.spec.asset_class == "crypto_perpetual":
            rate_TN = np.round(1e-4 + 1e-4 * _ar1(rng.standard_normal(p.raw_TN.shape), 0.99), 8)
            events_TN = ((p.ts_ns_T // NS_PER_HOUR) % 8 == 0)[:, None] & np.ones_like(p.present_TN)
            funding = long_rows(p.ts_ns_T, p.symbols, events_TN, {"rate": rate_TN})
            tables["funding_rates"] = funding.with_columns(interval_hours=pl.lit(8.0), venue=pl.lit("synthetic"))
        if p.spec.asset_class == "equity":
            implied_T = np.round(p.sigma_TN.mean(axis=1) * np.sqrt(252) * np.exp(0.05 * rng.standard_normal(sessions.size)), 6)
            tables["options_implied_vol"] = pl.DataFrame({"ts_ns": p.ts_ns_T, "iv_30d": implied_T}).with_columns(symbol=pl.lit(_INDEX))
            tables["corporate_actions"] = _corporate_actions(p, sessions)
    return tables | (_benchmark_and_trades(classes[0], rng) if classes else {})


def _corporate_actions(p: _Paths, sessions: Days) -> pl.DataFrame:
    """Actions at the open of the ex-date; a dividend is a share of the close before, a split ratio is new shares per old."""
    open_ns = new_york_ns(sessions, "09:30")
    amount_TN = p.dividend_TN * np.vstack([p.raw_TN[:1], p.raw_TN[:-1]])
    dividends = long_rows(open_ns, p.symbols, p.dividend_TN > 0, {"amount": amount_TN}).with_columns(action=pl.lit("dividend"))
    splits = long_rows(open_ns, p.symbols, p.split_TN != 1, {"ratio": p.split_TN}).with_columns(action=pl.lit("split"))
    return pl.concat([dividends, splits], how="diagonal").with_columns(currency=pl.lit("USD"), source=pl.lit("synthetic"))


def _benchmark_and_trades(p: _Paths, rng: np.random.Generator) -> dict[str, pl.DataFrame]:
    """An equally weighted index of a class, and forty trades at closes."""
    simple_T = np.expm1(p.ret_TN).mean(axis=1)
    level_T = 1000 * np.cumprod(1 + simple_T)
    simple_T[0] = np.nan  # no return before the first level
    bench = pl.DataFrame({"ts_ns": p.ts_ns_T, "return": simple_T, "level": level_T})
    held_TN = np.zeros_like(p.present_TN)
    held_TN.flat[rng.choice(held_TN.size, size=min(40, held_TN.size), replace=False)] = True
    trades = long_rows(p.ts_ns_T, p.symbols, held_TN & p.present_TN, {"price": np.round(p.raw_TN, 6)})
    trades = trades.with_columns(
        trade_id=pl.int_range(1, (num := trades.height) + 1), side=pl.Series(("long", "short", "flat")).gather(rng.integers(0, 3, num)),
        size=pl.Series(rng.integers(1, 100, num) * 1.0), slippage_bp=pl.Series(np.round(rng.exponential(2.0, num), 3)),
    ).with_columns(fees=(pl.col("price") * pl.col("size") * 5e-5).round(6))  # fmt: skip
    return {"benchmarks": bench.with_columns(symbol=pl.lit(_INDEX)), "trades": trades}


def _planted(p: _Paths, ic: float) -> dict[str, object]:
    """The optimum beside the world: pooled information coefficients of the best forecast, in this panel and in the law.

    `bayes_ic` scales returns by sigma, `bayes_ic_ewma` by a causal EWMA of squared returns, the forecast alike; `by_horizon` is the law's.
    """
    sure_TN = p.present_TN[1:] & p.present_TN[:-1]
    sure_TN[: 3 * _EWMA_HALFLIFE_BARS] = False
    decay = 0.5 ** (1 / _EWMA_HALFLIFE_BARS)
    ewma_TN = np.sqrt(lfilter([1 - decay], [1.0, -decay], p.ret_TN**2, axis=0) + 1e-16)
    scale = {"bayes_ic": p.sigma_TN, "bayes_ic_ewma": ewma_TN}
    pairs = {k: (p.signal_TN * p.sigma_TN / v)[:-1][sure_TN] for k, v in scale.items()}
    found = {k: np.corrcoef(pairs[k], (p.ret_TN[1:] / v[:-1])[sure_TN])[0, 1] for k, v in scale.items()}
    return {
        **{name: round(float(value), 6) for name, value in found.items()},
        "by_horizon": {str(h): round(planted_ic_at(ic, h), 6) for h in _HORIZONS},
        "components": [dict(zip(("indicator", "lag_bars", "weight"), row, strict=True)) for row in _COMPONENTS],
        "ic": ic,
        "num_samples": int(sure_TN.sum()),
    }


def planted_ic_at(ic: float, horizon_bars: int) -> float:
    """Information coefficient of the best forecast of the sum of the next `horizon_bars` y, at constant volatility."""
    law = _ALPHA_AR ** np.abs(np.subtract.outer(np.arange(horizon_bars + 3), np.arange(horizon_bars + 3)))
    total = ic**2 * float(law[:horizon_bars, :horizon_bars].sum()) + (1 - ic**2) * horizon_bars
    # alpha_1 is known once; alpha_2 enters with two published values, then with what the last one foretells of the rest
    sums = np.concatenate([[0.0], np.cumsum(_ALPHA_AR ** np.arange(horizon_bars))])
    weight_3 = np.array([1.0, float(horizon_bars > 1), sums[max(horizon_bars - _LAG_BARS, 0)]])
    told = (_WEIGHTS[0] * sums[horizon_bars]) ** 2 + _WEIGHTS[1] ** 2 * float(weight_3 @ law[:3, :3] @ weight_3)
    return ic * float(np.sqrt(told / total))
