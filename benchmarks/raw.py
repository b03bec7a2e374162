"""Raw results of checks as files: what ran where, every check with what was wrong, written whole after each."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import datetime
import json
import re
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
FOLDERS = re.compile(r"(?<![\w.])(?:/[\w.+@-]+)+/(?=(?:attndsl|benchmarks|templates|tests|torch|triton)/|[\w.-]+)")
OURS = re.compile(r"(?:attndsl|benchmarks|templates|tests|torch|triton)/.*")


def bare(text: str) -> str:
    """A text without the folders of a machine: files are told from the package on, others by their names."""

    def short(m: re.Match[str]) -> str:
        found = OURS.search(m[0])
        return found[0] if found else ""

    return FOLDERS.sub(short, text)


def folder_of(gpu: str) -> str:
    """The folder of a GPU's results."""
    return gpu.replace(" ", "-").lower()


class Raw:
    """A file of checks, `case` and `wrong` (empty where it is right), in the form of the other raw results."""

    def __init__(self, kind: str, out: Path | None, commit: str, gpu: str) -> None:
        """`kind` is the end of the file's name where none is given."""
        from benchmarks.gpu import ask, versions

        name = f"{datetime.date.today().isoformat()}-{kind}.json"
        self.out = out or RESULTS / folder_of(gpu) / name
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.start = time.time()
        self.data: dict[str, Any] = {
            "gpu": gpu, "driver": ask("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "versions": versions(), "commit": commit or ask("git", "rev-parse", "HEAD"), "checks": [], "rows": [],
        }  # fmt: skip
        self.write()

    def check(self, case: str, wrong: str, **more: Any) -> None:
        """A check that was made."""
        self.data["checks"].append({"case": case, "wrong": bare(wrong), **more})
        self.write()
        about = " ".join(f"{n} {x}" for n, x in more.items())
        print(f"{'WRONG' if wrong else 'right'} {case}{': ' * bool(wrong)}{bare(wrong)} {about}".rstrip(), flush=True)

    def write(self) -> None:
        """Whole or not at all."""
        temporary = self.out.with_name(f".{self.out.name}.tmp")
        temporary.write_text(json.dumps(self.data, indent=1) + "\n")
        temporary.replace(self.out)

    def end(self) -> int:
        """Say how it went; 1 where something was wrong."""
        wrong = sum(bool(c["wrong"]) for c in self.data["checks"])
        right, seconds = len(self.data["checks"]) - wrong, time.time() - self.start
        print(f"-- {right} right, {wrong} wrong, {seconds:.0f} s, {self.out.name}", flush=True)
        return 1 if wrong else 0
