"""Every notation comes out as the same nanosecond; nothing is guessed."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plusultra_core.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_S, iso
from plusultra_core.data.gate.timestamps import FIRST_EPOCH_S, LAST_EPOCH_S, UNIT_NS, local_days, parse_times, to_ns
from plusultra_core.errors import ContractError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOMENTS = st.datetimes(datetime(1700, 1, 2), datetime(2099, 12, 30), timezones=st.just(UTC))


def _exact_ns(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1) * 1_000


@pytest.mark.parametrize(
    ("text", "notation"),
    [
        ("2017-06-30 20:00:00", "text_space"),
        ("2017-06-30T20:00:00", "text_T"),
        ("2017-06-30 20:00:00Z", "text_spaceZ"),
        ("2017-06-30T20:00:00Z", "text_TZ"),
        ("2017-06-30T16:00:00-04:00", "text_T+offset"),
        ("2017-07-01 01:30:00+0530", "text_space+offset"),
        ("2017-06-30 22:00:00+02", "text_space+offset"),
        ("1498852800", "epoch_s"),
    ],
)
def test_text_notations(text: str, notation: str) -> None:
    parsed = parse_times(pl.Series("timestamp", [text, None]))
    assert parsed.ts_ns.to_list() == [1_498_852_800 * NS_PER_S, None]
    assert parsed.notations == (notation,) and parsed.notation.to_list() == [notation, None]
    assert parsed.has_offset == notation.endswith("offset")


@pytest.mark.parametrize(("fraction", "ns"), [(".5", 500_000_000), (".123", 123_000_000), (".000000001", 1), (".999999999", 999_999_999)])
def test_fractions_to_the_nanosecond(fraction: str, ns: int) -> None:
    assert to_ns(pl.Series([f"2017-06-30 20:00:00{fraction}Z"]), "t")[0] == 1_498_852_800 * NS_PER_S + ns


@pytest.mark.parametrize("unit", UNIT_NS)
def test_epoch_units_are_told_apart_by_range(unit: str) -> None:
    steps = NS_PER_S // UNIT_NS[unit]
    values = pl.Series("timestamp", [FIRST_EPOCH_S * steps, 1_498_852_800 * steps, LAST_EPOCH_S * steps])
    parsed = parse_times(values)
    assert parsed.notations == (unit,)
    assert [iso(ts) for ts in parsed.ts_ns] == ["1975-01-01T00:00:00Z", "2017-06-30T20:00:00Z", "2100-01-01T00:00:00Z"]
    assert parse_times(values.cast(pl.String)).ts_ns.to_list() == parsed.ts_ns.to_list()


def test_the_ranges_of_the_units_never_meet() -> None:
    for coarse, fine in zip(list(UNIT_NS)[:-1], list(UNIT_NS)[1:], strict=True):
        assert LAST_EPOCH_S * (NS_PER_S // UNIT_NS[coarse]) < FIRST_EPOCH_S * (NS_PER_S // UNIT_NS[fine])


@pytest.mark.parametrize("value", [0, -1, 20_170_630, 10**10, 2**63 - 1, -(2**63)])
def test_integers_that_are_no_epoch_of_our_time(value: int) -> None:
    parsed = parse_times(pl.Series([value]))
    assert parsed.ts_ns.to_list() == [None] and parsed.notation.to_list() == ["unreadable"] and parsed.notations == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2017-06-30",
        "2017-06-30 20:00",
        "2017-02-29 20:00:00",
        "2017-13-01 00:00:00",
        "2017-06-30 24:00:00",
        "2017-06-30 23:59:60",
        "30/06/2017 20:00:00",
        " 2017-06-30 20:00:00",
        "2017-06-30 20:00:00.",
        "2017-06-30 20:00:00+25:00",
        "1600-01-01 00:00:00",
        "٢٠١٧-06-30 20:00:00",
        "2017-06-30 20:00:00.١٢",
        "2017-06-30 20:00:00+٠٢:00",
        "١٤٩٨٨٥٢٨٠٠",
    ],
)
def test_text_that_is_no_time(text: str) -> None:
    assert parse_times(pl.Series([text, "2017-06-30 20:00:00"])).ts_ns.to_list()[0] is None
    with pytest.raises(ContractError, match=r"series.timestamp: 1 timestamps cannot be read"):
        to_ns(pl.Series([text, "2017-06-30 20:00:00"]), "series.timestamp")


@pytest.mark.parametrize(
    "values",
    [
        [1_498_852_800, 1_498_852_800_000],
        ["2017-06-30 20:00:00", "2017-06-30T20:00:00"],
        ["2017-06-30 20:00:00", "2017-06-30 20:00:00Z"],
        ["2017-06-30T20:00:00Z", "2017-06-30T20:00:00+00:00"],
        ["1498852800", "1498852800000"],
    ],
)
def test_mixed_notations_are_refused(values: list[int] | list[str]) -> None:
    with pytest.raises(ContractError, match=r"expected one notation, found .* and "):
        to_ns(pl.Series(values), "series.timestamp")


def test_another_type_is_refused() -> None:
    with pytest.raises(ContractError, match="expected timestamps as text or integer epoch, found Float64"):
        parse_times(pl.Series([1.5]))


def test_nothing_but_nulls() -> None:
    parsed = parse_times(pl.Series([None, None]))
    assert parsed.ts_ns.to_list() == [None, None] and parsed.notations == ()


@given(st.lists(MOMENTS, min_size=1, max_size=20))
def test_text_agrees_with_datetime(moments: list[datetime]) -> None:
    exact = [_exact_ns(moment) for moment in moments]
    for write in (lambda m: m.strftime("%Y-%m-%d %H:%M:%S.%f").zfill(26), lambda m: m.isoformat()):
        assert to_ns(pl.Series([write(moment) for moment in moments], dtype=pl.String), "t").to_list() == exact


@given(st.integers(FIRST_EPOCH_S, LAST_EPOCH_S - 1), st.integers(0, 999_999_999))
def test_epochs_agree_in_every_unit(seconds: int, ns: int) -> None:
    exact = seconds * NS_PER_S + ns
    for unit_ns in UNIT_NS.values():
        assert to_ns(pl.Series([exact // unit_ns]), "t")[0] == exact // unit_ns * unit_ns


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "America/Chicago", "Europe/London", "Asia/Kolkata", "Australia/Lord_Howe"])
def test_local_dates_are_those_of_the_clock_in_the_zone(zone: str) -> None:
    def slow(ts_ns: np.ndarray) -> list[int]:
        local = pl.from_epoch(pl.Series(ts_ns), time_unit="ns").dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
        return local.dt.date().cast(pl.Int32).to_list()

    rng = np.random.default_rng(7)
    for first, last in ((-(71 * 366), -(69 * 366)), (0, 400), (10_950, 10_970), (12_000, 20_000), (47_000, 47_400)):
        whole = np.arange(first * 24, min(last, first + 800) * 24) * NS_PER_HOUR
        for ts_ns in (whole, whole - 1, np.sort(rng.integers(first * NS_PER_DAY, last * NS_PER_DAY, 4_000)), np.array([whole[-1]])):
            assert local_days(ts_ns, zone).tolist() == slow(ts_ns)
