"""The pictures of first_pytorch_classifier.ipynb. Each function takes plain tensors and shows one figure."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from IPython.display import display

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#999999"  # told apart by colour-blind people too (Okabe and Ito)


def show_images(images: torch.Tensor, titles: Sequence[str], *, columns: int = 8) -> None:
    """Draw images (N, 3, 32, 32), uint8, in a grid, each with its title."""
    _grid(images, titles, [GREY] * len(titles), columns)


def show_predictions(
    images: torch.Tensor, predicted: torch.Tensor, true: torch.Tensor, classes: Sequence[str], *, columns: int = 8
) -> None:
    """Draw images with what the network said; a mistake is marked ✗, in orange, with the right answer below."""
    pairs = list(zip(predicted.tolist(), true.tolist(), strict=True))
    titles = [f"✓ {classes[p]}" if p == t else f"✗ {classes[p]}\nis: {classes[t]}" for p, t in pairs]
    _grid(images, titles, [BLUE if p == t else ORANGE for p, t in pairs], columns)


def show_class_accuracy(accuracy: torch.Tensor, classes: Sequence[str]) -> None:
    """Draw one bar per class, the best on top; accuracy (classes,) from 0 to 1."""
    order = accuracy.argsort().tolist()
    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    bars = axes.barh([classes[each] for each in order], [100 * float(accuracy[each]) for each in order], color=BLUE)
    axes.bar_label(bars, fmt="%.0f %%", padding=3)
    axes.axvline(100 / len(classes), color=ORANGE, linestyle="--", label="chance")
    axes.axvline(100 * float(accuracy.mean()), color=GREY, label="mean")
    axes.set(xlim=(0, 108), xlabel="accuracy per class (%)")
    axes.legend(loc="lower right")
    _show(figure)


def show_confusion(confusion: torch.Tensor, classes: Sequence[str]) -> None:
    """Draw the confusion matrix (true class, predicted class), counts; the diagonal is right."""
    figure, axes = plt.subplots(figsize=(7, 6), layout="constrained")
    share = confusion / confusion.sum(dim=1, keepdim=True).clamp(min=1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="true")
    for row, counts in enumerate(confusion.tolist()):
        for column, count in enumerate(counts):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count:.0f}", ha="center", va="center", color=colour, fontsize=8)
    _show(figure)


class LiveCurve:
    """A figure of loss and training accuracy that is drawn anew, in its place, while the network trains."""

    def __init__(self, steps_per_epoch: int, *, every: float = 4.0) -> None:
        self.steps_per_epoch, self.every = steps_per_epoch, every  # every: seconds between two drawings
        self.losses: list[float] = []
        self.accuracies: list[float] = []
        self.figure, (self.left, self.right) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
        plt.close(self.figure)
        self.handle = display(self.figure, display_id=True)
        self.drawn = time.monotonic()

    def add(self, loss: float, accuracy: float) -> None:
        """Note one step's loss and its batch's accuracy (0 to 1)."""
        self.losses.append(loss)
        self.accuracies.append(100 * accuracy)
        if time.monotonic() - self.drawn >= self.every:
            self.draw()

    def draw(self) -> None:
        """Draw all that was noted."""
        self._line(self.left, self.losses, "loss")
        self._line(self.right, self.accuracies, "training accuracy (%)")
        if self.handle:
            self.handle.update(self.figure)
        self.drawn = time.monotonic()

    def _line(self, axes: Axes, values: list[float], name: str) -> None:
        """Single batches in grey, their mean over a quarter of an epoch in blue."""
        axes.clear()
        epochs = [step / self.steps_per_epoch for step in range(1, len(values) + 1)]
        axes.plot(epochs, values, color=GREY, alpha=0.4, linewidth=0.8)
        width = max(1, self.steps_per_epoch // 4)
        means = [sum(values[max(0, end - width) : end]) / min(end, width) for end in range(1, len(values) + 1)]
        axes.plot(epochs, means, color=BLUE)
        axes.set(xlabel="epoch", title=name)
        axes.grid(alpha=0.3)


def _grid(images: torch.Tensor, titles: Sequence[str], colours: Sequence[str], columns: int) -> None:
    rows = -(-len(titles) // columns)
    size = (1.25 * columns, 1.6 * rows)
    figure, places = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axes in places.flat:
        axes.axis("off")
    for axes, image, title, colour in zip(places.flat, images, titles, colours, strict=False):
        axes.imshow(image.permute(1, 2, 0).numpy(force=True))
        axes.set_title(title, color="black" if colour == GREY else colour, fontsize=9)
    _show(figure)


def _show(figure: Figure) -> None:
    plt.close(figure)  # or the notebook would draw it a second time
    display(figure)
