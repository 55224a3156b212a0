"""A real pseudo-terminal with somebody in front of it, who reads what is shown and types."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import termios
import threading
import time
from collections.abc import Callable
from typing import Self

PROMPT = re.compile(r"Your answer, [-\d]+ \[1\]: \Z")
OFFER = re.compile(r"^  (\d)  (.*)$", re.MULTILINE)
NAMES = (("deny", "Do not"), ("period", "15 minutes"), ("once", "once"))


class Seat:
    """`path` is the terminal; `shown` is all that was written to it so far, without colours."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.path = os.ttyname(self.slave)
        self.raw = b""
        self._open = True
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.slave >= 0:
            self.leave()

    def leave(self) -> None:
        """Closes the terminal, as a window is closed."""
        os.close(self.slave)
        self.slave = -1
        self._open = False
        self._thread.join(1)
        os.close(self.master)

    def _read(self) -> None:
        os.set_blocking(self.master, False)
        while self._open:
            try:
                self.raw += os.read(self.master, 65536)
            except BlockingIOError:
                time.sleep(0.002)
            except OSError:
                return

    @property
    def shown(self) -> str:
        return re.sub(r"\x1b\[[0-9;]*m", "", self.raw.decode(errors="replace")).replace("\r\n", "\n")

    async def sees(self, wanted: str | Callable[[str], object], within: float = 5.0) -> str:
        """Waits until a text is shown, or something holds of all that is shown."""
        end = time.monotonic() + within
        while not (wanted in self.shown if isinstance(wanted, str) else wanted(self.shown)):
            assert time.monotonic() < end, f"not shown: {wanted!r} in {self.shown[-2000:]!r}"
            await asyncio.sleep(0.005)
        return self.shown

    async def prompted(self) -> str:
        """Waits for a prompt that stays."""
        while True:
            shown = await self.sees(PROMPT.search)
            await asyncio.sleep(0.05)
            if self.shown == shown:
                return shown

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    async def types(self, keys: bytes) -> None:
        """Waits for a prompt, types, and waits until the terminal took it."""
        before = await self.prompted()
        self.type(keys)
        await self.sees(lambda shown: shown != before)

    async def chooses(self, *names: str) -> None:
        """Waits for a prompt each and types the number of that choice; 9 where it is not offered."""
        for name in names:
            offers = _offers(await self.prompted())
            await self.types(f"{offers.get(name, '9')}\n".encode())

    def mode(self, flag: int, on: bool) -> None:
        """Sets or clears a local mode, such as `termios.ICANON`."""
        modes = termios.tcgetattr(self.slave)
        modes[3] = modes[3] | flag if on else modes[3] & ~flag
        termios.tcsetattr(self.slave, termios.TCSANOW, modes)


def _offers(shown: str) -> dict[str, str]:
    """The numbers of the choices that were shown last, by their names."""
    offers: dict[str, str] = {}
    for number, title in OFFER.findall(shown):
        if number == "1":
            offers = {}
        offers[next(name for name, part in NAMES if part in title)] = number
    return offers
