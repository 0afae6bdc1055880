"""A client that holds every answer against the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jwt
from falcon.testing import Result, StartResponseMock, TestClient, create_environ

from tests.api.document import answer_errors, find_operation

SECRET = "a secret of at least sixty-four bytes, so that every HS algorithm is at ease with it"

App = Any


def token(**claims: object) -> str:
    """Sign a token."""
    return jwt.encode({"sub": "operator", **claims}, SECRET, algorithm="HS256")


def bearer(**claims: object) -> dict[str, str]:
    """Make the header of a token with these claims."""
    return {"Authorization": f"Bearer {token(**claims)}"}


@runtime_checkable
class Closing(Protocol):
    """What a server closes, by PEP 3333."""

    def close(self) -> None: ...


class Streamed(NamedTuple):
    """An answer whose body is read bit by bit."""

    status_code: int
    headers: Mapping[str, str]
    body: Iterator[bytes]


class Api:
    """Sends requests to an app, and fails where an answer is not as documented."""

    def __init__(self, app: App, prefix: str = "") -> None:
        """Talk to the app, with a token that allows everything."""
        self._client = TestClient(app)
        self._prefix = prefix

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
        query: str | None = None,
    ) -> Result:
        """Send a request with a body of JSON, or with one of raw bytes."""
        answer = self._client.simulate_request(
            method,
            self._prefix + path,
            headers=bearer() if headers is None else headers,
            query_string=query,
            **({"json": body} if raw is None and body is not None else {"body": raw}),
        )
        self._check(method, path.partition("?")[0], answer)
        return answer

    def get(self, path: str, **options: Any) -> Result:  # noqa: ANN401
        return self.send("GET", path, **options)

    def post(self, path: str, body: object = None, **options: Any) -> Result:  # noqa: ANN401
        return self.send("POST", path, body, **options)

    def patch(self, path: str, body: object, **options: Any) -> Result:  # noqa: ANN401
        return self.send("PATCH", path, body, **options)

    def delete(self, path: str, **options: Any) -> Result:  # noqa: ANN401
        return self.send("DELETE", path, **options)

    @contextmanager
    def stream(self, path: str, headers: Mapping[str, str]) -> Iterator[Streamed]:
        """Open an answer without reading it, and close it as a server does."""
        started = StartResponseMock()
        environ = create_environ(path=self._prefix + path, headers=headers)
        body = self._client.app(environ, started)
        try:
            yield Streamed(int((started.status or "0")[:3]), started.headers_dict, iter(body))
        finally:
            if isinstance(body, Closing):
                body.close()

    def _check(self, method: str, path: str, answer: Result) -> None:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        if method in {"HEAD", "OPTIONS"}:
            return
        operation = find_operation(method, path)
        errors = answer_errors(operation, answer.status_code, headers, answer.content)
        assert not errors, f"{method} {path}: {answer.status_code} {answer.text} {errors}"


def code_of(answer: Result) -> tuple[int, str]:
    """Return status and error code."""
    return answer.status_code, answer.json["code"]
