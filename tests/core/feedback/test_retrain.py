"""Transitions balance with the ledger; the rule to retrain is written down and failure shows as failure."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.config import load
from plusultra_core.errors import ConfigError
from plusultra_core.feedback.annotations import FeedbackConfig
from plusultra_core.feedback.outcomes import read_trace
from plusultra_core.feedback.retrain import (
    DATASET,
    RetrainConfig,
    RetrainFacts,
    build_transitions,
    publish_transitions,
    should_retrain,
)

VETOES = pl.DataFrame(
    [("policy", "A", 200, 900)],
    schema={"strategy": pl.String, "symbol": pl.String, "decision_ns": pl.Int64, "veto_known_ns": pl.Int64},
    orient="row",
)
CFG = RetrainConfig(min_new_bars=20, min_new_vetoes=5, max_age_days=90.0, cooldown_days=5.0, max_failures=3, asset_classes=("equity",))
QUIET = RetrainFacts(
    now_ns=100 * NS_PER_DAY,
    trained_ns=50 * NS_PER_DAY,
    attempted_ns=50 * NS_PER_DAY,
    num_failures=0,
    num_new_bars=50,
    num_new_vetoes=0,
    drift_alarm=False,
)
Publish = Callable[[dict[str, pl.DataFrame]], Path]


def test_rewards_add_up_to_the_account_after_all_costs(ledger: dict[str, pl.DataFrame], publish_ledger: Publish) -> None:
    rows = build_transitions(read_trace(publish_ledger(ledger)), VETOES)
    account = ledger["account"].filter(strategy="policy").sort("ts_ns")["equity"]
    assert rows.filter(strategy="policy")["reward_ccy"].sum() == pytest.approx(account[-1] - account[0])
    first = rows.row(by_predicate=(pl.col("strategy") == "policy") & (pl.col("symbol") == "A") & (pl.col("decision_ns") == 100), named=True)
    assert (first["reward"], first["reward_ccy"], first["action"], first["next_ns"]) == (9.0 / 1000.0, 9.0, 0.5, 200)


def test_the_observation_knows_the_weight_before_the_decision_and_not_the_one_after(
    ledger: dict[str, pl.DataFrame], publish_ledger: Publish
) -> None:
    rows = build_transitions(read_trace(publish_ledger(ledger)), VETOES).filter(strategy="policy")
    assert rows.filter(symbol="A")["weight_before"].to_list() == [0.0, 0.5, 0.5, 0.5, 0.0]
    assert rows.filter(symbol="B")["weight_before"].to_list() == [0.0, 0.0, -0.2, 0.0, 0.0]


def test_every_symbol_has_a_row_at_every_decision_and_the_last_is_done(ledger: dict[str, pl.DataFrame], publish_ledger: Publish) -> None:
    rows = build_transitions(read_trace(publish_ledger(ledger)), VETOES)
    assert len(rows) == 2 * 2 * 5
    assert rows.filter("done")["next_ns"].to_list() == [600] * 4
    assert rows.filter(~pl.col("recorded"))["reward"].abs().sum() == 0.0
    assert rows.filter("recorded").height == len(ledger["positions"])


def test_an_account_that_lost_more_than_it_had_ends_where_it_did_and_takes_no_other_with_it(
    ledger: dict[str, pl.DataFrame], publish_ledger: Publish
) -> None:
    """A gap may leave a margined account with a debt: what it did until then is told, and no step of nobody's money."""
    fell = (pl.col("symbol") == "A") & (pl.col("ts_ns") == 400)
    positions = ledger["positions"].with_columns(price_pnl=pl.when(fell).then(-1500.0).otherwise("price_pnl"))
    after = (pl.col("strategy") == "policy") & (pl.col("ts_ns") >= 400)
    account = ledger["account"].with_columns(equity=pl.when(after).then(pl.col("equity") - 1506.0).otherwise("equity"))
    rows = build_transitions(read_trace(publish_ledger({**ledger, "positions": positions, "account": account})), VETOES)
    policy = rows.filter(strategy="policy", symbol="A")
    assert policy["decision_ns"].to_list() == [100, 200, 300]
    assert policy["done"].to_list() == [False, False, True]
    assert policy["reward_ccy"].to_list() == [9.0, -4.0, -1500.0]
    assert rows.filter(strategy="no_trade").height == 2 * 5
    assert rows["equity_before"].min() > 0.0


def test_a_veto_marks_its_decision_and_no_other(ledger: dict[str, pl.DataFrame], publish_ledger: Publish) -> None:
    rows = build_transitions(read_trace(publish_ledger(ledger)), VETOES)
    assert rows.filter("veto").select("strategy", "symbol", "decision_ns", "veto_known_ns").rows() == [("policy", "A", 200, 900)]


def test_where_no_target_passed_the_action_is_to_keep(ledger: dict[str, pl.DataFrame], publish_ledger: Publish) -> None:
    at_300 = (pl.col("symbol") == "A") & (pl.col("ts_ns") == 300)
    held = ledger["positions"].with_columns(target_weight=pl.when(at_300).then(float("nan")).otherwise("target_weight"))
    rows = build_transitions(read_trace(publish_ledger({**ledger, "positions": held})), VETOES)
    assert rows.filter(strategy="policy", symbol="A", decision_ns=200)["action"].item() == 0.5


def test_equal_ledgers_give_equal_bytes(ledger: dict[str, pl.DataFrame], publish_ledger: Publish, tmp_path: Path) -> None:
    trace = read_trace(publish_ledger(ledger))
    one, two = (publish_transitions(build_transitions(trace, VETOES), tmp_path / name, "k", {"trace": trace.sha256}) for name in ("a", "b"))
    assert one.sha256 == two.sha256
    assert pl.read_parquet(one.path / DATASET).equals(build_transitions(trace, VETOES))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, False),
        ({"drift_alarm": True}, True),
        ({"num_new_vetoes": 5}, True),
        ({"trained_ns": 9 * NS_PER_DAY}, True),
        ({"trained_ns": None, "attempted_ns": None}, True),
        ({"drift_alarm": True, "num_new_bars": 19}, False),
        ({"drift_alarm": True, "attempted_ns": 96 * NS_PER_DAY}, False),
        ({"drift_alarm": True, "num_failures": 3}, False),
    ],
)
def test_the_rule_is_what_is_written(change: dict[str, object], expected: bool) -> None:
    assert should_retrain(replace(QUIET, **change), CFG).retrain is expected  # type: ignore[arg-type]


def test_a_failure_is_not_a_training(root: Path) -> None:
    """An attempt that failed leaves the model as old as it was, and after three a person is named as the block."""
    failed = replace(QUIET, trained_ns=0, attempted_ns=90 * NS_PER_DAY, num_failures=1)
    assert should_retrain(failed, CFG).reasons == ("model_too_old",)
    assert should_retrain(failed, CFG).retrain
    assert should_retrain(replace(failed, num_failures=3), CFG).blocks == ("failed_too_often",)
    for profile in ("smoke", "base", "gpu24", "h200"):
        assert load(FeedbackConfig, root / f"configs/{profile}/feedback.yaml").retrain.max_failures >= 1


def test_a_cooldown_longer_than_the_age_is_refused() -> None:
    with pytest.raises(ConfigError, match="cooldown_days"):
        replace(CFG, cooldown_days=91.0)
