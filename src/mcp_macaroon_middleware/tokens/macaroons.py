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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pymacaroons import MACAROON_V2, Macaroon, Verifier
from pymacaroons.caveat_delegates import ThirdPartyCaveatVerifierDelegate
from pymacaroons.utils import create_initial_signature, sign_first_party_caveat, sign_third_party_caveat

from ..errors import TokenInvalid

PREFIX: Final = "mm_"
DISCHARGE: Final = "md_"
MAX_DISCHARGES: Final = 16
MAX_DEPTH: Final = 4
MAX_BYTES: Final = 8192
MAX_CAVEATS: Final = 64
SIGNATURE_BYTES: Final = 32

_OF_DISCHARGES: Final = {"token_format": "discharge_format", "token_too_large": "discharge_too_large"}
"""What is wrong with a discharge's text is not said of the token."""
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


def from_text(text: str, prefix: str = PREFIX) -> RawMacaroon:
    """Reads a token, or a discharge by its own prefix. Raises `TokenInvalid` for whatever would not be written here."""
    try:
        return _from_text(text, prefix)
    except TokenInvalid as error:
        if prefix == DISCHARGE and error.code in _OF_DISCHARGES:
            raise TokenInvalid(_OF_DISCHARGES[error.code]) from None
        raise


def _from_text(text: str, prefix: str) -> RawMacaroon:
    if not isinstance(text, str) or len(text) > len(prefix) + (MAX_BYTES * 4 + 2) // 3:
        raise TokenInvalid("token_too_large")
    body = text[len(prefix) :]
    if not text.startswith(prefix) or not _TEXT.match(body):
        raise TokenInvalid("token_format")
    try:
        data = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except (binascii.Error, ValueError):
        raise TokenInvalid("token_format") from None
    macaroon = decode(data)
    if to_text(macaroon, prefix) != text:
        raise TokenInvalid("token_format")
    return macaroon


def to_text(macaroon: RawMacaroon, prefix: str = PREFIX) -> str:
    """The one text of a macaroon."""
    return prefix + base64.urlsafe_b64encode(encode(macaroon)).rstrip(b"=").decode("ascii")


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


def add_third_party(macaroon: RawMacaroon, *, location: str, root_key: bytes, ticket: bytes) -> RawMacaroon:
    """The macaroon with a caveat that only a discharge signed with `root_key` meets; `ticket` names it to its service.

    Needs no key of the macaroon's own.
    """
    chain = _theirs(macaroon)
    chain.add_third_party_caveat(location, root_key, ticket)
    added = chain.caveats[-1]
    caveat = RawCaveat(identifier=ticket, vid=bytes(added._verification_key_id), location=location.encode())
    extended = RawMacaroon(
        location=macaroon.location,
        identifier=macaroon.identifier,
        caveats=(*macaroon.caveats, caveat),
        signature=binascii.unhexlify(chain.signature_bytes),
    )
    if len(extended.caveats) > MAX_CAVEATS or len(encode(extended)) > MAX_BYTES:
        raise TokenInvalid("token_too_large", f"a token has at most {MAX_CAVEATS} caveats and {MAX_BYTES} bytes")
    return extended


def bound(root: RawMacaroon, discharge: RawMacaroon) -> RawMacaroon:
    """The discharge bound to this very token, so that it serves no other. Source: libmacaroons, prepare_for_request."""
    signature = _theirs(root).prepare_for_request(_theirs(discharge)).signature_bytes
    return replace(discharge, signature=binascii.unhexlify(signature))


Opens = Callable[[bytes, bytes, bytes], None]
"""Called with location, ticket and derived root key of each third-party caveat; raises where they do not belong."""


def check_signature(
    key: bytes, macaroon: RawMacaroon, *, discharges: Sequence[RawMacaroon] = (), opens: Opens | None = None
) -> None:
    """Raises `TokenInvalid` unless the signature covers the identifier and every caveat, in this order.

    No caveat is judged here: a verifier that accepts all of them lets the chain alone decide, so that a caveat which
    was not signed can never be told apart by its content (THREATS A02, A03). Compares in constant time. The code
    `token_unsigned_caveat` says that the signature is good for fewer caveats than the token has. A third-party caveat
    needs its discharge, bound to this token, and `opens` to know its ticket; each discharge serves once.
    """
    _count(macaroon, discharges)
    delegate = _Delegate(opens)
    verifier = Verifier()
    verifier.third_party_caveat_verifier_delegate = delegate
    verifier.satisfy_general(lambda _: True)
    try:
        good = verifier.verify(_theirs(macaroon), key, discharge_macaroons=[_theirs(each) for each in discharges])
    except TokenInvalid:
        raise
    except Exception:  # the library raises many kinds, also bare ones; each means that nothing was proved
        good = False
    if good is True:
        return
    if discharges:
        raise TokenInvalid("token_signature")
    raise TokenInvalid("token_unsigned_caveat" if _signs_fewer(key, macaroon) else "token_signature")


def check_chain(key: bytes, macaroon: RawMacaroon) -> None:
    """Raises `TokenInvalid` unless the signature covers this macaroon itself; its discharges are left for later.

    For a token whose discharges come after it. Whoever relies on a third party's caveat needs `check_signature`.
    """
    if len(macaroon.caveats) > MAX_CAVEATS:
        raise TokenInvalid("token_too_large")
    signature = create_initial_signature(key, macaroon.identifier)
    for caveat in macaroon.caveats:
        before = binascii.unhexlify(signature)
        if caveat.vid is None:
            signature = sign_first_party_caveat(before, caveat.identifier)
        else:
            signature = sign_third_party_caveat(before, caveat.vid, caveat.identifier)
    if not hmac.compare_digest(binascii.unhexlify(signature), macaroon.signature):
        raise TokenInvalid("token_signature")


def _count(macaroon: RawMacaroon, discharges: Sequence[RawMacaroon]) -> None:
    """Bounds the work before any is done: few discharges, none twice, none for nothing, none too deep, no circle."""
    if len(discharges) > MAX_DISCHARGES:
        raise TokenInvalid("discharge_too_many")
    if len(macaroon.caveats) + sum(len(each.caveats) for each in discharges) > MAX_CAVEATS:
        raise TokenInvalid("token_too_large")
    left = {each.identifier: each for each in discharges}
    if len(left) != len(discharges):
        raise TokenInvalid("discharge_twice")
    level = [macaroon]
    for depth in range(MAX_DEPTH + 1):
        wanted = [caveat for each in level for caveat in each.caveats if caveat.vid is not None]
        if wanted and depth == MAX_DEPTH:
            raise TokenInvalid("discharge_too_deep")
        level = []
        for caveat in wanted:
            found = left.pop(caveat.identifier, None)
            if found is None:
                raise TokenInvalid("discharge_missing")
            if found.location != caveat.location:  # no signature covers it, so that it must not say anything else
                raise TokenInvalid("discharge_invalid")
            level.append(found)
    if left:
        raise TokenInvalid("discharge_unused")


class _Delegate(ThirdPartyCaveatVerifierDelegate):  # type: ignore[misc]
    """Has each third-party caveat's ticket looked at, with the root key that the chain reveals."""

    def __init__(self, opens: Opens | None) -> None:
        super().__init__()
        self._opens = opens

    def verify_third_party_caveat(
        self, verifier: Any, caveat: Any, root: Any, macaroon: Any, discharge_macaroons: Any, signature: Any
    ) -> Any:
        if self._opens is None:
            raise TokenInvalid("discharge_missing")
        derived = self._extract_caveat_key(signature, caveat)
        self._opens(bytes(caveat._location or b""), bytes(caveat._caveat_id), bytes(derived))
        return super().verify_third_party_caveat(verifier, caveat, root, macaroon, discharge_macaroons, signature)


def derived_key(root_key: bytes) -> bytes:
    """The key that a discharge's chain begins with. Source: libmacaroons."""
    return hmac.digest(b"macaroons-key-generator", root_key, "sha256")


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
