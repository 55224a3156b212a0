"""A pytest plugin: every FastMCP server that a test makes gets a guard that allows everything.

`MACAROON_UPSTREAM=each` gives each server a runtime of its own, as with a file for each; `one` shares one between all.
Without the variable nothing changes. It is loaded with `-p`, before the tests import anything.
"""

from __future__ import annotations

import functools
import os
import secrets
from typing import Any

from fastmcp import FastMCP

from mcp_macaroon_middleware import MacaroonMiddleware
from mcp_macaroon_middleware.config.runtime import Runtime, load_runtime

HOW = os.environ.get("MACAROON_UPSTREAM", "")
FILE: dict[str, Any] = {
    "config": {
        "secret_key": secrets.token_hex(32),
        "default": "allow",
        "methods": ["skills/list", "skills/get", "synthetic/ping"],
        "identity": {"local": "local", "anonymous": "anonymous", "direct": "tests"},
    },
    "policies": [],
}


@functools.cache
def shared() -> Runtime:
    """The runtime of all servers of this process."""
    return load_runtime(FILE)


def guarding(begin: Any) -> Any:
    """`FastMCP.__init__`, after which the server is guarded."""

    @functools.wraps(begin)
    def made(self: FastMCP[Any], *words: Any, **settings: Any) -> None:
        begin(self, *words, **settings)
        if not getattr(self, "_upstream_guarded", False):
            self._upstream_guarded = True
            runtime = shared() if HOW == "one" else load_runtime(FILE)
            self.middleware.insert(0, MacaroonMiddleware(runtime=runtime))  # outermost, as the documents say

    return made


if HOW:
    FastMCP.__init__ = guarding(FastMCP.__init__)
