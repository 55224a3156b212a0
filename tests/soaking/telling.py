"""Puts the figures of a soak into the documents, between the marks that wait for them. It measures nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

BEGIN: Final = "<!-- soak -->"
END: Final = "<!-- /soak -->"


def write(root: Path, facts: dict[str, Any]) -> None:
    """A table into docs/performance.md, a paragraph into README.md. Raises `ValueError` where a mark is missing."""
    put(root / "docs" / "performance.md", table(facts))
    put(root / "README.md", paragraph(facts))


def put(path: Path, text: str) -> None:
    """Replaces what stands between the marks of a file."""
    before, begin, rest = path.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path.name} has no place for it: {BEGIN} … {END}")
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", "utf-8")


def table(facts: dict[str, Any]) -> str:
    """Everything, as markdown."""
    said = ", ".join(f"{count:,} {name}" for name, count in facts["said"].items())
    faults = ", ".join(f"{name} {count}x" for name, count in facts["faults"].items())
    rows = {
        "calls and legs": f"{facts['calls']:,}: {said}",
        "requests in the audit files": f"{facts['requests']:,}, each with one end; {facts['two_ends']} with two, "
        f"{facts['no_end']} with none; {facts['unknown']} were cut by a kill and closed as unknown",
        "runs of tools without a question": f"{facts['runs']:,}; {facts['ran_twice']} twice, "
        f"{facts['ran_after_refusal']} after a refusal; {facts['cut']} were cut by a kill",
        "approvals": f"{facts['approvals']:,}; their answers were sent {facts['legs']:,} times over both servers, "
        f"at once and again later; {facts['ran_without_approval']} calls ran more often than they were approved",
        "most calls of one person in a window": f"{facts['most_in_window']}, the limit is 20",
        "faults": faults,
        "until calls succeeded again": f"at most {facts['back_after_s']} s after the fault ended",
        **{f"idle {server}": growth(facts, server) for server in servers(facts)},
        "calls apart from faults": times(facts),
    }
    lines = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"{setting(facts)}\n\n| what | figure |\n|---|---|\n{lines}"


def paragraph(facts: dict[str, Any]) -> str:
    """The most of it, in a few sentences."""
    grown = "; ".join(f"{server.replace('_', ' ')} {growth(facts, server)}" for server in servers(facts))
    faults, more = sum(facts["faults"].values()), facts["ran_without_approval"]
    return "\n".join(
        (
            f"The last soak (`python dev.py soak`): {setting(facts)}",
            f"{facts['calls']:,} calls and legs, {faults} faults;",
            f"{facts['requests']:,} requests, each with one audit record, {facts['two_ends']} with two, "
            f"{facts['no_end']} with none; {facts['approvals']:,} approvals,",
            f"whose answers were sent {facts['legs']:,} times; {more} calls ran more often than they were approved,",
            f"{facts['ran_after_refusal']} after a refusal;",
            f"at most {facts['most_in_window']} calls in a window whose limit is 20;",
            f"service was back at most {facts['back_after_s']} s after a fault; idle, {grown};",
            f"apart from faults {times(facts)}, with everything on the same machine.",
        )
    )


def setting(facts: dict[str, Any]) -> str:
    """What ran, for how long."""
    passed = "" if facts["passed"] else " It FAILED."
    on = f"{facts['servers']} servers, {facts['clients']} clients"
    return f"{facts['minutes']:g} minutes on {facts['store']}, {on}.{passed}"


def servers(facts: dict[str, Any]) -> list[str]:
    """The names of the servers."""
    return [f"server_{number}" for number in range(1, facts["servers"] + 1)]


def growth(facts: dict[str, Any], server: str) -> str:
    """A server's memory and open files."""
    warm, end = facts[f"{server}_rss_warm_kb"] / 1024, facts[f"{server}_rss_end_kb"] / 1024
    files = f"open files {facts[f'{server}_files_warm']}, {facts[f'{server}_files_end']}"
    return f"{warm:.1f} MB warm, {end:.1f} MB at the end, {files}"


def times(facts: dict[str, Any]) -> str:
    """How long calls took, whose tools take no time of their own."""
    if "p50_ms" not in facts:
        return "too few to say"
    return f"p50 {facts['p50_ms']} ms, p99 {facts['p99_ms']} ms, most {facts['most_ms']} ms"
