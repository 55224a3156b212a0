"""Walks through the bank as Alice, a teller, and as Bob, a guest: `python client.py`, while `server.py` runs.

It answers the bank's questions by itself, as the dialog of an application would for its user.
"""

from __future__ import annotations

import argparse
import json
from http.client import HTTPConnection
from typing import Any


class Caller:
    """One user with his bearer token. `says` answers every question."""

    def __init__(self, port: int, name: str) -> None:
        self.port, self.name = port, name

    def call(self, title: str, method: str, path: str, body: Any = None, *, says: str = "deny") -> None:
        """One request; if its answer is a question, the answer to that; if nothing waited for it, the request again."""
        print(f"\n{title}\n  {self.name}: {method} {path} {json.dumps(body) if body else ''}".rstrip())
        status, answer = self._send(method, path, body)
        while status == 403 and answer["code"] == "approval_required":
            results = [self._decide(challenge, says) for challenge in answer["challenges"]]
            status, answer = results[-1]
            if status == 200 and answer["result"] is None:
                print(f"  {status} {json.dumps(answer)}; so the request is sent again")
                status, answer = self._send(method, path, body)
        print(f"  {status} {json.dumps(answer)}")

    def _decide(self, challenge: dict[str, Any], says: str) -> tuple[int, Any]:
        print("    the server asks:")
        for line in challenge["message"].splitlines():
            print(f"      | {line}".rstrip())
        for offers in challenge["choices"]:
            print(f"    offered: {'; '.join(offers.values())}")
        print(f"    answered: {says}")
        return self._send("POST", f"/approvals/{challenge['id']}", {"choices": [says]})

    def _send(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.name}-on-loopback", "Content-Type": "application/json"}
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


def main() -> None:
    """The whole walk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    alice, bob = Caller(options.port, "alice"), Caller(options.port, "bob")
    small = {"sender": 1, "receiver": 2, "amount": 40}
    large, larger = {**small, "amount": 400}, {**small, "amount": 4000}
    alice.call("A customer with his account number, this once.", "GET", "/customers/1", says="once")
    alice.call("One without.", "GET", "/customers/2", says="deny")
    alice.call("A small transfer: nobody is asked.", "POST", "/transfers", small)
    alice.call("A large one, agreed to.", "POST", "/transfers", large, says="once")
    alice.call("A larger one, not agreed to.", "POST", "/transfers", larger, says="deny")
    bob.call("Guests may not book.", "POST", "/transfers", small)


if __name__ == "__main__":
    main()
