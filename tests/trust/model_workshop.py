"""What the sequences of the model share, and what stands between a service and its world."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from hypeman_libvirt.metrics import Metrics
from hypeman_libvirt.registry import SqlRegistry
from hypeman_libvirt.registry.locks import FileLocks
from hypeman_libvirt.settings import Settings
from tests.api.client import SECRET
from tests.trust.model_host import ModelSysfs


class Mortal:
    """A registry whose calls are steps of an operation: each may fail, or be the last."""

    def __init__(self, registry: SqlRegistry, step: Callable[[str], None]) -> None:
        self._registry = registry
        self._step = step

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        method = getattr(self._registry, name)

        def call(*args: Any, **more: Any) -> Any:  # noqa: ANN401
            self._step(f"registry {name}")
            return method(*args, **more)

        return call


class Errors(logging.Handler):
    """Collects what the package logs as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Workshop:
    """What all sequences of a process share: sysfs, registry and locks, in one directory."""

    def __init__(self, directory: Path) -> None:
        self.sysfs = ModelSysfs(directory / "host")
        self.location = directory / "registry.db"
        self.registries = [SqlRegistry(self.location), SqlRegistry(self.location)]
        self.locks = FileLocks(directory / "locks")
        self.ids = (f"id{number:022d}" for number in count(1))
        self.metrics = Metrics("0.0.0")
        self.errors = Errors()
        self.settings = Settings(
            jwt_secret=SecretStr(SECRET), operation_timeout=60.0, release_timeout=0.01
        )

    def close(self) -> None:
        for each in self.registries:
            each.close()


@contextmanager
def quiet(errors: Errors) -> Iterator[None]:
    """Let the package's log go to the model alone."""
    loggers = [logging.getLogger(name) for name in ("hypeman_libvirt",)]
    before = [(each.propagate, each.level) for each in loggers]
    for each in loggers:
        each.propagate = False
        each.setLevel(logging.ERROR)
        each.addHandler(errors)
    try:
        yield
    finally:
        for each, (propagate, level) in zip(loggers, before, strict=True):
            each.removeHandler(errors)
            each.propagate = propagate
            each.setLevel(level)
