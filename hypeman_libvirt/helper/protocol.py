"""What the service asks of the root helper, and what that answers: a line of JSON each way."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    ValidationError,
)

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.boot_rule import BootRule
from hypeman_libvirt.devices.errors import BadRequestError, InvalidPciAddressError

LONGEST_LINE: Final = 4096
"""Bytes of a request."""
LONGEST_ANSWER: Final = 1024 * 1024
"""Bytes of an answer: a boot rule for each function of a big host, or a config space in hex."""
_MOST_FUNCTIONS: Final = 0xFFFF
"""TotalVFs has 16 bit. Source: PCI Express Base Specification, section 9.3.3."""
_MOST_TYPE: Final = 0xFFFFFFFF


def _canonical(text: str) -> str:
    try:
        if str(PciAddress.parse(text)) == text:
            return text
    except InvalidPciAddressError as error:
        raise ValueError(error.message) from None
    raise ValueError("write the PCI address in lower case")


Address: TypeAlias = Annotated[str, AfterValidator(_canonical)]
"""A PCI address in the one form in which sysfs has it: it names no other file."""
HexId: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{4}$")]
Topology: TypeAlias = Annotated[
    str,
    Field(
        pattern=r"^pci[0-9a-f]{4,8}:[0-9a-f]{2}(/pci[0-9a-f]{4,8}:[0-9a-f]{2}|/[0-9a-f]{2}\.[0-7])+$"
    ),
    Field(max_length=512),
]
Count: TypeAlias = Annotated[int, Field(ge=0, le=_MOST_FUNCTIONS)]


class _Line(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class RuleBody(_Line):
    """A boot rule as it travels, and as it stands in the file of rules."""

    device: Address
    vendor_id: HexId
    device_id: HexId
    topology: Topology | None = None
    virtual_functions: Count | None = None
    autoprobe: bool = False

    @classmethod
    def of(cls, rule: BootRule) -> RuleBody:
        """Write a rule down."""
        return cls(
            device=str(rule.address),
            vendor_id=rule.vendor_id,
            device_id=rule.device_id,
            topology=rule.topology,
            virtual_functions=rule.virtual_functions,
            autoprobe=rule.autoprobe,
        )

    def rule(self) -> BootRule:
        """Return the rule."""
        return BootRule(
            address=PciAddress.parse(self.device),
            vendor_id=self.vendor_id,
            device_id=self.device_id,
            topology=self.topology,
            virtual_functions=self.virtual_functions,
            autoprobe=self.autoprobe,
        )


class SetVirtualFunctions(_Line):
    """Enable exactly so many virtual functions of a physical function."""

    verb: Literal["set_virtual_functions"] = "set_virtual_functions"
    device: Address
    count: Count
    autoprobe: bool


class SetVgpuType(_Line):
    """Make a vGPU of this type on a virtual function, or take it away: 0."""

    verb: Literal["set_vgpu_type"] = "set_vgpu_type"
    device: Address
    vgpu_type: Annotated[int, Field(ge=0, le=_MOST_TYPE)]


class WriteBootRule(_Line):
    """Have the host do this to a function at boot, in place of an earlier rule."""

    verb: Literal["write_boot_rule"] = "write_boot_rule"
    rule: RuleBody

    @property
    def device(self) -> str:
        """The function that it is about."""
        return self.rule.device


class ForgetBootRule(_Line):
    """Remove the boot rule of an address, if there is one."""

    verb: Literal["forget_boot_rule"] = "forget_boot_rule"
    device: Address


class ListBootRules(_Line):
    """List the boot rules."""

    verb: Literal["list_boot_rules"] = "list_boot_rules"


class ReadConfigSpace(_Line):
    """Read the whole config space, of which other users see 64 bytes."""

    verb: Literal["read_config_space"] = "read_config_space"
    device: Address


class RunReleaseHook(_Line):
    """Run the program that the operator wants run after a guest had the function."""

    verb: Literal["run_release_hook"] = "run_release_hook"
    device: Address


Request: TypeAlias = (
    SetVirtualFunctions
    | SetVgpuType
    | WriteBootRule
    | ForgetBootRule
    | ListBootRules
    | ReadConfigSpace
    | RunReleaseHook
)
_REQUEST: Final[TypeAdapter[Request]] = TypeAdapter(Annotated[Request, Field(discriminator="verb")])


class Problem(_Line):
    """Why a request was not done."""

    code: str
    message: str


class Answer(_Line):
    """The answer to a request: a problem, or what the verb returns."""

    problem: Problem | None = None
    result: JsonValue = None


def parse_request(line: bytes) -> Request:
    """Read a request.

    Raises:
        BadRequestError: It is none.
    """
    try:
        return _REQUEST.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))[:80] or "request"
        raise BadRequestError(f"{place}: {first['msg']}") from None


def write_line(body: Request | Answer) -> bytes:
    """Write a request or an answer as a line."""
    return body.model_dump_json().encode() + b"\n"
