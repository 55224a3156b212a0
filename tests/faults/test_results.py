"""A result that is too large, that has no plain form, or that fails while it is made: withheld, with a reason, and
nothing of it leaves by the way. The audit has the size of what was too large, and never a part of it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from asking import Person
from fastmcp import Client, FastMCP
from fastmcp.tools.base import ToolResult
from guarded import ERAS, Guarded, guarded
from mcp_types import TextContent

from mcp_macaroon_middleware.adapters.fastmcp.documents import MAX_TEXT
from mcp_macaroon_middleware.core.approvals import HELD

pytestmark = pytest.mark.threat("FI25")

SECRET = "123-45-6789"
RULES = ["bf:*:tool_access:allow", "af:*:field_access:deny:ssn"]
ROW = {"id": 1, "ssn": SECRET}


def half() -> Iterator[dict[str, Any]]:
    """Gives one row and then fails, with the secret in its words."""
    yield ROW
    raise ValueError(SECRET)


async def half_later() -> AsyncIterator[dict[str, Any]]:
    """The same, to be waited for."""
    for row in half():
        yield row


def fails_half_way() -> Any:
    return half()


async def fails_half_way_later() -> Any:
    return half_later()


def fails_while_gathering() -> list[dict[str, Any]]:
    return list(half())


def has_no_plain_form() -> dict[str, Any]:
    return {**ROW, "lock": object()}


def holds_half_a_character() -> dict[str, Any]:
    return {**ROW, "text": "\ud800"}


def holds_itself() -> dict[str, Any]:
    found: dict[str, Any] = dict(ROW)
    found["self"] = found
    return found


UNMADE: list[Callable[..., Any]] = [
    fails_half_way,
    fails_half_way_later,
    fails_while_gathering,
    has_no_plain_form,
    holds_half_a_character,
    holds_itself,
]


def structured() -> dict[str, Any]:
    return {**ROW, "text": "x" * MAX_TEXT}


def one_text() -> ToolResult:
    return ToolResult(content=[TextContent(type="text", text=json.dumps({**ROW, "text": "x" * MAX_TEXT}))])


def many_texts() -> ToolResult:
    block = TextContent(type="text", text=json.dumps({**ROW, "text": "x" * (MAX_TEXT // 3)}))
    return ToolResult(content=[block] * 4)


def many_values() -> dict[str, Any]:
    return {**ROW, "values": [0] * 1_100_000}


LARGE: list[Callable[..., Any]] = [structured, one_text, many_texts, many_values]


def serving(tool: Callable[..., Any], rules: list[Any] = RULES) -> Guarded:
    """A guarded server with this one tool, and one that is fine."""
    server: FastMCP[Any] = FastMCP("s")
    server.tool(tool, name="tool")

    @server.tool
    def fine() -> dict[str, Any]:
        return dict(ROW)

    return guarded(server, rules)


async def taken(made: Guarded, era: str) -> tuple[Any, Any]:
    """What the tool's caller gets, and then the one of the tool that is fine."""
    async with Client(made.server, mode=era) as client:
        result = await client.call_tool_mcp("tool", {})
        return result, await client.call_tool_mcp("fine", {})


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("tool", UNMADE)
async def test_a_result_that_cannot_be_made_is_withheld_with_a_reason(
    tool: Callable[..., Any], era: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = serving(tool)
    result, fine = await taken(made, era)
    assert result.is_error
    assert [block.text for block in result.content] == [
        "The call failed, and its error cannot be shown. [error_withheld]"
    ]
    assert SECRET not in repr(result) + repr(list(made.records)) + caplog.text
    assert fine.structured_content == {"id": 1}
    assert [end[:2] for end in made.ends if end[0] == "tool"] == [("tool", "error")]
    assert made.exactly_one_end_each()


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("tool", LARGE)
async def test_a_result_that_is_too_large_is_withheld_and_the_audit_has_its_size(
    tool: Callable[..., Any], era: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = serving(tool)
    result, fine = await taken(made, era)
    assert result.is_error
    assert (result.meta or {})["mcp-macaroon"]["code"] == "result_too_large"
    assert len(repr(result)) < 2000
    (final,) = [record for record in made.records.finals() if record["component"]["name"] == "tool"]
    assert (final["outcome"], final["code"]) == ("withheld", "result_too_large")
    assert 1_100_000 < final["size"] < 4 * MAX_TEXT
    assert len(json.dumps(final)) < 2000
    assert SECRET not in repr(result) + repr(list(made.records)) + caplog.text
    assert fine.structured_content == {"id": 1}
    assert made.exactly_one_end_each()


@pytest.mark.parametrize("era", ERAS)
async def test_a_result_that_is_not_too_large_has_no_size_in_the_audit(era: str) -> None:
    def almost() -> dict[str, Any]:
        return {**ROW, "text": "x" * 1_000_000}

    made = serving(almost)
    result, _ = await taken(made, era)
    assert not result.is_error
    assert set(result.structured_content) == {"id", "text"}
    assert all("size" not in record for record in made.records)


async def test_a_result_that_is_too_large_to_be_held_loses_its_fields_and_the_audit_has_its_size() -> None:
    def large() -> dict[str, Any]:
        return {**ROW, "text": "x" * HELD}

    made, person = serving(large, ["bf:*:tool_access:allow", "af:tool:field_access:elicit:ssn"]), Person()
    async with Client(made.server, mode="auto", elicitation_handler=person) as client:
        result = await client.call_tool_mcp("tool", {})
    assert set(result.structured_content) == {"id", "text"}
    assert person.asked == 0
    (final,) = [record for record in made.records.finals() if record["component"]["name"] == "tool"]
    assert (final["outcome"], final["withheld"]) == ("ok", ["ssn"])
    assert HELD < final["size"] < 3 * HELD
