"""Bad data, bad disks, cells out of order: a clear message, never a wrong result, the user's files untouched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.notebooks.conftest import Sandbox

# A folder of its own, with CIFAR-10 in miniature: three images per class.
MINIATURE = """
import os, pathlib, tempfile
import numpy as np
from PIL import Image
import lesson_data, lesson_tools

os.chdir(tempfile.mkdtemp())
root = pathlib.Path("data/cifar10")
for split in ("train", "test"):
    for number, name in enumerate(lesson_data.CLASSES):
        (root / split / name).mkdir(parents=True)
        for index in range(3):
            image = np.full((32, 32, 3), 20 * number + index, np.uint8)
            Image.fromarray(image).save(root / split / name / f"{index}.png")
"""
# A server on loopback that stands in for CIFAR-10's, with an archive in miniature that has the real layout.
SERVER = """
import hashlib, http.server, io, os, pathlib, pickle, tarfile, tempfile, threading
import numpy as np
import lesson_data
from torchvision.datasets import CIFAR10

os.chdir(tempfile.mkdtemp())
os.environ["no_proxy"] = "*"
md5 = lambda data: hashlib.md5(data).hexdigest()
batch = pickle.dumps({"data": np.arange(10 * 3072, dtype=np.uint8).reshape(10, 3072), "labels": list(range(10))})
meta = pickle.dumps({"label_names": list(lesson_data.CLASSES)})
names = [f"data_batch_{number}" for number in range(1, 6)]
CIFAR10.train_list, CIFAR10.test_list = [[name, md5(batch)] for name in names], [["test_batch", md5(batch)]]
CIFAR10.meta = {**CIFAR10.meta, "md5": md5(meta)}
buffer = io.BytesIO()
with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
    for name, content in [(each, batch) for each in (*names, "test_batch")] + [("batches.meta", meta)]:
        info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
whole = buffer.getvalue()
CIFAR10.tgz_md5 = md5(whole)
sent, length = whole, len(whole)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(sent)
    do_HEAD = do_GET
    def log_message(self, *arguments): pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
CIFAR10.url = f"http://127.0.0.1:{server.server_address[1]}/cifar.tar.gz"
lesson_data.NEEDED_BYTES = 1 << 20
left = lambda: sorted(path.name for path in pathlib.Path("data").iterdir())
"""
TRAINING = """
import torch, lesson_tools
def build(parameters):
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
model, other = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
optimizer, scheduler = build(model.parameters())
"""


def fails_with(sandbox: Sandbox, code: str, *expected: str) -> None:
    """Require that the code ends with a LessonError that has all these parts."""
    exit_code, output = sandbox.python(code)
    missing = [each for each in (*expected, "LessonError", "hint: ") if each not in output]
    assert (exit_code, missing) == (1, []), f"got exit code {exit_code} without {missing}:\n{output}"


def prints(sandbox: Sandbox, code: str, expected: str) -> None:
    """Require that the code runs and that its last line is this one."""
    exit_code, output = sandbox.python(code)
    got = output.strip().split("\n")[-1]
    assert (exit_code, got) == (0, expected), (
        f"got exit code {exit_code}, expected the last line {expected!r}:\n{output}"
    )


def test_a_folder_of_images_is_read_in_order(sandbox: Sandbox) -> None:
    """Each image of a class folder gets that class's number, and its pixels arrive as they are."""
    code = (
        "d = lesson_data.load(); print(d.train_labels.bincount().tolist(), d.test_images[9 * 3 + 2].unique().tolist())"
    )
    prints(sandbox, MINIATURE + code, f"{[3] * 10} [182]")


def test_a_folder_that_is_not_whole_is_told(sandbox: Sandbox) -> None:
    """Fewer images than CIFAR-10 has are used, and a banner says that there are fewer."""
    _, output = sandbox.python(MINIATURE + "lesson_data.load()")
    assert "*** Not the whole of CIFAR-10 ***" in output, f"got {output}"


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("import shutil; shutil.rmtree(root / 'test/frog')", "data/cifar10/test has no images of frog"),
        ("(root / 'train/horses').mkdir()", "data/cifar10/train has folders that are no CIFAR-10 class: horses"),
        ("p = root / 'train/cat/1.png'; p.write_bytes(p.read_bytes()[:60])", "data/cifar10/train/cat/1.png ("),
        ("(root / 'train/cat/1.png').write_bytes(b'')", "1 of the images cannot be used"),
        ("Image.new('RGB', (1, 1)).save(root / 'test/dog/0.png')", "test/dog/0.png (1×1 pixels)"),
        ("os.environ['CIFAR10_DIR'] = '/nowhere'", "CIFAR10_DIR=/nowhere holds no CIFAR-10"),
        ("os.chmod(root / 'train/cat', 0)", "data/cifar10 cannot be read"),
    ],
    ids=["missing class", "unknown class", "half an image", "empty image", "wrong size", "wrong setting", "forbidden"],
)
def test_damaged_images_are_named(sandbox: Sandbox, damage: str, expected: str) -> None:
    """A folder that cannot be trusted ends the lesson with the place of the damage; it is never skipped or guessed."""
    fails_with(sandbox, f"{MINIATURE}\n{damage}\nlesson_data.load()", expected)


def test_images_for_something_else_are_left_alone(sandbox: Sandbox) -> None:
    """A learner's own data/train/cat and dog are not mistaken for CIFAR-10."""
    others = "[each for each in lesson_data.CLASSES if each not in ('cat', 'dog')]"
    code = f"import shutil\n[shutil.rmtree(path) for each in {others} for path in root.glob('*/' + each)]\n"
    prints(sandbox, f"{MINIATURE}{code}print(lesson_data.load().name)", "digits (not CIFAR-10)")


def test_images_are_decoded_once(sandbox: Sandbox) -> None:
    """The second time the decoded images are read from one file."""
    code = "a = lesson_data.load(); lesson_data._decode = None; b = lesson_data.load()\n"
    prints(sandbox, MINIATURE + code + "print(a.train_images.equal(b.train_images))", "True")


def test_a_changed_image_is_decoded_again(sandbox: Sandbox) -> None:
    """Decoded images are not used when a source has changed since."""
    change = "lesson_data.load(); Image.new('RGB', (32, 32), 'white').save(root / 'test/truck/2.png')\n"
    prints(sandbox, MINIATURE + change + "print(lesson_data.load().test_images[-1].unique().tolist())", "[255]")


def test_damaged_decoded_images_are_made_again(sandbox: Sandbox) -> None:
    """Half a file of decoded images, as a power cut leaves it, counts as none."""
    cut = (
        "a = lesson_data.load(); f = pathlib.Path('data/cifar10-decoded.npz'); os.truncate(f, f.stat().st_size // 2)\n"
    )
    prints(sandbox, MINIATURE + cut + "print(lesson_data.load().train_images.equal(a.train_images))", "True")


def test_a_download_is_checked_and_kept(sandbox: Sandbox) -> None:
    """CIFAR-10 is downloaded once, and only the unpacked batches stay."""
    code = "lesson_data.load(); server.shutdown(); d = lesson_data.load(); print(d.name, len(d.train_images), left())"
    prints(sandbox, SERVER + code, "CIFAR-10 50 ['cifar-10-batches-py']")


@pytest.mark.parametrize(
    "fault",
    ["sent = whole[: len(whole) // 2]", "sent = b'<html>Please log in</html>'; length = len(sent)"],
    ids=["half a download", "wrong checksum"],
)
def test_a_bad_download_leaves_nothing(sandbox: Sandbox, fault: str) -> None:
    """A download that breaks off or has another checksum is thrown away; the banner says so, the digits stand in."""
    code = f"{SERVER}\n{fault}\nprint(lesson_data.load().name, left())"
    prints(sandbox, code, "digits (not CIFAR-10) []")


def test_the_next_download_succeeds(sandbox: Sandbox) -> None:
    """After a download that broke off the same cell, run again, gets the whole."""
    code = f"{SERVER}\nsent = whole[:1000]; lesson_data.load(); sent = whole; print(lesson_data.load().name)"
    prints(sandbox, code, "CIFAR-10")


def test_what_a_killed_download_left_is_removed(sandbox: Sandbox) -> None:
    """A kernel killed during a download leaves a hidden folder; a later download removes it."""
    old = "p = pathlib.Path('data/.unfinished-x'); p.mkdir(parents=True); os.utime(p, (0, 0))"
    prints(sandbox, f"{SERVER}\n{old}\nlesson_data.load(); print(left())", "['cifar-10-batches-py']")


def test_half_an_archive_of_ones_own_is_named(sandbox: Sandbox) -> None:
    """A half-copied archive in the workspace ends the lesson with its size."""
    put = "os.mkdir('data'); f = pathlib.Path('data/cifar-10-python.tar.gz'); f.write_bytes(whole[:1000])"
    expected = "data/cifar-10-python.tar.gz is incomplete or damaged: 1,000 bytes"
    fails_with(sandbox, f"{SERVER}\n{put}\nlesson_data.load()", expected)


def test_half_an_archive_of_ones_own_is_left_alone(sandbox: Sandbox) -> None:
    """The half-copied archive stays as it is: it is the user's."""
    put = "os.mkdir('data'); f = pathlib.Path('data/cifar-10-python.tar.gz'); f.write_bytes(whole[:1000])"
    load = "try: lesson_data.load()\nexcept lesson_data.LessonError: print(left(), f.read_bytes() == whole[:1000])"
    prints(sandbox, f"{SERVER}\n{put}\n{load}", "['cifar-10-python.tar.gz'] True")


def test_an_archive_of_ones_own_is_unpacked(sandbox: Sandbox) -> None:
    """A whole archive in the workspace is used without a network."""
    put = "os.mkdir('data'); pathlib.Path('data/cifar-10-python.tar.gz').write_bytes(whole); server.shutdown()"
    prints(sandbox, f"{SERVER}\n{put}\nprint(lesson_data.load().name)", "CIFAR-10")


def test_an_unknown_pickle_is_never_opened(sandbox: Sandbox) -> None:
    """A batch file with another checksum is named and not unpickled: pickles can run anything."""
    swap = "lesson_data.load(); f = pathlib.Path('data/cifar-10-batches-py/data_batch_3')"
    bomb = "f.write_bytes(b'cos\\nsystem\\n(S\"echo OPENED\"\\ntR.')"
    code = f"{SERVER}\n{swap}\n{bomb}\nlesson_data.load()"
    fails_with(sandbox, code, "data/cifar-10-batches-py/data_batch_3 is missing or damaged")
    _, output = sandbox.python(code)
    assert "OPENED" not in output, f"got {output}"


def test_a_full_disk_is_told_before_a_download(sandbox: Sandbox) -> None:
    """Where CIFAR-10 does not fit, the banner says how much room there is, and the lesson goes on."""
    code = "import os; os.chdir('/tmp/small'); import lesson_data; lesson_data.load()"
    exit_code, output = sandbox.python(code)
    expected = "/tmp/small/data has 1 MB free, CIFAR-10 needs 600 MB"
    assert (exit_code, expected in output) == (0, True), f"got exit code {exit_code}:\n{output}"


SAVE = "import os, pathlib, torch, lesson_tools\nweights = {'w': torch.zeros(1_000_000)}\n"


def test_a_full_disk_keeps_the_old_model(sandbox: Sandbox) -> None:
    """A model that does not fit is refused; the one saved before is whole, and no draft is left."""
    code = """
os.chdir('/tmp/small')
lesson_tools.PLACES = (pathlib.Path('data'), pathlib.Path('/tmp/small/home'))
lesson_tools.save({'w': torch.zeros(3)}, 'm.pt')
try:
    lesson_tools.save(weights, 'm.pt')
except lesson_tools.LessonError as error:
    files = [path.name for path in pathlib.Path().rglob('*m.pt*')]
    print(str(error).partition('\\n')[0], files, torch.load('m.pt')['w'].tolist())
"""
    prints(sandbox, SAVE + code, "m.pt could not be saved ['m.pt'] [0.0, 0.0, 0.0]")


def test_a_read_only_workspace_saves_at_home(sandbox: Sandbox) -> None:
    """Where the workspace cannot be written, the model goes to the home folder, and a banner says why."""
    code = "os.chdir('/usr/lib'); p = lesson_tools.save(weights, 'm.pt'); print(p, torch.load(p)['w'].shape[0])"
    prints(sandbox, SAVE + code, "/home/lab/.cache/first_pytorch_classifier/m.pt 1000000")
    _, output = sandbox.python(SAVE + code)
    assert "*** Not saved here ***\n/usr/lib/m.pt cannot be written" in output, f"got {output}"


def test_cells_in_order_may_train(sandbox: Sandbox) -> None:
    """A fresh model with its own optimizer and scheduler passes the check."""
    prints(sandbox, TRAINING + "lesson_tools.check_ready(model, optimizer, scheduler); print('ready')", "ready")


@pytest.mark.parametrize(
    ("mistake", "expected"),
    [
        ("model = other", "the optimizer belongs to an earlier model"),
        ("optimizer = build(model.parameters())[0]", "the scheduler belongs to an earlier optimizer"),
        ("optimizer.step(); scheduler.step()", "this model has been trained already, for 1 of 10 steps"),
    ],
    ids=["new model, old optimizer", "new optimizer, old scheduler", "trained already or interrupted"],
)
def test_cells_out_of_order_are_noticed(sandbox: Sandbox, mistake: str, expected: str) -> None:
    """What would train nothing, or twice, ends with what to run first."""
    fails_with(sandbox, f"{TRAINING}\n{mistake}\nlesson_tools.check_ready(model, optimizer, scheduler)", expected)


SHELL = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
import lesson_tools
"""


def test_a_missing_name_is_explained(sandbox: Sandbox) -> None:
    """After a kernel restart the error of a name not defined yet says which cells to run."""
    _, output = sandbox.python(SHELL + "shell.run_cell('train_epoch')")
    expected = "hint: 'train_epoch' is made by a cell further up that has not run since the kernel started."
    assert expected in output, f"got {output}"


def test_a_message_needs_no_traceback(sandbox: Sandbox) -> None:
    """In a notebook the lesson's own errors are two lines, without the path through its modules."""
    _, output = sandbox.python(
        SHELL + "shell.run_cell(\"raise __import__('lesson_tools').LessonError('what', hint='then')\")"
    )
    got = output.strip().split("\n")
    assert (len(got), got[-1]) == (2, "hint: then"), f"got {got}"
