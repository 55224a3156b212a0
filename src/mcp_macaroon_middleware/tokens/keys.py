"""The key ring: secrets with ids, one current, others still accepted; every use has a derived key of its own.

A key is never shown: not in a `repr`, an exception or a log. There is no default key, and none under 32 bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..errors import KeyRingError

MIN_BYTES: Final = 32
SUFFIX: Final = ".key"
PURPOSES: Final = frozenset(
    {"token", "grant", "leg", "answer", "held", "record", "digest", "ticket", "link", "session", "audit"}
)
PLACEHOLDERS: Final = frozenset(
    {
        "your-secret-key-here",
        "your-secret-key",
        "your_secret_key",
        "this_is_a_secret_key",
        "this-is-a-secret-key",
        "secret",
        "secret_key",
        "supersecret",
        "changeme",
        "change-me",
        "...",
        "",
    }
)
MAKE_ONE: Final = "make one with: mcp-macaroon keys new --print"

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


class KeyRing:
    """Secrets by id, immutable. `current` signs, every id in `ids` verifies, any other verifies nothing."""

    __slots__ = ("__cache", "__secrets", "current", "verified")

    def __init__(self, keys: Mapping[str, bytes], current: str) -> None:
        if current not in keys:
            raise KeyRingError(f"the ring has no key {current!r}")
        for key_id, secret in keys.items():
            if not _ID.match(key_id):
                raise KeyRingError("a key id has letters, digits, . _ and - only")
            if len(secret) < MIN_BYTES:
                raise KeyRingError(f"the key {key_id} has {len(secret)} bytes, {MIN_BYTES} are needed; {MAKE_ONE}")
        self.current = current
        self.__secrets = MappingProxyType(dict(keys))
        self.__cache: dict[tuple[str, str, str], bytes] = {}
        self.verified: dict[bytes, object] = {}

    def __repr__(self) -> str:
        return f"KeyRing(current={self.current!r}, ids={self.ids!r})"

    def __reduce__(self) -> str:
        raise TypeError("a key ring is not to be copied out of the process")

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of every accepted key, in order."""
        return tuple(sorted(self.__secrets))

    def __contains__(self, key_id: object) -> bool:
        return key_id in self.__secrets

    def derive(self, purpose: str, audience: str, key_id: str | None = None) -> bytes:
        """32 bytes for one purpose and audience: HKDF-SHA256 (RFC 5869) of the key, the current one by default.

        Raises `KeyRingError` for an unknown purpose or key.
        """
        key_id = self.current if key_id is None else key_id
        mark = (purpose, audience, key_id)
        found = self.__cache.get(mark)
        if found is None:
            found = self._derived(*mark)
            if len(self.__cache) < 1024:
                self.__cache[mark] = found
        return found

    def _derived(self, purpose: str, audience: str, key_id: str) -> bytes:
        if purpose not in PURPOSES:
            raise KeyRingError(f"no purpose {purpose!r}")
        secret = self.__secrets.get(key_id)
        if secret is None:
            raise KeyRingError("the ring has no such key")
        info = json.dumps(["mcp-macaroon", 1, purpose, audience], ensure_ascii=True).encode()
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)

    @classmethod
    def from_secret(cls, secret: str | bytes) -> KeyRing:
        """A ring of one key. A placeholder of any documentation, or less than 32 bytes, is refused."""
        raw = secret.encode() if isinstance(secret, str) else secret
        if raw.decode("utf-8", "replace").strip().lower() in PLACEHOLDERS:
            raise KeyRingError(f"that is a placeholder from the documentation, not a key; {MAKE_ONE}")
        if len(raw) < MIN_BYTES:
            raise KeyRingError(f"a key has at least {MIN_BYTES} bytes, this one has {len(raw)}; {MAKE_ONE}")
        if len(set(raw)) < 8:
            raise KeyRingError(f"that key has hardly any different characters; {MAKE_ONE}")
        key_id = "k" + hashlib.sha256(b"mcp-macaroon key id\0" + raw).hexdigest()[:12]
        return cls({key_id: raw}, key_id)

    @classmethod
    def from_directory(cls, directory: str | Path) -> KeyRing:
        """The ring in a directory: one `<id>.key` file a key, the newest id signs; `retired/` is not looked at."""
        directory = Path(directory)
        if not directory.is_dir():
            raise KeyRingError(
                f"there is no key directory {directory.name}; make it with: mcp-macaroon keys new {directory}"
            )
        keys = {path.name.removesuffix(SUFFIX): _read(path) for path in sorted(directory.glob("*" + SUFFIX))}
        if not keys:
            raise KeyRingError(f"{directory.name} holds no key; make one with: mcp-macaroon keys new {directory}")
        return cls(keys, max(keys))


def new_secret() -> str:
    """A fresh secret as text: 48 random bytes, for `MACAROON_SECRET_KEY`."""
    return secrets.token_urlsafe(48)


def new_key(directory: str | Path) -> str:
    """Makes a key in a directory, readable by its owner alone, and returns its id. It becomes the current one."""
    directory = Path(directory)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    key_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}{time.time_ns() % 10**9:09d}Z-{secrets.token_hex(3)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    descriptor = os.open(directory / (key_id + SUFFIX), flags, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(base64.urlsafe_b64encode(secrets.token_bytes(48)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return key_id


def _read(path: Path) -> bytes:
    try:
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise KeyRingError(f"others can read the key file {path.name}; run: chmod 600 {path}")
        return base64.b64decode(path.read_bytes().strip(), altchars=b"-_", validate=True)
    except OSError as error:
        raise KeyRingError(f"cannot read the key file {path.name}: {error.strerror}") from None
    except ValueError:
        raise KeyRingError(f"the key file {path.name} is damaged; restore it or remove it") from None
