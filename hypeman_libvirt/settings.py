"""What an operator can set: by flag, by environment, in a TOML file, in this order."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeAlias, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from hypeman_libvirt import defaults
from hypeman_libvirt.file_access import explain_denial, is_there

S = TypeVar("S", bound="Settings")

_ENV_PREFIX: Final = "HYPEMAN_LIBVIRT_"
_SECRET_VARIABLE: Final = "JWT_SECRET"  # noqa: S105 - a name, and the one without the prefix
_HIGHEST_PORT: Final = 65535
_SHORTEST: Final = 32
"""Bytes of a secret for HS256. Source: RFC 7518, section 3.2."""
_PEM: Final = "-----BEGIN "
_NEW_SECRET: Final = "openssl rand -hex 32"  # noqa: S105 - a command
_PASSWORD: Final = re.compile(r"(?i)([?&]password=)[^&]*")
_UNSIGNED: Final = (
    "no JWT secret, and without one anybody could sign tokens. Set JWT_SECRET or jwt_secret_file, "
    "for instance: export JWT_SECRET=$(openssl rand -hex 32). On a loopback address or a Unix "
    "socket, --auth off serves without tokens"
)


ServerName: TypeAlias = Literal["granian", "waitress"]
"""What speaks HTTP."""


class SettingsError(Exception):
    """A setting is missing or wrong.

    Attributes:
        message: For the operator: which setting, which value, what to do.
    """

    def __init__(self, message: str) -> None:
        """Store the message for the operator."""
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
    packaged_secret: ClassVar[Path | None] = None
    """The secret that the package made; load_settings reads it where it exists."""
    file_with_secret: ClassVar[Path | None] = None
    """The settings file, where the secret itself stands in it."""

    listen: Annotated[str, AfterValidator(_checked_listen)] = Field(
        default="127.0.0.1:8080",
        description=defaults.LISTEN,
    )
    server: ServerName | None = Field(
        default=None,
        description=defaults.SERVER,
    )
    tls_cert: Path | None = Field(
        default=None,
        description=defaults.TLS_CERT,
    )
    tls_key: Path | None = Field(
        default=None,
        description=defaults.TLS_KEY,
    )
    tls_client_ca: Path | None = Field(
        default=None,
        description=defaults.TLS_CLIENT_CA,
    )
    uri: str | None = Field(
        default=None,
        min_length=1,
        description=defaults.URI,
    )
    registry: str | None = Field(
        default=None,
        min_length=1,
        description=defaults.REGISTRY,
    )
    auth: Literal["jwt", "off"] = Field(
        default="jwt",
        description=defaults.AUTH,
    )
    jwt_secret: SecretStr | None = Field(
        default=None,
        validation_alias="jwt_secret",
        description="Secret that tokens are signed with. In the environment: JWT_SECRET.",
    )
    jwt_secret_file: Path | None = Field(
        default=None,
        description=(
            "File with the secret, where JWT_SECRET is not set. Default: systemd's credential "
            f"{defaults.SECRET_FILE}, else {defaults.ETC / defaults.SECRET_FILE}."
        ),
    )
    require_expiry: bool = Field(
        default=False,
        description="Refuse tokens that never expire, without an exp claim.",
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
    ui: Literal["on", "off"] = Field(
        default="on",
        description=defaults.UI,
    )
    dashboard: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="URL of a Grafana dashboard that the page links to.",
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
    helper_socket: Path = Field(
        default=defaults.HELPER_SOCKET,
        description=(
            "Unix socket of the root helper, which makes virtual functions, vGPUs and boot rules."
        ),
    )
    on_release: Path | None = Field(
        default=None,
        description=(
            "Program that the root helper runs after a guest had a device, such as one that wipes "
            "it; with its address and vendor:device as arguments. The helper reads it from "
            f"{defaults.DEFAULT_CONFIG} alone."
        ),
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
        description="Seconds between two polls of the drivers while a client follows events.",
    )

    hub: str | None = Field(
        default=None,
        min_length=1,
        description="URL of the hub of a fleet that this host belongs to.",
    )
    hub_token: SecretStr | None = Field(
        default=None,
        description="One-time token with which this host enrols at the hub; used once.",
    )
    hub_ca: Path | None = Field(
        default=None,
        description="Certificates of the authority that the hub's certificate is checked with. "
        "Default: the system's.",
    )
    agent_url: str | None = Field(
        default=None,
        min_length=1,
        description="URL at which the hub reaches this service.",
    )

    @model_validator(mode="after")
    def _hub_is_reached_safely(self) -> Self:
        if self.hub is None:
            return self
        if self.agent_url is None:
            raise ValueError(
                "a host with a hub needs agent_url, the URL at which the hub reaches this service"
            )
        for name, url in (("hub", self.hub), ("agent_url", self.agent_url)):
            if not _is_safe(url):
                raise ValueError(
                    f"{name} {url} is not encrypted, and keys would travel in it; write https://"
                )
        return self

    @model_validator(mode="after")
    def _without_auth_stay_local(self) -> Self:
        if self.auth == "off" and not is_local(self.listen):
            raise ValueError(
                f"auth = off serves whoever can connect, and {self.listen} is not this machine "
                "alone; listen on 127.0.0.1, [::1] or a Unix socket, or leave auth on"
            )
        return self

    @model_validator(mode="after")
    def _with_whole_tls(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together: set both, or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        return self

    @property
    def registry_location(self) -> str:
        """Where the registry is, with the default worked out."""
        return self.registry if self.registry is not None else self._default_registry

    @property
    def state_directory(self) -> Path:
        """Where on this host state lies, also where the registry is a database elsewhere."""
        return Path(self._default_registry).parent

    @property
    def _default_registry(self) -> str:
        if self.uri is None or _is_of_one_user(self.uri):
            state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
            return str(Path(state) / "hypeman-libvirt" / "registry.db")
        return defaults.SYSTEM_REGISTRY

    @property
    def shown_registry(self) -> str:
        """Where the registry is, for people: without a password."""
        return hide_password(self.registry_location)

    @property
    def registry_file(self) -> Path | None:
        """The file of a registry in SQLite; None for one behind a URL."""
        return None if "://" in self.registry_location else Path(self.registry_location)

    def check_registry_file(self) -> None:
        """Let pass a registry that this user may read, one behind a URL, and one not yet made.

        Raises:
            SettingsError: The file, or a directory above it, is closed to this user.
        """
        file = self.registry_file
        if file is not None and is_there(file) and not os.access(file, os.R_OK):
            raise SettingsError(f"the registry: {explain_denial(file)}")

    @property
    def exposed_files(self) -> list[Path]:
        """Files with the secret or the registry, where others can read them or a group write.

        A group may read: that is how root gives a secret to a service.
        """
        secret = None if self.auth == "off" or self.jwt_secret else self.secret_file
        files = (secret, self.file_with_secret, self.registry_file)
        return [file for file in files if file and _is_exposed(file)]

    @property
    def secret_file(self) -> Path | None:
        """Where the secret is read from when it is no setting itself; None without any file."""
        return self.jwt_secret_file or _credential() or self.packaged_secret

    def secret(self) -> str:
        """Return the secret that tokens are signed with; never one that could be guessed.

        Raises:
            SettingsError: There is none, it is too short or a key, or its file cannot be read.
        """
        given = self.jwt_secret.get_secret_value() if self.jwt_secret else ""
        secret = given or _secret_in(self.secret_file)
        if not secret.strip():
            raise SettingsError(_UNSIGNED)
        _check_secret(secret, "given" if given else f"in {self.secret_file}")
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
    config: Path | None = None,
    flags: Mapping[str, object] | None = None,
    etc: Path = defaults.ETC,
) -> Settings:
    """Read flags, environment and file of a service on one host into one; see load_kind."""
    return load_kind(Settings, config, flags, etc)


def load_kind(
    kind: type[S],
    config: Path | None = None,
    flags: Mapping[str, object] | None = None,
    etc: Path = defaults.ETC,
    name: str = "config.toml",
) -> S:
    """Read flags, environment and file into one.

    Args:
        kind: Which settings there are.
        config: TOML file that must exist; None for the default one, which may be missing.
        flags: By the field's name; None for one that was not given.
        etc: Directory of the default file and of the secret that the package makes.
        name: Of the default file.

    Raises:
        SettingsError: A value is wrong, a key of the file unknown, or the file unreadable.
    """
    file, packaged = config or etc / name, etc / defaults.SECRET_FILE
    written = _read(file, required=config is not None)
    given: dict[str, Any] = {
        name: value for name, value in (flags or {}).items() if value is not None
    }

    class FileSettings(kind):  # type: ignore[valid-type, misc]  # mypy takes no variable here
        model_config = SettingsConfigDict(toml_file=file)
        packaged_secret: ClassVar[Path | None] = packaged if is_there(packaged) else None
        file_with_secret: ClassVar[Path | None] = file if "jwt_secret" in written else None

    try:
        settings: S = FileSettings(**given)
    except ValidationError as error:
        known = sorted(kind.model_fields)
        explained = [_explain(each, file, known) for each in error.errors()]
        raise SettingsError("\n".join(explained)) from None
    return settings


def unknown_variables(environment: Iterable[str], kind: type[Settings] = Settings) -> Iterator[str]:
    """Name, in a sentence each, variables that start as settings do and are none."""
    names = [field.upper() for field in kind.model_fields]
    for variable in sorted(environment):
        prefix, name = variable[: len(_ENV_PREFIX)].upper(), variable[len(_ENV_PREFIX) :].upper()
        if prefix == _ENV_PREFIX and (name not in names or name == _SECRET_VARIABLE):
            nearest = difflib.get_close_matches(name, names, 1, 0.0)[0]
            meant = nearest if nearest == _SECRET_VARIABLE else _ENV_PREFIX + nearest
            yield f"{variable} is no setting and was ignored; did you mean {meant}?"


def hide_password(url: str) -> str:
    """Return a URL for people."""
    location = _PASSWORD.sub(r"\1***", url)
    parts = urlsplit(location)
    return location.replace(f":{parts.password}@", ":***@") if parts.password else location


def _check_secret(secret: str, where: str) -> None:
    if secret.lstrip().startswith(_PEM):
        raise SettingsError(
            f"the JWT secret {where} is a PEM key, and whoever has its public half could sign "
            f"tokens with that; this service signs with a shared secret: {_NEW_SECRET}"
        )
    if (size := len(secret.encode())) < _SHORTEST:
        raise SettingsError(
            f"the JWT secret {where} has {size} bytes and could be guessed; {_SHORTEST} are the "
            f"least. {_NEW_SECRET} makes a good one; tokens have to be made anew with it"
        )


def _read(file: Path, *, required: bool) -> Mapping[str, object]:
    try:
        return tomllib.loads(file.read_text())
    except FileNotFoundError:
        if required:
            raise SettingsError(f"there is no settings file {file}; check --config") from None
        return {}
    except PermissionError:
        raise SettingsError(f"settings file: {explain_denial(file)}") from None
    except OSError as error:
        raise SettingsError(f"settings file {file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"settings file {file} is not valid TOML: {error}") from None


def _explain(error: ErrorDetails, file: Path, fields: Sequence[str]) -> str:
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"unknown setting {name!r} in {file}; known are {', '.join(fields)}"
    problem = error["msg"].removeprefix("Value error, ")
    if not name:
        return problem
    variable = _SECRET_VARIABLE if name == "jwt_secret" else _ENV_PREFIX + name.upper()
    return f"setting {name}: {problem} (see the flags, {variable} and {file})"


def _is_safe(url: str) -> bool:
    """Whether a URL is encrypted or of this machine alone."""
    parts = urlsplit(url)
    return parts.scheme in {"https", "unix"} or is_local(f"{parts.hostname}:0")


def _is_of_one_user(uri: str) -> bool:
    parts = urlsplit(uri)
    return parts.scheme.partition("+")[0] == "test" or parts.path.endswith("/session")


def _credential() -> Path | None:
    """Return systemd's credential of this service, if it gave one.

    Source: systemd.exec(5), LoadCredential=.
    """
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    credential = Path(directory) / defaults.SECRET_FILE if directory else None
    return credential if credential and is_there(credential) else None


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
    except PermissionError:
        raise SettingsError(f"the JWT secret: {explain_denial(file)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the JWT secret in {file} cannot be read: {error}") from None
