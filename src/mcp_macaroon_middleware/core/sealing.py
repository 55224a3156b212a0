"""Seals what the store keeps for us, so that whoever can write to the store can neither read nor make nor move it.

A sealed value is encrypted and authenticated under a derived key, with the name it is stored under as associated data
(AES-256-GCM, NIST SP 800-38D; random 96-bit nonces). It can still be deleted, or an old one put back.
"""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..errors import KeyRingError, MacaroonError
from ..tokens import KeyRing

MARK: Final = b"mm1"
NONCE: Final = 12


class Broken(MacaroonError):
    """A stored value that this server did not write under that name, or whose key is gone."""

    code = "record_broken"


class Sealer:
    """Seals and opens values for one audience. `purpose` is `record` or `held`."""

    def __init__(self, keys: KeyRing, audience: str) -> None:
        self._keys = keys
        self._audience = audience

    def __repr__(self) -> str:
        return "Sealer(…)"

    def seal(self, purpose: str, name: str, value: bytes) -> bytes:
        """The sealed value, to be stored under `name` and nowhere else."""
        key_id = self._keys.current
        head = MARK + bytes([len(key_id)]) + key_id.encode("ascii")
        nonce = os.urandom(NONCE)
        return head + nonce + self._cipher(purpose, key_id).encrypt(nonce, value, _bound(head, purpose, name))

    def open(self, purpose: str, name: str, sealed: bytes) -> bytes:
        """The value. Raises `Broken` for whatever was not sealed here for this very name and purpose."""
        if sealed[:3] != MARK or len(sealed) < 4:
            raise Broken("the stored value has another form")
        end = 4 + sealed[3]
        head, nonce, rest = sealed[:end], sealed[end : end + NONCE], sealed[end + NONCE :]
        try:
            cipher = self._cipher(purpose, head[4:].decode("ascii"))
            return cipher.decrypt(nonce, rest, _bound(head, purpose, name))
        except (InvalidTag, KeyRingError, ValueError):
            raise Broken("the stored value was not written here") from None

    def is_current(self, sealed: bytes) -> bool:
        """Whether a value was sealed under the key that signs now, as it says itself."""
        return sealed[4 : 4 + sealed[3]] == self._keys.current.encode("ascii") if len(sealed) > 4 else False

    def _cipher(self, purpose: str, key_id: str) -> AESGCM:
        return AESGCM(self._keys.derive(purpose, self._audience, key_id))


def _bound(head: bytes, purpose: str, name: str) -> bytes:
    return b"\0".join((head, purpose.encode(), name.encode("utf-8", "surrogatepass")))
