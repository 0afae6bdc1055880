"""The image of the guest: Debian with libvirt, QEMU and a kernel, made once per recipe."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypeman_lab import sources
from hypeman_lab.errors import LabError
from hypeman_lab.process import run

CHOICES = ("stable", "backports")
_GUEST = Path(__file__).parent.parent / "guest"
_PACKAGES = (
    *("libvirt-daemon-system", "libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-clients"),
    *("qemu-system-x86", "qemu-utils", "linux-image-amd64", "busybox-static", "kmod", "udev"),
    *("iproute2", "pciutils", "procps", "python3", "python3-libvirt", "python3-lxml"),
    *("mdevctl", "python3-venv", "lvm2", "cryptsetup-bin", "mdadm"),
)
# Of the kernel's modules these are most of the megabytes, and no device of the lab needs them.
_MODULES = "/lib/modules/*/kernel"
_LEFT_OUT = (
    *(f"/usr/share/{directory}/*" for directory in ("doc", "info", "locale", "man")),
    *(f"{_MODULES}/drivers/{kind}/*" for kind in ("iio", "infiniband", "media", "staging")),
    *(f"{_MODULES}/drivers/{kind}/*" for kind in ("gpu/drm/amd", "net/wireless")),
)
# A compiler without the rest of a system: mmdebstrap only unpacks these.
_COMPILER = ("gcc-12", "make", "bash", "dash", "coreutils", "findutils", "grep", "mawk", "sed")
_ROOT_DISK_MODULES = ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic")


def cache() -> Path:
    """Return the directory of all images, outside the checkout."""
    if own := os.environ.get("HYPEMAN_LIBVIRT_LAB_CACHE"):
        return Path(own)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "hypeman-libvirt" / "lab"


def directory(libvirt: str = "stable") -> Path:
    """Return where the image of the present recipe is, or will be."""
    if libvirt not in CHOICES:
        raise LabError(f"libvirt is one of {', '.join(CHOICES)}, not {libvirt!r}")
    recipe = [*sorted(_GUEST.iterdir()), Path(__file__), Path(sources.__file__)]
    digest = hashlib.sha256()
    for path in recipe:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return cache() / f"{libvirt}-{digest.hexdigest()[:16]}"


def build(libvirt: str = "stable") -> Path:
    """Return the directory of the image, making it when this recipe has none yet.

    An image appears whole or not at all, and only one process makes it.

    Raises:
        LabError: a step failed; the message holds its last lines.
    """
    final = directory(libvirt)
    final.parent.mkdir(parents=True, exist_ok=True)
    with _locked(final.with_suffix(".lock")):
        if not final.exists():
            with _partial(final) as partial:
                _make(partial, libvirt)
    return final


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _partial(final: Path) -> Iterator[Path]:
    """Give a directory that becomes `final` if the block succeeds, and is removed if not."""
    partial = final.with_suffix(".partial")
    _remove(partial)  # of a build that was killed
    partial.mkdir()
    try:
        yield partial
        partial.rename(final)
    except BaseException:
        _remove(partial)
        raise


def _remove(tree: Path) -> None:
    run("rm", "-rf", "--one-file-system", tree)


def _make(target: Path, libvirt: str) -> None:
    root = target / "root"
    lines = sources.lines(libvirt)
    _install_packages(root, libvirt, lines)
    kernel = next((root / "lib/modules").iterdir()).name
    _compile_modules(root, kernel, lines)
    _configure(root)
    shutil.copy(root / f"boot/vmlinuz-{kernel}", target / "vmlinuz")
    _make_initramfs(root, kernel, target / "initramfs.cpio")
    _make_nested(root, target / "vmlinuz")
    _make_disk(root, target / "disk.raw")
    _remove(root)


def _install_packages(root: Path, libvirt: str, lines: list[str]) -> None:
    pin = f"""mkdir -p "$1/etc/apt/preferences.d"
    cp '{_GUEST}/backports.pref' "$1/etc/apt/preferences.d" """
    run(
        *("mmdebstrap", "--mode=root", "--variant=minbase", "--quiet"),
        f"--include={','.join(_PACKAGES)}",
        "--aptopt=APT::Install-Recommends false",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT),
        *([f"--setup-hook={pin}"] if libvirt == "backports" else []),
        *(sources.SUITE, str(root), *lines),
    )


def _compile_modules(root: Path, kernel: str, lines: list[str]) -> None:
    """Build the modules with the compiler of the guest's kernel, whatever this machine has."""
    target = root / f"lib/modules/{kernel}/extra"
    target.mkdir()
    script = f"""set -e
    mkdir "$1/module"
    cp '{_GUEST}'/*.c "$1/module"
    echo 'obj-m := vlab_mdev.o vlab_pci.o vlab_vgpu.o' > "$1/module/Makefile"
    ln -s mawk "$1/usr/bin/awk"
    chroot "$1" make -s -C '/usr/src/linux-headers-{kernel}' M=/module modules >&2
    cp "$1"/module/*.ko '{target}'"""
    run(
        *("mmdebstrap", "--mode=root", "--variant=extract", "--format=null", "--quiet"),
        f"--include={','.join([*_COMPILER, f'linux-headers-{kernel}'])}",
        f"--extract-hook={script}",
        *(sources.SUITE, "-", *lines),
    )
    run("depmod", "-b", root, kernel)


def _configure(root: Path) -> None:
    for tool in ("lab-init", "lab-libvirtd"):
        shutil.copy(_GUEST / tool, root / "sbin" / tool)
    shutil.copy(_GUEST / "libvirtd.conf", root / "etc/libvirt/libvirtd.conf")
    texts = {
        "etc/hostname": "lab\n",
        "etc/hosts": "127.0.0.1 localhost lab\n",
        "etc/fstab": "",
        "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
        # It would take the devices that vlab_pci shows as NVIDIA's.
        "etc/modprobe.d/lab.conf": "blacklist nouveau\n",
    }
    for name, text in texts.items():
        (root / name).write_text(text)
    (root / "etc/libvirt/qemu/networks/autostart/default.xml").unlink(missing_ok=True)


def _make_initramfs(root: Path, kernel: str, target: Path) -> None:
    tree = _busybox_tree(root, target.with_suffix(".tree"), "initramfs-init")
    show = ("modprobe", "-d", root, "-S", kernel, "--show-depends", "--all", *_ROOT_DISK_MODULES)
    paths = [
        Path(words[1]) for words in map(str.split, run(*show).splitlines()) if words[0] == "insmod"
    ]
    for path in paths:
        shutil.copy(path, tree / path.name)
    (tree / "modules").write_text("".join(f"/{path.name}\n" for path in dict.fromkeys(paths)))
    _archive(tree, target)


def _make_nested(root: Path, kernel: Path) -> None:
    """Lay a kernel and a tiny initramfs into the guest, for the domains that run inside it."""
    target = root / "var/lib/lab"
    target.mkdir()
    shutil.copy(kernel, target / "vmlinuz")
    _archive(_busybox_tree(root, target / "tree", "nested-init"), target / "nested.cpio")


def _busybox_tree(root: Path, tree: Path, init: str) -> Path:
    for name in ("bin", "dev", "proc", "root", "sys"):
        (tree / name).mkdir(parents=True)
    shutil.copy(root / "bin/busybox", tree / "bin/busybox")
    shutil.copy(_GUEST / init, tree / "init")
    return tree


def _archive(tree: Path, target: Path) -> None:
    names = "".join(f"{path.relative_to(tree)}\n" for path in sorted(tree.rglob("*")))
    run("cpio", "--create", "--format=newc", "--quiet", "-F", target, stdin=names, cwd=tree)
    _remove(tree)


def _make_disk(root: Path, target: Path) -> None:
    """Fill a file system straight from the directory: no mount, no loop device."""
    with target.open("wb") as file:
        file.truncate(3 << 30)
    features = "^has_journal,^metadata_csum"
    options = ("-q", "-F", "-m", "0", "-O", features, "-E", "lazy_itable_init=1,root_owner=0:0")
    run("mkfs.ext4", *options, "-d", root, target)
