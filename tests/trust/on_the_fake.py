"""Imported first by a process that is to run on the fake libvirt, and by no test."""

from __future__ import annotations

import sys

from tests import fake_libvirt

sys.modules["libvirt"] = fake_libvirt
