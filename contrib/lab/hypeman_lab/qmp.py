"""QEMU's monitor. Source: https://www.qemu.org/docs/master/interop/qmp-spec.html."""

import json
from socket import socket
from threading import Lock
from typing import Any

from hypeman_lab.errors import LabError


class Qmp:
    """One monitor on a connected socket; threads may share it."""

    def __init__(self, connection: socket) -> None:
        """Greet the monitor at the other end."""
        self._file = connection.makefile("rw", encoding="utf-8")
        self._lock = Lock()
        self._read()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 - any JSON value
        """Run a command and return its answer.

        Raises:
            LabError: QEMU refuses it, or is gone.
        """
        request = json.dumps({"execute": command, "arguments": arguments})
        with self._lock:
            answer = self._exchange(request)
        if "error" in answer:
            raise LabError(f"QEMU refused {command}: {answer['error']['desc']}")
        return answer["return"]

    def _exchange(self, request: str) -> dict[str, Any]:
        try:
            self._file.write(request + "\n")
            self._file.flush()
            return self._read()
        except OSError as error:
            raise LabError(f"QEMU does not answer: {error}") from error

    def _read(self) -> dict[str, Any]:
        for line in self._file:
            message: dict[str, Any] = json.loads(line)
            if "event" not in message:
                return message
        raise LabError("QEMU closed its monitor")
