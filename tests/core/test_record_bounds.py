"""A record has bounds, whatever a caller writes: names, addresses, arguments in clear and their number."""

from __future__ import annotations

import json
from typing import Any

import pytest
from lab import KEY, Records, call

from mcp_macaroon_middleware.core.audit import CLEAR, LONG, MOST_ARGUMENTS, AuditLog, SinkSlot
from mcp_macaroon_middleware.model import Component, Kind

MOST = 64 * 1024
HUGE = "x" * 2_000_000
"""Bytes of one record, at most."""


def log(*clear: str) -> AuditLog:
    return AuditLog(
        [SinkSlot(name="list", sink=Records(), required=True)], digest_key=KEY, clear_arguments=frozenset(clear)
    )


def size(facts: Any) -> int:
    return len(json.dumps(facts))


@pytest.mark.threat("R16")
@pytest.mark.parametrize(
    "arguments",
    [
        {"clear": HUGE},
        {"clear": [HUGE, {"a": HUGE}]},
        {"clear": {HUGE: 1}},
        {HUGE: 1},
        {f"{number}": number for number in range(50_000)},
        {f"{number}{'x' * 2000}": number for number in range(MOST_ARGUMENTS)},
    ],
)
def test_a_record_stays_small_whatever_the_arguments_are(arguments: dict[str, Any]) -> None:
    """reports-policy B15."""
    facts = log("clear").request_facts(call("t", arguments), ())
    assert size(facts) < MOST


@pytest.mark.parametrize("field", ["name", "uri"])
def test_a_record_stays_small_whatever_a_component_is_called(field: str) -> None:
    component = Component(kind=Kind.RESOURCE, name="mail://{id}", uri="mail://1")
    named = Component(kind=Kind.RESOURCE, **{"name": component.name, "uri": component.uri, field: HUGE})
    assert size(log().request_facts(call("t", component=named), ())) < MOST


def test_a_long_argument_in_clear_is_told_by_its_beginning_its_digest_and_its_length() -> None:
    """reports-policy B15."""
    audit = log("clear")
    told = audit.digests({"clear": HUGE})["clear"]
    assert told == {"begins": HUGE[:200], "digest": audit.digest("clear", HUGE), "length": len(HUGE) + 2}
    for value in ("x" * (CLEAR - 2), ["a", 1], {"a": None}, ""):
        assert audit.digests({"clear": value})["clear"] == value
    assert audit.digests({"clear": HUGE + "y"})["clear"]["digest"] != told["digest"]


def test_what_is_not_long_is_recorded_as_it_is() -> None:
    audit = log()
    names = ["n" * LONG, "ä", "a b"]
    assert list(audit.digests(dict.fromkeys(names, 1))) == names
    few = {f"a{number}": number for number in range(MOST_ARGUMENTS)}
    assert list(audit.digests(few)) == list(few)
    one, other = ({**few, "more": value} for value in (1, 2))
    assert audit.digests(one) != audit.digests(other)
