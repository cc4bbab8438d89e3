"""The cloud VM as values: settings, sizes, rules, command lines and what Azure's answers mean."""

from __future__ import annotations

from datetime import time
from pathlib import Path
from typing import Any

import pytest

from provision import az, images, network, preflight, sizes, spec, status
from provision.settings import VmSettings
from provision.vm import Vm, lab_settings
from scripts.console import LabError

CONSUMED = """ERROR: The content for this response was already consumed
azure.core.exceptions.HttpResponseError: (SkuNotAvailable) The requested size is not available.
Code: SkuNotAvailable
"""
HERE = "203.0.113.7/32"
MACHINE = Vm(
    name="lab-a",
    region="eastus",
    port=8888,
    id="/vm",
    host="lab-a.eastus.cloudapp.azure.com",
    power="running",
    size="Standard_D4s_v5",
    spot=False,
    disk_gb=200,
    principal="p",
)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("Standard_D4s_v5", sizes.Kind.CPU),
        ("Standard_E8ds_v5", sizes.Kind.CPU),
        ("Standard_NC4as_T4_v3", sizes.Kind.NVIDIA),
        ("standard_nc24ads_a100_v4", sizes.Kind.NVIDIA),
        ("Standard_NC40ads_H100_v5", sizes.Kind.NVIDIA),
        ("Standard_ND96isr_H100_v5", sizes.Kind.NVIDIA),
        ("Standard_NV36ads_A10_v5", sizes.Kind.NVIDIA),
        ("Standard_NV8ads_V710_v5", sizes.Kind.OTHER),
        ("Standard_NG8ads_V620_v1", sizes.Kind.OTHER),
        ("Standard_ND96isr_MI300X_v5", sizes.Kind.OTHER),
        ("Standard_NP10s", sizes.Kind.OTHER),
        ("Standard_NM16ads_MA35D", sizes.Kind.OTHER),
    ],
)
def test_a_size_tells_which_lab_fits(size: str, expected: sizes.Kind) -> None:
    """N-series sizes are NVIDIA's unless they are known to be something else."""
    got = sizes.kind(size)
    assert got is expected, f"{size}: got {got}, expected {expected}"


@pytest.mark.parametrize(
    "size",
    [
        "Standard_NC6",
        "Standard_NC24r",
        "Standard_NC6s_v2",
        "Standard_NC24rs_v3",
        "Standard_ND6s",
        "Standard_NV6",
        "Standard_NV12s_v3",
        "Standard_NV4as_v4",
        "Standard_NC6_Promo",
    ],
)
def test_a_retired_size_is_refused_with_its_date(size: str) -> None:
    """A size that can no longer be created is refused before anything is asked."""
    with pytest.raises(LabError, match=f"SIZE={size} is retired since 20"):
        sizes.kind(size)


def test_a_gpu_that_needs_the_grid_driver_is_refused_unless_the_image_is_the_users() -> None:
    """None of our images has that driver."""
    with pytest.raises(LabError, match="needs NVIDIA's GRID driver"):
        sizes.require_driver("Standard_NV36ads_A10_v5", None)
    sizes.require_driver("Standard_NV36ads_A10_v5", "mine:mine:mine:1")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("NAME", "Lab"),
        ("NAME", "-a"),
        ("NAME", "a" * 64),
        ("REGION", "West Europe"),
        ("SIZE", "D4s"),
        ("SPOT", "maybe"),
        ("IMAGE_URN", "ubuntu"),
        ("ALLOW_FROM", "0.0.0.0/0"),
        ("ALLOW_FROM", "::/0"),
        ("ALLOW_FROM", "everyone"),
        ("DISK_GB", "10"),
        ("AUTO_SHUTDOWN", "2561"),
        ("IDLE_STOP", "1"),
        ("SSH_OPTIONS", "'"),
        ("ADDRESS_URL", "ftp://x"),
    ],
)
def test_nonsense_is_refused_with_its_name_and_value(variable: str, value: str) -> None:
    """Each setting of the VM names itself and the value."""
    with pytest.raises(LabError, match="is not valid") as refused:
        VmSettings.load({variable: value})
    assert refused.value.message.startswith(f"{variable}={value!r}"), f"got {refused.value.message}"


def test_settings_are_read() -> None:
    """Values arrive parsed."""
    got = VmSettings.load(
        {"ALLOW_FROM": "10.1.2.3/8", "AUTO_SHUTDOWN": "off", "IDLE_STOP": "0", "SSH_OPTIONS": "-J 'a b'"}
    )
    assert (got.allow_from, got.auto_shutdown, got.idle_stop, got.ssh_options) == ("10.0.0.0/8", None, 0, ("-J", "a b"))
    assert VmSettings.load({}).auto_shutdown == time(2, 0), "the daily stop is not on by default"


@pytest.mark.parametrize(
    ("allow_from", "caller", "ssh", "lab"),
    [
        ("auto", HERE, (HERE,), (HERE,)),
        ("auto", None, ("Internet",), None),
        ("none", HERE, (HERE,), None),
        ("none", None, ("Internet",), None),
        ("internet", HERE, (HERE,), ("Internet",)),
        ("10.0.0.0/8", HERE, ("10.0.0.0/8", HERE), ("10.0.0.0/8",)),
        ("10.0.0.0/8", None, ("10.0.0.0/8",), ("10.0.0.0/8",)),
    ],
)
def test_the_rules_of_the_network(
    allow_from: str, caller: str | None, ssh: tuple[str, ...], lab: tuple[str, ...] | None
) -> None:
    """The lab opens to ALLOW_FROM only; SSH to the caller, to the network named, and by key alone to all else."""
    got = {rule.name: rule.sources for rule in network.wanted_rules(allow_from, caller, 8888)}
    assert got == {"ssh": ssh, **({"lab": lab} if lab else {})}, f"got {got}"


def test_rules_that_are_right_already_cost_no_command() -> None:
    """The rules as Azure lists them compare equal to those wanted; a closed lab is one deletion."""
    want = network.wanted_rules("auto", HERE, 8888)
    listing = [
        {
            "name": rule.name,
            "sourceAddressPrefix": rule.sources[0],
            "sourceAddressPrefixes": [],
            "priority": rule.priority,
            "destinationPortRange": str(rule.port),
            "description": "ALLOW_FROM=auto",
        }
        for rule in want
    ]
    have = network.read_rules([*listing, {"name": "the user's own"}])
    assert network.changes("g", "n", have=have, want=want) == []
    closing = network.changes("g", "n", have=have, want=[want[0]])
    assert closing == [
        ["network", "nsg", "rule", "delete", "--resource-group", "g", "--nsg-name", "n", "--name", "lab"]
    ]


def test_the_command_line_that_creates_a_vm() -> None:
    """The whole argument list of a GPU spot VM."""
    wanted = spec.VmSpec(
        name="lab-a",
        region="eastus",
        size="Standard_NC4as_T4_v3",
        image=images.DSVM.urn,
        disk_gb=200,
        trusted_launch=True,
        secure_boot=False,
        spot=True,
        identity=True,
        port=8888,
        public_key=Path("/k.pub"),
        custom_data=Path("/c.yaml"),
    )
    expected = (
        "vm create --resource-group pytorch-jupyter-lab-a --name lab-a --location eastus"
        " --image microsoft-dsvm:ubuntu-2204:2204-gen2:latest --size Standard_NC4as_T4_v3"
        " --security-type TrustedLaunch --enable-secure-boot false --enable-vtpm true"
        " --admin-username azureuser --authentication-type ssh --ssh-key-values /k.pub"
        " --public-ip-sku Standard --public-ip-address-dns-name lab-a --nsg-rule NONE"
        " --os-disk-size-gb 200 --storage-sku StandardSSD_LRS --os-disk-delete-option Delete --nic-delete-option Delete"
        " --assign-identity [system] --priority Spot --eviction-policy Deallocate --max-price -1 --custom-data /c.yaml"
    )
    got = " ".join(spec.vm_argv(wanted))
    assert got == expected, f"got {got}"


def sku(**able: str) -> dict[str, Any]:
    """A size as `az vm list-skus` tells it."""
    listed = {
        "vCPUs": "4",
        "HyperVGenerations": "V1,V2",
        "CpuArchitectureType": "x64",
        "LowPriorityCapable": "True",
        **able,
    }
    capabilities = [{"name": key, "value": value} for key, value in listed.items()]
    return {"name": "Standard_X", "family": "f", "capabilities": capabilities, "restrictions": []}


@pytest.mark.parametrize(
    ("found", "spot", "message"),
    [
        ([], False, "does not exist in REGION=eastus"),
        ([sku(CpuArchitectureType="Arm64")], False, "has Arm64 CPUs"),
        ([sku(HyperVGenerations="V1")], False, "cannot start Gen2 images"),
        ([sku(LowPriorityCapable="False")], True, "is never sold as spot"),
        (
            [{**sku(), "restrictions": [{"type": "Location", "reasonCode": "QuotaId"}]}],
            False,
            "not open to this subscription",
        ),
    ],
)
def test_a_size_that_cannot_be_had_is_told(found: list[dict[str, Any]], message: str, *, spot: bool) -> None:
    """Each reason is a sentence with the size in it."""
    with pytest.raises(LabError, match=message):
        preflight.read_size(found, size="standard_x", region="eastus", spot=spot)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ERROR: Please run 'az login' to setup account.", "az is not logged in"),
        (CONSUMED, "no room for this size there now (The req"),
        ("ERROR: (OperationNotAllowed) exceeding approved Total Regional Cores quota.", "quota does not admit this VM"),
        ("ERROR: (DnsRecordInUse) DNS record is already used", "the name is taken"),
        ("ERROR: HTTPSConnectionPool: Max retries exceeded with url", "Azure cannot be reached from here"),
        ("ERROR: unrecognized arguments: --enable-vtpm", "az does not know this command"),
        ("ERROR: something new", "az vm create --x … failed: something new"),
        ("", "no message"),
    ],
)
def test_azs_failures_are_one_line_each(words: str, message: str) -> None:
    """az's stderr, tracebacks included, becomes a line that says it."""
    got = az.failure(["az", "vm", "create", "--x"], words)
    assert message in got.message, f"got {got.message!r}"
    assert "\n" not in got.message, f"got {got.message!r}"
    assert got.hint, "there is no hint"


def test_the_vm_gets_the_settings_that_mean_the_same_there() -> None:
    """Paths and addresses of the laptop stay here; empty values count as not set."""
    environ = {"MEMORY": "8g", "CPUS": "", "WORKSPACE": "/mine", "BIND": "127.0.0.1", "GPUS": "0"}
    got = lab_settings(VmSettings.load({"IDLE_STOP": "30"}), MACHINE, environ)
    assert got == {
        "URL_HOST": MACHINE.host,
        "PORT": "8888",
        "IDLE_STOP": "30",
        "IDLE_TIMEOUT": "8h",
        "METADATA": "0",
        "MEMORY": "8g",
        "GPUS": "0",
    }, f"got {got}"


@pytest.mark.parametrize(
    ("power", "expected"),
    [
        ("running", ["computing (Standard_D4s_v5)", "200 GB disk", "public address"]),
        ("deallocated", ["200 GB disk", "public address", "no computing"]),
    ],
)
def test_the_status_says_what_goes_on_costing(power: str, expected: list[str]) -> None:
    """A deallocated VM costs its disk and address."""
    got = status.costs(Vm(**{**vars(MACHINE), "power": power}))
    assert got == expected, f"got {got}"


def test_a_vm_stopped_from_inside_is_told_as_billing() -> None:
    """A guest's shutdown goes on billing; the status says so."""
    got = status.costs(Vm(**{**vars(MACHINE), "power": "stopped"}))[0]
    assert "bills as if it ran: make vm-stop" in got, f"got {got}"
