"""Machines that are opened between boots, in which every card has an identity that nobody reads.

`play` registers cards, lets hands and firmware change the machine, and asks the rules where each
registration's card is. `Tally.wrong` counts cards that a registration was given though they are
not its own. A card that took another's place so that nothing readable differs is counted apart:
from then on the registration means that card, as the rules say.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.card import Markings, Verdict
from hypeman_libvirt.devices.fingerprint import Seen, confirm, fingerprint_all, update
from hypeman_libvirt.devices.identity import Known, judge
from hypeman_libvirt.devices.node_device import NodeDevice

Judge = Callable[[Collection[Known], Seen], Mapping[str, Verdict]]

Texts = tuple[str | None, ...]
CLONED = "MODEL-2335-A"
SLOTS = (
    "pci0000:00/01.0",
    "pci0000:00/02.0",
    "pci0000:00/03.0/00.0/00.0",
    "pci0000:00/03.0/00.0/01.0",
    "pci0000:00/03.0/00.0/02.0",
    "pci0000:80/01.0",
    "pci0000:80/02.0",
)


@dataclass(frozen=True)
class Model:
    vendor_id: str = "10de"
    device_id: str = "2330"
    functions: int = 1
    virtual_functions: int = 0
    vpd: str = ""
    """``own``, ``zeros``, ``cloned`` or nothing; so is the next."""
    pcie: str = ""
    subsystems: tuple[str, ...] = ("10de:16c1",)


MODELS = (
    Model(device_id="2330"),
    Model(device_id="2331", functions=2),
    Model(device_id="2332", vpd="own"),
    Model(device_id="2333", functions=2, pcie="own"),
    Model(device_id="2334", vpd="zeros", subsystems=("10de:0001", "1028:0002")),
    Model(device_id="2335", vpd="cloned"),
    Model("15b3", "101d", functions=2, virtual_functions=2, vpd="own", pcie="own"),
    Model("8086", "10c9", virtual_functions=3),
)


@dataclass(frozen=True)
class Card:
    """A piece of hardware; ``number`` is what nobody can read."""

    number: int
    model: Model
    subsystem: str

    def serial(self, kind: str) -> str | None:
        texts = {"own": f"SN{self.number:08d}X", "zeros": "0000000000", "cloned": CLONED}
        return texts.get(kind)


@dataclass
class Machine:
    """Slots, what is in them, and what the firmware makes of it at a boot."""

    random: Random
    local: bool
    slots: dict[str, Card | None] = field(default_factory=lambda: dict.fromkeys(SLOTS))
    shelf: list[Card] = field(default_factory=list)
    bridges: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SLOTS, 0))
    incarnations: dict[int, str] = field(default_factory=dict)
    virtual_functions: dict[int, int] = field(default_factory=dict)
    buses: dict[str, int] = field(default_factory=dict)
    boots: int = 0
    found: int = 0

    def boot(self) -> None:
        self.boots += 1
        self.incarnations.clear()
        self.virtual_functions.clear()
        bus, self.buses = 0, {}
        for slot in SLOTS:
            bus += 1 + self.bridges[slot]
            self.buses[slot] = bus
            bus += self.random.choice([0, 0, 0, 1]) if self.bridges[slot] else 0
        self.find()

    def find(self) -> None:
        """Number what the kernel has not seen yet."""
        for card in filter(None, self.slots.values()):
            if card.number not in self.incarnations:
                self.found += 1
                self.incarnations[card.number] = f"boot-{self.boots}:{self.found}"
                functions = self.random.randint(0, card.model.virtual_functions)
                self.virtual_functions[card.number] = functions

    def take_out(self) -> None:
        slot = self.random.choice(SLOTS)
        card, self.slots[slot] = self.slots[slot], None
        if card is not None:
            self.shelf.append(card)
            self.incarnations.pop(card.number, None)

    def put_in(self) -> None:
        free = [slot for slot in SLOTS if self.slots[slot] is None]
        if free and self.shelf:
            card = self.shelf.pop(self.random.randrange(len(self.shelf)))
            self.slots[self.random.choice(free)] = card

    def move(self) -> None:
        """Change what is in two slots, one of which may be empty."""
        one, other = self.random.sample(SLOTS, 2)
        self.slots[one], self.slots[other] = self.slots[other], self.slots[one]
        for card in (self.slots[one], self.slots[other]):
            if card is not None:
                self.incarnations.pop(card.number, None)

    def swap_twins(self) -> None:
        twins = [
            (one, other)
            for one, first in self.slots.items()
            for other, second in self.slots.items()
            if one < other and first and second and first.model == second.model
        ]
        if twins:
            one, other = self.random.choice(twins)
            self.slots[one], self.slots[other] = self.slots[other], self.slots[one]

    def shift(self) -> None:
        """Add a bridge, or take one away."""
        slot = self.random.choice(SLOTS)
        self.bridges[slot] = self.random.choice([0, 1, 2])

    def renumber(self) -> None:
        """Let the firmware call each slot by the next one's name, or by one that is new."""
        order = list(SLOTS)
        self.random.shuffle(order)
        self.slots = {slot: self.slots[other] for slot, other in zip(SLOTS, order, strict=True)}

    def change(self) -> None:
        """Open the machine, or just boot it again, or plug something in while it runs."""
        running = self.random.random() < 0.25
        if running:
            acts = [self.take_out, self.put_in]
        else:
            acts = [self.take_out, self.put_in, self.move, self.swap_twins, self.shift]
            acts += [self.renumber] if self.random.random() < 0.2 else []
        for _ in range(self.random.choice([0, 1, 1, 2, 2, 3])):
            self.random.choice(acts)()
        if running:
            self.find()
        else:
            self.boot()

    def read(self) -> list[tuple[NodeDevice, tuple[int, str]]]:
        """What can be read now, each with the card and the function that it is."""
        found = []
        for slot, card in self.slots.items():
            if card is not None:
                found += self._functions(slot, card)
        self.random.shuffle(found)
        return found

    def _functions(self, slot: str, card: Card) -> list[tuple[NodeDevice, tuple[int, str]]]:
        model, bus = card.model, self.buses[slot]
        virtual = [
            PciAddress(0, bus, 0x10, number)
            for number in range(self.virtual_functions[card.number])
        ]
        readable = self.random.random() < 0.8
        rooted = self.random.random() < 0.8
        physical = NodeDevice(
            node_name="",
            address=PciAddress(0, bus, 0, 0),
            vendor_id=model.vendor_id,
            device_id=model.device_id,
            class_code=0x030200,
            serial=card.serial(model.vpd) if readable else None,
            device_serial=card.serial(model.pcie) if self.local and rooted else None,
            subsystem=card.subsystem if self.local else None,
            topology=f"{slot}/00.0",
            incarnation=self.incarnations[card.number] if self.local else None,
            virtual_functions=tuple(virtual),
        )
        found = [
            (
                replace(
                    physical,
                    address=PciAddress(0, bus, 0, number),
                    topology=f"{slot}/00.{number}",
                    serial=physical.serial if number == 0 else None,
                    virtual_functions=physical.virtual_functions if number == 0 else (),
                    incarnation=physical.incarnation and f"{physical.incarnation}.{number}",
                ),
                (card.number, str(number)),
            )
            for number in range(model.functions)
        ]
        for number, address in enumerate(virtual):
            node = NodeDevice(
                node_name="",
                address=address,
                vendor_id=model.vendor_id,
                device_id=f"{int(model.device_id, 16) + 1:04x}",
                class_code=0x030200,
                topology=f"{slot}/10.{number}",
                physical_function=physical.address,
            )
            found.append((node, (card.number, f"virtual {number}")))
        return found


@dataclass
class Tally:
    """What became of registrations after the machine was changed.

    Attributes:
        asked: Registrations that were judged.
        present: Taken to be where they were.
        follow: Followed to another address.
        moved: Left to the operator.
        gone: ``missing`` or ``changed``.
        unseen: Given a card that took their own's place while nothing readable changed.
        cloned: Given a card by a serial that its vendor gives to all, of which no two were read.
        wrong: Given a card that is not theirs.
    """

    asked: int = 0
    present: int = 0
    follow: int = 0
    moved: int = 0
    gone: int = 0
    unseen: int = 0
    cloned: int = 0
    wrong: int = 0

    def add(self, other: Tally) -> None:
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass
class Owner:
    """A registration, what its card truly is, and the last host on which it was certain."""

    known: Known
    truth: tuple[int, str]
    then: Sequence[NodeDevice]
    knows_clones: bool = False


def play(random: Random, judge: Judge = judge, boots: int = 3) -> Tally:
    """Set up a machine, register what is in it, and change it several times."""
    machine = Machine(random, local=random.random() < 0.6)
    models = random.sample(MODELS, random.choice([1, 1, 2, 3]))
    for number in range(random.randint(1, 7)):
        model = random.choice(models)
        machine.shelf.append(Card(number, model, random.choice(model.subsystems)))
    for _ in range(random.randint(1, len(machine.shelf))):
        machine.put_in()
    machine.boot()
    owners: list[Owner] = []
    tally = Tally()
    _register(owners, machine, random, old=random.random() < 0.15)
    for _ in range(boots):
        machine.change()
        _follow(owners, machine, random, judge, tally)
        if random.random() < 0.3:
            _register(owners, machine, random, old=False)
    return tally


def _register(owners: list[Owner], machine: Machine, random: Random, *, old: bool) -> None:
    """Register some of what has no registration; ``old`` as 0.1 did, with ids and VPD alone."""
    now = machine.read()
    nodes = [node for node, _ in now]
    seen = fingerprint_all(nodes)
    for node, truth in now:
        taken = any(node.address == o.known.address or truth == o.truth for o in owners)
        if taken or random.random() < 0.3:
            continue
        fingerprint = seen[node.address]
        if old:
            fingerprint = replace(
                fingerprint,
                topology=None, card="", virtual_function=None,
                functions=frozenset(), family={}, incarnation=None,
                markings=Markings(vpd=fingerprint.markings.vpd),
            )  # fmt: skip
        known = Known(f"registration-{len(owners)}", node.address, fingerprint)
        owners.append(Owner(known, truth, nodes, _shows_clones(nodes)))


def _follow(
    owners: list[Owner], machine: Machine, random: Random, judge: Judge, tally: Tally
) -> None:
    """Judge, count, and do what the service does: follow, and move where the operator says."""
    now = machine.read()
    nodes = [node for node, _ in now]
    truths = {node.address: truth for node, truth in now}
    seen = fingerprint_all(nodes)
    verdicts = judge([owner.known for owner in owners], seen)
    given = [v.address for v in verdicts.values() if v.address is not None]
    tally.wrong += len(given) - len(set(given))
    for owner in owners:
        verdict = verdicts[owner.known.id]
        tally.asked += 1
        tally.present += verdict.state == "present"
        tally.follow += verdict.state == "follow"
        tally.moved += verdict.state == "moved"
        tally.gone += verdict.state in {"missing", "changed"}
        address = verdict.address
        if address is not None:
            if truths[address] != owner.truth:
                if _looks_untouched(owner, nodes, address):
                    tally.unseen += 1
                elif (
                    verdict.proof == "serial"
                    and not owner.knows_clones
                    and _is_clone(verdict, nodes)
                ):
                    tally.cloned += 1
                else:
                    tally.wrong += 1
                    return
                owner.truth = truths[address]
            fingerprint = update(owner.known.fingerprint, seen[address])
        elif verdict.state == "moved" and random.random() < 0.5:
            right = [a for a in verdict.candidates if truths[a] == owner.truth]
            if not right:
                continue
            address, fingerprint = right[0], confirm(owner.known.fingerprint, seen[right[0]])
        else:
            continue
        owner.known = Known(owner.known.id, address, fingerprint)
        owner.then = nodes
        owner.knows_clones |= _shows_clones(nodes)


def _looks_untouched(owner: Owner, nodes: Sequence[NodeDevice], address: PciAddress) -> bool:
    """Whether all that can be read of the model's cards is as it was, told without the rules."""
    topology = owner.known.fingerprint.topology
    given = _physical(nodes, address)
    after, before = _read_model(nodes, given), _read_model(owner.then, given)
    cards = {each[:-1] for each in after}
    if topology is None:
        return len(cards) == 1
    if given.topology != topology or before.keys() != after.keys():
        return False
    return not any(
        _differs(was, after[each]) or (len(cards) > 1 and _lost_serial(was, after[each]))
        for each, was in before.items()
    )


def _physical(nodes: Sequence[NodeDevice], address: PciAddress) -> NodeDevice:
    by_address = {node.address: node for node in nodes}
    node = by_address[address]
    return by_address[node.physical_function] if node.physical_function else node


def _differs(was: Texts, now: Texts) -> bool:
    return any(old and new and old != new for old, new in zip(was, now, strict=True))


def _lost_serial(was: Texts, now: Texts) -> bool:
    """Whether serials were read that tell cards apart, and none of them can be read now."""
    again = [new for old, new in zip(was[:2], now[:2], strict=True) if str(old).startswith("SN")]
    return bool(again) and not any(again)


def _is_clone(verdict: Verdict, nodes: Sequence[NodeDevice]) -> bool:
    given = [node for node in nodes if node.address == verdict.address]
    return given[0].serial == CLONED and not _shows_clones(nodes)


def _shows_clones(nodes: Sequence[NodeDevice]) -> bool:
    return sum(node.serial == CLONED for node in nodes) > 1


def _read_model(nodes: Sequence[NodeDevice], given: NodeDevice) -> dict[str, Texts]:
    """What can be read of each function of the model; its card's serials are its own, too."""
    firsts = {node.topology: node for node in nodes}
    return {
        str(node.topology): (
            node.serial or first.serial,
            node.device_serial or first.device_serial,
            node.subsystem,
        )
        for node in nodes
        if (node.vendor_id, node.device_id) == (given.vendor_id, given.device_id)
        and node.physical_function is None
        for first in [firsts[f"{str(node.topology)[:-1]}0"]]
    }
