"""Prints what the token commands say: tokens alone on standard output or into a file, words on standard error."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, ParamSpec

from rich.console import Console
from rich.text import Text

from ..errors import ConfigError, KeyRingError, MacaroonError, RuleError, StoreUnavailable, TokenInvalid
from ..tokens.describe import Inspection, Statement
from ..tokens.sentences import moment, quoted, span
from .token_input import InputMissing
from .token_reasons import in_words

P = ParamSpec("P")

DONE: Final = 0
FAILED: Final = 1
MISUSED: Final = 2


class Misuse(MacaroonError):
    """A wrong call of a command: an option that cannot be read, or does not go with another."""

    code = "misuse"


def answered(command: Callable[P, int]) -> Callable[P, int]:
    """A command whose errors are one clear message and an exit code: 1 not done, 2 a wrong call or policy file."""

    @functools.wraps(command)
    def run(*args: P.args, **options: P.kwargs) -> int:
        try:
            return command(*args, **options)
        except TokenInvalid as error:
            return fail(in_words(error.code), FAILED)
        except StoreUnavailable:
            return fail("the store of the policy file does not answer; nothing was done", FAILED)
        except (Misuse, InputMissing, ConfigError, KeyRingError, RuleError) as error:
            return fail(str(error), MISUSED)
        except UnicodeError:
            return fail("a name or a rule is no Unicode text", MISUSED)
        except OSError as error:
            return fail(f"cannot write: {error.strerror or type(error).__name__}", FAILED)

    return run


def console(*, stderr: bool = False) -> Console:
    """A console that adds no colour where nobody sees it: no terminal, `NO_COLOR`, `TERM=dumb`."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True, emoji=False, markup=False)


def fail(message: str, code: int) -> int:
    """Says why nothing was done, on standard error, and gives the exit code back."""
    print(f"mcp-macaroon: {message}", file=sys.stderr)
    return code


def warn(message: str) -> None:
    """A warning, on standard error."""
    console(stderr=True).print(Text.assemble(("warning: ", "bold yellow"), message))


def note(lines: Iterable[str], *, quiet: bool) -> None:
    """Words about a token that was made, on standard error."""
    if not quiet:
        shown = console(stderr=True)
        for line in lines:
            shown.print(Text(line, style="dim" if line.startswith("  ") else "bold"))


def document(facts: Mapping[str, Any]) -> None:
    """One JSON document on standard output; whatever is not ASCII stands escaped in it."""
    sys.stdout.write(json.dumps(facts, indent=2) + "\n")


def deliver(text: str, facts: Mapping[str, Any], *, output: Path | None, force: bool, as_json: bool) -> None:
    """Prints a token alone, or a document with it; or writes the token to a file for its owner alone.

    Raises `Misuse` for a file that is there already, unless `force`; `OSError` where it cannot be written.
    """
    if output is not None:
        _write(output, text, force=force)
    if as_json:
        document({**facts, **({"file": str(output)} if output is not None else {"token": text})})
    elif output is None:
        print(text)


def _write(path: Path, text: str, *, force: bool) -> None:
    """A new file with mode 0600. With `force` the old one is replaced as a whole, whatever its mode or links were."""
    target = path.with_name(f".{path.name}.{secrets.token_hex(6)}") if force else path
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Misuse(f"{path} is there already; --force replaces it") from None
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text + "\n")
        if force:
            os.replace(target, path)
    except BaseException:
        with contextlib.suppress(OSError):
            target.unlink()
        raise


# --- an inspection in lines -----------------------------------------------------------------------------------------


def summary(found: Inspection, now: datetime) -> list[str]:
    """What a token that was just made allows."""
    head = f"a token for {found.person()} at {quoted(found.audience)}, id {found.lineage[-1]}"
    said = [statement.words for statement in found.statements if statement.kind not in ("branch", "end")]
    return [head, *(f"  {words}" for words in (*said, _end(found.expires, now)))]


def _end(expires: datetime | None, now: datetime) -> str:
    return (f"Ends at {moment(expires)}. " if expires is not None else "") + until(expires, now)


def until(expires: datetime | None, now: datetime) -> str:
    """When it ends, and how long that is from now."""
    if expires is None:
        return "It names no end, so no server accepts it."
    left = (expires - now).total_seconds()
    return f"It has {span(left)} left." if left > 0 else f"It ended {span(-left)} ago."


def facts(found: Inspection, now: datetime) -> list[tuple[str, str]]:
    """The head of an inspection, line by line: a name and what it is."""
    age = (now - found.issued_at).total_seconds()
    issued = moment(found.issued_at) + (f", {span(age)} ago" if age >= 0 else ", which is in the future")
    ends = moment(found.expires) if found.expires is not None else "never named"
    return [
        ("for", found.person()),
        ("at", quoted(found.audience)),
        ("issued", issued),
        ("ends", f"{ends}. {until(found.expires, now)}"),
        ("key", quoted(found.key_id)),
        ("id", quoted(found.id)),
        *(("branch", branch) for branch in found.branches),
    ]


def numbered(statements: Iterable[Statement]) -> list[str]:
    """Every caveat in words, in its order."""
    return [f"{number:3}. {each.words}" for number, each in enumerate(statements, 1)]
