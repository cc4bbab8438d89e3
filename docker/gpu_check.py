"""Print as JSON whether torch can compute on the GPUs that this container was given; run after its start."""

import json

import torch


def devices() -> list[dict[str, object]]:
    """Every GPU's name and memory in bytes, after a small product on it that must match the CPU's.

    Raises:
        RuntimeError: torch sees no GPU (in the driver's own words), or one computes something else.

    """
    torch.cuda.init()
    matrix = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    expected = matrix @ matrix
    found: list[dict[str, object]] = []
    for index in range(torch.cuda.device_count()):
        difference = ((matrix.to(f"cuda:{index}") @ matrix.to(f"cuda:{index}")).cpu() - expected).abs().max().item()
        if difference > 0.05:
            raise RuntimeError(f"GPU {index} computes a product that is wrong by {difference:.3g}")
        properties = torch.cuda.get_device_properties(index)
        found.append({"name": properties.name, "memory": properties.total_memory})
    return found


try:
    print(json.dumps({"devices": devices(), "problem": ""}))
except (RuntimeError, AssertionError) as error:
    print(json.dumps({"devices": [], "problem": " ".join(str(error).split())}))
