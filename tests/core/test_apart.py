"""Large results are worked on in a thread, with the context of the request, on every host; small ones at once."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import Any

import pytest
from fastmcp import Client, FastMCP
from guarded import guarded

from mcp_macaroon_middleware.core import policy_engine
from mcp_macaroon_middleware.fields import LARGE
from mcp_macaroon_middleware.fields.bulk import is_large
from mcp_macaroon_middleware.fields.redact import _Walk

WHERE: ContextVar[str] = ContextVar("where", default="none")


def test_what_is_large_is_told_by_what_it_holds() -> None:
    assert not is_large({"a": "x" * 1000, "b": [1] * 1000})
    for large in ("x" * (LARGE + 1), {"a": ["x"] * LARGE}, {"x" * LARGE: 1}, [b"x" * LARGE], [[1]] * LARGE):
        assert is_large(large)


@pytest.mark.threat("G21", "P01")
@pytest.mark.parametrize("era", ["auto", "legacy"])
@pytest.mark.parametrize("action", ["deny", "elicit"])
async def test_a_large_redaction_leaves_the_event_loop(era: str, action: str, monkeypatch: Any) -> None:
    walks: list[int] = []
    begun = _Walk.__init__

    def noting(self: Any) -> None:
        walks.append(threading.get_ident())
        begun(self)

    monkeypatch.setattr(_Walk, "__init__", noting)
    server: FastMCP[Any] = FastMCP("lab")

    @server.tool
    def rows(count: int) -> dict[str, Any]:
        return {"rows": [{"id": number, "ssn": "S3CRET", "name": "x" * 40} for number in range(count)]}

    guarded(server, ["bf:*:tool_access:allow", f"af:rows:field_access:{action}:**.ssn"])
    here = threading.get_ident()
    async with Client(server, mode=era) as client:
        for count, apart in ((3, False), (6000, True)):
            walks.clear()
            left = (await client.call_tool("rows", {"count": count}, raise_on_error=False)).structured_content
            assert left == {"rows": [{"id": number, "name": "x" * 40} for number in range(count)]}
            assert walks
            assert all((ident != here) == apart for ident in walks)


@pytest.mark.threat("P01")
async def test_work_apart_has_the_context_of_the_request_and_raises_what_it_raised() -> None:
    WHERE.set("mine")

    def work() -> tuple[str, int]:
        return WHERE.get(), threading.get_ident()

    seen, ident = await policy_engine.apart(True, work)
    assert (seen, ident != threading.get_ident()) == ("mine", True)
    assert await policy_engine.apart(False, work) == ("mine", threading.get_ident())

    def failing() -> None:
        raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        await policy_engine.apart(True, failing)
