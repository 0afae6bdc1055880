"""Hub and agent over TLS, each with a certificate that the other checks."""

from __future__ import annotations

from pathlib import Path

import pytest

from hypeman_libvirt.devices.errors import HostUnreachableError
from hypeman_libvirt.hub.agents import Agents, Call
from hypeman_libvirt.hub.model import HostRecord
from hypeman_libvirt.hub.settings import HubSettings
from hypeman_libvirt.hub.tokens import TokenMaker
from hypeman_libvirt.server.tls import Tls
from hypeman_libvirt.settings import SettingsError
from hypeman_libvirt.tls import tls_context
from tests.server.running import running
from tests.server.test_server import answering
from tests.server.test_tls import certificates

__all__ = ["certificates"]
pytestmark = pytest.mark.fleet
LOOK = Call("GET", "/devices", "device:read", "ann")


def host_at(port: int) -> HostRecord:
    return HostRecord(
        key="alpha",
        name="alpha",
        url=f"https://localhost:{port}",
        salt="salt",
        version="0.1.0",
        seen_at=None,
        is_heard=True,
        agent_time=0.0,
        problem=None,
        drained_at=None,
        gone_at=None,
        duplicate_at=None,
    )


def test_an_agent_takes_hubs_with_a_certificate_alone(certificates: Path) -> None:
    ca = certificates / "ca.pem"
    tls = Tls(certificates / "server.pem", certificates / "server.key", ca)
    known = tls_context(ca, certificates / "client.pem", certificates / "client.key")
    tokens = TokenMaker("secret")
    with running(answering(b"[]"), server="granian", tls=tls) as agent:
        host = host_at(agent.port)
        assert Agents(tokens, known, 5.0).call(host, LOOK).body == b"[]"
        with pytest.raises(HostUnreachableError, match="alpha"):
            Agents(tokens, tls_context(ca), 5.0).call(host, LOOK)
        with pytest.raises(HostUnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
            Agents(tokens, tls_context(None), 5.0).call(host, LOOK)


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere"):
        tls_context(tmp_path / "nowhere.pem")
    with pytest.raises(ValueError, match="set both"):
        HubSettings(certificate=tmp_path / "x.pem")
