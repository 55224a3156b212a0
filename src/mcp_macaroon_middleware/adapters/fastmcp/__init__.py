"""The FastMCP adapter: `guard`, `bind`, `MacaroonMiddleware`. Nothing outside this folder uses FastMCP's own parts."""

from __future__ import annotations

from .coverage import Report
from .guard import Guard, bind, guard
from .middleware import MacaroonMiddleware

__all__ = ["Guard", "MacaroonMiddleware", "Report", "bind", "guard"]
