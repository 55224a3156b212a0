from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import wire
from fastmcp import Context, FastMCP
from fastmcp.prompts.base import Message, PromptResult
from fastmcp.tools.base import ToolResult
from guarded import guarded
from mcp_types import (
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

from mcp_macaroon_middleware.adapters.fastmcp.blocks import WITHHELD
from mcp_macaroon_middleware.adapters.fastmcp.embedding import without_unreadable
from mcp_macaroon_middleware.model import Redaction

ERAS = pytest.mark.parametrize("era", wire.ERAS)
SECRET = "123-45-6789"
ROW = json.dumps({"id": 1, "ssn": SECRET})


def embedded(uri: str, text: str = ROW) -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, text=text, mime_type="a/b"))


def rules(**known: Redaction | None) -> Any:
    async def rule(uri: str) -> Redaction | None:
        return known[uri.partition(":")[0]]

    return rule


RULE = rules(open=Redaction(), closed=None, part=Redaction(withhold=("ssn",)), all=Redaction(everything=True))


@pytest.mark.threat("I05")
async def test_a_prompt_keeps_its_turns_and_loses_what_the_caller_could_not_read() -> None:
    uris = ("open:x", "closed:x", "part:x", "all:x")
    given = PromptResult([*(Message(embedded(uri), role="assistant") for uri in uris), Message("go")], description="d")
    left = await without_unreadable(given, RULE)
    contents: list[Any] = [message.content for message in left.messages]
    assert contents[0] == given.messages[0].content
    assert contents[1].text == contents[3].text == WITHHELD
    assert (contents[2].resource.uri, contents[2].resource.text) == ("part:x", '{"id": 1}')
    assert (contents[4].text, left.description) == ("go", "d")
    assert [message.role for message in left.messages] == ["assistant"] * 4 + ["user"]


@pytest.mark.threat("I05")
async def test_a_tools_result_loses_the_block_and_says_so() -> None:
    blob = BlobResourceContents(uri="part:y", blob=base64.b64encode(ROW.encode()).decode())
    block = EmbeddedResource(type="resource", resource=blob)
    raw = CallToolResult(
        content=[embedded("closed:x"), block, embedded("part:x", "prose")], structured_content={"a": 1}
    )
    left = await without_unreadable(ToolResult.from_mcp_result(raw), RULE)
    assert len(left.content) == 2
    assert base64.b64decode(left.content[0].resource.blob) == b'{"id": 1}'
    assert left.content[1].text == WITHHELD
    assert SECRET not in repr(left.to_mcp_result())
    assert left.structured_content == {"a": 1}


async def test_where_all_may_stay_the_result_is_the_very_one() -> None:
    link = ResourceLink(type="resource_link", uri="closed:x", name="l")
    for result in (
        ToolResult(content=[embedded("open:x"), link]),
        ToolResult(content=[TextContent(type="text", text="x")]),
        PromptResult("x"),
        object(),
    ):
        assert await without_unreadable(result, RULE) is result


async def test_with_pass_prose_in_a_copy_stays() -> None:
    given = ToolResult(content=[embedded("part:x", "prose")])
    assert (await without_unreadable(given, RULE, passes=True)).content[0].resource.text == "prose"


def lab(**options: Any) -> FastMCP[Any]:
    mcp: FastMCP[Any] = FastMCP("lab", **options)
    for name in ("open", "closed", "part"):
        mcp.resource(f"{name}://x", name=name)(lambda: ROW)
    mcp.resource("item://{id}", name="item")(lambda id: ROW)
    uris = ("open://x", "closed://x", "part://x", "item://2", "item://..%2Fx", "CLOSED://x", "other://x")

    @mcp.prompt
    def p() -> list[Message]:
        return [Message(embedded(uri)) for uri in uris]

    @mcp.tool
    def t() -> list[Any]:
        return [embedded(uri) for uri in uris]

    return mcp


RULES = [
    "bf:p:tool_access:allow",
    "bf:prompt=*:tool_access:allow",
    "bf:*t:tool_access:allow",
    r"bf:resource=open\://*:tool_access:allow",
    r"bf:resource=part\://*:tool_access:allow",
    r"af:resource=part\://*:field_access:deny:ssn",
]


@ERAS
@pytest.mark.threat("I05", "G16")
async def test_a_guarded_prompt_or_tool_shows_no_resource_that_its_caller_cannot_read(era: str) -> None:
    made = guarded(lab(), RULES[1:])
    async with wire.client_of(made.server, era) as client:
        prompt = [message.content for message in (await client.get_prompt("p")).messages]
        tool = (await client.call_tool("t")).content
    shown = {block.resource.uri: block.resource.text for block in prompt if hasattr(block, "resource")}
    assert shown == {"open://x": ROW, "part://x": '{"id": 1}', "other://x": ROW}
    assert len(prompt) == 7
    assert {block.resource.uri: block.resource.text for block in tool if hasattr(block, "resource")} == shown
    assert made.exactly_one_end_each()


@ERAS
@pytest.mark.threat("I05", "J02")
async def test_a_mounted_prompts_resources_are_judged_by_their_public_names(era: str) -> None:
    root: FastMCP[Any] = FastMCP("root")
    root.mount(lab(), namespace="ns")
    rules_ = ["bf:prompt=*:tool_access:allow", r"bf:resource=open\://ns/*:tool_access:allow"]
    made = guarded(root, rules_)
    async with wire.client_of(made.server, era) as client:
        prompt = [message.content for message in (await client.get_prompt("ns_p")).messages]
    assert [block.resource.uri for block in prompt if hasattr(block, "resource")] == ["open://x", "other://x"]


async def test_judging_a_copy_writes_no_record_and_charges_nothing() -> None:
    limited = [*RULES[1:], r"bf:resource=open\://*:rate_limit:allow:1/hour"]
    made = guarded(lab(), limited)
    async with wire.client_of(made.server, "auto") as client:
        for _ in range(3):
            assert len((await client.get_prompt("p")).messages) == 7
        await client.read_resource("open://x")
    assert [end[0] for end in made.ends] == ["p", "p", "p", "open://x"]


async def test_a_prompt_that_reads_the_resource_itself_is_judged_for_the_read() -> None:
    mcp = lab()

    @mcp.prompt
    async def q(ctx: Context) -> str:
        return str((await ctx.read_resource("closed://x")).contents[0].content)

    made = guarded(mcp, RULES[1:])
    async with wire.client_of(made.server, "auto") as client:
        with pytest.raises(Exception, match=r"closed|prompt") as caught:
            await client.get_prompt("q")
    assert SECRET not in str(caught.value)
