"""A fingerprint as JSON. Keys are added, never renamed: older registries keep theirs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from hypeman_libvirt.devices.card import Fingerprint, Markings

_log: Final = logging.getLogger(__name__)


def write_fingerprint(fingerprint: Fingerprint | None) -> Mapping[str, Any] | None:
    """Return what goes into the column."""
    if fingerprint is None:
        return None
    return asdict(fingerprint) | {"functions": sorted(fingerprint.functions)}


def read_fingerprint(column: Any, registration_id: str) -> Fingerprint | None:  # noqa: ANN401 - JSON
    """Read the column; None for a registration of 0.1.

    A damaged one is nothing that could be trusted: its card is asked for again.
    """
    if column is None:
        return None
    try:
        return Fingerprint(
            **column
            | {
                "markings": Markings(**column["markings"]),
                "functions": frozenset(column["functions"]),
                "family": {each: Markings(**is_) for each, is_ in column["family"].items()},
            }
        )
    except (TypeError, KeyError, AttributeError) as error:
        _log.warning("the fingerprint of device %s is damaged: %r", registration_id, error)
        return _DAMAGED


_DAMAGED: Final = Fingerprint(vendor_id="", device_id="", topology="")
"""No card has it."""
