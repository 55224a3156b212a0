"""A policy at one server, as every request meets it: who calls, what is recorded, how results lose what they must.

How it comes to stand on the server is in `install`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from fastmcp import FastMCP

from ...config.runtime import Runtime, load_runtime, shared_runtime
from ...core.decisions import Decision
from ...core.plan import Plan
from ...core.policy_engine import PolicyEngine
from ...errors import AuditUnavailable, BindError
from ...model import Component, Redaction, RequestContext
from ...tokens import VerifiedToken
from .identity import NO_ONE, Identity, caller, identify, somebody
from .resolve import Known, LeafKey, Resolver
from .shapes import Shape

logger: Final = logging.getLogger("mcp_macaroon_middleware")

SHOWN: Final = 16_384

Source = Runtime | str | Path | Mapping[str, Any]


class Guard:
    """A policy at one server. `runtime` is the policy in force, `servers` are those that it stands on, the root first.

    `broken` says why it refuses everything; `pending`, that components are yet to be listed.
    """

    def __init__(self, server: FastMCP[Any], runtime: Runtime) -> None:
        self.server: Final = server
        self.runtime: Final = runtime
        self.engine: Final[PolicyEngine] = runtime.engine
        self._known = Known(runtime.audit)
        self.resolver: Final = Resolver(server, self._known)
        self.broken: BindError | None = None
        self.pending = False
        self._shown: OrderedDict[Any, tuple[Plan, Mapping[str, Any]]] = OrderedDict()
        self.servers: tuple[FastMCP[Any], ...] = ()

    def __repr__(self) -> str:
        return f"Guard({self.server.name!r}, revision={self.runtime.revision!r})"

    # --- for every request ----------------------------------------------------------------------------------------

    def caller(self) -> Identity | None:
        """The caller of the request in hand, where that can be told at once. Raises `Unidentified`."""
        return caller(self.runtime.settings.identity, self.server.auth, self.runtime.bearers)

    async def identify(self) -> Identity:
        """The caller of the request in hand. Raises `Unidentified`."""
        return await identify(self.runtime.settings.identity, self.server.auth, self.runtime.bearers)

    async def somebody(self) -> Identity:
        """The caller as far as that can be told."""
        return await somebody(self.runtime.settings.identity, self.server.auth, self.runtime.bearers)

    def request(self, identity: Identity | None, component: Component, *, nested: bool = False) -> RequestContext:
        """A request as the engine judges it, without its arguments."""
        who = identity or NO_ONE
        return RequestContext(
            principal=who.principal,
            component=component,
            claims=who.claims,
            client=who.client,
            client_address=who.address,
            at=self.engine.clock.now(),
            nested=nested,
        )

    async def observe(
        self,
        identity: Identity | None,
        component: Component,
        *,
        code: str = "ok",
        outcome: str = "ok",
        detail: str = "",
        must: bool = False,
    ) -> bool:
        """Writes the one final record of a request that runs no component; False where it cannot be written.

        `must`: the request is refused then.
        """
        try:
            request = self.request(identity, component)
            await self.engine.observe(request, code=code, outcome=outcome, detail=detail, must=must)
        except AuditUnavailable:
            logger.error("a request could not be recorded")
            return False
        return True

    def redactor(self, shape: Shape, key: LeafKey, decision: Decision, result: Any) -> Callable[[Redaction], Any]:
        """What applies a redaction to this result, for the engine to call."""

        def apply(redaction: Redaction) -> Any:
            if redaction.is_empty:
                return result
            return shape.rebuild(
                result, redaction, "pass" if self.passes else "withhold", self._held_schema(key, decision)
            )

        return apply

    def shown(
        self, request: RequestContext, token: VerifiedToken | None, key: LeafKey, schema: Mapping[str, Any]
    ) -> None:
        """Remembers the output schema that a list has shown to a caller, as long as there is room."""
        mark = (request.principal, request.client, token.lineage if token is not None else (), key)
        self._shown[mark] = (self.engine.plan, schema)
        self._shown.move_to_end(mark)
        if len(self._shown) > SHOWN:
            self._shown.popitem(last=False)

    def _held_schema(self, key: LeafKey, decision: Decision) -> Mapping[str, Any] | None:
        """The schema that the caller still holds, if it is not the one that today's rules publish.

        Under the rules of the very list that showed it, every result fits it.
        """
        mark = (decision.request.principal, decision.request.client, decision.lineage, key)
        plan, schema = self._shown.get(mark, (None, None))
        return schema if plan is not decision.plan else None

    @property
    def passes(self) -> bool:
        """Whether what has no fields (plain text, images, blobs) passes under a field rule."""
        return getattr(self.runtime.sections.get("field_access"), "unstructured", "withhold") == "pass"


def runtime_of(source: Source) -> Runtime:
    """The policy that a file, a mapping or a runtime stands for; one file is one runtime in this process."""
    if isinstance(source, Runtime):
        return source
    return load_runtime(source) if isinstance(source, Mapping) else shared_runtime(source)
