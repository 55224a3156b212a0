"""What came of a soak: ends, runs, limits, memory, times. It counts what was recorded, and asks nobody."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from faults import Faults
from load import Call, Idle, Load, Order
from several import Fleet

TOOLS = frozenset({"free", "work", "send", "pay", "user", "slow"})
ALONE = frozenset({"free", "work", "slow"})
"""Tools whose calls are one request each, which no question doubles."""
WINDOW, LIMIT = 60.0, 20
GROWS, ANYWAY, FILES = 1.05, 4_000, 8
"""What an idle server may take more than when it was warm: a share of its memory, and so many kB and open files."""
RAN_ANYWAY = frozenset({"asked", "store_unavailable", "approval_stale", "declined", "approval_cancelled", "internal"})
"""What may be said of a call of `user` whose result was kept back after it ran."""
UNSURE = frozenset({"lost", "internal", "audit_unavailable"})
"""What may be said of a call that has run, whose end nobody could be told or write down."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the report."""

    good: bool
    text: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A server warm and at the end, and since when it is the same process."""

    name: str
    warm: Idle
    end: Idle


def judge(made: Fleet, load: Load, faults: Faults, servers: Sequence[Measured]) -> list[Line]:
    """Every line of the report."""
    records, ledger = made.records, written(made)
    return [
        _calls(load),
        _ends(records, load),
        _answers(records, load, faults),
        _runs(ledger, load),
        _approvals(ledger, load),
        _limits(ledger, load, faults),
        *map(_growth, servers),
        _service(faults),
        _times(load, faults),
    ]


def figures(lines: Sequence[Line]) -> dict[str, Any]:
    """All facts of the report, as plain values."""
    return {"passed": all(line.good for line in lines), **{k: v for line in lines for k, v in line.facts.items()}}


def written(made: Fleet) -> dict[str, list[float]]:
    """What tools have done, and when."""
    done: dict[str, list[float]] = defaultdict(list)
    for line in made.ledger.read_text("ascii").splitlines():
        mark, at = line.split()
        done[mark].append(float(at))
    return done


def _calls(load: Load) -> Line:
    said = dict(load.outcomes.most_common())
    return Line(
        all(said.get(name) for name in ("ok", "rate_limited", "asked", "declined", "grant_used")),
        f"calls: {len(load.calls)}, of which {', '.join(f'{count} {name}' for name, count in said.items())}",
        {"calls": len(load.calls), "said": said},
    )


def _ends(records: list[dict[str, Any]], load: Load) -> Line:
    """Each request has one end; those that a killed server could not end, it ends as `unknown` when it is back."""
    ends = Counter(record["request"] for record in records if record["event"] == "final")
    twice = sum(1 for count in ends.values() if count > 1)
    open_ = {record["request"] for record in records if record["event"] == "intent"} - set(ends)
    unknown = sum(1 for record in records if record["event"] == "final" and record["outcome"] == "unknown")
    lost = load.outcomes["lost"]
    return Line(
        not twice and not open_ and unknown <= lost,
        f"audit: {len(ends)} requests with one end each, {twice} with two, {len(open_)} with none; "
        f"{unknown} were cut by a kill and closed as unknown (calls that got no answer: {lost})",
        {"requests": len(ends), "two_ends": twice, "no_end": len(open_), "unknown": unknown, "lost": lost},
    )


def _answers(records: list[dict[str, Any]], load: Load, faults: Faults) -> Line:
    """What clients were told stands in the records as often as they were told it, and no call has a record too many.

    While the audit disk is full, refusals leave none; whatever runs does.
    """
    final = [record for record in records if record["event"] == "final" and record["component"]["kind"] == "tool"]
    recorded = Counter(
        (record["component"]["name"], "asked" if record.get("code") == "approval_required" else record.get("code"))
        for record in final
        if record["component"]["name"] in TOOLS
    )
    calls = [call for call in load.calls if call.tool in TOOLS and not _untraced(call, faults)]
    told = Counter((call.tool, call.said) for call in calls)
    missing = {key: count - recorded[key] for key, count in told.items() if count > recorded[key]}
    lost = Counter(call.tool for call in load.calls if _untraced(call, faults))
    spare = {
        tool: extra
        for tool in ALONE
        if (extra := sum(n for key, n in recorded.items() if key[0] == tool) - _of(told, tool)) > lost[tool]
    }
    return Line(
        not (missing or spare),
        f"answers: {sum(told.values())}, every one stands in the records"
        if not (missing or spare)
        else f"answers without a record: {missing}; records without a call: {spare}",
        {"answers_without_record": sum(missing.values()), "records_without_call": sum(spare.values())},
    )


def _untraced(call: Call, faults: Faults) -> bool:
    """Whether a call may have left no record: it got no answer, its state was refused below us, the disk was full."""
    full = [fault for fault in faults.happened if fault.name == "audit disk full"]
    return call.said in ("lost", "approval_stale") or (
        call.said != "ok" and any(f.began < call.began + call.took and call.began < f.ended + 0.5 for f in full)
    )


def _of(told: Counter[tuple[str, str]], tool: str) -> int:
    return sum(count for key, count in told.items() if key[0] == tool)


def _runs(ledger: dict[str, list[float]], load: Load) -> Line:
    """Calls without a question: each ran once if that was said, and not at all if it was refused."""
    calls = [call for call in load.calls if call.tool in ALONE]
    runs = {call.number: len(ledger.get(f"{call.tool}-{call.number}", ())) for call in calls}
    twice = [call for call in calls if runs[call.number] > 1]
    never = [call for call in calls if call.said == "ok" and not runs[call.number]]
    after_no = [call for call in calls if call.said not in ("ok", *UNSURE) and runs[call.number]]
    cut = sum(
        1 for call in calls if call.tool == "slow" and runs[call.number] and f"slow-{call.number}-ended" not in ledger
    )
    return Line(
        not (twice or never or after_no),
        f"runs: {sum(runs.values())} of calls without a question, {len(twice)} twice, {len(after_no)} after a refusal, "
        f"{len(never)} only said; {cut} were cut by a kill" + _shown((*twice, *after_no, *never)),
        {"runs": sum(runs.values()), "ran_twice": len(twice), "ran_after_refusal": len(after_no), "cut": cut},
    )


def _approvals(ledger: dict[str, list[float]], load: Load) -> Line:
    """What was asked about ran once an approval at most, whoever sent it how often and wherever; and was said once."""
    runs = {order.mark: len(ledger.get(order.mark, ())) for order in load.orders}
    wrong = [order for order in load.orders if _wrong(order, runs[order.mark])]
    approved = sum(order.approved for order in load.orders)
    legs = [call for call in load.calls if call.leg]
    return Line(
        not wrong,
        f"approvals: {approved}, and {sum(runs.values())} runs of {len(load.orders)} calls that were asked about; "
        f"{len(legs)} answered legs were sent, {sum(call.said == 'ok' for call in legs)} of them ran or were shown; "
        f"{len(wrong)} ran or were shown more often than they may" + _shown(wrong),
        {"approvals": approved, "orders": len(load.orders), "legs": len(legs), "ran_without_approval": len(wrong)},
    )


def _wrong(order: Order, runs: int) -> bool:
    ok, sure = order.said.count("ok"), not UNSURE & set(order.said)
    if order.tool == "user":
        return runs > order.calls or ok > order.calls or (bool(ok) and not runs)
    return runs > order.approved or ok > runs or (sure and runs > ok)


def _shown(wrong: Sequence[Any]) -> str:
    return "".join(f"\n     {each}" for each in wrong[:5])


def _limits(ledger: dict[str, list[float]], load: Load, faults: Faults) -> Line:
    """No window holds more than the limit; where the store was emptied, counting begins anew."""
    times: dict[str, list[float]] = defaultdict(list)
    for call in load.calls:
        if call.tool == "work":
            times[call.person] += ledger.get(f"work-{call.number}", [])
    emptied = [fault for fault in faults.happened if fault.name == "store emptied"]
    most = 0
    for found in map(sorted, times.values()):
        for at, start in enumerate(found):
            end = min([start + WINDOW - 0.5, *(fault.began for fault in emptied if fault.ended > start)])
            most = max(most, sum(1 for time in found[at:] if time < end))
    return Line(
        most <= LIMIT,
        f"limits: at most {most} calls of one person in {WINDOW:g} s, the limit is {LIMIT}",
        {"most_in_window": most},
    )


def _growth(server: Measured) -> Line:
    warm, end = server.warm, server.end
    same = warm.process == end.process
    return Line(
        same and end.memory <= warm.memory * GROWS + ANYWAY and end.files <= warm.files + FILES,
        f"memory of {server.name}, idle: {warm.memory / 1024:.1f} MB when warm, {end.memory / 1024:.1f} MB at the end "
        f"({end.memory / warm.memory - 1:+.1%}); open files {warm.files} and {end.files}"
        + ("" if same else "; another process"),
        {
            f"{server.name}_rss_warm_kb": warm.memory,
            f"{server.name}_rss_end_kb": end.memory,
            f"{server.name}_files_warm": warm.files,
            f"{server.name}_files_end": end.files,
        },
    )


def _service(faults: Faults) -> Line:
    worst: dict[str, float] = {}
    for fault in faults.happened:
        took = fault.returned if fault.returned is not None else float("inf")
        worst[fault.name] = max(worst.get(fault.name, 0.0), took)
    counts = Counter(fault.name for fault in faults.happened)
    shown = ", ".join(f"{name} {counts[name]}x (back after {took:.1f} s)" for name, took in worst.items())
    facts = {"faults": dict(counts), "back_after_s": round(max(worst.values(), default=0.0), 1)}
    return Line(bool(worst) and all(took < 15 for took in worst.values()), f"faults: {shown}", facts)


def _times(load: Load, faults: Faults) -> Line:
    """Of calls whose tools take no time of their own."""
    quiet = [
        call.took * 1000
        for call in load.calls
        if call.said != "lost"
        and call.tool not in ("slow", "pay")
        and not any(fault.began - 3 < call.began < fault.ended + 3 for fault in faults.happened)
    ]
    if len(quiet) < 100:
        return Line(True, f"times: only {len(quiet)} calls apart from faults, too few to say")
    cuts = statistics.quantiles(quiet, n=100)
    return Line(
        True,
        f"times apart from faults: p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms, most {max(quiet):.0f} ms",
        {"p50_ms": round(cuts[49], 1), "p99_ms": round(cuts[98], 1), "most_ms": round(max(quiet))},
    )
