"""A Python module that launches compiled kernels by itself: torch, triton and the plan's tables, nothing of attndsl."""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attndsl
from attndsl.codegen.expr_triton import Level
from attndsl.codegen.templates import render, title
from attndsl.codegen.torch_finish import finish_code
from attndsl.codegen.torch_projection import TorchCode, extent, projection_code, sizes_of_vectors
from attndsl.codegen.triton_arguments import Argument
from attndsl.codegen.triton_backward import stats_of
from attndsl.codegen.triton_slots import Slot
from attndsl.codegen.triton_weight import rule_of
from attndsl.ir.attention import Attention, Const, Input, Scalar
from attndsl.ir.expr import Expr, Index, Op, ParamRef, Size, walk
from attndsl.ir.finished import finished
from attndsl.ir.free import depends
from attndsl.ir.types import kind_of_dtype
from attndsl.runtime import vectors
from attndsl.runtime.triton.launch import SHARED_SECTION
from attndsl.runtime.triton.locate import Located
from attndsl.runtime.triton.lowering import Lowered, q_segments
from attndsl.runtime.triton.several import depth
from attndsl.runtime.triton.standalone_boxes import Passed, boxes_name, extent_code, file_of, finds
from attndsl.runtime.triton.standalone_lowering import Lowering
from attndsl.runtime.triton.standalone_stages import numbers_codes, part_module, stage_data
from attndsl.runtime.triton.tables import joined
from attndsl.schedule.problem import Problem

TORCH_DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
_FUNCTIONS = {
    n: f for n, f in vars(vectors).items() if inspect.isfunction(f) and f.__module__ == vectors.__name__
}  # fmt: skip
"""Functions of torch that a module may hold, by name."""
_TAKEN = frozenset((
    "HERE", "INTERPRETED", "DTYPE", "CAPABILITY", "BUILT_FOR", "SHAPES", "KINDS", "SCALARS", "CONSTS", "launch",
    "launch_backward", "on_device", "run", "Attend", "once_differentiable",
    "check", "agree", "kind", "aligned", "as_read", "kernel", "tables_on", "importlib", "json", "math", "os", "Path",
    "torch", "triton", "inputs", "scalars", "sizes", "out", "lse", "q", "k", "v", "scale", "return_lse",
    "launch_gradients", "collect", "prepare", "number", "vector", "components", "halves", "gradient_of", "reduce",
    "Tensor",
    "annotations", "SCANS", "STRIDED", "State", "NamedTuple", "Scan", "Sum", "Walk", "attend", "finish", "entering",
    "both_ways", "total_of", "of_heads", "product", "forward", "backward", "segments", "ids_of", "within", "spread",
    "initial_state", "return_state", "find_forward", "find_dq", "find_dkdv", "rows", "Sums", "Numbers", "part",
    "gradients", *_FUNCTIONS,
))  # fmt: skip
"""Names of the module that a spec may use for something else."""


def call_name(name: str) -> str:
    """A name of the spec as the module writes it: one that Python or the module uses ends in an underscore."""
    taken = keyword.iskeyword(name) or name in _TAKEN or re.match(r"find_(forward|dq|dkdv)_|numbers\d", name)
    return f"{name}_" if taken else name


def standalone(lowering: Lowering, text: Sequence[str] = ()) -> str:
    """The module's text; `text` are the lines of the spec as its user wrote them (the printed meaning unless given)."""
    problem, written = lowering.problem, lowering.written
    first = lowering.launches[0] if lowering.launches else None
    sizes = lowering.given.sizes
    fixed = fixed_sizes(lowering)
    before, after = before_kernels(lowering, fixed), after_kernels(lowering, fixed)
    numbers = numbers_codes(lowering, fixed)
    by_torch = [code for code in (before, *numbers, after) if code is not None]
    scalars = [p for p in lowering.attention.params if isinstance(p, Scalar)]
    inputs = [p for p in lowering.attention.params if isinstance(p, Input)]
    pinned = fixed_scalars(lowering)
    return render(
        "triton/standalone.py.j2",
        **_launching(lowering),
        part="",
        exact=bool(lowering.stages),
        module=call_name(written.name),
        version=attndsl.__version__,
        target=f"sm_{first.capability}" if first else "any device",
        capability=first.capability if first else 80,
        title=[printable(line) for line in text or title(written)],
        built_for=", ".join(f"{n}={v}" for n, v in fixed.items() if n != "L"),
        fixed=fixed,
        free=tuple(n for n in sizes if n not in fixed and n != "L"),
        inputs=[{"name": p.name, "argument": call_name(p.name)} for p in inputs],
        scalars=[{"name": s.name, "argument": call_name(s.name)} for s in scalars],
        usage=["q", "k", "v", *(f"{call_name(p.name)}={call_name(p.name)}" for p in inputs)],
        signature=signature(scalars, inputs, lowering.given, lowering.has_lse),
        shapes={p.name: tuple(dimension(e, fixed) for e in p.shape) for p in inputs},
        kinds={p.name: str(kind_of_dtype(p.dtype)) for p in inputs},
        fixed_scalars={s.name: problem.scalars[s.name] for s in scalars if s.name in pinned},
        consts=_arrays(lowering, frozenset(name for code in by_torch for name in code.arrays)),
        before=[] if before is None else before.lines,
        after=[] if after is None else after.lines,
        stages=stage_data(lowering, numbers),
        pulled=tuple(i for i, it in enumerate(lowering.stages) if it.gradients is not None),
        called="\n".join(line for code in by_torch for line in code.lines),
        helpers=sources(frozenset(name for code in by_torch for name in code.helpers)),
    )


def parts(lowering: Lowering) -> dict[str, str]:
    """The texts of the modules that add up sums for this one, by name."""
    found: dict[str, str] = {}
    for name, own in lowering.parts.items():
        it = lowering.stages[int(re.sub(r"\D", "", name))]
        context = _launching(own, keeps=True) | {"exact": True, "sizes": own.problem.sizes}
        arrays = sorted(p.name for p in own.attention.consts if p.name in _arrays(own, frozenset()))
        found[name] = part_module(name.rstrip("0123456789"), it, context, arrays, call_name(lowering.written.name))
    return found


def _launching(lowering: Lowering, keeps: bool = False) -> dict[str, Any]:
    """What the functions that launch kernels are written from; `keeps`: sums are kept whether or not there is a
    backward pass."""
    attention, problem = lowering.inner, lowering.problem
    found = lowering.launches
    rule = rule_of(attention) if lowering.differentiated or keeps else None
    either = lowering.gradients or lowering.backward
    on_grid = attention.gridded and not problem.moved
    whole = {
        step: sum(it.step == step for it in either) == len(q_segments(problem, on_grid, step == "dkdv"))
        for step in ("dq", "dkdv")
    }
    dtype = found[0].form.dtype if found else "fp32"
    sums = [slot for it in lowering.gradients for slot in it.module.slots]
    return {
        "name": call_name(lowering.written.name),
        "dtype": dtype,
        "torch_dtype": TORCH_DTYPES[dtype],
        "sizes": lowering.given.sizes,
        "has_lse": lowering.has_lse and not keeps,
        "bytes_of_a_key": (depth(attention, problem.sizes) + problem.sizes["Dv"]) * (4 if dtype == "fp32" else 2),
        "section": SHARED_SECTION,
        "keeps": lowering.differentiated or keeps,
        "backward": lowering.differentiated,
        "by_inputs": lowering.gradients and lowering.backward,
        "deterministic": lowering.deterministic,
        "collected": bool(sums),
        "stats": max(len(stats_of(rule, lse)) for lse in (False, lowering.has_lse)) if rule is not None else 0,
        "sums": len(rule.sums) + int(rule.counts) if rule is not None and rule.over == "row" else 0,
        "raw": attention.output is not None,
        "whole_rows": whole["dq"],
        "whole_keys": whole["dkdv"],
        "aligned": any(it.form.stride_unit > 1 for it in found),
        "finds": finds(found, problem),
        "launches": [_launch(it, problem) for it in lowering.forward],
        "backward_launches": [_launch(it, problem) for it in lowering.backward],
        "gradient_launches": [_launch(it, problem) for it in lowering.gradients],
        "atomics": atomics(lowering) if sums else [],
        "operands": [
            {"name": p.name, "whole": whole[step]}
            for pair in attention.products
            for p, step in zip(pair, ("dq", "dkdv"), strict=True)
        ]
        + [{"name": p.name, "whole": False} for p in attention.channels],
    }


def before_kernels(lowering: Lowering, fixed: Mapping[str, int]) -> TorchCode | None:
    """What torch computes before the kernels; None for nothing."""
    if lowering.projection is None:
        return None
    return projection_code(lowering.attention, lowering.projection, lowering.given, tuple(fixed))


def after_kernels(lowering: Lowering, fixed: Mapping[str, int]) -> TorchCode | None:
    """What torch computes of their output; None for nothing."""
    found = finished(lowering.attention)
    return None if found is None else finish_code(lowering.attention, found, lowering.given, tuple(fixed))


def _launch(it: Lowered, problem: Problem) -> dict[str, Any]:
    return {
        "name": it.name,
        "boxes": boxes_name(it),
        "function": it.module.name,
        "tiles": it.tables.tiles,
        "turned": it.form.turned,
        "arguments": [Passed(a.name, value_code(it, problem, a)) for a in it.module.arguments],
        "warps": it.config.warps,
        "stages": it.stages,
        "registers": it.config.registers,
        "sums": [slot_code(slot, it, problem) for slot in it.module.slots if slot.direct],
    }


def printable(line: str) -> str:
    """A line that stays one within a comment."""
    return "".join(c if c.isprintable() else " " for c in line).rstrip()


def tables_of(found: Sequence[Lowered]) -> dict[str, dict[str, Any]]:
    """The tables of every launch: `data`, all in one array, as `joined` lays them out, and `places` in it by the names
    that `value_code` reads. Launches whose boxes are found among candidates share those, by the name of their file."""
    made: dict[str, dict[str, Any]] = {}
    for it in found:
        if isinstance(it.located, Located):
            continue
        name = it.name if it.located is None else file_of(boxes_name(it))
        if name not in made:
            whole, places = joined(it.tables)
            made[name] = {"data": whole.tolist(), "places": {table_name(*key): at for key, at in places.items()}}
    return made


def table_name(name: str, piece: int) -> str:
    """`order`, `bounds0`."""
    return name if piece < 0 else f"{name}{piece}"


def signature(scalars: Sequence[Scalar], inputs: Sequence[Input], problem: Problem, has_lse: bool) -> list[str]:
    """The parameters of the function: what has no default first."""
    declared = [call_name(p.name) for p in inputs]
    declared += [
        call_name(s.name) if s.name not in problem.scalars else f"{call_name(s.name)}={problem.scalars[s.name]!r}"
        for s in sorted(scalars, key=lambda s: s.name in problem.scalars)
    ]
    return ["q", "k", "v", "*", *declared, "scale=None", *(["return_lse=False"] if has_lse else [])]


def fixed_sizes(lowering: Lowering) -> dict[str, int]:
    """Sizes that a plan and its kernels were made for: lengths and head sizes, what the mask, the call's conditions and
    the extent of vectors read, and batches and heads where the mask depends on them."""
    mask = lowering.attention.mask
    fixed = {"Lq", "Lk", "L", "D", "Dv"}
    fixed |= {n.name for e in (mask, *conditions(lowering.written)) for n in walk(e) if isinstance(n, Size)}
    if lowering.projection is not None:
        fixed |= sizes_of_vectors(lowering.projection)
    varies = depends(mask)
    if "b" in varies:
        fixed.add("B")
    if varies & {"h", "hkv"}:
        fixed |= {"H", "Hkv"}
    return {n: v for n, v in lowering.given.sizes.items() if n in fixed}


def fixed_scalars(lowering: Lowering) -> frozenset[str]:
    """Scalars of the plan, and those that a call's conditions are about."""
    parts = (lowering.attention.mask, *conditions(lowering.written))
    return frozenset(n.name for e in parts for n in walk(e) if isinstance(n, ParamRef))


def conditions(written: Attention) -> list[Expr]:
    """What a call checks on the host: `require` and divisors. A build has checked it, for its own numbers."""
    found = [r.condition for r in written.requires]
    for clause in (written.mask, written.score, written.weight, written.output):
        if clause is not None:
            found += [n.args[1] for n in walk(clause) if isinstance(n, Op) and n.op in ("floordiv", "mod")]
    return found


def dimension(e: Expr, fixed: Mapping[str, int]) -> str | int | None:
    """A dimension of an input as the module checks it: a name, a number, or None for any."""
    return e.name if isinstance(e, Size) else extent(e, fixed)


def _arrays(lowering: Lowering, more: frozenset[str]) -> dict[str, tuple[Any, ...]]:
    """Const arrays that kernels, or what comes before them, read as tables."""
    every = (*lowering.launches, *(it for part in lowering.parts.values() for it in part.launches))
    read = {str(a.key[0]) for it in every for a in it.module.arguments if a.role == "input"} | more
    arrays: dict[str, tuple[Any, ...]] = {}
    for p in lowering.attention.params:
        if isinstance(p, Const) and p.name in read:
            assert isinstance(p.default, tuple)
            arrays[p.name] = p.default
    return arrays


def operand_names(attention: Attention) -> frozenset[str]:
    """The inputs that hold vectors of further dot products."""
    return frozenset(p.name for pair in attention.products for p in pair)


TENSORS = frozenset((
    "q", "k", "v", "out", "lse", "raw", "sums", "grad", "grad_lse", "do", "stats", "dq", "dk", "dv",
))  # fmt: skip
"""Tensors of a call and its backward pass, as the module's functions name them."""


def value_code(it: Lowered, problem: Problem, a: Argument) -> str:
    """What the module passes for an argument of a kernel, in the names of its function `launch`."""
    name = str(a.key[0])
    match a.role:
        case "tensor" if name in ("raw", "sums") and not it.constants.get("SAVE", True):
            # kept for backward alone
            return "out"
        case "tensor" if name in TENSORS:
            return name
        case "tensor" if name.startswith("d "):
            return f"d_{name.removeprefix('d ')}"
        case "tensor" if name in operand_names(it.attention):
            return f'inputs["{name}"]'
        case "table":
            return f't["{table_name(name, int(a.key[1]))}"]'
        case "stride":
            unit = it.form.stride_unit
            tensor = f'inputs["{name}"]' if name in operand_names(it.attention) else name
            return f"{tensor}.stride({a.key[1]})" + (f" // {unit}" if unit > 1 else "")
        case "number":
            return _number(it, problem, name, int(a.key[1]))
        case "size":
            return f'sizes["{name}"]'
        case "extent":
            return extent_code(it.attention, problem, a)
        case "scalar":
            return f'{"float" if a.type == "fp32" else "int"}(scalars["{name}"])'
        case "input":
            return f'inputs["{name}"]'
        case "input stride":
            return f'inputs["{name}"].stride({a.key[1]})'
        case "input size":
            return f'inputs["{name}"].shape[{a.key[1]}]'
        case "sums" | "gradient" | "gradient rest":
            return a.name
        case "gradient size":
            return f'inputs["{name}"].numel()'
        case "constexpr":
            return repr(it.constants[name])
        case _:
            raise NotImplementedError(f"{it.attention.name}: a built module cannot pass {a.role} {name!r} to a kernel")


def _number(it: Lowered, problem: Problem, name: str, piece: int) -> str:
    tables = it.tables
    match name:
        case "B" | "H" | "Hkv" | "section":
            return name
        case "Lq" | "Lk":
            return str(problem.sizes[name])
        case "tiles":
            return str(tables.tiles)
        case "q_start" | "k_start":
            return str(tables.start if piece < 0 else tables.pieces[piece].start)
        case "q_offset":
            assert isinstance(problem.q_offset, int)
            return str(problem.q_offset)
        case "class_sb" | "class_sh":
            batches, heads = tables.pieces[piece].class_of.shape
            return str((heads if batches > 1 else 0) if name == "class_sb" else int(heads > 1))
        case "scale":
            # a scale of zero would make 0 * inf of a masked score
            return "max(scale, 1e-30)"
        case _ if name.startswith("split_"):
            axis = int(name.lstrip("split_qk"))
            return str(tables.splits[axis] if piece < 0 else tables.pieces[piece].splits[axis])
        case _:
            raise NotImplementedError(
                f"{it.attention.name}: a built module cannot pass the number {name!r} to a kernel"
            )


def sources(names: Collection[str]) -> list[str]:
    """The source of functions of `vectors` that code calls, and of those that they call, in the order of the file."""
    wanted, waiting = set[str](), [n for n in names if n in _FUNCTIONS]
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            called = set(re.findall(r"\b(\w+)\(", inspect.getsource(_FUNCTIONS[name])))
            waiting += called & _FUNCTIONS.keys()
    return [inspect.getsource(f).rstrip() for n, f in _FUNCTIONS.items() if n in wanted]


# Gradients of inputs


def slot_code(slot: Slot, it: Lowered, problem: Problem) -> dict[str, str]:
    """The sums of a kernel over what stands at its own places: their shape, and what they add to an input."""
    length = {
        Level.UNIFORM: it.tables.tiles, Level.ROW: problem.sizes["Lq"], Level.COLUMN: problem.sizes["Lk"]
    }[slot.level]  # fmt: skip
    names = [i.name for i in slot.load.indices if isinstance(i, Index)]
    axes = {"b": 0, "h": 1, "hkv": 1, "row": 2, "q": 2, "k": 2}
    used = [axes[n] for n in names]
    code = slot.target + (".unflatten(1, (Hkv, -1)).sum(2)" if "hkv" in names else "")
    unused = [a for a in (0, 1, 2) if a not in used]
    if unused:
        code += f".sum(({', '.join(map(str, unused))},))" if len(unused) == 1 else f".sum({tuple(unused)})"
    if used != sorted(used):
        ranks = {axis: n for n, axis in enumerate(sorted(used))}
        order = [*(ranks[a] for a in used), *([len(used)] if slot.vector else [])]
        code += f".permute({', '.join(map(str, order))})"
    assert isinstance(problem.q_offset, int)
    return {
        "target": slot.target,
        "shape": f"B, H, {length}" + (f", {problem.sizes['Dv']}" if slot.vector else ""),
        "name": slot.load.tensor,
        "code": code,
        "first": repr(tuple(problem.q_offset if n == "q" else 0 for n in names)),
    }


def atomics(lowering: Lowering) -> list[dict[str, str]]:
    """Inputs to whose elements several programs add."""
    slots = [s for it in lowering.gradients for s in it.module.slots if not s.direct]
    return [{"name": n, "target": t} for n, t in dict.fromkeys((s.load.tensor, s.target) for s in slots)]
