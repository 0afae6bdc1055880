"""The helper's socket, with real connections: who may ask, deadlines, and the client's half."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.boot_rule import BootRule
from hypeman_libvirt.devices.errors import (
    BusyError,
    DeviceNotFoundError,
    HelperFailedError,
    NotSupportedError,
    OperationTimeoutError,
)
from hypeman_libvirt.helper.actions import Actions
from hypeman_libvirt.helper.client import HelperClient, ask_over, refuse
from hypeman_libvirt.helper.main import passed_socket
from hypeman_libvirt.helper.protocol import Answer
from hypeman_libvirt.helper.responder import Peer, Responder
from hypeman_libvirt.helper.server import HelperLimits, HelperServer
from tests.helper.fake_kernel import GPU, NIC, FakeKernel

ME = os.getuid()
NIC_ADDRESS = PciAddress.parse(NIC)


class SlowKernel(FakeKernel):
    """A kernel whose write of a count does not return before ``let_go`` is set."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.let_go = threading.Event()
        self.is_writing = threading.Event()
        self.let_go.set()

    def write(self, path: Path, text: str) -> None:
        if path.name == "sriov_numvfs":
            self.is_writing.set()
            self.let_go.wait()
        super().write(path, text)


@pytest.fixture
def kernel(tmp_path: Path) -> SlowKernel:
    return SlowKernel(tmp_path / "host")


@contextmanager
def listening(
    kernel: FakeKernel, allowed: int = ME, deadline: float = 60.0, at_once: int = 16
) -> Iterator[Path]:
    """Serve until no one asks any more."""
    with tempfile.TemporaryDirectory() as directory:  # a socket's path is short
        path = Path(directory) / "helper.sock"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.listen()
        responder = Responder(Actions(kernel.root, write=kernel.write), {allowed}, deadline)
        server = HelperServer(listener, responder, HelperLimits(at_once=at_once, idle=0.05))
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                server.serve_until_idle()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield path
        finally:
            done.set()
            thread.join()
            listener.close()


def client(path: Path) -> HelperClient:
    return HelperClient(ask_over(path))


def test_what_the_client_asks_is_done(kernel: SlowKernel) -> None:
    rule = BootRule(PciAddress.parse(GPU), "10de", "27b8")
    with listening(kernel) as path:
        asking = client(path)
        asking.set_virtual_functions(NIC_ADDRESS, 2, autoprobe=True)
        asking.write_boot_rule(rule)
        assert asking.list_boot_rules() == [rule]
        asking.forget_boot_rule(rule.address)
        assert asking.list_boot_rules() == []
        assert len(asking.read_config_space(NIC_ADDRESS)) == 4096
    assert len(kernel.virtual_functions(NIC)) == 2


def test_a_refusal_comes_as_the_error_that_it_is(kernel: SlowKernel) -> None:
    with listening(kernel) as path:
        with pytest.raises(DeviceNotFoundError, match=r"no PCI device 0000:99:00\.0"):
            client(path).read_config_space(PciAddress.parse("0000:99:00.0"))
        with pytest.raises(NotSupportedError, match="makes no vGPUs"):
            client(path).set_vgpu_type(PciAddress.parse(GPU), 1)


def test_nobody_else_is_served(kernel: SlowKernel) -> None:
    with (
        listening(kernel, allowed=ME + 1) as path,
        pytest.raises(HelperFailedError, match=f"user id {ME} may not ask"),
    ):
        client(path).set_virtual_functions(NIC_ADDRESS, 2, autoprobe=False)
    assert kernel.writes == []


def test_a_write_that_does_not_return_is_answered_and_holds_up_its_card_alone(
    kernel: SlowKernel,
) -> None:
    kernel.let_go.clear()
    with listening(kernel, deadline=0.2) as path:
        asking = client(path)
        with pytest.raises(OperationTimeoutError, match="it goes on"):
            asking.set_virtual_functions(NIC_ADDRESS, 2, autoprobe=False)
        with pytest.raises(BusyError):
            asking.set_virtual_functions(NIC_ADDRESS, 0, autoprobe=False)
        assert asking.read_config_space(NIC_ADDRESS)
        kernel.let_go.set()
    assert kernel.text(NIC, "sriov_numvfs") == "2"


def test_too_many_clients_are_told_so(kernel: SlowKernel) -> None:
    with (
        listening(kernel, at_once=1) as path,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other,
    ):
        other.connect(str(path))
        with pytest.raises(BusyError):
            client(path).list_boot_rules()


def test_a_client_that_says_nothing_is_let_go(kernel: SlowKernel) -> None:
    with (
        listening(kernel) as path,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other,
    ):
        other.connect(str(path))
        other.shutdown(socket.SHUT_WR)
        answer = other.makefile("rb").readline()
        assert b"bad_request" in answer
        assert client(path).list_boot_rules() == []


def test_without_a_helper_the_client_says_how_to_start_it_and_what_it_would_do(
    tmp_path: Path,
) -> None:
    with pytest.raises(NotSupportedError) as error:
        client(tmp_path / "none.sock").set_virtual_functions(NIC_ADDRESS, 4, autoprobe=False)
    assert "systemctl enable --now hypeman-libvirt-helper.socket" in str(error.value)
    command = (
        f"cd /sys/bus/pci/devices/{NIC}; echo 0 > sriov_drivers_autoprobe; echo 0 > sriov_numvfs"
    )
    assert f"{command}; echo 4 > sriov_numvfs" in str(error.value)


def test_on_another_host_the_client_says_what_to_run_there() -> None:
    remote = HelperClient(refuse("the libvirt host is another machine"))
    asks: list[tuple[Callable[[], object], str]] = [
        (lambda: remote.set_vgpu_type(NIC_ADDRESS, 7), "echo 7 > "),
        (lambda: remote.write_boot_rule(BootRule(NIC_ADDRESS, "15b3", "101d")), "persist --show"),
        (lambda: remote.forget_boot_rule(NIC_ADDRESS), "70-hypeman-libvirt.rules"),
        (lambda: remote.read_config_space(NIC_ADDRESS), "lspci -s"),
        (lambda: remote.run_release_hook(NIC_ADDRESS), "on_release"),
    ]
    for ask, command in asks:
        with pytest.raises(NotSupportedError, match="another machine") as error:
            ask()
        assert command in str(error.value)


@pytest.mark.parametrize("said", [b"", b"no JSON\n", b'{"result": "zz"}\n', b'{"result": [1]}\n'])
def test_an_answer_that_is_none_is_a_failure_of_the_helper(said: bytes, tmp_path: Path) -> None:
    path = Path(os.path.relpath(tmp_path / "s"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        for ask in (
            client(path).list_boot_rules,
            lambda: client(path).read_config_space(NIC_ADDRESS),
        ):
            with pytest.raises(HelperFailedError):
                ask()
        thread.join()


def test_an_error_of_its_own_is_answered_and_logged(
    kernel: SlowKernel, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Actions):
        def perform(self, _request: object) -> None:
            raise RuntimeError("a fault")

    answer = Responder(Broken(kernel.root), {ME}).answer(b'{"verb":"list_boot_rules"}', Peer(1, ME))
    assert answer.problem is not None
    assert answer.problem.code == "helper_failed"
    assert "a fault" not in answer.problem.message
    assert "a fault" in caplog.text


def test_each_request_is_a_line_in_the_log(
    kernel: SlowKernel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    responder = Responder(Actions(kernel.root, write=kernel.write), {ME})
    assert responder.answer(b'{"verb":"list_boot_rules"}', Peer(7, ME)) == Answer(result=[])
    responder.answer(b"\x00\n\xff", Peer(7, ME))
    responder.answer(b'{"verb":"list_boot_rules"}', Peer(8, ME + 1))
    assert [record.getMessage() for record in caplog.records] == [
        f'uid={ME} pid=7 {{"verb":"list_boot_rules"}}: done',
        f"uid={ME} pid=7 b'\\x00\\n\\xff': bad_request",
        f'uid={ME + 1} pid=8 b\'{{"verb":"list_boot_rules"}}\': forbidden',
    ]


def test_a_socket_of_systemd_is_taken_only_where_it_is_for_this_process() -> None:
    assert passed_socket({}) is None
    assert passed_socket({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) is None
    assert passed_socket({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"}) is None
