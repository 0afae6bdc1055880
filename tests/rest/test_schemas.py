"""Bodies in Python and in the document are the same."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import BaseModel

from hypeman_libvirt.devices import model, rules
from hypeman_libvirt.hub.rest import schemas as fleet
from hypeman_libvirt.rest import (
    resource_schemas,
    schemas,
    session_schemas,
    topology_schemas,
)
from tests.api.document import document, resolve

PAIRS: dict[str, type[BaseModel]] = {
    "AttachRequest": schemas.AttachBody,
    "Capabilities": resource_schemas.CapabilitiesOut,
    "CapabilitiesDefaultRuntime": resource_schemas.DefaultRuntimeOut,
    "CapabilitiesHost": resource_schemas.HostOut,
    "CapabilitiesImages": resource_schemas.ImagesOut,
    "CapabilitiesNetwork": resource_schemas.NetworkOut,
    "CapabilitiesRuntime": resource_schemas.RuntimeOut,
    "CapabilitiesServer": resource_schemas.ServerOut,
    "GPUProfile": resource_schemas.GpuProfileOut,
    "GPUResourceStatus": resource_schemas.GpuOut,
    "PassthroughDevice": resource_schemas.PassthroughGpuOut,
    "ResourceAllocation": resource_schemas.AllocationOut,
    "Instance": resource_schemas.InstanceOut,
    "ResourceStatus": resource_schemas.ResourceOut,
    "Resources": resource_schemas.ResourcesOut,
    "AvailableDevice": schemas.AvailableDeviceOut,
    "Claim": fleet.ClaimOut,
    "ClaimRequest": fleet.ClaimBody,
    "ClaimedDevice": fleet.ClaimedDeviceOut,
    "Host": fleet.FleetHostOut,
    "HostDetail": fleet.FleetHostDetailOut,
    "HostDevice": fleet.HostDeviceOut,
    "Invitation": fleet.InvitedOut,
    "InviteRequest": fleet.InviteBody,
    "UpdateHostRequest": fleet.UpdateHost,
    "UpdateDeviceRequest": schemas.UpdateDevice,
    "BindRequest": schemas.BindBody,
    "CreateDeviceRequest": schemas.CreateDevice,
    "Device": schemas.DeviceOut,
    "Health": schemas.HealthOut,
    "MoveDeviceRequest": schemas.MoveBody,
    "Error": schemas.ErrorOut,
    "ErrorDetail": schemas.ErrorDetailOut,
    "Event": schemas.EventOut,
    "IommuGroup": schemas.IommuGroupOut,
    "IommuGroupMember": schemas.GroupMemberOut,
    "Preflight": schemas.PreflightOut,
    "PreflightCheck": schemas.CheckOut,
    "Status": schemas.StatusOut,
    "UnbindRequest": schemas.UnbindBody,
    "VgpuProfile": schemas.VgpuProfileOut,
    "VirtualFunction": schemas.VirtualFunctionOut,
    "VirtualFunctions": schemas.VirtualFunctionsOut,
    "VirtualFunctionsRequest": schemas.VirtualFunctionsBody,
    "History": topology_schemas.HistoryOut,
    "HostFunction": topology_schemas.HostFunctionOut,
    "Session": session_schemas.SessionOut,
    "Topology": topology_schemas.TopologyOut,
}


def shape(schema: dict[str, Any], definitions: dict[str, Any]) -> object:
    """Reduce a schema to what both sides must agree on: types, values and fields."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return shape(definitions.get(name) or resolve(schema), definitions)
    branches = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if branches and "properties" not in schema:
        return frozenset().union(*(_as_set(shape(each, definitions)) for each in branches))
    return fields(schema, definitions) if "properties" in schema else leaf(schema, definitions)


def leaf(schema: dict[str, Any], definitions: dict[str, Any]) -> object:
    if "const" in schema or ("enum" in schema and schema.get("type") == "string"):
        return frozenset(schema.get("enum", [schema.get("const")]))
    if schema["type"] == "array":
        return frozenset({("array", _unwrapped(shape(schema["items"], definitions)))})
    if schema["type"] == "object":
        values = shape(schema["additionalProperties"], definitions)
        return frozenset({("object", _unwrapped(values))})
    return _as_set(schema["type"])


def fields(schema: dict[str, Any], definitions: dict[str, Any]) -> object:
    properties = {
        name: _unwrapped(shape(each, definitions)) for name, each in schema["properties"].items()
    }
    return (frozenset(properties.items()), frozenset(schema.get("required", [])))


def _as_set(kinds: object) -> frozenset[object]:
    if isinstance(kinds, list):
        return frozenset(kinds)
    return kinds if isinstance(kinds, frozenset) else frozenset({kinds})


def _unwrapped(kinds: object) -> object:
    return next(iter(kinds)) if isinstance(kinds, frozenset) and len(kinds) == 1 else kinds


@pytest.mark.parametrize("name", PAIRS)
def test_python_and_document_agree(name: str) -> None:
    in_python = PAIRS[name].model_json_schema(by_alias=True)
    in_document = document()["components"]["schemas"][name]
    definitions = in_python.get("$defs", {})
    assert shape(in_python, definitions) == shape(in_document, {})


def test_every_object_of_the_document_has_a_model() -> None:
    schemas_ = document()["components"]["schemas"]
    objects = {name for name, each in schemas_.items() if "properties" in each}
    assert objects == set(PAIRS)


def test_rules_and_document_agree() -> None:
    described = document()["components"]["schemas"]
    name = described["CreateDeviceRequest"]["properties"]["name"]
    assert set(name["not"]["anyOf"][0]["enum"]) == rules.RESERVED_NAMES
    assert name["maxLength"] == rules.MAX_NAME
    assert described["Tags"]["maxProperties"] == rules.MAX_TAGS
    assert set(described["Event"]["properties"]["type"]["enum"]) == set(get_args(model.EventType))
