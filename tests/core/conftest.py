"""Fixtures for the learning stations: a panel in memory whose optimum is known."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.windows.folds import FoldsConfig, build_folds
from plusultra_core.windows.panel import Fold, Panel
from plusultra_core.windows.scaling import fit_scaler, rows_of_windows


class Planted(NamedTuple):
    """A panel and the signal in it: the correlation of `signal_NT` with the one-bar target is the Bayes IC."""

    panel: Panel
    signal_NT: np.ndarray[Any, Any]


def _ar1(rng: np.random.Generator, shape: tuple[int, ...], coefficient: float) -> np.ndarray[Any, Any]:
    noise = rng.standard_normal(shape)
    for t in range(1, shape[1]):
        noise[:, t] = coefficient * noise[:, t - 1] + np.sqrt(1 - coefficient**2) * noise[:, t]
    return noise


def make_planted(
    num_assets: int = 4,
    num_times: int = 240,
    num_noise: int = 4,
    ic: float = 0.3,
    lookback: int = 8,
    horizons: tuple[int, ...] = (1, 3),
    folds: FoldsConfig | None = None,
    seed: int = 0,
    shuffle: bool = False,
) -> Planted:
    """y[t+1] = ic * (.8 alpha_1[t] + .6 alpha_2[t-2]) + sqrt(1 - ic^2) eps; `shuffle` permutes the targets among all rows."""
    rng = np.random.default_rng(seed)
    alpha = [_ar1(rng, (num_assets, num_times), 0.5) for _ in range(2)]
    noise = [_ar1(rng, (num_assets, num_times), 0.9) for _ in range(num_noise)]
    signal = 0.8 * alpha[0]
    signal[:, 2:] += 0.6 * alpha[1][:, :-2]
    step = np.full((num_assets, num_times + max(horizons)), np.nan)
    step[:, 1 : num_times + 1] = ic * signal + np.sqrt(1 - ic**2) * rng.standard_normal((num_assets, num_times))
    step[:, num_times:] = np.nan
    sigma = 0.01 * np.exp(0.3 * _ar1(rng, (num_assets, num_times), 0.98))
    y = np.stack([sum(step[:, i : i + num_times] for i in range(1, h + 1)) / np.sqrt(h) for h in horizons], axis=2)
    if shuffle:
        known = np.isfinite(y).all(axis=2)
        y[known] = rng.permutation(y[known])
    end = np.where(np.isfinite(y), np.arange(num_times)[None, :, None] + np.array(horizons), -1).astype(np.int32)
    direction = np.where(np.isfinite(y), np.digitize(np.nan_to_num(y), (-0.3, 0.3)), -1).astype(np.int8)
    close = 100 * np.exp(np.cumsum(np.nan_to_num(step[:, :num_times]) * sigma, axis=1))
    x = np.stack((*alpha, *noise), axis=2).astype(np.float32)
    x[:, :3] = np.nan
    anchor = np.zeros((num_assets, num_times), np.bool_)
    anchor[:, lookback + 2 :] = True
    cut = folds or FoldsConfig(num_folds=2, test_frac=0.3, valid_frac=0.15, embargo_bars=1, min_train_bars=20)
    made = []
    for index, spans in enumerate(build_folds(anchor, end, lookback, cut)):
        center, scale = fit_scaler(x, rows_of_windows(anchor, spans.train, lookback))
        made.append(Fold(index=index, train=spans.train, valid=spans.valid, test=spans.test, center_F=center, scale_F=scale))
    ts = (np.arange(num_times, dtype=np.int64) + 16_000) * NS_PER_DAY
    panel = Panel(
        symbols=tuple(f"S{n:02d}" for n in range(num_assets)),
        currencies=("USD",) * num_assets,
        features=("alpha_1", "alpha_2", *(f"noise_{i}" for i in range(num_noise))),
        tokens=("volatility_state", "liquidity_state"),
        num_states=(4, 4),
        horizons=horizons,
        asset_class="equity",
        bar_ns=NS_PER_DAY,
        periods_per_year=252.0,
        lookback=lookback,
        ts_ns_T=ts,
        known_ns_NT=np.tile(ts, (num_assets, 1)),
        x_NTF=x,
        state_NTS=rng.integers(0, 4, (num_assets, num_times, 2)).astype(np.int8),
        y_NTK=y.astype(np.float32),
        ret_NTK=(y * sigma[..., None] * np.sqrt(horizons)).astype(np.float32),
        direction_NTK=direction,
        label_end_NTK=end,
        weight_NT=np.ones((num_assets, num_times), np.float32),
        sigma_NT=sigma,
        tradable_NT=np.ones((num_assets, num_times), np.bool_),
        anchor_NT=anchor,
        open_NT=close,
        high_NT=close * 1.01,
        low_NT=close * 0.99,
        close_NT=close,
        volume_NT=np.full((num_assets, num_times), 1e6),
        funding_NT=np.zeros((num_assets, num_times)),
        half_spread_bps_NT=np.full((num_assets, num_times), np.nan),
        depth_NT=np.full((num_assets, num_times), np.nan),
        fx_NT=np.ones((num_assets, num_times)),
        folds=tuple(made),
    )
    return Planted(panel, signal)


@pytest.fixture(scope="session")
def planted() -> Callable[..., Planted]:
    """Maker of planted panels; see `make_planted`."""
    return make_planted
