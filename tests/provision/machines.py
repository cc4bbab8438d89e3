"""Machines that stand in for a cloud VM: a Debian root file system, booted by systemd-nspawn or under QEMU.

Both get what Azure gives a VM: the account with the caller's key, password-free sudo, and the custom data.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from provision.settings import USER
from scripts import host
from scripts.base import bootstrap_argv
from scripts.settings import ROOT, Settings
from scripts.spec import NOFILE
from tests.conftest import free_port, skip_unless_ci

UID = 1000
PACKAGES = (
    "systemd-sysv,udev,dbus,iproute2,ifupdown,isc-dhcp-client,cloud-init,openssh-server,sudo,make,ca-certificates,"
    "python3-venv,docker.io,docker-cli,iptables,apparmor,e2fsprogs,linux-image-cloud-amd64,initramfs-tools"
)
# Packages of the image that the server itself does not import.
FOR_NOTEBOOKS = ("torch*", "nvidia", "triton", "cuda", "scipy*", "numpy*", "pandas", "sklearn", "sympy", "networkx",
                 "matplotlib", "fontTools", "PIL", "pillow.libs", "tensorboard*", "grpc", "pip")  # fmt: skip
# What a machine that shares this one's network and engine must not start.
MASKED = ("docker.socket", "containerd.service", "networking.service", "systemd-networkd.service", "apparmor.service",
          "ssh.socket", "getty.target", "console-getty.service")  # fmt: skip
IDLE_ENGINE = """[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'echo 1 >/run/docker.pid'
[Install]
WantedBy=multi-user.target
"""


# QEMU's own network, with the address that its DHCP would give: a lease takes an emulated machine long.
QEMU_NETWORK = """auto lo
iface lo inet loopback
auto eth0
iface eth0 inet static
    address 10.0.2.15/24
"""


def require_root(*programs: str) -> None:
    """Skip, or fail in CI, where machines cannot be made."""
    missing = [each for each in programs if not host.find_program(each)]
    if os.getuid() or missing:
        skip_unless_ci(f"making machines needs root and {', '.join(missing or programs)}")


def build_root(archive: Path) -> None:
    """Bootstrap the root file system of a Debian VM with its engine and cloud-init into a tar archive."""
    command = bootstrap_argv(archive=archive, mirror=Settings.load(os.environ).debian_mirror)
    done = subprocess.run(
        [*command[:1], f"--include={PACKAGES}", *command[1:]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"mmdebstrap failed:\n{done.stderr[-3000:]}"


def unpack(archive: Path, root: Path) -> None:
    """Unpack it; the devices are the booting system's."""
    root.mkdir()
    subprocess.run(["tar", "-xf", str(archive), "-C", str(root), "--exclude=./dev/*"], check=True)


def download_wheels(folder: Path) -> None:
    """Fetch the wheels of the host tools for the VM's Python: an air-gapped VM installs from a folder."""
    python = Path(sys.executable).parent
    requirements = folder / "requirements.txt"
    export = [str(python / "uv"), "export", "--quiet", "--frozen", "--no-emit-project", "--no-default-groups"]
    subprocess.run([*export, f"--output-file={requirements}"], cwd=ROOT, check=True)
    # The newest Python of the VMs; pip, because uv cannot download. It comes with any venv but ours.
    subprocess.run([str(python / "uv"), "venv", "--quiet", "--seed", str(folder / "pip")], check=True)
    pip = [
        str(folder / "pip/bin/python"),
        "-m",
        "pip",
        "-qq",
        "--disable-pip-version-check",
        "download",
        "--no-deps",
    ]
    wanted = [
        "--only-binary=:all:",
        "--python-version=3.13",
        "--platform=manylinux2014_x86_64",
        "--platform=manylinux_2_28_x86_64",
        "--platform=manylinux_2_17_x86_64",
        "--dest",
        str(folder),
    ]
    for lock in (requirements, ROOT / "docker/requirements/uv.txt"):
        subprocess.run([*pip, *wanted, "--requirement", str(lock)], check=True)
    shutil.rmtree(folder / "pip")


def give_account(root: Path, home: Path) -> None:
    """Create the account as Azure's agent does; `home` is its path on the machine."""
    run_in(root, "useradd", "--uid", str(UID), "--home-dir", str(home), "--shell", "/bin/bash", USER)
    (root / "etc/sudoers.d/90-azure").write_text(f"{USER} ALL=(ALL) NOPASSWD:ALL\n")


def give_key(home: Path, public_key: str) -> None:
    """Admit a key; `home` is the account's home as this machine sees it."""
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/authorized_keys").write_text(public_key)
    for path in (home, home / ".ssh", home / ".ssh/authorized_keys"):
        os.chown(path, UID, UID)
    (home / ".ssh").chmod(0o700)


def give_seed(root: Path, custom_data: str) -> None:
    """Lay the custom data where cloud-init looks for it without a cloud."""
    seed = root / "var/lib/cloud/seed/nocloud"
    seed.mkdir(parents=True, exist_ok=True)
    (seed / "user-data").write_text(custom_data)
    (root / "etc/hosts").write_text("127.0.0.1 localhost vm\n")
    (seed / "meta-data").write_text('{"instance-id": "test", "local-hostname": "vm"}')
    (seed / "network-config").write_text('{"config": "disabled"}')


def run_in(root: Path, *argv: str) -> str:
    """Run a program of a root file system's own."""
    environ = {**os.environ, "PATH": host.SYSTEM_PATH}  # this one's PATH may lack the folders of system programs
    done = subprocess.run(["chroot", str(root), *argv], capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 0, f"{argv} failed:\n{done.stdout}{done.stderr}"
    return done.stdout


@dataclass
class Nspawn:
    """A machine with the real systemd and cloud-init that shares this one's network and Docker engine.

    What the lab mounts lies below `shared`, which has the same path inside and outside: the engine is outside.
    """

    root: Path
    shared: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def home(self) -> Path:
        """The account's home, inside and outside."""
        return self.shared / "home"

    @property
    def ssh_options(self) -> str:
        """What leads ssh to this machine, whatever the host's name."""
        return f"-o HostName=127.0.0.1 -o Port={self.port}"

    def prepare(self, custom_data: str, public_key: str) -> None:
        """Make the root file system bootable here, with an account and its custom data."""
        units = self.root / "etc/systemd/system"
        for unit in MASKED:
            (units / unit).symlink_to("/dev/null")
        (units / "docker.service").write_text(IDLE_ENGINE)
        run_in(self.root, "groupmod", "--gid", str(Path("/run/docker.sock").stat().st_gid), "--non-unique", "docker")
        give_account(self.root, self.home)
        give_key(self.home, public_key)
        give_seed(self.root, custom_data)
        (self.root / "etc/ssh/sshd_config.d/test.conf").write_text(f"Port {self.port}\nListenAddress 127.0.0.1\n")

    def boot(self) -> None:
        """Start it."""
        # This system's control groups are of the first version, which a new systemd only takes when told to.
        legacy = Path("/sys/fs/cgroup/systemd").exists()
        words = ["systemd.unified_cgroup_hierarchy=0", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"] if legacy else []
        # The engine may start containers with no more open files than it has itself; process 1 there stands for it.
        limits = [f"--rlimit=RLIMIT_NOFILE={host.open_files_limit(NOFILE)}", "--drop-capability=CAP_SYS_RESOURCE"]
        argv = ["systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}", "--register=no", "--keep-unit",
                f"--bind={self.shared}", "--bind=/run/docker.sock", "--console=pipe", *limits, *words]  # fmt: skip
        with (self.root.parent / "console.log").open("ab") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def stop(self) -> None:
        """Shut it down, as a power button does."""
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None


@dataclass
class Qemu:
    """A VM with a kernel, a disk and an engine of its own, emulated, without any way out of its network."""

    root: Path
    data: Path
    port: int = field(default_factory=free_port)
    lab_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    home = Path("/home") / USER

    @property
    def ssh_options(self) -> str:
        """What leads ssh to this machine, whatever the host's name."""
        return f"-o HostName=127.0.0.1 -o Port={self.port}"

    @property
    def console(self) -> Path:
        """What the machine wrote to its serial console."""
        return self.root.parent / "console.log"

    def prepare(self, custom_data: str, public_key: str) -> None:
        """Make the system disk, with an account and its custom data, and the disk with image and wheels."""
        give_account(self.root, self.home)
        give_key(self.root / str(self.home).lstrip("/"), public_key)
        give_seed(self.root, custom_data)
        (self.root / "etc/network/interfaces").write_text(QEMU_NETWORK)
        with (self.root / "etc/fstab").open("a") as table:
            table.write("LABEL=data /data ext4 defaults,nofail 0 2\n")
        make_disk(self.root, "system", "8G")
        make_disk(self.data, "data", "4G")
        for name in ("vmlinuz", "initrd.img"):
            shutil.copy(next((self.root / "boot").glob(f"{name}-*")), self.root.parent / name)
        shutil.rmtree(self.root)

    def boot(self) -> None:
        """Start it; a reboot inside is one here too."""
        folder = self.root.parent
        forwards = f"hostfwd=tcp:127.0.0.1:{self.port}-:22,hostfwd=tcp:127.0.0.1:{self.lab_port}-:8888"
        disks = [word for name in ("root", "data")
                 for word in ("-drive", f"file={folder / name}.img,format=raw,if=virtio,cache=unsafe")]  # fmt: skip
        argv = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3072",
                "-nographic", "-kernel", str(folder / "vmlinuz"), "-initrd", str(folder / "initrd.img"),
                "-append", "root=LABEL=system rw console=ttyS0 quiet apparmor=0 net.ifnames=0", *disks,
                "-netdev", f"user,id=net,restrict=on,{forwards}", "-device", "virtio-net-pci,netdev=net"]  # fmt: skip
        with self.console.open("ab") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def stop(self) -> None:
        """Pull the plug."""
        if self.process:
            self.process.kill()
            self.process.wait()


def make_disk(folder: Path, label: str, size: str) -> None:
    """Make an ext4 disk image `<folder>.img` with a folder's files."""
    image = folder.with_suffix(".img")
    argv = ["mke2fs", "-q", "-t", "ext4", "-L", label, "-d", str(folder), str(image), size]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def save_without_torch(image: str, name: str, archive: Path) -> None:
    """Save an image of the server alone, a fifteenth of the size, that an emulated machine can load."""
    config = json.loads(subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=True).stdout)
    settings = config[0]["Config"]
    changes = [f"ENV {each.replace('=', '=' + chr(34), 1)}{chr(34)}" for each in settings["Env"]]
    changes += [f"USER {settings['User']}", f"WORKDIR {settings['WorkingDir']}"]
    changes += [f"ENTRYPOINT {json.dumps(settings['Entrypoint'])}", f"CMD {json.dumps(settings['Cmd'])}"]
    site = "opt/venv/lib/python3.13/site-packages"
    heavy = [f"--exclude=./{site}/{each}" for each in FOR_NOTEBOOKS]
    pack = ["docker", "run", "--rm", "--user", "0", "--network", "none", "--entrypoint", "tar", image, "-C", "/",
            "--exclude=./proc", "--exclude=./sys", "--exclude=./dev", *heavy, "-cf", "-", "."]  # fmt: skip
    load = ["docker", "import", *(word for each in changes for word in ("--change", each)), "-", name]
    with subprocess.Popen(pack, stdout=subprocess.PIPE) as packing:
        subprocess.run(load, stdin=packing.stdout, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["docker", "save", "--output", str(archive), name], check=True)
    subprocess.run(["docker", "image", "rm", name], check=True, stdout=subprocess.DEVNULL)
