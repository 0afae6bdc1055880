"""The service that commands ask: where it is, and its failures as exit statuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from hypeman_libvirt.cli.failures import complain
from hypeman_libvirt.cli.wording import in_flags
from hypeman_libvirt.defaults import BASE_URL

if TYPE_CHECKING:
    from hypeman_libvirt.cli.api_client import ApiClient

F = TypeVar("F", bound=Callable[..., Any])

BASE_URL_VARIABLE: Final = "HYPEMAN_BASE_URL"
API_KEY_VARIABLE: Final = "HYPEMAN_API_KEY"
_REFUSED: Final = 1
_WRONG_USAGE: Final = 2
_UNREACHABLE: Final = 3


@dataclass(frozen=True, slots=True)
class Service:
    """Where to ask, and as whom.

    Attributes:
        base_url: See ``endpoint.read_base_url``.
        api_key: Bearer token; None where none is asked for.
    """

    base_url: str
    api_key: str | None

    @contextmanager
    def asking(self) -> Iterator[ApiClient]:
        """Yield a client; end the command with the service's message where it refuses."""
        from hypeman_libvirt.cli.api_client import ApiClient, RefusedError, UnreachableError
        from hypeman_libvirt.endpoint import WrongBaseUrlError

        try:
            yield ApiClient(self.base_url, self.api_key, warn=complain)
        except RefusedError as error:
            complain(in_flags(str(error)))
            raise click.exceptions.Exit(_REFUSED) from error
        except WrongBaseUrlError as error:
            complain(f"--base-url: {error}")
            raise click.exceptions.Exit(_WRONG_USAGE) from error
        except UnreachableError as error:
            complain(str(error))
            raise click.exceptions.Exit(_UNREACHABLE) from error
        except KeyboardInterrupt:
            raise click.exceptions.Exit(0) from None


pass_service = click.make_pass_decorator(Service)


def service_options(command: F) -> F:
    """Add the options that say where the service is."""
    base_url = click.option(
        "--base-url",
        envvar=BASE_URL_VARIABLE,
        default=BASE_URL,
        show_default=True,
        show_envvar=True,
        help="Where the service is: http://host:port, host:port or unix:/path.",
    )
    api_key = click.option(
        "--api-key", envvar=API_KEY_VARIABLE, show_envvar=True, help="Bearer token."
    )
    return base_url(api_key(command))
