"""Fetches the texts that keys are made of from the sources that plugins provide: once, at the start, in bounded time.

A source that fails, hangs or brings no text stops the start. What it brought is in no message (law L7).
"""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable
from typing import Final

from ..errors import ConfigError, Diagnostic, KeyRingError, MacaroonError
from ..plugin.contract import KeySourceContext, KeySourceType
from ..tokens.keys import refuse_open_secret
from .compile import Compiled
from .places import DataPath
from .references import Reference, missing
from .sections import section_name
from .settings import did_you_mean

MAX_CHARACTERS: Final = 1 << 16
LONGEST_MESSAGE: Final = 300
FILE: Final = "file"
OWN: Final = frozenset({"env", FILE})  # their messages name the variable or the file
SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]+):")  # two letters at least: C:\keys is a path


def scheme_of(text: str) -> str | None:
    """The scheme of a text that is a reference to a key source, `vault` in `vault:PATH#FIELD`; None for any other."""
    found = SCHEME.match(text)
    return found[1] if found is not None else None


def secret_text(compiled: Compiled, reference: Reference, path: DataPath) -> str:
    """The text of a secret, at `path` in the file: written there, or from a source. Raises `ConfigError`.

    A file that others could have read or written holds no secret.
    """
    scheme, name = reference.kind, reference.value
    if reference.is_literal:
        found = scheme_of(name)
        if found is None:
            return name
        scheme, name = found, name[len(found) + 1 :]
    if scheme == FILE:
        _refuse_open(compiled, name, path)
    return fetched(compiled, scheme, name, path)


def fetched(compiled: Compiled, scheme: str, name: str, path: DataPath) -> str:
    """What the source of `scheme` has under `name`. Raises `ConfigError` that points at `path`."""
    kind = _kind(compiled, scheme, path)
    context = KeySourceContext(
        settings=compiled.sections.key_sources.get(scheme), base=compiled.source.base, timeout=float(kind.timeout)
    )
    try:
        text = in_time(lambda: kind.fetch(name, context), context.timeout)
    except TimeoutError:
        raise _failed(compiled, scheme, name, f"it did not answer within {context.timeout:g} seconds", path) from None
    except Exception as error:  # whatever a plugin raises, the start stops
        raise _failed(compiled, scheme, name, _why(error), path) from None
    if not isinstance(text, str) or not text or len(text) > MAX_CHARACTERS:
        raise _failed(compiled, scheme, name, f"it brought no text of 1 to {MAX_CHARACTERS} characters", path)
    return text


def in_time(function: Callable[[], str], seconds: float) -> str:
    """What a function returns or raises. Raises `TimeoutError` if that takes longer; then nobody waits for it."""
    answers: queue.SimpleQueue[tuple[str, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((function(), None))
        except BaseException as error:
            answers.put(("", error))

    threading.Thread(target=run, name="macaroon-key-source", daemon=True).start()
    try:
        text, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(error, Exception):
        raise error
    if error is not None:
        raise RuntimeError(type(error).__name__)
    return text


# --- parts ----------------------------------------------------------------------------------------------------------


def _refuse_open(compiled: Compiled, name: str, path: DataPath) -> None:
    try:
        refuse_open_secret(compiled.source.base / name)
    except KeyRingError as error:
        raise ConfigError([compiled.source.diagnostic("secret_open", str(error), path)]) from None


def _kind(compiled: Compiled, scheme: str, path: DataPath) -> KeySourceType:
    provided = compiled.registry.key_sources.get(scheme)
    if provided is None:
        raise ConfigError([_unknown(compiled, scheme, path)])
    section = section_name(provided.plugin, scheme)
    if provided.contribution.settings is not None and scheme not in compiled.sections.key_sources:
        message = f"{scheme} needs the section {section!r} under plugins, without faults"
        raise ConfigError([compiled.source.diagnostic("section_missing", message, path)])
    return provided.contribution


def _unknown(compiled: Compiled, scheme: str, path: DataPath) -> Diagnostic:
    """The diagnostic for a scheme of nobody's; it is named only where it is nearly one: it may begin a secret."""
    known = compiled.registry.key_sources
    near = did_you_mean(scheme, known)
    what = f"no key source named {scheme!r} is installed" if near else "no key source of that name is installed"
    hint = f"{near + ' ' if near else ''}known key sources are {', '.join(sorted(known))}"
    return compiled.source.diagnostic("unknown_key_source", what, path, hint=hint)


def _failed(compiled: Compiled, scheme: str, name: str, why: str, path: DataPath) -> ConfigError:
    told = missing(scheme, name, why if scheme in OWN else f"the key source {scheme!r} brought no key: {why}")
    return ConfigError([compiled.source.diagnostic(told.code, told.message, path, hint=told.hint)])


def _why(error: Exception) -> str:
    """The cause without values: a foreign exception's text may hold a secret."""
    if isinstance(error, MacaroonError):
        return " ".join(str(error).split())[:LONGEST_MESSAGE]
    return getattr(error, "strerror", None) or type(error).__name__
