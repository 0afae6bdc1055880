from __future__ import annotations

import io
import json
import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TextIO
from wsgiref.types import StartResponse, WSGIEnvironment
from wsgiref.util import setup_testing_defaults

import pytest
import structlog

from hypeman_libvirt.rest.access_log import AccessLog
from hypeman_libvirt.server import logs
from tests.server.running import LogLines

TOKEN = "eyJhbGciOiJIUzI1NiJ9.e30.hunter2"


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    environ["hypeman.subject"] = "alice"
    start_response("201 Created", [("X-Request-Id", "r-1")])
    yield b"{}"


def request() -> WSGIEnvironment:
    environ: WSGIEnvironment = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/devices",
        "QUERY_STRING": f"token={TOKEN}",
        "REMOTE_ADDR": "192.0.2.7",
        "HTTP_X_FORWARDED_FOR": "198.51.100.1",
        "HTTP_AUTHORIZATION": f"Bearer {TOKEN}",
    }
    setup_testing_defaults(environ)
    return environ


def ignore(*_: object) -> None:
    """Observe no request."""


def answer(log: AccessLog) -> list[bytes]:
    body = log(request(), lambda *_: lambda _: None)
    sent = list(body)
    body.close()  # type: ignore[attr-defined]
    return sent


def test_a_request_is_one_line_without_its_token(log_lines: LogLines) -> None:
    clock = count(step=0.25)
    assert answer(AccessLog(app, ignore, monotonic=lambda: next(clock))) == [b"{}"]
    (line,) = log_lines.entries()
    assert line.pop("timestamp")
    assert line == {
        "event": "request",
        "level": "info",
        "logger": "hypeman_libvirt.access",
        "request_id": "r-1",
        "client": "192.0.2.7",
        "subject": "alice",
        "method": "POST",
        "path": "/devices",
        "status": 201,
        "seconds": 0.25,
    }
    assert TOKEN not in log_lines.getvalue()


def test_the_line_comes_when_the_answer_has_been_sent(log_lines: LogLines) -> None:
    body = AccessLog(app, ignore)(request(), lambda *_: lambda _: None)
    assert list(body) == [b"{}"]
    assert log_lines.entries() == []
    body.close()  # type: ignore[attr-defined]
    assert len(log_lines.entries()) == 1


def test_an_app_that_fails_gets_its_line(log_lines: LogLines) -> None:
    def broken(_: WSGIEnvironment, __: StartResponse) -> Iterable[bytes]:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        AccessLog(broken, ignore)(request(), lambda *_: lambda _: None)
    (line,) = log_lines.entries()
    assert line["status"] == 500


def test_libraries_and_warnings_log_in_the_same_way(log_lines: LogLines) -> None:
    with structlog.contextvars.bound_contextvars(request_id="r-2"):
        logging.getLogger("waitress").warning("queue depth is %d", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("the key is short", stacklevel=1)
    depth, warned = log_lines.entries()
    assert depth["event"] == "queue depth is 3"
    assert depth["level"] == "warning"
    assert depth["request_id"] == "r-2"
    assert "the key is short" in warned["event"]


def fail_with(secret: str) -> None:
    raise ValueError("nothing of the value") from KeyError(len(secret))


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_traceback_shows_no_values_of_variables(log_lines: LogLines, is_terminal: bool) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: is_terminal  # type: ignore[method-assign]
    logs.configure(stream)
    try:
        fail_with(TOKEN)
    except ValueError:
        structlog.get_logger().exception("failed")
    assert "ValueError: nothing of the value" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()
    assert log_lines.getvalue() == ""


@contextmanager
def logged_to_a_pipe(most: int = 1000) -> Iterator[tuple[logs.LogWriter, TextIO]]:
    """Log into a pipe, and give what reads from it."""
    read_end, write_end = os.pipe()
    with (
        os.fdopen(read_end) as reader,
        os.fdopen(write_end, "w") as stream,
        closing(logs.LogWriter(stream, most=most)) as log,
    ):
        logs.configure(log)
        yield log, reader


@pytest.mark.usefixtures("log_lines")
def test_all_lines_are_written_by_the_end() -> None:
    with logged_to_a_pipe() as (log, reader):
        answer(AccessLog(app, ignore))
        structlog.get_logger("hypeman_libvirt.bootstrap").info("bind")
        log.close()
        lines = [json.loads(reader.readline()) for _ in range(2)]
    assert [line["event"] for line in lines] == ["request", "bind"]


@pytest.mark.usefixtures("log_lines")
def test_a_log_that_nobody_reads_holds_up_nothing_and_counts_what_it_drops() -> None:
    with logged_to_a_pipe(most=10) as (log, reader):
        logger = structlog.get_logger("hypeman_libvirt.bootstrap")
        while log.dropped < 5:
            logger.info("bind", padding="x" * 900)  # the pipe is full soon
        written: list[dict[str, Any]] = []
        while "dropped" not in (written[-1]["event"] if written else ""):
            written.append(json.loads(reader.readline()))
        assert written[-1]["count"] == log.dropped


@pytest.mark.usefixtures("log_lines")
def test_the_end_does_not_wait_for_who_reads_the_log() -> None:
    with logged_to_a_pipe(most=10) as (log, _):
        while not log.dropped:
            structlog.get_logger("hypeman_libvirt.bootstrap").info("bind", padding="x" * 900)
        log.close(timeout=0.01)


@pytest.mark.usefixtures("log_lines")
def test_a_log_on_a_full_disk_stops_nothing() -> None:
    # The kernel's device for that: each write is ENOSPC.
    with Path("/dev/full").open("w") as full, closing(logs.LogWriter(full)) as log:
        logs.configure(log)
        assert answer(AccessLog(app, ignore)) == [b"{}"]
        log.close()
        assert answer(AccessLog(app, ignore)) == [b"{}"]


def test_a_long_field_is_cut(log_lines: LogLines) -> None:
    structlog.get_logger().info("request", path="/" + "a" * 2500)
    logging.getLogger("waitress").warning("serving %s", "b" * 2500)
    request_line, other = log_lines.entries()
    assert request_line["path"] == "/" + "a" * 999 + "... and 1501 characters more"
    assert other["event"].endswith("... and 1508 characters more")


def test_control_characters_are_escaped_on_a_terminal(log_lines: LogLines) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    logs.configure(stream)
    structlog.get_logger().info("request", path="/\x1b]0;OWNED\x07")
    logging.getLogger("waitress").warning("serving \x1b]0;OWNED\x07")
    try:
        int("\x1b]0;" + "OWNED\x07")
    except ValueError:
        structlog.get_logger().exception("failed")
    assert "OWNED" in stream.getvalue()
    assert "\x1b]0" not in stream.getvalue()
    assert stream.getvalue().count("\\x1b]0;OWNED\\x07") == 3
    assert log_lines.getvalue() == ""


def test_a_requests_line_is_written_as_structlog_writes_it(log_lines: LogLines) -> None:
    write = logs.request_lines(log_lines)
    assert write is not None
    answer(AccessLog(app, ignore, write_line=write))
    answer(AccessLog(app, ignore))
    by_hand, by_structlog = log_lines.entries()
    assert list(by_hand) == list(by_structlog)
    for line in (by_hand, by_structlog):
        assert line.pop("timestamp").endswith("Z")
        assert line.pop("seconds") >= 0
    assert by_hand == by_structlog


def test_a_long_path_is_cut_in_a_requests_line(log_lines: LogLines) -> None:
    write = logs.request_lines(log_lines)
    assert write is not None
    write({"path": "/" + "a" * 30_000})
    (line,) = log_lines.entries()
    assert len(line["path"]) < 1100
    assert "more" in line["path"]
