"""Waits for what a plugin does, for a time and no longer, whatever it raises, however it hangs. It decides nothing."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from ..errors import PluginError

GOODBYE: Final = 1.0
"""Seconds that what is cancelled has to end by itself; then it is left alone."""


class PluginFault(PluginError):
    """A plugin raised what would end a program, cancelled itself, or answers later where it must at once."""


async def within(seconds: float, call: Callable[[], Awaitable[Any]]) -> Any:
    """What the awaitable of `call` gives. Raises what it raises, and `PluginFault` in place of what would end a program
    and for an answer that is to be waited for again.

    Raises `TimeoutError` at the deadline. What is waited for is cancelled then, and when the waiting is; what does not
    end by itself for that, after a moment, is left alone.
    """
    task = asyncio.ensure_future(_caught(call))
    try:
        await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        await _ended(task)
        raise
    if not task.done():
        await _ended(task)
        raise TimeoutError
    answer, error = task.result()
    if error is not None:
        raise error
    return settled(answer)


def now(call: Callable[[], Any]) -> Any:
    """What `call` returns at once. Raises what it raises, and `PluginFault` in place of what would end a program and
    for an answer that is to be waited for.
    """
    try:
        answer = call()
    except (KeyboardInterrupt, Exception):
        raise
    except BaseException as error:
        raise PluginFault(f"it raised {type(error).__name__}") from None
    return settled(answer)


def settled(answer: Any) -> Any:
    """The answer. Raises `PluginFault` for one that is to be waited for."""
    if answer is not None and inspect.isawaitable(answer):
        drop(answer)
        raise PluginFault("it answers later")
    return answer


def drop(answer: object) -> None:
    """Lets go of an answer that nobody will wait for."""
    if isinstance(answer, Coroutine):
        answer.close()


async def _caught(call: Callable[[], Awaitable[Any]]) -> tuple[Any, Exception | None]:
    try:
        return await call(), None
    except KeyboardInterrupt:
        raise
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return None, PluginFault("it cancelled itself")
    except Exception as error:
        return None, error
    except BaseException as error:
        return None, PluginFault(f"it raised {type(error).__name__}")


async def _ended(task: asyncio.Task[Any]) -> None:
    """Cancels a task and lets it end; what it ends with concerns nobody."""
    task.cancel()
    task.add_done_callback(_consume)
    await asyncio.wait({task}, timeout=GOODBYE)


def _consume(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
