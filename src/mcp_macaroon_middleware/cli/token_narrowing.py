"""The options that narrow a token, as caveats. It writes rules; it does not judge them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from cyclopts import Parameter

from ..errors import RuleError
from ..model import Action, Rule
from ..rules import TIME, escape, glob_matches, parse_rule
from ..tokens.caveats import writable
from ..tokens.describe import Inspection
from ..tokens.sentences import moment, spelled
from .token_output import Misuse

LONGEST: Final = timedelta(days=366)
UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

_SPAN: Final = re.compile(r"(?:[0-9]{1,7}[smhdw])+\Z")

CheckRule = Callable[[Rule], None]


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowing:
    """What is added to a token. Every one of them can only take away."""

    only_tools: Annotated[
        tuple[str, ...],
        Parameter(
            help="Only these tools and nothing else, comma-separated: search,read_*. Others by kind: prompt=x.",
        ),
    ] = ()
    without_tools: Annotated[tuple[str, ...], Parameter(help="Not these tools, comma-separated: delete_*.")] = ()
    without_field: Annotated[
        tuple[str, ...],
        Parameter(
            help="Withhold a field of every result (email), or of one tool's (read_mail:owner.email). Results without "
            "fields, such as plain text, are then withheld.",
        ),
    ] = ()
    argument: Annotated[
        tuple[str, ...],
        Parameter(
            help="Only these values of a tool's argument: read_mail:folder=inbox,work. Needs the plugin "
            "mcp-macaroon-arguments, here and at the server.",
        ),
    ] = ()
    limit: Annotated[
        tuple[str, ...],
        Parameter(help="At most so many calls of each tool (10/minute), or of one (send_mail:3/day)."),
    ] = ()
    rule: Annotated[
        tuple[str, ...], Parameter(help='Any rule, as in a policy file: "bf:delete_*:tool_access:deny".')
    ] = ()

    def caveats(self) -> list[str]:
        """The caveats, in a fixed order. Raises `Misuse` for an option that cannot be read."""
        return [*self._access(), *self._fields(), *self._arguments(), *self._limits(), *self.rule]

    def _access(self) -> Iterator[str]:
        names = _listed(self.only_tools, "--only-tools")
        if names:
            yield _rule("bf", "*", "tool_access", "only", names)
        for name in _listed(self.without_tools, "--without-tools"):
            yield _rule("bf", name, "tool_access", "deny")

    def _fields(self) -> Iterator[str]:
        for field in _listed(self.without_field, "--without-field"):
            target, _, path = field.rpartition(":")
            yield _rule("af", target or "*", "field_access", "deny", [path])

    def _arguments(self) -> Iterator[str]:
        for text in self.argument:
            head, _, values = text.partition("=")
            target, _, name = head.rpartition(":")
            allowed = [value for value in values.split(",") if value]
            if not (target and name and allowed):
                raise Misuse("--argument reads TOOL:ARGUMENT=VALUE[,VALUE…], for example read_mail:folder=inbox,work")
            yield _rule("bf", target, "argument_allowlist", "allow", [name, *allowed])

    def _limits(self) -> Iterator[str]:
        for text in self.limit:
            target, _, limit = text.rpartition(":")
            yield _rule("bf", target or "tool=*", "rate_limit", "allow", [limit])


def _rule(phase: str, target: str, policy: str, action: str, params: Sequence[str] = ()) -> str:
    return ":".join((phase, escape(target), policy, action, *map(escape, params)))


def _listed(texts: Iterable[str], option: str) -> list[str]:
    names = [name.strip() for text in texts for name in text.split(",")]
    if not all(names):
        raise Misuse(f"{option}: an empty name")
    return names


def checked(caveats: Iterable[str], check: CheckRule) -> list[str]:
    """The caveats as they are written. Raises `Misuse` that shows the rule and what is wrong with it."""
    written = []
    for text in caveats:
        try:
            written.append(writable(text))
            if not text.startswith(TIME):
                check(parse_rule(written[-1], in_token=True))
        except RuleError as error:
            raise Misuse(_shown(text, error)) from None
    return written


def _shown(text: str, error: RuleError) -> str:
    """The rule, what is wrong with it, and, where the text itself cannot be read, a caret at the place."""
    rule = spelled(text)
    lines = [f"{error} [{error.code}]", f"    {rule}"]
    if error.code == RuleError.code and rule == text:
        lines.append("    " + " " * error.offset + "^" * max(1, error.length))
    return "\n".join([*lines, f"    {error.hint}"] if error.hint else lines)


# --- instants -------------------------------------------------------------------------------------------------------


def read_end(text: str, now: datetime) -> datetime:
    """The end that `8h`, `1h30m` or an instant with its time zone names. Raises `Misuse` for the past, and too late."""
    end = now + read_span(text) if _SPAN.match(text) else read_instant(text, "--expires")
    if end <= now:
        raise Misuse("--expires lies in the past")
    if end - now > LONGEST:
        raise Misuse(f"--expires is {LONGEST.days} days at most")
    return end


def read_span(text: str, longest: timedelta = LONGEST) -> timedelta:
    """The length of time that `8h`, `1h30m` or `45s` names. Raises `Misuse` for none, and for more than `longest`."""
    if not _SPAN.match(text):
        raise Misuse("--expires reads 5m, 8h, 1h30m")
    seconds = sum(int(number) * UNITS[unit] for number, unit in re.findall(r"([0-9]+)([smhdw])", text))
    if not 0 < seconds <= longest.total_seconds():
        raise Misuse(f"--expires is more than nothing, and {_days(longest.days)} at most")
    return timedelta(seconds=seconds)


def _days(number: int) -> str:
    return "a day" if number == 1 else f"{number} days"


def read_instant(text: str, option: str) -> datetime:
    """The instant that an ISO 8601 text with a time zone names. Raises `Misuse`."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        span = ", 8h" if option == "--expires" else ""
        raise Misuse(f"{option} reads 2031-01-31T18:00:00Z{span}; an instant needs its time zone")
    return at.astimezone(UTC)


# --- what changes nothing -------------------------------------------------------------------------------------------


def idle(before: Inspection, caveats: Sequence[str], end: datetime | None, now: datetime) -> list[str]:
    """Warnings about additions that evidently change nothing, or leave nothing, in the order of the additions."""
    found = []
    if before.expires is None or before.expires <= now:
        found.append("the token has no end or has ended already: nothing that is added can make it count again")
    elif end is not None and end >= before.expires:
        found.append(f"--expires changes nothing: the token ends at {moment(before.expires)} already")
    there = set(before.rules)
    for text in caveats:
        if text in there:
            found.append(f"changes nothing, the token has it already: {spelled(text)}")
        else:
            found += _against(text, [_only_of(rule) for rule in before.rules])
    return found


def _against(text: str, known: Sequence[tuple[str, ...] | None]) -> Iterator[str]:
    """Compares a new `only` for everything with those that the token has."""
    names = _only_of(text)
    if names is None:
        return
    for old in filter(None, known):
        if all(any(glob_matches(name, each) for name in names) for each in old):
            yield f"changes nothing, the token allows no more than that already: {spelled(text)}"
        elif not any(_meet(name, each) for name in names for each in old):
            yield f"leaves nothing: the token allows only {spelled(', '.join(old))}"


def _meet(one: str, other: str) -> bool:
    """Whether two patterns can name the same thing; where that is not evident, they may."""
    if "*" in one and "*" in other:
        return True
    return glob_matches(one, other) or glob_matches(other, one)


def _only_of(text: str) -> tuple[str, ...] | None:
    """The names of a rule `bf:*:tool_access:only:…`."""
    try:
        rule = parse_rule(text, in_token=True)
    except RuleError:
        return None
    if rule.policy != "tool_access" or rule.action is not Action.ONLY or rule.target.kind is not None:
        return None
    return tuple(map(str, rule.params))
