"""Whatever comes in place of a token: one kind of exception, no hang, work in proportion to the cap, never an allow."""

from __future__ import annotations

import base64
import random
import secrets
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pymacaroons import MACAROON_V2, Macaroon, Verifier

from mcp_macaroon_middleware.errors import TokenInvalid
from mcp_macaroon_middleware.tokens import (
    KeyRing,
    ThirdParty,
    attenuate,
    bind,
    discharge,
    holds,
    inspect,
    macaroons,
    mint,
    named,
    require,
    unmet,
    verify,
)

KEYS = KeyRing.from_secret(secrets.token_hex(32))
PARTY = ThirdParty(location="https://approve.example", key=KeyRing.from_secret(secrets.token_hex(32)))
GOOD = attenuate(mint(KEYS, subject="alice", audience="mail"), "bf:*:tool_access:only:read_*")
WITH_PARTY = require(GOOD, PARTY, subject="alice", audience="mail")
((PLACE, TICKET),) = unmet(WITH_PARTY)
DISCHARGE = discharge(PARTY.open(TICKET), TICKET, expires=timedelta(hours=20))
(BOUND,) = bind(WITH_PARTY, [DISCHARGE])


def refused(text: Any, discharges: tuple[Any, ...] = ()) -> bool:
    """Whether every reader of tokens refuses with its one exception, or reads what is there and allows nothing new."""
    for read in (named, inspect):
        with suppress(TokenInvalid):
            read(text)
    with suppress(TokenInvalid):
        holds(KEYS, text, audience="mail")
    try:
        verify(KEYS, text, audience="mail", discharges=discharges, parties={PLACE: PARTY})
    except TokenInvalid:
        return True
    return False


@pytest.mark.threat("A08")
@settings(max_examples=400, deadline=timedelta(seconds=2))
@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda raw: raw.decode("latin-1")))
@example("mm_")
@example("mm_" + "A" * 10)
@example("md_AgE")
@example("\ud800")
@example("mm_Ag\x00")
def test_any_text_is_refused_with_one_exception(text: str) -> None:
    assert refused(text)
    assert refused("mm_" + text)


@pytest.mark.threat("A08")
@settings(max_examples=400, deadline=timedelta(seconds=2))
@given(st.binary(max_size=500))
def test_any_bytes_behind_the_prefix_are_refused_with_one_exception(raw: bytes) -> None:
    for body in (raw, b"\x02" + raw, b"\x02\x01\x04mail\x02" + raw):
        text = base64.urlsafe_b64encode(body).decode().rstrip("=")
        assert refused("mm_" + text)
        assert refused(WITH_PARTY, ("md_" + text,))


@pytest.mark.threat("A01", "A08")
@settings(max_examples=600, deadline=timedelta(seconds=2))
@given(st.sampled_from([GOOD, WITH_PARTY]), st.data())
def test_a_token_that_was_changed_anywhere_is_refused(token: str, data: Any) -> None:
    raw = bytearray(base64.urlsafe_b64decode(token[3:] + "=" * (-len(token[3:]) % 4)))
    how = data.draw(st.sampled_from(["flip", "cut", "insert", "repeat", "swap"]))
    place = data.draw(st.integers(0, len(raw) - 1))
    if how == "flip":
        raw[place] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "cut":
        del raw[place : place + data.draw(st.integers(1, 20))]
    elif how == "insert":
        raw[place:place] = data.draw(st.binary(min_size=1, max_size=20))
    elif how == "repeat":
        raw[place:place] = raw[place : place + data.draw(st.integers(1, 40))]
    else:
        other = data.draw(st.integers(0, len(raw) - 1))
        raw[place], raw[other] = raw[other], raw[place]
    text = "mm_" + base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("=")
    if text != token:
        assert refused(text, (BOUND,))


@pytest.mark.threat("A08", "B04")
@settings(max_examples=300, deadline=timedelta(seconds=2))
@given(st.data())
def test_a_discharge_that_was_changed_anywhere_is_refused(data: Any) -> None:
    raw = bytearray(base64.urlsafe_b64decode(BOUND[3:] + "=" * (-len(BOUND[3:]) % 4)))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= 1 << data.draw(st.integers(0, 7))
    changed = "md_" + base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("=")
    assert refused(WITH_PARTY, (changed,))


@pytest.mark.threat("A16")
@pytest.mark.parametrize("size", [8_192, 16_384, 100_000, 1_000_000, 10_000_000])
def test_what_is_too_large_is_refused_before_any_work(size: int) -> None:
    for body in ("A" * size, base64.urlsafe_b64encode(random.Random(size).randbytes(size)).decode().rstrip("=")):
        began = time.perf_counter()
        assert refused("mm_" + body)
        assert refused(WITH_PARTY, ("md_" + body,))
        assert time.perf_counter() - began < 2  # in proportion to reading the text, not to parsing it


@pytest.mark.threat("A16", "B07")
def test_sixteen_discharges_are_the_most_whatever_they_are() -> None:
    assert not refused(WITH_PARTY, (BOUND,))
    for count in (2, 16, 17, 1_000):
        assert refused(WITH_PARTY, (BOUND,) * count)
    for wrong in (None, 3, b"md_", ["md_"]):
        assert refused(WITH_PARTY, (wrong,))


# --- beside plain pymacaroons -------------------------------------------------------------------------------------


caveats = st.lists(
    st.sampled_from(
        ["bf:*:tool_access:only:read_*", "bf:b:tool_access:deny", "af:c:field_access:deny:x", "bf:a:b:deny"]
    ),
    max_size=12,
)


def theirs(token: str) -> Macaroon:
    return Macaroon.deserialize(token[3:])


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def they_accept(token: str, key: bytes) -> bool:
    verifier = Verifier()
    verifier.satisfy_general(lambda _: True)
    try:
        return bool(verifier.verify(theirs(token), key))
    except Exception:
        return False


@settings(max_examples=200, deadline=timedelta(seconds=2))
@given(caveats, st.text(min_size=1, max_size=20), st.binary(min_size=32, max_size=32))
def test_a_valid_token_is_valid_and_says_the_same_to_plain_pymacaroons(
    texts: list[str], subject: str, other: bytes
) -> None:
    try:
        token = mint(KEYS, subject=subject, audience="mail", caveats=texts)
    except ValueError:
        return  # lone surrogates
    read = verify(KEYS, token, audience="mail")
    key = KEYS.derive("token", "mail")
    assert they_accept(token, key)
    assert not they_accept(token, other)
    there = theirs(token)
    assert there.identifier == macaroons.from_text(token).identifier
    assert [_text(caveat.caveat_id) for caveat in there.caveats][1:] == list(read.caveats)
    assert bytes.fromhex(there.signature) == macaroons.from_text(token).signature


@settings(max_examples=200, deadline=timedelta(seconds=2))
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30), min_size=1, max_size=8))
def test_what_plain_pymacaroons_appends_is_signed_for_us_and_read_as_it_stands(texts: list[str]) -> None:
    chain = theirs(GOOD)
    for text in texts:
        chain.add_first_party_caveat(text)
    token = "mm_" + chain.serialize().rstrip("=")
    try:
        read = verify(KEYS, token, audience="mail")
    except TokenInvalid as error:
        assert error.code in ("token_caveat", "token_too_large", "token_expired")  # noqa: PT017
        return
    assert they_accept(token, KEYS.derive("token", "mail"))
    rules = [text for text in texts if not text.startswith(("time<", "branch<"))]
    assert list(read.caveats)[1:] == rules


def test_plain_pymacaroons_makes_no_token_of_ours_without_the_key() -> None:
    forged = Macaroon(
        location="mail", identifier=macaroons.from_text(GOOD).identifier, key="x" * 32, version=MACAROON_V2
    )
    forged.add_first_party_caveat("time<20990101T000000Z")
    assert refused("mm_" + forged.serialize().rstrip("="))
