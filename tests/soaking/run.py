"""Mixed load with faults on real servers and a real store: `python dev.py soak --minutes N`. Every line is checked.

It exits with 1 if a request has two ends or none, a tool ran twice or after a refusal, a limit was passed, memory or
open files grew, or service did not return after a fault. Times are stated and never judged.
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

from faults import Faults  # noqa: E402
from judging import Line, figures, judge  # noqa: E402
from load import Load, idle  # noqa: E402
from redis_server import BINARIES, RedisServer, running  # noqa: E402
from several import Fleet, fleet  # noqa: E402

RULES: Final[list[Any]] = [
    "bf:free:tool_access:allow",
    "bf:work:tool_access:allow",
    "bf:work:rate_limit:allow:20/minute",
    "bf:send:tool_access:elicit",
    "bf:user:tool_access:allow",
    "af:user:field_access:elicit:email",
]
WARM: Final = 0.2
"""The share of the time after which memory is looked at for the first time."""


async def soak(made: Fleet, redis: RedisServer | None, seconds: float, clients: int) -> list[Line]:
    """Load and faults for so long; then what came of it."""
    load = Load(made, clients)
    faults = Faults(made, redis, load)
    await load.start()
    await asyncio.sleep(seconds * WARM)
    before = [idle(server) for server in made.servers]
    await faults.run(seconds * (1 - WARM))
    await load.stop()
    await asyncio.sleep(2)
    after = [idle(server) for server in made.servers]
    for server in made.servers:
        server.kill()
    return judge(made, load, faults, before[0], after[0])


def main() -> int:
    """Runs it and prints the report."""
    parser = argparse.ArgumentParser(prog="dev.py soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long (default: 5)")
    parser.add_argument("--store", choices=["sqlite", "memory", *BINARIES], default=sorted(BINARIES)[-1])
    parser.add_argument("--clients", type=int, default=8, help="how many call at once (default: 8)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="macaroon-soak-") as name, contextlib.ExitStack() as stack:
        folder, store, redis = Path(name), options.store, None
        if store in BINARIES:
            kept = ("--appendonly", "yes", "--appendfsync", "always", "--dir", name)
            redis = stack.enter_context(running(store, *kept))
            store = redis.url()
        count = 1 if store == "memory" else 2
        made = stack.enter_context(fleet(folder, store, count, rules=RULES, approvals={"max_pending": 1000}))
        print(
            f"soak: {options.minutes:g} min on {options.store}, {count} servers, {options.clients} clients", flush=True
        )
        lines = asyncio.run(soak(made, redis, options.minutes * 60, options.clients))
    for line in lines:
        print(f"{'ok  ' if line.good else 'FAIL'} {line.text}")
    if options.json:
        options.json.write_text(json.dumps(figures(lines), indent=2), encoding="utf-8")
    return 0 if all(line.good for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
