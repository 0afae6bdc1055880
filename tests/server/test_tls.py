"""TLS without a proxy."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from hypeman_libvirt.server.serve import serve
from hypeman_libvirt.server.tls import Tls, read_tls
from hypeman_libvirt.settings import Settings, SettingsError, load_settings
from tests.server.running import RunningServer
from tests.server.test_server import answering

Start = Callable[..., RunningServer]
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture
def server() -> str:
    return "granian"


def run_openssl(directory: Path, *arguments: str) -> None:
    command = ["openssl", *arguments]
    subprocess.run(command, cwd=directory, check=True, capture_output=True)  # noqa: S603 - a tool


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an authority, and a certificate of it for a server and one for a client."""
    directory = tmp_path_factory.mktemp("tls")

    new_key = ("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost")
    authority = ("-x509", "-days", "2", "-addext", "keyUsage=critical,keyCertSign")
    run_openssl(directory, *new_key, *authority, "-keyout", "ca.key", "-out", "ca.pem")
    # Python 3.13 wants both the key usage and this identifier, as RFC 5280 does.
    (directory / "names").write_text("subjectAltName=DNS:localhost\nauthorityKeyIdentifier=keyid")
    for name in ("server", "client"):
        run_openssl(directory, *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names")
        run_openssl(directory, "x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
    return directory


def trusting(directory: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=directory / "ca.pem")


def ask(server: RunningServer, context: ssl.SSLContext) -> bytes:
    with (
        server.connect() as plain,
        context.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        client.sendall(REQUEST)
        return client.makefile("rb").read()


def test_it_speaks_tls(start: Start, certificates: Path) -> None:
    tls = Tls(certificates / "server.pem", certificates / "server.key")
    answer = ask(start(answering(b"hello"), tls=tls), trusting(certificates))
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b"\r\n\r\nhello")


def test_only_clients_of_the_authority_may_connect(start: Start, certificates: Path) -> None:
    ca = certificates / "ca.pem"
    tls = Tls(certificates / "server.pem", certificates / "server.key", ca)
    running = start(answering(b"hello"), tls=tls)
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
        ask(running, trusting(certificates))
    known = trusting(certificates)
    known.load_cert_chain(certificates / "client.pem", certificates / "client.key")
    assert ask(running, known).endswith(b"\r\n\r\nhello")


def test_files_that_do_not_fit_are_named_before_the_start(certificates: Path) -> None:
    settings = Settings(tls_cert=certificates / "server.pem", tls_key=certificates / "client.key")
    with pytest.raises(SettingsError, match=r"tls_cert .* and tls_key .* cannot be used"):
        read_tls(settings)
    settings = Settings(
        tls_cert=certificates / "server.pem",
        tls_key=certificates / "server.key",
        tls_client_ca=certificates / "names",
    )
    with pytest.raises(SettingsError, match=r"tls_client_ca .* cannot be used"):
        read_tls(settings)


def test_a_key_with_a_passphrase_is_refused(certificates: Path) -> None:
    locked = certificates / "locked.key"
    flags = ["-aes128", "-passout", "pass:word", "-in", "server.key", "-out", "locked.key"]
    run_openssl(certificates, "rsa", *flags)
    settings = Settings(tls_cert=certificates / "server.pem", tls_key=locked)
    with pytest.raises(SettingsError, match="the key has no passphrase"):
        read_tls(settings)


@pytest.mark.parametrize("name", ["tls_cert", "tls_key", "tls_client_ca"])
def test_half_of_tls_is_no_setting(name: str) -> None:
    with pytest.raises(SettingsError, match=r"tls_cert and tls_key"):
        load_settings(None, {name: "file"})


def test_waitress_speaks_no_tls(certificates: Path, tmp_path: Path) -> None:
    settings = Settings(
        server="waitress",
        tls_cert=certificates / "server.pem",
        tls_key=certificates / "server.key",
        jwt_secret=SecretStr("s" * 32),
        registry=str(tmp_path / "registry.db"),
    )
    with pytest.raises(SettingsError, match="waitress does not speak TLS"):
        serve(settings)
    assert not (tmp_path / "registry.db").exists()
