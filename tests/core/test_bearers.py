"""What a request may bring in place of a credential: a token made from it by adding caveats, and nothing else."""

from __future__ import annotations

import secrets
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_macaroon_middleware.core.bearers import narrows
from mcp_macaroon_middleware.tokens import KeyRing, attenuate, macaroons, mint

KEYS = KeyRing.from_secret(secrets.token_hex(32))
RULES = ["bf:*:tool_access:only:a", "bf:b:tool_access:deny", "af:c:field_access:deny:x"]


@pytest.mark.threat("B01")
@given(st.lists(st.sampled_from(RULES), max_size=3), st.lists(st.sampled_from(RULES), max_size=3))
def test_what_was_made_from_a_token_narrows_it_and_the_token_narrows_nothing_made_from_it(
    own: list[str], more: list[str]
) -> None:
    token = attenuate(mint(KEYS, subject="alice", audience="mail"), *own)
    child = attenuate(token, *more)
    assert narrows(token, token)
    assert narrows(child, token)
    assert not narrows(token, child)


@pytest.mark.threat("B01", "B02")
def test_a_sibling_another_token_and_one_that_lost_a_caveat_narrow_nothing() -> None:
    parent = mint(KEYS, subject="alice", audience="mail")
    token = attenuate(parent, RULES[0], RULES[1], expires=timedelta(minutes=5))
    read = macaroons.from_text(token)
    assert not narrows(attenuate(parent, RULES[0]), token)
    assert not narrows(mint(KEYS, subject="alice", audience="mail", caveats=RULES), token)
    for index in range(len(read.caveats)):
        fewer = macaroons.RawMacaroon(
            location=read.location,
            identifier=read.identifier,
            caveats=read.caveats[:index] + read.caveats[index + 1 :],
            signature=read.signature,
        )
        assert not narrows(macaroons.to_text(fewer), token)
