"""The kernels of a written module that find what tiles see, where the mask reads tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from attndsl.codegen.triton import TritonModule
from attndsl.codegen.triton_arguments import Argument
from attndsl.ir.attention import Attention
from attndsl.runtime.triton.failures import Attempt
from attndsl.runtime.triton.filling import OPTIONS
from attndsl.runtime.triton.locate import CHUNK, GATHERED, PAIRS, RANKED, SEARCHED, Located
from attndsl.runtime.triton.lowering import Lowered, elements
from attndsl.runtime.triton.sift import PACKED, Sifted
from attndsl.runtime.triton.sift import RANKED as SORTED
from attndsl.schedule.problem import Problem

_OF_PIECE = ("bounds", "boxes", "classes")


@dataclass(frozen=True)
class Passed:
    """An argument of a kernel and the code of its value."""

    name: str
    value: str

    @property
    def line(self) -> str:
        """The argument, and its name where the value does not say it."""
        return f"{self.value}," if self.value == self.name else f"{self.value},  # {self.name}"


@dataclass(frozen=True)
class _Kernel:
    """One of the kernels that find the boxes of a launch: its file, how many programs it runs, and the code of what it
    is passed beside what expressions read."""

    file: str
    module: TritonModule
    programs: int
    tile: tuple[int, int]
    codes: Mapping[str, str | int]


@dataclass(frozen=True)
class BoxLaunch:
    """One of the kernels that find boxes, as a call launches it."""

    attention: Attention
    home: str
    """The file of the kernel."""
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
    """Whose tiles see what this launch's do, if the device finds it: a pass, on grids with a segment. Else nothing."""
    if it.located is None:
        return ""
    step = "dq" if it.step == "prepare" else str(it.step)
    return f"{step}_{it.form.q.segment}" if isinstance(it.located, Sifted) else step


def file_of(name: str) -> str:
    """The file of the kernels that find the boxes of a pass, and the name of the tables that they read."""
    return f"boxes_{name}"


def box_launches(found: Iterable[Lowered]) -> list[BoxLaunch]:
    """The kernels that find boxes, each once."""
    made: dict[str, BoxLaunch] = {}
    for it in found:
        for k in _kernels(it):
            constants = {a.name: int(k.codes[a.name]) for a in k.module.arguments if a.role == "constexpr"}
            launch = BoxLaunch(
                it.attention, k.file, k.module, constants, OPTIONS["num_warps"], OPTIONS["num_stages"], it.capability,
                k.tile,
            )  # fmt: skip
            made.setdefault(launch.name, launch)
    return list(made.values())


def finds(found: Sequence[Lowered], problem: Problem) -> list[dict[str, Any]]:
    """What functions that find boxes are written from, one for each pass."""
    made: dict[str, dict[str, Any]] = {}
    for it in found:
        if it.located is not None:
            made.setdefault(boxes_name(it), _find(it, it.located, problem))
    return list(made.values())


def _find(it: Lowered, located: Located | Sifted, problem: Problem) -> dict[str, Any]:
    if isinstance(located, Sifted):
        count = located.codes[-1]
        tables = {f"{n}{'' if piece < 0 else piece}": first for (n, piece), first in located.named.items()}
        tables["cost"] = located.places["cost"]
    else:
        count = located.sizes.kinds * located.sizes.tiles * located.sizes.lists
        tables = {_table(n): first for n, first in located.places.items()}
    kernels = [
        {
            "file": k.file, "function": k.module.name, "programs": k.programs,
            "warps": OPTIONS["num_warps"], "stages": OPTIONS["num_stages"],
            "arguments": [Passed(a.name, _code(it, problem, a, k.codes)) for a in k.module.arguments],
        }
        for k in _kernels(it)
    ]  # fmt: skip
    return {
        "step": boxes_name(it),
        "known": file_of(boxes_name(it)) if isinstance(located, Sifted) else "",
        "total": located.total,
        "codes": count,
        "tables": [{"name": n, "first": first} for n, first in tables.items()],
        "kernels": kernels,
    }


def _kernels(it: Lowered) -> list[_Kernel]:
    """The kernels that find the boxes of a launch, in order."""
    if it.located is None:
        return []
    name = boxes_name(it)
    return _of_candidates(name, it.located) if isinstance(it.located, Sifted) else _on_line(name, it.located)


def _table(name: str) -> str:
    """A table as launches name it."""
    return f"{name}0" if name in _OF_PIECE else name


def _on_line(name: str, located: Located) -> list[_Kernel]:
    s = located.sizes
    passed: dict[str, str | int] = {
        "H": "H", "Hkv": "Hkv", "tiles": s.tiles, "lists": s.lists, "length": s.rows, "width": s.columns,
        "height": s.height, "class_heads": s.heads, "kinds": s.kinds, "q_offset": 0, "codes": "codes",
        "offsets": 't["rows"]', "BM": located.block, "BN": s.box, "PAIRS": min(s.box, PAIRS),
        "look": int(located.look), "BLOCK": SEARCHED, **{n: f't["{_table(n)}"]' for n in located.places},
    }  # fmt: skip
    chunks = {"gather": GATHERED, "rank": RANKED}
    return [
        _Kernel(
            file_of(name), step.module, step.programs, (located.block, s.box),
            passed | {"CHUNK": chunks.get(step.module.name, CHUNK)},
        )
        for step in located.steps.steps
    ]  # fmt: skip


def _of_candidates(name: str, sifted: Sifted) -> list[_Kernel]:
    """For each piece `sift` and `pack`, then `rank` for all of them."""
    found: list[_Kernel] = []
    steps, tables = iter(sifted.steps.steps), sifted.tables
    kinds = sifted.batches * sifted.heads
    for nth, (p, first) in enumerate(zip(sifted.pieces, sifted.codes, strict=False)):
        tile, end = (prod(tables.box), prod(tables.pieces[p.number].box)), str(p.number)
        known = {n: f'known["{n}{end}"]' for n in ("candidates", "bounds", "boxes")}
        passed: dict[str, str | int] = {
            **sifted.numbers(p), **known, "codes": f"codes[{first}:]", "rows": 'known["rows"]', "H": "H", "Hkv": "Hkv",
            "Lq": 'sizes["Lq"]', "Lk": 'sizes["Lk"]', "q_offset": 0, "found_bounds": f't["bounds{end}"]',
            "found_boxes": f't["boxes{end}"]', "cost": f't["cost"][{nth * kinds * tables.tiles}:]',
        }  # fmt: skip
        lists = f"boxes_of_{p.form.width}"
        step = next(steps)
        found.append(_Kernel(file_of(f"{name}_{end}"), step.module, step.programs, tile, passed))
        step = next(steps)
        found.append(_Kernel(lists, step.module, step.programs, tile, passed | {"CHUNK": PACKED}))
        if p is sifted.pieces[-1]:
            step = next(steps)
            every: dict[str, str | int] = {
                "cost": 't["cost"]', "base": 'known["base"]', "order": 't["order"]', "tiles": tables.tiles,
                "kinds": len(sifted.pieces) * kinds, "CHUNK": SORTED,
            }  # fmt: skip
            found.append(_Kernel(lists, step.module, step.programs, tile, every))
    return found


def _code(it: Lowered, problem: Problem, a: Argument, passed: Mapping[str, str | int]) -> str:
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
        case "extent":
            return extent_code(it.attention, problem, a)
        case "scalar":
            return f'{"float" if a.type == "fp32" else "int"}(scalars["{name}"])'
        case _:
            return str(passed[a.name])


def extent_code(attention: Attention, problem: Problem, a: Argument) -> str:
    """The extent of an axis of a grid, which a build knows."""
    side, segment, axis = map(str, a.key)
    space = attention.q_space if side == "q" else attention.k_space
    assert space is not None
    axes = next(s.axes for s in space.segments if s.name == segment)
    extents = problem.q_extents if side == "q" else problem.k_extents
    return str(extents[segment][axes.index(axis)])
