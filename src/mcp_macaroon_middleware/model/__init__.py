"""The nouns of the system as frozen data: who asks, for what, by which rule, with what answer. It decides nothing.

Data here is immutable on purpose: a check, a plugin or an adapter can look at it, pass it on and keep it, and never
change what another part sees (laws L1 and L2).
"""

from .answers import ALLOW, Charge, Edit, Question, Redaction, Refusal, Verdict
from .approvals import (
    DENY,
    ONCE,
    PERIOD,
    SCOPES,
    Answer,
    Assurance,
    Challenge,
    Choice,
    Grant,
    Reply,
    ShownArgument,
)
from .arguments import ArgumentFacts, Published, fold_name, paths_of, respelled
from .requests import Message, RequestContext, Result, request_ids
from .rules import Caveat, Place, Rule, Target
from .subjects import NO_COMPONENT, NOBODY, Caller, Component, Principal, Selector
from .words import EMPTY, JSON, Action, ActionType, Effect, ExecutionPhase, Kind, Phase, frozen, thawed

__all__ = [
    "respelled",
    "paths_of",
    "fold_name",
    "Published",
    "ArgumentFacts",
    "ALLOW",
    "Action",
    "ActionType",
    "Answer",
    "Assurance",
    "Caller",
    "Caveat",
    "Challenge",
    "Charge",
    "Choice",
    "Component",
    "DENY",
    "EMPTY",
    "Edit",
    "Effect",
    "ExecutionPhase",
    "Grant",
    "JSON",
    "Kind",
    "Message",
    "NOBODY",
    "NO_COMPONENT",
    "ONCE",
    "PERIOD",
    "Phase",
    "Place",
    "Principal",
    "Question",
    "Redaction",
    "Refusal",
    "Reply",
    "RequestContext",
    "Result",
    "Rule",
    "SCOPES",
    "Selector",
    "ShownArgument",
    "Target",
    "Verdict",
    "frozen",
    "request_ids",
    "thawed",
]
