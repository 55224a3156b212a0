"""The plugin's section of the policy file: which arguments hold paths and repositories. It reads no request."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from mcp_macaroon_middleware.plugin import Check, Settings


def names_of(value: Any) -> Any:
    """One argument's name as a list of one; anything else as it is."""
    return (value,) if isinstance(value, str) else value


class ArgumentsSettings(Settings):
    """`plugins: {arguments: {path_arguments: [document]}}`.

    Arguments named here are looked for instead of those whose names look like it; a rule's own `argument` goes first.
    """

    path_arguments: tuple[str, ...] = Field(default=(), description="Arguments that hold paths, by name.")
    repository_arguments: tuple[str, ...] = Field(default=(), description="Arguments that hold repositories, by name.")

    _one = field_validator("path_arguments", "repository_arguments", mode="before")(names_of)


def settings_of(check: Check[Any]) -> ArgumentsSettings:
    """The section in force; its defaults where the file has none."""
    return check.settings if isinstance(check.settings, ArgumentsSettings) else ArgumentsSettings()
