"""What keeps a learner's work and mind safe in first_pytorch_classifier.ipynb: clear messages, whole files.

Importing this also explains the error of a name that is not defined yet.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from IPython import get_ipython
from IPython.display import display

if TYPE_CHECKING:
    from collections.abc import Iterator

# Where the lesson writes: beside the notebook, or in the home folder when that cannot be written.
PLACES = (Path("data"), Path.home() / ".cache/first_pytorch_classifier")


class LessonError(Exception):
    """What went wrong, and what to do; shown in the notebook without the path through this module."""

    def __init__(self, what: str, *, hint: str) -> None:
        super().__init__(f"{what}\nhint: {hint}")

    def _render_traceback_(self) -> list[str]:
        """IPython shows these lines instead of a traceback."""
        return [f"\x1b[1;31m{type(self).__name__}\x1b[0m: {self}"]


class Banner:
    """A message that nobody overlooks, in a browser and in plain text."""

    def __init__(self, title: str, text: str) -> None:
        self.title, self.text = title, text

    def __repr__(self) -> str:
        """Plain text."""
        return f"*** {self.title} ***\n{self.text}"

    def _repr_html_(self) -> str:
        """A coloured box."""
        style = "background:#fff3cd;color:#664d03;border-left:6px solid #e69f00;padding:.8em 1em;margin:.5em 0"
        return f'<div style="{style}"><strong>{escape(self.title)}</strong><br>{escape(self.text)}</div>'


def save(weights: dict[str, torch.Tensor], name: str) -> Path:
    """torch.save beside the notebook, so that the file is whole or is not there; return where it is.

    Raises:
        LessonError: neither the workspace nor the home folder can be written, or both are full.

    """
    for place in (Path(), PLACES[1]):
        try:
            place.mkdir(parents=True, exist_ok=True)
            with whole(place / name) as draft:
                torch.save(weights, draft)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            display(Banner("Not saved here", f"{place.resolve() / name} cannot be written: {error}"))
        else:
            return place / name
    raise LessonError(
        f"{name} could not be saved", hint="free some space (df -h shows where), then run this cell again"
    )


def check_ready(model: torch.nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
    """Notice cells run out of order before they give a wrong result without a word.

    Raises:
        LessonError: the optimizer works on another model, the scheduler on another optimizer, or training was begun.

    """
    again = "run the cells from '2. Define a network' on, in order (Run → Run Selected Cell and All Below)"
    if optimizer.param_groups[0]["params"][0] is not next(model.parameters()):
        raise LessonError("the optimizer belongs to an earlier model: training would change nothing", hint=again)
    if scheduler.optimizer is not optimizer:
        raise LessonError("the scheduler belongs to an earlier optimizer", hint=again)
    if scheduler.last_epoch > 0:
        done = f"{scheduler.last_epoch} of {scheduler.total_steps} steps"
        raise LessonError(f"this model has been trained already, for {done}", hint=f"to train it anew, {again}")


def writable_place() -> Path:
    """The first of PLACES that can be written; made if it is missing."""
    for place in PLACES:
        with suppress(OSError):
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                return place
    raise OSError(f"neither {PLACES[0].resolve()} nor {PLACES[1]} can be written")


@contextmanager
def scratch(place: Path) -> Iterator[Path]:
    """A hidden folder that is gone afterwards, whatever happens; one that a killed kernel left goes as well."""
    for left in place.glob(".unfinished-*"):
        if left.stat().st_mtime < time.time() - 3600:  # a younger one may be another notebook's, at work
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=place) as folder:
        yield Path(folder)


def keep(folder: Path, place: Path) -> Path:
    """Move a finished folder to where the next run finds it, in one step; what is there already stays."""
    target = place / folder.name
    if not target.exists():
        folder.rename(target)
    return target


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its name when it is complete, and is removed otherwise."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _explain_missing_name(shell: Any, kind: type, error: NameError, trace: Any, tb_offset: int | None = None) -> None:
    """A first day's most frequent error, with the reason beside it."""
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
    print(f"hint: {error.name!r} is made by a cell further up that has not run since the kernel started.")
    print("      Menu: Run → Run All Above Selected Cell; then run this cell again.")


if shell := get_ipython():
    shell.set_custom_exc((NameError,), _explain_missing_name)
