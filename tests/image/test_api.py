"""The REST API under thousands of hostile requests, made from its own description and by hand."""

from __future__ import annotations

import http.client
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode

from tests.image.client import api

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import LabProcess

EXAMPLES = 40  # of each operation, well-formed and malformed alike
STARTS = {"POST /api/kernels", "POST /api/sessions", "POST /api/terminals"}  # each success is a process: a few do
OPEN = {"GET /api/"}  # the health probe, which tells the version only
FRAME = re.compile(r'File "(.+/lab_server/[^"]+)", line \d+')  # of our code, in a traceback


@pytest.fixture(scope="module")
def attacked(new_lab: Callable[[], LabProcess]) -> LabProcess:
    """A lab that is only attacked, with a secret beside its workspace."""
    lab = new_lab()
    lab.start(MEMORY="2g")
    (lab.state_dir / "home/secret.txt").write_text("what lies outside the workspace")
    return lab


def operations(lab: LabProcess) -> list[Any]:
    """What the running server says that it can do."""
    with api(lab) as client:
        description = yaml.safe_load(client.get("/api/spec.yaml").raise_for_status().text)
    found: list[Any] = list(schemathesis.openapi.from_dict(description).get_all_operations())
    return [each.ok() for each in found]


def attack(lab: LabProcess, headers: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """Every operation with made-up requests, the same ones in every run; yields its name and each response."""
    for operation in operations(lab):
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            responses: list[Any] = []
            options = settings(
                max_examples=3 if operation.label in STARTS else EXAMPLES,
                deadline=None, database=None, derandomize=True,
                suppress_health_check=list(HealthCheck), phases=[Phase.generate],
            )  # fmt: skip
            try:
                made_up: Any = given(operation.as_strategy(generation_mode=mode))
                ask: Any = options(made_up(_caller(lab, headers, responses)))
                ask()
            except Unsatisfiable:
                assert mode is GenerationMode.NEGATIVE, f"{operation.label} cannot be asked"  # nothing to get wrong
            for response in responses:
                yield operation.label, response


def _caller(lab: LabProcess, headers: dict[str, str], into: list[Any]) -> Any:
    def call(case: Case[Any]) -> None:
        into.append(case.call(base_url=lab.url, headers=headers, timeout=60, allow_redirects=False))

    return call


def test_without_the_token_nothing_is_done_and_nothing_breaks(attacked: LabProcess) -> None:
    """Whatever is asked, the answer is a refusal or the way to the login form: no success, no server error."""
    got = Counter((label, _outcome(response)) for label, response in attack(attacked, {}))
    refusals = {"login", *range(400, 500)}
    wrong = {key: count for key, count in got.items() if key[1] not in refusals and key[0] not in OPEN}
    assert sum(got.values()) > 20 * len({label for label, _ in got}), f"hardly anything was asked: {got}"
    assert wrong == {}, f"got {wrong}"


def _outcome(response: Any) -> int | str:
    at_login = "/login" in response.headers.get("location", [""])[0]
    return "login" if response.status_code == 302 and at_login else int(response.status_code)


def test_with_the_token_no_error_is_ours_and_nothing_leaks(attacked: LabProcess) -> None:
    """Jupyter's own server errors on malformed bodies aside, none passes our code; nothing outside is told."""
    outside = [attacked.state_dir / each for each in ("run/token", "passwd", "home/secret.txt")]
    before = [path.read_bytes() for path in outside]
    leaks = []
    for label, response in attack(attacked, {"Authorization": f"token {attacked.token}"}):
        if "outside the workspace" in response.text:
            leaks.append((label, response.text[:200]))
    ours = set(FRAME.findall(attacked.container.logs().decode()))
    with api(attacked) as client:
        for kernel in client.get("/api/kernels").raise_for_status().json():
            client.delete(f"/api/kernels/{kernel['id']}")
    assert leaks == [], f"got {leaks}"
    assert ours == set(), f"tracebacks through {ours}"
    assert [path.read_bytes() for path in outside] == before, "a file outside the workspace changed"


OUTSIDE = ["../home/secret.txt", "..%2f..%2fhome%2flab%2fsecret.txt", "%2e%2e/%2e%2e/home/lab/secret.txt",
           "%2fhome%2flab%2fsecret.txt", "//home/lab/secret.txt", "a/../../home/lab/secret.txt", "..%5c..%5csecret.txt",
           "x%00/../../home/lab/secret.txt", "%252e%252e/home/lab/secret.txt"]  # fmt: skip


@pytest.mark.parametrize("door", ["/api/contents/", "/files/", "/view/", "/nbconvert/html/"])
@pytest.mark.parametrize("path", OUTSIDE)
def test_no_path_leads_out_of_the_workspace(attacked: LabProcess, door: str, path: str) -> None:
    """Dots, encoded dots and slashes, absolute paths, NUL: refused, never a server error, and nothing is told."""
    connection = http.client.HTTPConnection("127.0.0.1", attacked.port, timeout=30)  # sends a path as it is
    connection.request("GET", door + path, headers={"Authorization": f"token {attacked.token}"})
    response = connection.getresponse()
    told = response.read().decode()
    connection.close()
    assert "outside the workspace" not in told, f"{door}{path} tells it"
    assert response.status in {302, 400, 403, 404}, f"{door}{path}: got {response.status}"


def test_hidden_files_are_not_served(attacked: LabProcess) -> None:
    """What begins with a dot is neither read nor written through the API."""
    (attacked.workspace / ".env").write_text("a key")
    with api(attacked) as client:
        read = client.get("/api/contents/.env").status_code
        write = client.put("/api/contents/.other", json={"type": "file", "format": "text", "content": "x"}).status_code
    got = (read, write, (attacked.workspace / ".other").exists())
    assert got == (404, 400, False), f"got {got}"


@pytest.mark.parametrize(("length", "expected"), [(255, 201), (256, 400)])
def test_the_longest_name_is_the_file_systems(attacked: LabProcess, length: int, expected: int) -> None:
    """255 bytes are saved, and saved again; one more is refused with the reason."""
    name = "n" * (length - 4) + ".txt"
    body = {"type": "file", "format": "text", "content": "x"}
    with api(attacked) as client:
        first = client.put(f"/api/contents/{name}", json=body)
        second = client.put(f"/api/contents/{name}", json=body)
    assert first.status_code == expected, f"got {first.status_code}: {first.text}"
    if expected == 201:
        assert second.status_code == 200, f"got {second.status_code}: {second.text}"
    else:
        assert "File name too long" in first.text, f"got {first.text}"
