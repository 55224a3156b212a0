"""The key file's document: several keys with ids and states, from which a `KeyRing` is made. It touches no disk.

One key is `current` and signs. A `next` one verifies already and signs after the next rotation, so that every server
knows it before any server uses it. `previous` ones verify until their end. No repr or error shows a secret (law L7).
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, get_args

from ..errors import KeyRingError
from .keys import KeyRing, id_of_secret, names_of, refuse_weak

State = Literal["next", "current", "previous"]

VERSION: Final = 1
MAX_KEYS: Final = 64
SECRET_BYTES: Final = 48
WINDOW: Final = timedelta(days=30)
LONGEST_WINDOW: Final = timedelta(days=3660)
_NO_DOCUMENT: Final = "it is no key file; make one with: mcp-macaroon keys new keys.json"
_FIELDS: Final = {"id", "state", "secret", "made", "until"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """One key of a key file. `until` is the end of a previous key; without one it verifies until it is retired."""

    id: str
    state: State
    secret: bytes = field(repr=False)
    made: datetime
    until: datetime | None = None

    @property
    def fingerprint(self) -> str:
        """Sixteen characters that tell one secret from another and nothing about it."""
        return KeyRing({self.id: self.secret}, self.id).derive("ticket", "fingerprint").hex()[:16]

    def ended(self, now: datetime) -> bool:
        """Whether it verifies nothing more."""
        return self.until is not None and self.until <= now


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFile:
    """Keys in the order in which they were made, exactly one of them current, at most one next.

    `names` is the root of names and digests (`KeyRing.names`). Raises `KeyRingError` for anything else.
    """

    keys: tuple[StoredKey, ...]
    names: bytes = field(repr=False)

    def __post_init__(self) -> None:
        states = [key.state for key in self.keys]
        if states.count("current") != 1 or states.count("next") > 1 or len(self.keys) > MAX_KEYS:
            raise KeyRingError(f"a key file has one current key, at most one next and {MAX_KEYS} in all")
        if len({key.id for key in self.keys}) < len(self.keys) or len({k.secret for k in self.keys}) < len(self.keys):
            raise KeyRingError("two keys of the key file have one id, or one secret")
        for key in self.keys:
            _refuse_weak(key)
        self.ring()

    @property
    def current(self) -> StoredKey:
        """The key that signs."""
        return next(key for key in self.keys if key.state == "current")

    @property
    def staged(self) -> StoredKey | None:
        """The key that signs after the next rotation, if one is there."""
        return next((key for key in self.keys if key.state == "next"), None)

    def ring(self) -> KeyRing:
        """The ring of these keys."""
        until = {key.id: key.until for key in self.keys if key.until is not None}
        return KeyRing({key.id: key.secret for key in self.keys}, self.current.id, until=until, names=self.names)

    # --- changes --------------------------------------------------------------------------------------------------

    def stage(self, *, now: datetime) -> KeyFile:
        """With a next key. Raises `KeyRingError` if there is one already."""
        if self.staged is not None:
            what = f"the key {self.staged.id} is staged already"
            raise KeyRingError(f"{what}; put it to use with: mcp-macaroon keys rotate")
        return replace(self, keys=(*self.keys, _made("next", now)))

    def rotate(self, *, window: timedelta, now: datetime) -> KeyFile:
        """The next key, or else a fresh one, signs; the current one verifies for `window` more. Ended keys go."""
        if not timedelta(0) < window <= LONGEST_WINDOW:
            raise KeyRingError(f"a window lasts longer than nothing and at most {LONGEST_WINDOW.days} days")
        following = replace(self.staged or _made("next", now), state="current")
        retired = replace(self.current, state="previous", until=now + window)
        kept = [key for key in self.keys if key.state == "previous" and not key.ended(now)]
        return replace(self, keys=(*kept, retired, following))

    def retire(self, key_id: str) -> KeyFile:
        """Without a previous or next key. Raises `KeyRingError` for the current one, and for one that is not there."""
        found = next((key for key in self.keys if key.id == key_id), None)
        if found is None:
            raise KeyRingError("there is no such key; see: mcp-macaroon keys list")
        if found.state == "current":
            raise KeyRingError("that key signs; put another one in its place first, with: mcp-macaroon keys rotate")
        return replace(self, keys=tuple(key for key in self.keys if key is not found))

    # --- text -----------------------------------------------------------------------------------------------------

    def to_text(self) -> str:
        """The document, with every secret in it."""
        keys = [
            {
                "id": key.id,
                "state": key.state,
                "secret": _encoded(key.secret),
                "made": _written(key.made),
                "until": _written(key.until) if key.until is not None else None,
            }
            for key in self.keys
        ]
        return json.dumps({"version": VERSION, "names": _encoded(self.names), "keys": keys}, indent=2) + "\n"

    @classmethod
    def from_text(cls, text: str) -> KeyFile:
        """The document's keys. Raises `KeyRingError` for anything that `to_text` would not have written."""
        try:
            data = json.loads(text, object_pairs_hook=_once)
        except (ValueError, RecursionError):
            raise KeyRingError(_NO_DOCUMENT) from None
        if not isinstance(data, dict) or set(data) != {"version", "names", "keys"} or data["version"] != VERSION:
            raise KeyRingError(_NO_DOCUMENT)
        if not isinstance(data["keys"], list) or len(data["keys"]) > MAX_KEYS:
            raise KeyRingError(_NO_DOCUMENT)
        try:
            return cls(keys=tuple(_read(entry) for entry in data["keys"]), names=_decoded(data["names"]))
        except (ValueError, TypeError, OverflowError):
            raise KeyRingError("the key file is damaged; restore it from where your secrets are kept") from None

    @classmethod
    def fresh(cls, *, now: datetime) -> KeyFile:
        """One new key, which signs."""
        return cls(keys=(_made("current", now),), names=secrets.token_bytes(SECRET_BYTES))

    @classmethod
    def of_secret(cls, secret: str, *, now: datetime) -> KeyFile:
        """The key that a `secret_key` was, under the id that it had, so that what it signed goes on."""
        raw = secret.encode()
        key = StoredKey(id=id_of_secret(raw), state="current", secret=raw, made=now)
        return cls(keys=(key,), names=names_of(raw))

    @classmethod
    def of_keys(cls, keys: Mapping[str, bytes], names: bytes | None, *, now: datetime) -> KeyFile:
        """The keys of a key directory: the last by id signs, the others are previous ones without an end."""
        *older, current = sorted(keys)
        stored = [StoredKey(id=key_id, state="previous", secret=keys[key_id], made=now) for key_id in older]
        stored.append(StoredKey(id=current, state="current", secret=keys[current], made=now))
        return cls(keys=tuple(stored), names=names or names_of(keys[min(keys)]))


# --- parts ----------------------------------------------------------------------------------------------------------


def _made(state: State, now: datetime) -> StoredKey:
    key_id = f"{now:%Y%m%dT%H%M%S%f}Z-{secrets.token_hex(3)}"
    return StoredKey(id=key_id, state=state, secret=secrets.token_bytes(SECRET_BYTES), made=now)


def _refuse_weak(key: StoredKey) -> None:
    if key.until is not None and key.state != "previous":
        raise KeyRingError("only a previous key has an end")
    try:
        refuse_weak(key.secret)
    except KeyRingError as error:
        raise KeyRingError(f"a key of the key file cannot be used: {error}") from None


def _read(entry: Any) -> StoredKey:
    if not isinstance(entry, dict) or set(entry) != _FIELDS or entry["state"] not in get_args(State):
        raise ValueError("not a key")
    if not isinstance(entry["id"], str):
        raise TypeError("not an id")
    until = _instant(entry["until"]) if entry["until"] is not None else None
    return StoredKey(
        id=entry["id"],
        state=entry["state"],
        secret=_decoded(entry["secret"]),
        made=_instant(entry["made"]),
        until=until,
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _instant(text: Any) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("an instant has a time zone")
    return found.astimezone(UTC)


def _written(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat()


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode("ascii")


def _decoded(text: Any) -> bytes:
    if not isinstance(text, str):
        raise TypeError("not a text")
    return base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
