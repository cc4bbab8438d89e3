"""Run every measurement, print one table, write bench.json."""

from __future__ import annotations

import json
import os
import platform
import sys

from scripts.console import LabError, run, say
from scripts.settings import ROOT
from tests.bench.labs import prepared
from tests.bench.load import load
from tests.bench.measure import MEASUREMENTS
from tests.bench.row import Row, table
from tests.bench.training import training

ALL = (*MEASUREMENTS, training, load)


def main() -> None:
    """Measure what the arguments name, or everything.

    Raises:
        LabError: there is no measurement of such a name.

    """
    names = [each.__name__ for each in ALL]
    wanted = sys.argv[1:] or names
    for name in wanted:
        if name not in names:
            raise LabError(f"no measurement is called {name}", hint=f"one of {', '.join(names)}")
    rows: list[Row] = []
    with prepared() as bench:
        for measurement in ALL:
            if measurement.__name__ in wanted:
                say(f"measuring: {measurement.__name__}")
                rows += measurement(bench)
    print(table(rows))
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "system": platform.platform()}
    result = {"machine": machine, "rows": [row.as_dict() for row in rows]}
    (ROOT / "bench.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    run(main)
