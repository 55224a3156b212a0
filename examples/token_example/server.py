"""The bank as a web service: `python server.py [PORT]`. The same file and tokens; it calls nobody to verify them."""

import sys
from typing import Annotated, Any

import bank
import uvicorn
from fastapi import Body, FastAPI

from mcp_macaroon_middleware.adapters.asgi import MacaroonASGIMiddleware

app = FastAPI(title="bank", docs_url=None, redoc_url=None, openapi_url=None)
app.add_middleware(MacaroonASGIMiddleware, source="policies.yaml", public=["/health"])


@app.get("/health")
def health() -> dict[str, bool]:
    """Whether it runs; stands outside the rules."""
    return {"ok": True}


@app.get("/customers/{number}")
def customer(number: int) -> dict[str, Any]:
    """Reads a customer."""
    return bank.CUSTOMERS[number]


@app.post("/transfers")
def transfer(amount: Annotated[int, Body(embed=True)]) -> dict[str, Any]:
    """Books a transfer."""
    return bank.transfer(amount)


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]) if len(sys.argv) > 1 else 8001, log_level="warning")
