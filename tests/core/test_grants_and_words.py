"""Grants that nobody can make, change or move; words that show a value as what it is and as nothing else."""

from __future__ import annotations

import secrets
import unicodedata
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_macaroon_middleware.core import wording
from mcp_macaroon_middleware.core.sealing import Broken, Sealer
from mcp_macaroon_middleware.errors import TokenInvalid
from mcp_macaroon_middleware.model import Assurance, Component, Grant, Kind, Phase, Principal, Question
from mcp_macaroon_middleware.tokens import KeyRing, attenuate, macaroons, mint, verify
from mcp_macaroon_middleware.tokens.grants import read_grant, sign_grant

RING = KeyRing.from_secret(secrets.token_hex(32))
GRANT = Grant(
    id="one",
    key_id=RING.current,
    audience="mail",
    caller="alice through one",
    phase=Phase.BEFORE,
    component="send",
    definition="d1",
    rule="r1",
    arguments="a1",
    field="",
    approver="mcp",
    assurance=Assurance.CLIENT,
    uses="period",
    issued_at=1_000.0,
    expires=2_000.0,
)
OTHER: dict[str, Any] = {
    "phase": Phase.AFTER,
    "assurance": Assurance.PERSON,
    "uses": "once",
    "issued_at": 1.0,
    "expires": 9_000.0,
    "arguments": None,
    "by": Principal(kind="user", namespace="https://idp", subject="carol", tenant="acme"),
}


def test_a_grant_says_when_it_is_read_what_it_said_when_it_was_signed() -> None:
    assert read_grant(RING, sign_grant(RING, GRANT), audience="mail") == GRANT
    for name, value in OTHER.items():
        changed = replace(GRANT, **{name: value})
        assert read_grant(RING, sign_grant(RING, changed), audience="mail") == changed


@pytest.mark.threat("B10", "B11")
def test_no_fact_of_a_grant_can_be_changed_by_whoever_has_no_key() -> None:
    signed = macaroons.from_text(sign_grant(RING, GRANT))
    for each in fields(Grant):
        value = OTHER.get(each.name, "other")
        if each.name == "key_id":
            continue
        changed = macaroons.from_text(sign_grant(RING, replace(GRANT, **{each.name: value})))
        forged = replace(signed, identifier=changed.identifier)
        with pytest.raises(TokenInvalid):
            read_grant(RING, macaroons.to_text(forged), audience="mail")


@pytest.mark.threat("A01", "B10")
def test_every_flipped_bit_of_a_grant_is_refused() -> None:
    raw = macaroons.encode(macaroons.from_text(sign_grant(RING, GRANT)))
    import base64

    for position in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[position // 8] ^= 1 << position % 8
        text = "mm_" + base64.urlsafe_b64encode(bytes(flipped)).decode().rstrip("=")
        with pytest.raises(TokenInvalid):
            read_grant(RING, text, audience="mail")


@pytest.mark.threat("B10")
def test_caveats_added_to_a_finished_approval_make_it_none() -> None:
    text = sign_grant(RING, GRANT)
    for caveat in ("time<20990101T000000Z", "bf:*:tool_access:deny", "anything"):
        with pytest.raises(TokenInvalid):
            read_grant(RING, macaroons.append(text, caveat), audience="mail")
    with pytest.raises(TokenInvalid):
        read_grant(RING, attenuate(text, "bf:*:tool_access:deny"), audience="mail")


@pytest.mark.threat("A14", "A11")
def test_a_token_is_no_grant_a_grant_is_no_token_and_another_servers_is_neither() -> None:
    token = mint(RING, subject="alice", audience="mail")
    with pytest.raises(TokenInvalid):
        read_grant(RING, token, audience="mail")
    with pytest.raises(TokenInvalid):
        verify(RING, sign_grant(RING, GRANT), audience="mail")
    with pytest.raises(TokenInvalid):
        read_grant(RING, sign_grant(RING, GRANT), audience="other")
    with pytest.raises(TokenInvalid):
        read_grant(KeyRing.from_secret(secrets.token_hex(32)), sign_grant(RING, GRANT), audience="mail")


# --- what the store keeps -------------------------------------------------------------------------------------------


@pytest.mark.threat("P05")
@given(st.binary(max_size=200), st.text(max_size=20), st.text(max_size=20))
def test_a_sealed_value_opens_under_its_own_name_purpose_and_audience_alone(
    value: bytes, name: str, other: str
) -> None:
    sealer = Sealer(RING, "mail")
    sealed = sealer.seal("record", name, value)
    assert sealer.open("record", name, sealed) == value
    assert len(value) < 8 or value not in sealed
    wrong = [
        lambda: sealer.open("held", name, sealed),
        lambda: Sealer(RING, "other").open("record", name, sealed),
        lambda: Sealer(KeyRing.from_secret(secrets.token_hex(32)), "mail").open("record", name, sealed),
    ]
    if other != name:
        wrong.append(lambda: sealer.open("record", other, sealed))
    for opening in wrong:
        with pytest.raises(Broken):
            opening()


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_sealed_value_with_any_other_byte_does_not_open(position: int, change: int) -> None:
    sealer = Sealer(RING, "mail")
    sealed = bytearray(sealer.seal("held", "x", b"a result that waits"))
    sealed[position % len(sealed)] ^= change
    for text in (bytes(sealed), bytes(sealed[: position % len(sealed)])):
        with pytest.raises(Broken):
            sealer.open("held", "x", text)


# --- words ----------------------------------------------------------------------------------------------------------

NASTY = st.text(
    st.characters(exclude_categories=())
    | st.sampled_from('\u202e\u2066\u200b\u00ad\u3164\u2028\x00\x1b\x7f\\"[]<>`:/.'),
    max_size=30,
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | NASTY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NASTY, inner, max_size=3),
    max_leaves=6,
)


@given(values)
def test_a_value_is_shown_on_one_line_without_a_hidden_character(value: Any) -> None:
    text = wording.value_text(value)
    for character in text:
        assert character == " " or unicodedata.category(character) not in (
            "Cc",
            "Cf",
            "Cs",
            "Co",
            "Cn",
            "Zl",
            "Zp",
            "Zs",
        )
    for word in ("http://", "https://", "mailto:", "javascript:", "www."):
        assert word not in text.lower()


@given(NASTY, NASTY)
def test_two_texts_that_differ_are_shown_differently(one: str, other: str) -> None:
    assert (wording.value_text(one) == wording.value_text(other)) == (one == other)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\u202eb", '"a\\u202eb"'),
        ("a\nb", '"a\\nb"'),
        ("\x1b[31m", '"\\u001b\\[31m"'),
        ("see https://x.example", '"see https:\\//x.example"'),
        ("[ok](javascript:x)", '"\\[ok\\](javascript\\:x)"'),
        ("a\u200bb", '"a\\u200bb"'),
        ("\u00e9\u4e2d", '"\u00e9\u4e2d"'),
        ({"k": [1, None, True]}, '{"k": [1, null, true]}'),
    ],
)
def test_what_misleads_is_shown_as_what_it_is(value: Any, shown: str) -> None:
    assert wording.value_text(value) == shown


@pytest.mark.threat("F08")
def test_a_question_says_who_what_with_which_arguments_and_until_when() -> None:
    arguments = {"to": "bob", "password": wording.Secret("hunter2"), "body": "x" * 70}
    text = wording.message(
        phase=Phase.BEFORE,
        server="mail",
        principal=Principal(kind="user", namespace="https://id.example", subject="alice\u202e", tenant="acme"),
        component=Component(kind=Kind.TOOL, name="send\nTool: other"),
        arguments=wording.shown(arguments),
        questions=(Question(text="Use send?"),),
        expires=datetime(2026, 1, 1, 12, 30, tzinfo=UTC),
    )
    lines = text.splitlines()
    assert lines[0] == "mail: your approval is needed before this call."
    assert lines[2] == "Tool: send\\nTool: other"
    assert lines[3] == "For: alice\\u202e (id.example, acme)"
    assert '  to: "bob"' in lines
    assert "  password: (secret, 7 characters)" in lines
    assert f'  body (70 characters): "{"x" * 70}"' in lines
    assert lines[-1] == "Answer before 12:30:00 UTC; otherwise it is not allowed."
    assert "hunter2" not in text
