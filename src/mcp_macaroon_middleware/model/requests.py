"""A request and a result as every check sees them. Immutable, and silent about values in their reprs."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from .arguments import ArgumentFacts
from .subjects import NO_COMPONENT, NOBODY, Component, Principal
from .words import EMPTY, JSON, frozen


@dataclass(frozen=True, slots=True)
class Message:
    """The request as the original's enforcers read it: `context.message.name`, `context.message.arguments`."""

    name: str
    arguments: Mapping[str, Any]


class RequestContext:
    """One request as every check sees it: who, what, with which arguments, when, from where. Immutable.

    `at` is an aware datetime in UTC. `arguments` are in the leaf component's own names and values (after validation);
    they are empty while argument-free rules are judged. `facts` say what came of them, and what the component publishes
    about them, where the host knows. `nested` says that a component called this one. `token_id` is
    the id of the token that was minted, which everything narrowed from it bears too; None without one. What else the
    host knows can be given as keyword arguments and is read as attributes (`context.ip_address`), or in `extras`.

    The `repr` names the request, principal and component, and never shows arguments, claims or extras (law L7).
    """

    __slots__ = (
        "arguments",
        "at",
        "claims",
        "client",
        "client_address",
        "component",
        "extras",
        "facts",
        "id",
        "nested",
        "principal",
        "token_id",
    )

    id: str
    principal: Principal
    client: str | None
    claims: Mapping[str, Any]
    component: Component
    arguments: Mapping[str, Any]
    at: datetime
    client_address: str | None
    nested: bool
    token_id: str | None
    extras: Mapping[str, Any]
    facts: ArgumentFacts | None

    def __init__(
        self,
        user_id: str | None = None,
        *,
        principal: Principal | None = None,
        component: Component | None = None,
        arguments: Mapping[str, Any] | None = None,
        claims: Mapping[str, Any] | None = None,
        client: str | None = None,
        client_address: str | None = None,
        at: datetime | None = None,
        nested: bool = False,
        token_id: str | None = None,
        id: str | None = None,
        **extras: Any,
    ) -> None:
        if principal is None:
            principal = Principal(kind="user", namespace="", subject=user_id) if user_id else NOBODY
        put = object.__setattr__
        put(self, "id", id or request_ids.next())
        put(self, "principal", principal)
        put(self, "client", client)
        put(self, "claims", frozen(claims) if claims else EMPTY)
        put(self, "component", component or NO_COMPONENT)
        put(self, "arguments", frozen(arguments) if arguments else EMPTY)
        put(self, "at", at or datetime.now(UTC))
        put(self, "client_address", client_address)
        put(self, "nested", nested)
        put(self, "token_id", token_id)
        put(self, "extras", MappingProxyType(extras) if extras else EMPTY)
        put(self, "facts", None)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a RequestContext cannot be changed; use replace({name}=…)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a RequestContext cannot be changed")

    def __getattr__(self, name: str) -> Any:
        try:
            return object.__getattribute__(self, "extras")[name]
        except (AttributeError, KeyError):
            raise AttributeError(f"this request has no {name!r}") from None

    def __repr__(self) -> str:
        return f"RequestContext(id={self.id!r}, principal={self.principal!r}, component={self.component.name!r})"

    @property
    def user_id(self) -> str:
        """The principal's subject, as the original called it."""
        return self.principal.subject

    @property
    def message(self) -> Message:
        """The component's public name and the arguments, as the original's enforcers read them."""
        return Message(self.component.name, self.arguments)

    def told(self, arguments: Mapping[str, Any] | ArgumentFacts) -> RequestContext:
        """A copy with these arguments, and with what is known of them."""
        if isinstance(arguments, ArgumentFacts):
            return self.replace(arguments=arguments.given, facts=arguments)
        return self.replace(arguments=arguments, facts=None)

    def replace(self, **changes: Any) -> RequestContext:
        """A copy with other values for some fields; the id stays."""
        new = object.__new__(RequestContext)
        for name in RequestContext.__slots__:
            value = changes.pop(name) if name in changes else getattr(self, name)
            object.__setattr__(new, name, frozen(value) if name in ("arguments", "claims") else value)
        if changes:
            raise TypeError(f"RequestContext has no field {next(iter(changes))!r}")
        return new


class _RequestIds:
    """Ids that no two requests of any processes share: a random part a process (and fork), and a count."""

    __slots__ = ("_count", "_part")

    def __init__(self) -> None:
        self.renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        """Begins anew with another random part."""
        self._part = secrets.token_hex(8)
        self._count = itertools.count(1)

    def next(self) -> str:
        """An id that was never given out."""
        return f"{self._part}{next(self._count):06x}"


request_ids: Final = _RequestIds()


class Result:
    """What a component returned, as plain frozen data, built when a check first looks at it.

    `documents` are the JSON documents in it (the structured content without its wrapper first, then each text that is
    JSON), `texts` the plain texts. A result that cannot be turned into plain data raises when looked at, which
    withholds it. `large` says whether looking at it takes long enough to hold other requests up.
    """

    __slots__ = ("_build", "_built", "_large", "is_error")

    def __init__(
        self,
        build: Callable[[], tuple[tuple[JSON, ...], tuple[str, ...]]],
        *,
        is_error: bool = False,
        large: Callable[[], bool] | None = None,
    ) -> None:
        self._build = build
        self._built: tuple[tuple[JSON, ...], tuple[str, ...]] | None = None
        self.is_error = is_error
        self._large = large

    @classmethod
    def of(cls, value: JSON) -> Result:
        """A result that is one JSON document."""
        return cls(lambda: ((value,), ()))

    @property
    def is_large(self) -> bool:
        """Whether looking at it takes long enough to hold other requests up."""
        return self._large is not None and self._large()

    def _parts(self) -> tuple[tuple[JSON, ...], tuple[str, ...]]:
        if self._built is None:
            documents, texts = self._build()
            self._built = (tuple(frozen(d) for d in documents), tuple(texts))
        return self._built

    @property
    def documents(self) -> tuple[JSON, ...]:
        """Every JSON document in the result."""
        return self._parts()[0]

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text in the result that is not JSON."""
        return self._parts()[1]

    @property
    def value(self) -> JSON:
        """The main document, or None where there is none."""
        documents = self.documents
        return documents[0] if documents else None

    def __repr__(self) -> str:
        return "Result(…)"
