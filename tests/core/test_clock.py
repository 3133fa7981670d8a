"""Lengths of bars and timestamps for people."""

import time

import pytest

from plusultra_core import clock
from plusultra_core.errors import ConfigError


@pytest.mark.parametrize(
    ("bar", "expected"),
    [
        ("30s", 30 * clock.NS_PER_S),
        ("5m", 5 * clock.NS_PER_MIN),
        ("1h", clock.NS_PER_HOUR),
        ("1d", clock.NS_PER_DAY),
        ("1w", 7 * clock.NS_PER_DAY),
    ],
)
def test_a_bar_has_its_length(bar: str, expected: int) -> None:
    assert clock.bar_ns(bar) == expected


@pytest.mark.parametrize("bar", ["", "d", "0d", "1", "1D", "-1h", "1.5h", " 1h", "1h ", "1M", "99999s", "1h\n"])
def test_anything_else_is_no_bar(bar: str) -> None:
    with pytest.raises(ConfigError, match="expected a length such as 1d, 1h, 5m"):
        clock.bar_ns(bar)


@pytest.mark.parametrize(
    ("ts_ns", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_498_852_800 * clock.NS_PER_S, "2017-06-30T20:00:00Z"),
        (1_498_852_800 * clock.NS_PER_S + 250 * clock.NS_PER_MS, "2017-06-30T20:00:00.25Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (-clock.NS_PER_DAY, "1969-12-31T00:00:00Z"),
    ],
)
def test_a_timestamp_is_written_exactly(ts_ns: int, text: str) -> None:
    assert clock.iso(ts_ns) == text


def test_the_units_are_exact() -> None:
    assert clock.NS_PER_DAY == 24 * clock.NS_PER_HOUR == 86_400 * clock.NS_PER_S == 86_400_000 * clock.NS_PER_MS
    assert clock.NS_PER_YEAR == 365.25 * clock.NS_PER_DAY


def test_now_is_the_wall_clock_in_utc() -> None:
    assert abs(clock.now_ns() - time.time() * clock.NS_PER_S) < 5 * clock.NS_PER_S
