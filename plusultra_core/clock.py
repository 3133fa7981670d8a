"""Time as the whole project counts it: int64 nanoseconds since 1970, UTC."""

import re
import time
from datetime import UTC, datetime

from plusultra_core.errors import ConfigError

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
NS_PER_MIN = 60 * NS_PER_S
NS_PER_HOUR = 60 * NS_PER_MIN
NS_PER_DAY = 24 * NS_PER_HOUR
NS_PER_YEAR = 365.25 * NS_PER_DAY

_UNIT_NS = {"s": NS_PER_S, "m": NS_PER_MIN, "h": NS_PER_HOUR, "d": NS_PER_DAY, "w": 7 * NS_PER_DAY}
_BAR = re.compile(r"([1-9][0-9]{0,3})([smhdw])")


def bar_ns(bar: str) -> int:
    """Length of a bar in nanoseconds: `1d`, `1h`, `5m`, `30s`, `1w`.

    Raises  ConfigError for anything else.
    """
    match = _BAR.fullmatch(bar)
    if match is None:
        raise ConfigError(f"bar: expected a length such as 1d, 1h, 5m; found {bar!r}")
    return int(match[1]) * _UNIT_NS[match[2]]


def iso(ts_ns: int) -> str:
    """UTC timestamp for people, `2017-06-30T20:00:00Z`; fractions are shown where there are any."""
    seconds, rest_ns = divmod(int(ts_ns), NS_PER_S)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{rest_ns:09d}".rstrip("0") + "Z" if rest_ns else f"{text}Z"


def now_ns() -> int:
    """The wall clock. Read at the doors only and passed on as an argument."""
    return time.time_ns()
