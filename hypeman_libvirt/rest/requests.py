"""What a request says: its body, its query, its caller; each mistake a clear 400."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Final, TypeVar

import falcon
import pydantic
import structlog
from pydantic_core import ErrorDetails, from_json

from hypeman_libvirt.devices.errors import (
    BadRequestError,
    ErrorDetail,
    InvalidTagsError,
    NotFoundError,
)
from hypeman_libvirt.devices.model import Caller, Scope
from hypeman_libvirt.devices.preflight import Asked
from hypeman_libvirt.rest.errors import PayloadTooLargeError, UnsupportedMediaTypeError

MAX_BODY: Final = 1024 * 1024
"""Bytes of a body; hypeman's clients send a few hundred."""

BodyT = TypeVar("BodyT", bound=pydantic.BaseModel)
IGNORED_FIELDS: Final = "X-Ignored-Fields"
_MOST_NAMES: Final = 10
_MOST_DETAILS: Final = 20
"""Problems of one body that an answer names."""
_LONGEST_NAME: Final = 40
"""Characters of a field's name that are repeated."""
_TOKEN: Final = re.compile(r"[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*")
_ASKED: Final[pydantic.TypeAdapter[Asked]] = pydantic.TypeAdapter(Asked)
_SCOPE: Final[pydantic.TypeAdapter[Scope | None]] = pydantic.TypeAdapter(Scope | None)
_GROUP_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_TAG_PARAMETER: Final = re.compile(r"tags\[([^\[\]]+)\]")

_log: Final = structlog.get_logger(__name__)
_RAW_PATHS: Final = ("REQUEST_URI", "RAW_URI")
"""Where servers put the path as it was sent: waitress, uWSGI, Apache; gunicorn, Falcon's client."""


def refuse_encoded_slash(req: falcon.Request) -> None:
    """Refuse ``%2F`` in the path: a server decodes it before a route is chosen.

    ``/devices/l4%2Fbind`` asks for a device of that name, which there cannot be, and came to the
    route of ``/devices/l4/bind``. A server that says nothing of the path as it was sent makes the
    two the same to whatever runs behind it.

    Raises:
        NotFoundError: There is one.
    """
    for name in _RAW_PATHS:
        path, _, _ = str(req.env.get(name, "")).partition("?")
        if "%2f" in path.lower():
            raise NotFoundError(
                "no such path: no id, name or address has a slash, %2F or otherwise",
                hint="GET /devices lists the devices",
            )


def read_body(
    req: falcon.Request,
    resp: falcon.Response,
    shape: type[BodyT],
    max_body: int,
    default: bytes = b"",
) -> BodyT:
    """Read the JSON object that an operation takes.

    Fields that it does not know are ignored, as hypeman does, and named in the log and in the
    answer's ``X-Ignored-Fields``.

    Args:
        req: Whose body.
        resp: Its answer.
        shape: What it must fit.
        max_body: Bytes that are read at most.
        default: Stands for a body that is absent.

    Raises:
        PayloadTooLargeError: More bytes than that.
        UnsupportedMediaTypeError: The content type is another than JSON.
        BadRequestError: Not JSON, no object, a field is missing or of another type.
    """
    raw = read_bytes(req, max_body) or default
    try:
        document = from_json(raw, allow_inf_nan=False)
    except ValueError:
        raise BadRequestError("the body is not JSON", hint="send a JSON object") from None
    if isinstance(document, dict) and (ignored := document.keys() - shape.model_fields.keys()):
        named = describe_ignored(sorted(ignored), shape.model_fields)
        resp.set_header(IGNORED_FIELDS, named)
        _log.warning("fields of the body are ignored", fields=named)
    try:
        return shape.model_validate(document)
    except pydantic.ValidationError as error:
        raise _misfit(error.errors(include_url=False, include_input=False)) from None


def read_bytes(req: falcon.Request, max_body: int) -> bytes:
    """Read a body that is declared as JSON, or none.

    Raises:
        PayloadTooLargeError: More bytes than that.
        UnsupportedMediaTypeError: The content type is another than JSON.
    """
    if (req.content_length or 0) > max_body:
        raise PayloadTooLargeError(
            f"the body has {req.content_length} bytes", hint=f"send at most {max_body}"
        )
    raw: bytes = req.bounded_stream.read(max_body)
    if raw and (req.content_type or "").partition(";")[0].strip().lower() != falcon.MEDIA_JSON:
        raise UnsupportedMediaTypeError(
            "the body is not declared as JSON", hint="send Content-Type: application/json"
        )
    return raw


def describe_ignored(names: Sequence[str], known: Iterable[str]) -> str:
    """Name fields for a header: ``pci_adress;nearest=pci_address, foo``; ten at most.

    Source: RFC 8941, section 3.1: a list with parameters; what is no token is a string.
    """
    described = [_as_item(name[:_LONGEST_NAME]) + _nearest(name, known) for name in names]
    more = [f"more;count={len(described) - _MOST_NAMES}"] if len(described) > _MOST_NAMES else []
    return ", ".join(described[:_MOST_NAMES] + more)


def _as_item(name: str) -> str:
    if _TOKEN.fullmatch(name):
        return name
    escaped = name.encode("unicode_escape").decode("ascii")
    return '"' + escaped.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _nearest(name: str, known: Iterable[str]) -> str:
    nearest = get_close_matches(name[:_LONGEST_NAME], list(known), n=1)
    return f";nearest={nearest[0]}" if nearest else ""


def _misfit(problems: list[ErrorDetails]) -> BadRequestError:
    described = [_describe(each) for each in problems[:_MOST_DETAILS]]
    if len(described) == 1:
        return BadRequestError(described[0])
    return BadRequestError(
        "the body does not fit", details=[ErrorDetail("bad_request", each) for each in described]
    )


def _describe(problem: ErrorDetails) -> str:
    field = ".".join(str(part)[:40] for part in problem["loc"])
    if not field:
        return "the body is not a JSON object"
    return f"{field}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"


def read_tags(req: falcon.Request) -> Mapping[str, str]:
    """Read ``tags[key]=value`` parameters; other parameters are no filter.

    Raises:
        InvalidTagsError: A parameter that starts like a tag is none, or comes twice.
    """
    tags = {}
    query = falcon.uri.parse_query_string(req.query_string, keep_blank=True)
    for parameter, value in query.items():
        if parameter == "tags" or parameter.startswith("tags["):
            match = _TAG_PARAMETER.fullmatch(parameter)
            if match is None or not isinstance(value, str):
                raise InvalidTagsError(
                    f"{parameter[:40]!r} is no tag filter", hint="write tags[key]=value, each once"
                )
            tags[match[1]] = value
    return tags


def read_scope(req: falcon.Request, parameter: str) -> Scope | None:
    """Read a parameter that is ``device`` or ``group``; None when absent.

    Raises:
        BadRequestError: It is something else.
    """
    try:
        return _SCOPE.validate_python(req.get_param(parameter))
    except pydantic.ValidationError:
        raise BadRequestError(f"{parameter} is neither device nor group") from None


def read_purpose(req: falcon.Request) -> Asked:
    """Read which operation a preflight is for: ``attach``, the default, or ``bind``.

    Raises:
        BadRequestError: It is something else.
    """
    try:
        return _ASKED.validate_python(req.get_param("for", default="attach"))
    except pydantic.ValidationError:
        raise BadRequestError("for is neither attach nor bind") from None


def read_group_number(text: str) -> int:
    """Read the number of an IOMMU group from a path.

    Raises:
        NotFoundError: No group can be called so.
    """
    if not _GROUP_NUMBER.fullmatch(text):
        raise NotFoundError(f"{text[:40]!r} is no IOMMU group", hint="GET /iommu-groups lists them")
    return int(text)


def is_retry(req: falcon.Request) -> bool:
    """Whether one of hypeman's SDKs says that it sent this request before.

    Source: Stainless, which generates them: ``X-Stainless-Retry-Count``.
    """
    count = req.get_header("X-Stainless-Retry-Count") or ""
    return count.isascii() and count.isdigit() and count.strip("0") != ""


def caller_of(req: falcon.Request) -> Caller:
    """Return whom the guard has let in."""
    caller: Caller = req.context.hypeman_caller
    return caller
