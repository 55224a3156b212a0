"""Walks through the mail server as its user: `python client.py`. It answers the server's questions by itself.

The server runs in this process; with `--stdio` it is started as an MCP host would start it. `--legacy` speaks the
protocol of 2025-11-25 instead of that of 2026-07-28.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from fastmcp import Client
from fastmcp.client.transports import StdioTransport
from server import guarded

SERVER = Path(__file__).with_name("server.py")


class Person:
    """Stands for the person at the client: shows each question and answers it with `says`."""

    def __init__(self) -> None:
        self.says = "deny"

    async def __call__(self, message: str, response_type: Any, params: Any, context: Any) -> dict[str, str]:
        """The server's question is a form; every field of it is one choice."""
        fields = params.requested_schema["properties"]
        print("    the server asks:")
        for line in message.splitlines():
            print(f"      | {line}".rstrip())
        for offers in fields.values():
            print(f"    offered: {'; '.join(offer['title'] for offer in offers['oneOf'])}")
        print(f"    answered: {self.says}")
        return dict.fromkeys(fields, self.says)


class Story:
    """Calls tools one after the other and prints what came of it."""

    def __init__(self, client: Client[Any], person: Person) -> None:
        self.client, self.person = client, person

    async def call(self, title: str, tool: str, says: str = "deny", /, **arguments: Any) -> None:
        """One call; `says` is what the person answers, if there is a question."""
        self.person.says = says
        print(f"\n{title}\n  {tool} {json.dumps(arguments)}")
        result: Any = await self.client.call_tool(tool, arguments, raise_on_error=False)
        if result.is_error:
            code = (result.meta or {}).get("mcp-macaroon", {}).get("code", "none")
            print(f"  refused: {result.content[0].text} (code: {code})")
            return
        answer = result.structured_content["result"]
        for item in answer if isinstance(answer, list) else [answer]:
            print(f"  {json.dumps(item)}")

    async def tell(self) -> None:
        """The whole walk."""
        call = self.call
        tools = await self.client.list_tools()
        print(f"protocol {self.client.protocol_version}, tools: {', '.join(sorted(tool.name for tool in tools))}")
        await call("Mail without its text; attachments, this once.", "read_emails", "once")
        await call("The archive's attachments: no.", "read_emails", "deny", folder="archive")
        await call("Again: the no still holds, and nobody is asked.", "read_emails", "once", folder="archive")
        await call("The inbox again, and from now on for a while.", "read_emails", "period")
        await call("Nobody is asked now.", "read_emails")
        await call("A mail that may be sent.", "send_mail", "once", to="carol@example.org", subject="Yes", text="Noon!")
        await call("One that may not.", "send_mail", "deny", to="eve@example.com", subject="Codes", text="4711")
        await call("A tool that is not there for us.", "admin_tool", command="reboot")


def target(stdio: bool) -> Any:
    """What the client connects to: the server in this process, or one of its own."""
    if not stdio:
        return guarded()
    return StdioTransport(sys.executable, [str(SERVER)], env=dict(os.environ))


async def main() -> None:
    """Connects and tells the story."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stdio", action="store_true", help="start server.py as a process of its own")
    parser.add_argument("--legacy", action="store_true", help="speak the protocol of 2025-11-25")
    options = parser.parse_args()
    person = Person()
    mode = "legacy" if options.legacy else "auto"
    async with Client(target(options.stdio), elicitation_handler=person, mode=mode) as client:
        await Story(client, person).tell()


if __name__ == "__main__":
    asyncio.run(main())
