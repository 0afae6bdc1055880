"""What agents send: an enrolment, then reports."""

from __future__ import annotations

import falcon
import structlog

from hypeman_libvirt.devices.errors import UnauthorizedError
from hypeman_libvirt.hub.hosts import Hosts
from hypeman_libvirt.hub.protocol import (
    HEARTBEAT,
    MAX_REPORT,
    Enrolled,
    Enrolment,
    Received,
    Report,
)
from hypeman_libvirt.hub.reports import Reports
from hypeman_libvirt.hub.tokens import TokenMaker
from hypeman_libvirt.rest.requests import read_body
from hypeman_libvirt.rest.responses import answer_with

_log = structlog.get_logger(__name__)


class AgentMessages:
    """Hears agents; they have keys of their own, and no token of the API."""

    def __init__(self, hosts: Hosts, reports: Reports, tokens: TokenMaker) -> None:
        """Store here what they say, and make secrets for those that enrol."""
        self._hosts = hosts
        self._reports = reports
        self._tokens = tokens

    def on_post_enrol(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Take an agent in, for a one-time token."""
        enrolment = read_body(req, resp, Enrolment, MAX_REPORT)
        host = self._hosts.enrol(enrolment)
        _log.info("enrolled", host=host.name, key=host.key, url=host.url)
        secret = self._tokens.secret_for(host.key, host.salt)
        answer_with(resp, Enrolled(name=host.name, secret=secret))

    def on_post_report(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Store what an agent says of its own host."""
        scheme, _, key = (req.get_header("Authorization") or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise UnauthorizedError("no key", hint="an agent sends its own as a bearer token")
        host = self._hosts.authenticate(key.strip())
        req.env["hypeman.subject"] = f"agent of {host.name}"
        report = read_body(req, resp, Report, MAX_REPORT)
        self._reports.receive(host, report)
        answer_with(resp, Received(sequence=report.sequence, heartbeat=HEARTBEAT))
