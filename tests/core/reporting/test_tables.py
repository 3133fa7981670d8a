"""Numbers as people read them."""

import pytest

from plusultra_core.reporting import tables
from plusultra_core.reporting.markdown import escape


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1,234.50"), (-0.001, "0.00"), (-1.5, "−1.50"), (None, "–"), (float("nan"), "–"), (0, "0.00")],
)
def test_numbers(value: float | None, text: str) -> None:
    assert tables.number(value) == text


def test_percentages_money_and_probabilities() -> None:
    assert tables.percent(-0.1234) == "−12.3\u00a0%" and tables.percent(None) == "–"
    assert tables.money(-1234567.8) == "−1,234,568"
    assert [tables.probability(p) for p in (0.0, 0.5, 1.0, None)] == ["< 0.001", "0.500", "> 0.999", "–"]


def test_intervals_and_signs() -> None:
    assert tables.interval([0.01, 0.02], tables.percent) == "1.0 to 2.0\u00a0%"
    assert tables.estimate(1.0, [0.5, 1.5], tables.number) == "1.00 (0.50 to 1.50)"
    assert tables.estimate(1.0, None, tables.number) == "1.00" and tables.interval(None, tables.number) == "–"
    assert (
        tables.signed(0.5, tables.number) == "+0.50"
        and tables.signed(-0.5, tables.number) == "−0.50"
        and tables.signed(0.0, tables.number) == "0.00"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a|b", r"a\|b"), ("<b>", "&lt;b&gt;"), ("[x](y)", r"\[x\](y)"), ("a\n# b", r"a \# b"), ("`c` *d* $e$", r"\`c\` \*d\* \$e\$")],
)
def test_markdown_is_escaped(text: str, shown: str) -> None:
    assert escape(text) == shown
