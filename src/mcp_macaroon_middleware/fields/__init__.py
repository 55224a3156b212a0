"""Field paths: what they name in a document, how a document loses them, how a schema admits the loss.

Paths are dotted, from the top of a result or of each item of a top-level list: `*` is one level, `**` any depth, lists
are walked, `a\\.b` is a key with a dot. Keys are compared exactly, unless the path begins with `(?i)`. Nothing here
knows a rule or a request.
"""

from .paths import FieldPath, parse_path
from .redact import MAX_DEPTH, is_present, redact
from .schema import is_large, relax_schema

__all__ = ["MAX_DEPTH", "FieldPath", "is_large", "is_present", "parse_path", "redact", "relax_schema"]
