"""The page of factors: complete, self-contained, the same bytes, and honest where nothing was found."""

import dataclasses
import json
import re
from pathlib import Path

import polars as pl
import pytest

from plusultra_core.evaluation.factors import FactorSheet
from plusultra_core.reporting.factors import HTML, build_sections, headline, render_factors, sentences


def sheet(names: tuple[str, ...] = ("alpha", "beta<script>", "gamma"), t: float | None = 4.0) -> FactorSheet:
    rows = [
        {
            "feature": name,
            "coverage": 0.9,
            "symbols_without": 0,
            "num_dates": 200 if t else 3,
            "ic": 0.03 if t else None,
            "ic_se": 0.01 if t else None,
            "rank_ic": (-1) ** i * 0.04 / (i + 1) if t else None,
            "rank_ic_se": 0.01 if t else None,
            "t": (-1) ** i * t / (i + 1) if t else None,
            "p": 0.0001 * 10**i if t else None,
            "q": 0.0003 * 10**i if t else None,
            "discovery": bool(t) and i == 0,
            "spread_bps": 5.0 if t else None,
            "spread_se_bps": 2.0 if t else None,
            "traded_frac": 1.5 if t else None,
            "net_spread_bps": 0.5 if t else None,
            "breakeven_bps": 5 / 1.5 if t else None,
            "rank_autocorr": 0.8 if t else None,
            "years_same_sign": 0.75 if t else None,
        }
        for i, name in enumerate(names)
    ]
    told = list(names) if t else []
    return FactorSheet(
        factors=pl.DataFrame(rows),
        decay=pl.DataFrame({"feature": told * 2, "horizon": [1] * len(told) + [5] * len(told), "rank_ic": [0.03] * 2 * len(told)}),
        states=pl.DataFrame(
            {"feature": told, "column": ["volatility_state"] * len(told), "state": [1] * len(told), "rank_ic": [0.02] * len(told)}
        ),
        quantiles=pl.DataFrame({"feature": told * 2, "quantile": [1] * len(told) + [2] * len(told), "ret_bps": [-1.0] * len(told) * 2}),
        years=pl.DataFrame({"feature": told, "year": [2015] * len(told), "rank_ic": [-0.01] * len(told)}),
        method="cross_sectional",
        primary_horizon=1,
        until_ns=1_500_000_000 * 10**9,
        num_dates=200,
        discovery_rate=0.1,
        cost_bps=3.0,
    )


def test_page_is_complete_and_asks_nobody_for_anything(tmp_path: Path) -> None:
    render_factors(sheet(), "equity", "demo-1234", tmp_path)
    text = (tmp_path / HTML).read_text()
    assert "1 of 3 features judged can be told apart from noise" in text
    assert "the start of the locked window" in text
    page = text.split("<script>")[0]
    assert not re.findall(r"(?:src|href)=[\"']https?:", page)
    drawn = [json.loads(found) for found in re.findall(r'class="plot-data"[^>]*>(.*?)</script>', text)]
    assert len(drawn) == 5
    assert "beta<script>" not in page and "beta&lt;script&gt;" in page


def test_the_same_sheet_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        render_factors(sheet(), "equity", "demo-1234", tmp_path / name)
    assert (tmp_path / "one" / HTML).read_bytes() == (tmp_path / "two" / HTML).read_bytes()


def test_nothing_found_is_said_so() -> None:
    none = dataclasses.replace(sheet(), factors=sheet().factors.with_columns(discovery=pl.lit(False)))
    assert headline(none) == "No feature can be told apart from noise: none of 3 judged"
    assert not any("earned" in line for line in sentences(none))
    unjudged = none.factors.with_columns(t=pl.when(pl.int_range(pl.len()) > 0).then("t"))
    assert headline(dataclasses.replace(none, factors=unjudged)).endswith("none of 2 judged")


def test_what_is_too_good_is_called_a_leak_until_proved_otherwise() -> None:
    assert not any("leak" in line for line in sentences(sheet()))
    wonder = dataclasses.replace(sheet(), factors=sheet().factors.with_columns(rank_ic=pl.lit(-0.5)))
    assert any("a leak until the contrary is proved: alpha, beta<script>, gamma" in line for line in sentences(wonder))


def test_too_few_dates_leave_a_table_of_dashes(tmp_path: Path) -> None:
    (section,) = build_sections(sheet(t=None))
    assert section.text == ("No feature has enough dates for a verdict.",)
    assert section.tables[0].rows[0][4:6] == ("–", "–")
    render_factors(sheet(t=None), "forex", "demo-1234", tmp_path)


def test_years_are_turned_to_the_sign_of_the_whole_span() -> None:
    years = next(section for section in build_sections(sheet()) if section.identifier == "years").charts[0]
    assert [float(series.y[0]) for series in years.series] == pytest.approx([-0.01, 0.01, -0.01])


def test_discoveries_are_marked_and_counted_after_costs() -> None:
    table = build_sections(sheet())[-1].tables[0]
    assert table.marks == {0}
    assert any("Of the discoveries, 1 would have earned more" in line for line in sentences(sheet()))
