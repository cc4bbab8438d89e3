"""The VM images, best first. The VM's bootstrap installs what an image lacks: the first is a convenience."""

from __future__ import annotations

from dataclasses import dataclass

from provision.sizes import Kind

SMALLEST_DISK = 128  # GB: the lab's image, its build and the system


@dataclass(frozen=True)
class Image:
    """A marketplace image: its URN, the least disk in GB that leaves room for the lab, and what it is."""

    urn: str
    disk_gb: int
    words: str


DSVM = Image("microsoft-dsvm:ubuntu-2204:2204-gen2:latest", 200, "the Data Science VM (Ubuntu 22.04, driver inside)")
HPC = Image("microsoft-dsvm:ubuntu-hpc:2404:latest", 200, "Ubuntu 24.04 HPC, with a newer driver inside")
UBUNTU = Image(
    "Canonical:ubuntu-24_04-lts:server:latest", SMALLEST_DISK, "plain Ubuntu 24.04; the rest is installed at first boot"
)


def candidates(kind: Kind, image_urn: str | None) -> tuple[Image, ...]:
    """The images to try in turn; the user's own is the only candidate."""
    if image_urn:
        return (Image(image_urn, SMALLEST_DISK, "the image that you named"),)
    return (DSVM, HPC, UBUNTU) if kind is Kind.NVIDIA else (DSVM, UBUNTU)
