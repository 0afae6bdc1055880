"""``/hosts``, and ``/resources`` and ``/capabilities`` of all of them."""

from __future__ import annotations

import json
from datetime import timedelta

import falcon

from hypeman_libvirt.devices.errors import NotFoundError
from hypeman_libvirt.hub import rules
from hypeman_libvirt.hub.hosts import Hosts
from hypeman_libvirt.hub.listing import Listing
from hypeman_libvirt.hub.rest.callers import hosts_of, require_all_hosts
from hypeman_libvirt.hub.rest.schemas import (
    FleetHostDetailOut,
    FleetHostOut,
    InviteBody,
    InvitedOut,
    UpdateHost,
)
from hypeman_libvirt.rest.requests import caller_of, read_body
from hypeman_libvirt.rest.responses import answer_with, answer_written


class FleetHosts:
    """Lists hosts, and invites new ones."""

    def __init__(self, hosts: Hosts, max_body: int) -> None:
        """Ask these; read bodies of at most so many bytes."""
        self._hosts = hosts
        self._max_body = max_body

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List the hosts; with ``?gone=true`` also those that were removed."""
        allowed = hosts_of(req)
        listed = self._hosts.list(with_gone=req.get_param_as_bool("gone") or False)
        visible = [each for each in listed if allowed is None or each.name in allowed]
        answer_with(resp, [FleetHostOut.of(each) for each in visible])

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Make a one-time token with which an agent enrols."""
        require_all_hosts(req)
        body = read_body(req, resp, InviteBody, self._max_body)
        token = self._hosts.invite(
            body.name,
            adopts=body.adopt,
            lifetime=timedelta(seconds=body.expires_in),
            by=caller_of(req).subject,
        )
        resp.status = falcon.HTTP_201
        answer_with(resp, InvitedOut(name=body.name, token=token))


class OneFleetHost:
    """Describes, drains and removes one host."""

    def __init__(self, hosts: Hosts, listing: Listing, max_body: int) -> None:
        """Ask these; read bodies of at most so many bytes."""
        self._hosts = hosts
        self._listing = listing
        self._max_body = max_body

    def on_get(self, req: falcon.Request, resp: falcon.Response, name: str) -> None:
        """Describe the host with its devices; one that is gone, by its key."""
        host = self._hosts.get(name)
        rules.check_host_allowed(host.name, hosts_of(req))
        devices = self._listing.inventory_of(host.key)
        answer_with(resp, FleetHostDetailOut.with_devices(host, list(devices)))

    def on_patch(self, req: falcon.Request, resp: falcon.Response, name: str) -> None:
        """Drain it, or use it again."""
        body = read_body(req, resp, UpdateHost, self._max_body)
        rules.check_host_allowed(self._hosts.get(name).name, hosts_of(req))
        answer_with(resp, FleetHostOut.of(self._hosts.drain(name, drained=body.drained)))

    def on_delete(self, req: falcon.Request, resp: falcon.Response, name: str) -> None:
        """Take it out of the fleet."""
        rules.check_host_allowed(self._hosts.get(name).name, hosts_of(req))
        self._hosts.remove(name)
        resp.status = falcon.HTTP_204


class FleetReports:
    """Says what the hosts have together."""

    def __init__(self, hosts: Hosts) -> None:
        """Ask these."""
        self._hosts = hosts

    def on_get_resources(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Add up what the hosts have."""
        require_all_hosts(req)
        summed = rules.sum_resources(self._hosts.reports_of("resources"))
        answer_written(resp, json.dumps(summed).encode())

    def on_get_capabilities(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Say what the hosts can do: what the first of them can."""
        reported = self._hosts.reports_of("capabilities")
        if not reported:
            raise NotFoundError("no host has reported yet", hint="POST /hosts invites one")
        answer_written(resp, json.dumps(reported[0]).encode())
