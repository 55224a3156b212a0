"""Templates that spell their query out are read through mounts and proxies under a guard as without one."""

from __future__ import annotations

from typing import Any

import fastmcp.resources.template
import pytest
from fastmcp import Client, FastMCP
from fastmcp.server import create_proxy
from guarded import ERAS, guarded

SENT = (
    "search://items?q=abc",
    "search://items?q=abc&r=1",
    "search://items?q=abc&q=d",
    "search://items?q=",
    "search://items",
)
DECLARED = ("search://things?q=abc", "search://things?q=abc&other=1", "search://things?q=abc&q=d")


def behind() -> FastMCP[Any]:
    """A server with a query in the template's text, and one with a declared query."""
    server: FastMCP[Any] = FastMCP("behind")

    @server.resource("search://items?q={q}")
    def literal(q: str) -> str:
        return f"literal {q}"

    @server.resource("search://things{?q}")
    def declared(q: str = "") -> str:
        return f"declared {q}"

    return server


async def read(server: FastMCP[Any], uri: str, era: str) -> str:
    """What a read gives, or that it is refused."""
    async with Client(server, mode=era) as client:
        try:
            return str((await client.read_resource(uri))[0].text)
        except Exception:
            return "refused"


@pytest.mark.skipif(
    not hasattr(fastmcp.resources.template, "_has_literal_query"),
    reason="this FastMCP reads no query that a template spells out",
)
@pytest.mark.parametrize("era", ERAS)
async def test_a_query_in_the_templates_text_reads_the_same_with_and_without_a_guard(era: str) -> None:
    front = guarded(create_proxy(behind()), [], config={"default": "allow"}).server
    bare = [await read(create_proxy(behind()), uri, era) for uri in SENT]
    assert bare[0] == "literal abc"
    assert [await read(front, uri, era) for uri in SENT] == bare


@pytest.mark.parametrize("era", ERAS)
async def test_a_query_that_goes_on_as_it_was_sent_holds_only_what_is_declared(era: str) -> None:
    front = guarded(create_proxy(behind()), [], config={"default": "allow"}).server
    assert [await read(front, uri, era) for uri in DECLARED] == ["declared abc", "refused", "refused"]
