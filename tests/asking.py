"""A server with everything that can be asked about, and a person at its client who answers what a test says.

As a program it serves on standard input and output, under the policy file that it is given.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import mcp_types
from fastmcp import Context, FastMCP
from fastmcp.client.elicitation import ElicitResult
from fastmcp.exceptions import ToolError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

RULES: list[Any] = [
    "bf:ran:tool_access:allow",
    "bf:send:tool_access:elicit",
    "bf:fails:tool_access:elicit",
    "bf:user:tool_access:allow",
    "af:user:field_access:elicit:email",
    "bf:chat:tool_access:elicit",
    "bf:talk:tool_access:allow",
    "bf:talk:rate_limit:allow:2/hour",
    "bf:tell:tool_access:allow",
    "af:tell:field_access:deny:secret",
    "bf:outer:tool_access:elicit",
    "bf:inner:tool_access:elicit",
    "bf:prompt=letter:tool_access:elicit",
    r"bf:resource=note\://one:tool_access:elicit",
    r"bf:resource=page\://{number}:tool_access:elicit",
    r"bf:resource=card\://bob:tool_access:allow",
    r"af:resource=card\://bob:field_access:elicit:email",
]


def asking_server(**options: Any) -> FastMCP[Any]:
    """The server. `ran` tells what has run."""
    server: FastMCP[Any] = FastMCP("office", **options)
    done: list[str] = []

    @server.tool(output_schema=None)
    def ran() -> str:
        return " ".join(done)

    @server.tool
    def send(to: str, confirm: bool = False, note: str = "") -> str:
        done.append(f"send-{to}")
        return f"sent to {to}"

    @server.tool
    def fails(to: str) -> str:
        done.append(f"fails-{to}")
        raise ToolError("the mail server is down")

    @server.tool
    def user(id: int) -> dict[str, Any]:
        done.append(f"user-{id}")
        return {"id": id, "email": "bob@example.com"}

    async def own_question(ctx: Context, text: str) -> str | mcp_types.InputRequiredResult:
        """A question of the tool's own, in the way of either protocol; its answer where it has one."""
        bound = ctx.request_context
        if bound is not None and bound.protocol_version in MODERN_PROTOCOL_VERSIONS:
            answer = (ctx.input_responses or {}).get("mine")
            if answer is None:
                schema = {"type": "object", "properties": {"value": {"type": "string"}}, "required": ["value"]}
                params = mcp_types.ElicitRequestFormParams(message=text, requested_schema=schema)
                request = mcp_types.ElicitRequest(params=params)
                return mcp_types.InputRequiredResult(input_requests={"mine": request}, request_state=f"mine:{text}")
            assert ctx.request_state == f"mine:{text}", ctx.request_state
            assert set(ctx.input_responses or {}) == {"mine"}
            return str((answer.content or {})["value"])
        heard = await ctx.elicit(text, str)
        return str(getattr(heard, "data", heard.action))

    @server.tool(output_schema=None)
    async def chat(ctx: Context, topic: str) -> Any:
        """Asks its client itself, and runs on with the answer."""
        answer = await own_question(ctx, "How long?")
        if isinstance(answer, str):
            done.append(f"chat-{topic}-{answer}")
            return f"{topic}: {answer}"
        return answer

    @server.tool(output_schema=None)
    async def talk(ctx: Context) -> Any:
        """Asks its client itself."""
        answer = await own_question(ctx, "Which?")
        if isinstance(answer, str):
            done.append(f"talk-{answer}")
        return answer

    @server.tool(output_schema=None)
    async def tell(ctx: Context) -> Any:
        """Asks its client about something that an output rule withholds."""
        answer = await own_question(ctx, "Is the secret hidden?")
        return {"answer": answer, "secret": "hidden"} if isinstance(answer, str) else answer

    @server.tool
    def inner(to: str) -> str:
        done.append(f"inner-{to}")
        return f"inner {to}"

    @server.tool
    async def outer(ctx: Context, to: str) -> str:
        done.append(f"outer-{to}")
        try:
            result = await ctx.fastmcp.call_tool("inner", {"to": to})
            return f"outer then {result.content[0].text}"  # type: ignore[union-attr]
        except ToolError as error:
            return f"outer without inner: {error}"

    @server.prompt
    def letter(to: str) -> str:
        done.append(f"letter-{to}")
        return f"write to {to}"

    @server.resource("note://one")
    def note() -> str:
        done.append("note")
        return "the note"

    @server.resource("page://{number}")
    def page(number: str) -> str:
        done.append(f"page-{number}")
        return f"page {number}"

    @server.resource("card://bob", mime_type="application/json")
    def card() -> str:
        done.append("card")
        return '{"name": "bob", "email": "bob@example.com"}'

    return server


class Person:
    """Who sits at the client. `says` is what is chosen in each of our forms, `value` answers the tools' own questions.

    `says` may be a mapping by field, one choice for all, `cancel`, `decline`, or `empty` (accepts, chooses nothing).
    """

    def __init__(self, says: str | Mapping[str, str] = "once", *, value: str = "an hour") -> None:
        self.says: str | Mapping[str, str] = says
        self.value = value
        self.seen: list[tuple[str, Mapping[str, Any]]] = []

    @property
    def asked(self) -> int:
        """How many of our questions came."""
        return sum("approval is needed" in message for message, _ in self.seen)

    async def __call__(self, message: str, response_type: Any, params: Any, context: Any) -> ElicitResult[Any]:
        """Answers one form."""
        schema = params.requested_schema
        self.seen.append((message, schema))
        if "approval is needed" not in message:
            return ElicitResult(action="accept", content={"value": self.value})
        if self.says in ("cancel", "decline"):
            return ElicitResult(action=self.says)
        if self.says == "empty":
            return ElicitResult(action="accept", content={})
        fields = schema["properties"]
        chosen = {name: self.says if isinstance(self.says, str) else self.says[name] for name in fields}
        return ElicitResult(action="accept", content=chosen)


if __name__ == "__main__":
    from mcp_macaroon_middleware import guard

    serving = asking_server()
    guard(serving, sys.argv[1])
    serving.run(transport="stdio", show_banner=False)
