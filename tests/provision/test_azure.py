"""The verbs and the real `az` against Azure's stand-in: what results in Azure, and what is said when Azure refuses."""

from __future__ import annotations

import http.server
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from provision.spec import group_of
from scripts.settings import ROOT
from tests.provision import arm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.provision.conftest import Laptop

URL = "http://lab-test.eastus.cloudapp.azure.com:8888/lab?token=made-there"
VM = "Microsoft.Compute/virtualMachines"
RULE = "Microsoft.Network/networkSecurityGroups/securityRules"


@pytest.fixture
def reachable(laptop: Laptop) -> Laptop:
    """A laptop whose ssh finds a VM that takes the checkout and answers with a URL."""
    laptop.fake("ssh", f'case "$*" in *receive*) cat >/dev/null; echo "{URL}" ;; *url*|*follow*) echo "{URL}" ;; esac')
    return laptop


@pytest.fixture
def address() -> Iterator[list[str]]:
    """A service on loopback that tells the caller's address: the list's only element, for a test to change."""
    told = ["203.0.113.7"]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(told[0].encode())

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        told.append(f"http://127.0.0.1:{server.server_address[1]}")
        yield told
        server.shutdown()


def rules(laptop: Laptop) -> dict[str, tuple[object, str]]:
    """The security rules in Azure: from where, to which port."""
    found = {}
    for each in laptop.azure.of_type(RULE):
        properties = each["properties"]
        source = properties.get("sourceAddressPrefixes") or properties["sourceAddressPrefix"]
        found[each["name"]] = (source, properties["destinationPortRange"])
        assert (properties["access"], properties["direction"], properties["protocol"]) == ("Allow", "Inbound", "Tcp")
    return found


def test_the_life_of_a_vm_twice_in_a_row(reachable: Laptop) -> None:
    """Create, stop, start, delete: each changes Azure as it says, and after it all nothing is left; then once more."""
    azure = reachable.azure
    for _again in range(2):
        created = reachable.run("create")
        assert created.stdout == URL + "\n", f"{created.stderr}{azure.faults}"
        assert reachable.run("stop").returncode == 0
        assert azure.one(VM)["power"] == "deallocated", "vm-stop did not deallocate"
        assert "deallocated already" in reachable.run("stop").stderr
        refused = reachable.run("url")
        assert "hint: make vm-start" in refused.stderr, f"got {refused.stderr}"
        started = reachable.run("start")
        assert started.stdout == URL + "\n", started.stderr
        assert azure.one(VM)["power"] == "running", "vm-start did not start"
        deleted = reachable.run("delete", YES="1")
        assert deleted.returncode == 0, deleted.stderr
        left = [*azure.groups, *azure.resources]
        assert left == [], f"vm-delete left {left}"
    assert azure.faults == [], azure.faults[0]


def test_what_create_makes_is_private_complete_and_goes_with_the_vm(reachable: Laptop, address: list[str]) -> None:
    """The resources themselves: key only, own address only, delete options, identity with one role, daily stop, tag."""
    done = reachable.run("create", ADDRESS_URL=address[1], AUTO_SHUTDOWN="2315", TZ="UTC", DISK_GB="300")
    assert done.returncode == 0, f"{done.stderr}{reachable.azure.faults}"
    azure = reachable.azure
    vm = azure.one(VM)
    properties = vm["properties"]
    assert properties["osProfile"]["linuxConfiguration"]["disablePasswordAuthentication"] is True
    assert properties["storageProfile"]["osDisk"]["deleteOption"] == "Delete"
    assert properties["storageProfile"]["osDisk"]["diskSizeGB"] == 300
    assert properties["networkProfile"]["networkInterfaces"][0]["properties"]["deleteOption"] == "Delete"
    assert properties["securityProfile"]["securityType"] == "TrustedLaunch"
    assert rules(reachable) == {"ssh": ("203.0.113.7/32", "22"), "lab": ("203.0.113.7/32", "8888")}
    label = azure.one("Microsoft.Network/publicIPAddresses")["properties"]["dnsSettings"]["domainNameLabel"]
    assert label == "lab-test"
    assert azure.groups[group_of("lab-test")]["tags"]["pytorch-jupyter"] == "lab-test"
    role = azure.one("Microsoft.Authorization/roleAssignments")["properties"]
    assert role["roleDefinitionId"].endswith(arm.ROLE), f"got {role}"
    assert role["principalId"] == vm["identity"]["principalId"]
    assert role["scope"].lower() == vm["id"].lower(), "the role reaches further than the VM"
    schedule = azure.one("Microsoft.DevTestLab/schedules")["properties"]
    assert schedule["dailyRecurrence"]["time"] == "2315", f"got {schedule}"
    data = azure.custom_data[vm["id"].lower()]
    assert len(data) <= 48 << 10, f"the custom data has {len(data)} bytes"
    assert "token" not in data.lower(), "something about a token is in the custom data"


def test_a_changed_address_of_the_caller_moves_the_rules(reachable: Laptop, address: list[str]) -> None:
    """vm-url finds that the caller has moved and opens the way for the new address, closing it for the old."""
    assert reachable.run("create", ADDRESS_URL=address[1]).returncode == 0
    address[0] = "198.51.100.9"
    assert reachable.run("url", ADDRESS_URL=address[1]).stdout == URL + "\n"
    assert rules(reachable) == {"ssh": ("198.51.100.9/32", "22"), "lab": ("198.51.100.9/32", "8888")}


def test_the_whole_internet_needs_its_word_and_gets_a_warning(reachable: Laptop, address: list[str]) -> None:
    """ALLOW_FROM=internet opens the lab with a warning, ALLOW_FROM=none closes it again; SSH stays the caller's."""
    opened = reachable.run("create", ADDRESS_URL=address[1], ALLOW_FROM="internet")
    assert "WARNING: the whole internet" in opened.stderr, f"got {opened.stderr}"
    assert rules(reachable) == {"ssh": ("203.0.113.7/32", "22"), "lab": ("Internet", "8888")}
    reachable.run("url", ADDRESS_URL=address[1], ALLOW_FROM="none")
    assert rules(reachable) == {"ssh": ("203.0.113.7/32", "22")}


def test_a_gpu_size_as_spot(reachable: Laptop) -> None:
    """An N-series size is told as a GPU; SPOT=1 makes it a spot VM that is deallocated, not deleted, when evicted."""
    done = reachable.run("create", SIZE="Standard_NC4as_T4_v3", SPOT="1")
    assert "the CUDA lab will run there" in done.stderr, done.stderr
    properties = reachable.azure.one(VM)["properties"]
    assert (properties["priority"], properties["evictionPolicy"]) == ("Spot", "Deallocate")
    assert properties["securityProfile"]["uefiSettings"]["secureBootEnabled"] is False, "the DSVM's driver is unsigned"


def test_another_size_for_a_vm_that_is_there_is_told(reachable: Laptop) -> None:
    """SIZE= is not ignored when the VM has another one; without SIZE= the VM keeps its own."""
    reachable.run("create", SIZE="Standard_NC4as_T4_v3")
    other = reachable.run("create", SIZE="Standard_D4s_v5")
    assert other.returncode != 0, f"got {other.stdout}"
    assert "has SIZE=Standard_NC4as_T4_v3, not Standard_D4s_v5" in other.stderr, other.stderr
    assert "hint: az vm resize --size Standard_D4s_v5" in other.stderr, other.stderr
    again = reachable.run("create")
    assert again.stdout == URL + "\n", again.stderr


def test_without_the_dsvm_the_next_image_is_taken_with_a_sentence(reachable: Laptop) -> None:
    """An image that the region lacks is told, and the next one used."""
    del reachable.azure.images[arm.DSVM]
    done = reachable.run("create")
    assert f"VM image {arm.DSVM}:latest: not to be had there" in done.stderr, done.stderr
    assert reachable.azure.one(VM)["properties"]["storageProfile"]["imageReference"]["offer"] == "ubuntu-24_04-lts"


def test_without_the_right_to_assign_roles_the_lab_comes_all_the_same(reachable: Laptop) -> None:
    """A subscription that forbids role assignments costs the idle stop, with a sentence, and nothing else."""
    reachable.azure.may_assign_roles = False
    done = reachable.run("create")
    assert done.stdout == URL + "\n", done.stderr
    assert "the VM cannot stop itself when idle" in done.stderr, done.stderr


def test_a_dry_run_never_asks_azure(reachable: Laptop) -> None:
    """DRY_RUN=1 prints az's command lines on stdout and sends no request."""
    for verb in ("create", "url", "status", "open_ssh", "tunnel", "logs", "sync", "pull", "stop", "start", "delete"):
        done = reachable.run(verb, DRY_RUN="1")
        assert done.returncode == 0, f"{verb}: {done.stderr}"
        assert done.stdout.startswith("az "), f"{verb}: {done.stdout}"
    assert reachable.azure.requests == [], f"Azure was asked: {reachable.azure.requests}"


def refuse_quota(azure: arm.Azure) -> None:
    """Leave too few CPUs in the size's family."""
    azure.quota["standardDSv5Family"] = 3


def refuse_size(azure: arm.Azure) -> None:
    """Close the size to the subscription."""
    azure.skus[0]["restrictions"] = [
        {"type": "Location", "reasonCode": "NotAvailableForSubscription", "values": ["eastus"]}
    ]


def refuse_name(azure: arm.Azure) -> None:
    """Give the name to somebody else."""
    azure.taken_names.add("lab-test")


def refuse_login(azure: arm.Azure) -> None:
    """Let the login expire."""
    azure.login_expired = True


def refuse_images(azure: arm.Azure) -> None:
    """Have no image in the region."""
    azure.images.clear()


@pytest.mark.parametrize(
    ("refuse", "message", "hint"),
    [
        (refuse_quota, "the quota 'Total standardDSv5Family' in REGION=eastus has 3 left of 3", "aka.ms/azquota"),
        (refuse_size, "SIZE=Standard_D4s_v5 is not open to this subscription in REGION=eastus", "another REGION="),
        (refuse_name, "NAME=lab-test is taken by somebody else in REGION=eastus", "make vm-create NAME=lab-test-2"),
        (refuse_login, "az is not logged in, or the login has expired", "az login"),
        (refuse_images, "none of the VM images can be had in REGION=eastus", "IMAGE_URN="),
    ],
)
def test_what_azure_would_refuse_is_told_before_anything_is_created(
    reachable: Laptop, refuse: Any, message: str, hint: str
) -> None:
    """One line with the value, a hint, and no request that changes anything."""
    refuse(reachable.azure)
    done = reachable.run("create")
    assert done.returncode == 1, f"got {done.returncode}"
    last = done.stderr.strip().splitlines()[-2:]
    assert message in last[0], f"expected {message!r}, got {done.stderr}"
    assert last[1].startswith("hint: "), f"got {last[1]!r}"
    assert hint in last[1], f"expected {hint!r}, got {last[1]!r}"
    changed = [each for each in reachable.azure.requests if not each.startswith(("GET", "POST /1", "HEAD"))]
    assert changed == [], f"something was changed: {changed}"


def test_no_capacity_is_told_in_a_line_and_leaves_nothing_behind(reachable: Laptop) -> None:
    """What Azure refuses only while creating, in a traceback of az's own, is a line of ours; the group goes again."""
    reachable.azure.capacity = False
    done = reachable.run("create")
    assert "error: Azure has no room for this size there now (The requested size" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    left = [*reachable.azure.groups, *reachable.azure.resources]
    assert left == [], f"left behind: {left}"


def test_a_group_that_is_not_ours_is_never_touched(reachable: Laptop) -> None:
    """A resource group of that name without our tag: create and delete refuse, and it stays."""
    reachable.az("group", "create", "--name", group_of("lab-test"), "--location", "eastus", "--output", "none")
    for verb in ("create", "delete"):
        done = reachable.run(verb, YES="1")
        assert "exists that is not the lab's; it is left alone" in done.stderr, f"{verb}: {done.stderr}"
    assert list(reachable.azure.groups) == [group_of("lab-test")], "the group was touched"


def test_delete_without_a_yes_deletes_nothing(reachable: Laptop) -> None:
    """Without a terminal and without YES=1 it lists what would go and refuses."""
    reachable.run("create")
    done = reachable.run("delete")
    assert "virtualMachines: lab-test" in done.stderr, f"not listed:\n{done.stderr}"
    assert "hint: make vm-delete NAME=lab-test YES=1" in done.stderr, done.stderr
    assert len(reachable.azure.of_type(VM)) == 1, "the VM is gone"


def test_ctrl_c_while_creating_is_told_and_the_same_command_goes_on(reachable: Laptop) -> None:
    """An interruption says what remains; vm-create again finishes, without a second VM."""
    reachable.azure.polls = 60
    argv = [sys.executable, "-m", "provision.create"]
    with subprocess.Popen(
        argv,
        cwd=ROOT,
        env=reachable.environ,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        while not reachable.azure.of_type(VM):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.1)
        subprocess.run(["kill", f"-{signal.SIGINT.value}", "--", f"-{process.pid}"], check=True)
        words = process.communicate(timeout=30)[1]
    assert process.returncode == 130, f"got {process.returncode}:\n{words}"
    assert "hint: what was begun in the cloud is still there" in words, words
    reachable.azure.polls = 1
    done = reachable.run("create")
    assert done.stdout == URL + "\n", done.stderr
    assert len(reachable.azure.of_type(VM)) == 1, "there are two VMs"


def test_without_az_the_error_says_how_to_get_it(reachable: Laptop) -> None:
    """No az on PATH is one line and a hint."""
    done = reachable.run("create", PATH=str(reachable.home / "bin"))
    assert "error: the Azure CLI (az) is not installed\nhint: pipx install azure-cli" in done.stderr, done.stderr


def test_an_az_that_is_too_old_is_told(reachable: Laptop) -> None:
    """An az from before the options that we use is refused before anything else."""
    reachable.fake("az", """echo '{"azure-cli": "2.30.0"}'""")
    done = reachable.run("create")
    assert "error: the Azure CLI is version 2.30.0; 2.60.0 or newer is needed\nhint: az upgrade" in done.stderr, (
        done.stderr
    )


def test_without_a_vm_each_verb_says_so(reachable: Laptop) -> None:
    """No VM in the subscription: one line, and the command that makes one."""
    environ = {**reachable.environ}
    del environ["NAME"]
    reachable.environ = environ
    for verb in ("status", "delete"):
        done = reachable.run(verb)
        assert "you have no VM of the lab in this subscription\nhint: make vm-create" in done.stderr, (
            f"{verb}: {done.stderr}"
        )


def test_the_only_vm_needs_no_name(reachable: Laptop) -> None:
    """Verbs find the VM by its tag when there is one; with several they ask which."""
    reachable.run("create")
    del reachable.environ["NAME"]
    assert reachable.run("url").stdout == URL + "\n"
    tagged = ["--tags", "pytorch-jupyter=lab-b"]
    reachable.az("group", "create", "--name", group_of("lab-b"), "--location", "eastus", *tagged, "--output", "none")
    done = reachable.run("url")
    assert "there are several VMs: lab-b, lab-test\nhint: say which: NAME=lab-b" in done.stderr, done.stderr
