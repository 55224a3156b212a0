"""What an unquoted YAML scalar means, where YAML 1.1 and 1.2 agree; it says where they do not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_INTEGER: Final = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})\Z")
_FLOAT: Final = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})\.[0-9]{1,18}([eE][-+][0-9]{1,3})?\Z")
_WORDS: Final[Mapping[str, Any]] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}
_AMBIGUOUS: Final = re.compile(
    r"""( y|Y|yes|Yes|YES|n|N|no|No|NO|on|On|ON|off|Off|OFF   # booleans in YAML 1.1 alone
        | [-+]?0[box][0-9a-fA-F_]+                             # binary, octal, hexadecimal
        | [-+]?[0-9][0-9_]*                                    # octal, underscores, too many digits
        | [-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?         # base 60
        | [-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)([eE][-+]?[0-9]+)?
        | [-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)
        | [0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt\ \t].*)?          # dates
        | =
    )\Z""",
    re.VERBOSE,
)


def plain_scalar(text: str) -> tuple[Any, bool]:
    """The value of a plain scalar, and whether the versions of YAML agree on it; where they do not, the text itself."""
    if text in _WORDS:
        return _WORDS[text], True
    if _INTEGER.match(text):
        return int(text), True
    if _FLOAT.match(text):
        return float(text), True
    return text, _AMBIGUOUS.match(text) is None
