"""The nouns of the system as frozen data: who asks, for what, by which rule, with what answer. It decides nothing.

Data here is immutable on purpose: a check, a plugin or an adapter can look at it, pass it on and keep it, and never
change what another part sees (laws L1 and L2).
"""

from .answers import ALLOW, Challenge, Charge, Edit, Question, Redaction, Refusal, Verdict
from .requests import Message, RequestContext, Result, request_ids
from .rules import Caveat, Place, Rule, Target
from .subjects import NO_COMPONENT, NOBODY, Caller, Component, Principal, Selector
from .words import EMPTY, JSON, Action, ActionType, Effect, ExecutionPhase, Kind, Phase, frozen, thawed

__all__ = [
    "ALLOW",
    "Action",
    "ActionType",
    "Caller",
    "Caveat",
    "Challenge",
    "Charge",
    "Component",
    "EMPTY",
    "Edit",
    "Effect",
    "ExecutionPhase",
    "JSON",
    "Kind",
    "Message",
    "NOBODY",
    "NO_COMPONENT",
    "Phase",
    "Place",
    "Principal",
    "Question",
    "Redaction",
    "Refusal",
    "RequestContext",
    "Result",
    "Rule",
    "Selector",
    "Target",
    "Verdict",
    "frozen",
    "request_ids",
    "thawed",
]
