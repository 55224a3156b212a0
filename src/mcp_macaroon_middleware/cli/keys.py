"""`mcp-macaroon keys`: makes, turns, ends and lists keys. A key itself is printed only where `--print` asks for one."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, ParamSpec

from cyclopts import Parameter

from ..errors import KeyRingError, PluginError
from ..tokens.keyfile import WINDOW, KeyFile, StoredKey
from ..tokens.keys import new_key, new_secret, read_directory, refuse_open_secret
from ..tokens.keystore import SUFFIX, change_key_file, make_key_file, read_key_file

P = ParamSpec("P")

DONE: Final = 0
FAILED: Final = 1
MISUSED: Final = 2
UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SPAN: Final = re.compile(r"([0-9]{1,9}[smhdw])+\Z")

Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON.")]
Where = Annotated[Path, Parameter(help="The key file: a path that ends in .json.")]


class Misuse(KeyRingError):
    """A wrong call of a command."""

    code = "misuse"


def answered(command: Callable[P, int]) -> Callable[P, int]:
    """A command whose errors are one message and an exit code: 1 not done, 2 a wrong call."""

    @functools.wraps(command)
    def run(*args: P.args, **options: P.kwargs) -> int:
        try:
            return command(*args, **options)
        except Misuse as error:
            return _fail(str(error), MISUSED)
        except (KeyRingError, PluginError) as error:
            return _fail(str(error), FAILED)
        except OSError as error:
            return _fail(f"nothing was done: {error.strerror or type(error).__name__}", FAILED)

    return run


# --- making ---------------------------------------------------------------------------------------------------------


@answered
def new(
    place: Annotated[
        Path | None, Parameter(help="A key file, if it ends in .json; else a key directory. It is made.")
    ] = None,
    *,
    print_: Annotated[
        bool,
        Parameter(name="--print", negative=(), help="Print one secret, for MACAROON_SECRET_KEY, and store nothing."),
    ] = False,
    from_: Annotated[
        str | None,
        Parameter(name="--from", help="Take the keys of a directory, of env:NAME or of file:PATH into the key file."),
    ] = None,
) -> int:
    """Make a key file with one key, or one more key in a directory. Only its owner can read what is made.

    A key file holds several keys, and `keys rotate` turns it. In a directory the new key signs at once and the older
    ones still verify. With --from the key file takes over what signs now, so that nothing that was signed is lost.

    Exit codes: 0 made, 1 not made, with the reason, 2 a wrong call.
    """
    if print_ == (place is not None) or (from_ is not None and (place is None or place.suffix != SUFFIX)):
        raise Misuse(f"give a directory, a key file ({SUFFIX}) with or without --from, or --print alone")
    if place is None:
        print(new_secret())
    elif place.suffix == SUFFIX:
        made = _taken(from_) if from_ is not None else KeyFile.fresh(now=_now())
        make_key_file(place, made)
        print(f"made {place} with the key {made.current.id}; write in the policy file:  keys: {place}")
    else:
        print(f"made {new_key(place)} in {place}; write in the policy file:  keys: {place}")
    return DONE


def _taken(origin: str) -> KeyFile:
    """The keys of a directory, a variable or a file."""
    from ..builtin.key_sources import file_text, variable

    kind, _, name = origin.partition(":")
    if kind == "env" and name:
        return KeyFile.of_secret(variable(name), now=_now())
    if kind == "file" and name:
        refuse_open_secret(Path(name))
        return KeyFile.of_secret(file_text(Path(name)), now=_now())
    return KeyFile.of_keys(*read_directory(Path(origin)), now=_now())


# --- turning --------------------------------------------------------------------------------------------------------


@answered
def rotate(
    file: Where,
    *,
    stage: Annotated[
        bool, Parameter(negative=(), help="Only add the next key: it verifies, and signs after the next rotation.")
    ] = False,
    window: Annotated[
        str | None, Parameter(help="How long the old key still verifies: 30d, 12h. Default: 30d.", show_default=False)
    ] = None,
    json_: Json = False,
) -> int:
    """Let another key sign: the staged one, or else a fresh one. The old key verifies until its window ends.

    Servers read their keys when they start. Where several share keys, first run this with --stage and restart them
    one by one; then without, and restart them one by one again: no call fails meanwhile. Choose a window longer than
    the tokens that you have given out last. Keys whose window has ended are removed from the file.

    Exit codes: 0 done, 1 not done, with the reason, and the file is as it was, 2 a wrong call.
    """
    if stage and window is not None:
        raise Misuse("--window goes with a rotation, not with --stage")
    now, lasts = _now(), _span(window) if window is not None else WINDOW
    _refuse_directory(file)
    before, after = change_key_file(
        file, lambda found: found.stage(now=now) if stage else found.rotate(window=lasts, now=now)
    )
    words = _staged(after) if stage else _rotated(before, after)
    _tell(after, json_, words)
    return DONE


@answered
def retire(
    file: Where,
    key_id: Annotated[
        str | None, Parameter(help="The key; without one, every key whose window has ended.", show_default=False)
    ] = None,
    *,
    json_: Json = False,
) -> int:
    """Remove a previous or a staged key from the key file: what it signed counts nowhere once servers have restarted.

    To end a key that others may know before every server has restarted, revoke it first: `mcp-macaroon token revoke
    --key-id ID`. The key that signs cannot be retired; rotate first.

    Exit codes: 0 done, 1 not done, with the reason, and the file is as it was, 2 a wrong call.
    """
    now = _now()
    _refuse_directory(file)

    def change(found: KeyFile) -> KeyFile:
        for each in [key_id] if key_id is not None else [key.id for key in found.keys if key.ended(now)]:
            found = found.retire(each)
        return found

    before, after = change_key_file(file, change)
    gone = [key.id for key in before.keys if key not in after.keys]
    _tell(after, json_, "\n".join(f"retired {each}" for each in gone) or "no key's window has ended")
    return DONE


# --- listing --------------------------------------------------------------------------------------------------------


@answered
def list_keys(
    place: Annotated[Path, Parameter(help="A key file, or a key directory.")],
    *,
    json_: Json = False,
) -> int:
    """List keys: ids, states, when made, when they end, fingerprints. Keys themselves are never shown.

    Exit codes: 0 listed, 1 there is no usable ring there.
    """
    whole = place.suffix == SUFFIX and not place.is_dir()
    found = read_key_file(place) if whole else KeyFile.of_keys(*read_directory(place), now=_now())
    rows = [_row(key, dated=whole) for key in found.keys]
    if json_:
        print(json.dumps({"current": found.current.id, "ids": sorted(row["id"] for row in rows), "keys": rows}))
        return DONE
    for row in rows:
        print("  ".join([row["id"], row["state"], *_dates(row), row["fingerprint"]]))
    return DONE


# --- parts ----------------------------------------------------------------------------------------------------------


def _row(key: StoredKey, *, dated: bool = True) -> dict[str, Any]:
    made = _moment(key.made) if dated else None
    until = _moment(key.until) if key.until is not None else None
    state = "ended" if key.ended(_now()) else key.state
    return {"id": key.id, "state": state, "made": made, "until": until, "fingerprint": key.fingerprint}


def _dates(row: dict[str, Any]) -> list[str]:
    return [f"{word} {row[word]}" for word in ("made", "until") if row[word] is not None]


def _tell(file: KeyFile, as_json: bool, words: str) -> None:
    if as_json:
        rows = [_row(key) for key in file.keys]
        print(json.dumps({"current": file.current.id, "ids": sorted(row["id"] for row in rows), "keys": rows}))
    else:
        print(words)


def _staged(after: KeyFile) -> str:
    staged = after.staged.id if after.staged is not None else ""
    return f"staged {staged}; restart every server, one by one, then run: mcp-macaroon keys rotate"


def _rotated(before: KeyFile, after: KeyFile) -> str:
    (end,) = (key.until for key in after.keys if key.id == before.current.id)
    until = _moment(end) if end is not None else ""
    text = f"{after.current.id} signs; {before.current.id} verifies until {until}; restart every server, one by one"
    if before.staged is None:
        text += "\nit was not staged: a server that has not restarted yet refuses what another one has signed with it"
    return text


def _refuse_directory(file: Path) -> None:
    if file.is_dir():
        advice = f"mcp-macaroon keys new keys{SUFFIX} --from {file}"
        raise Misuse(f"{file} is a key directory; make a key file of it with: {advice}")


def _span(text: str) -> timedelta:
    if not _SPAN.match(text):
        raise Misuse("--window reads 30d, 12h, 1d12h")
    seconds = sum(int(number) * UNITS[unit] for number, unit in re.findall(r"([0-9]+)([smhdw])", text))
    try:
        return timedelta(seconds=seconds)
    except OverflowError:
        raise Misuse("--window is too long") from None


def _moment(instant: datetime) -> str:
    return f"{instant:%Y-%m-%dT%H:%M:%SZ}"


def _now() -> datetime:
    return datetime.now(UTC)


def _fail(message: str, code: int) -> int:
    print(f"mcp-macaroon: {message}", file=sys.stderr)
    return code
