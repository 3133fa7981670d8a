"""A finding says what is known to mean something; a report is the same in every mouth."""

import pytest

from plusultra_core.data.gate.findings import CODES, DumpReport, Finding, describe, refuse
from plusultra_core.errors import ConfigError, ContractError


def test_an_unknown_code_is_no_finding() -> None:
    with pytest.raises(ConfigError, match="expected a code of CODES, found 'tulips'"):
        Finding("warning", "tulips", "series", None, "series: tulips")


def test_a_warning_cannot_refuse_and_an_error_may_be_softened() -> None:
    with pytest.raises(ConfigError, match="stale_feed is a warning and cannot refuse a dump"):
        Finding("error", "stale_feed", "series", None, "series: stale")
    softened = Finding("warning", "not_positive", "series", "close", "series.close: quarantined", symbols=("AAA",))
    assert DumpReport(True, (softened,)).warnings == (softened,) and DumpReport(True, (softened,)).errors == ()


def test_every_code_says_what_it_means_and_what_to_do() -> None:
    for name, code in CODES.items():
        assert name == name.lower() and code.level in ("error", "warning"), name
        assert code.meaning and code.remedy and not code.meaning.endswith(".") and "  " not in code.meaning + code.remedy, name


def test_a_refusal_shows_three_findings_and_counts_the_rest() -> None:
    findings = tuple(Finding("error", "null_key", "series", None, f"fault {number}") for number in range(5))
    with pytest.raises(ContractError, match=r"^d: refused: fault 0 \| fault 1 \| fault 2 \(and 2 more\)$"):
        refuse(DumpReport(False, findings), "d")
    refuse(DumpReport(True, ()), "d")


def test_the_house_form() -> None:
    row = {"symbol": "AAA", "close": -1.0}
    assert (
        describe("series.close", 1, [row], "> 0", "fix it") == "series.close: 1 row, first (symbol='AAA', close=-1.0); expected > 0; fix it"
    )
