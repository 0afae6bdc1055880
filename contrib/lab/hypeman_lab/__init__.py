"""A virtual machine with an emulated IOMMU, a real libvirtd and real vfio-pci."""

from hypeman_lab.errors import LabError
from hypeman_lab.image import build
from hypeman_lab.lab import Lab
from hypeman_lab.needs import install_missing, missing

__all__ = ["Lab", "LabError", "build", "install_missing", "missing"]
