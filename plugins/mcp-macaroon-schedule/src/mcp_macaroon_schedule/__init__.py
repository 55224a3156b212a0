"""Two policies of the clock, `working_hours` and `time_window`; they look at the time of the request and nothing else.

`start <= t < end` on the wall clock of a zone. The zone is the rule's own, else the one of the plugin's section in the
policy file, else UTC. The module `wall` says what happens at midnight and where clocks change.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from mcp_macaroon_middleware.plugin import Action, Check, Params, Phase, Settings, Verdict, enforcer

from .wall import DAY, days_text, parse_days, parse_time, time_text, within, zone

__all__ = ["Hours", "ScheduleSettings", "time_window", "working_hours"]

_POSITIONS = ("start", "end", "days", "timezone")


class ScheduleSettings(Settings):
    """The plugin's section: `plugins: {schedule: {timezone: Europe/Berlin}}`."""

    timezone: str = Field(default="UTC", description="The zone of rules that name none, by its IANA name.")

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        zone(value)
        return value


class Hours(Params):
    """From `start` until before `end`, on `days`, by the wall clock of `timezone`.

    Times are `9`, `09:30` or `0930`; `24` is the midnight at the end of a day. Days are `mon-fri`, `sat,sun` or a list;
    every day unless given.
    """

    start: str = Field(description="The first minute of the window: 9, 09:30 or 0930.")
    end: str = Field(description="The first minute after it; 24 is midnight.")
    days: str = Field(default="", description="mon-fri, or sat,sun, or a list; every day unless given.")
    timezone: str = Field(default="", description="An IANA name; the plugin's own setting unless given.")
    more: tuple[str, ...] = Field(default=(), max_length=0, description="For rules in string form: 09:30:17:00.")

    @model_validator(mode="before")
    @classmethod
    def _joined(cls, data: Any) -> Any:
        """`09:30:17:00` falls into four params at its colons; they are put together again."""
        if not isinstance(data, dict):
            return data
        given = [data.get(name, "") for name in _POSITIONS]
        if not all(isinstance(part, str) and part.isdecimal() and len(part) <= 2 for part in given):
            return data
        left = (*data.get("more", ()), "", "")
        times = {"start": f"{given[0]}:{given[1]}", "end": f"{given[2]}:{given[3]}"}
        return {**data, **times, "days": left[0], "timezone": left[1], "more": left[2:-2]}

    @field_validator("start", "end", mode="before")
    @classmethod
    def _time(cls, value: Any) -> str:
        return time_text(parse_time(value))

    @field_validator("days", mode="before")
    @classmethod
    def _days(cls, value: Any) -> str:
        return days_text(parse_days(value))

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        if value:
            zone(value)
        return value

    @model_validator(mode="after")
    def _not_empty(self) -> Hours:
        if self.start == self.end or parse_time(self.start) == DAY:
            raise ValueError(f"from {self.start} to {self.end} is no window; a whole day is 0 to 24")
        return self


def _one_day(params: Any, action: Action, phase: Phase) -> str | None:
    """What is wrong with working hours that run over midnight."""
    if parse_time(params.start) < parse_time(params.end):
        return None
    return "they end before they begin; time_window runs over midnight"


@enforcer(
    "working_hours",
    params=Hours,
    attenuates=True,
    reads_arguments=False,
    settings=ScheduleSettings,
    validate=_one_day,
)
def working_hours(check: Check[Hours]) -> Verdict:
    """Only within working hours, which end on the day on which they begin; `elicit` asks outside of them."""
    if _inside(check):
        return Verdict.allow()
    return _refuse_outside(check, "outside_hours")


@enforcer(
    "time_window",
    params=Hours,
    actions=(Action.ALLOW, Action.DENY, Action.ELICIT),
    attenuates=True,
    reads_arguments=False,
    settings=ScheduleSettings,
)
def time_window(check: Check[Hours]) -> Verdict:
    """`allow` passes within the window, `deny` outside of it; `elicit` asks where `deny` refuses."""
    inside = _inside(check)
    if check.action is Action.DENY:
        return _refuse_inside(check) if inside else Verdict.allow()
    return Verdict.allow() if inside else _refuse_outside(check, "outside_window")


def _inside(check: Check[Hours]) -> bool:
    params = check.params
    at = check.request.at.astimezone(zone(_zone_of(check)))
    return within(at, parse_time(params.start), parse_time(params.end), parse_days(params.days))


def _zone_of(check: Check[Hours]) -> str:
    settings = check.settings if isinstance(check.settings, ScheduleSettings) else ScheduleSettings()
    return check.params.timezone or settings.timezone


def _refuse_outside(check: Check[Hours], code: str) -> Verdict:
    when = _when(check)
    return check.refuse(code, f"It is outside {when}. Go on all the same?" if check.asks else f"Allowed only {when}.")


def _refuse_inside(check: Check[Hours]) -> Verdict:
    when = _when(check)
    return check.refuse("inside_window", f"It is {when}. Go on all the same?" if check.asks else f"Not allowed {when}.")


def _when(check: Check[Hours]) -> str:
    """The window as a person reads it: `from 09:00 to 17:00 (mon,tue, Europe/Berlin)`."""
    params = check.params
    where = ", ".join(part for part in (params.days, _zone_of(check)) if part)
    return f"from {params.start} to {params.end} ({where})"
