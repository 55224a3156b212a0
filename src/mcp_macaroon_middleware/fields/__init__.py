"""Field paths: what they name in a document, how a document loses them, how a schema admits the loss.

Paths are dotted, from the top of a result or of each item of a top-level list: `*` is one level, `**` any depth, lists
are walked, `a\\.b` is a key with a dot. Keys are compared exactly, unless the path begins with `(?i)`. Nothing here
knows a rule or a request.
"""

from .bulk import LARGE, is_large
from .paths import FieldPath, parse_path
from .redact import MAX_DEPTH, has_fields, is_present, may_hide, redact, redact_document, redact_text
from .schema import relax_schema

__all__ = [
    "LARGE",
    "MAX_DEPTH",
    "FieldPath",
    "has_fields",
    "is_large",
    "is_present",
    "may_hide",
    "parse_path",
    "redact",
    "redact_document",
    "redact_text",
    "relax_schema",
]
