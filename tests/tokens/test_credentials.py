"""Tokens: minted, narrowed, verified; forged, changed and confused ones are refused with one exception."""

from __future__ import annotations

import base64
import dataclasses
import json
import string
import traceback
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_macaroon_middleware.errors import RuleError, TokenInvalid
from mcp_macaroon_middleware.tokens import KeyRing, attenuate, mint, verify
from mcp_macaroon_middleware.tokens.macaroons import (
    MAX_BYTES,
    MAX_CAVEATS,
    PREFIX,
    RawCaveat,
    RawMacaroon,
    append,
    decode,
    encode,
    extend,
    from_text,
    sign,
    to_text,
)

SECRET = "a secret of at least thirty-two bytes, for tests only"
KEYS = KeyRing.from_secret(SECRET)
ONLY_READ = "bf:*:tool_access:only:read_*"


def token(*caveats: str, **fields: Any) -> str:
    fields.setdefault("subject", "alice")
    fields.setdefault("audience", "mail")
    return mint(KEYS, caveats=caveats, **fields)


def refused(text: Any, *, audience: str = "mail", keys: KeyRing | None = None, **fields: Any) -> str:
    """The code that a token is refused with; the exception's text says nothing."""
    with pytest.raises(TokenInvalid) as caught:
        verify(keys or KeyRing.from_secret(SECRET), text, audience=audience, **fields)
    assert str(caught.value) == "the token is not valid"
    return caught.value.code


def raw(text: str) -> bytes:
    body = text.removeprefix(PREFIX)
    return base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))


def test_a_minted_token_verifies_and_says_who_for_whom_and_until_when() -> None:
    verified = verify(KEYS, token(ONLY_READ, tenant="acme", client="cli", namespace="https://idp"), audience="mail")
    assert (verified.subject, verified.namespace, verified.tenant, verified.client) == (
        "alice",
        "https://idp",
        "acme",
        "cli",
    )
    assert verified.caveats == (ONLY_READ,)
    assert timedelta(minutes=59) < verified.expires - datetime.now(UTC) <= timedelta(hours=1)
    assert verified.lineage == (verified.id,)


def test_a_holder_narrows_without_the_key_and_each_narrowing_is_a_branch() -> None:
    first = token()
    second = attenuate(first, ONLY_READ, expires=timedelta(minutes=5))
    third = attenuate(second, "af:read_mail:field_access:deny:body")
    verified = verify(KEYS, third, audience="mail")
    assert verified.caveats == (ONLY_READ, "af:read_mail:field_access:deny:body")
    assert len(verified.branches) == 2
    assert verified.expires - datetime.now(UTC) <= timedelta(minutes=5)
    scopes = [scope for _, scope in verified.scoped_caveats]
    assert scopes == [verified.lineage[:2], verified.lineage]
    assert verify(KEYS, first, audience="mail").id == verified.id


@pytest.mark.parametrize(
    "caveat",
    ["nonsense", "bf:x:tool_access", "bf:x:y:dney", "bf:x:y:deny:time<20990101T000000Z", "time<soon", "branch<x"],
)
def test_what_would_prohibit_everything_is_not_written(caveat: str) -> None:
    with pytest.raises(RuleError):
        attenuate(token(), caveat)
    with pytest.raises(RuleError):
        token(caveat)


def test_a_check_may_refuse_a_rule_that_the_server_would_not_know() -> None:
    def known(rule: Any) -> None:
        raise RuleError(f"no policy named {rule.policy!r}")

    with pytest.raises(RuleError, match="no policy"):
        attenuate(token(), ONLY_READ, check=known)


# --- A: forging, tampering, confusion -------------------------------------------------------------------------------


@pytest.mark.threat("A01")
def test_no_flipped_bit_verifies() -> None:
    data = raw(token(ONLY_READ))
    keys = KeyRing.from_secret(SECRET)
    for index in range(len(data)):
        for bit in range(8):
            flipped = data[:index] + bytes([data[index] ^ 1 << bit]) + data[index + 1 :]
            text = PREFIX + base64.urlsafe_b64encode(flipped).rstrip(b"=").decode()
            with pytest.raises(TokenInvalid):
                verify(keys, text, audience="mail")


@pytest.mark.threat("A01")
def test_no_changed_character_verifies() -> None:
    text = token(ONLY_READ)
    keys = KeyRing.from_secret(SECRET)
    for index in range(len(text)):
        for other in (*string.ascii_letters[::7], "0", "_", "-", "+", "/", "=", " ", "é"):
            if other != text[index]:
                with pytest.raises(TokenInvalid):
                    verify(keys, text[:index] + other + text[index + 1 :], audience="mail")


@pytest.mark.threat("A02", "A03", "B02")
@pytest.mark.parametrize("caveat", ["account = 1", "bf:*:tool_access:only:*", "time<20990101T000000Z"])
def test_an_unsigned_caveat_is_refused_whatever_it_says(caveat: str) -> None:
    macaroon = from_text(token(ONLY_READ))
    unsigned = RawMacaroon(
        location=macaroon.location,
        identifier=macaroon.identifier,
        caveats=(*macaroon.caveats, RawCaveat(identifier=caveat.encode())),
        signature=macaroon.signature,
    )
    assert refused(to_text(unsigned)) == "token_unsigned_caveat"


@pytest.mark.threat("A02")
@pytest.mark.parametrize("caveat", [b"\xff\xfe", b"", b"time<never", b"branch<"])
def test_an_unsigned_caveat_is_told_from_a_wrong_signature_even_where_it_is_no_text(caveat: bytes) -> None:
    macaroon = from_text(attenuate(token(), ONLY_READ))
    unsigned = (*macaroon.caveats, RawCaveat(identifier=caveat), RawCaveat(identifier=b"\xff"))
    text = to_text(dataclasses.replace(macaroon, caveats=unsigned))
    assert refused(text) == "token_unsigned_caveat"
    assert refused(to_text(dataclasses.replace(from_text(text), signature=b"s" * 32))) == "token_signature"


@pytest.mark.threat("B02")
def test_caveats_can_be_neither_removed_nor_reordered() -> None:
    macaroon = from_text(token(ONLY_READ, "af:*:field_access:deny:body"))
    for caveats in (macaroon.caveats[:-1], macaroon.caveats[1:], macaroon.caveats[::-1], ()):
        changed = RawMacaroon(
            location=macaroon.location, identifier=macaroon.identifier, caveats=caveats, signature=macaroon.signature
        )
        assert refused(to_text(changed)) == "token_signature"


@pytest.mark.threat("A04")
@pytest.mark.parametrize("extra", [b"\x01\x01x", b"\x02\x01x", b"\x00", b"\x06\x20" + b"s" * 32])
def test_nothing_may_follow_the_signature(extra: bytes) -> None:
    text = PREFIX + base64.urlsafe_b64encode(raw(token()) + extra).rstrip(b"=").decode()
    assert refused(text) == "token_format"


@pytest.mark.threat("A05")
def test_no_other_spelling_of_the_same_bytes_is_accepted() -> None:
    text = next(t for t in (token() for _ in range(50)) if len(t.removeprefix(PREFIX)) % 4)
    body = text.removeprefix(PREFIX)
    last = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    spellings = [
        PREFIX + body + "=",
        PREFIX + body + "\n",
        " " + text,
        PREFIX + body[:5] + " " + body[5:],
        PREFIX + body[:5] + "!*" + body[5:],
        body,
        PREFIX.upper() + body,
        PREFIX + PREFIX + body,
        PREFIX + base64.standard_b64encode(raw(text)).decode(),
        PREFIX + body[:-1] + last[(last.index(body[-1]) + 1) % 64],
    ]
    for spelling in spellings:
        if spelling != text:
            refused(spelling)


@pytest.mark.threat("A05")
def test_no_overlong_length_is_accepted() -> None:
    data = raw(token())
    size = data[2]
    overlong = data[:2] + bytes([size | 0x80, 0]) + data[3:]
    assert refused(PREFIX + base64.urlsafe_b64encode(overlong).rstrip(b"=").decode()) == "token_format"


@pytest.mark.threat("A11")
def test_a_token_of_another_server_or_key_is_refused() -> None:
    assert refused(token(audience="bank")) == "token_audience"
    assert refused(token(), audience="bank") == "token_audience"
    assert refused(token(), keys=KeyRing.from_secret(SECRET[::-1])) == "token_key_unknown"
    forged = KeyRing({KEYS.current: b"another secret with the same id!!"}, KEYS.current)
    assert refused(mint(forged, subject="alice", audience="mail")) == "token_signature"


@pytest.mark.threat("A11")
def test_the_location_cannot_be_changed_though_no_signature_covers_it() -> None:
    macaroon = from_text(token())
    for location in (b"bank", None, b""):
        moved = RawMacaroon(
            location=location, identifier=macaroon.identifier, caveats=macaroon.caveats, signature=macaroon.signature
        )
        assert refused(to_text(moved)) in ("token_audience", "token_format")


@pytest.mark.threat("A12")
def test_a_previous_key_still_verifies_and_a_retired_one_does_not() -> None:
    old, new = b"the old secret, thirty-two bytes or more", b"the new secret, thirty-two bytes or more"
    before = KeyRing({"1": old}, "1")
    issued = mint(before, subject="alice", audience="mail")
    assert verify(KeyRing({"1": old, "2": new}, "2"), issued, audience="mail").key_id == "1"
    assert refused(issued, keys=KeyRing({"2": new}, "2")) == "token_key_unknown"


@pytest.mark.threat("A13")
def test_a_token_without_an_end_is_refused() -> None:
    macaroon = from_text(token())
    bare = sign(KEYS.derive("token", "mail"), location="mail", identifier=macaroon.identifier, caveats=[])
    assert refused(to_text(bare)) == "token_too_broad"
    rules_only = sign(
        KEYS.derive("token", "mail"), location="mail", identifier=macaroon.identifier, caveats=[ONLY_READ]
    )
    assert refused(to_text(rules_only)) == "token_too_broad"


@pytest.mark.threat("A15")
@pytest.mark.parametrize(
    "change",
    [
        *({"v": 2}, {"v": True}, {"v": "1"}, {"t": "grant"}, {"t": "discharge"}, {"x": 1}, {"k": 1}, {"s": ""}),
        *({"i": "now"}, {"i": True}, {"i": 1.5}, {"i": -1}, {"i": 2**39}, {"i": 10**400}, {"n": ""}, {"a": None}),
        *({"tn": 5}, {"c": []}, {"ns": None}),
    ],
)
def test_an_identifier_of_another_kind_version_or_shape_is_refused(change: dict[str, Any]) -> None:
    """The identifier is signed with the right key: what refuses it is its content alone."""
    facts = {**json.loads(from_text(token()).identifier), **change}
    identifier = json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()
    macaroon = sign(
        KEYS.derive("token", "mail"), location="mail", identifier=identifier, caveats=["time<20990101T000000Z"]
    )
    assert refused(to_text(macaroon)) == "token_identifier"


@pytest.mark.threat("A15")
@pytest.mark.parametrize("field", ["v", "t", "k", "n", "a", "s", "ns", "tn", "c", "i"])
def test_an_identifier_without_one_of_its_fields_is_refused(field: str) -> None:
    facts = json.loads(from_text(token()).identifier)
    del facts[field]
    identifier = json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()
    key = KEYS.derive("token", "mail")
    macaroon = sign(key, location="mail", identifier=identifier, caveats=["time<20990101T000000Z"])
    assert refused(to_text(macaroon)) == "token_identifier"


@pytest.mark.threat("E01")
@pytest.mark.parametrize(
    "name",
    ["bob:tool_access:allow", 'a" or "', "a,b", '","s":"bob', "😀", "é", "x" * 3000],
)
def test_a_name_comes_back_as_it_was_and_makes_no_caveat(name: str) -> None:
    verified = verify(KEYS, token(subject=name, namespace=name, tenant=name[:500], client=name[:500]), audience="mail")
    assert (verified.subject, verified.namespace, verified.tenant) == (name, name, name[:500])
    assert verified.caveats == ()


@pytest.mark.threat("E01")
@pytest.mark.parametrize("name", ["a\nb", "\u202eroot", "\x00", "a*", "a "])
def test_an_older_token_with_a_name_that_is_not_minted_any_more_comes_back_as_it_was(name: str) -> None:
    facts = json.loads(from_text(token()).identifier)
    identifier = json.dumps({**facts, "s": name}, sort_keys=True, separators=(",", ":")).encode()
    key = KEYS.derive("token", "mail")
    macaroon = sign(key, location="mail", identifier=identifier, caveats=["time<20990101T000000Z"])
    verified = verify(KEYS, to_text(macaroon), audience="mail")
    assert (verified.subject, verified.caveats) == (name, ())
    for field in ("subject", "namespace", "tenant", "client"):
        with pytest.raises(ValueError, match="names"):
            token(**{field: name})


@pytest.mark.threat("E01")
@pytest.mark.parametrize("fields", [{"subject": ""}, {"subject": "\ud800"}, {"tenant": "\udfff"}, {"audience": ""}])
def test_a_name_that_cannot_be_written_is_not_minted(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="names"):
        token(**fields)


@pytest.mark.threat("E01")
def test_a_name_of_ten_kilobytes_makes_no_token() -> None:
    with pytest.raises(RuleError) as caught:
        token(subject="x" * 10_240)
    assert caught.value.code == "token_too_large"


@pytest.mark.threat("A15")
@pytest.mark.parametrize("spelling", ["indent", "order", "duplicate", "unicode", "array", "deep"])
def test_an_identifier_has_one_spelling(spelling: str) -> None:
    facts = json.loads(from_text(token()).identifier)
    identifier = {
        "indent": json.dumps(facts, sort_keys=True),
        "order": json.dumps(dict(sorted(facts.items(), reverse=True)), separators=(",", ":")),
        "duplicate": json.dumps(facts, sort_keys=True, separators=(",", ":"))[:-1] + ',"s":"bob"}',
        "unicode": json.dumps({**facts, "s": "é"}, sort_keys=True, separators=(",", ":"), ensure_ascii=False),
        "array": "[]",
        "deep": "[" * 3000,
    }[spelling]
    macaroon = sign(
        KEYS.derive("token", "mail"),
        location="mail",
        identifier=identifier.encode(),
        caveats=["time<20990101T000000Z"],
    )
    assert refused(to_text(macaroon)) == "token_identifier"


@pytest.mark.threat("A14")
def test_a_macaroon_of_another_purpose_is_no_token() -> None:
    identifier = from_text(token()).identifier
    for purpose in ("grant", "leg", "ticket", "session"):
        other = sign(
            KEYS.derive(purpose, "mail"), location="mail", identifier=identifier, caveats=["time<20990101T000000Z"]
        )
        assert refused(to_text(other)) == "token_signature"


@pytest.mark.threat("A16")
def test_sizes_and_counts_are_looked_at_before_any_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    from mcp_macaroon_middleware.tokens import credentials

    def never(*args: Any) -> None:
        raise AssertionError("a signature was computed")

    macaroon = from_text(token())
    many = tuple(RawCaveat(identifier=b"x") for _ in range(10_000))
    big = (RawCaveat(identifier=b"x" * 65_536),)
    monkeypatch.setattr(credentials.macaroons, "check_signature", never)
    for caveats in (many, big, many[: MAX_CAVEATS + 1]):
        grown = RawMacaroon(
            location=b"mail", identifier=macaroon.identifier, caveats=caveats, signature=macaroon.signature
        )
        text = PREFIX + base64.urlsafe_b64encode(encode(grown)).rstrip(b"=").decode()
        assert refused(text) == "token_too_large"
    assert refused(PREFIX + "A" * 1_000_000) == "token_too_large"


@pytest.mark.threat("A16")
def test_a_holder_cannot_grow_a_token_past_the_limits() -> None:
    macaroon = from_text(token())
    with pytest.raises(TokenInvalid):
        extend(macaroon, ["x"] * MAX_CAVEATS)
    with pytest.raises(TokenInvalid):
        extend(macaroon, ["x" * MAX_BYTES])
    with pytest.raises(RuleError):
        token(*[f"bf:t{n}:tool_access:deny" for n in range(MAX_CAVEATS)])


@pytest.mark.threat("A17")
@pytest.mark.parametrize("text", ["Bearer x", "eyJhbGciOiJIUzI1NiJ9.e30.x", "", "mm_", None, 5, b"mm_x"])
def test_what_is_no_token_of_ours_is_refused(text: Any) -> None:
    refused(text)


@pytest.mark.threat("B03")
def test_a_third_partys_caveat_without_discharge_is_refused() -> None:
    macaroon = from_text(token())
    third = RawMacaroon(
        location=macaroon.location,
        identifier=macaroon.identifier,
        caveats=(*macaroon.caveats, RawCaveat(identifier=b"ticket", vid=b"v" * 72, location=b"auth")),
        signature=macaroon.signature,
    )
    assert refused(to_text(third)) == "discharge_missing"


@pytest.mark.threat("Q02")
def test_a_wrong_key_id_and_a_wrong_signature_read_the_same_outside() -> None:
    stranger = mint(KeyRing.from_secret(SECRET[::-1]), subject="alice", audience="mail")
    forged = to_text(dataclasses.replace(from_text(token()), signature=b"s" * 32))
    seen = set()
    for text in (stranger, forged):
        with pytest.raises(TokenInvalid) as caught:
            verify(KEYS, text, audience="mail")
        seen.add((type(caught.value), str(caught.value), repr(caught.value)))
    assert len(seen) == 1


# --- conditions -----------------------------------------------------------------------------------------------------


def test_conditions_are_checked_every_time_though_the_signature_is_remembered() -> None:
    keys = KeyRing.from_secret(SECRET)
    issued = token(expires=timedelta(minutes=5))
    verify(keys, issued, audience="mail")
    later = datetime.now(UTC) + timedelta(minutes=6)
    assert refused(issued, keys=keys, now=later) == "token_expired"
    assert refused(issued, keys=keys, revoked=lambda _: True) == "token_revoked"
    assert refused(issued, keys=keys, audience="bank") == "token_audience"


def test_a_revoked_id_ends_what_was_narrowed_from_it_and_nothing_beside() -> None:
    parent = token()
    child, sibling = attenuate(parent, ONLY_READ), attenuate(parent, ONLY_READ)
    grandchild = attenuate(child, ONLY_READ)
    facts = verify(KEYS, grandchild, audience="mail")
    branch = facts.branches[0]
    for revoked in (frozenset({facts.id}), frozenset({facts.key_id})):
        assert {refused(text, revoked=revoked) for text in (parent, child, sibling, grandchild)} == {"token_revoked"}
    assert {refused(text, revoked={branch}) for text in (child, grandchild)} == {"token_revoked"}
    for text in (parent, sibling):
        assert verify(KEYS, text, audience="mail", revoked={branch}).id == facts.id
    assert verify(KEYS, grandchild, audience="mail", revoked=frozenset({"alice", "mail"}))


def test_a_revocation_that_cannot_be_looked_up_passes_nothing() -> None:
    def broken(_: Any) -> bool:
        raise ConnectionError("no store")

    with pytest.raises(ConnectionError):
        verify(KEYS, token(), audience="mail", revoked=broken)


def test_a_token_of_the_future_is_refused_past_the_skew() -> None:
    ahead = datetime.now(UTC) + timedelta(minutes=5)
    assert refused(token(now=ahead)) == "token_not_yet_valid"
    verify(KEYS, token(now=datetime.now(UTC) + timedelta(seconds=20)), audience="mail")


@pytest.mark.parametrize("caveat", ["time<never", "time<", "branch<x", "branch<"])
def test_a_malformed_condition_refuses(caveat: str) -> None:
    assert refused(append(token(), caveat)) == "token_caveat"


def test_the_earliest_end_counts() -> None:
    short = attenuate(token(expires=timedelta(hours=1)), expires=timedelta(minutes=1))
    longer = append(short, "time<20990101T000000Z")
    assert verify(KEYS, longer, audience="mail").expires == verify(KEYS, short, audience="mail").expires


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=4), st.sampled_from(["ok", "expired", "audience"]))
def test_L1_appending_never_turns_a_refused_token_into_an_accepted_one(texts: list[str], wrong: str) -> None:
    bad = {
        "ok": append(token(), "time<never"),
        "expired": token(expires=timedelta(seconds=-5)),
        "audience": token(audience="bank"),
    }[wrong]
    for text in texts:
        bad = append(bad, text)
    with pytest.raises(TokenInvalid):
        verify(KEYS, bad, audience="mail")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=30) | st.sampled_from([ONLY_READ, "time<20270101T000000Z", "branch<x"]), max_size=5))
def test_L1_appending_keeps_every_caveat_every_branch_and_never_a_later_end(texts: list[str]) -> None:
    whole = token(ONLY_READ, expires=timedelta(days=365))
    before = verify(KEYS, whole, audience="mail")
    for text in texts:
        whole = append(whole, text)
        try:
            after = verify(KEYS, whole, audience="mail")
        except TokenInvalid:
            return
        assert after.caveats[: len(before.caveats)] == before.caveats
        assert after.scoped_caveats[: len(before.caveats)] == before.scoped_caveats
        assert after.lineage[: len(before.lineage)] == before.lineage
        assert after.expires <= before.expires
        assert (after.subject, after.namespace, after.tenant, after.client) == ("alice", "", None, None)
        before = after


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=4))
def test_L1_no_caveat_mends_a_revoked_a_future_a_forged_or_an_undischarged_token(texts: list[str]) -> None:
    good = token()
    revoked = {verify(KEYS, good, audience="mail").id}
    third = RawCaveat(identifier=b"ticket", vid=b"v" * 72, location=b"auth")
    macaroon = from_text(good)
    refusals: list[tuple[str, dict[str, Any]]] = [
        (good, {"revoked": revoked}),
        (token(now=datetime.now(UTC) + timedelta(hours=1)), {}),
        (to_text(dataclasses.replace(macaroon, signature=b"s" * 32)), {}),
        (to_text(dataclasses.replace(macaroon, caveats=(*macaroon.caveats, RawCaveat(identifier=b"x")))), {}),
        (to_text(dataclasses.replace(macaroon, caveats=(*macaroon.caveats, third))), {}),
    ]
    for text, how in refusals:
        for caveat in texts:
            text = append(text, caveat)
        with pytest.raises(TokenInvalid):
            verify(KEYS, text, audience="mail", **how)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=200) | st.from_regex(r"mm_[A-Za-z0-9_-]{0,200}", fullmatch=True))
@pytest.mark.threat("A08")
def test_parsing_raises_one_exception_only(junk: Any) -> None:
    for attempt in (lambda: from_text(junk), lambda: decode(junk if isinstance(junk, bytes) else junk.encode())):
        try:
            attempt()
        except TokenInvalid:
            continue


@settings(max_examples=300, deadline=None)
@given(st.data())
@pytest.mark.threat("A08")
def test_mangled_tokens_raise_one_exception_only(data: Any) -> None:
    whole = raw(token(ONLY_READ))
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    mangled = whole[:start] + data.draw(st.binary(max_size=12)) + whole[end:]
    if mangled != whole:
        with pytest.raises(TokenInvalid):
            verify(KEYS, PREFIX + base64.urlsafe_b64encode(mangled).rstrip(b"=").decode(), audience="mail")


def test_L7_no_repr_or_error_shows_a_key_a_token_or_a_signature() -> None:
    issued = token(ONLY_READ)
    verified = verify(KEYS, issued, audience="mail")
    shown = repr(KEYS) + repr(verified) + repr(from_text(issued)) + f"{verified}"
    signature = from_text(issued).signature.hex()
    for secret in (SECRET, issued, signature, ONLY_READ, KEYS.derive("token", "mail").hex()):
        assert secret not in shown


def test_L7_no_trace_of_a_refusal_shows_the_token() -> None:
    macaroon = from_text(token(ONLY_READ))
    texts = [
        to_text(dataclasses.replace(macaroon, signature=b"s" * 32)),
        to_text(dataclasses.replace(macaroon, identifier=b'{"secret subject"')),
        append(to_text(macaroon), "time<never"),
        to_text(macaroon)[:-1] + "=",
        to_text(macaroon) + "A",
    ]
    for text in texts:
        with pytest.raises(TokenInvalid) as caught:
            verify(KEYS, text, audience="mail")
        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.args)
        for secret in (text, ONLY_READ, macaroon.signature.hex(), "secret subject", SECRET, "time<never"):
            assert secret not in shown


def test_the_signature_cache_is_bounded_and_keeps_no_token() -> None:
    keys = KeyRing.from_secret(SECRET)
    for number in range(50):
        verify(keys, token(client=str(number)), audience="mail")
    assert len(keys.verified) == 50
    refused(token() + "A", keys=keys)
    refused(to_text(dataclasses.replace(from_text(token()), signature=b"s" * 32)), keys=keys)
    assert len(keys.verified) == 50
    assert all(isinstance(mark, bytes) and len(mark) == 32 for mark in keys.verified)


def test_verifying_again_computes_no_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    from mcp_macaroon_middleware.tokens import credentials

    keys, issued = KeyRing.from_secret(SECRET), token(*[f"bf:t{n}:tool_access:deny" for n in range(20)])
    verify(keys, issued, audience="mail")
    calls = 0
    chain = credentials.macaroons.check_signature

    def counting(*args: Any) -> None:
        nonlocal calls
        calls += 1
        chain(*args)

    monkeypatch.setattr(credentials.macaroons, "check_signature", counting)
    for _ in range(10):
        verify(keys, issued, audience="mail")
    assert calls == 0


def test_the_signature_cache_never_grows_past_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    from mcp_macaroon_middleware.tokens import credentials

    monkeypatch.setattr(credentials, "CACHED", 4)
    keys = KeyRing.from_secret(SECRET)
    for _ in range(20):
        verify(keys, token(), audience="mail")
        assert len(keys.verified) <= 4
