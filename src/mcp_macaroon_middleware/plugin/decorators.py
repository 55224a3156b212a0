"""`@enforcer` and `@policy_enforcer`: one function becomes one contribution. Nothing here judges a request."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import PolicyViolationError
from ..model import Action, Caveat, ExecutionPhase, Phase, Verdict
from .contract import Check, CheckFunction, EnforcerType, NoParams, Params, Settings

__all__ = ["application_enforcers", "enforcer", "policy_enforcer"]
