"""What an operator can set: by flag, by environment, in a TOML file, in this order."""

from __future__ import annotations

import ipaddress
import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

DEFAULT_CONFIG: Final = Path("/etc/hypeman-libvirt/config.toml")
_ENV_PREFIX: Final = "HYPEMAN_LIBVIRT_"
_SYSTEM_REGISTRY: Final = "/var/lib/libvirt/hypeman/registry.db"
_HIGHEST_PORT: Final = 65535
_UNSIGNED: Final = (
    "no JWT secret, and without one anybody could sign tokens. Set JWT_SECRET or jwt_secret_file, "
    "for instance: export JWT_SECRET=$(openssl rand -hex 32). On a loopback address or a Unix "
    "socket, --auth off serves without tokens"
)


class SettingsError(Exception):
    """A setting is missing or wrong.

    Attributes:
        message: For the operator: which setting, which value, what to do.
    """

    def __init__(self, message: str) -> None:
        """Keep the message for whoever tells the operator."""
        super().__init__(message)
        self.message = message


def split_listen(listen: str) -> tuple[str, int] | Path:
    """Split ``host:port``, ``[ipv6]:port`` or ``unix:/path`` into what a socket binds to.

    Raises:
        ValueError: It is none of these.
    """
    scheme, _, path = listen.partition(":")
    if scheme == "unix":
        if not path.startswith("/"):
            raise ValueError("a Unix socket needs an absolute path: unix:/run/hypeman.sock")
        return Path(path)
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > _HIGHEST_PORT:
        raise ValueError("write host:port, [IPv6 address]:port or unix:/path")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_local(listen: str) -> bool:
    """Whether only this machine can connect: a loopback address or a Unix socket."""
    place = split_listen(listen)
    if isinstance(place, Path) or place[0] == "localhost":
        return True
    try:
        return ipaddress.ip_address(place[0]).is_loopback
    except ValueError:
        return False


def _checked_listen(listen: str) -> str:
    split_listen(listen)
    return listen


class Settings(BaseSettings):
    """Everything that can be set.

    By itself it reads the environment only: ``HYPEMAN_LIBVIRT_`` and the name in upper case, and
    ``JWT_SECRET``. Keyword arguments go before it; ``load_settings`` also reads a file.
    """

    model_config = SettingsConfigDict(
        env_prefix=_ENV_PREFIX, extra="forbid", hide_input_in_errors=True
    )

    listen: Annotated[str, AfterValidator(_checked_listen)] = Field(
        default="127.0.0.1:8080",
        description="Where to serve: host:port, [IPv6 address]:port or unix:/path.",
    )
    uri: str | None = Field(
        default=None,
        min_length=1,
        description="libvirt URI of the host. Default: an embedded demo host.",
    )
    registry: str | None = Field(
        default=None,
        min_length=1,
        description=(
            f"SQLite file or SQLAlchemy URL of the registry. Default: {_SYSTEM_REGISTRY}; for a "
            "test or session URI $XDG_STATE_HOME/hypeman-libvirt/registry.db."
        ),
    )
    auth: Literal["jwt", "off"] = Field(
        default="jwt",
        description="jwt: bearer tokens. off: nobody is asked; local addresses only.",
    )
    jwt_secret: SecretStr | None = Field(
        default=None,
        validation_alias="jwt_secret",
        description="Secret that tokens are signed with. In the environment: JWT_SECRET.",
    )
    jwt_secret_file: Path | None = Field(
        default=None,
        description=(
            "File with the secret, where JWT_SECRET is not set. "
            "Default: systemd's credential jwt-secret."
        ),
    )
    operation_timeout: float = Field(
        default=30.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds that bind, unbind, attach and detach may take before they answer 504.",
    )
    operations: int = Field(
        default=8,
        ge=1,
        description="How many of these run at once; one more answers 409 busy.",
    )
    release_timeout: float = Field(
        default=20.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds that a guest has to let go of a device that is detached.",
    )
    metrics: Literal["token", "open", "off"] = Field(
        default="token",
        description=(
            "Who may read /metrics. token: with the permission resource:read. open: everybody who "
            "can connect. off: nobody."
        ),
    )
    threads: int = Field(
        default=8,
        ge=1,
        description="How many requests are answered at once.",
    )
    connections: int = Field(
        default=1000,
        ge=1,
        description="How many clients may be connected at once; the longest idle ones make room.",
    )
    request_timeout: float = Field(
        default=30.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds that a request has to come in whole.",
    )
    idle_timeout: int = Field(
        default=60,
        ge=1,
        description="Seconds after which a connection that asks for nothing is closed.",
    )
    event_listeners: int = Field(
        default=16,
        ge=1,
        description="How many clients may follow /devices/events; their threads are extra.",
    )
    event_poll_interval: float = Field(
        default=3.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds between two looks at the drivers while somebody follows events.",
    )

    @model_validator(mode="after")
    def _without_auth_stay_local(self) -> Self:
        if self.auth == "off" and not is_local(self.listen):
            raise ValueError(
                f"auth = off serves whoever can connect, and {self.listen} is not this machine "
                "alone; listen on 127.0.0.1, [::1] or a Unix socket, or leave auth on"
            )
        return self

    @property
    def registry_location(self) -> str:
        """Where the registry is, with the default worked out."""
        if self.registry is not None:
            return self.registry
        if self.uri is None or _is_of_one_user(self.uri):
            state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
            return str(Path(state) / "hypeman-libvirt" / "registry.db")
        return _SYSTEM_REGISTRY

    @property
    def shown_registry(self) -> str:
        """Where the registry is, for people: without a password."""
        location = self.registry_location
        parts = urlsplit(location)
        return location.replace(f":{parts.password}@", ":***@") if parts.password else location

    @property
    def exposed_files(self) -> list[Path]:
        """The secret's and the registry's file, where others can read them or a group write.

        A group may read: that is how root gives a secret to a service.
        """
        secret = None if self.auth == "off" or self.jwt_secret else self._secret_file
        registry = None if "://" in self.registry_location else Path(self.registry_location)
        return [file for file in (secret, registry) if file and _is_exposed(file)]

    @property
    def _secret_file(self) -> Path | None:
        return self.jwt_secret_file or _credential()

    def secret(self) -> str:
        """Return the secret that tokens are signed with; never an empty one.

        Raises:
            SettingsError: There is none, or its file cannot be read.
        """
        given = self.jwt_secret.get_secret_value() if self.jwt_secret else ""
        secret = given or _secret_in(self._secret_file)
        if not secret.strip():
            raise SettingsError(_UNSIGNED)
        return secret

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put flags before the environment and the environment before the file."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(
    config: Path | None = None, flags: Mapping[str, object] | None = None
) -> Settings:
    """Read flags, environment and file into one.

    Args:
        config: TOML file that must exist; None for the default one, which may be missing.
        flags: By the field's name; None for one that was not given.

    Raises:
        SettingsError: A value is wrong, a key of the file unknown, or the file unreadable.
    """
    file = config or DEFAULT_CONFIG
    _check_readable(file, required=config is not None)
    given: dict[str, Any] = {
        name: value for name, value in (flags or {}).items() if value is not None
    }

    class FileSettings(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    try:
        return FileSettings(**given)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(each, file) for each in error.errors())) from None


def _check_readable(file: Path, *, required: bool) -> None:
    try:
        tomllib.loads(file.read_text())
    except FileNotFoundError:
        if required:
            raise SettingsError(f"there is no settings file {file}; check --config") from None
    except OSError as error:
        raise SettingsError(f"settings file {file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"settings file {file} is not valid TOML: {error}") from None


def _explain(error: ErrorDetails, file: Path) -> str:
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        known = ", ".join(sorted(Settings.model_fields))
        return f"unknown setting {name!r} in {file}; known are {known}"
    problem = error["msg"].removeprefix("Value error, ")
    if not name:
        return problem
    variable = "JWT_SECRET" if name == "jwt_secret" else _ENV_PREFIX + name.upper()
    return f"setting {name}: {problem} (see the flags, {variable} and {file})"


def _is_of_one_user(uri: str) -> bool:
    parts = urlsplit(uri)
    return parts.scheme.partition("+")[0] == "test" or parts.path.endswith("/session")


def _credential() -> Path | None:
    """Return systemd's credential of this service, if it gave one.

    Source: systemd.exec(5), LoadCredential=.
    """
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    credential = Path(directory) / "jwt-secret" if directory else None
    return credential if credential and credential.exists() else None


def _is_exposed(file: Path) -> bool:
    try:
        return bool(file.stat().st_mode & (stat.S_IRWXO | stat.S_IWGRP))
    except OSError:
        return False  # whoever opens it says why that fails


def _secret_in(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        return file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the JWT secret in {file} cannot be read: {error}") from None
