"""One page that can be handed on: a self-contained HTML file, and the same in Markdown with pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.io
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from plusultra_core.artifacts import write_atomic
from plusultra_core.errors import ConfigError
from plusultra_core.reporting import figures, performance, sections, words
from plusultra_core.reporting.markdown import escape, png
from plusultra_core.reporting.pages.blocks import ExecutionPageConfig
from plusultra_core.reporting.sections import Evidence, Section
from plusultra_core.reporting.seeds import seeds
from plusultra_core.reporting.tables import DASH, interval, number, percent, plain, signed

HTML = "report.html"
MARKDOWN = "report.md"
PICTURES = "figures"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportingConfig:
    """How much a report shows."""

    profile: str
    """Profile that this file belongs to; the page names it."""
    max_points: int
    """Points of a curve; peaks and troughs are kept."""
    max_rows: int
    """Rows of the tables that grow with the dump: symbols, findings."""
    png_dpi: int
    """Resolution of the Markdown's pictures."""
    execution: ExecutionPageConfig

    def __post_init__(self) -> None:
        for name, least in (("max_points", 50), ("max_rows", 5), ("png_dpi", 50)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: expected >= {least}, found {getattr(self, name)}")


def render_report(evidence: Evidence, out_dir: Path, cfg: ReportingConfig) -> None:
    """Write report.html, report.md and figures/*.png into `out_dir`; equal evidence gives equal bytes.

    All text of the evidence is data: it is escaped in both forms.
    """
    card = evidence.scorecard
    parts = build_sections(evidence, cfg)
    context = {
        "title": f"{plain(str(card['asset_class'])).capitalize()}, snapshot {card['snapshot']}",
        "subtitle": f"{_subtitle(card)}; profile {cfg.profile}",
        "headline": words.headline(card),
        "verdict": words.verdict(card),
        "outcome": card["verdict"]["outcome"],
        "facts": _facts(card),
        "warnings": card["warnings"],
        "sections": parts,
        "links": evidence.links,
        "folder": PICTURES,
    }
    write_atomic(out_dir / HTML, page(context, parts).encode())
    write_atomic(out_dir / MARKDOWN, _markdown(context).encode())
    for chart in (chart for section in parts for chart in section.charts):
        write_atomic(out_dir / PICTURES / f"{chart.identifier}.png", png(chart, cfg.png_dpi))


def build_sections(evidence: Evidence, cfg: ReportingConfig) -> tuple[Section, ...]:
    """All sections in reading order; one without evidence says so."""
    card = evidence.scorecard
    return (
        performance.strategies(card, cfg.max_points),
        seeds(card),
        performance.walk_forward(card, cfg.max_points),
        performance.costs(card),
        performance.attribution(card, cfg.max_rows),
        sections.forecasts(card),
        sections.significance(evidence.significance),
        sections.training(evidence.history or {}),
        sections.regimes(card),
        sections.quality(evidence, cfg.max_rows),
        sections.promotion(evidence.decision),
        sections.lineage(card),
        sections.limits(card),
    )


def page(context: Mapping[str, Any], parts: tuple[Section, ...], template: str = "report.html.j2") -> str:
    """A self-contained HTML page of sections under a verdict, drawn by a template that knows what else is in `context`."""
    environment = Environment(loader=PackageLoader("plusultra_core.reporting"), autoescape=True, undefined=StrictUndefined)
    drawn = {chart.identifier: _embedded(figures.figure(chart)) for section in parts for chart in section.charts}
    whole = {"links": (), "overline": "PlusUltra report", **context}
    return environment.get_template(template).render(whole, drawn=drawn, plotly=Markup(get_plotlyjs()))


def _embedded(figure: Any) -> Markup:
    """A figure as JSON inside a script element, from which no text can break out."""
    text = plotly.io.to_json(figure, validate=False, engine="json")
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _markdown(context: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("plusultra_core.reporting"),
        autoescape=False,
        finalize=lambda value: escape(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.md.j2").render(context)


def _subtitle(card: Mapping[str, Any]) -> str:
    data, span = card["data"], card["span"]
    names = f"{data['num_symbols']} symbol{'' if data['num_symbols'] == 1 else 's'}"
    return (
        f"{names}, {data['num_bars']:,} bars of {card['bar']} from {data['start'][:10]} to {data['end'][:10]}; "
        f"judged on {span['start'][:10]} to {span['end'][:10]}"
    )


def _facts(card: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The numbers beside the verdict: label, value, what stands beside it."""
    found = card["verdict"]
    facts: list[tuple[str, str, str]] = []
    for role, name in (("Best model", found["best_model"]), ("Best baseline", found["best_baseline"])):
        if name is not None:
            entry = card["strategies"][name]
            beside = f"Sharpe {interval(entry['ci']['sharpe'], number)}" if entry["ci"]["sharpe"] else "Sharpe, no interval"
            value = entry["metrics"]["sharpe"]
            facts.append((f"{role}: {plain(name)}", number(0.0 if value is None else value), beside))
    if found["sharpe"]:
        facts.append(("Sharpe difference", signed(found["sharpe"]["difference"], number), interval(found["sharpe"]["ci"], number)))
    if found["best_model"] is not None:
        entry = card["strategies"][found["best_model"]]
        facts.append(("Max drawdown", percent(entry["metrics"]["max_drawdown"]), interval(entry["ci"]["max_drawdown"], percent)))
        facts.append(
            ("Costs, of capital", percent(entry["costs"]["cost_frac"]), f"turnover {number(entry['metrics']['turnover_year'], 1)} a year")
        )
    for model, horizons in card["forecasts"].items():
        first = horizons[min(horizons, key=int)]
        ci = interval(first["ic_ci"], lambda value: number(value, 3)) if first["ic_ci"] else DASH
        facts.append((f"IC, all test spans: {plain(model)}", number(first["ic"], 3), ci))
    return facts
