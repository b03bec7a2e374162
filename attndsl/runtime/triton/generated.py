"""Generated modules of kernels: written once for an attention and a form, then found in the cache by every process.

What is kept is text and the description of its arguments. Whether its text may run is decided where it is loaded, by
the same list of allowed code as for text that was just written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from attndsl.codegen.expr_triton import Level
from attndsl.codegen.triton import TritonModule
from attndsl.codegen.triton_arguments import Argument
from attndsl.codegen.triton_classify import ClassifyForm, ClassifyModule, generate_classify
from attndsl.codegen.triton_decode import DecodeModule
from attndsl.codegen.triton_form import Form
from attndsl.codegen.triton_scan import ScanModule
from attndsl.codegen.triton_sift import SiftForm, generate_sift, pack_modules
from attndsl.codegen.triton_slots import Slot
from attndsl.ir.attention import Attention
from attndsl.ir.expr import Expr, Load
from attndsl.ir.printer import print_attention, print_expr
from attndsl.ir.reader import read_expr
from attndsl.runtime.cache.facts import keep, known
from attndsl.runtime.cache.key import compiler_version

if TYPE_CHECKING:
    from attndsl.codegen.triton_backward import BackwardForm

M = TypeVar("M", bound=TritonModule)
T = TypeVar("T")


def forward_module(attention: Attention, form: Form) -> TritonModule:
    """As `codegen.triton.generate`."""

    def make() -> TritonModule:
        from attndsl.codegen.triton import generate

        return generate(attention, form)

    found = _kept("forward", TritonModule, attention, form, make)
    assert found is not None
    return found


def decode_module(attention: Attention, form: Form) -> DecodeModule:
    """As `codegen.triton_decode.generate_decode`."""

    def make() -> DecodeModule:
        from attndsl.codegen.triton_decode import generate_decode

        return generate_decode(attention, form)

    found = _kept("decode", DecodeModule, attention, form, make)
    assert found is not None
    return found


def backward_module(step: str, attention: Attention, backward: BackwardForm) -> TritonModule | None:
    """As the generators of a backward pass: `prepare`, `finish`, else `codegen.triton_backward.generate_sweep`. None
    where there is nothing to do."""

    def make() -> TritonModule | None:
        from attndsl.codegen.triton_backward import generate_sweep
        from attndsl.codegen.triton_finish import generate_finish
        from attndsl.codegen.triton_prepare import generate_prepare

        found = {"prepare": generate_prepare, "finish": generate_finish}.get(step, generate_sweep)
        return found(attention, backward)

    # a set prints in any order
    sets = "wanted", "channels"
    form = [
        sorted(getattr(backward, f.name)) if f.name in sets else getattr(backward, f.name) for f in fields(backward)
    ]
    return _kept(step, TritonModule, attention, form, make)


def classify_module(attention: Attention, form: ClassifyForm) -> ClassifyModule:
    """As `codegen.triton_classify.generate_classify`."""
    lists = "arguments", "lookup"

    def write(made: ClassifyModule) -> dict[str, Any]:
        return {"source": made.source, **{n: [_argument_data(a) for a in getattr(made, n)] for n in lists}}

    def read(fact: dict[str, Any]) -> ClassifyModule:
        arguments, lookup = (tuple(map(_argument, fact[n])) for n in lists)
        return ClassifyModule(str(fact["source"]), arguments, lookup)

    about = print_attention(attention), repr(form)
    return _once("classify", about, lambda: generate_classify(attention, form), write, read)


def sift_module(attention: Attention, mask: Expr, form: SiftForm) -> TritonModule:
    """As `codegen.triton_sift.generate_sift`."""
    found = _kept(
        "sift", TritonModule, attention, (print_expr(mask), form), lambda: generate_sift(attention, mask, form)
    )
    assert found is not None
    return found


def pack_module(width: int) -> tuple[TritonModule, TritonModule]:
    """As `codegen.triton_sift.pack_modules`."""

    def write(made: tuple[TritonModule, TritonModule]) -> dict[str, Any]:
        return {module.name: module_data(module) for module in made}

    def read(fact: dict[str, Any]) -> tuple[TritonModule, TritonModule]:
        return module_of(TritonModule, fact["pack"]), module_of(TritonModule, fact["rank"])

    return _once("pack", (str(width),), lambda: pack_modules(width), write, read)


def scan_module_for(kind: str, what: object, make: Callable[[], ScanModule]) -> ScanModule:
    """A module of scans: what `make` writes for what is described by the `repr` of `what`."""

    def write(made: ScanModule) -> dict[str, Any]:
        kernels = {name: [_argument_data(a) for a in listed] for name, listed in made.arguments.items()}
        return {"source": made.source, "arguments": kernels}

    def read(fact: dict[str, Any]) -> ScanModule:
        kernels = {str(n): tuple(map(_argument, listed)) for n, listed in fact["arguments"].items()}
        return ScanModule(str(fact["source"]), kernels)

    return _once(kind, (repr(what),), make, write, read)


def _argument_data(a: Argument) -> list[str | int]:
    return [a.name, a.type, a.role, *a.key]


def _argument(data: Any) -> Argument:
    name, type_, role, *key = data
    return Argument(str(name), str(type_), str(role), tuple(key))


def _kept(kind: str, cls: type[M], attention: Attention, form: object, make: Callable[[], M | None]) -> M | None:
    """A module of an attention and a form; None where there is nothing to do."""

    def write(made: M | None) -> dict[str, Any]:
        return {"module": None if made is None else module_data(made)}

    def read(fact: dict[str, Any]) -> M | None:
        return None if fact["module"] is None else module_of(cls, fact["module"])

    return _once(kind, (print_attention(attention), repr(form)), make, write, read)


def _once(
    kind: str,
    about: Sequence[str],
    make: Callable[[], T],
    write: Callable[[T], dict[str, Any]],
    read: Callable[[dict[str, Any]], T],
) -> T:
    """What another process wrote of the same, else what `make` does."""
    text = "\n".join((compiler_version(), *about))
    fact = known(kind, text)
    if fact is not None:
        try:
            return read(fact)
        except (KeyError, TypeError, ValueError, AttributeError):
            # of another make; written anew
            pass
    made = make()
    keep(kind, text, write(made))
    return made


def module_data(module: TritonModule) -> dict[str, Any]:
    """A module as JSON has it."""
    found: dict[str, Any] = {
        "source": module.source, "reads_vectors": module.reads_vectors, "name": module.name,
        "arguments": [_argument_data(a) for a in module.arguments],
        "slots": [[s.number, print_expr(s.load), int(s.level), s.direct, s.vector] for s in module.slots],
    }  # fmt: skip
    return {**found, "state": list(module.state)} if isinstance(module, DecodeModule) else found


def module_of(cls: type[M], data: dict[str, Any]) -> M:
    """The module that `data` describes. KeyError, TypeError or ValueError for what is none."""
    arguments = tuple(map(_argument, data["arguments"]))
    slots: list[Slot] = []
    for number, load, level, direct, vector in data["slots"]:
        read = read_expr(load)
        if not isinstance(read, Load):
            raise ValueError(f"not a read: {load!r}")
        slots.append(Slot(int(number), read, Level(level), bool(direct), bool(vector)))
    more = {"state": tuple(map(str, data["state"]))} if issubclass(cls, DecodeModule) else {}
    return cls(str(data["source"]), arguments, bool(data["reads_vectors"]), str(data["name"]), tuple(slots), **more)
