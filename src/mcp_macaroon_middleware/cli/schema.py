"""`mcp-macaroon schema`: prints the JSON Schema of the policy file, with what installed plugins add."""

from __future__ import annotations

import json
import sys
from typing import Annotated

from cyclopts import Parameter

from ..config.schema import file_schema
from ..host.discovery import DiscoveryOptions, discover


def schema(
    *,
    builtin: Annotated[bool, Parameter(help="Leave installed plugins out.", negative="")] = False,
) -> int:
    """Print the JSON Schema of the policy file, for editors, with the policies and settings of installed plugins.

    Exit codes: 0 printed, 3 printed, but a plugin could not be loaded.
    """
    found = discover(DiscoveryOptions(allow=() if builtin else None, disable=(), require=(), files=()))
    sys.stdout.write(schema_text(file_schema(found.registry)))
    for problem in found.problems:
        sys.stderr.write(problem.render() + "\n")
    return 3 if any(problem.severity == "error" for problem in found.problems) else 0


def schema_text(value: object) -> str:
    """The schema as it is printed and committed."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
