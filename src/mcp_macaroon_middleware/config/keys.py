"""Finds the key ring that a policy file names. There is no default key, and no message shows one (law L7)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ..errors import ConfigError, Diagnostic, KeyRingError
from ..tokens.keys import KeyRing
from .places import DataPath, Source
from .references import Reference
from .settings import ConfigSettings

VARIABLE: Final = "MACAROON_SECRET_KEY"
MAKE_A_KEY: Final = "make keys with  mcp-macaroon keys new ./keys  and write  keys: ./keys"
_SECRET: Final[DataPath] = ("config", "secret_key")


def load_keys(source: Source, settings: ConfigSettings) -> tuple[KeyRing | None, list[Diagnostic]]:
    """The ring, or None with what is wrong; a literal secret that can be used is a warning."""
    if settings.secret_key is not None and settings.keys is not None:
        return None, [
            source.diagnostic("keys_invalid", "either secret_key or keys, not both", ("config", "keys"), key=True)
        ]
    if settings.keys is not None:
        return _ring(source, settings.keys)
    if settings.secret_key is not None:
        return _secret(source, settings.secret_key)
    if source.get(_SECRET) is not None or source.get(("config", "keys")) is not None:
        return None, []  # it has a fault of its own, told already
    return _environment(source)


def _ring(source: Source, directory: str) -> tuple[KeyRing | None, list[Diagnostic]]:
    try:
        return KeyRing.from_directory(source.base / directory), []
    except (KeyRingError, OSError) as error:
        return None, [source.diagnostic("keys_invalid", f"keys: {_why(error)}", ("config", "keys"))]


def _secret(source: Source, reference: Reference) -> tuple[KeyRing | None, list[Diagnostic]]:
    try:
        ring = KeyRing.from_secret(reference.resolve(source.base))
    except ConfigError as error:
        return None, [source.diagnostic(d.code, d.message, _SECRET, hint=d.hint) for d in error.diagnostics]
    except KeyRingError as error:
        return None, [source.diagnostic("keys_invalid", f"secret_key: {error}", _SECRET, hint=MAKE_A_KEY)]
    return ring, list(_warnings(source, reference))


def _warnings(source: Source, reference: Reference) -> list[Diagnostic]:
    def warn(code: str, message: str) -> Diagnostic:
        hint = f"write  secret_key: ${{{VARIABLE}}}  or  keys: ./keys"
        return source.diagnostic(code, message, _SECRET, hint=hint, severity="warning")

    if reference.kind == "file":
        return [warn("secret_world_readable", "everybody can read the key file")] if _is_open(source, reference) else []
    if not reference.is_literal:
        return []
    found = [warn("literal_secret", "the secret key stands in the configuration itself")]
    if source.world_readable:
        found.append(warn("secret_world_readable", "everybody on this machine can read this file and the key in it"))
    return found


def _is_open(source: Source, reference: Reference) -> bool:
    return os.name == "posix" and bool((source.base / Path(reference.value)).stat().st_mode & 0o004)


def _environment(source: Source) -> tuple[KeyRing | None, list[Diagnostic]]:
    secret = os.environ.get(VARIABLE)
    if not secret:
        message = f"there is no key: neither secret_key nor keys is given, and {VARIABLE} is not set"
        return None, [source.diagnostic("keys_missing", message, ("config",), key=True, hint=MAKE_A_KEY)]
    try:
        return KeyRing.from_secret(secret), []
    except KeyRingError as error:
        return None, [source.diagnostic("keys_invalid", f"{VARIABLE}: {error}", ("config",), key=True, hint=MAKE_A_KEY)]


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, KeyRingError) else getattr(error, "strerror", None) or type(error).__name__
