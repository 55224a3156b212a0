"""`mcp-macaroon keys`: makes keys and lists their ids. A key itself is printed only where `--print` asks for one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..errors import KeyRingError
from ..tokens.keys import KeyRing, new_key, new_secret


def new(
    directory: Annotated[Path | None, Parameter(help="The key directory; it is made if it is not there.")] = None,
    *,
    print_: Annotated[
        bool,
        Parameter(name="--print", negative=(), help="Print one secret, for MACAROON_SECRET_KEY, and store nothing."),
    ] = False,
) -> int:
    """Make a key in DIRECTORY, readable by its owner alone; it signs from now on, and older keys still verify.

    Exit codes: 0 made, 1 not made, with the reason, 2 neither a directory nor --print was given, or both.
    """
    if print_ == (directory is not None):
        print("mcp-macaroon: give a directory, or --print", file=sys.stderr)
        return 2
    if directory is None:
        print(new_secret())
        return 0
    try:
        key_id = new_key(directory)
    except KeyRingError as error:
        print(f"mcp-macaroon: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"mcp-macaroon: cannot make a key in {directory}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"made {key_id} in {directory}; write in the policy file:  keys: {directory}")
    return 0


def list_keys(
    directory: Annotated[Path, Parameter(help="The key directory.")],
    *,
    json_: Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON.")] = False,
) -> int:
    """List the ids of the keys in DIRECTORY, the signing one marked. Keys themselves are never shown.

    Exit codes: 0 listed, 1 the directory holds no usable ring.
    """
    try:
        ring = KeyRing.from_directory(directory)
    except KeyRingError as error:
        print(f"mcp-macaroon: {error}", file=sys.stderr)
        return 1
    if json_:
        print(json.dumps({"current": ring.current, "ids": list(ring.ids)}))
        return 0
    for key_id in ring.ids:
        print(f"{key_id}  {'current' if key_id == ring.current else 'verifies'}")
    return 0
