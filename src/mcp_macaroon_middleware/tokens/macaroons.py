"""Macaroon V2 behind a strict wall: the only text that is accepted is the one that this module would write.

Everything is counted before anything is computed, the signature is checked before any condition, and one exception
leaves: `TokenInvalid`. pymacaroons does the cryptography and nothing else; nobody but this module uses it. Sources:
Birgisson et al., "Macaroons", NDSS 2014; the libmacaroons V2 binary format.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pymacaroons import MACAROON_V2, Macaroon, Verifier

from ..errors import TokenInvalid

PREFIX: Final = "mm_"
MAX_BYTES: Final = 8192
MAX_CAVEATS: Final = 64
SIGNATURE_BYTES: Final = 32

_TEXT: Final = re.compile(r"[A-Za-z0-9_-]+\Z")
_EOS, _LOCATION, _IDENTIFIER, _VID, _SIGNATURE = 0, 1, 2, 4, 6


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RawCaveat:
    """A caveat as it was written. `vid` and `location` are there for a third party's only."""

    identifier: bytes
    vid: bytes | None = None
    location: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RawMacaroon:
    """A macaroon's parts, unverified: nothing may be concluded from them before `check_signature`."""

    location: bytes | None
    identifier: bytes
    caveats: tuple[RawCaveat, ...]
    signature: bytes


# --- the wall -------------------------------------------------------------------------------------------------------


def from_text(text: str) -> RawMacaroon:
    """Reads a token. Raises `TokenInvalid` for whatever this module would not have written."""
    if not isinstance(text, str) or len(text) > len(PREFIX) + (MAX_BYTES * 4 + 2) // 3:
        raise TokenInvalid("token_too_large")
    body = text[len(PREFIX) :]
    if not text.startswith(PREFIX) or not _TEXT.match(body):
        raise TokenInvalid("token_format")
    try:
        data = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except (binascii.Error, ValueError):
        raise TokenInvalid("token_format") from None
    macaroon = decode(data)
    if to_text(macaroon) != text:
        raise TokenInvalid("token_format")
    return macaroon


def to_text(macaroon: RawMacaroon) -> str:
    """The one text of a macaroon."""
    return PREFIX + base64.urlsafe_b64encode(encode(macaroon)).rstrip(b"=").decode("ascii")


def decode(data: bytes) -> RawMacaroon:
    """Reads the V2 binary form: sizes and counts first. Raises `TokenInvalid`."""
    if len(data) > MAX_BYTES:
        raise TokenInvalid("token_too_large")
    if data[:1] != b"\x02":
        raise TokenInvalid("token_format")
    fields = _Fields(data)
    location, identifier = fields.header()
    caveats = tuple(fields.caveats())
    signature = fields.signature()
    macaroon = RawMacaroon(location=location, identifier=identifier, caveats=caveats, signature=signature)
    if encode(macaroon) != data:
        raise TokenInvalid("token_format")
    return macaroon


def encode(macaroon: RawMacaroon) -> bytes:
    """The V2 binary form."""
    out = bytearray(b"\x02")
    _put(out, _LOCATION, macaroon.location)
    _put(out, _IDENTIFIER, macaroon.identifier)
    out.append(_EOS)
    for caveat in macaroon.caveats:
        _put(out, _LOCATION, caveat.location)
        _put(out, _IDENTIFIER, caveat.identifier)
        _put(out, _VID, caveat.vid)
        out.append(_EOS)
    out.append(_EOS)
    _put(out, _SIGNATURE, macaroon.signature)
    return bytes(out)


def _put(out: bytearray, kind: int, data: bytes | None) -> None:
    if data is None:
        return
    out.append(kind)
    size = len(data)
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    out += data


class _Fields:
    """Reads typed, length-prefixed fields one after the other; never past the end, never a length twice."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 1

    def header(self) -> tuple[bytes | None, bytes]:
        location = self._take(_LOCATION) if self._next() == _LOCATION else None
        identifier = self._take(_IDENTIFIER)
        self._end()
        return location, identifier

    def caveats(self) -> Iterator[RawCaveat]:
        for _ in range(MAX_CAVEATS + 1):
            if self._next() == _EOS:
                self._end()
                return
            location = self._take(_LOCATION) if self._next() == _LOCATION else None
            identifier = self._take(_IDENTIFIER)
            vid = self._take(_VID) if self._next() == _VID else None
            self._end()
            if location is not None and vid is None:
                raise TokenInvalid("token_format")
            yield RawCaveat(identifier=identifier, vid=vid, location=location)
        raise TokenInvalid("token_too_large")

    def signature(self) -> bytes:
        signature = self._take(_SIGNATURE)
        if len(signature) != SIGNATURE_BYTES or self._at != len(self._data):
            raise TokenInvalid("token_format")
        return signature

    def _next(self) -> int:
        if self._at >= len(self._data):
            raise TokenInvalid("token_format")
        return self._data[self._at]

    def _end(self) -> None:
        if self._next() != _EOS:
            raise TokenInvalid("token_format")
        self._at += 1

    def _take(self, kind: int) -> bytes:
        if self._next() != kind:
            raise TokenInvalid("token_format")
        self._at += 1
        size = shift = 0
        while True:
            byte = self._next()
            self._at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
            if shift > 21:
                raise TokenInvalid("token_format")
        data = self._data[self._at : self._at + size]
        if len(data) != size:
            raise TokenInvalid("token_format")
        self._at += size
        return data


# --- the chain ------------------------------------------------------------------------------------------------------


def sign(key: bytes, *, location: str, identifier: bytes, caveats: Sequence[str]) -> RawMacaroon:
    """A new macaroon with these caveats."""
    macaroon = Macaroon(location=location, identifier=identifier, key=key, version=MACAROON_V2)
    for caveat in caveats:
        macaroon.add_first_party_caveat(caveat.encode())
    return RawMacaroon(
        location=location.encode(),
        identifier=identifier,
        caveats=tuple(RawCaveat(identifier=caveat.encode()) for caveat in caveats),
        signature=binascii.unhexlify(macaroon.signature_bytes),
    )


def extend(macaroon: RawMacaroon, caveats: Sequence[str]) -> RawMacaroon:
    """The macaroon with more caveats; needs no key, since each signature is the key of the next."""
    chain = _theirs(macaroon)
    for caveat in caveats:
        chain.add_first_party_caveat(caveat.encode())
    added = tuple(RawCaveat(identifier=caveat.encode()) for caveat in caveats)
    extended = RawMacaroon(
        location=macaroon.location,
        identifier=macaroon.identifier,
        caveats=macaroon.caveats + added,
        signature=binascii.unhexlify(chain.signature_bytes),
    )
    if len(extended.caveats) > MAX_CAVEATS or len(encode(extended)) > MAX_BYTES:
        raise TokenInvalid("token_too_large", f"a token has at most {MAX_CAVEATS} caveats and {MAX_BYTES} bytes")
    return extended


def append(text: str, caveat: str) -> str:
    """A token text with one more caveat, whatever it says: what any macaroon library lets a holder do."""
    return to_text(extend(from_text(text), [caveat]))


def check_signature(key: bytes, macaroon: RawMacaroon) -> None:
    """Raises `TokenInvalid` unless the signature covers the identifier and every caveat, in this order.

    No caveat is judged here: a verifier that accepts all of them lets the chain alone decide, so that a caveat which
    was not signed can never be told apart by its content (THREATS A02, A03). Compares in constant time. The code
    `token_unsigned_caveat` says that the signature is good for fewer caveats than the token has.
    """
    if any(caveat.vid is not None for caveat in macaroon.caveats):
        raise TokenInvalid("discharge_missing")
    verifier = Verifier()
    verifier.satisfy_general(lambda _: True)
    try:
        good = verifier.verify(_theirs(macaroon), key, discharge_macaroons=[])
    except Exception:  # the library raises many kinds, also bare ones; each means that nothing was proved
        good = False
    if good is not True:
        raise TokenInvalid("token_unsigned_caveat" if _signs_fewer(key, macaroon) else "token_signature")


def _signs_fewer(key: bytes, macaroon: RawMacaroon) -> bool:
    """Whether the signature is that of the macaroon before its last caveats: they were appended without signing."""
    chain = Macaroon(location="", identifier=macaroon.identifier, key=key, version=MACAROON_V2)
    found = False
    for caveat in macaroon.caveats:
        found |= hmac.compare_digest(binascii.unhexlify(chain.signature_bytes), macaroon.signature)
        try:
            chain.add_first_party_caveat(caveat.identifier)
        except UnicodeDecodeError:  # nobody could have signed more than this with the library
            return found
    return found


def _theirs(macaroon: RawMacaroon) -> Macaroon:
    """The same macaroon as pymacaroons has it, from bytes that this module has read and written itself."""
    location = macaroon.location if macaroon.location is not None else b""
    whole = RawMacaroon(
        location=location, identifier=macaroon.identifier, caveats=macaroon.caveats, signature=macaroon.signature
    )
    try:
        return Macaroon.deserialize(base64.urlsafe_b64encode(encode(whole)).rstrip(b"=").decode("ascii"))
    except Exception:  # the library raises many kinds, also bare ones
        raise TokenInvalid("token_format") from None
