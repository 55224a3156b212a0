"""The package's own approvers run the suite that authors run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from seat import Seat

from mcp_macaroon_middleware.builtin.auto_approver import AutoApprover
from mcp_macaroon_middleware.builtin.console_approver import ConsoleApprover
from mcp_macaroon_middleware.builtin.mcp_approver import McpApprover
from mcp_macaroon_middleware.plugin import Approver
from mcp_macaroon_middleware.testing import ApproverContract


class TestMcp(ApproverContract):
    in_band = True

    @asynccontextmanager
    async def open_approver(self) -> AsyncIterator[Approver]:
        approver = McpApprover()
        yield approver
        await approver.close()


class TestAuto(ApproverContract):
    asks_people = False
    fixed = "once"

    @asynccontextmanager
    async def open_approver(self) -> AsyncIterator[Approver]:
        approver = AutoApprover(self.fixed)
        yield approver
        await approver.close()


class TestAutoWithAChoiceThatIsNotAlwaysOffered(TestAuto):
    fixed = "period"


class TestConsole(ApproverContract):
    @pytest.fixture(autouse=True)
    def _seat(self) -> Iterator[None]:
        with Seat() as self.seat:
            yield

    @asynccontextmanager
    async def open_approver(self) -> AsyncIterator[Approver]:
        approver = ConsoleApprover(self.seat.path, settle=0.02)
        yield approver
        await approver.close()

    async def person(self, *choices: str) -> None:
        await self.seat.chooses(*choices)
