"""What lists say of results: as little as the results themselves, and near the length of the tool's own schema."""

from __future__ import annotations

import json
import threading
from contextvars import ContextVar
from typing import Any

import pytest
import wire
from fastmcp import Client, FastMCP
from fastmcp.client.elicitation import ElicitResult
from fastmcp.tools.base import Tool, ToolResult
from guarded import guarded
from pydantic import BaseModel, Field

from mcp_macaroon_middleware.adapters.fastmcp import schemas
from mcp_macaroon_middleware.model import Redaction

SECRET = "S3-default"


class Known(BaseModel):
    """A model whose fields tell a value by their defaults and examples."""

    id: int = 1
    tier: str = Field(SECRET, examples=[SECRET], description=SECRET)
    owner: str = Field(SECRET, examples=[SECRET], description=SECRET)


@pytest.mark.parametrize("era", wire.ERAS)
@pytest.mark.threat("R12", "H09")
async def test_B7_a_client_makes_up_no_withheld_value_from_what_a_list_says(era: str) -> None:
    """reports-policy B7: a default of a withheld field was published, and clients filled it in."""

    def known() -> Known:
        return Known(tier="real-1", owner="real-2")

    made: FastMCP[Any] = FastMCP("lab")
    made.tool(known)
    fields = ["af:known:field_access:deny:tier", "af:known:field_access:elicit:owner"]
    guarded(made, ["bf:known:tool_access:allow", *fields])

    async def decline(*_: Any) -> Any:
        return ElicitResult(action="decline")

    async with Client(made, mode=era, elicitation_handler=decline) as client:
        (tool,) = await client.list_tools()
        assert SECRET not in tool.model_dump_json()
        assert set((tool.output_schema or {})["properties"]) == {"id", "owner"}
        answer = await client.call_tool("known", raise_on_error=False)
    assert SECRET not in repr(answer)
    assert "real-1" not in repr(answer)
    assert not hasattr(answer.data, "tier")


@pytest.mark.parametrize("era", wire.ERAS)
@pytest.mark.threat("R12")
async def test_F5_types_that_refer_to_each_other_are_listed_near_their_own_size(era: str) -> None:
    """reports-mcp F5: references were inlined, and lists grew a hundredfold."""
    count = 9
    to = {f"to{number}": {"$ref": f"#/$defs/K{number}"} for number in range(count)}
    node = {"type": "object", "properties": {"id": {"type": "string"}, "note": {"type": "string"}, **to}}
    node |= {"required": ["id", "note"]}
    own: dict[str, Any] = {"type": "object", "properties": {"top": {"$ref": "#/$defs/K0"}}, "required": ["top"]}
    own["$defs"] = {f"K{number}": json.loads(json.dumps(node)) for number in range(count)}
    value = {"top": {"id": "a", "note": SECRET, "to3": {"id": "b", "note": SECRET}}}
    for rule in ("deny:**.note", "only:top.id:top.to3.id"):

        def tree() -> ToolResult:
            return ToolResult(structured_content=value)

        made: FastMCP[Any] = FastMCP("lab")
        made.add_tool(Tool.from_function(tree, output_schema=own))
        guarded(made, ["bf:tree:tool_access:allow", f"af:tree:field_access:{rule}"])
        async with wire.client_of(made, era) as client:
            (tool,) = await client.list_tools()
            assert len(json.dumps(tool.output_schema)) <= 3 * len(json.dumps(own))
            assert (await client.call_tool("tree")).structured_content == {"top": {"id": "a", "to3": {"id": "b"}}}


def one() -> dict[str, Any]:
    """A tool of which only the schema matters."""
    return {}


@pytest.mark.threat("R12", "P01")
async def test_a_large_schema_is_worked_on_in_a_thread_with_the_context_of_the_request(monkeypatch: Any) -> None:
    where: list[tuple[int, str]] = []
    context: ContextVar[str] = ContextVar("context", default="none")
    relax = schemas.relax_schema

    def noting(*rest: Any, **more: Any) -> Any:
        where.append((threading.get_ident(), context.get()))
        return relax(*rest, **more)

    monkeypatch.setattr(schemas, "relax_schema", noting)
    context.set("mine")
    for parts in (10, schemas.AT_ONCE):
        properties = {f"a{number}": {"type": "string"} for number in range(parts)}
        tool = Tool.from_function(one, name="tool", output_schema={"type": "object", "properties": properties})
        shown = await schemas.publish_tool(tool, Redaction(withhold=("a1",)), Redaction(withhold=("a1",)))
        assert "a1" not in (shown.output_schema or {})["properties"]
    (small, _), (large, seen) = where
    assert small == threading.get_ident() != large
    assert seen == "mine"
