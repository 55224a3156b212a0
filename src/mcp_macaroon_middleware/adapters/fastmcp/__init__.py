"""The FastMCP adapter: `guard`, `bind`, `MacaroonMiddleware`, `MacaroonAuth`. Only this folder uses FastMCP's parts."""

from __future__ import annotations

from .auth import MacaroonAuth
from .client import MacaroonClientAuth
from .coverage import Report
from .install import InstalledGuard as Guard
from .middleware import MacaroonMiddleware
from .servers import bind, guard

__all__ = ["Guard", "MacaroonAuth", "MacaroonClientAuth", "MacaroonMiddleware", "Report", "bind", "guard"]
