"""Images that pools may name, and the node agents that go with them (contract 9.6).

All that is Linux runs on whatever Linux the node has; the list is there because clients pick an image by its name. They look among
the verified ones only, so these are all that a pool gets nodes for; Windows images are there to be found, and unverified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from batchyard.model.account import NodeAgentSku, SupportedImage
from batchyard.model.virtual_machine import ImageReference, VirtualMachineConfiguration
from batchyard.model.words import ImageVerificationType, OSType

_UBUNTU, _DEBIAN, _EL = "batch.node.ubuntu {}", "batch.node.debian {}", "batch.node.el {}"
_WINDOWS = "windows"
WINDOWS_AGENT = "batch.node.windows amd64"
_WINDOWS_SERVER = ("microsoftwindowsserver", "windowsserver")

_ROWS: Sequence[tuple[str, str, str, str]] = (
    # publisher, offer, sku, node agent
    ("canonical", "ubuntu-24_04-lts", "server", _UBUNTU.format("24.04")),
    ("canonical", "ubuntu-24_04-lts", "server-gen1", _UBUNTU.format("24.04")),
    ("canonical", "0001-com-ubuntu-server-noble", "24_04-lts", _UBUNTU.format("24.04")),
    ("canonical", "0001-com-ubuntu-server-noble", "24_04-lts-gen2", _UBUNTU.format("24.04")),
    ("canonical", "ubuntu-22_04-lts", "server", _UBUNTU.format("22.04")),
    ("canonical", "ubuntu-22_04-lts", "server-gen1", _UBUNTU.format("22.04")),
    ("canonical", "0001-com-ubuntu-server-jammy", "22_04-lts", _UBUNTU.format("22.04")),
    ("canonical", "0001-com-ubuntu-server-jammy", "22_04-lts-gen2", _UBUNTU.format("22.04")),
    ("canonical", "ubuntu-20_04-lts", "server", _UBUNTU.format("20.04")),
    ("canonical", "0001-com-ubuntu-server-focal", "20_04-lts", _UBUNTU.format("20.04")),
    ("canonical", "0001-com-ubuntu-server-focal", "20_04-lts-gen2", _UBUNTU.format("20.04")),
    ("debian", "debian-11", "11", _DEBIAN.format("11")),
    ("debian", "debian-11", "11-gen2", _DEBIAN.format("11")),
    ("debian", "debian-12", "12", _DEBIAN.format("12")),
    ("debian", "debian-12", "12-gen2", _DEBIAN.format("12")),
    ("almalinux", "almalinux-x86_64", "8-gen1", _EL.format("8")),
    ("almalinux", "almalinux-x86_64", "8-gen2", _EL.format("8")),
    ("almalinux", "almalinux-x86_64", "9-gen1", _EL.format("9")),
    ("almalinux", "almalinux-x86_64", "9-gen2", _EL.format("9")),
    ("almalinux", "almalinux", "8-gen1", _EL.format("8")),
    ("almalinux", "almalinux", "8-gen2", _EL.format("8")),
    ("almalinux", "almalinux", "9-gen1", _EL.format("9")),
    ("almalinux", "almalinux", "9-gen2", _EL.format("9")),
    ("almalinux", "almalinux-hpc", "8_6-hpc-gen2", _EL.format("8")),
    ("almalinux", "almalinux-hpc", "8_7-hpc-gen2", _EL.format("8")),
    ("almalinux", "almalinux-hpc", "8_10-hpc-gen2", _EL.format("8")),
    ("almalinux", "almalinux-hpc", "8-hpc-gen2", _EL.format("8")),
    ("resf", "rockylinux-x86_64", "8-base", _EL.format("8")),
    ("resf", "rockylinux-x86_64", "9-base", _EL.format("9")),
    ("microsoft-azure-batch", "ubuntu-server-container", "20-04-lts", _UBUNTU.format("20.04")),
    ("microsoft-azure-batch", "ubuntu-server-container-rdma", "20-04-lts", _UBUNTU.format("20.04")),
    ("microsoft-dsvm", "ubuntu-hpc", "2004", _UBUNTU.format("20.04")),
    ("microsoft-dsvm", "ubuntu-hpc", "2204", _UBUNTU.format("22.04")),
    ("microsoft-dsvm", "ubuntu-hpc", "2404", _UBUNTU.format("24.04")),
    ("microsoft-dsvm", "ubuntu-2004", "2004", _UBUNTU.format("20.04")),
    ("microsoft-dsvm", "ubuntu-2004", "2004-gen2", _UBUNTU.format("20.04")),
    ("microsoft-dsvm", "ubuntu-2204", "2204-gen2", _UBUNTU.format("22.04")),
    (*_WINDOWS_SERVER, "2019-datacenter", WINDOWS_AGENT),
    (*_WINDOWS_SERVER, "2019-datacenter-core", WINDOWS_AGENT),
    (*_WINDOWS_SERVER, "2022-datacenter", WINDOWS_AGENT),
    (*_WINDOWS_SERVER, "2022-datacenter-core", WINDOWS_AGENT),
)
_OLD_AGENTS = tuple(
    f"batch.node.{name}"
    for name in (
        "ubuntu 16.04",
        "ubuntu 18.04",
        "debian 9",
        "debian 10",
        "debian 13",
        "centos 7",
        "centos 8",
        "el 7",
        "el 10",
        "opensuse 42.3",
        "sles 15",
        "mariner 2.0",
        "azurelinux 3.0",
    )
)
"""Agents of images that are no longer listed but that pools may still name."""

_OURS: Mapping[str, tuple[str, str, str, str]] = {
    # ID of os-release: publisher, offer, sku, node agent; `{}` is the version, `{_}` the version with an underscore
    "ubuntu": ("canonical", "ubuntu-{_}-lts", "server", _UBUNTU),
    "debian": ("debian", "debian-{}", "{}", _DEBIAN),
    "almalinux": ("almalinux", "almalinux-x86_64", "{}-gen2", _EL),
    "rocky": ("resf", "rockylinux-x86_64", "{}-base", _EL),
}


def known() -> list[SupportedImage]:
    """The images that clients insist on."""
    return [_image(*row) for row in _ROWS]


def supported(machine: SupportedImage) -> tuple[SupportedImage, ...]:
    """What this machine is, then every other image that it stands in for."""
    named = _name(machine.image_reference)
    return (machine, *(image for image in known() if _name(image.image_reference) != named))


def of_machine(os_release: Mapping[str, str]) -> SupportedImage:
    """The image that this machine is, out of its os-release file."""
    kind = os_release.get("ID", "linux").lower()
    version = os_release.get("VERSION_ID", "0")
    if kind in ("almalinux", "rocky"):
        version = version.partition(".")[0]
    publisher, offer, sku, agent = _OURS.get(kind, (kind, kind, "{}", f"batch.node.{kind} " + "{}"))
    offer, sku, agent = (text.replace("{_}", version.replace(".", "_")).replace("{}", version) for text in (offer, sku, agent))
    return _image(publisher, offer, sku, agent)


def agents(images: Sequence[SupportedImage]) -> frozenset[str]:
    """Every nodeAgentSKUId that a pool may name, in lower case."""
    return frozenset(image.node_agent_sku_id.lower() for image in images) | {*_OLD_AGENTS, WINDOWS_AGENT}


def by_agent(images: Sequence[SupportedImage]) -> list[NodeAgentSku]:
    """The verified images of each node agent, in the order of the images."""
    found: dict[str, NodeAgentSku] = {}
    for image in images:
        name = image.node_agent_sku_id
        agent = found.setdefault(name, NodeAgentSku(id=name, verified_image_references=[], os_type=image.os_type))
        if image.verification_type == ImageVerificationType.VERIFIED:
            agent.verified_image_references.append(image.image_reference)
    return list(found.values())


def is_windows(machine: VirtualMachineConfiguration) -> bool:
    """True when the pool asks for Windows, which no node of this release has."""
    publisher = (machine.image_reference.publisher or "").lower()
    return _WINDOWS in machine.node_agent_sku_id.lower() or _WINDOWS in publisher


def _image(publisher: str, offer: str, sku: str, agent: str) -> SupportedImage:
    windows = agent == WINDOWS_AGENT
    return SupportedImage(
        node_agent_sku_id=agent,
        image_reference=ImageReference(publisher=publisher, offer=offer, sku=sku, version="latest"),
        os_type=OSType.WINDOWS if windows else OSType.LINUX,
        verification_type=ImageVerificationType.UNVERIFIED if windows else ImageVerificationType.VERIFIED,
    )


def _name(image: ImageReference) -> tuple[str | None, ...]:
    return image.publisher, image.offer, image.sku
