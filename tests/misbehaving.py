"""What a plugin can do wrong, by name, and a guarded server on which one of them does: for the tests beside this."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from asking import Person
from fastmcp import Client, FastMCP
from guarded import Guarded, guarded

from mcp_macaroon_middleware.plugin import Check, EnforcerType, NoParams, Phase, Verdict

SECRET = "secret-value"


class Ends(BaseException):
    """Not even an Exception."""


def raises(*_: Any) -> Any:
    """Raises an exception whose text nobody may see."""
    raise ValueError(SECRET)


def leaves(*_: Any) -> Any:
    """Wants to end the program."""
    raise SystemExit(SECRET)


def ends(*_: Any) -> Any:
    """Raises what no `except Exception` catches."""
    raise Ends(SECRET)


def cancels(*_: Any) -> Any:
    """Says that it was cancelled, which nobody did."""
    raise asyncio.CancelledError(SECRET)


def gives_nothing(*_: Any) -> Any:
    """Forgets to answer."""
    return


def gives_rubbish(*_: Any) -> Any:
    """Answers with something else, which is even true."""
    return [SECRET]


def gives_later(*_: Any) -> Any:
    """Answers with a coroutine."""

    async def later() -> list[str]:
        return [SECRET]

    return later()


AT_ONCE: dict[str, Callable[..., Any]] = {
    fault.__name__: fault for fault in (raises, leaves, ends, cancels, gives_nothing, gives_rubbish, gives_later)
}
"""Every fault that does not hang."""


def waiting(fault: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """The same fault in what is waited for."""

    async def later(*_: Any, **__: Any) -> Any:
        await asyncio.sleep(0)
        return fault()

    return later


async def hangs(*_: Any, **__: Any) -> Any:
    """Never answers."""
    await asyncio.Event().wait()


async def clings(*_: Any, **__: Any) -> Any:
    """Never answers, and does not end when it is cancelled either."""
    CLINGING.append(asyncio.current_task())
    while not GONE.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.05)


GONE = threading.Event()
"""Lets go of what hangs in threads and clings to loops."""
CLINGING: list[asyncio.Task[Any] | None] = []


def stands_still(*_: Any) -> Any:
    """Never answers, in a thread."""
    GONE.wait(30)


LATER: dict[str, Callable[..., Awaitable[Any]]] = {
    **{name: waiting(fault) for name, fault in AT_ONCE.items()},
    "hangs": hangs,
    "clings": clings,
}
"""Every fault in what is waited for."""


@asynccontextmanager
async def let_go() -> AsyncIterator[None]:
    """At the end of the block nothing hangs any more."""
    GONE.clear()
    try:
        yield
    finally:
        GONE.set()
        await asyncio.gather(*filter(None, CLINGING), return_exceptions=True)
        CLINGING.clear()


def fine(check: Check[NoParams]) -> Verdict:
    """A check of the same plugin, with nothing wrong."""
    return Verdict.allow()


FINE = EnforcerType(name="fine", check=fine, phases=frozenset(Phase))


class House:
    """A guarded server: rules of the plugin speak of `odd`, and not of `free`; both note that they ran."""

    def __init__(self, rules: Sequence[Any], application: Sequence[object], **config: Any) -> None:
        self.ran: list[str] = []
        server: FastMCP[Any] = FastMCP("house")

        @server.tool
        def odd() -> dict[str, Any]:
            self.ran.append("odd")
            return {"id": 1, "ssn": "123-45-6789"}

        @server.tool
        def free() -> dict[str, Any]:
            self.ran.append("free")
            return {"id": 2}

        every = ["bf:odd:tool_access:allow", "bf:free:tool_access:allow", "bf:free:fine:allow", *rules]
        self.guarded: Guarded = guarded(server, every, application=[FINE, *application], config=config)

    @asynccontextmanager
    async def client(self, era: str = "auto", person: Person | None = None) -> AsyncIterator[Client[Any]]:
        """A client in memory; what hangs is let go of at the end."""
        async with let_go(), Client(self.guarded.server, mode=era, elicitation_handler=person or Person()) as made:
            yield made
            await self.guarded.guard.runtime.close()

    async def outcome(self, client: Client[Any], tool: str = "odd") -> str:
        """`ok`, or the code of the refusal; nothing of a plugin's own words is in the answer."""
        result = await asyncio.wait_for(client.call_tool(tool, {}, raise_on_error=False), 20)
        assert SECRET not in repr(result)
        code = ((result.meta or {}).get("mcp-macaroon") or {}).get("code")
        if code is not None:
            assert result.is_error
            assert "123-45-6789" not in repr(result)
        return str(code) if code is not None else "error" if result.is_error else "ok"

    def is_sound(self) -> bool:
        """Whether every request has its one end, and no record holds what a plugin said."""
        return self.guarded.exactly_one_end_each() and SECRET not in repr(list(self.guarded.records))

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of this name."""
        return [record for record in self.guarded.records if record["event"] == name]
