"""granian on one socket, within this process, until it is told to stop.

granian's own start and its embedded server open the socket by themselves, and the latter answers
everything on an event loop. So its worker is used here as they use it: it speaks HTTP in a thread
in Rust and hands each request over in a second one, where what never waits is answered. All else
goes to an event loop, which awaits bodies and slow readers, and from there to threads.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Final, TypeAlias
from wsgiref.types import WSGIApplication

import structlog
from granian import _granian
from granian.http import HTTP1Settings

from hypeman_libvirt.devices.nonblocking import NonBlocking, WouldBlockError
from hypeman_libvirt.server.answers import HttpAnswer, RefusedRequestError, refuse
from hypeman_libvirt.server.asgi import SLICE, AsgiApp, Scope, body_message, call, make_environ
from hypeman_libvirt.server.bounds import BODY_LIMIT, GRACE, HEAD_LIMIT, ROOM, with_files_for
from hypeman_libvirt.server.connections import Connections
from hypeman_libvirt.server.threads import DaemonThreads
from hypeman_libvirt.server.tls import Tls

_NATIVE: Final[Any] = _granian
"""What is used here its stubs lack, and it may change: hence granian < 2.9 in pyproject.toml."""
_BACKLOG: Final = 1024
_TURN: Final = 0.2
"""Seconds between two looks at how many are connected, and at what still runs at the end."""
_MOMENT: Final = 0.01
"""Seconds between two looks at whether granian has let go of the listening socket."""
_LENGTHS: Final = {b"content-length", b"transfer-encoding"}

Respond: TypeAlias = Callable[[Scope], HttpAnswer | None]
"""Answers a request, or leaves it to whoever comes next."""

_log: Final = structlog.get_logger(__name__)


class GranianServer:
    """Answers requests on a socket that listens."""

    def __init__(
        self,
        app: WSGIApplication,
        listener: socket.socket,
        *,
        threads: int,
        grace: float,
        on_stop: Callable[[], None],
        never_wait: Collection[str] = (),
        connections: int = 1000,
        request_timeout: float = 30.0,
        idle_timeout: int = 60,
        tls: Tls | None = None,
        nonblocking: NonBlocking | None = None,
        reads: Respond | None = None,
        refuse: Respond | None = None,
    ) -> None:
        """Listen; nothing is accepted before ``run``. The arguments are WaitressServer's.

        Args:
            app: See there.
            listener: See there.
            threads: See there.
            grace: See there.
            on_stop: See there.
            never_wait: See there.
            connections: See there.
            request_timeout: Seconds that a body has to come in whole, and that a client may take
                for the next part of an answer.
            idle_timeout: Seconds until the next head has come in whole.
            tls: What to speak TLS with.
            nonblocking: Marks granian's thread while it answers; None if it cannot be marked.
            reads: Answers some reads faster than the app; None leaves one to the app.
            refuse: Refuses requests that are too many; None lets one pass.
        """
        self._nonblocking = nonblocking
        self._reads = reads or _leave_to_the_app
        self._refuse = refuse or _leave_to_the_app
        self._app = app
        self._listener = listener
        self._threads = threads
        self._grace = grace
        self._on_stop = on_stop
        self._never_wait = frozenset(never_wait)
        self._most = with_files_for(connections)
        self._request_timeout = request_timeout
        self._idle_timeout = idle_timeout
        self._tls = tls
        listener.listen(_BACKLOG)
        self._stopping = False
        self._wake: Callable[[], object] = lambda: None

    def run(self) -> None:
        """Serve until ``stop``, then finish the requests that run."""
        asyncio.run(self._serve())

    def stop(self) -> None:
        """Make ``run`` come to its end; from any thread or signal handler."""
        self._stopping = True
        with suppress(RuntimeError):  # it has ended by itself meanwhile
            self._wake()

    async def _serve(self) -> None:
        _prepare(self._listener, self._request_timeout)
        connections = Connections(self._listener, self._most)
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(woken.set)
        threads = DaemonThreads(self._threads)
        asgi = AsgiApp(self._app, threads, most_bytes=BODY_LIMIT, patience=self._request_timeout)
        worker = self._start_worker(asgi)
        while not self._stopping:
            await _wait(woken, _TURN)
            connections.make_room(asgi.busy)
        self._listener.close()
        worker.stop()
        while connections.is_listening():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(_MOMENT)
        await loop.run_in_executor(DaemonThreads(1), self._on_stop)
        await self._finish(asgi, worker.stopped, connections)
        connections.end_all()
        await _wait(worker.stopped, GRACE)
        threads.shutdown(wait=False)

    async def _finish(
        self, asgi: AsgiApp, stopped: asyncio.Event, connections: Connections
    ) -> None:
        """Await what runs for the grace, and who takes an answer not longer than for a moment."""
        now = asyncio.get_running_loop().time
        end, rest = now() + self._grace, min(self._request_timeout, GRACE)
        quiet = now()
        while not stopped.is_set() and now() < min(end, quiet + rest):
            await _wait(stopped, _TURN)
            quiet = now() if asgi.busy else quiet
            if not (asgi.busy or connections.are_sending()):
                break
        if asgi.busy:
            _log.warning("stopped before every request was answered", waited_seconds=self._grace)

    def _start_worker(self, asgi: AsgiApp) -> _Worker:
        handover = _Handover(
            self._app, asgi, self._never_wait, self._nonblocking, self._reads, self._refuse
        )
        return _Worker(
            self._listener,
            handover.take,
            backpressure=self._most + ROOM,
            idle_timeout=self._idle_timeout,
            tls=self._tls,
        )


class _Handover:
    """Takes requests from granian, in its thread."""

    def __init__(
        self,
        app: WSGIApplication,
        asgi: AsgiApp,
        never_wait: Collection[str],
        nonblocking: NonBlocking | None,
        reads: Respond,
        refuse: Respond,
    ) -> None:
        self._nonblocking = nonblocking
        self._reads = reads
        self._refuse = refuse
        self._app = app
        self._asgi = asgi
        self._never_wait = never_wait
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, watcher: Any) -> None:  # noqa: ANN401 - granian's
        """Answer at once, or have it answered; an error here would end granian's thread."""
        try:
            answer = self._answer_at_once(watcher.scope)
            if answer is not None and len(answer.body or b"") <= SLICE:
                watcher.proto.send(answer.start())
                watcher.proto.send(body_message(answer.body or b"", more=False))
                answer.close()
            else:
                self._loop.call_soon_threadsafe(self._begin, watcher, answer)
        except RuntimeError:  # the loop has ended
            watcher.done()
        except Exception:  # noqa: BLE001 - the last to see it; it is logged
            _log.exception("request failed")
            watcher.done()

    def _answer_at_once(self, scope: Scope) -> HttpAnswer | None:
        """Return the answer if it takes no waiting."""
        if len(scope["raw_path"]) + len(scope["query_string"]) > HEAD_LIMIT:
            # granian reads up to its limit and then what has arrived, which may be more.
            return refuse(RefusedRequestError(431, f"send a path of at most {HEAD_LIMIT} bytes"))
        if scope["method"] != "GET" or any(name in _LENGTHS for name, _ in scope["headers"]):
            return self._refuse(scope)
        if scope["path"] in self._never_wait:
            return call(self._app, make_environ(scope, b""))
        if self._nonblocking is None:
            return self._refuse(scope)
        try:
            with self._nonblocking:
                return (
                    self._reads(scope)
                    or self._refuse(scope)
                    or call(self._app, make_environ(scope, b""))
                )
        except WouldBlockError:
            return None

    def _begin(self, watcher: Any, answer: HttpAnswer | None) -> None:  # noqa: ANN401
        task = self._loop.create_task(self._answer(watcher, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, watcher: Any, answer: HttpAnswer | None) -> None:  # noqa: ANN401
        proto = watcher.proto
        try:
            if answer is not None:
                await self._asgi.send(answer, proto.send)
            else:
                await self._asgi(watcher.scope, proto.receive, proto.send)
        except Exception:  # noqa: BLE001 - likewise
            _log.exception("request failed")
        finally:
            watcher.done()


class _Worker:
    """One worker of granian, which accepts and reads."""

    def __init__(
        self,
        listener: socket.socket,
        take: Callable[[Any], None],
        *,
        backpressure: int,
        idle_timeout: int,
        tls: Tls | None,
    ) -> None:
        """Begin to accept.

        Args:
            listener: Bound; stays the caller's.
            take: Is called with each request.
            backpressure: Connections; beyond, they queue in the kernel.
            idle_timeout: Seconds that a connection has to send the next head.
            tls: What to speak TLS with.
        """
        loop = asyncio.get_running_loop()
        self.stopped = asyncio.Event()
        self._signal = _NATIVE.WorkerSignal()
        self._signal.add_cb(lambda: loop.call_soon_threadsafe(self.stopped.set))
        is_unix = listener.family == socket.AF_UNIX
        own = _NATIVE.SocketHolder(os.dup(listener.fileno()), is_unix, _BACKLOG)
        worker = _NATIVE.ASGIWorker(
            worker_id=1,
            sock=(None, own),
            ipc=None,
            blocking_threads=1,
            backpressure=backpressure,
            http1_opts=HTTP1Settings(
                header_read_timeout=idle_timeout * 1000, max_buffer_size=HEAD_LIMIT
            ),
            **_tls_options(tls),
        )
        scheduler = _NATIVE.CallbackScheduler(loop, take, None, None, None)
        scheduler._schedule_fn = take  # noqa: SLF001 - as granian._futures does
        serve = worker.serve_async_uds if is_unix else worker.serve_async
        serve(scheduler, loop, self._signal)

    def stop(self) -> None:
        """Accept nothing more; ``stopped`` is set once every connection has ended."""
        self._signal.set()


def _leave_to_the_app(_: Scope) -> None:
    """Answer nothing."""


def _tls_options(tls: Tls | None) -> dict[str, object]:
    if tls is None:
        return {}
    return {
        "ssl_enabled": True,
        "ssl_cert": str(tls.certificate),
        "ssl_key": str(tls.key),
        "ssl_protocol_min": "tls1.2",
        "ssl_ca": tls.client_ca and str(tls.client_ca),
        "ssl_client_verify": tls.client_ca is not None,
    }


def _prepare(listener: socket.socket, patience: float) -> None:
    """Set what accepted connections inherit: who takes nothing of an answer is given up."""
    if listener.family != socket.AF_UNIX:
        milliseconds = max(1, round(patience * 1000))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, at most so long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
