"""What a VM size is, told from its name before anything is created; the VM itself trusts its PCI bus.

Facts: learn.microsoft.com/azure/virtual-machines/sizes and its retirement announcements, read in November 2026.
"""

from __future__ import annotations

import re
from enum import Enum

from scripts.console import LabError

GPU_SIZE = "Standard_NC4as_T4_v3"
# Retired families: a VM of them can no longer be created.
RETIRED = {
    r"nc\d+r?(_promo)?": "2023-09-06",
    r"nc\d+r?s_v2(_promo)?": "2023-09-06",
    r"nc\d+r?s_v3(_promo)?": "2025-09-30",
    r"nd\d+r?s": "2023-09-06",
    r"nv\d+(_promo)?": "2023-09-06",
    r"nv\d+s_v2": "2023-09-06",
    r"nv\d+s_v3": "2026-09-30",
    r"nv\d+as_v4": "2026-09-30",
}
# N-series without CUDA: AMD GPUs, FPGAs, media accelerators.
NOT_CUDA = r"np\d|ng\d|nm\d|nv\w*_v710_|nd\w*_mi\d+"
GRID_ONLY = r"nv\w*_a10_v5"


class Kind(Enum):
    """Which container fits a size."""

    CPU = "cpu"
    NVIDIA = "gpu"
    OTHER = "an accelerator without CUDA"


def kind(size: str) -> Kind:
    """Tell a size's kind from its name.

    Raises:
        LabError: the size is retired; the message says since when.

    """
    name = size.lower().removeprefix("standard_")
    for pattern, since in RETIRED.items():
        if re.fullmatch(pattern, name):
            raise LabError(f"SIZE={size} is retired since {since}", hint=f"make vm-create SIZE={GPU_SIZE}")
    if not name.startswith("n"):
        return Kind.CPU
    return Kind.OTHER if re.match(NOT_CUDA, name) else Kind.NVIDIA


def require_driver(size: str, image_urn: str | None) -> None:
    """Refuse a GPU whose driver no image of ours has; an image of the user's own may have it.

    Raises:
        LabError: the GPU is a virtual one that only NVIDIA's GRID driver runs.

    """
    if re.match(GRID_ONLY, size.lower().removeprefix("standard_")) and not image_urn:
        raise LabError(
            f"SIZE={size} needs NVIDIA's GRID driver, which none of the lab's VM images has",
            hint=f"make vm-create SIZE={GPU_SIZE}, or IMAGE_URN= of an image with that driver",
        )
