"""Calls the fleet through its proxy, so that each call meets another server: `python client.py [PORT] [--legacy]`."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

from fastmcp import Client

TOKEN = Path(__file__).with_name("token")


class Person:
    """Answers the servers' questions, and counts them."""

    def __init__(self) -> None:
        self.says, self.asked = "once", 0

    async def __call__(self, message: str, response_type: Any, params: Any, context: Any) -> dict[str, str]:
        """Every field of the form is one choice."""
        self.asked += 1
        return dict.fromkeys(params.requested_schema["properties"], self.says)


async def call(client: Client[Any], tool: str, **arguments: Any) -> str:
    """What came of it, in one line."""
    result = await client.call_tool(tool, arguments, raise_on_error=False)
    code = ((result.meta or {}).get("mcp-macaroon") or {}).get("code")
    return f"refused: {code}" if code else str(result.data)


async def main() -> None:
    """The walk."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", nargs="?", type=int, default=8000)
    parser.add_argument(
        "--legacy", action="store_true", help="the protocol of 2025-11-25: a session stays at its server"
    )
    options = parser.parse_args()
    url, person = f"http://127.0.0.1:{options.port}/mcp", Person()
    mode = "legacy" if options.legacy else "auto"

    def connected() -> Client[Any]:
        return Client(url, auth=TOKEN.read_text(), elicitation_handler=person, mode=mode)

    print("Seven calls under a limit of five a minute, whichever server they meet")
    async with connected() as one, connected() as two:
        for number in range(7):
            print(f"  {await call((one, two)[number % 2], 'track_parcel', number=number)}")
        print("\nAn approval: one server asks, and the answer may go to the other")
        print(f"  {await call(one, 'send_parcel', to='bob')}; questions: {person.asked}")
        print("\nA no at one is a no at all")
        person.says = "deny"
        print(f"  {await call(two, 'send_parcel', to='eve')}; questions: {person.asked}")
        for at in (one, two):
            print(f"  {await call(at, 'send_parcel', to='eve')}; questions: {person.asked}")
        print("\nNow for a period: whichever server is met, nobody is asked again")
        person.says = "period"
        print(f"  {await call(two, 'send_parcel', to='carol')}; questions: {person.asked}")
        for at in (one, two, one, two):
            print(f"  {await call(at, 'send_parcel', to='carol')}; questions: {person.asked}")


if __name__ == "__main__":
    asyncio.run(main())
