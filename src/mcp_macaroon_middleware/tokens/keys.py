"""The key ring: secrets with ids, one current, others still accepted; every use has a derived key of its own.

A key is never shown: not in a `repr`, an exception or a log. There is no default key, and none under 32 bytes.

A ring on disk is a key file (`keyfile`), or a directory with one file a key: `<id>.key` holds at least 32 random bytes
as base64, on one line, for its owner's eyes alone; the id that sorts last signs. To retire a key there, remove its file
or move it to `retired/`. `names` beside them, made with the second key, is the root of what must outlive every key.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..errors import KeyRingError

MIN_BYTES: Final = 32
MIN_VARIETY: Final = 8
MAX_FILE_BYTES: Final = 4096
SUFFIX: Final = ".key"
PURPOSES: Final = frozenset(
    {"token", "grant", "leg", "answer", "held", "record", "digest", "ticket", "link", "session", "audit"}
)
NAMING: Final = frozenset({"answer", "digest", "audit"})
"""Purposes that name or compare, and open nothing. They stay the same when the ring turns to another key: what is
revoked or declined is found under such names, and would be forgotten with every rotation."""
NAMES_FILE: Final = "names"
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
    """Secrets by id, immutable. `current` signs, every id in `ids` verifies, any other verifies nothing.

    `until` ends keys at instants: from then on they verify nothing. `names` is the root of names and digests, which
    outlives keys; by default it is made of the first key by id.
    """

    __slots__ = ("__cache", "__current", "__names", "__secrets", "__until", "verified")

    def __init__(
        self,
        keys: Mapping[str, bytes],
        current: str,
        *,
        until: Mapping[str, datetime] | None = None,
        names: bytes | None = None,
    ) -> None:
        if current not in keys:
            raise KeyRingError(f"the ring has no key {current!r}")
        for key_id, secret in keys.items():
            if not is_key_id(key_id):
                raise KeyRingError("a key id has letters, digits, . _ and - only")
            if len(secret) < MIN_BYTES:
                raise KeyRingError(f"the key {key_id} has {len(secret)} bytes, {MIN_BYTES} are needed; {MAKE_ONE}")
        if current in (until or {}) or not set(until or {}) <= set(keys):
            raise KeyRingError("only a previous key of the ring has an end")
        if names is not None and len(names) < MIN_BYTES:
            raise KeyRingError(f"the root of names has {len(names)} bytes, {MIN_BYTES} are needed")
        self.__current = current
        self.__secrets = MappingProxyType(dict(keys))
        self.__until = MappingProxyType({key_id: end.timestamp() for key_id, end in (until or {}).items()})
        self.__names = names or names_of(keys[min(keys)])
        self.__cache: dict[tuple[str, str, str], bytes] = {}
        self.verified: dict[bytes, object] = {}

    def __repr__(self) -> str:
        return f"KeyRing(current={self.current!r}, ids={self.ids!r})"

    def __reduce__(self) -> str:
        raise TypeError("a key ring is not to be copied out of the process")

    @property
    def current(self) -> str:
        """The id of the key that signs."""
        return self.__current

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of every accepted key, in order."""
        return tuple(sorted(key_id for key_id in self.__secrets if key_id in self))

    @property
    def fingerprint(self) -> str:
        """The same for rings with the same keys; it tells nothing about them."""
        return ",".join(f"{key_id} {self.derive('ticket', 'fingerprint', key_id).hex()}" for key_id in self.ids)

    @property
    def names(self) -> bytes:
        """The root of names and digests: for whoever keeps it with the keys, and for nobody else."""
        return self.__names

    def __contains__(self, key_id: object) -> bool:
        return key_id in self.__secrets and not self._ended(key_id)

    def _ended(self, key_id: object) -> bool:
        end = self.__until.get(key_id) if isinstance(key_id, str) else None
        return end is not None and time.time() >= end

    def derive(self, purpose: str, audience: str, key_id: str | None = None) -> bytes:
        """32 bytes for one purpose and audience: HKDF-SHA256 (RFC 5869) of the key, the current one by default.

        What is in `NAMING` is derived from the root of names instead, unless a key is named. Raises `KeyRingError` for
        an unknown purpose, and for a key that is not there or has ended.
        """
        if key_id is not None and key_id not in self:
            raise KeyRingError("the ring has no such key")
        mark = (purpose, audience, key_id or ("" if purpose in NAMING else self.current))
        found = self.__cache.get(mark)
        if found is None:
            found = self._derived(*mark)
            if len(self.__cache) < 1024:
                self.__cache[mark] = found
        return found

    def _derived(self, purpose: str, audience: str, key_id: str) -> bytes:
        if purpose not in PURPOSES:
            raise KeyRingError(f"no purpose {purpose!r}")
        return _expanded(self.__secrets[key_id] if key_id else self.__names, purpose, audience)

    @classmethod
    def from_secret(cls, secret: str | bytes) -> KeyRing:
        """A ring of one key. A placeholder of any documentation, or less than 32 bytes, is refused."""
        raw = secret.encode() if isinstance(secret, str) else secret
        key_id = id_of_secret(raw)
        return cls({key_id: raw}, key_id)

    @classmethod
    def from_directory(cls, directory: str | Path) -> KeyRing:
        """The ring in a directory: one `<id>.key` file a key, the id that sorts last signs.

        Raises `KeyRingError` for no directory, no key, a key that is weak or damaged, and for a directory or a key
        that other users of the machine could have written or read.
        """
        keys, names = read_directory(Path(directory))
        return cls(keys, max(keys), names=names)


def read_directory(directory: Path) -> tuple[dict[str, bytes], bytes | None]:
    """The keys of a key directory by id, and its root of names where it keeps one. Raises `KeyRingError`."""
    if not directory.is_dir():
        raise KeyRingError(
            f"there is no key directory {called(directory)}; make it with: mcp-macaroon keys new {directory}"
        )
    refuse_open_directory(directory)
    keys = {_id_of(path): _read(path) for path in sorted(directory.glob("*" + SUFFIX))}
    if not keys:
        raise KeyRingError(f"{called(directory)} holds no key; make one with: mcp-macaroon keys new {directory}")
    names = directory / NAMES_FILE
    return keys, _read(names) if os.path.lexists(names) else None


def id_of_secret(secret: bytes) -> str:
    """The id of a key that was given without one. Raises `KeyRingError` for a placeholder or a weak key."""
    refuse_weak(secret)
    return "k" + hashlib.sha256(b"mcp-macaroon key id\0" + secret).hexdigest()[:12]


def refuse_weak(secret: bytes) -> None:
    """Raises `KeyRingError` for a documented placeholder, less than 32 bytes, and hardly any different ones."""
    if secret.decode("utf-8", "replace").strip().lower() in PLACEHOLDERS:
        raise KeyRingError(f"that is a placeholder from the documentation, not a key; {MAKE_ONE}")
    if len(secret) < MIN_BYTES:
        raise KeyRingError(f"a key has at least {MIN_BYTES} bytes, this one has {len(secret)}; {MAKE_ONE}")
    if len(set(secret)) < MIN_VARIETY:
        raise KeyRingError(f"that key has hardly any different characters; {MAKE_ONE}")


def is_key_id(text: str) -> bool:
    """Whether a text can be the id of a key."""
    return _ID.match(text) is not None


def names_of(secret: bytes) -> bytes:
    """The root of names that a key alone stands for; the key cannot be told from it."""
    return _expanded(secret, "names", "")


def _expanded(secret: bytes, purpose: str, audience: str) -> bytes:
    info = json.dumps(["mcp-macaroon", 1, purpose, audience], ensure_ascii=True).encode()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)


def new_secret() -> str:
    """A fresh secret as text: 48 random bytes, for `MACAROON_SECRET_KEY`."""
    return secrets.token_urlsafe(48)


def new_key(directory: str | Path) -> str:
    """Makes a key in a directory, readable by its owner alone, and returns its id. It becomes the current one.

    Raises `KeyRingError` if others can write to the directory, or if a key there would sort after the new one and so
    go on signing; `OSError` if the key cannot be written.
    """
    directory = Path(directory)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    refuse_open_directory(directory)
    key_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z-{secrets.token_hex(3)}"
    last = max((_id_of(path) for path in directory.glob("*" + SUFFIX)), default="")
    if last > key_id:
        raise KeyRingError(
            f"the key {last} sorts after every new one and would go on signing; move it to {directory / 'retired'}"
        )
    if last and not (directory / NAMES_FILE).exists():
        _write(directory / NAMES_FILE, KeyRing.from_directory(directory).names)
    _write(directory / (key_id + SUFFIX), secrets.token_bytes(48))
    return key_id


def _write(path: Path, secret: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(base64.urlsafe_b64encode(secret) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _id_of(path: Path) -> str:
    return path.name.removesuffix(SUFFIX)


def refuse_open_directory(directory: Path) -> None:
    """Raises `KeyRingError` where others can write, or own the directory: they could add a key that signs.

    A read-only file system, as secrets are mounted, is closed.
    """
    try:
        if os.name != "posix" or is_read_only(directory):
            return
        facts = directory.stat()
    except OSError as error:
        raise KeyRingError(f"cannot read the key directory {called(directory)}: {error.strerror}") from None
    if facts.st_uid not in (0, os.geteuid()):
        what = f"the key directory {called(directory)} is another user's"
        raise KeyRingError(f"{what}; run: chown {os.geteuid()} {directory}")
    if facts.st_mode & 0o022:
        raise KeyRingError(f"others can write to the key directory {called(directory)}; run: chmod go-w {directory}")


def _read(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe must not hold the start
        with os.fdopen(descriptor, "rb") as file:
            refuse_open_file(path, os.fstat(descriptor))
            secret = base64.b64decode(file.read(MAX_FILE_BYTES).strip(), altchars=b"-_", validate=True)
    except OSError as error:
        raise KeyRingError(f"cannot read the key file {path.name}: {error.strerror}") from None
    except ValueError:
        raise KeyRingError(f"the key file {path.name} is damaged; restore it or remove it") from None
    if len(secret) >= MIN_BYTES and len(set(secret)) < MIN_VARIETY:
        raise KeyRingError(f"the key file {path.name} has hardly any different bytes; make a key with: {_new(path)}")
    return secret


def is_read_only(path: Path) -> bool:
    """Whether the file system of a directory or a file cannot be written to. Raises `OSError` where there is none."""
    return os.name == "posix" and bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def refuse_open_secret(path: Path) -> None:
    """Raises `KeyRingError` for a secret's file that is another user's, or open to others.

    A read-only file system, as secrets are mounted, is closed. What is not there, or no file, is left to its reader.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode) or is_read_only(path):
            return
    except (OSError, ValueError):
        return
    refuse_open_file(path, facts)


def refuse_open_file(path: Path, facts: os.stat_result) -> None:
    """Raises `KeyRingError` for what is no ordinary file, another user's, or open to others."""
    if not stat.S_ISREG(facts.st_mode):
        raise KeyRingError(f"the key file {path.name} is no ordinary file")
    if os.name != "posix":
        return
    if facts.st_uid not in (0, os.geteuid()):
        raise KeyRingError(f"the key file {path.name} is another user's; run: chown {os.geteuid()} {path}")
    if facts.st_mode & 0o077:
        raise KeyRingError(f"others can read the key file {path.name}; run: chmod 600 {path}")


def called(path: Path) -> str:
    """What a message calls a file or a directory: its name, or `.` and the like as they were given."""
    return path.name or str(path)


def _new(path: Path) -> str:
    return f"mcp-macaroon keys new {path.parent}"
