"""Long work that must not hold up other requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def apart(is_long: bool, work: Callable[[], T]) -> T:
    """What `work` returns or raises: run at once, or, if it is long, in a worker thread, in the context of here."""
    return await asyncio.to_thread(work) if is_long else work()
