"""``/devices`` of a fleet: lists from the database, everything else by the agent that has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Literal
from urllib.parse import quote, urlencode

import falcon
from pydantic import TypeAdapter, ValidationError

from hypeman_libvirt.devices.errors import BadRequestError
from hypeman_libvirt.hub import rules
from hypeman_libvirt.hub.agents import AgentAnswer, Call
from hypeman_libvirt.hub.forwarding import Forwarder
from hypeman_libvirt.hub.listing import Filter, Listing, ListPart
from hypeman_libvirt.hub.rest.callers import hosts_of
from hypeman_libvirt.rest.auth import Access
from hypeman_libvirt.rest.requests import caller_of, read_bytes, read_tags
from hypeman_libvirt.rest.responses import answer_written

MOST_AT_ONCE: Final = 1000
"""Devices of one page."""
_ACCESS: Final[Mapping[str, Access]] = {
    "GET": "device:read",
    "POST": "device:write",
    "PUT": "device:write",
    "PATCH": "device:write",
    "DELETE": "device:delete",
}
_PASSED_ON: Final = ("X-Stainless-Retry-Count", "X-Request-Id")
"""Headers of a request that mean something to the agent."""
_HANDED_BACK: Final = ("x-ignored-fields", "retry-after", "x-should-retry", "allow")
_BOOLEAN: Final[TypeAdapter[bool]] = TypeAdapter(bool)
_TYPE: Final[TypeAdapter[Literal["gpu", "pci"]]] = TypeAdapter(Literal["gpu", "pci"])
_LIMIT: Final[TypeAdapter[int]] = TypeAdapter(int)


class FleetDevices:
    """Lists devices of all hosts, and has them registered."""

    def __init__(self, listing: Listing, forwarder: Forwarder, max_body: int) -> None:
        """List from here and forward there; read bodies of at most so many bytes."""
        self._listing = listing
        self._forwarder = forwarder
        self._max_body = max_body

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List registered devices."""
        cursor, limit = read_page(req)
        chosen = read_filter(req, read_tags(req))
        _answer_page(req, resp, self._listing.list_devices(chosen, cursor, limit))

    def on_get_available(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List what can be passed through, registered or not."""
        cursor, limit = read_page(req)
        _answer_page(req, resp, self._listing.list_available(read_filter(req, {}), cursor, limit))

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Have a device registered by the agent of its host."""
        body = _read_object(read_bytes(req, self._max_body))
        device, host = _device_and_host(body)
        call = _call(req, "/devices", json.dumps(body).encode())  # what it was without the host
        allowed = hosts_of(req)
        if device is None:
            if host is None:
                raise BadRequestError("no host", hint="add host, the name of one of GET /hosts")
            answer, name = self._forwarder.to_host(host, call, allowed), host
        else:
            answer, name = self._forwarder.register(device, call, host, allowed)
        hand_back(resp, answer, name)

    def on_get_preflight(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Have an address checked before it is registered."""
        query = dict(req.params)
        address, host = rules.split_reference(str(query.get("pci_address", "")))
        owner = self._forwarder.host_with(address, host, hosts_of(req))
        path = f"/devices/preflight?{urlencode(query | {'pci_address': address})}"
        hand_back(resp, self._forwarder.to_host(owner.name, _call(req, path), hosts_of(req)))


class OneFleetDevice:
    """Reads a device, and forwards whatever is asked of it."""

    def __init__(self, listing: Listing, forwarder: Forwarder, max_body: int) -> None:
        """Look up here and forward there; read bodies of at most so many bytes."""
        self._listing = listing
        self._forwarder = forwarder
        self._max_body = max_body

    def on_get(self, req: falcon.Request, resp: falcon.Response, reference: str) -> None:
        """Describe a device as its agent reported it last."""
        found = self._listing.find(reference, hosts_of(req))
        answer_written(resp, self._listing.describe(found).encode())

    def on_patch(self, req: falcon.Request, resp: falcon.Response, reference: str) -> None:
        """Have it renamed, or its tags replaced."""
        self._forward(req, resp, reference, "")

    def on_delete(self, req: falcon.Request, resp: falcon.Response, reference: str) -> None:
        """Have it unregistered."""
        self._forward(req, resp, reference, "")

    def on_get_operation(
        self, req: falcon.Request, resp: falcon.Response, reference: str, operation: str
    ) -> None:
        """Have its agent asked something about it."""
        self._forward(req, resp, reference, f"/{operation}")

    on_post_operation = on_get_operation
    on_put_operation = on_get_operation
    on_delete_operation = on_get_operation

    def _forward(
        self, req: falcon.Request, resp: falcon.Response, reference: str, path: str
    ) -> None:
        body = b"" if req.method == "GET" else read_bytes(req, self._max_body)
        query = f"?{req.query_string}" if req.query_string else ""
        call = _call(req, path + query, body)
        answer, host = self._forwarder.to_owner(reference, call, caller_of(req), hosts_of(req))
        hand_back(resp, answer, host)


class OfOneHost:
    """What there is of each host alone, such as its IOMMU groups: its agent is asked."""

    def __init__(self, forwarder: Forwarder) -> None:
        """Forward there."""
        self._forwarder = forwarder

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Ask the host that the query names."""
        query = {name: str(value) for name, value in req.params.items()}
        host = _require_host(query.pop("host", None), "add ?host=")
        path = f"{req.path}?{urlencode(query)}" if query else req.path
        hand_back(resp, self._forwarder.to_host(host, _call(req, path), hosts_of(req)))

    def on_get_one(self, req: falcon.Request, resp: falcon.Response, number: str) -> None:
        """Ask for one IOMMU group: ``82@host``."""
        own, host = rules.split_reference(number)
        named = _require_host(host or req.get_param("host"), f"write {own[:20]}@HOST")
        call = _call(req, f"/iommu-groups/{quote(own, safe='')}")
        hand_back(resp, self._forwarder.to_host(named, call, hosts_of(req)))


def read_filter(req: falcon.Request, tags: Mapping[str, str]) -> Filter:
    """Read which devices a list is to be of.

    Raises:
        BadRequestError: A value cannot be one.
    """
    free = req.get_param("free")
    kind = req.get_param("type")
    return Filter(
        host=req.get_param("host"),
        type=None if kind is None else _read("type", kind, _TYPE),
        vendor_id=_lower(req.get_param("vendor_id")),
        device_id=_lower(req.get_param("device_id")),
        profile=req.get_param("profile"),
        is_free=None if free is None else _read("free", free, _BOOLEAN),
        tags=tags,
        hosts=hosts_of(req),
    )


def read_page(req: falcon.Request) -> tuple[str | None, int | None]:
    """Read cursor and limit.

    Raises:
        BadRequestError: The limit is no number of devices.
    """
    cursor, text = req.get_param("cursor"), req.get_param("limit")
    if text is None:
        return cursor, None if cursor is None else MOST_AT_ONCE
    limit = _read("limit", text, _LIMIT)
    if not 1 <= limit <= MOST_AT_ONCE:
        raise BadRequestError(f"limit {limit} is not between 1 and {MOST_AT_ONCE}")
    return cursor, limit


def hand_back(resp: falcon.Response, answer: AgentAnswer, host: str | None = None) -> None:
    """Answer what an agent has answered; a device with the name of its host."""
    resp.status = falcon.code_to_http_status(answer.status)
    body = answer.body
    if host is not None and answer.is_success and body and "id" in answer.read_json():
        body = json.dumps(answer.read_json() | {"host": host}).encode()
    if body:
        resp.content_type = answer.headers.get("content-type", falcon.MEDIA_JSON)
        resp.data = body
    for name in _HANDED_BACK:
        if name in answer.headers:
            resp.set_header(name, answer.headers[name])


def _require_host(host: str | None, hint: str) -> str:
    if host is None:
        raise BadRequestError(
            "this differs from host to host", hint=f"{hint}, with a name of GET /hosts"
        )
    return host


def _call(req: falcon.Request, path: str, body: bytes = b"") -> Call:
    given = {name: req.get_header(name) for name in _PASSED_ON}
    return Call(
        req.method,
        path,
        _ACCESS[req.method],
        caller_of(req).subject,
        body,
        {name: value for name, value in given.items() if value is not None},
    )


def _answer_page(req: falcon.Request, resp: falcon.Response, page: ListPart) -> None:
    answer_written(resp, f"[{','.join(page.bodies)}]".encode())
    if page.next is not None:
        query = {name: str(value) for name, value in req.params.items()} | {"cursor": page.next}
        resp.set_header("Link", f'<{req.path}?{urlencode(query)}>; rel="next"')


def _read_object(raw: bytes) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except ValueError:
        raise BadRequestError("the body is not JSON", hint="send a JSON object") from None
    if not isinstance(document, dict):
        raise BadRequestError("the body is not a JSON object")
    return document


def _device_and_host(body: dict[str, Any]) -> tuple[str | None, str | None]:
    """Take ``host`` and every ``@host`` out of a body; return what to register, and where."""
    host = body.pop("host", None)
    device = None
    for field in ("pci_address", "mdev_uuid", "parent"):
        if isinstance(body.get(field), str):
            body[field], named = rules.split_reference(body[field])
            host = named or host
            device = device or body[field]
    return device, host if isinstance(host, str) else None


def _read(name: str, text: str, shape: TypeAdapter[Any]) -> Any:  # noqa: ANN401 - of the shape
    try:
        return shape.validate_python(text)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise BadRequestError(f"{name}: {problem[:1].lower()}{problem[1:]}") from None


def _lower(text: str | None) -> str | None:
    return None if text is None else text.lower().removeprefix("0x")
