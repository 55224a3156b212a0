"""`path_allowlist`, also called `path_whitelist`: every path in a call lies where one of the rule's patterns says.

Names alone are compared: no file system is looked at, so a symbolic link is as good as the path that it stands at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar, Final

from pydantic import Field, field_validator

from mcp_macaroon_middleware.plugin import Check, Params, Published, Verdict, enforcer, paths_of

from .finding import Absent, Found, Unjudged, items, looking_like, names_of_rule, present, refusing, wanted, words
from .normal import normal_path, parse_pattern, pattern_matches
from .settings import ArgumentsSettings, names_of, settings_of

PATH_WORDS: Final = frozenset(
    (
        *("path", "paths", "pathname", "pathnames", "filepath", "filepaths"),
        *("file", "files", "filename", "filenames"),
        *("dir", "dirs", "dirname", "directory", "directories", "folder", "folders", "root", "cwd"),
        *("output", "outputs", "outfile", "infile", "outpath", "outdir", "outputfile", "outputpath", "out"),
        *("source", "sources", "src", "from", "destination", "destinations", "dest", "dst", "target", "targets", "to"),
    )
)


class Paths(Params):
    """Patterns, of which every path must match one. `*` stops at `/`, `**` between slashes is any number of folders.

    By name also `argument`: the argument or arguments that hold the paths, all of which must be there.
    """

    named: ClassVar[frozenset[str]] = frozenset({"argument", "absent"})

    patterns: tuple[str, ...] = Field(min_length=1, description="docs/*, *.md, src/**: where paths may lie.")
    argument: tuple[str, ...] = Field(default=(), description="The arguments that hold paths; guessed unless given.")
    absent: Absent | None = Field(default=None, description="What it means to leave it out: refuse, default or pass.")

    _one = field_validator("argument", mode="before")(names_of)

    @field_validator("patterns")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            parse_pattern(pattern)
        return value


def _names(params: Any, settings: Any, published: Published) -> Iterator[tuple[str, ...]]:
    if params.argument:
        yield from names_of_rule(params, settings, published)
    elif isinstance(settings, ArgumentsSettings) and settings.path_arguments:
        for name in settings.path_arguments:
            yield from paths_of(name)
    else:
        yield from (path for path in published.names if is_path_name(words(path[-1])))


@enforcer("path_allowlist", params=Paths, attenuates=True, names=_names, settings=ArgumentsSettings)
@refusing
def path_allowlist(check: Check[Paths]) -> Verdict:
    """Every path in the call lies where a pattern says; `elicit` asks for others."""
    for found in _paths(check):
        for item in items(found.value):
            if not _lies_within(item, check.params.patterns):
                reason = "Go on with a path outside of the allowed ones?" if check.asks else "This path is not allowed."
                return check.refuse("path_not_allowed", reason)
    return Verdict.allow()


path_whitelist = replace(path_allowlist, name="path_whitelist")


def _paths(check: Check[Paths]) -> list[Found]:
    arguments, own = check.request.arguments, settings_of(check).path_arguments
    if check.params.argument:
        return [found for name in check.params.argument for found in wanted(check, name, check.params.absent)]
    found = present(arguments, own) if own else looking_like(arguments, is_path_name, check.published)
    if not found:
        raise Unjudged("argument_required", "A path is required by policy.")
    return found


def is_path_name(words: tuple[str, ...]) -> bool:
    """Whether a name made of these words looks like that of a path: one of them says so."""
    return not PATH_WORDS.isdisjoint(words)


def _lies_within(value: Any, patterns: Sequence[str]) -> bool:
    path = normal_path(value) if isinstance(value, str) else None
    return path is not None and any(pattern_matches(_pattern(pattern), path) for pattern in patterns)


@lru_cache(maxsize=4096)
def _pattern(text: str) -> tuple[str, ...]:
    return parse_pattern(text)
