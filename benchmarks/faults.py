"""How many damaged inputs and killed runs were tried, and how many broke a rule?

    JEPA_DATA=../shared/data python benchmarks/faults.py --inputs 10000 --kills 100

Runs `tests/faults` at length: tests that share a reader share the --inputs damaged files among them
(the counts say how many each had), every modality's run is killed --kills times (SIGKILL at random
moments and inside writes). A value or a refusal that names the file is right; anything else (an
error of a library, a hang, more than 1 GiB of memory) is a breach and fails the test. Killed runs
must end with the loss curve and the weights of the undisturbed run, bit by bit.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from evidence import RESULTS, about

FAULTS = Path(__file__).resolve().parents[1] / "tests" / "faults"


def run(variables: dict[str, str], *arguments: str) -> tuple[int, str]:
    """One pytest; its exit status and what it printed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    environment = os.environ | variables
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=FAULTS)
    return done.returncode, done.stdout


def tallies(path: Path) -> dict[str, dict[str, int]]:
    """Inputs, values, refusals and breaches by test."""
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for line in path.read_text().splitlines():
        record = json.loads(line)
        row = found[record.pop("test").rpartition("tests/faults/")[2]]
        record.pop("files")
        for outcome, count in record.items():
            row["inputs"] += count
            row[outcome if outcome in ("value", "refused") else "breaches"] += count
    return found


def kills(printed: str) -> list[dict[str, Any]]:
    """Per modality: how many kills, how many of them inside a write."""
    found: dict[str, dict[str, Any]] = defaultdict(lambda: {"kills": 0, "inside a write": 0})
    modality = ""
    for line in printed.splitlines():
        if match := re.search(r"test_killed_runs_equal_the_undisturbed_one\[(\w+)\]", line):
            modality = match[1]
        if line.startswith("{") and "inside" in line:
            found[modality]["kills"] += 1
            found[modality]["inside a write"] += json.loads(line)["inside"] != "a random moment"
    return [{"modality": name, **row} for name, row in found.items()]


def main() -> None:
    """Attack, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000, help="per reader; 0 for none")
    parser.add_argument("--kills", type=int, default=100, help="per modality; 0 for none")
    parser.add_argument("--out", type=Path, default=RESULTS / "faults.json")
    own = parser.parse_args()
    content = about(1)
    codes, told = [], ""
    if own.inputs:
        with tempfile.TemporaryDirectory() as place:
            log = Path(place) / "tallies.jsonl"
            log.touch()
            variables = {"JEPA_FAULTS": str(own.inputs), "JEPA_FAULTS_LOG": str(log)}
            code, told = run(variables, ".", "--ignore=test_killed.py", "--ignore=test_elastic.py")
            codes, content["readers"] = [code], tallies(log)
        for test, row in content["readers"].items():
            print(f"{test}: {dict(row)}", flush=True)
    if own.kills:
        code, printed = run({"JEPA_KILLS": str(own.kills)}, "test_killed.py", "-rP")
        codes, told, content["kills"] = [*codes, code], told + printed, kills(printed)
        print(*content["kills"], sep="\n")
    content["passed"] = not any(codes)
    content["failures"] = [line for line in told.splitlines() if line.startswith("FAILED")]
    print(f"passed: {content['passed']}", *content["failures"], sep="\n")
    own.out.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
