"""A small organisation in memory that answers like a remote API: far too much of everything. It checks no rights."""

from __future__ import annotations

from typing import Any

JSON = dict[str, Any]


class NotFound(LookupError):
    """There is no such repository, user or pull request."""


class FakeGitHub:
    """The organisation `acme`. Every answer is a fresh copy, so that a caller changes nothing by accident."""

    def __init__(self) -> None:
        self._users = {user["login"]: user for user in (_user("carol", 101, True), _user("dave", 102, False))}
        self._repositories = {name: _repository(name) for name in ("website", "docs", "payroll", "sandbox")}
        self._issues: dict[str, list[JSON]] = {"website": [_issue(1, "The logo is blurred", "dave")]}
        self._pulls = {("website", 7): "New logo", ("website", 8): "New colours", ("docs", 3): "Fix a typo"}

    def repositories(self) -> list[JSON]:
        """Every repository, in short."""
        return [{"name": repo["name"], "private": repo["private"]} for repo in self._repositories.values()]

    def repository(self, repo: str) -> JSON:
        """One repository with its collaborators and its secrets, values included."""
        found = self._repository(repo)
        collaborators = [{"login": u["login"], "email": u["email"], "role": "write"} for u in self._users.values()]
        return {**found, "collaborators": collaborators, "secrets": self.secrets(repo)}

    def secrets(self, repo: str) -> list[JSON]:
        """The secrets of a repository's builds."""
        name = self._repository(repo)["name"]
        return [
            {"name": "DEPLOY_PASSWORD", "value": f"open-sesame-{name}", "updated": "2026-03-01"},
            {"name": "MAP_TILES", "value": f"tiles-of-{name}", "updated": "2026-05-20"},
        ]

    def user(self, login: str) -> JSON:
        """A user with everything that is known of him."""
        if login not in self._users:
            raise NotFound(f"no user {login}")
        return dict(self._users[login])

    def issues(self, repo: str) -> list[JSON]:
        """The issues of a repository."""
        return [dict(issue) for issue in self._issues.get(self._repository(repo)["name"], [])]

    def create_issue(self, repo: str, title: str) -> JSON:
        """Opens an issue and returns it."""
        issues = self._issues.setdefault(self._repository(repo)["name"], [])
        issues.append(_issue(len(issues) + 1, title, "bot"))
        return dict(issues[-1])

    def merge(self, repo: str, number: int) -> JSON:
        """Merges a pull request."""
        title = self._pulls.pop((self._repository(repo)["name"], number), None)
        if title is None:
            raise NotFound(f"no open pull request {number} in {repo}")
        return {"number": number, "title": title, "merged": True}

    def delete(self, repo: str) -> JSON:
        """Deletes a repository for good."""
        return {"deleted": self._repositories.pop(self._repository(repo)["name"])["name"]}

    def _repository(self, repo: str) -> JSON:
        owner, _, name = repo.rpartition("/")
        if owner != "acme" or name not in self._repositories:
            raise NotFound(f"no repository {repo}")
        return dict(self._repositories[name])


def _user(login: str, number: int, two_factor: bool) -> JSON:
    return {
        "login": login,
        "id": number,
        "name": login.title(),
        "email": f"{login}@acme.example",
        "two_factor_authentication": two_factor,
        "billing": {"plan": "team", "card": "4242"},
        "organisation": {"login": "acme", "billing_email": "bills@acme.example"},
    }


def _repository(name: str) -> JSON:
    return {"name": name, "private": name == "payroll", "default_branch": "main"}


def _issue(number: int, title: str, author: str) -> JSON:
    return {"number": number, "title": title, "author": {"login": author, "email": f"{author}@acme.example"}}
