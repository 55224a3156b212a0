"""Every exception that this package raises, each with a stable code; it never decides anything.

A code is part of the public interface: programs may compare it, messages may change. No message here may carry a
key, a token, a signature or a protected value (law L7).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    from .model import Challenge


class MacaroonError(Exception):
    """The base of all errors of this package; `code` is stable, the text is for people."""

    code: str = "error"

    def __init__(self, message: str = "", *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One thing that is wrong with a configuration, with its place and the next step.

    `line` and `column` count from 1; 0 means that the place is not known. `source_line` is the line as written, and
    `length` says how many characters the caret underlines. A line that holds a secret is never put here.
    """

    code: str
    message: str
    file: str = ""
    line: int = 0
    column: int = 0
    length: int = 1
    source_line: str = ""
    hint: str = ""
    severity: str = "error"  # or "warning"

    def place(self) -> str:
        """`file:line:col`, as far as it is known."""
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part)

    def render(self) -> str:
        """The diagnostic as a person reads it: place, message, the line, a caret, a hint."""
        head = (
            f"{self.place()}: {self.severity}: {self.message} [{self.code}]"
            if self.place()
            else (f"{self.severity}: {self.message} [{self.code}]")
        )
        lines = [head]
        if self.source_line and self.column:
            line, column = self._excerpt()
            lines.append("    " + line)
            lines.append("    " + " " * (column - 1) + "^" * max(1, min(self.length, len(line) - column + 1)))
        if self.hint:
            lines.append(f"    {self.hint}")
        return "\n".join(lines)

    def _excerpt(self) -> tuple[str, int]:
        """The line, and the column in it. A line that no screen shows is cut around the place."""
        if len(self.source_line) <= WIDEST and self.column <= WIDEST:
            return self.source_line, self.column
        start = max(0, min(self.column, len(self.source_line)) - WIDEST // 2)
        left, right = "…" if start else "", "…" if start + WIDEST < len(self.source_line) else ""
        return f"{left}{self.source_line[start : start + WIDEST]}{right}", self.column - start + len(left)


WIDEST: Final = 400
"""The most characters of a line that a diagnostic shows."""


class ConfigError(MacaroonError):
    """The configuration cannot be used; `diagnostics` holds everything that is wrong with it, at once."""

    code = "config_invalid"

    def __init__(self, diagnostics: Iterable[Diagnostic] | str) -> None:
        if isinstance(diagnostics, str):
            diagnostics = [Diagnostic(code=self.code, message=diagnostics)]
        self.diagnostics: tuple[Diagnostic, ...] = tuple(diagnostics)
        super().__init__("\n".join(d.render() for d in self.diagnostics))


class RuleError(MacaroonError):
    """A rule's text cannot be read; `offset` and `length` point into that text (from 0)."""

    code = "rule_invalid"

    def __init__(
        self, message: str, *, offset: int = 0, length: int = 1, hint: str = "", code: str | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.offset = offset
        self.length = length
        self.hint = hint


class TokenInvalid(MacaroonError):
    """A token does not verify. The code goes to the audit record; a client learns only that the token is invalid."""

    code = "token_invalid"

    def __init__(self, code: str = "token_invalid", message: str = "the token is not valid") -> None:
        super().__init__(message, code=code)


class DischargeRefused(MacaroonError):
    """A service does not discharge a caveat, or is not known to the holder; the message says what to do.

    Where the service answered: `status` is its HTTP status, `refusal` its own code (`other_subject`, …). With
    `approval_required` a person must answer first; `challenges` are the questions as the service wrote them, each with
    `id`, `message`, `choices` and `expires`.
    """

    code = "discharge_refused"

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        status: int | None = None,
        refusal: str = "",
        challenges: tuple[Mapping[str, Any], ...] = (),
    ) -> None:
        super().__init__(message, code=code)
        self.status = status
        self.refusal = refusal
        self.challenges = challenges


class KeyRingError(MacaroonError):
    """A key is missing, too short, a documented placeholder, or not readable; the message names the next step."""

    code = "keys_invalid"


class PluginError(MacaroonError):
    """A plugin cannot be used; the message names plugin, distribution and cause."""

    code = "plugin_invalid"


class StoreUnavailable(MacaroonError):
    """The store did not answer, or not in time; whatever needed it is refused (law L2)."""

    code = "store_unavailable"


class AuditUnavailable(MacaroonError):
    """A required audit sink could not record; the call that needed the record is refused (law L2)."""

    code = "audit_unavailable"


class BindError(MacaroonError):
    """The guard cannot be bound to this server; the message names what to change."""

    code = "bind_failed"


class ArgumentsInvalid(MacaroonError):
    """A call's arguments do not fit the component's own schema; the component does not run."""

    code = "arguments_invalid"


class ResultWithheld(MacaroonError):
    """A result cannot be redacted with certainty, so nothing of it may leave.

    `size` is the number of characters of one that is too large, as far as they were counted; the audit has it.
    """

    code = "redaction_failed"

    def __init__(self, message: str = "", *, code: str | None = None, size: int | None = None) -> None:
        super().__init__(message, code=code)
        self.size = size


class PolicyViolationError(MacaroonError):
    """The policy refuses: raised by `PolicyEngine.enforce_policies`, and by enforcers made with `@policy_enforcer`.

    `reason` may be shown to the caller; `retry_after` is in seconds.
    """

    code = "policy_violation"
    http_status: ClassVar[int] = 403

    def __init__(
        self,
        reason: str = "",
        *,
        code: str | None = None,
        policy: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(reason, code=code)
        self.reason = reason
        self.policy = policy
        self.retry_after = retry_after


class ApprovalRequired(PolicyViolationError):
    """The policy asks a person first; `challenges` holds what to ask."""

    code = "approval_required"

    def __init__(self, reason: str = "", *, challenges: tuple[Challenge, ...] = (), code: str | None = None) -> None:
        super().__init__(reason, code=code)
        self.challenges = challenges
