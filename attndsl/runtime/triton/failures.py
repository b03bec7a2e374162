"""Compilations that fail: the error a user gets, and a file that shows the failure with triton alone."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attndsl.codegen.templates import render
from attndsl.codegen.triton import TritonModule
from attndsl.codegen.triton_form import Form
from attndsl.ir.attention import Attention
from attndsl.runtime.cache.files import write_file
from attndsl.runtime.cache.folder import part
from attndsl.runtime.failures import KernelError, first_line, place_of

ELEMENTS = {
    "float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp64", "bool": "i1", "uint8": "u8",
    "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64",
}  # fmt: skip
"""Element types of torch as Triton spells them."""

Attributes = Mapping[tuple[int, ...], list[list[Any]]]


@dataclass(frozen=True)
class Attempt:
    """One compilation: the text of a module and its kernel, argument types and compile-time constants by name,
    attributes of arguments by position, options, and the compute capability (times ten).

    `words` describe it: pass, tile, element type, head sizes. `registers` is the most that a thread may have, 0 for no
    limit.
    """

    attention: Attention
    source: str
    function: str
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    attributes: Attributes
    warps: int
    stages: int
    capability: int
    words: tuple[str, ...] = field(default=())
    registers: int = 0

    @property
    def configuration(self) -> str:
        """The configuration in words."""
        options = f"{self.warps} warps, {self.stages} stage{'s' * (self.stages != 1)}, sm_{self.capability}"
        return ", ".join([self.function, *self.words, options])


@contextmanager
def reported(attempt: Callable[[], Attempt]) -> Generator[None]:
    """An error of Triton's compiler within becomes a KernelError; others, those of a running kernel too, pass."""
    try:
        yield
    except KernelError:
        raise
    except Exception as error:
        if not while_compiling(error):
            raise
        raise failure(attempt(), said_by(error)) from error


def run_time_attempt(
    attention: Attention,
    module: TritonModule,
    function: str,
    values: Sequence[Any],
    options: Mapping[str, int],
    capability: int,
    words: tuple[str, ...],
) -> Attempt:
    """The compilation that a call with these values of a kernel's arguments begins."""
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for i, (a, value) in enumerate(zip(module.arguments, values, strict=True)):
        signature[a.name] = a.type
        if a.role == "constexpr":
            constants[a.name] = value
        elif a.type.startswith("*"):
            signature[a.name] = "*" + ELEMENTS[str(value.dtype).removeprefix("torch.")]
            if value.data_ptr() % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
    return Attempt(
        attention, module.source, function, signature, constants, attributes, options["num_warps"],
        options["num_stages"], capability, words, options.get("maxnreg", 0),
    )  # fmt: skip


def words_of(form: Form, rows: int, columns: int) -> tuple[str, ...]:
    """A kernel in words: tile, element type and head sizes."""
    heads = f"D={form.D}" + (f", Dv={form.Dv}" if form.Dv != form.D else "")
    segment = [f"segment {form.q.segment}"] if form.q.segment else []
    return *segment, f"tile {rows}x{columns}", form.dtype, heads


def failure(attempt: Attempt, words: str) -> KernelError:
    """The error for a compilation that failed, its reproducer kept."""
    span = attempt.attention.span
    place = place_of(span)
    line = first_line(span) if place else ""
    kept = keep_reproducer(attempt, words)
    return KernelError(attempt.attention.name, place, line, attempt.configuration, words, kept)


def said_by(error: BaseException) -> str:
    """What the compiler said, from the error it began with."""
    parts: list[str] = []
    at: BaseException | None = error
    while at is not None and len(parts) < 4:
        text = str(at).strip() or type(at).__name__
        if text not in parts:
            parts.append(text if len(parts) == 0 else f"because: {text}")
        at = at.__cause__
    return "\n".join(parts)


def while_compiling(error: BaseException) -> bool:
    """Whether an error left Triton's compiler, or says that a compiled kernel does not fit the device."""
    if type(error).__name__ == "OutOfResources":
        return True
    at = error.__traceback__
    while at is not None:
        code = at.tb_frame.f_code
        if code.co_name == "compile" and Path(code.co_filename).parts[-3:] == ("triton", "compiler", "compiler.py"):
            return True
        at = at.tb_next
    return False


def reproducer(attempt: Attempt, words: str, *, ran: bool = False) -> str:
    """A Python file that compiles the kernel again; it imports triton alone. `ran`: it failed when it ran."""
    return render(
        "triton/reproducer.py.j2",
        ran=ran,
        attention=attempt.attention.name,
        place=place_of(attempt.attention.span) or "a text",
        configuration=attempt.configuration,
        said=["".join(c if c.isascii() and c.isprintable() else "?" for c in line) for line in words.splitlines()],
        source=attempt.source,
        function=attempt.function,
        signature=dict(attempt.signature),
        constants=dict(attempt.constants),
        attributes=dict(attempt.attributes),
        warps=attempt.warps,
        stages=attempt.stages,
        registers=attempt.registers,
        capability=attempt.capability,
    )


def keep_reproducer(attempt: Attempt, words: str, *, ran: bool = False) -> Path | None:
    """Write the reproducer below the cache folder's `failures`, or where that is not to be had in a new folder for
    temporary files; None where nothing can be written. The same compilation has the same file in the cache."""
    text = reproducer(attempt, words, ran=ran)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    name = f"{attempt.attention.name}-{attempt.function}-{digest}.py"
    folder = part("failures", make=True)
    try:
        path = (folder or Path(tempfile.mkdtemp(prefix="attndsl-"))) / name
        write_file(path, text.encode())
    except OSError:
        return None
    return path
