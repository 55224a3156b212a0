"""Who asks and for what: principals, callers, selectors, components. Frozen data; it decides nothing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from .words import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who calls: a tagged tuple. Two principals are the same only if all four parts are.

    `kind` is `user`, `client` (a machine without a user), `local` (this process's own user) or `anonymous`;
    `namespace` is the issuer, or the id of the identity source where there is no issuer.
    """

    kind: str
    namespace: str
    subject: str
    tenant: str | None = None

    @property
    def key(self) -> str:
        """An unambiguous text of all four parts, for store keys and digests."""
        return _text_of(self.kind, self.namespace, self.subject, self.tenant)

    @property
    def place(self) -> str:
        """Where a store that is spread over machines keeps what is this principal's alone: `{xyz}`, one of 4,096."""
        return place_of(self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A principal through one client program or one line of tokens; approvals belong to a caller.

    `lineage` is the token id followed by its branches, empty without a token.
    """

    principal: Principal
    client: str | None = None
    lineage: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """An unambiguous text of all parts, for store keys and digests."""
        return json.dumps([self.principal.key, self.client, list(self.lineage)], ensure_ascii=True)


@lru_cache(maxsize=4096)
def _text_of(*parts: str | None) -> str:
    return json.dumps(parts, ensure_ascii=True)


@lru_cache(maxsize=4096)
def place_of(principal: str) -> str:
    """The place of a principal by its key; too short to tell who it is."""
    return "{" + hashlib.sha256(principal.encode("utf-8", "surrogatepass")).hexdigest()[:3] + "}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Limits a rule to principals (`for`, `except`): all keys given must match, a list means any of its values.

    `subject` speaks of users and of `local`, `client` of machines and client programs. A claim is named by a text,
    which may be a dotted path, or by the keys that lead to it.
    """

    subject: tuple[str, ...] = ()
    role: tuple[str, ...] = ()
    client: tuple[str, ...] = ()
    claim: tuple[tuple[str | tuple[str, ...], tuple[str, ...]], ...] = ()
    issuer: tuple[str, ...] = ()
    tenant: tuple[str, ...] = ()
    scope: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """The component that will run, after renames, mounts, versions and URI normalisation.

    `name` is the public name: a tool's or prompt's name, a resource's URI or URI template, or a method's name. `names`
    is every name in the chain from the public one to the leaf's own, `child/name` forms included; a restricting rule
    matches any of them, a granting one only `exposed`. For a templated read `uri` is the concrete URI, normalised; it
    counts as a public name too. `digest` covers the definition (description, schemas, code where it can be told).
    """

    kind: Kind
    name: str
    names: tuple[str, ...] = ()
    server: str = ""
    version: str | None = None
    digest: str = ""
    uri: str | None = None

    def __hash__(self) -> int:
        return hash((self.name, self.server, self.version, self.uri))

    @property
    def leaf(self) -> str:
        """The name that the component bears where it is defined."""
        return self.names[-1] if self.names else self.name

    @property
    def key(self) -> str:
        """An unambiguous text of what runs, the same for all of its public names; no caller can choose it."""
        return _text_of(self.kind, self.server, self.leaf)


NOBODY: Final = Principal(kind="anonymous", namespace="", subject="")


NO_COMPONENT: Final = Component(kind=Kind.METHOD, name="")
