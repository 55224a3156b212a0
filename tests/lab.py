"""Small real parts for engine tests: a registry of given enforcers, an engine on the memory store, a list as audit."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from mcp_macaroon_middleware import builtin
from mcp_macaroon_middleware.builtin.memory import MemoryStore
from mcp_macaroon_middleware.core.approvers import Approvers, OpenApprover
from mcp_macaroon_middleware.core.audit import AuditLog, SinkSlot
from mcp_macaroon_middleware.core.binding import PlanSettings
from mcp_macaroon_middleware.core.plan import Plan, compile_plan
from mcp_macaroon_middleware.core.policy_engine import PolicyEngine
from mcp_macaroon_middleware.host.registry import PluginInfo
from mcp_macaroon_middleware.model import Action, Component, Kind, Principal, RequestContext, Rule
from mcp_macaroon_middleware.plugin.contract import ApproverContext, ApproverType, Clock, EnforcerType
from mcp_macaroon_middleware.rules import parse_rule, rule_from_mapping
from mcp_macaroon_middleware.tokens import KeyRing

ALICE = Principal(kind="user", namespace="https://idp", subject="alice")
BOB = Principal(kind="user", namespace="https://idp", subject="bob")
KEY = b"a key for digests, 32 bytes long"
RING = KeyRing.from_secret(secrets.token_hex(32))
APPROVERS = list(builtin.macaroon_approvers())


class Records(list[dict[str, Any]]):
    """An audit sink that keeps its records."""

    broken = False

    def write(self, record: Mapping[str, Any]) -> None:
        if self.broken:
            raise OSError("disk full")
        self.append(dict(record))

    def close(self) -> None:
        """Nothing to release."""

    def finals(self) -> list[dict[str, Any]]:
        """The final records."""
        return [record for record in self if record["event"] == "final"]


class Enforcers:
    """What the engine asks of a registry."""

    def __init__(self, types: Sequence[EnforcerType], approvers: Sequence[ApproverType] = ()) -> None:
        plugin = PluginInfo(name="lab", distribution="mcp-macaroon-lab", version="1.2")
        self.enforcers = {t.name: SimpleNamespace(contribution=t, plugin=plugin) for t in types}
        self.approvers = {t.name: SimpleNamespace(contribution=t, plugin=plugin) for t in (*APPROVERS, *approvers)}

    def suggest(self, name: str) -> str | None:
        """No suggestions here."""
        return None


def builtins() -> list[EnforcerType]:
    """The package's own enforcers, through their hook."""
    return list(builtin.macaroon_enforcers())


def plan_of(
    rules: Sequence[str | Mapping[str, Any]],
    *more: EnforcerType,
    approvers: Sequence[ApproverType] = (),
    **settings: Any,
) -> Plan:
    """A compiled plan; any problem fails the test."""
    parsed: list[Rule] = [parse_rule(r) if isinstance(r, str) else rule_from_mapping(r) for r in rules]
    plan, problems = compile_plan(
        parsed,
        Enforcers([*builtins(), *more], approvers),
        PlanSettings(**settings),
        {},
        "r1",  # type: ignore[arg-type]
    )
    assert [p for p in problems if p.severity == "error"] == []
    return plan


@dataclass
class Lab:
    """An engine with everything around it."""

    engine: PolicyEngine
    records: Records = field(default_factory=Records)
    store: MemoryStore = field(default_factory=MemoryStore)


def lab(
    rules: Sequence[str | Mapping[str, Any]],
    *more: EnforcerType,
    store: MemoryStore | None = None,
    clock: Clock | None = None,
    **settings: Any,
) -> Lab:
    """An engine for these rules. `default` is deny unless told otherwise."""
    records, store = Records(), MemoryStore() if store is None else store
    clear = settings.get("clear_arguments", frozenset())
    audit = AuditLog([SinkSlot(name="list", sink=records, required=True)], digest_key=KEY, clear_arguments=clear)
    engine = PolicyEngine(
        plan_of(rules, *more, **settings),
        store=store,
        audit=audit,
        clock=clock,
        keys=RING,
        approvers=open_approvers("mcp"),
    )
    return Lab(engine=engine, records=records, store=store)


def open_approvers(*names: str) -> Approvers:
    """The built-in approvers of these names, open."""
    context = ApproverContext(audience="", mode="shadow")
    kinds = {kind.name: kind for kind in APPROVERS}
    return Approvers({name: OpenApprover(kind=kinds[name], approver=kinds[name].open(context)) for name in names})


def call(name: str = "tool", arguments: Mapping[str, Any] | None = None, **fields: Any) -> RequestContext:
    """A request of Alice's for a tool."""
    fields.setdefault("principal", ALICE)
    fields.setdefault("component", Component(kind=Kind.TOOL, name=name, names=(name,)))
    return RequestContext(arguments=arguments, **fields)


ALLOW = Action.ALLOW
DENY = Action.DENY
