"""``/devices``: registered devices, and those that could be."""

from __future__ import annotations

import falcon

from hypeman_libvirt.devices.domain import GuestInterface
from hypeman_libvirt.devices.errors import BadRequestError
from hypeman_libvirt.devices.model import Caller, Device
from hypeman_libvirt.devices.service import DeviceService
from hypeman_libvirt.rest.requests import caller_of, read_body, read_purpose, read_scope, read_tags
from hypeman_libvirt.rest.responses import (
    answer_with,
    answer_written,
    write_available,
    write_devices,
)
from hypeman_libvirt.rest.schemas import (
    AttachBody,
    BindBody,
    CreateDevice,
    DeviceOut,
    MoveBody,
    PreflightOut,
    UnbindBody,
    UpdateDevice,
    VgpuProfileOut,
    VirtualFunctionsBody,
    VirtualFunctionsOut,
)


class Devices:
    """Registers and lists devices."""

    def __init__(self, service: DeviceService, max_body: int) -> None:
        """Ask this service; read bodies of at most so many bytes."""
        self._service = service
        self._max_body = max_body
        self._devices, self._available = write_devices(), write_available()

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Register a device for passthrough."""
        body = read_body(req, resp, CreateDevice, self._max_body)
        device = self._create(body, caller_of(req))
        resp.status = falcon.HTTP_201
        answer_with(resp, DeviceOut.of(device))

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List registered devices, by tags if there are any in the query."""
        devices = self._service.inventory.list_devices(read_tags(req))
        answer_written(resp, self._devices.write_all(devices))

    def on_get_available(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """List what can be passed through, registered or not."""
        available = self._service.inventory.list_available()
        answer_written(resp, self._available.write_all(available))

    def on_get_profiles(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """List the vGPU profiles that the GPUs offer."""
        profiles = self._service.list_profiles()
        answer_with(resp, [VgpuProfileOut.of(each) for each in profiles])

    def on_get_preflight(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check what is at an address before it is registered."""
        address = req.get_param("pci_address")
        if address is None:
            raise BadRequestError(
                "no address", hint="add ?pci_address=, such as ?pci_address=0000:a2:00.0"
            )
        preflight = self._service.preflight.of_address(
            address,
            req.get_param("instance"),
            read_scope(req, "scope") or "device",
            read_purpose(req),
        )
        answer_with(resp, PreflightOut.of(preflight))

    def _create(self, body: CreateDevice, caller: Caller) -> Device:
        """Register a PCI device or a mediated device, or make a vGPU."""
        named = body.model_fields_set & {"pci_address", "mdev_uuid", "profile"}
        if not named:
            raise BadRequestError(
                "pci_address: field required", hint="or mdev_uuid, or profile for a new vGPU"
            )
        if len(named) > 1:
            raise BadRequestError("give one of pci_address, mdev_uuid and profile")
        name, tags = body.name, body.tags or {}
        if "pci_address" in named:
            return self._service.register(
                body.pci_address,
                name,
                tags,
                caller,
                body.bind,
                require_clean=body.require_clean,
                persist=body.persist,
            )
        if "mdev_uuid" in named:
            return self._service.register_mdev(body.mdev_uuid, name, tags, caller)
        return self._service.create_vgpu(
            body.profile,
            name,
            tags,
            caller,
            parent=body.parent,
            numa_node=body.numa_node,
            persist=body.persist,
        )


class OneDevice:
    """Reads, moves and unregisters one registered device.

    ``reference`` is its id, name, PCI address or libvirt's node device name.
    """

    def __init__(self, service: DeviceService, max_body: int) -> None:
        """Ask this service; read bodies of at most so many bytes."""
        self._service = service
        self._max_body = max_body
        self._written = write_devices()

    def on_get(self, _req: falcon.Request, resp: falcon.Response, reference: str) -> None:
        """Describe the device."""
        answer_written(resp, self._written.write(self._service.inventory.get(reference)))

    def on_delete(self, req: falcon.Request, resp: falcon.Response, reference: str) -> None:
        """Unregister the device."""
        self._service.unregister(reference, caller_of(req), read_scope(req, "unbind"))
        resp.status = falcon.HTTP_204

    def on_patch(self, req: falcon.Request, resp: falcon.Response, reference: str) -> None:
        """Rename the device, or replace its tags."""
        body = read_body(req, resp, UpdateDevice, self._max_body)
        device = self._service.relabel(reference, body.name, body.tags, caller_of(req))
        self._answer(resp, device)

    def on_post_move(self, req: falcon.Request, resp: falcon.Response, reference: str) -> None:
        """Take the card at an address for the registered one."""
        body = read_body(req, resp, MoveBody, self._max_body)
        self._answer(resp, self._service.move(reference, body.pci_address, caller_of(req)))

    def on_post_clear(self, req: falcon.Request, resp: falcon.Response, reference: str) -> None:
        """End the device's quarantine."""
        self._answer(resp, self._service.clear(reference, caller_of(req)))

    def on_post_bind(self, req: falcon.Request, resp: falcon.Response, reference: str) -> None:
        """Give the device to vfio-pci."""
        body = read_body(req, resp, BindBody, self._max_body, default=b"{}")
        device = self._service.bind(
            reference, body.scope, caller_of(req), force=body.force, persist=body.persist
        )
        self._answer(resp, device)

    def on_post_unbind(self, req: falcon.Request, resp: falcon.Response, reference: str) -> None:
        """Give the device back to its host driver."""
        body = read_body(req, resp, UnbindBody, self._max_body, default=b"{}")
        self._answer(resp, self._service.unbind(reference, body.scope, caller_of(req)))

    def on_post_attach(self, req: falcon.Request, resp: falcon.Response, reference: str) -> None:
        """Give the device to an instance."""
        body = read_body(req, resp, AttachBody, self._max_body)
        interface = None
        if body.mac is not None or body.vlan is not None:
            interface = GuestInterface(body.mac and body.mac.lower(), body.vlan)
        device = self._service.attach(
            reference,
            body.instance,
            body.scope,
            caller_of(req),
            force=body.force,
            interface=interface,
        )
        self._answer(resp, device)

    def on_post_detach(self, req: falcon.Request, resp: falcon.Response, reference: str) -> None:
        """Take the device out of the instance that holds it."""
        self._answer(resp, self._service.detach(reference, caller_of(req)))

    def on_get_preflight(self, req: falcon.Request, resp: falcon.Response, reference: str) -> None:
        """Say whether passthrough would work."""
        preflight = self._service.preflight.of_device(
            reference,
            req.get_param("instance"),
            read_scope(req, "scope") or "device",
            read_purpose(req),
        )
        answer_with(resp, PreflightOut.of(preflight))

    def on_get_hostdev(self, req: falcon.Request, resp: falcon.Response, reference: str) -> None:
        """Write what ``virsh attach-device`` takes."""
        scope = read_scope(req, "scope") or "device"
        resp.content_type = falcon.MEDIA_XML
        resp.text = self._service.inventory.hostdev_xml(reference, scope)

    def on_get_virtual_functions(
        self, _req: falcon.Request, resp: falcon.Response, reference: str
    ) -> None:
        """List the virtual functions of a physical function."""
        report = self._service.virtual_functions.read(reference)
        answer_with(resp, VirtualFunctionsOut.of(report))

    def on_put_virtual_functions(
        self, req: falcon.Request, resp: falcon.Response, reference: str
    ) -> None:
        """Make exactly so many virtual functions."""
        body = read_body(req, resp, VirtualFunctionsBody, self._max_body)
        report = self._service.virtual_functions.set(
            reference, body.count, caller_of(req), autoprobe=body.autoprobe, persist=body.persist
        )
        answer_with(resp, VirtualFunctionsOut.of(report))

    def _answer(self, resp: falcon.Response, device: Device) -> None:
        answer_with(resp, DeviceOut.of(device))
