"""L1 for every enforcer that is installed, ours and the plugins': a caveat more never allows or shows more."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lab import ALICE, lab
from laws import documents, flat, token_of

from mcp_macaroon_middleware.fields import redact
from mcp_macaroon_middleware.host.discovery import discover
from mcp_macaroon_middleware.model import Component, Kind, RequestContext, Result

INSTALLED = {name: found.contribution for name, found in discover().registry.enforcers.items()}
NAMES = ["read_mail", "send_mail", "wipe"]
TARGETS = st.sampled_from(["*", "read_*", "*_mail", "send_mail", "wipe"])
WORDS = st.sampled_from(["a", "b", "a*", "*", "docs/a.md"])
SAMPLES: dict[str, st.SearchStrategy[str]] = {
    "tool_access": st.sampled_from(
        ["bf:{}:tool_access:deny", "bf:{}:tool_access:elicit", "bf:{}:tool_access:only:*_mail"]
    ),
    "field_access": st.sampled_from(
        ["af:{}:field_access:deny:body", "af:{}:field_access:only:id", "af:{}:field_access:elicit:**.key"]
    ),
    "rate_limit": st.sampled_from(["bf:{}:rate_limit:allow:1/minute", "bf:{}:rate_limit:allow:2/hour"]),
    "allow_attempts": st.sampled_from(["bf:{}:allow_attempts:allow:1", "bf:{}:allow_attempts:allow:2"]),
    "working_hours": st.sampled_from(["bf:{}:working_hours:allow:9:17:mon-fri", "bf:{}:working_hours:allow:6:22"]),
    "time_window": st.sampled_from(["bf:{}:time_window:allow:22:6", "bf:{}:time_window:allow:09:30:16:00:mon-fri"]),
    "argument_allowlist": st.builds("bf:{{}}:argument_allowlist:allow:to:{}:{}".format, WORDS, WORDS),
    "argument_range": st.sampled_from(
        ["bf:{}:argument_range:allow:amount:0:10", "bf:{}:argument_range:allow:amount:5:6"]
    ),
    "path_allowlist": st.sampled_from(["bf:{}:path_allowlist:allow:docs/*", "bf:{}:path_allowlist:elicit:tmp/**"]),
    "path_whitelist": st.sampled_from(["bf:{}:path_whitelist:allow:docs/*", "bf:{}:path_whitelist:allow:*.md"]),
    "repo_whitelist": st.sampled_from(["bf:{}:repo_whitelist:allow:acme/*", "bf:{}:repo_whitelist:allow:acme/site"]),
}
rules = st.builds(
    lambda text, target: text.format(target), st.sampled_from(sorted(SAMPLES)).flatmap(SAMPLES.get), TARGETS
)
arguments = st.fixed_dictionaries(
    {},
    optional={
        "to": st.sampled_from(["a", "b", "ab", 3, None]),
        "amount": st.sampled_from([0, 5, 7, 99, "5", None]),
        "path": st.sampled_from(["docs/a.md", "tmp/x/y", "../etc", "a.md"]),
        "owner": st.sampled_from(["acme", "evil"]),
        "repo": st.sampled_from(["site", "acme/site", "other"]),
    },
)
instants = st.sampled_from([datetime(2026, 3, 2, hour, 15, tzinfo=UTC) for hour in (3, 10, 23)])


def test_every_enforcer_that_is_installed_has_its_rules_here() -> None:
    assert set(SAMPLES) == set(INSTALLED), "give the new enforcer's rules a line in SAMPLES"


async def seen(
    policy: list[str], held: list[str], name: str, given_: Any, at: datetime, document: Any, calls: int
) -> list[set[Any] | None]:
    """What a caller with these caveats sees, call by call; None for a refusal."""
    own = {"tool_access", "field_access", "rate_limit", "allow_attempts"}
    more = [kind for kind_name, kind in INSTALLED.items() if kind_name not in own]
    room = lab(policy, *more, default="allow")
    component = Component(kind=Kind.TOOL, name=name, names=(name,))
    token = token_of(held)
    found: list[set[Any] | None] = []
    for _ in range(calls):
        request = RequestContext(principal=ALICE, component=component, arguments=given_, at=at)
        decision = await room.engine.decide(request, token=token)
        if not decision.allowed:
            found.append(None)
            continue
        outcome = await room.engine.finish(decision, Result.of(document), lambda r: redact(document, r)[0])
        found.append(None if outcome.refusal is not None else flat(outcome.applied))
    return found


@pytest.mark.threat("B01")
@settings(max_examples=250, deadline=timedelta(seconds=20), suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(rules, max_size=4),
    st.lists(rules, max_size=3),
    st.lists(rules, min_size=1, max_size=3),
    st.sampled_from(NAMES),
    arguments,
    instants,
    documents,
    st.integers(1, 3),
)
def test_L1_one_caveat_more_of_any_installed_enforcer_never_allows_or_shows_more(
    policy: list[str],
    held: list[str],
    more: list[str],
    name: str,
    given_: dict[str, Any],
    at: datetime,
    document: Any,
    calls: int,
) -> None:
    before = asyncio.run(seen(policy, held, name, given_, at, document, calls))
    after = asyncio.run(seen(policy, held + more, name, given_, at, document, calls))
    for wide, narrow in zip(before, after, strict=True):
        if wide is not None:
            assert narrow is None or narrow <= wide
        elif calls == 1:
            assert narrow is None
    allowed = [sum(each is not None for each in found) for found in (before, after)]
    assert allowed[1] <= allowed[0]
