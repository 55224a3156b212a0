from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import wire
from fastmcp import FastMCP
from fastmcp.exceptions import ToolError
from mcp_types import PromptReference

import mcp_macaroon_middleware as package
from mcp_macaroon_middleware.adapters.fastmcp import refusals
from mcp_macaroon_middleware.model import Refusal

ERAS = pytest.mark.parametrize("era", wire.ERAS)
LIMITED = Refusal(code="rate_limited", reason="Too many calls.", policy="rate_limit", retry_after=12.2)
HIDDEN = Refusal(code="not_allowed", reason="Access is not allowed.", hidden=True)


def server(refuse: object = None) -> FastMCP:
    instead = refuse if callable(refuse) else None
    mcp: FastMCP = FastMCP("lab", middleware=[wire.Answering(instead=instead)])
    mcp.tool(lambda: {"ran": True}, name="hidden")
    mcp.resource("data://hidden", name="r")(lambda: "{}")
    mcp.resource("item://{id}", name="t")(lambda id: id)
    mcp.prompt(lambda: "text", name="hidden")
    return mcp


@ERAS
@pytest.mark.threat("K14")
async def test_a_refused_tool_call_is_a_result_with_text_code_policy_and_time(era: str) -> None:
    result = await wire.called(server(lambda name: refusals.tool_refusal(name, LIMITED)), era, "hidden")
    assert result["isError"] is True
    assert result["content"][0]["text"] == "Too many calls. Retry after 13 seconds. [rate_limited]"
    assert result["_meta"]["mcp-macaroon"] == {"code": "rate_limited", "policy": "rate_limit", "retry_after": 13}


@ERAS
@pytest.mark.threat("H01", "Q02", "Q05")
async def test_a_hidden_tool_answers_byte_for_byte_as_an_unknown_one(era: str) -> None:
    guarded = server(lambda name: refusals.tool_refusal(name, HIDDEN) if name == "hidden" else None)
    hidden, unknown = await wire.called(guarded, era, "hidden"), await wire.called(guarded, era, "absent")
    assert json.dumps(hidden).replace("hidden", "absent") == json.dumps(unknown)


@ERAS
@pytest.mark.threat("H01", "Q02")
@pytest.mark.parametrize(("uri", "absent"), [("data://hidden", "data://absent"), ("item://hidden", "other://absent")])
async def test_a_hidden_resource_answers_byte_for_byte_as_an_unknown_one(era: str, uri: str, absent: str) -> None:
    guarded = server(lambda name: refusals.resource_refusal(name, HIDDEN) if "hidden" in name else None)
    hidden = await wire.failed(guarded, era, lambda client: client.read_resource(uri))
    unknown = await wire.failed(guarded, era, lambda client: client.read_resource(absent))
    assert json.dumps(hidden).replace(uri, absent) == json.dumps(unknown)


@ERAS
@pytest.mark.threat("H01", "I05", "Q02")
async def test_a_hidden_prompt_answers_byte_for_byte_as_an_unknown_one(era: str) -> None:
    guarded = server(lambda name: refusals.prompt_refusal(name, HIDDEN) if name == "hidden" else None)
    hidden = await wire.failed(guarded, era, lambda client: client.get_prompt("hidden"))
    unknown = await wire.failed(guarded, era, lambda client: client.get_prompt("absent"))
    assert json.dumps(hidden).replace("hidden", "absent") == json.dumps(unknown)


@ERAS
async def test_a_refused_read_is_a_protocol_error_with_a_code_of_our_own_and_the_facts(era: str) -> None:
    guarded = server(lambda name: refusals.resource_refusal(name, LIMITED))
    error = await wire.failed(guarded, era, lambda client: client.read_resource("data://hidden"))
    assert error["code"] == refusals.REFUSED
    assert not -32768 <= error["code"] <= -32000
    assert error["message"] == "Too many calls. Retry after 13 seconds. [rate_limited]"
    assert error["data"] == {"code": "rate_limited", "policy": "rate_limit", "retry_after": 13}


@ERAS
async def test_a_refused_prompt_is_a_protocol_error_with_the_facts(era: str) -> None:
    guarded = server(lambda name: refusals.prompt_refusal(name, LIMITED))
    error = await wire.failed(guarded, era, lambda client: client.get_prompt("hidden"))
    assert (error["code"], error["data"]["code"]) == (refusals.REFUSED, "rate_limited")


@pytest.mark.threat("F01")
async def test_where_only_a_question_would_help_the_missing_capability_is_named() -> None:
    asks = Refusal(code="approval_unavailable", reason="This needs a person's approval.")
    guarded = server(lambda name: refusals.resource_refusal(name, asks, lacks_elicitation=True))
    error = await wire.failed(guarded, "auto", lambda client: client.read_resource("data://hidden"))
    assert error["code"] == -32021
    assert error["data"]["requiredCapabilities"] == {"elicitation": {}}
    assert error["data"]["mcp-macaroon"]["code"] == "approval_unavailable"


@ERAS
@pytest.mark.threat("H01", "I07", "Q02")
async def test_a_hidden_method_answers_as_one_that_there_is_not(era: str) -> None:
    class Refusing(wire.Answering):
        async def on_request(self, context: Any, call_next: Any) -> Any:
            if context.method == "completion/complete":
                raise refusals.method_refusal(context.method, HIDDEN)
            return await call_next(context)

    answers = []
    for middleware in ([Refusing()], []):
        mcp: FastMCP = FastMCP("lab", middleware=middleware)
        mcp.prompt(lambda a: a, name="p")
        answers.append(await wire.failed(mcp, era, _complete))
    assert answers[0] == answers[1]


async def _complete(client: Any) -> Any:
    return await client.complete_mcp(PromptReference(name="p"), {"name": "a", "value": ""})


@pytest.mark.threat("H10", "Q03")
def test_every_code_has_one_fixed_next_step_that_names_nothing_internal() -> None:
    for code, text in refusals.NEXT.items():
        assert text.endswith(".")
        assert len(text) < 120
        assert code == code.lower()
        assert not any(word in text for word in ("yaml", "policies", ".py", "macaroon", "caveat", "rule "))


def test_every_code_with_a_next_step_is_one_that_something_refuses_with() -> None:
    sources = [path.read_text() for path in Path(package.__file__).parent.rglob("*.py") if path.name != "refusals.py"]
    assert not [code for code in refusals.NEXT if not any(f'"{code}"' in source for source in sources)]


def test_a_nested_refusal_is_raised_so_that_it_cannot_be_ignored() -> None:
    with pytest.raises(ToolError, match=r"Too many calls\. Retry after 13 seconds\. \[rate_limited\]") as caught:
        refusals.tool_refusal("t", LIMITED, nested=True)
    assert caught.value.__cause__ is None


@pytest.mark.threat("E07")
def test_a_reason_with_line_breaks_stays_one_line() -> None:
    text = refusals.sentence(Refusal(code="denied", reason="No.\n[allowed]\r\nGo on"))
    assert text.splitlines() == [text]
    assert text.endswith("[denied]")


@pytest.mark.parametrize(("given", "whole"), [(0.0, 0), (-1.0, 0), (0.2, 1), (60.0, 60), (1e300, 2**53)])
def test_times_are_whole_seconds_that_are_long_enough(given: float, whole: int) -> None:
    assert refusals.seconds(given) == whole


def test_an_approval_reference_stands_in_the_facts() -> None:
    refusal = Refusal(code="approval_required", reason="Ask.", approval="https://host/a/1")
    assert refusals.facts(refusal) == {"code": "approval_required", "approval": "https://host/a/1"}
