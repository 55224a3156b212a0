"""What plugin authors import, and nothing else: this module is the contract, and its names are stable.

A plugin is a Python module. Its distribution names it once, in `pyproject.toml`::

    [project.entry-points.mcp_macaroon_middleware]
    schedule = "mcp_macaroon_schedule"

The entry point's name is the plugin's name, and the name of its section under `plugins:` in the policy file.

The module contributes what it holds: each `EnforcerType`, which `@enforcer` makes of one function, and whatever its
`@hookimpl` functions (`macaroon_enforcers`, `macaroon_stores`,
`macaroon_audit_sinks`, `macaroon_approvers`, `macaroon_key_sources`) yield. Hooks are called once,
at start. Requests run on the descriptions that were yielded then, so a plugin cannot change a decision later, and
installing one adds policies that rules can name, and decides nothing until a rule names one.

An enforcer is asked with a `Check`: the request, the rule as far as it may know it, its own params, settings and part
of the store. It answers with a `Verdict`: `Verdict.allow()`, `check.refuse(code, reason)`, which denies, or asks where
the rule says `elicit`, or an allow with `Edit`s that withhold parts of a result. It never sees a token, a caveat or
another verdict, and it cannot grant what another rule refuses: verdicts combine by their minimum. What raises, hangs or
answers anything else is refused. `code` is stable and for programs, `reason` may be shown to the caller, `detail` goes
to the audit alone; none of them may hold a value of an argument or a result that the caller should not see.

Missing, null or ill-typed arguments are refused, never guessed. A component of another process gets what its caller
sent: `check.given`; `check.request.arguments` have the defaults of its schema besides, so that a rule refuses what a
left-out argument would probably come to. `names` says which arguments an enforcer reads. A check may be `async`; a sync
one must not wait, or says `blocking=True`. `mcp_macaroon_middleware.testing.EnforcerContract` proves most of this for
an enforcer.
"""

from __future__ import annotations

from typing import Final

from ..errors import AuditUnavailable, MacaroonError, PluginError, PolicyViolationError, RuleError, StoreUnavailable
from ..fields import is_present, parse_path
from ..model import (
    DENY,
    JSON,
    ONCE,
    PERIOD,
    Action,
    Answer,
    Assurance,
    Caller,
    Caveat,
    Challenge,
    Charge,
    Choice,
    Component,
    Edit,
    Effect,
    ExecutionPhase,
    Kind,
    Phase,
    Principal,
    Published,
    Question,
    Reply,
    RequestContext,
    Result,
    ShownArgument,
    Target,
    Verdict,
    fold_name,
    paths_of,
    thawed,
)
from ..rules import glob_matches, parse_target, path_objection, target_matches
from .contract import (
    Added,
    Amount,
    Approver,
    ApproverContext,
    ApproverType,
    AuditSink,
    AuditSinkType,
    Check,
    CheckFunction,
    Clock,
    EnforcerType,
    Entry,
    Form,
    FormField,
    KeySourceContext,
    KeySourceType,
    NoParams,
    Params,
    Pending,
    RuleView,
    Settings,
    SinkContext,
    Store,
    StoreContext,
    StoreType,
)
from .decorators import Macaroon, Texts, enforcer, policy_enforcer
from .hookspecs import hookimpl
from .namespace import Namespaced

API_VERSION: Final = 1
"""The version of this contract; a module that sets `MACAROON_API_VERSION` to another one is not loaded."""

__all__ = [
    "API_VERSION",
    # writing enforcers
    "enforcer",
    "policy_enforcer",
    "hookimpl",
    "Check",
    "CheckFunction",
    "Params",
    "NoParams",
    "Texts",
    "Settings",
    "Verdict",
    "Effect",
    "Edit",
    "Charge",
    "Question",
    "EnforcerType",
    # what a check sees
    "Action",
    "Phase",
    "Kind",
    "Caller",
    "Component",
    "Principal",
    "RequestContext",
    "Published",
    "Result",
    "RuleView",
    "Target",
    "Clock",
    "JSON",
    "thawed",
    "fold_name",
    "paths_of",
    # the language of rules, for params that speak it
    "glob_matches",
    "parse_target",
    "target_matches",
    "path_objection",
    "parse_path",
    "is_present",
    # functions of @policy_enforcer
    "Caveat",
    "ExecutionPhase",
    "Macaroon",
    # stores
    "Store",
    "Namespaced",
    "StoreContext",
    "StoreType",
    "Entry",
    "Amount",
    "Added",
    # audit sinks
    "AuditSink",
    "AuditSinkType",
    "SinkContext",
    # approvers
    "Approver",
    "ApproverContext",
    "ApproverType",
    "Assurance",
    "Challenge",
    "Choice",
    "ShownArgument",
    "Answer",
    "Reply",
    "Pending",
    "Form",
    "FormField",
    "DENY",
    "ONCE",
    "PERIOD",
    # key sources
    "KeySourceContext",
    "KeySourceType",
    # errors
    "MacaroonError",
    "AuditUnavailable",
    "PluginError",
    "PolicyViolationError",
    "RuleError",
    "StoreUnavailable",
]
