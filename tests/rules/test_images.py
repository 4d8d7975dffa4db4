"""Images: what this machine is, first; then what clients insist on, verified if a pool gets nodes for it."""

from __future__ import annotations

import pytest

from batchyard.model.virtual_machine import ImageReference, VirtualMachineConfiguration
from batchyard.rules import images


@pytest.mark.parametrize(
    ("os_release", "name", "agent"),
    [
        ({"ID": "debian", "VERSION_ID": "12"}, ("debian", "debian-12", "12"), "batch.node.debian 12"),
        ({"ID": "ubuntu", "VERSION_ID": "24.04"}, ("canonical", "ubuntu-24_04-lts", "server"), "batch.node.ubuntu 24.04"),
        ({"ID": "almalinux", "VERSION_ID": "9.4"}, ("almalinux", "almalinux-x86_64", "9-gen2"), "batch.node.el 9"),
        ({"ID": "rocky", "VERSION_ID": "8.10"}, ("resf", "rockylinux-x86_64", "8-base"), "batch.node.el 8"),
        ({"ID": "fedora", "VERSION_ID": "41"}, ("fedora", "fedora", "41"), "batch.node.fedora 41"),
        ({"ID": "{odd}", "VERSION_ID": "{0}"}, ("{odd}", "{odd}", "{0}"), "batch.node.{odd} {0}"),
        ({}, ("linux", "linux", "0"), "batch.node.linux 0"),
    ],
)
def test_this_machine(os_release: dict[str, str], name: tuple[str, ...], agent: str) -> None:
    machine = images.of_machine(os_release)
    found = machine.image_reference
    assert (found.publisher, found.offer, found.sku, found.version) == (*name, "latest")
    assert (machine.node_agent_sku_id, machine.os_type, machine.verification_type) == (agent, "linux", "verified")
    listed = images.supported(machine)
    assert listed[0] is machine
    for image in listed[1:]:
        assert (image.verification_type == "verified") == (image.os_type == "linux"), image
    names = [(one.image_reference.publisher, one.image_reference.offer, one.image_reference.sku) for one in listed]
    assert len(set(names)) == len(names)
    assert agent.lower() in images.agents(listed)


@pytest.mark.parametrize(
    ("publisher", "offer", "sku", "agent"),
    [
        ("canonical", "0001-com-ubuntu-server-jammy", "22_04-lts", "batch.node.ubuntu 22.04"),
        ("canonical", "ubuntu-24_04-lts", "server", "batch.node.ubuntu 24.04"),
        ("canonical", "0001-com-ubuntu-server-focal", "20_04-lts", "batch.node.ubuntu 20.04"),
        ("debian", "debian-12", "12", "batch.node.debian 12"),
        ("canonical", "0001-com-ubuntu-server-jammy", "22_04-lts-gen2", "batch.node.ubuntu 22.04"),
        ("almalinux", "almalinux-x86_64", "9-gen2", "batch.node.el 9"),
        ("almalinux", "almalinux", "8-gen1", "batch.node.el 8"),
        ("almalinux", "almalinux-hpc", "8-hpc-gen2", "batch.node.el 8"),
        ("microsoft-azure-batch", "ubuntu-server-container", "20-04-lts", "batch.node.ubuntu 20.04"),
        ("microsoft-azure-batch", "ubuntu-server-container-rdma", "20-04-lts", "batch.node.ubuntu 20.04"),
        ("microsoft-dsvm", "ubuntu-hpc", "2204", "batch.node.ubuntu 22.04"),
        ("microsoft-dsvm", "ubuntu-hpc", "2404", "batch.node.ubuntu 24.04"),
    ],
)
def test_what_samples_look_for_is_listed_as_verified(publisher: str, offer: str, sku: str, agent: str) -> None:
    wanted = (publisher, offer, sku)
    [found] = [
        one for one in images.known() if (one.image_reference.publisher, one.image_reference.offer, one.image_reference.sku) == wanted
    ]
    assert (found.node_agent_sku_id, found.verification_type, found.os_type) == (agent, "verified", "linux")


def test_no_name_is_listed_twice() -> None:
    names = [(one.image_reference.publisher, one.image_reference.offer, one.image_reference.sku) for one in images.known()]
    assert len(set(names)) == len(names)


def test_windows() -> None:
    def machine(publisher: str | None, agent: str) -> VirtualMachineConfiguration:
        return VirtualMachineConfiguration(image_reference=ImageReference(publisher=publisher), node_agent_sku_id=agent)

    assert images.is_windows(machine("MicrosoftWindowsServer", "batch.node.ubuntu 24.04"))
    assert images.is_windows(machine(None, "batch.node.Windows amd64"))
    assert not images.is_windows(machine("microsoft-dsvm", "batch.node.ubuntu 22.04"))
    listed = [image for image in images.known() if image.os_type == "windows"]
    assert {(image.node_agent_sku_id, image.verification_type) for image in listed} == {("batch.node.windows amd64", "unverified")}
    assert all(images.is_windows(machine(one.image_reference.publisher, "")) for one in listed)


def test_each_node_agent_has_its_verified_images_in_their_order() -> None:
    listed = images.known()
    agents = images.by_agent(listed)
    assert [agent.id for agent in agents] == list(dict.fromkeys(image.node_agent_sku_id for image in listed))
    for agent in agents:
        own = [image for image in listed if image.node_agent_sku_id == agent.id]
        assert agent.os_type == own[0].os_type
        assert agent.verified_image_references == [image.image_reference for image in own if image.verification_type == "verified"]
    assert [agent.verified_image_references for agent in agents if agent.os_type == "windows"] == [[]]
