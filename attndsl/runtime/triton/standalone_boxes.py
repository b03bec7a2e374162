"""The kernels of a written module that find what tiles see, where the mask reads tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attndsl.codegen.triton import TritonModule
from attndsl.codegen.triton_arguments import Argument
from attndsl.ir.attention import Attention
from attndsl.runtime.triton.failures import Attempt
from attndsl.runtime.triton.filling import OPTIONS
from attndsl.runtime.triton.locate import CHUNK, GATHERED, PAIRS, RANKED, SEARCHED, Located
from attndsl.runtime.triton.lowering import Lowered, elements

_OF_PIECE = ("bounds", "boxes", "classes")


@dataclass(frozen=True)
class Value:
    """An argument of a kernel and the code of its value."""

    name: str
    code: str

    @property
    def line(self) -> str:
        """The argument, and its name where the value does not say it."""
        return f"{self.code}," if self.code == self.name else f"{self.code},  # {self.name}"


@dataclass(frozen=True)
class BoxLaunch:
    """One of the kernels that find boxes, as a call launches it."""

    attention: Attention
    step: str
    module: TritonModule
    constants: Mapping[str, int]
    warps: int
    stages: int
    capability: int
    tile: tuple[int, int]

    @property
    def function(self) -> str:
        """The kernel in its file."""
        return self.module.name

    @property
    def home(self) -> str:
        """The file of the kernels that find the boxes of a pass."""
        return file_of(self.step)

    @property
    def name(self) -> str:
        """The file, the kernel and the tile."""
        rows, columns = self.tile
        return f"{self.home}_{self.function}_{rows}x{columns}_w{self.warps}_s{self.stages}"

    def attempt(self) -> Attempt:
        """Its compilation."""
        kinds = elements(self.attention)
        signature: dict[str, str] = {}
        attributes: dict[tuple[int, ...], list[list[Any]]] = {}
        for i, a in enumerate(self.module.arguments):
            type_ = f"*{kinds[str(a.key[0])]}" if a.type == "*input" else a.type
            signature[a.name] = type_
            if type_.startswith("*"):
                attributes[(i,)] = [["tt.divisibility", 16]]
        return Attempt(
            self.attention, self.module.source, self.function, signature, self.constants, attributes, self.warps,
            self.stages, self.capability, ("the boxes of a call",),
        )  # fmt: skip


def boxes_name(it: Lowered) -> str:
    """The pass whose tiles see what this one's do, where the device finds it; else nothing."""
    if it.located is None:
        return ""
    return "dq" if it.step == "prepare" else str(it.step)


def file_of(step: str) -> str:
    """The file of the kernels that find the boxes of a pass."""
    return f"boxes_{step}"


def box_launches(found: Iterable[Lowered]) -> list[BoxLaunch]:
    """The kernels that find boxes, each once."""
    made: dict[str, BoxLaunch] = {}
    for it in found:
        if it.located is None:
            continue
        step, located = boxes_name(it), it.located
        for module in _kernels(located):
            known = _numbers(located, module.name)
            constants = {a.name: int(known[a.name]) for a in module.arguments if a.role == "constexpr"}
            launch = BoxLaunch(
                it.attention, step, module, constants, OPTIONS["num_warps"], OPTIONS["num_stages"], it.capability,
                (located.block, located.sizes.box),
            )  # fmt: skip
            made.setdefault(launch.name, launch)
    return list(made.values())


def finds(found: Sequence[Lowered]) -> list[dict[str, Any]]:
    """What functions that find boxes are written from, one for each pass."""
    made: dict[str, dict[str, Any]] = {}
    for it in found:
        if it.located is not None:
            made.setdefault(boxes_name(it), _find(it, it.located))
    return list(made.values())


def _find(it: Lowered, located: Located) -> dict[str, Any]:
    s, step = located.sizes, boxes_name(it)
    programs = {x.module.name: x.programs for x in located.steps.steps}
    kernels = [
        {
            "function": m.name, "programs": programs[m.name], "warps": OPTIONS["num_warps"],
            "stages": OPTIONS["num_stages"],
            "arguments": [Value(a.name, _code(a, _numbers(located, m.name))) for a in m.arguments],
        }
        for m in _kernels(located)
    ]  # fmt: skip
    return {
        "step": step,
        "file": file_of(step),
        "total": located.total,
        "codes": s.kinds * s.tiles * s.lists,
        "tables": [{"name": _table(n), "first": first} for n, first in located.places.items()],
        "kernels": kernels,
    }


def _kernels(located: Located) -> list[TritonModule]:
    return [x.module for x in located.steps.steps]


def _table(name: str) -> str:
    """A table as launches name it."""
    return f"{name}0" if name in _OF_PIECE else name


def _numbers(located: Located, kernel: str) -> dict[str, str]:
    """The code of everything that is no input, by the names of arguments of a kernel."""
    s = located.sizes
    found = {
        "H": "H", "Hkv": "Hkv", "tiles": s.tiles, "lists": s.lists, "length": s.rows, "width": s.columns,
        "height": s.height, "class_heads": s.heads, "kinds": s.kinds, "q_offset": 0, "codes": "codes",
        "offsets": 't["rows"]', "BM": located.block, "BN": s.box, "PAIRS": min(s.box, PAIRS),
        "look": int(located.look), "BLOCK": SEARCHED,
        "CHUNK": {"gather": GATHERED, "rank": RANKED}.get(kernel, CHUNK),
    }  # fmt: skip
    tables = {n: f't["{_table(n)}"]' for n in located.places}
    return {n: str(x) for n, x in {**found, **tables}.items()}


def _code(a: Argument, numbers: Mapping[str, str]) -> str:
    name = str(a.key[0]) if a.key else a.name
    match a.role:
        case "input":
            return f'inputs["{name}"]'
        case "input stride":
            return f'inputs["{name}"].stride({a.key[1]})'
        case "input size":
            return f'inputs["{name}"].shape[{a.key[1]}]'
        case "size":
            return f'sizes["{name}"]'
        case "scalar":
            return f'{"float" if a.type == "fp32" else "int"}(scalars["{name}"])'
        case _:
            return numbers[a.name]
