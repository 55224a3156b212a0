"""What a holder may write: nothing that the server's plugins would answer by prohibiting everything."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mcp_macaroon_middleware import KeyRing, attenuate, mint, verify
from mcp_macaroon_middleware.errors import RuleError

KEYS = KeyRing.from_secret("a secret of at least thirty-two bytes, for tests only")


def token() -> str:
    return mint(KEYS, subject="alice", audience="mail", caveats=["bf:*:tool_access:only:read_*"])


@pytest.mark.threat("A15")
@pytest.mark.parametrize(
    ("caveat", "why"),
    [
        ("bf:*:no_such_policy:deny", "no policy named"),
        ("bf:*:tool_access:allow", "refuses nothing"),
        ("af:*:field_access:allow:id", "refuses nothing"),
        ("af:*:tool_access:deny", "judged only before"),
        ("bf:t:rate_limit:allow:0/minute", "no limit"),
    ],
)
def test_a_caveat_that_would_prohibit_everything_is_not_written(caveat: str, why: str) -> None:
    with pytest.raises(RuleError, match=why):
        attenuate(token(), caveat)
    with pytest.raises(RuleError, match=why):
        mint(KEYS, subject="alice", audience="mail", caveats=[caveat])


def test_a_holder_narrows_with_what_is_installed_here() -> None:
    narrow = attenuate(token(), "af:read_mail:field_access:deny:body", expires=timedelta(minutes=5))
    assert verify(KEYS, narrow, audience="mail").caveats[-1] == "af:read_mail:field_access:deny:body"


def test_a_holder_who_knows_better_may_write_a_policy_of_the_servers_own() -> None:
    narrow = attenuate(token(), "bf:*:house_rule:allow", check=lambda rule: None)
    assert "bf:*:house_rule:allow" in verify(KEYS, narrow, audience="mail").caveats
