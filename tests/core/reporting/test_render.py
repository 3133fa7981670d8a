"""The page: complete, offline, one library, the same bytes, the same numbers, and deaf to what symbols say."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs

from plusultra_core import config
from plusultra_core.errors import ConfigError
from plusultra_core.reporting import tables
from plusultra_core.reporting.render import ReportingConfig, build_sections, render_report

SECTIONS = (
    "verdict", "strategies", "seeds", "walk-forward", "costs", "attribution", "forecasts", "significance", "training", "regimes", "data",
    "promotion", "lineage", "limits",
)  # fmt: skip


@pytest.fixture(scope="module")
def page(evidence, cfg, tmp_path_factory) -> Path:  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("report")
    render_report(evidence, folder, cfg)
    return folder


class Seen(HTMLParser):
    """Tags with their attributes, and the cells of tables."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag in ("td", "span") or (self.inside and tag != "script")
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.inside and self.cells:
            self.cells[-1] += f" {data}" if self.cells[-1] else data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "span"):
            self.inside = False


def read(folder: Path) -> tuple[str, Seen]:
    text = (folder / "report.html").read_text()
    seen = Seen()
    seen.feed(text.replace(get_plotlyjs(), ""))
    return text, seen


def test_the_library_is_inlined_once_and_nothing_is_fetched(page: Path) -> None:
    text, seen = read(page)
    assert text.count(get_plotlyjs()) == 1 and text.count("Plotly.react(") == 1
    fetching = [
        (tag, value) for tag, attrs in seen.tags for name, value in attrs.items() if name in ("src", "srcset", "action", "data", "poster")
    ]
    assert fetching == []
    assert all((attrs.get("href") or "").startswith("#") for tag, attrs in seen.tags if "href" in attrs)
    assert not re.search(r"url\(|@import|<link", text.replace(get_plotlyjs(), ""))
    assert "default-src 'none'" in text


def test_every_section_and_figure_is_there(page: Path) -> None:
    _, seen = read(page)
    ids = [attrs["id"] for _, attrs in seen.tags if "id" in attrs]
    assert [name for name in ids if not str(name).startswith("figure-")] == list(SECTIONS)
    figures = [str(name) for name in ids if str(name).startswith("figure-")]
    assert len(figures) == len(set(figures))
    pictures = sorted(path.stem for path in (page / "figures").iterdir())
    assert sorted(name.removeprefix("figure-") for name in figures) == pictures
    expected = {
        "locked_equity",
        "locked_drawdown",
        "cost_waterfall",
        "by_symbol",
        "reliability",
        "pit",
        "coverage_by_regime",
        "sharpe_intervals",
    }
    assert expected <= set(pictures) and {"transitions_volatility", "history_supervised_hybrid", "history_ppo_ppo"} <= set(pictures)


def test_equal_evidence_gives_equal_bytes(evidence, cfg, page: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    render_report(evidence, tmp_path, cfg)
    files = sorted(path.relative_to(page) for path in page.rglob("*") if path.is_file())
    assert [path for path in files if (page / path).read_bytes() != (tmp_path / path).read_bytes()] == []
    assert str(tmp_path) not in (tmp_path / "report.html").read_text()


def test_html_and_markdown_show_the_same_cells(evidence, cfg, page: Path) -> None:  # type: ignore[no-untyped-def]
    _, seen = read(page)
    cells = [cell for section in build_sections(evidence, cfg) for table in section.tables for row in table.rows for cell in row]
    shown = [re.sub(r"\s+", " ", cell) for cell in seen.cells]
    flat = [re.sub(r"[()]", "", " ".join(cell.split())) for cell in cells]
    assert [re.sub(r"[()]", "", cell.strip()) for cell in shown] == flat
    markdown = (page / "report.md").read_text()
    sharpe = tables.number(evidence.scorecard["strategies"]["policy"]["metrics"]["sharpe"])
    assert f"| policy | {sharpe} (" in markdown and sharpe in seen.cells[1]


def test_pictures_of_the_markdown_exist(page: Path) -> None:
    names = re.findall(r"!\[.*?\]\((.*?)\)", (page / "report.md").read_text())
    assert names and all((page / name).is_file() for name in names)


def test_figures_are_valid_json_of_float32(page: Path) -> None:
    text, _ = read(page)
    found = re.findall(r'data-for="figure-(\w+)">(.*?)</script>', text)
    assert len(found) > 10
    drawn = dict(found)
    equity = json.loads(drawn["locked_equity"])
    assert {trace["name"] for trace in equity["data"]} >= {"policy", "no trade", "buy and hold"}
    assert all(trace["y"]["dtype"] == "f4" for trace in equity["data"])


def test_a_hostile_symbol_is_shown_and_never_obeyed(make_evidence, cfg, hostile: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    bad = make_evidence(symbols=(hostile, "=HYPERLINK(1)", "2024", "日本", "</script><b>", "AAA"))
    render_report(bad, tmp_path, cfg)
    text, seen = read(tmp_path)
    rest = text.replace(get_plotlyjs(), "")
    assert "<script>alert" not in rest and "</script><b>" not in rest and "&lt;script&gt;alert" in rest
    assert [attrs for tag, attrs in seen.tags if tag == "script"][:-2] == [
        attrs for tag, attrs in seen.tags if attrs.get("class") == "plot-data"
    ]
    assert not [tag for tag, _ in seen.tags if tag in ("b", "img", "iframe")]
    markdown = (tmp_path / "report.md").read_text()
    assert "<script>" not in markdown and "[a](" not in markdown and "\n# b" not in markdown and "&lt;script&gt;" in markdown
    rows = [line for line in markdown.splitlines() if "alert" in line and line.startswith("|")]
    assert rows and all(len(re.findall(r"(?<!\\)\|", line)) in (5, 6) for line in rows)


def test_a_report_without_optional_evidence_says_what_is_missing(evidence, cfg, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    bare = replace(evidence, significance=None, findings=(), checks=(), history=None, decision=None)
    render_report(bare, tmp_path, cfg)
    text, _ = read(tmp_path)
    for words in ("No tests against luck were run", "No training history", "No decision has been taken"):
        assert words in text


def test_a_tiny_and_unscored_card_still_makes_a_page(make_evidence, cfg, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    small = make_evidence(num_bars=24, symbols=("AAA",))
    card = {**small.scorecard, "forecasts": {}, "walk_forward": {}, "series": {**small.scorecard["series"], "walk_forward": {}}}
    render_report(replace(small, scorecard=card, links=(("one", "1.html"), ("two", "2.html"))), tmp_path, cfg)
    text, _ = read(tmp_path)
    assert ">1 symbol, " in re.sub(r">\s+", ">", text)
    assert "Beside this page: [one](1.html), [two](2.html)." in (tmp_path / "report.md").read_text()
    assert "too short for an interval" in text and "No forecast could be scored" in text


def test_no_nan_or_none_is_printed(page: Path, evidence, cfg) -> None:  # type: ignore[no-untyped-def]
    cells = [cell for section in build_sections(evidence, cfg) for table in section.tables for row in table.rows for cell in row]
    assert not [cell for cell in cells if re.search(r"\b(nan|None|inf)\b", cell)]


@pytest.mark.parametrize("profile", ["smoke", "base", "gpu24", "h200"])
def test_every_profile_has_a_config(root: Path, profile: str) -> None:
    cfg = config.load(ReportingConfig, root / "configs" / profile / "reporting.yaml")
    assert cfg.max_points >= 50 and cfg.profile == profile


def test_the_page_names_its_profile_and_how_far_its_numbers_reach(evidence, cfg: ReportingConfig, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    render_report(evidence, tmp_path, cfg)
    for page in ((tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()):
        assert "profile smoke" in page and "Of the policy the seed is judged that validated best" in page
        assert "Scored on the test spans of all folds" in page
        assert "One account goes through all folds" in page and "market's move between decision" in page.replace("&#39;", "'")
    assert "IC, all test spans" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("key", ["max_points", "max_rows", "png_dpi"])
def test_a_config_that_makes_no_sense_is_refused(cfg: ReportingConfig, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        replace(cfg, **{key: 1})
