"""The data of first_pytorch_classifier.ipynb.

CIFAR-10 (A. Krizhevsky, 2009: 50,000 training and 10,000 test images of 32 x 32 pixels in 10 classes) is looked for in
CIFAR10_DIR, then in `data` and `cifar10` beside the notebook, and is downloaded to `data` otherwise. It may be there as
the official batches or their archive, or as images in cifar10/{train,test}/<class>/. Files of yours are only read.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import sys
import tarfile
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from IPython.display import display
from lesson_tools import PLACES, Banner, LessonError, keep, scratch, whole, writable_place
from PIL import Image
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity
from tqdm import tqdm

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZES = {"train": 5000, "test": 1000}  # images per class
FAST_SIZES = {"train": 500, "test": 100}
BATCHES, ARCHIVE, DECODED = CIFAR10.base_folder, CIFAR10.filename, "cifar10-decoded.npz"
NEEDED_BYTES = 600 << 20  # the archive, what is in it, and some air
TIMEOUT = 10  # seconds without a word from the server


@dataclass(frozen=True)
class Data:
    """Labelled images in memory: images uint8 (N, 3, 32, 32), stored channels-last; labels int64 (N,)."""

    name: str
    classes: tuple[str, ...]
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor

    @property
    def is_cifar10(self) -> bool:
        """False for the stand-in: then accuracies say nothing about CIFAR-10."""
        return self.name == "CIFAR-10"


def load(*, fast: bool = False) -> Data:
    """Find or download CIFAR-10; without a network, go on with scikit-learn's digits and say so.

    Raises:
        LessonError: there is data, but it is damaged or incomplete. It is left as it is.

    """
    try:
        kind, path = _find() or _download()
    except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
        return _stand_in(error)
    print(f"CIFAR-10 from {path}")
    try:
        arrays = {"images": _from_images, "batches": _from_batches}[kind](path, fast=fast)
    except OSError as error:
        raise LessonError(f"{path} cannot be read: {error}", hint="check who may read it (ls -l)") from error
    return _as_data("CIFAR-10", CLASSES, arrays)


def _find() -> tuple[str, Path] | None:
    """The kind ('images' or 'batches') and path of data that is here already."""
    asked = os.environ.get("CIFAR10_DIR")
    if not asked:
        places = (*PLACES, Path("cifar10"), Path())
        return next((found for place in places if (found := _look_in(place))), None)
    if found := _look_in(Path(asked).expanduser()):
        return found
    raise LessonError(
        f"CIFAR10_DIR={asked} holds no CIFAR-10",
        hint=f"it should hold {BATCHES}/, {ARCHIVE} or train/ and test/; unset CIFAR10_DIR to download it",
    )


def _look_in(place: Path) -> tuple[str, Path] | None:
    for folder in (place, place / "cifar10"):
        classes = {name for split in SIZES for name in CLASSES if (folder / split / name).is_dir()}
        if len(classes) > len(CLASSES) / 2:  # fewer would be data for something else
            return "images", folder
    for folder in (place, place / BATCHES):
        if (folder / "data_batch_1").is_file():
            return "batches", folder
    if (place / ARCHIVE).is_file():
        return "batches", _unpack(place / ARCHIVE)
    return None


def _unpack(archive: Path) -> Path:
    if not check_integrity(archive, CIFAR10.tgz_md5):
        size = archive.stat().st_size
        raise LessonError(
            f"{archive} is incomplete or damaged: {size:,} bytes, and its checksum is not {CIFAR10.tgz_md5}",
            hint="delete or replace it, then run this cell again",
        )
    place = writable_place()
    with scratch(place) as folder:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        return keep(folder / BATCHES, place)


def _download() -> tuple[str, Path]:
    """Have torchvision download, check and unpack CIFAR-10 in a scratch folder, and keep it only when it is whole."""
    place = writable_place()
    free = shutil.disk_usage(place).free
    if free < NEEDED_BYTES:
        raise OSError(f"{place.resolve()} has {free >> 20} MB free, CIFAR-10 needs {NEEDED_BYTES >> 20} MB")
    print(f"downloading CIFAR-10 to {place} (170 MB, once) …")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        with scratch(place) as folder:
            CIFAR10(folder, download=True)
            return "batches", keep(folder / BATCHES, place)
    finally:
        socket.setdefaulttimeout(before)


def _stand_in(error: Exception) -> Data:
    """scikit-learn's digits (8 x 8, in the package itself) as 32 x 32 RGB, and a banner that says why."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - slow to import, and seldom needed
    from sklearn.model_selection import train_test_split  # noqa: PLC0415

    text = (
        f"CIFAR-10 could not be had: {error}. The lesson goes on with 1,797 handwritten digits that come with "
        "scikit-learn. Every cell runs, but accuracies are those of digits, not of CIFAR-10. With a network, run this "
        "cell again; without one, put CIFAR-10 into the folder data, or set CIFAR10_DIR."
    )
    display(Banner("No CIFAR-10: using handwritten digits instead", text))
    digits = load_digits()
    images = (digits.images * 15).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)[..., None].repeat(3, axis=3)
    parts = train_test_split(images, digits.target, test_size=360, stratify=digits.target, random_state=0)
    arrays = dict(zip(("train_images", "test_images", "train_labels", "test_labels"), parts, strict=True))
    return _as_data("digits (not CIFAR-10)", tuple("0123456789"), arrays)


def _as_data(name: str, classes: tuple[str, ...], arrays: dict[str, Any]) -> Data:
    """NumPy's (N, 32, 32, 3), seen as (N, 3, 32, 32): no copy, and already in the layout that is fast here."""
    tensors = {key: torch.from_numpy(np.ascontiguousarray(array)) for key, array in arrays.items()}
    for key in ("train_images", "test_images"):
        tensors[key] = tensors[key].permute(0, 3, 1, 2)
    for key in ("train_labels", "test_labels"):
        tensors[key] = tensors[key].long()
    return Data(name, classes, **tensors)


def _from_batches(folder: Path, *, fast: bool) -> dict[str, Any]:
    """The official pickles, after their checksums: an unknown pickle is never opened."""
    for name, checksum in (*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])):
        if not check_integrity(folder / name, checksum):
            raise LessonError(
                f"{folder / name} is missing or damaged: its checksum is not {checksum}",
                hint=f"replace {folder}, or move it away to download it anew; then run this cell again",
            )
    here = type("Here", (CIFAR10,), {"base_folder": folder.resolve().name})
    arrays: dict[str, Any] = {}
    for split in SIZES:
        part = here(folder.resolve().parent, train=split == "train")
        images, labels = part.data, np.asarray(part.targets)
        if fast:
            kept = np.concatenate([np.flatnonzero(labels == each)[: FAST_SIZES[split]] for each in range(len(CLASSES))])
            images, labels = images[kept], labels[kept]
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    return arrays


def _from_images(folder: Path, *, fast: bool) -> dict[str, Any]:
    """Images in {train,test}/<class>/, decoded once: the result is kept, and used while no image changes."""
    found = {split: {name: _list_images(folder / split / name) for name in CLASSES} for split in SIZES}
    for split, size in SIZES.items():
        _check_folder(folder / split, found[split], size)
    if fast:
        return _decode({split: {k: v[: FAST_SIZES[split]] for k, v in found[split].items()} for split in SIZES})
    each = (entry for files in found.values() for entries in files.values() for entry in entries)
    state = [(entry.path, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in each]
    fingerprint = hashlib.sha256(repr(state).encode()).hexdigest()
    for place in PLACES:
        if arrays := _read_decoded(place / DECODED, fingerprint):
            return arrays
    arrays = _decode(found)
    try:
        with whole(writable_place() / DECODED) as draft, draft.open("wb") as file:
            np.savez(file, fingerprint=np.array(fingerprint), **arrays)
    except OSError as error:
        print(f"(The decoded images could not be kept for the next time: {error}.)")
    return arrays


def _list_images(folder: Path) -> list[os.DirEntry[str]]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        images = [each for each in entries if each.name.lower().endswith((".jpg", ".jpeg", ".png"))]
    return sorted(images, key=lambda each: each.name)


def _check_folder(folder: Path, files: dict[str, list[os.DirEntry[str]]], size: int) -> None:
    """Ten classes with images, and no eleventh; classes that are not whole are told."""
    hint = f"compare with {', '.join(CLASSES)}; or move the folder away to download CIFAR-10"
    if missing := [name for name in CLASSES if not files[name]]:
        raise LessonError(f"{folder} has no images of {', '.join(missing)}", hint=hint)
    if extra := sorted({each.name for each in folder.glob("[!.]*/")} - {*CLASSES}):
        raise LessonError(f"{folder} has folders that are no CIFAR-10 class: {', '.join(extra)}", hint=hint)
    if odd := [f"{name} {len(entries):,}" for name, entries in files.items() if len(entries) != size]:
        text = f"{folder} should have {size:,} images per class, but has: {', '.join(odd)}."
        display(Banner("Not the whole of CIFAR-10", f"{text} Accuracies will not compare with others'."))


def _decode(found: dict[str, dict[str, list[os.DirEntry[str]]]]) -> dict[str, Any]:
    """Decode every image; what cannot be read is collected, and ends the lesson with the names of the files."""
    arrays: dict[str, Any] = {}
    broken: list[str] = []
    for split, files in found.items():
        paths = [each.path for entries in files.values() for each in entries]
        images = np.empty((len(paths), 32, 32, 3), np.uint8)
        for number, path in enumerate(tqdm(paths, desc=f"decoding {split}", file=sys.stdout, mininterval=0.5)):
            try:
                images[number] = _read_image(path)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                broken.append(f"{path} ({error})")
        labels = np.repeat(np.arange(len(CLASSES)), [len(entries) for entries in files.values()])
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise LessonError(
            f"{len(broken)} of the images cannot be used: {'; '.join(broken[:3])}{more}",
            hint="replace them by whole 32×32 images (unpack the archive again), then run this cell again",
        )
    return arrays


def _read_image(path: str) -> Image.Image:
    with open(path, "rb") as file, Image.open(file) as image:  # noqa: PTH123 - 60,000 times: a Path costs a second
        if image.size != (32, 32):
            raise ValueError(f"{image.width}×{image.height} pixels")
        return image.convert("RGB")


def _read_decoded(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """What an earlier run kept, if it belongs to the same images; a damaged file counts as none."""
    with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(path) as kept:
        if kept["fingerprint"] == fingerprint:
            return {f"{split}_{part}": kept[f"{split}_{part}"] for split in SIZES for part in ("images", "labels")}
    return None
