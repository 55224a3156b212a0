"""`repo_whitelist`: every repository in a call is one that the rule names, as GitHub compares names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

from pydantic import Field, field_validator

from mcp_macaroon_middleware.plugin import Check, Params, Published, Verdict, enforcer, glob_matches, paths_of

from .finding import Absent, Found, Unjudged, items, looking_like, names_of_rule, present, refusing, wanted, words
from .settings import ArgumentsSettings, names_of, settings_of

REPO_WORDS: Final = frozenset({"repo", "repos", "repository", "repositories"})
OWNER_WORDS: Final = frozenset({"owner", "owners", "org", "organization", "organisation"})
FULL_NAME: Final = ("full", "name")
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}\Z")
_ENTRY: Final = re.compile(r"[A-Za-z0-9_.*-]{1,100}\Z")


class Repositories(Params):
    """`name` of any owner, or `owner/name`; `*` is any run of characters: `acme/*`. Upper and lower case are the same.

    By name also `argument`: the argument or arguments that hold the repositories, all of which must be there.
    """

    named: ClassVar[frozenset[str]] = frozenset({"argument", "absent"})

    names: tuple[str, ...] = Field(min_length=1, description="name, owner/name or owner/*.")
    argument: tuple[str, ...] = Field(default=(), description="The arguments that hold them; guessed unless given.")
    absent: Absent | None = Field(default=None, description="What it means to leave it out: refuse, default or pass.")

    _one = field_validator("argument", mode="before")(names_of)

    @field_validator("names")
    @classmethod
    def _entries(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            parts = name.split("/")
            if len(parts) > 2 or not all(_ENTRY.match(part) for part in parts) or parts[-1] in (".", ".."):
                raise ValueError(f"{name!r} is no repository; write name, owner/name or owner/*")
        return value


def _names(params: Any, settings: Any, published: Published) -> Iterator[tuple[str, ...]]:
    if params.argument:
        yield from names_of_rule(params, settings, published)
    elif isinstance(settings, ArgumentsSettings) and settings.repository_arguments:
        for name in settings.repository_arguments:
            yield from paths_of(name)
    else:
        yield from (path for path in published.names if is_repository_name(words(path[-1])))


@enforcer("repo_whitelist", params=Repositories, attenuates=True, names=_names, settings=ArgumentsSettings)
@refusing
def repo_whitelist(check: Check[Repositories]) -> Verdict:
    """Every repository in the call is one of those named; `elicit` asks for others."""
    for found in _repositories(check):
        for item in items(found.value):
            repository = _repository(item, found.beside)
            if repository is None or not any(_is(repository, entry) for entry in check.params.names):
                reason = "Go on with another repository?" if check.asks else "This repository is not allowed."
                return check.refuse("repository_not_allowed", reason)
    return Verdict.allow()


def _repositories(check: Check[Repositories]) -> Sequence[Found]:
    arguments, own = check.request.arguments, settings_of(check).repository_arguments
    if check.params.argument:
        return [found for name in check.params.argument for found in wanted(check, name, check.params.absent)]
    found = present(arguments, own) if own else looking_like(arguments, is_repository_name, check.published)
    if not found:
        raise Unjudged("argument_required", "A repository is required by policy.")
    return found


def is_repository_name(parts: tuple[str, ...]) -> bool:
    """Whether a name made of these words looks like that of a repository, and not like that of its owner."""
    return parts == FULL_NAME or (not REPO_WORDS.isdisjoint(parts) and OWNER_WORDS.isdisjoint(parts))


def _repository(value: Any, beside: Mapping[str, Any]) -> tuple[str | None, str] | None:
    """(owner, name) in lower case, the owner None if nothing tells it; None for what names no repository."""
    parts = value.split("/") if isinstance(value, str) else []
    if not 1 <= len(parts) <= 2 or not all(_NAME.match(part) for part in parts) or parts[-1] in (".", ".."):
        return None
    owners = _owners(beside)
    if owners is None:
        return None
    owners |= {part.lower() for part in parts[:-1]}
    return (next(iter(owners), None), parts[-1].lower()) if len(owners) <= 1 else None


def _owners(beside: Mapping[str, Any]) -> set[str] | None:
    """The owners that stand beside a repository's name, in lower case; None if one cannot be read."""
    given = [beside[name] for name in beside if isinstance(name, str) and not OWNER_WORDS.isdisjoint(words(name))]
    owners = [owner for owner in given if owner is not None]
    if not all(isinstance(owner, str) and _NAME.match(owner) for owner in owners):
        return None
    return {owner.lower() for owner in owners}


def _is(repository: tuple[str | None, str], entry: str) -> bool:
    owner, name = repository
    *wanted, allowed = entry.lower().split("/")
    if not glob_matches(allowed, name):
        return False
    return not wanted or (owner is not None and glob_matches(wanted[0], owner))
