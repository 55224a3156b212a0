"""The wall and the chain: what is compared, what is counted, what is never computed."""

from __future__ import annotations

import base64
import dataclasses
import hmac
from typing import Any

import pymacaroons.verifier
import pytest

from mcp_macaroon_middleware.errors import TokenInvalid
from mcp_macaroon_middleware.tokens import macaroons
from mcp_macaroon_middleware.tokens.macaroons import (
    MAX_BYTES,
    MAX_CAVEATS,
    PREFIX,
    RawCaveat,
    RawMacaroon,
    check_signature,
    decode,
    encode,
    from_text,
    sign,
    to_text,
)

KEY = b"k" * 32


def signed(*caveats: str) -> RawMacaroon:
    return sign(KEY, location="mail", identifier=b"id", caveats=caveats)


def third(number: int) -> RawCaveat:
    return RawCaveat(identifier=b"ticket %d" % number, vid=b"v" * 72, location=b"auth")


@pytest.mark.threat("Q01")
def test_signatures_are_compared_in_constant_time_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []

    def recording(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return hmac.compare_digest(one, other)

    assert pymacaroons.verifier.constant_time_compare is hmac.compare_digest
    monkeypatch.setattr(pymacaroons.verifier, "constant_time_compare", recording)
    monkeypatch.setattr(macaroons, "hmac", type("Recording", (), {"compare_digest": staticmethod(recording)}))
    good = signed("a", "b", "c")
    check_signature(KEY, good)
    assert compared == [(64, 64)]
    for first in (good.signature[:1], bytes([good.signature[0] ^ 1])):
        compared.clear()
        with pytest.raises(TokenInvalid):
            check_signature(KEY, dataclasses.replace(good, signature=first + b"s" * 31))
        assert compared == [(64, 64), (32, 32), (32, 32), (32, 32)]
    compared.clear()
    with pytest.raises(TokenInvalid):
        check_signature(KEY, dataclasses.replace(good, signature=signed("a").signature))
    assert compared == [(64, 64), (32, 32), (32, 32), (32, 32)]  # found at the second, and no sooner done


@pytest.mark.threat("A02")
def test_a_caveat_is_signed_whatever_it_says() -> None:
    """The library leaves a caveat that is not satisfied out of the chain, so an unsigned one would pass there."""
    good = signed("never satisfied")
    unsigned = dataclasses.replace(good, caveats=(*good.caveats, RawCaveat(identifier=b"never satisfied either")))
    theirs = pymacaroons.Verifier()
    theirs.satisfy_exact("never satisfied")
    text = base64.urlsafe_b64encode(encode(unsigned)).decode()
    assert theirs.verify(pymacaroons.Macaroon.deserialize(text), KEY) is True
    with pytest.raises(TokenInvalid) as caught:
        check_signature(KEY, unsigned)
    assert caught.value.code == "token_unsigned_caveat"


@pytest.mark.threat("B06", "B07")
@pytest.mark.parametrize("count", [1, 18, MAX_CAVEATS])
def test_third_partys_caveats_are_refused_before_any_chain_is_computed(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    def never(*args: Any, **named: Any) -> None:
        raise AssertionError("a chain was computed")

    deep = dataclasses.replace(signed(), caveats=tuple(third(number) for number in range(count)))
    monkeypatch.setattr(macaroons, "Verifier", never)
    monkeypatch.setattr(macaroons, "Macaroon", never)
    with pytest.raises(TokenInvalid) as caught:
        check_signature(KEY, from_text(to_text(deep)))
    assert caught.value.code == "discharge_missing"


@pytest.mark.threat("B04", "A14")
def test_a_discharge_beside_its_token_is_no_token() -> None:
    """Nothing takes discharges yet; one sent in a row with its token, or in its place, is refused."""
    root = dataclasses.replace(signed("a"), caveats=(RawCaveat(identifier=b"a"), third(1)))
    discharge = sign(b"caveat key", location="auth", identifier=b"ticket 1", caveats=[])
    one, two = to_text(root), to_text(discharge)
    row = PREFIX + base64.urlsafe_b64encode(encode(root) + encode(discharge)).rstrip(b"=").decode()
    for text in (f"{one},{two}", f"{one} {two}", one + two, row):
        with pytest.raises(TokenInvalid):
            from_text(text)
    with pytest.raises(TokenInvalid):
        check_signature(KEY, from_text(two))


@pytest.mark.threat("A16")
def test_the_limits_are_exact() -> None:
    full = signed(*["x"] * MAX_CAVEATS)
    assert from_text(to_text(full)) == full
    with pytest.raises(TokenInvalid) as caught:
        from_text(to_text(dataclasses.replace(full, caveats=(*full.caveats, RawCaveat(identifier=b"x")))))
    assert caught.value.code == "token_too_large"
    spare = MAX_BYTES - len(encode(signed("")))
    for size, fits in ((spare - 1, True), (spare, False)):  # a length of 8 kB takes two bytes, an empty one takes one
        big = dataclasses.replace(signed(), caveats=(RawCaveat(identifier=b"x" * size),))
        assert (len(encode(big)) <= MAX_BYTES) is fits
        if fits:
            assert from_text(to_text(big)) == big
        else:
            with pytest.raises(TokenInvalid) as caught:
                from_text(to_text(big))
            assert caught.value.code == "token_too_large"


@pytest.mark.threat("A05")
def test_a_text_whose_last_character_carries_spare_bits_is_refused() -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for padding in (1, 2):
        text = next(
            t for t in (to_text(signed("x" * n)) for n in range(3)) if -len(t.removeprefix(PREFIX)) % 4 == padding
        )
        last = alphabet.index(text[-1])
        assert last % (4 if padding == 1 else 16) == 0
        for spare in range(1, 4 if padding == 1 else 16):
            with pytest.raises(TokenInvalid):
                from_text(text[:-1] + alphabet[last + spare])


@pytest.mark.threat("A08")
@pytest.mark.parametrize("size", [b"\xff" * 9 + b"\x01", b"\x80\x80\x80\x80\x01", b"\xff\xff\x7f", b"\x80\x00"])
def test_a_length_that_is_too_long_or_written_too_long_is_refused(size: bytes) -> None:
    with pytest.raises(TokenInvalid):
        decode(b"\x02\x01" + size + b"mail\x02\x02id\x00\x00\x06\x20" + b"s" * 32)


@pytest.mark.threat("A08")
def test_whatever_the_library_raises_one_exception_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    good = signed("a")
    for error in (
        RecursionError("deep"),
        KeyError("x"),
        AssertionError("x"),
        UnicodeDecodeError("utf-8", b"", 0, 1, "x"),
    ):

        def raising(*args: Any, error: Exception = error, **named: Any) -> bool:
            raise error

        monkeypatch.setattr(macaroons.Verifier, "verify", raising)
        with pytest.raises(TokenInvalid) as caught:
            check_signature(KEY, good)
        assert caught.value.__cause__ is None
