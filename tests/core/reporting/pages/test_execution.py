"""The execution trace: complete, offline, the same bytes, the ledger's own numbers, and deaf to what symbols say."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from plotly.offline import get_plotlyjs

from plusultra_core.errors import ConfigError
from plusultra_core.evaluation.execution.orders import filled_bars
from plusultra_core.evaluation.execution.sheet import Tape, build_execution, load_tape
from plusultra_core.reporting.pages.blocks import ExecutionPageConfig
from plusultra_core.reporting.pages.execution import HTML, headline, ordered, render_execution, sentences
from plusultra_core.reporting.tables import money, number

TERMS = ("price_pnl", "spread", "impact", "latency_drift", "fees", "funding", "borrow")


def render(tape: Tape, folder: Path, cfg: ExecutionPageConfig, links: tuple[tuple[str, str], ...] = ()) -> str:
    folder.mkdir(exist_ok=True)
    render_execution(tape, build_execution(tape, cfg.max_rows), "equity", "demo-1234", "USD", folder, cfg, links)
    return (folder / HTML).read_text()


@pytest.fixture(scope="module")
def page(tape: Tape, page_cfg: ExecutionPageConfig, tmp_path_factory: pytest.TempPathFactory) -> str:
    return render(tape, tmp_path_factory.mktemp("page"), page_cfg)


def figures(text: str) -> dict[str, Any]:
    return {name: json.loads(found) for name, found in re.findall(r'data-for="figure-([\w-]+)">(.*?)</script>', text)}


def values(array: Any) -> np.ndarray:
    return np.frombuffer(base64.b64decode(array["bdata"]), dtype="<f4") if isinstance(array, dict) else np.array(array, np.float32)


def test_page_is_complete_and_asks_nobody_for_anything(page: str) -> None:
    rest = page.replace(get_plotlyjs(), "")
    assert page.count(get_plotlyjs()) == 1 and "default-src 'none'" in page
    assert all(href.startswith("#") for href in re.findall(r'href="([^"]*)"', rest))
    assert not re.search(r"\ssrc=|url\(|@import|<link", rest)
    ids = re.findall(r'\sid="([^"]+)"', rest)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', rest)) <= set(ids)
    assert (
        set(re.findall(r'data-part="([^"]+)"', rest))
        == {"policy", "sized_hybrid", "no_trade"}
        == set(re.findall(r'data-door="([^"]+)"', rest))
    )
    for section in ("account", "fills", "costs", "shortfall", "orders", "worst"):
        assert f"policy-{section}" in ids
    assert len(rest) < 8_000_000


def test_equal_tapes_give_equal_bytes(tape: Tape, page: str, page_cfg: ExecutionPageConfig, tmp_path: Path) -> None:
    assert render(tape, tmp_path, page_cfg) == page
    assert str(tmp_path) not in page


def test_the_waterfalls_draw_the_sums_of_the_ledger(tape: Tape, page: str) -> None:
    drawn = figures(page)
    account = tape.trace.account.filter(pl.col("strategy") == "policy")
    sums = [account[term].sum() for term in TERMS]
    net = account.sort("ts_ns")["equity"][-1] - 1e6
    assert values(drawn["policy-waterfall"]["data"][0]["y"]) == pytest.approx(
        [sums[0], *(-cost for cost in sums[1:]), net], rel=1e-6, abs=1e-3
    )
    orders = tape.trace.orders.filter((pl.col("strategy") == "policy") & (pl.col("status") != "rejected"))
    parts = [-orders[part].sum() for part in ("delay", "waiting", "spread", "impact", "fees", "opportunity")]
    assert values(drawn["policy-shortfall-parts"]["data"][0]["y"]) == pytest.approx([*parts, sum(parts)], rel=1e-5, abs=1e-2)
    assert f'<td class="number">{money(net)}</td>' in page or f'<td class="number">{number(net)}</td>' in page


def test_every_fill_stands_at_its_price_and_tells_its_whole_story(tape: Tape, page: str) -> None:
    fills = filled_bars(tape.executions).filter((pl.col("strategy") == "policy") & (pl.col("symbol") == "AAA"))
    name = next(name for name, found in figures(page).items() if name.startswith("policy-fills-") and _title(page, name).startswith("AAA:"))
    data = {trace["name"]: trace for trace in figures(page)[name]["data"]}
    assert fills.height <= 60
    for side in ("buy", "sell"):
        own = fills.filter(pl.col("side") == side).sort("ts_ns")
        assert values(data[side]["y"]) == pytest.approx(own["price"].to_numpy(), rel=1e-6)
        for note, row in zip(data[side]["text"], own.iter_rows(named=True), strict=True):
            order = tape.trace.orders.filter((pl.col("strategy") == "policy") & (pl.col("order_id") == row["order_id"])).row(0, named=True)
            assert note.startswith(f"order {row['order_id']}: {side} {number(row['qty_filled'], 4)} of {number(row['qty_left'], 4)} at ")
            assert f"at {number(order['decision_price'], 4)}<br>in the market" in note
            costs = ", ".join(f"{part} {number(row[part])}" for part in ("delay", "waiting", "spread", "impact", "fees"))
            assert f"lost to {costs}" in note and f"left as {row['status']}" in note
    held = tape.trace.positions.filter((pl.col("strategy") == "policy") & (pl.col("symbol") == "AAA")).sort("ts_ns")
    assert values(data["position"]["y"])[-1] == pytest.approx(held["position"][-1])
    bars = tape.market.filter(pl.col("symbol") == "AAA").sort("ts_ns")
    assert values(data["price"]["y" if "y" in data["price"] else "close"]) == pytest.approx(
        bars["close"].to_numpy()[-len(data["price"]["x"]) :], rel=1e-6
    )


def _title(page: str, name: str) -> str:
    found = re.search(rf'<figcaption>([^<]*)</figcaption>\s*<div id="figure-{name}"', page)
    assert found
    return found.group(1)


def test_a_hostile_symbol_is_shown_and_never_obeyed(page: str) -> None:
    rest = page.replace(get_plotlyjs(), "")
    assert "<b>D" not in rest and "&lt;b&gt;D&amp;D&lt;/b&gt;" in rest


def test_of_too_many_fills_the_largest_are_drawn_and_of_too_many_bars_a_line(tape: Tape, tmp_path: Path) -> None:
    text = render(tape, tmp_path, ExecutionPageConfig(max_points=50, max_symbols=1, max_fills=10, max_rows=5))
    (drawn,) = [found for name, found in figures(text).items() if name == "policy-fills-0"]
    data = {trace["name"]: trace for trace in drawn["data"]}
    assert "policy-fills-1" not in figures(text)
    assert len(data["buy"]["x"]) + len(data["sell"]["x"]) == 10
    symbol = _title(text, "policy-fills-0").split(":")[0]
    fills = filled_bars(tape.executions).filter((pl.col("strategy") == "policy") & (pl.col("symbol") == symbol))
    largest = fills.sort("notional_ccy", descending=True).head(10)
    assert sorted([*values(data["buy"]["y"]), *values(data["sell"]["y"])]) == pytest.approx(sorted(largest["price"]), rel=1e-6)
    assert f"{symbol}: {fills.height - 10} smaller fills are not drawn." in text
    assert data["price"]["type"] == "scatter" and len(data["price"]["x"]) <= 50


def test_tables_cut_short_still_add_up(tape: Tape, page: str, page_cfg: ExecutionPageConfig, tmp_path: Path) -> None:
    short = render(tape, tmp_path, ExecutionPageConfig(max_points=200, max_symbols=1, max_fills=60, max_rows=5))
    table = re.search(r"<caption>Where the money went, USD</caption>.*?</table>", short, re.S)
    assert table
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.S) for row in re.findall(r"<tr.*?</tr>", table.group(0), re.S)[1:]]
    net = [float(row[8].replace("−", "-").replace(",", "")) for row in rows]
    assert rows[0][0] == "all" and net[0] == pytest.approx(sum(net[1:]), abs=0.5 * len(net))


def test_a_world_in_which_nobody_traded_says_so(worlds: Any, page_cfg: ExecutionPageConfig, tmp_path: Path) -> None:
    market = worlds.simulated.make_market(12, 2)
    tape = load_tape(worlds.trace({"no_trade": np.zeros((11, 2))}, market))
    text = render(tape, tmp_path, page_cfg, (("report", "../../report/abc/report.html"),))
    assert "No strategy sent an order" in text and "No trade sent no orders." in text
    assert '<a href="../../report/abc/report.html">report</a>' in text
    assert not re.search(r">\s*(nan|None|inf)\s*<", text.replace(get_plotlyjs(), ""))


def test_of_a_strategy_that_was_refused_everything_the_reasons_are_told(worlds: Any, page_cfg: ExecutionPageConfig, tmp_path: Path) -> None:
    market = worlds.simulated.make_market(12, 2)
    tape = load_tape(
        worlds.trace({"policy": np.full((11, 2), 0.5), "random": np.full((11, 2), 0.1)}, market, most=1e-12, min_order_ccy=1.0)
    )
    text = render(tape, tmp_path, page_cfg)
    assert "Policy sent no orders: whatever it asked for was refused." in text
    assert re.search(r"<td>rejected</td><td>max weight</td>", text)


def test_the_headline_says_who_lost_how_much(tape: Tape) -> None:
    sheet = build_execution(tape, 5)
    row = sheet.strategies.filter(pl.col("strategy") == "policy").row(0, named=True)
    assert f"{number(abs(row['bps']), 1)} bps between decision and fill, on {money(row['asked_ccy'])} asked for" in headline(
        sheet, "policy"
    )
    told = " ".join(sentences(tape, sheet, "policy"))
    assert "leave no rest beyond 1e-9" in told and f"{row['num_orders']} orders of policy" in told


def test_models_come_first_and_what_ran_over_all_spans_last() -> None:
    names = ["buy_and_hold_walk_forward", "zeta", "no_trade", "equal_weight", "sized_hybrid", "policy", "sized_hybrid_walk_forward"]
    assert ordered(names) == [
        "policy", "sized_hybrid", "no_trade", "equal_weight", "zeta", "sized_hybrid_walk_forward", "buy_and_hold_walk_forward",
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["max_points", "max_symbols", "max_fills", "max_rows"])
def test_a_config_that_makes_no_sense_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        ExecutionPageConfig(**{**dict.fromkeys(("max_points", "max_symbols", "max_fills", "max_rows"), 100), key: 0})
