"""On a machine with an NVIDIA GPU: what no stand-in can show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scripts import gpu_probe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import LabProcess

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not gpu_probe.look_at_host().nvidia, reason="no NVIDIA GPU on this machine's PCI bus"),
]
EPOCH = """
import torch, lesson_data
from torch import nn
data = lesson_data._stand_in(RuntimeError("not needed here"))
model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 64), nn.ReLU(), nn.Linear(64, 10)).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
losses = []
for batch in torch.randperm(len(data.train_images)).split(64):
    with torch.autocast("cuda", torch.float16):
        scores = model(data.train_images[batch].cuda() / 255)
        loss = nn.functional.cross_entropy(scores, data.train_labels[batch].cuda())
    optimizer.zero_grad(); loss.backward(); optimizer.step(); losses.append(loss.item())
print(sum(losses[:5]) > sum(losses[-5:]))
"""
NCCL = """
import os, torch, torch.distributed as dist
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
dist.init_process_group("nccl", rank=0, world_size=1)
tensor = torch.ones(4, device="cuda"); dist.all_reduce(tensor); print(tensor.sum().item())
"""


@pytest.fixture(scope="module")
def real(new_lab: Callable[[], LabProcess]) -> Iterator[LabProcess]:
    """A lab with the real GPU."""
    lab = new_lab()
    done = lab.run("start", "gpu")
    assert done.returncode == 0, done.stderr
    yield lab
    lab.remove()


def test_an_epoch_on_the_gpu(real: LabProcess) -> None:
    """The loss falls over an epoch in 16 bits."""
    got = real.python(f"import sys; sys.path.insert(0, '/workspace')\n{EPOCH}").splitlines()[-1]
    assert got == "True", f"got {got}"


def test_nccl_with_one_process(real: LabProcess) -> None:
    """NCCL starts in the hardened container."""
    got = real.python(NCCL).splitlines()[-1]
    assert got == "4.0", f"got {got}"


def test_memory_is_given_back(real: LabProcess) -> None:
    """A tensor takes the GPU's memory, and gives it back."""
    code = "import torch; t = torch.empty(1 << 28, device='cuda'); a = torch.cuda.memory_allocated(); del t; "
    got = real.python(code + "print(a, torch.cuda.memory_allocated())")
    assert got == f"{1 << 30} 0", f"got {got}"


def test_the_meter_sees_the_gpu(real: LabProcess) -> None:
    """NVML inside the container names the GPU that status shows."""
    got = real.python("import pynvml; pynvml.nvmlInit(); print(pynvml.nvmlDeviceGetCount())")
    assert int(got) >= 1, f"got {got}"
