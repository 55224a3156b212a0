"""Policies over the arguments of a call: allowed values, numeric bounds, paths, repositories. They read nothing else.

What is missing, null, of another type or cannot be read with certainty is refused, never guessed. Lists are read item
by item, and every item must pass; an empty list is refused, for tools may take it for "all".
"""

from __future__ import annotations

from .numbers import Range, argument_range
from .paths import Paths, path_allowlist, path_whitelist
from .repositories import Repositories, repo_whitelist
from .settings import ArgumentsSettings
from .values import Allowed, argument_allowlist

__all__ = [
    "Allowed",
    "ArgumentsSettings",
    "Paths",
    "Range",
    "Repositories",
    "argument_allowlist",
    "argument_range",
    "path_allowlist",
    "path_whitelist",
    "repo_whitelist",
]
