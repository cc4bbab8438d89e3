"""The classic CIFAR-10 lesson, as it is taught: LeNet-like, batch 4, SGD 0.001/0.9, two epochs, two workers.

Runs inside the lab: `python classic_lesson.py SEED`; prints the training's seconds and the test accuracy as JSON.
"""

import json
import sys
import time

import lesson_data
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

TO_INPUT = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)])


class Photographs(Dataset):
    """As torchvision's CIFAR10 serves them: one image at a time, by way of PIL."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images.permute(0, 2, 3, 1).numpy(), labels.tolist()

    def __len__(self) -> int:
        """How many there are."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """One image (3, 32, 32) and its class."""
        return TO_INPUT(Image.fromarray(self.images[index])), self.labels[index]


def lenet() -> nn.Sequential:
    """Two convolutions and three linear layers, 62,006 weights."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def main() -> None:
    """Train, test, print."""
    torch.manual_seed(int(sys.argv[1]))
    data = lesson_data.load()
    model, loss_function = lenet(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    batches = DataLoader(Photographs(data.train_images, data.train_labels), batch_size=4, shuffle=True, num_workers=2)
    begin = time.perf_counter()
    for _ in range(2):
        running = 0.0
        for images, labels in batches:
            optimizer.zero_grad()
            loss = loss_function(model(images), labels)
            loss.backward()
            optimizer.step()
            running += loss.item()
    seconds = time.perf_counter() - begin
    test, right = DataLoader(Photographs(data.test_images, data.test_labels), batch_size=4), 0
    with torch.inference_mode():
        for images, labels in test:
            right += int((model(images).argmax(dim=1) == labels).sum())
    print(json.dumps({"seconds": seconds, "accuracy": right / len(data.test_labels)}))


if __name__ == "__main__":
    main()
