"""The rule language: text to `Rule` and back, targets, selectors. It reads rules and never judges a request.

    phase:target:policy:action[:param…][:time<YYYYMMDDTHHMMSSZ]

`\\:` is a literal colon and `\\\\` a backslash; other escapes pass to the param's own syntax. Source: the project's
DESIGN, section 4, which carries on the policy strings of mcp-macaroon-middleware 2.0.0.
"""

from .claims import ClaimValues, agreed, claim_text, claim_values, read_claim, read_scopes
from .instants import EXPIRY_FORMAT, format_expiry, parse_expiry
from .mapping import rule_from_mapping, rule_to_mapping
from .names import escape_objection, folded, normal_uri, path_objection, value_objection, without_query
from .parts import TIME, escape
from .selectors import ANY_ISSUER, name_fault, parse_selector
from .targets import (
    folded_names,
    format_target,
    glob_matches,
    is_address,
    names_of,
    parse_target,
    target_matches,
)
from .text import MAX_RULE, format_rule, parse_rule

__all__ = [
    "ANY_ISSUER",
    "ClaimValues",
    "agreed",
    "claim_values",
    "name_fault",
    "read_claim",
    "read_scopes",
    "EXPIRY_FORMAT",
    "MAX_RULE",
    "TIME",
    "claim_text",
    "escape",
    "escape_objection",
    "folded",
    "folded_names",
    "format_expiry",
    "format_rule",
    "format_target",
    "glob_matches",
    "is_address",
    "names_of",
    "normal_uri",
    "parse_expiry",
    "parse_rule",
    "parse_selector",
    "parse_target",
    "path_objection",
    "rule_from_mapping",
    "rule_to_mapping",
    "target_matches",
    "value_objection",
    "without_query",
]
