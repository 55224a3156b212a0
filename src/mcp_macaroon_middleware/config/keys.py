"""Finds the key ring that a policy file names. There is no default key, and no message shows one (law L7)."""

from __future__ import annotations

import os
from typing import Final

from ..errors import ConfigError, Diagnostic, KeyRingError
from ..tokens.keyfile import KeyFile
from ..tokens.keys import KeyRing
from ..tokens.keystore import read_ring
from .compile import Compiled
from .key_sources import fetched, scheme_of, secret_text
from .places import DataPath, Source
from .references import Reference

VARIABLE: Final = "MACAROON_SECRET_KEY"
MAKE_A_KEY: Final = "make keys with  mcp-macaroon keys new ./keys  and write  keys: ./keys"
_SECRET: Final[DataPath] = ("config", "secret_key")
_KEYS: Final[DataPath] = ("config", "keys")


def load_keys(compiled: Compiled) -> tuple[KeyRing | None, list[Diagnostic]]:
    """The ring, or None with what is wrong; a literal secret that can be used is a warning."""
    source, settings = compiled.source, compiled.settings.config
    if settings.secret_key is not None and settings.keys is not None:
        return None, [source.diagnostic("keys_invalid", "either secret_key or keys, not both", _KEYS, key=True)]
    if settings.keys is not None:
        return _ring(compiled, settings.keys)
    if settings.secret_key is not None:
        return _secret(compiled, settings.secret_key)
    if source.get(_SECRET) is not None or source.get(_KEYS) is not None:
        return None, []  # it has a fault of its own, told already
    return _environment(source)


def _ring(compiled: Compiled, place: str) -> tuple[KeyRing | None, list[Diagnostic]]:
    scheme = scheme_of(place)
    try:
        if scheme is None or scheme == "file":  # a file here must pass what every key file must
            return read_ring(compiled.source.base / place.removeprefix("file:")), []
        return KeyFile.from_text(fetched(compiled, scheme, place[len(scheme) + 1 :], _KEYS)).ring(), []
    except ConfigError as error:
        return None, list(error.diagnostics)
    except (KeyRingError, OSError) as error:
        return None, [compiled.source.diagnostic("keys_invalid", f"keys: {_why(error)}", _KEYS)]


def _secret(compiled: Compiled, reference: Reference) -> tuple[KeyRing | None, list[Diagnostic]]:
    try:
        ring = KeyRing.from_secret(secret_text(compiled, reference, _SECRET))
    except ConfigError as error:
        return None, list(error.diagnostics)
    except KeyRingError as error:
        problem = compiled.source.diagnostic("keys_invalid", f"secret_key: {error}", _SECRET, hint=MAKE_A_KEY)
        return None, [problem]
    return ring, list(_warnings(compiled.source, reference))


def _warnings(source: Source, reference: Reference) -> list[Diagnostic]:
    def warn(code: str, message: str) -> Diagnostic:
        hint = f"write  secret_key: ${{{VARIABLE}}}  or  keys: ./keys"
        return source.diagnostic(code, message, _SECRET, hint=hint, severity="warning")

    if not reference.is_literal or scheme_of(reference.value) is not None:
        return []
    found = [warn("literal_secret", "the secret key stands in the configuration itself")]
    if source.world_readable:
        found.append(warn("secret_world_readable", "everybody on this machine can read this file and the key in it"))
    return found


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
