"""The C compiler of this machine, and what it is asked to do."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

NAMES = ("cc", "gcc", "clang")
FLAGS = (
    "-O3", "-std=gnu11", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fwrapv",
    "-fopenmp-simd", "-w",
)  # fmt: skip
"""None of these lets a compiler assume that values are finite. The two about math say that nobody looks at errno or
at floating point exceptions; loops may be summed in vector lanes where the source says so."""
TARGETS = (("-march=native", "-mprefer-vector-width=512"), ("-march=native",), ("-mcpu=native",), ())
"""Which machine to compile for: the first that the compiler takes."""
SECONDS = 60


class CompileError(RuntimeError):
    """A C source did not compile."""


@dataclass(frozen=True)
class Compiler:
    """A compiler's command, and its own words on its version."""

    command: tuple[str, ...]
    version: str

    @property
    def name(self) -> str:
        """For people."""
        return f"{' '.join(self.command)} ({self.version})"

    @property
    def identity(self) -> str:
        """All that its output depends on beside the source."""
        return repr((self.command, self.version, FLAGS, TARGETS, cpu()))


def find() -> Compiler | str:
    """`$CC`, or the first of cc, gcc and clang that runs; else why there is none."""
    return _find(os.environ.get("CC", ""), os.environ.get("PATH", ""))


@lru_cache(maxsize=8)
def _find(given: str, path: str) -> Compiler | str:
    try:
        asked = tuple(shlex.split(given))
    except ValueError as error:
        return f"CC={given!r} is not a command ({error})"
    for command in [asked] if asked else [(n,) for n in NAMES]:
        place = shutil.which(command[0], path=path or None)
        if place is None:
            continue
        try:
            found = _run([place, *command[1:], "--version"], Path.cwd())
        except (OSError, subprocess.SubprocessError) as error:
            return f"{place} does not run ({error})"
        if found.returncode:
            return f"{place} --version ends with {found.returncode}"
        return Compiler((place, *command[1:]), (found.stdout.splitlines() or ["unknown"])[0].strip())
    return f"CC={given!r} is not there" if asked else f"none of {', '.join(NAMES)} is there"


@lru_cache(maxsize=1)
def cpu() -> str:
    """What decides the instructions that code for this machine may have."""
    facts = [platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    wanted = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU part", "CPU implementer")
    facts += sorted({line for line in lines if line.split("\t")[0].split(":")[0].strip() in wanted})
    return "\n".join(facts)


def compiled(compiler: Compiler, source: str) -> bytes:
    """A shared object of a C source. CompileError with the compiler's words."""
    try:
        with tempfile.TemporaryDirectory(prefix="attndsl-") as name:
            folder = Path(name)
            (folder / "kernel.c").write_text(source, encoding="utf-8")
            words = ""
            for target in TARGETS:
                output = folder / "kernel.so"
                command = [*compiler.command, *FLAGS, *target, "kernel.c", "-o", output.name, "-lm"]
                found = _run(command, folder)
                if found.returncode == 0:
                    return output.read_bytes()
                words = words or found.stderr
    except subprocess.TimeoutExpired as error:
        raise CompileError(f"{compiler.name} took more than {SECONDS} s") from error
    except OSError as error:
        raise CompileError(f"{compiler.name} could not be run ({error})") from error
    raise CompileError(f"{compiler.name}: {words.strip()[:2000] or 'no message'}")


def _run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", timeout=SECONDS,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
