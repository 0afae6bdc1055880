"""No re-cabling of a machine gives a registration another's card: a hundred thousand machines."""

from __future__ import annotations

import os
from random import Random

import pytest

from tests.devices.recabling import Tally, play
from tests.trust.conftest import Figures

pytestmark = pytest.mark.trust

MACHINES = int(os.environ.get("HYPEMAN_LIBVIRT_TRUST_MACHINES", "100000"))
SEED = int(os.environ.get("HYPEMAN_LIBVIRT_TRUST_SEED", "0"))


def test_a_hundred_thousand_machines(figures: Figures) -> None:
    tally = Tally()
    for number in range(MACHINES):
        tally.add(play(Random(f"{SEED} {number}")))  # noqa: S311 - repeatable, no secret
        assert tally.wrong == 0, f"machine {number} of seed {SEED}"
    figures("re-cabling: machines", MACHINES)
    figures("re-cabling: verdicts", tally.asked)
    figures("re-cabling: where it was", tally.present)
    figures("re-cabling: followed", tally.follow)
    figures("re-cabling: left to the operator", tally.moved)
    figures("re-cabling: missing or changed", tally.gone)
    figures("re-cabling: twins that nothing readable tells apart", tally.unseen)
    figures("re-cabling: twins with their vendor's one serial", tally.cloned)
    figures("re-cabling: another's card", tally.wrong)
