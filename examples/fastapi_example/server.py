"""A bank's web API behind `policies.yaml`: `python server.py` serves it on http://127.0.0.1:8000."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import bank
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from protected import ApprovalRequired, PolicyViolationError, Protected
from pydantic import BaseModel, Field

POLICIES = Path(__file__).with_name("policies.yaml")
MAKE_A_KEY = """\
This server needs a signing key of its own. Make one for this terminal:

  export MACAROON_SECRET_KEY="$(mcp-macaroon keys new --print)"
"""


class Transfer(BaseModel):
    """What to book."""

    sender: int
    receiver: int
    amount: int = Field(gt=0)


class Choices(BaseModel):
    """The answer to a challenge: one choice for each of its questions, or a single one for all."""

    choices: list[str] = Field(min_length=1, max_length=64)


# --- who calls ------------------------------------------------------------------------------------------------------


def known(credentials: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> dict[str, Any]:
    """The claims of a bearer token."""
    user = bank.TOKENS.get(credentials.credentials)
    if user is None:
        raise HTTPException(401, "Who are you?", headers={"WWW-Authenticate": "Bearer"})
    return user


User = Annotated[dict[str, Any], Depends(known)]


def policy(request: Request) -> Protected:
    """The application's policy."""
    protected: Protected = request.app.state.protected
    return protected


Policy = Annotated[Protected, Depends(policy)]


# --- the application ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The policy file is loaded at start: one that is not right stops it, with everything that is wrong."""
    app.state.protected = Protected(POLICIES)
    try:
        yield
    finally:
        await app.state.protected.close()


app = FastAPI(title="bank", lifespan=lifespan)


@app.get("/customers/{number}")
async def read_customer(number: int, user: User, policy: Policy) -> Any:
    """A customer, without what must not leave."""
    if number not in bank.CUSTOMERS:
        raise HTTPException(404, "No such customer.")
    return await policy.run(user, "read_customer", bank.customer, number=number)


@app.post("/transfers")
async def transfer(order: Transfer, user: User, policy: Policy) -> Any:
    """Books a transfer. Above the limit the first answer is a question; send the order again when it is answered."""
    return await policy.run(user, "transfer", bank.transfer, **order.model_dump())


@app.post("/approvals/{challenge}")
async def approve(challenge: str, answer: Choices, user: User, policy: Policy) -> Any:
    """Answers a question. If a result waited for it, it comes with this."""
    allowed, result = await policy.answer(user, challenge, answer.choices)
    return {"allowed": allowed, "result": result}


# --- refusals and questions -----------------------------------------------------------------------------------------


@app.exception_handler(ApprovalRequired)
async def ask(request: Request, question: ApprovalRequired) -> JSONResponse:
    """403 with everything that an application needs to show a dialog: the text, the questions, the choices."""
    challenges = [
        {
            "id": challenge.id,
            "message": challenge.message,
            "questions": [each.text for each in challenge.questions],
            "choices": [{choice.name: choice.title for choice in offers} for offers in challenge.choices],
        }
        for challenge in question.challenges
    ]
    return JSONResponse({"code": question.code, "challenges": challenges}, status_code=question.http_status)


@app.exception_handler(PolicyViolationError)
async def refuse(request: Request, refusal: PolicyViolationError) -> JSONResponse:
    """403 with a stable code and a reason that may be shown."""
    after = {"Retry-After": str(round(refusal.retry_after))} if refusal.retry_after is not None else None
    body = {"code": refusal.code, "reason": refusal.reason}
    return JSONResponse(body, status_code=refusal.http_status, headers=after)


def main() -> int:
    """Serves until it is stopped; returns 2 if there is no key."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    if not os.environ.get("MACAROON_SECRET_KEY"):
        print(MAKE_A_KEY, file=sys.stderr)
        return 2
    uvicorn.run(app, host="127.0.0.1", port=options.port, access_log=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
