"""Generated modules of kernels: written once for an attention and a form, then found in the cache by every process.

What is kept is text and the description of its arguments. Whether its text may run is decided where it is loaded, by
the same list of allowed code as for text that was just written.
"""

from __future__ import annotations

from collections.abc import Callable
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
    form = [sorted(backward.wanted) if f.name == "wanted" else getattr(backward, f.name) for f in fields(backward)]
    return _kept(step, TritonModule, attention, form, make)


def classify_module(attention: Attention, form: ClassifyForm) -> ClassifyModule:
    """As `codegen.triton_classify.generate_classify`."""
    about = "\n".join((compiler_version(), print_attention(attention), repr(form)))
    fact = known("classify", about)
    if fact is not None:
        try:
            arguments, lookup = (tuple(map(_argument, fact[n])) for n in ("arguments", "lookup"))
            return ClassifyModule(str(fact["source"]), arguments, lookup)
        except (KeyError, TypeError, ValueError):
            pass
    made = generate_classify(attention, form)
    listed = {n: [_argument_data(a) for a in getattr(made, n)] for n in ("arguments", "lookup")}
    keep("classify", about, {"source": made.source, **listed})
    return made


def sift_module(attention: Attention, mask: Expr, form: SiftForm) -> TritonModule:
    """As `codegen.triton_sift.generate_sift`."""
    found = _kept(
        "sift", TritonModule, attention, (print_expr(mask), form), lambda: generate_sift(attention, mask, form)
    )
    assert found is not None
    return found


def pack_module(width: int) -> tuple[TritonModule, TritonModule]:
    """As `codegen.triton_sift.pack_modules`."""
    about = f"{compiler_version()}\n{width}"
    fact = known("pack", about)
    if fact is not None:
        try:
            pack, rank = (module_of(TritonModule, fact[n]) for n in ("pack", "rank"))
            return pack, rank
        except (KeyError, TypeError, ValueError):
            pass
    pack, rank = pack_modules(width)
    keep("pack", about, {"pack": module_data(pack), "rank": module_data(rank)})
    return pack, rank


def scan_module_for(kind: str, what: object, make: Callable[[], ScanModule]) -> ScanModule:
    """A module of scans: what `make` writes for what is described by the `repr` of `what`."""
    about = "\n".join((compiler_version(), repr(what)))
    fact = known(kind, about)
    if fact is not None:
        try:
            kernels = {str(n): tuple(map(_argument, listed)) for n, listed in fact["arguments"].items()}
            return ScanModule(str(fact["source"]), kernels)
        except (KeyError, TypeError, ValueError, AttributeError):
            pass
    made = make()
    kernels = {name: [_argument_data(a) for a in listed] for name, listed in made.arguments.items()}
    keep(kind, about, {"source": made.source, "arguments": kernels})
    return made


def _argument_data(a: Argument) -> list[str | int]:
    return [a.name, a.type, a.role, *a.key]


def _argument(data: Any) -> Argument:
    name, type_, role, *key = data
    return Argument(str(name), str(type_), str(role), tuple(key))


def _kept(kind: str, cls: type[M], attention: Attention, form: object, make: Callable[[], M | None]) -> M | None:
    """What another process wrote, else what `make` does."""
    about = "\n".join((compiler_version(), print_attention(attention), repr(form)))
    fact = known(kind, about)
    if fact is not None:
        try:
            return None if fact["module"] is None else module_of(cls, fact["module"])
        except (KeyError, TypeError, ValueError):
            # of another make; written anew
            pass
    made = make()
    keep(kind, about, {"module": None if made is None else module_data(made)})
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
