#!/usr/bin/env python3
"""What runs on the VM, as root: bring what is missing, take the checkout, run the lab as a service.

Standard library only, Python 3.10, one file: custom data carries it. Every command may be run again at any time.

    bootstrap.py install              write the services and start them (the first boot does this)
    bootstrap.py receive KEY=VALUE…   take a checkout (tar.gz on stdin) and settings, run them, print the lab's URL
    bootstrap.py here KEY=VALUE…      the same with the clone that this file is in: any Debian or Ubuntu VM, by hand
    bootstrap.py url | status | logs [--follow] | follow | pull
    bootstrap.py up                   what the service runs
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import io
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HOME = Path("/opt/pytorch-jupyter")
CHECKOUT = HOME / "checkout"
SETTINGS = Path("/etc/pytorch-jupyter.env")
UNITS = Path("/etc/systemd/system")
UNIT = "pytorch-jupyter.service"
GUARD = "pytorch-jupyter-guard.service"
BACK = "pytorch-jupyter-back.service"
IDLE = "pytorch-jupyter-idle"
PCI = Path("/sys/bus/pci/devices")
OS_RELEASE = Path("/etc/os-release")
TOOLKIT = "https://nvidia.github.io/libnvidia-container"
TOOLKIT_KEY = Path("/etc/apt/keyrings/nvidia-container-toolkit.asc")
TOOLKIT_LIST = Path("/etc/apt/sources.list.d/nvidia-container-toolkit.list")
# What clouds answer without a password: the VM's identity (all of them), and Azure's host agent beside its name server.
METADATA = (
    ("--destination", "169.254.169.254"),
    ("--destination", "168.63.129.16", "--protocol", "tcp", "--dport", "80"),
    ("--destination", "168.63.129.16", "--protocol", "tcp", "--dport", "32526"),
)
# Debian 13 has the client in a package of its own, and newer clients cannot build without buildx.
OPTIONAL = ("docker-cli", "docker-buildx")
AGAIN = "mend it, then: sudo systemctl restart pytorch-jupyter; make vm-logs FOLLOW=1"


class BootError(Exception):
    """What went wrong, and the command that helps."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def say(text: str) -> None:
    """One line of talk, to stderr: the service's journal, or whoever called."""
    print(text, file=sys.stderr, flush=True)


def run(*argv: str, hint: str = AGAIN) -> None:
    """Run a command visibly; stdout stays free for data."""
    say(f"$ {' '.join(argv)}")
    try:
        subprocess.run(argv, stdout=2, stdin=subprocess.DEVNULL, check=True)
    except OSError as error:
        raise BootError(f"{argv[0]} cannot be run: {error.strerror}", hint) from error
    except subprocess.CalledProcessError as error:
        raise BootError(f"{argv[0]} failed; its words stand above", hint) from error


def output(*argv: str) -> str:
    """What a command writes to stdout; empty when it fails or is not there."""
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


# Settings: KEY=VALUE lines, as systemd reads them too.


def parse_settings(text: str) -> dict[str, str]:
    """Read KEY=VALUE lines; comments and empty lines are left out."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, _, value in pairs}


def read_settings() -> dict[str, str]:
    """The VM's settings."""
    return parse_settings(SETTINGS.read_text()) if SETTINGS.exists() else {}


def given_settings(arguments: Sequence[str]) -> dict[str, str]:
    """The KEY=VALUE words of a command line."""
    wrong = next((each for each in arguments if not re.fullmatch(r"[A-Z][A-Z0-9_]*=[^\n\r]*", each)), None)
    if wrong:
        raise BootError(f"{wrong!r} is not KEY=VALUE", "bootstrap.py here PORT=9000")
    return dict(each.split("=", 1) for each in arguments)


def ensure_settings(new: dict[str, str]) -> None:
    """Put settings into the file, in one step; what is not named stays."""
    merged = {**read_settings(), **new}
    draft = SETTINGS.with_name(SETTINGS.name + ".new")
    draft.write_text("".join(f"{key}={value}\n" for key, value in sorted(merged.items())))
    draft.replace(SETTINGS)


def account() -> pwd.struct_passwd:
    """The lab's user."""
    name = read_settings().get("LAB_USER", "")
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(name)
    raise BootError(f"LAB_USER={name!r} in {SETTINGS} has no account", f"set it to the VM's user in {SETTINGS}")


def lab_environment(settings: dict[str, str], home: str) -> dict[str, str]:
    """What `make run-cpu` gets: the settings, and what must last on the system disk, never on the temporary one."""
    lasting = {"WORKSPACE": f"{home}/workspace", "STATE_DIR": f"{home}/.local/share/pytorch-jupyter", "HOME": home}
    wheels = settings.get("WHEELS")
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels} if wheels else {}
    return {**lasting, **offline, **settings}


# The machine: engine, tools, and what an NVIDIA GPU needs.


def apt_install(*packages: str) -> None:
    """Install Debian packages, waiting for another apt (the image's own upgrades) to finish; optional ones if known."""
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    wait = ("-o", "DPkg::Lock::Timeout=600")
    # A first boot that was cut off leaves packages half installed; this ends their configuration.
    run("dpkg", "--configure", "-a")
    run("apt-get", *wait, "update", "-q")
    # Only after the update: a new machine has no lists yet, and would know nothing.
    there = [each for each in packages if each not in OPTIONAL or output("apt-cache", "show", each)]
    run("apt-get", *wait, "install", "-qy", "--no-install-recommends", *there)


def missing_packages() -> list[str]:
    """The Debian packages that the lab's own commands need and this machine lacks."""
    packages = []
    if not shutil.which("dockerd"):
        packages += ["docker.io", "iptables"]
    packages += [] if shutil.which("docker") else OPTIONAL
    packages += [] if shutil.which("make") else ["make"]
    venv = subprocess.run([sys.executable, "-c", "import ensurepip, venv"], capture_output=True, check=False)
    return packages + (["python3-venv"] if venv.returncode else [])


def ensure_engine() -> None:
    """Have Docker and the tools installed, the engine running, and the lab's user allowed to use it."""
    if packages := missing_packages():
        say(f"installing {', '.join(packages)} …")
        apt_install(*packages)
    if output("systemctl", "is-active", "docker").strip() != "active":
        run("systemctl", "enable", "--now", "docker", hint="journalctl -u docker shows why")
    user = account().pw_name
    if "docker" not in output("id", "-nG", user).split():
        run("usermod", "-aG", "docker", user)


def has_nvidia(devices: Path = PCI) -> bool:
    """Whether a display controller (class 0x03…) of vendor 0x10de is on the PCI bus."""
    found = devices.iterdir() if devices.is_dir() else iter(())
    return any(
        (each / "vendor").read_text().strip() == "0x10de" and (each / "class").read_text().startswith("0x03")
        for each in found
    )


def ensure_nvidia() -> None:
    """Have driver and container toolkit, if there is an NVIDIA GPU; hardware without a driver is never ignored."""
    if not has_nvidia():
        return
    if not output("nvidia-smi", "-L"):
        ensure_driver()
    if "nvidia" not in output("docker", "info", "--format", "{{json .Runtimes}}"):
        ensure_toolkit()


def ensure_driver() -> None:
    """Install Canonical's signed driver and load it, with a reboot if it takes one; at most one."""
    rebooted = HOME / ".rebooted-for-driver"
    if rebooted.exists():
        raise BootError("the NVIDIA driver is installed and does not load", "sudo dmesg | grep -i nvidia shows why")
    if parse_settings(OS_RELEASE.read_text()).get("ID") != "ubuntu":
        raise BootError(
            "an NVIDIA GPU is here without its driver", "install the driver (apt: nvidia-driver), then reboot"
        )
    say("installing the NVIDIA driver (several minutes) …")
    apt_install("ubuntu-drivers-common")
    run("ubuntu-drivers", "install")
    output("modprobe", "nvidia")
    if not output("nvidia-smi", "-L"):
        rebooted.touch()
        say("rebooting once, to load the NVIDIA driver; the service goes on after it")
        run("systemctl", "reboot")
        time.sleep(600)


def ensure_toolkit() -> None:
    """Install NVIDIA's container toolkit from its own repository and register the runtime with the engine."""
    if not shutil.which("nvidia-ctk"):
        say("installing the NVIDIA container toolkit …")
        TOOLKIT_KEY.parent.mkdir(exist_ok=True)
        with urllib.request.urlopen(f"{TOOLKIT}/gpgkey", timeout=60) as answer:  # noqa: S310 - https
            TOOLKIT_KEY.write_bytes(answer.read())
        TOOLKIT_LIST.write_text(f"deb [signed-by={TOOLKIT_KEY}] {TOOLKIT}/stable/deb/$(ARCH) /\n")
        apt_install("nvidia-container-toolkit")
    run("nvidia-ctk", "runtime", "configure", "--runtime=docker")
    run("systemctl", "restart", "docker", hint="journalctl -u docker shows why")


def ensure_guard(settings: dict[str, str]) -> None:
    """Keep containers from the cloud's metadata service; METADATA=1 lets them. The VM itself still reaches it.

    What comes from a container is routed and passes PREROUTING, what the VM itself sends does not. The table `raw` is
    not the engine's: the rules hold before it starts and after it has restarted.
    """
    wanted = settings.get("METADATA") != "1"
    for rule in METADATA:
        table = ("iptables", "--wait", "--table", "raw")
        target = ("PREROUTING", *rule, "--jump", "DROP")
        there = subprocess.run([*table, "--check", *target], capture_output=True, check=False).returncode == 0
        if there != wanted:
            hint = "METADATA=1 does without: notebooks may then use the VM's identity"
            run(*table, "--append" if wanted else "--delete", *target, hint=hint)


def ensure_image(path: str) -> str:
    """Have the ready image of a tar in the engine; return its name."""
    try:
        with tarfile.open(path) as tar:
            manifest = tar.extractfile("manifest.json")
            name = str(json.load(manifest)[0]["RepoTags"][0]) if manifest else ""
    except (OSError, KeyError, IndexError, TypeError, ValueError, tarfile.TarError) as error:
        raise BootError(
            f"IMAGE_TAR={path} is no image with a name: {error}", "docker save name:tag >it.tar makes one"
        ) from error
    if not output("docker", "image", "inspect", name):
        say(f"loading the image {name} …")
        run("docker", "load", "--quiet", "--input", path)
    return name


# The checkout.


@contextlib.contextmanager
def lock() -> Iterator[None]:
    """Let one command at a time change the checkout."""
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def refuse_escape(member: tarfile.TarInfo) -> None:
    """Accept plain files and folders inside the checkout only."""
    if member.name.startswith("/") or ".." in Path(member.name).parts or not (member.isfile() or member.isdir()):
        raise BootError(f"the archive holds {member.name!r}, which is no file of a checkout", "make vm-sync again")


def ensure_checkout(packed: bytes, owner: pwd.struct_passwd, home: Path = HOME) -> Path:
    """Unpack beside the old checkout and switch the link in one step; an interruption leaves the old one in use."""
    for half in home.glob(".unpacking-*"):
        shutil.rmtree(half)
    target = home / f"checkout-{hashlib.sha256(packed).hexdigest()[:16]}"
    if not target.is_dir():
        draft = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=home))
        _unpack(packed, draft)
        _share_tools(draft / "tree", home / "venv")
        for path in (draft / "tree", *(draft / "tree").rglob("*"), home / "venv"):
            os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
        (draft / "tree").rename(target)
        shutil.rmtree(draft)
    before = (home / "checkout").resolve()
    _switch(home / "checkout", target)
    for old in home.glob("checkout-*"):
        if old not in {target, before}:
            shutil.rmtree(old)
    return target


def _unpack(packed: bytes, draft: Path) -> None:
    try:
        # Unpacked as a whole first: its checksum tells an archive that was cut off.
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed))) as tar:
            members = tar.getmembers()
            for member in members:
                refuse_escape(member)
                member.mtime = int(time.time())  # newer than the tools' stamp: make compares them with the lock
            tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
            tar.extractall(draft / "tree", members)  # noqa: S202 - each member was checked
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BootError(f"the checkout did not arrive whole: {error}", "make vm-sync again") from error


def _share_tools(tree: Path, venv: Path) -> None:
    """One environment for all checkouts: a new one costs no second installation."""
    venv.mkdir(exist_ok=True)
    (tree / ".venv").symlink_to(venv)


def _switch(link: Path, target: Path) -> None:
    new = link.with_name(".checkout-new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(link)


# The services.


def unit_text(program: Path = HOME / "bootstrap.py") -> str:
    """The lab's unit: at every boot, after network and engine, again after a failure, five times in half an hour."""
    return f"""[Unit]
Description=PyTorch and JupyterLab in a container
Wants=network-online.target
After=network-online.target docker.service
StartLimitIntervalSec=30min
StartLimitBurst=5

[Service]
Type=oneshot
RemainAfterExit=yes
EnvironmentFile=-/etc/environment
ExecStart=/usr/bin/python3 {program} up
TimeoutStartSec=2h
Restart=on-failure
RestartSec=20

[Install]
WantedBy=multi-user.target
"""


def guard_text(program: Path = HOME / "bootstrap.py") -> str:
    """The unit that closes the metadata service before the engine brings containers back."""
    description, order = "Keep the cloud's metadata service from containers", "Before=docker.service"
    return _once(f"{program} guard", description, order, wanted_by="multi-user.target")


def back_text(program: Path = HOME / "bootstrap.py") -> str:
    """The unit that brings the lab back whenever systemd starts the engine again."""
    order = "PartOf=docker.service\nAfter=docker.service"
    return _once(f"{program} back", "Start the lab again after its engine", order, wanted_by="docker.service")


def _once(command: str, description: str, order: str, *, wanted_by: str) -> str:
    """A unit that runs a command of this program and then counts as active."""
    return f"""[Unit]
Description={description}
{order}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/python3 {command}

[Install]
WantedBy={wanted_by}
"""


def idle_texts(user: str) -> dict[str, str]:
    """The unit that looks whether the VM is idle, as the lab's user, and its timer."""
    service = f"""[Unit]
Description=Deallocate this VM when its lab is idle

[Service]
Type=oneshot
User={user}
RuntimeDirectory={IDLE}
RuntimeDirectoryPreserve=yes
EnvironmentFile=-/etc/environment
EnvironmentFile=-{SETTINGS}
WorkingDirectory={CHECKOUT}
ExecStart=/usr/bin/python3 -m provision.idle
TimeoutStartSec=5min
"""
    timer = """[Unit]
Description=Look every minute whether the lab is idle

[Timer]
OnBootSec=5min
OnUnitActiveSec=1min

[Install]
WantedBy=timers.target
"""
    return {f"{IDLE}.service": service, f"{IDLE}.timer": timer}


def ensure_services() -> None:
    """Have the units in place and enabled; a text is only written when it changed."""
    texts = {UNIT: unit_text(), GUARD: guard_text(), BACK: back_text(), **idle_texts(account().pw_name)}
    changed = {name: text for name, text in texts.items() if not _same(UNITS / name, text)}
    for name, text in changed.items():
        (UNITS / name).write_text(text)
    if changed:
        run("systemctl", "daemon-reload")
        run("systemctl", "enable", "--quiet", UNIT, GUARD, BACK, f"{IDLE}.timer")


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


def state_of(unit: str = UNIT) -> dict[str, str]:
    """The unit's state: ActiveState, SubState, Job (0: none is waiting)."""
    return parse_settings(output("systemctl", "show", unit, "--property=ActiveState,SubState,Job"))


def back() -> None:
    """Run the lab's service again, if it is up and not at work itself.

    An engine that was killed stops the containers that it finds running when it is back, and then takes them for
    stopped by hand: 'unless-stopped' does not start them.
    """
    if state_of()["ActiveState"] == "active":
        run("systemctl", "restart", "--no-block", UNIT)


def is_starting() -> bool:
    """Whether the service is at work or waits for its turn in the boot; not while it waits for its next try."""
    state = state_of()
    return state["SubState"] != "auto-restart" and (
        state["ActiveState"] == "activating" or state.get("Job", "0") not in {"", "0"}
    )


def follow_until_up(since: float) -> None:
    """Pass on the service's journal until it is up or has failed."""
    journal = ("journalctl", "--quiet", f"_SYSTEMD_UNIT={UNIT}", "--output=cat", f"--since=@{since:.6f}")
    told, starting = 0, True
    while starting:
        time.sleep(0.5)
        starting = is_starting()
        if not starting:
            output("journalctl", "--sync")  # its last lines, which say why, may still be on their way
        lines = output(*journal).splitlines()
        for line in lines[told:]:
            say(line)
        told = len(lines)
    if state_of()["ActiveState"] != "active":
        raise BootError("the lab did not start; the last lines above say why", AGAIN)


# The commands.


def install() -> None:
    """Write the services and start them: what the first boot does."""
    ensure_services()
    run("systemctl", "start", "--no-block", UNIT, f"{IDLE}.timer")


def up() -> None:
    """What the service runs: bring what is missing, then the lab, if its checkout has arrived."""
    ensure_engine()
    guard()
    ensure_nvidia()
    if not CHECKOUT.exists():
        say("the machine is ready; the checkout has not arrived yet (make vm-sync sends it)")
        return
    settings = read_settings()
    extra = [f"IMAGE={ensure_image(settings['IMAGE_TAR'])}"] if settings.get("IMAGE_TAR") else []
    argv = as_user("make", "run-gpu" if has_nvidia() else "run-cpu", *extra)
    # The URL holds the token: it is not for the journal.
    if subprocess.run(argv, cwd=CHECKOUT, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=False).returncode:
        raise BootError("the lab did not start; its words stand above", AGAIN)
    say("the lab is up")


def guard() -> None:
    """Close the metadata service to containers, or open it, as the settings say."""
    ensure_guard(read_settings())


def receive() -> None:
    """Take a checkout from stdin, with settings, and run it."""
    packed = sys.stdin.buffer.read()
    with lock():
        ensure_settings(given_settings(sys.argv[2:]))
        target = ensure_checkout(packed, account())
    _go_on_as(target)


def here() -> None:
    """Take the clone that this file is in, with settings, and run it."""
    clone = Path(__file__).resolve().parent.parent
    if not (clone / "Makefile").exists():
        raise BootError(f"{clone} is no clone of the lab", "run it as: sudo python3 provision/bootstrap.py here")
    user = os.environ.get("SUDO_USER") or pwd.getpwuid(clone.stat().st_uid).pw_name
    with lock():
        ensure_settings({"LAB_USER": user, **given_settings(sys.argv[2:])})
        _switch(CHECKOUT, clone)
    _go_on_as(clone)


def _go_on_as(checkout: Path) -> None:
    """Let the checkout's own version of this file go on: an older VM learns what a newer checkout needs."""
    shutil.copy(checkout / "provision/bootstrap.py", HOME / "bootstrap.py.new")
    (HOME / "bootstrap.py.new").replace(HOME / "bootstrap.py")
    os.execv(sys.executable, [sys.executable, str(HOME / "bootstrap.py"), "activate"])


def activate() -> None:
    """Run the checkout that is in place, passing on what the service says, and print the URL."""
    ensure_services()
    before = time.time()
    if is_starting():
        say("the machine is still being prepared; waiting for that …")
        # Stopping it now could cut off apt. Its outcome does not matter here: what follows tries again.
        with contextlib.suppress(BootError):
            follow_until_up(0)
        before = time.time()
    output("systemctl", "reset-failed", UNIT)
    run("systemctl", "restart", "--no-block", UNIT)
    run("systemctl", "start", f"{IDLE}.timer")
    follow_until_up(before)
    url()


def follow() -> None:
    """Wait for the lab, passing on what the service says since boot, and print the URL."""
    follow_until_up(time.time() - float(Path("/proc/uptime").read_text().split()[0]))
    url()


def as_user(*argv: str) -> list[str]:
    """The command line that runs a command as the lab's user, with the lab's settings."""
    user = account()
    pairs = [f"{key}={value}" for key, value in lab_environment(read_settings(), user.pw_dir).items()]
    identity = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups"]
    return ["setpriv", *identity, "env", *pairs, *argv]


def url() -> None:
    """Print the lab's URL and nothing else."""
    if not CHECKOUT.exists():
        raise BootError("the checkout has not arrived yet", "make vm-sync sends it")
    os.chdir(CHECKOUT)
    argv = as_user("make", "url")
    os.execvp(argv[0], argv)


def status() -> None:
    """Print checkout, unit and lab as JSON."""
    lab = ""
    if (CHECKOUT / ".venv/bin/python").exists():
        os.chdir(CHECKOUT)
        argv = as_user(str(CHECKOUT / ".venv/bin/python"), "-m", "scripts.status", "--json")
        lab = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    found = {
        "checkout": CHECKOUT.resolve().name,
        "unit": state_of().get("ActiveState"),
        "lab": json.loads(lab or "null"),
    }
    print(json.dumps(found))


def logs() -> None:
    """The journal of the services; --follow goes on."""
    more = ["--follow"] if "--follow" in sys.argv else []
    os.execvp(
        "journalctl",
        ["journalctl", "--no-pager", "--output=short-iso", "--unit", UNIT, "--unit", f"{IDLE}.service", *more],
    )


def pull() -> None:
    """The workspace as a tar on stdout."""
    home = account().pw_dir
    workspace = Path(lab_environment(read_settings(), home)["WORKSPACE"])
    transform = f"--transform=s,^{re.escape(workspace.name)},workspace,"
    os.execvp("tar", ["tar", "-C", str(workspace.parent), transform, "-cf", "-", workspace.name])


COMMANDS = {
    each.__name__: each for each in (install, up, guard, back, receive, here, activate, follow, url, status, logs, pull)
}


def main() -> None:
    """Run one command; an error is one line and a hint."""
    command = COMMANDS.get(sys.argv[1] if len(sys.argv) > 1 else "")
    if not command:
        sys.exit(f"usage: bootstrap.py {'|'.join(COMMANDS)}")
    if os.getuid():
        sys.exit("error: this changes the machine and needs root\nhint: sudo python3 " + " ".join(sys.argv))
    try:
        command()
    except BootError as error:
        sys.exit(f"error: {error}\nhint: {error.hint}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted\nhint: the service goes on; bootstrap.py follow shows it")


if __name__ == "__main__":
    main()
