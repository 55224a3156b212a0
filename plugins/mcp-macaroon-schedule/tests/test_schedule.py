from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from mcp_macaroon_schedule import Hours, ScheduleSettings, time_window, working_hours
from mcp_macaroon_schedule.wall import parse_days, parse_time, within, zone
from pydantic import ValidationError

from mcp_macaroon_middleware.plugin import Action, Phase
from mcp_macaroon_middleware.testing import Case, EnforcerContract

MONDAY = "2026-01-05"
BERLIN = {"timezone": "Europe/Berlin"}


class TestWorkingHours(EnforcerContract):
    enforcer = working_hours
    cases = (
        Case(params=("9", "17"), at=f"{MONDAY}T09:00:00Z", expect={"allow": "allow", "elicit": "allow"}),
        Case(params=("9", "17"), at=f"{MONDAY}T17:00:00Z", expect={"allow": "deny", "elicit": "ask"}),
        Case(params=("9", "17"), at=f"{MONDAY}T16:59:59.999999Z", expect={"allow": "allow"}),
        Case(params=("9", "17", "sat,sun"), at=f"{MONDAY}T12:00:00Z", expect={"allow": "deny"}),
        Case(params=("9", "17"), at=f"{MONDAY}T08:00:00Z", settings=BERLIN, expect={"allow": "allow"}),
        Case(params=("9", "17", "mon-fri", "UTC"), at=f"{MONDAY}T08:00:00Z", settings=BERLIN, expect={"allow": "deny"}),
        Case(params={"start": 9, "end": 17, "days": ["mon"]}, at=f"{MONDAY}T12:00:00Z", expect={"allow": "allow"}),
    )


class TestTimeWindow(EnforcerContract):
    enforcer = time_window
    cases = (
        Case(
            params=("9", "17"),
            at=f"{MONDAY}T12:00:00Z",
            expect={"allow": "allow", "deny": "deny", "elicit": "ask"},
        ),
        Case(
            params=("9", "17"),
            at=f"{MONDAY}T17:00:00Z",
            expect={"allow": "deny", "deny": "allow", "elicit": "allow"},
        ),
        Case(params="9:17", at=f"{MONDAY}T09:00:00Z", expect={"allow": "allow"}),
        Case(params="09:30:17:15", at=f"{MONDAY}T09:29:59Z", expect={"allow": "deny"}),
        Case(params="09:30:17:15", at=f"{MONDAY}T17:14:59Z", expect={"allow": "allow"}),
        Case(params=("09:30", "1715"), at=f"{MONDAY}T17:15:00Z", expect={"allow": "deny"}),
        Case(params="9:30:17:00:tue:UTC", at=f"{MONDAY}T12:00:00Z", expect={"allow": "deny"}),
        Case(params="22:6", at=f"{MONDAY}T23:00:00Z", expect={"allow": "allow"}),
        Case(params="22:6", at=f"{MONDAY}T05:59:59Z", expect={"allow": "allow"}),
        Case(params="22:6", at=f"{MONDAY}T06:00:00Z", expect={"allow": "deny"}),
        Case(params="22:6:mon", at="2026-01-06T01:00:00Z", expect={"allow": "allow"}),
        Case(params="22:6:mon", at=f"{MONDAY}T01:00:00Z", expect={"allow": "deny"}),
        Case(params="0:24", at=f"{MONDAY}T23:59:59Z", expect={"allow": "allow"}),
    )


@pytest.mark.parametrize(
    ("at", "inside"),
    [
        ("2026-03-29T00:29:00+00:00", False),  # 01:29 in Berlin, an hour before the clock jumps from 02:00 to 03:00
        ("2026-03-29T00:59:59+00:00", False),
        ("2026-03-29T01:00:00+00:00", True),  # 03:00: the window from 02:30 has begun
        ("2026-03-29T02:00:00+00:00", False),
        ("2026-10-25T00:29:59+00:00", False),
        ("2026-10-25T00:30:00+00:00", True),  # 02:30, the first time
        ("2026-10-25T01:00:00+00:00", False),  # 02:00 again: the hour happens twice
        ("2026-10-25T01:30:00+00:00", True),  # 02:30, the second time
    ],
)
def test_where_clocks_change_the_wall_clock_counts(at: str, inside: bool) -> None:
    wall = datetime.fromisoformat(at).astimezone(zone("Europe/Berlin"))
    assert within(wall, parse_time("02:30"), parse_time("04:00"), range(7)) is inside


def test_a_window_over_midnight_is_the_other_half_of_the_day() -> None:
    for minute in range(0, 24 * 60, 7):
        at = datetime(2026, 1, 5, minute // 60, minute % 60, tzinfo=UTC)
        day, night = within(at, 360, 1320, range(7)), within(at, 1320, 360, range(7))
        assert day is not night


@pytest.mark.parametrize(
    ("value", "minutes"), [("9", 540), (9, 540), ("09:30", 570), ("0930", 570), ("24", 1440), ("00:00", 0)]
)
def test_times_are_read(value: Any, minutes: int) -> None:
    assert parse_time(value) == minutes


@pytest.mark.parametrize(
    "value", ["", "25", "24:01", "9:60", "9:5", "-1", "9am", "09:30:00", "٩", True, 9.5, None, [], "930"]
)
def test_what_is_no_time_is_an_error(value: Any) -> None:
    with pytest.raises(ValueError, match="no time of day"):
        parse_time(value)


@pytest.mark.parametrize(
    ("value", "days"),
    [
        ("", (0, 1, 2, 3, 4, 5, 6)),
        ("mon-fri", (0, 1, 2, 3, 4)),
        ("fri-mon", (0, 4, 5, 6)),
        ("Sat, sun", (5, 6)),
        (["monday", "wed"], (0, 2)),
    ],
)
def test_days_are_read(value: Any, days: tuple[int, ...]) -> None:
    assert parse_days(value) == days


@pytest.mark.parametrize("value", ["17", "mo", "mon-", "-", 3, [1], None])
def test_what_is_no_day_is_an_error(value: Any) -> None:
    with pytest.raises(ValueError, match="day"):
        parse_days(value)


@pytest.mark.parametrize("name", ["Europe/Nowhere", "../../etc/passwd", "/etc/passwd", "Europe", "a\x00b", "", " "])
def test_an_unknown_zone_is_an_error_at_start(name: str) -> None:
    with pytest.raises(ValidationError, match="no time zone"):
        ScheduleSettings(timezone=name)
    if name:
        with pytest.raises(ValidationError, match="no time zone"):
            Hours(start="9", end="17", timezone=name)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"start": "9"},
        {"start": "9", "end": "9"},
        {"start": "24", "end": "6"},
        {"start": "9", "end": "17", "days": "30"},
        {"start": "9", "end": "17", "days": "mon", "timezone": "UTC", "more": ("x",)},
        {"start": "9", "end": "30", "days": "17", "timezone": "00", "more": ("mon", "UTC", "x")},
        {"start": "9", "end": "17", "until": "18"},
    ],
)
def test_params_that_say_no_window_are_an_error(params: Any) -> None:
    with pytest.raises(ValidationError):
        Hours.model_validate(params)


def test_working_hours_over_midnight_are_an_error_that_names_the_other_policy() -> None:
    assert working_hours.validate is not None
    told = working_hours.validate(Hours(start="22", end="6"), Action.ALLOW, Phase.BEFORE)
    assert told is not None
    assert "time_window" in told
    assert working_hours.validate(Hours(start="9", end="17"), Action.ALLOW, Phase.BEFORE) is None
