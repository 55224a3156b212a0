"""A policy file as those who make, check and revoke tokens need it: keys, audience, third parties, revocations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.approvals import Approvals
from ..core.bearers import Bearers
from ..core.binding import RuleProblem
from ..core.caveats import caveat_counts, caveat_problem
from ..core.clock import SystemClock
from ..core.plan import Plan
from ..errors import ConfigError, RuleError
from ..model import Principal, Rule
from ..plugin.contract import Store
from ..tokens import KeyRing, ThirdParty
from .bearers import open_parties
from .compile import Compiled, compile_file
from .keys import load_keys
from .opening import open_store

Event = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPolicy:
    """What a policy file says of tokens. Its store is opened only where it is asked for."""

    compiled: Compiled = field(repr=False)
    plan: Plan = field(repr=False)
    keys: KeyRing = field(repr=False)
    parties: Mapping[str, ThirdParty]

    @property
    def audience(self) -> str:
        """The server that tokens are made for."""
        return self.compiled.settings.config.audience

    @property
    def accepts(self) -> bool:
        """Whether the file's server takes tokens as credentials at all."""
        return self.compiled.settings.config.tokens is not None

    @property
    def namespace(self) -> str:
        """The issuer of subjects whose token names none."""
        return self.compiled.settings.config.identity.token_namespace or ""

    @property
    def remembers(self) -> bool:
        """Whether the file's store is one that outlives a process, so that it needs an epoch."""
        return self.compiled.store is not None and self.compiled.store.scheme != "memory"

    def check(self, rule: Rule) -> None:
        """Raises `RuleError` for a rule that this server would not understand in a token."""
        problem = caveat_problem(rule, self.plan)
        if isinstance(problem, RuleProblem):
            raise RuleError(problem.message, hint=problem.hint, code=problem.code)

    def counts(self, rule: Rule) -> bool:
        """Whether this server would keep anything for a rule in a token, as it does for limits."""
        return caveat_counts(rule, self.plan)

    def principal(self, subject: str, issuer: str | None, tenant: str | None) -> Principal:
        """The principal of a subject, as the server names the bearer of a token."""
        return Principal(kind="user", namespace=issuer or self.namespace, subject=subject, tenant=tenant)

    @asynccontextmanager
    async def bearers(self, event: Event = lambda name, facts: None) -> AsyncIterator[tuple[Bearers, Store]]:
        """What the server accepts tokens with, over the file's store. Raises `ConfigError`, `StoreUnavailable`."""
        store = open_store(self.compiled)
        try:
            clock = SystemClock()
            approvals = Approvals(keys=self.keys, store=store, audience=self.audience, event=event)
            yield (
                Bearers(
                    keys=self.keys,
                    audience=self.audience,
                    revocations=approvals.revocations,
                    clock=clock,
                    parties=self.parties,
                    namespace=self.namespace,
                ),
                store,
            )
        finally:
            await store.close()


def open_policy(path: Path) -> TokenPolicy:
    """The policy of a file. Raises `ConfigError` with everything that is wrong, at once."""
    compiled = compile_file(path)
    keys, problems = load_keys(compiled)
    errors = [each for each in (*compiled.errors, *problems) if each.severity == "error"]
    if not compiled.settings.config.audience and not errors:
        message = "tokens are made for one server, so config.audience must name it"
        hint = "write  audience: NAME  under config"
        errors = [compiled.source.diagnostic("audience_missing", message, ("config",), key=True, hint=hint)]
    if errors or keys is None or compiled.plan is None:
        raise ConfigError(sorted(dict.fromkeys(errors), key=lambda each: (each.line, each.column)))
    return TokenPolicy(compiled=compiled, plan=compiled.plan, keys=keys, parties=open_parties(compiled))
