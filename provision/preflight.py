"""What Azure would refuse, found before anything is created: the size, its quota, the image, the name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from provision import images
from scripts.console import LabError, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provision.az import Az
    from provision.images import Image
    from provision.settings import VmSettings
    from provision.sizes import Kind

SPOT_QUOTA = "lowPriorityCores"


@dataclass(frozen=True)
class SizeFacts:
    """What Azure tells of a size: its CPUs, the quota family, and what its machines can do."""

    cpus: int
    family: str
    trusted_launch: bool


@dataclass(frozen=True)
class ChosenImage:
    """An image that can be had there: its disk in GB, and whether it starts with Trusted Launch."""

    image: Image
    disk_gb: int
    trusted_launch: bool


def require_size(az: Az, settings: VmSettings) -> SizeFacts:
    """Have a size that this subscription can create there.

    Raises:
        LabError: unknown in the region, closed to the subscription, not x86-64, without Gen2, or never spot.

    """
    where = ["--location", settings.region, "--size", settings.size, "--resource-type", "virtualMachines", "--all"]
    found = az.read("vm", "list-skus", *where, assume=[_assumed_size(settings.size)])
    return read_size(found, size=settings.size, region=settings.region, spot=settings.spot)


def _assumed_size(size: str) -> dict[str, Any]:
    return {"name": size, "family": "", "capabilities": [{"name": "vCPUs", "value": "0"}], "restrictions": []}


def read_size(found: Sequence[dict[str, Any]], *, size: str, region: str, spot: bool) -> SizeFacts:
    """Judge what `az vm list-skus` answers."""
    sku = next((each for each in found if each["name"].lower() == size.lower()), None)
    if not sku:
        hint = f"az vm list-skus --location {region} --resource-type virtualMachines --output table lists what there is"
        raise LabError(f"SIZE={size} does not exist in REGION={region}", hint=hint)
    if any(each["type"] == "Location" for each in sku.get("restrictions") or []):
        reason = sku["restrictions"][0].get("reasonCode", "restricted")
        raise LabError(
            f"SIZE={size} is not open to this subscription in REGION={region} ({reason})",
            hint="another REGION= or SIZE=",
        )
    able = {each["name"]: each["value"] for each in sku["capabilities"]}
    if able.get("CpuArchitectureType", "x64") != "x64":
        raise LabError(
            f"SIZE={size} has {able['CpuArchitectureType']} CPUs, the lab's image is x86-64", hint="another SIZE="
        )
    if "V2" not in able.get("HyperVGenerations", "V2"):
        raise LabError(f"SIZE={size} cannot start Gen2 images", hint="a newer SIZE=, such as Standard_D4s_v5")
    if spot and able.get("LowPriorityCapable", "True") != "True":
        raise LabError(f"SIZE={size} is never sold as spot", hint="leave SPOT=1 out")
    return SizeFacts(int(able["vCPUs"]), sku["family"], able.get("TrustedLaunchDisabled", "False") != "True")


def require_quota(az: Az, facts: SizeFacts, settings: VmSettings) -> None:
    """Have the CPUs left in every quota that counts: the family's and the region's, or the one for spot.

    Raises:
        LabError: one is too small; the message says which, how many are used and how many there are.

    """
    counted = {SPOT_QUOTA.lower()} if settings.spot else {"cores", facts.family.lower()}
    for usage in az.read("vm", "list-usage", "--location", settings.region, assume=[]):
        used, limit = int(usage["currentValue"]), int(usage["limit"])
        if usage["name"]["value"].lower() in counted and used + facts.cpus > limit:
            raise LabError(
                f"SIZE={settings.size} needs {facts.cpus} CPUs, and the quota {usage['localName']!r} "
                f"in REGION={settings.region} has {max(0, limit - used)} left of {limit}",
                hint="ask for more at https://aka.ms/azquota (N-series begins at 0), or another SIZE= or REGION=",
            )


def choose_image(az: Az, kind: Kind, settings: VmSettings, facts: SizeFacts) -> ChosenImage:
    """Take the first image of the table that can be had in the region, and say so when it is not the first.

    Raises:
        LabError: none can be had.

    """
    region = settings.region
    for image in images.candidates(kind, settings.image_urn):
        assumed = {"features": [{"name": "SecurityType", "value": "TrustedLaunchSupported"}]}
        found = az.find("vm", "image", "show", "--location", region, "--urn", image.urn, assume=assumed)
        problem = "not to be had there" if found is None else why_not(found)
        if found is not None and not problem:
            say(f"VM image: {image.words}")
            disk = max(image.disk_gb, int((found.get("osDiskImage") or {}).get("sizeInGb") or 0))
            return ChosenImage(image, disk, facts.trusted_launch and supports_trusted_launch(found))
        say(f"VM image {image.urn}: {problem} (REGION={region})")
    raise LabError(
        f"none of the VM images can be had in REGION={region}",
        hint="another REGION=, or IMAGE_URN=publisher:offer:sku:version",
    )


def why_not(found: dict[str, Any]) -> str:
    """Why an image that exists cannot be used; empty when it can."""
    if found.get("plan"):
        return "has purchase terms to accept first"
    state = (found.get("imageDeprecationStatus") or {}).get("imageState", "Active")
    if state == "Deprecated":
        return "is deprecated and no longer starts"
    return "is for arm64 CPUs" if (found.get("architecture") or "x64").lower() == "arm64" else ""


def supports_trusted_launch(found: dict[str, Any]) -> bool:
    """Whether the image's own list of features has Trusted Launch (az's automatic choice misreads it)."""
    return any(
        each["name"] == "SecurityType" and "TrustedLaunch" in each["value"] for each in found.get("features") or []
    )


def require_name(az: Az, name: str, region: str) -> None:
    """Have an address that nobody else has.

    Raises:
        LabError: it is taken.

    """
    path = f"/subscriptions/{{subscriptionId}}/providers/Microsoft.Network/locations/{region}/CheckDnsNameAvailability"
    url = f"{path}?domainNameLabel={name}&api-version=2024-05-01"
    if not az.read("rest", "--method", "get", "--url", url, assume={"available": True})["available"]:
        raise LabError(
            f"NAME={name} is taken by somebody else in REGION={region}", hint=f"make vm-create NAME={name}-2"
        )
