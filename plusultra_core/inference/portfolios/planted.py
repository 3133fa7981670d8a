"""A market whose best rule is known: what predicts the returns is given, reverts, and trading costs the square of what is traded."""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from plusultra_core.arrays import Float64Array
from plusultra_core.clock import NS_PER_DAY
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.inference.portfolios.aim import AimRule, aim_rule
from plusultra_core.inference.strategies import LEVELS, Setting
from plusultra_core.market import CostsConfig, MarginConfig
from plusultra_core.simulation.engine import SimulationConfig
from plusultra_core.simulation.ledger import Ledger
from plusultra_core.simulation.market import plain_terms
from plusultra_core.simulation.records import MarketArrays

SIGMA = 0.001
"""Of a bar's return: small, so that equity and weights stay what they are while prices move."""
DECAY_K = (0.3, 0.05)
DEVIATION_K = (0.4, 0.2)
"""Of each predictor at rest, in units of SIGMA."""
REACH = 0.001
"""Weight at which the risk of an asset is charged as much as a predictor of one SIGMA brings: small, so that equity stays what it is."""
COST = 10.0
"""Cost of the square of what is traded, in units of the risk charge of the square of what is held."""
_CAPITAL = 1e9


class Planted(NamedTuple):
    """The market and its rules, the predictors of the next bar, a forecast that knows them, and the optimal rule of each asset."""

    setting: Setting
    predictor_TAK: Float64Array
    """In returns; row t is known at the close of bar t and says what the next bar is expected to bring."""
    quantiles_TAQ: Float64Array
    """Of the return of the next bar, in volatilities."""
    rules: list[AimRule]
    myopic: list[AimRule]
    """What is best for the next bar alone."""
    risk_aversion: float


def planted_market(num_bars: int, num_assets: int, seed: int) -> Planted:
    """Independent assets; each next return is the sum of two predictors that revert at different speeds, and noise.

    Through the execution kernel itself: impact is linear in what is traded, so that its cost is quadratic; no spread, fee, latency or cap.
    Source  Garleanu, Pedersen 2013, J. Finance 68(6), section II.
    """
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))
    keep_K, shape = 1.0 - np.array(DECAY_K), (num_bars, num_assets)
    deviation_K = SIGMA * np.array(DEVIATION_K)
    predictor_TAK = np.empty((*shape, keep_K.size))
    predictor_TAK[0] = rng.normal(size=(num_assets, keep_K.size)) * deviation_K
    for t in range(1, num_bars):
        shock_AK = rng.normal(size=(num_assets, keep_K.size)) * deviation_K * np.sqrt(1.0 - keep_K**2)
        predictor_TAK[t] = keep_K * predictor_TAK[t - 1] + shock_AK
    expected_TA = predictor_TAK.sum(axis=2)
    ret_TA = np.vstack((np.zeros((1, num_assets)), expected_TA[:-1] + SIGMA * rng.normal(size=(num_bars - 1, num_assets))))
    close_TA = np.asarray(100.0 * np.cumprod(1.0 + ret_TA, axis=0), dtype=np.float64)
    risk_aversion = 1.0 / (REACH * SIGMA)
    risk = risk_aversion * SIGMA**2
    depth_ccy = 2.0 * SIGMA * _CAPITAL / (COST * risk)  # impact SIGMA q / depth: half of COST x risk x (change of weight)^2
    quantiles_TAQ = (expected_TA / SIGMA)[:, :, None] + ndtri(np.array(LEVELS))
    rules = [aim_rule(np.array(DECAY_K), risk, COST * risk, 1.0)] * num_assets
    myopic = [AimRule(1.0 / (1.0 + COST), np.full(keep_K.size, 1.0 / risk))] * num_assets
    return Planted(_setting(close_TA, depth_ccy), predictor_TAK, quantiles_TAQ, rules, myopic, risk_aversion)


def utility(planted: Planted, ledger: Ledger) -> Float64Array:
    """What each bar was worth by what is known of it: expected gain less the charge of risk and what was paid, parts of equity.

    Shapes  result (S,), one for each step of the ledger.
    """
    steps, first = ledger.steps, ledger.start
    opening_S1 = ledger.equity[:-1, None]
    close_SA = planted.setting.market.close[first : first + len(steps.position)]
    weight_SA = steps.position * close_SA / opening_S1  # at the close of the decision
    expected_SA = planted.predictor_TAK[first : first + len(steps.position)].sum(axis=2)
    paid_S = (steps.spread + steps.impact + steps.fees + steps.borrow).sum(axis=1) / ledger.equity[:-1]
    charge_SA = 0.5 * planted.risk_aversion * (SIGMA * weight_SA) ** 2
    worth: Float64Array = (weight_SA * expected_SA - charge_SA).sum(axis=1) - paid_S
    return worth


def _setting(close_TA: Float64Array, depth_ccy: float) -> Setting:
    shape = close_TA.shape
    ts_ns_T = NS_PER_DAY * np.arange(shape[0], dtype=np.int64)
    opened_TA = np.vstack((close_TA[:1], close_TA[:-1]))
    market = MarketArrays(
        ts_ns=ts_ns_T,
        open=opened_TA,
        high=np.maximum(opened_TA, close_TA),
        low=np.minimum(opened_TA, close_TA),
        close=close_TA,
        volume=np.full(shape, 1e12),
        funding=np.zeros(shape),
        sigma=np.full(shape, SIGMA),
        adv_ccy=np.full(shape, depth_ccy),
        half_spread_bps=np.zeros(shape),
        tradable=np.ones(shape, dtype=np.bool_),
        proxy=np.zeros(shape, dtype=np.int8),
        **plain_terms(ts_ns_T, shape[1]),
    )
    simulation = SimulationConfig(
        initial_capital_ccy=_CAPITAL, latency_ms=(0.0,), latency_prob=(1.0,), participation=1.0, time_in_force="gtc", order_type="market",
        limit_offset_bps=0.0, maker_fee_factor=1.0, permanent_coef=0.0, permanent_decay_frac=0.0, min_order_ccy=1.0, retarget_frac=0.0,
        adv_bars=1, fallback_sigma=SIGMA, seed=0,
    )  # fmt: skip
    lent = MarginConfig(
        account="margin", max_leverage=10.0, maintenance_margin=0.0, liquidation_penalty_bps=0.0, shorts=True, reserve_frac=0.0
    )
    costs = CostsConfig(
        fee_bps=0.0, fee_min_ccy=0.0, half_spread_bps=0.0, impact_coef=1.0, impact_exponent=1.0, borrow_bps_year=0.0, funding=False,
        margin=lent,
    )  # fmt: skip
    free = GuardrailsConfig(
        max_weight=1.0, max_gross=10.0, max_net=10.0, max_participation=math.inf,
        reduce_drawdown=1.0, resume_drawdown=1.0, halt_drawdown=1.0,
    )  # fmt: skip
    return Setting(market, NS_PER_DAY, simulation, costs, free)
