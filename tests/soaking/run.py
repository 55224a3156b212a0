"""Mixed load with faults on real servers and a real store: `python dev.py soak --minutes N`. Every line is checked.

It exits with 1 if a request has two ends or none, an approved call ran more often than it was approved, however often
it was repeated and wherever, a tool ran after a refusal, a limit was passed, memory or open files grew, or service did
not return after a fault. Times are stated and never judged. `--write` puts the figures into the documents.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(1, str(ROOT / "tests"))

import several  # noqa: E402
from faults import Clocks, Faults  # noqa: E402
from judging import Line, Measured, figures, judge  # noqa: E402
from load import Idle, Load, idle  # noqa: E402
from redis_server import BINARIES, RedisServer, running  # noqa: E402
from telling import write  # noqa: E402

RULES: Final[list[Any]] = [
    "bf:free:tool_access:allow",
    "bf:slow:tool_access:allow",
    "bf:work:tool_access:allow",
    "bf:work:rate_limit:allow:20/minute",
    "bf:send:tool_access:elicit",
    "bf:pay:tool_access:elicit",
    "bf:user:tool_access:allow",
    "af:user:field_access:elicit:email",
]
WARM: Final = 0.15
"""The share of the time after which the first server counts as warm; then faults begin."""
CALM: Final = 0.3
"""The share of the time, at the end, in which nothing goes wrong: the other servers grow warm in a third of it."""


async def soak(
    made: several.Fleet, redis: RedisServer | None, clocks: Clocks, seconds: float, count: int
) -> list[Line]:
    """Load and faults for so long; then what came of it."""
    load = Load(made, count)
    faults = Faults(made, redis, load, clocks)
    await load.start()
    await asyncio.sleep(seconds * WARM)
    (first, *_) = await measured(load)
    await faults.run(seconds * (1 - WARM - CALM))
    await asyncio.sleep(seconds * CALM / 3)
    (_, *others) = await measured(load)
    await asyncio.sleep(seconds * CALM * 2 / 3)
    end = await measured(load)
    await load.stop()
    for server in made.servers:
        server.kill()
    names = ["server_1", *(f"server_{number}" for number in range(2, len(made.servers) + 1))]
    pairs = zip(names, (first, *others), end, strict=True)
    return judge(made, load, faults, [Measured(name=name, warm=warm, end=last) for name, warm, last in pairs])


async def measured(load: Load) -> list[Idle]:
    """What every server takes while nobody calls."""
    await load.pause()
    found = [idle(server) for server in load.made.servers]
    load.resume()
    return found


@contextlib.contextmanager
def fleet(folder: Path, store: str, clocks: Clocks) -> Any:
    """The servers, with a clock each that can be set."""
    made = several.Fleet(folder, store, 1 if store == "memory" else 2, RULES, {"approvals": {"max_pending": 1000}})
    with contextlib.ExitStack() as stack:
        for number, server in enumerate(made.servers):
            clocks.give(server, number)
            stack.callback(server.kill)
            server.start()
        yield made


def main() -> int:
    """Runs it and prints the report."""
    parser = argparse.ArgumentParser(prog="dev.py soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long (default: 5)")
    parser.add_argument("--store", choices=["sqlite", "memory", *BINARIES], default=sorted(BINARIES)[-1])
    parser.add_argument("--clients", type=int, default=8, help="how many call at once (default: 8)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep files, ledger and records in this new folder")
    parser.add_argument("--write", action="store_true", help="put the figures into README.md and docs/performance.md")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    several.SERVER = Path(__file__).with_name("serving.py")  # type: ignore[misc]
    with tempfile.TemporaryDirectory(prefix="macaroon-soak-") as name, contextlib.ExitStack() as stack:
        folder, store, redis = Path(name), options.store, None
        if options.keep:
            folder = options.keep.resolve()
            folder.mkdir()
        if store in BINARIES:
            kept = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(folder))
            redis = stack.enter_context(running(store, *kept))
            store = redis.url()
        clocks = Clocks(folder)
        made = stack.enter_context(fleet(folder, "sqlite:///state.db" if store == "sqlite" else store, clocks))
        count = len(made.servers)
        print(
            f"soak: {options.minutes:g} min on {options.store}, {count} servers, {options.clients} clients", flush=True
        )
        lines = asyncio.run(soak(made, redis, clocks, options.minutes * 60, options.clients))
    for line in lines:
        print(f"{'ok  ' if line.good else 'FAIL'} {line.text}")
    facts = {"minutes": options.minutes, "store": options.store, "servers": count, "clients": options.clients}
    facts |= figures(lines)
    if options.json:
        options.json.write_text(json.dumps(facts, indent=2), encoding="utf-8")
    if options.write:
        write(ROOT, facts)
    return 0 if facts["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
