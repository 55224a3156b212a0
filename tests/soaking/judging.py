"""What came of a soak: ends, runs, limits, memory, times. It counts what was recorded, and asks nobody."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from faults import Faults
from load import Load
from several import Fleet

TOOLS = frozenset({"free", "work", "send", "user", "slow"})
WINDOW, LIMIT = 55.0, 20
"""Seconds a little shorter than the limit's, since a record is written later than the charge."""
RAN_ANYWAY = frozenset({"store_unavailable", "approval_stale", "declined", "approval_cancelled", "internal"})
"""What may be said of a call whose result was kept back after it ran."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the report."""

    good: bool
    text: str
    facts: dict[str, Any] = field(default_factory=dict)


def judge(made: Fleet, load: Load, faults: Faults, before: tuple[int, int], after: tuple[int, int]) -> list[Line]:
    """Every line of the report."""
    records = made.records
    return [
        _calls(load),
        _ends(records, load),
        _answers(records, load),
        _runs(made, load),
        _limits(records),
        _growth(before, after),
        _service(faults),
        _times(load, faults),
    ]


def figures(lines: Sequence[Line]) -> dict[str, Any]:
    """All facts of the report, as plain values."""
    return {"passed": all(line.good for line in lines), **{k: v for line in lines for k, v in line.facts.items()}}


def _calls(load: Load) -> Line:
    said = dict(load.outcomes.most_common())
    return Line(
        said.get("ok", 0) > 0 and said.get("rate_limited", 0) > 0,
        f"calls: {len(load.calls)}, of which {', '.join(f'{count} {name}' for name, count in said.items())}",
        {"calls": len(load.calls), "said": said},
    )


def _ends(records: list[dict[str, Any]], load: Load) -> Line:
    ends = Counter(record["request"] for record in records if record["event"] == "final")
    twice = sum(1 for count in ends.values() if count > 1)
    open_ = {record["request"] for record in records if record["event"] == "intent"} - set(ends)
    lost = load.outcomes["lost"]
    return Line(
        not twice and len(open_) <= lost,
        f"audit: {len(ends)} requests with one end each, {twice} with two, {len(open_)} cut by a killed server "
        f"(calls that got no answer: {lost})",
        {"requests": len(ends), "two_ends": twice, "cut": len(open_), "lost": lost},
    )


def _answers(records: list[dict[str, Any]], load: Load) -> Line:
    """What clients were told stands in the records, as often as they were told it."""
    final = [record for record in records if record["event"] == "final" and record["component"]["kind"] == "tool"]
    recorded = Counter(
        (record["component"]["name"], "ok" if record["outcome"] == "ok" else record.get("code", ""))
        for record in final
        if record["component"]["name"] in TOOLS
    )
    told = Counter((call.tool, call.said) for call in load.calls if call.tool in TOOLS and call.said != "lost")
    names = ("ok", "rate_limited", "store_unavailable", "declined")
    missing = {key: count - recorded[key] for key, count in told.items() if key[1] in names and count > recorded[key]}
    return Line(
        not missing,
        "answers: every one stands in the records" if not missing else f"answers without a record: {missing}",
        {"answers_without_record": sum(missing.values())},
    )


def _runs(made: Fleet, load: Load) -> Line:
    done = made.done
    twice = [mark for mark, count in done.items() if count > 1]
    never = [call for call in load.calls if call.said == "ok" and call.tool in TOOLS and not done[call.mark]]
    after_no = [
        call
        for call in load.calls
        if call.said not in ("ok", "lost") and done[call.mark] and not (call.tool == "user" and call.said in RAN_ANYWAY)
    ]
    return Line(
        not (twice or never or after_no),
        f"runs: {sum(done.values())}, {len(twice)} twice, {len(after_no)} after a refusal, {len(never)} only said"
        + "".join(f"\n     {call}" for call in (*after_no, *never)[:5]),
        {"runs": sum(done.values()), "ran_twice": len(twice), "ran_after_refusal": len(after_no)},
    )


def _limits(records: list[dict[str, Any]]) -> Line:
    times: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if record["event"] == "final" and record["component"]["name"] == "work" and record["outcome"] == "ok":
            times[record["principal"]["subject"]].append(record["time"])
    most = 0
    for found in times.values():
        found.sort()
        for at, start in enumerate(found):
            most = max(most, sum(1 for time in found[at:] if time < start + WINDOW))
    return Line(
        most <= LIMIT,
        f"limits: at most {most} calls of one person in {WINDOW:g} s, the limit is {LIMIT} in 60 s",
        {"most_in_window": most},
    )


def _growth(before: tuple[int, int], after: tuple[int, int]) -> Line:
    memory, files = after[0] / before[0] - 1, after[1] - before[1]
    return Line(
        after[0] <= before[0] * 1.25 + 20_000 and files <= 30,
        f"memory: {before[0] / 1024:.0f} MB when warm, {after[0] / 1024:.0f} MB at the end ({memory:+.0%}); "
        f"open files {before[1]} and {after[1]}",
        {"rss_warm_kb": before[0], "rss_end_kb": after[0], "files_warm": before[1], "files_end": after[1]},
    )


def _service(faults: Faults) -> Line:
    worst: dict[str, float] = {}
    for fault in faults.happened:
        took = fault.returned if fault.returned is not None else float("inf")
        worst[fault.name] = max(worst.get(fault.name, 0.0), took)
    counts = Counter(fault.name for fault in faults.happened)
    shown = ", ".join(f"{name} {counts[name]}x (back after {took:.1f} s)" for name, took in worst.items())
    return Line(bool(worst) and all(took < 15 for took in worst.values()), f"faults: {shown}", {"faults": dict(counts)})


def _times(load: Load, faults: Faults) -> Line:
    quiet = [
        call.took * 1000
        for call in load.calls
        if call.said != "lost" and not any(fault.began - 3 < call.began < fault.ended + 3 for fault in faults.happened)
    ]
    if len(quiet) < 100:
        return Line(True, f"times: only {len(quiet)} calls apart from faults, too few to say")
    cuts = statistics.quantiles(quiet, n=100)
    return Line(
        True,
        f"times apart from faults: p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms, most {max(quiet):.0f} ms",
        {"p50_ms": round(cuts[49], 1), "p99_ms": round(cuts[98], 1), "most_ms": round(max(quiet))},
    )
