"""A Python module that launches compiled kernels by itself: torch, triton and the plan's tables, nothing of attndsl."""

from __future__ import annotations

import keyword
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import attndsl
from attndsl.codegen.templates import render, title
from attndsl.codegen.triton_arguments import Argument
from attndsl.codegen.triton_backward import stats_of
from attndsl.codegen.triton_weight import rule_of
from attndsl.ir.attention import Attention, Const, Input, Scalar
from attndsl.ir.evaluate import Env, UnboundError, evaluate
from attndsl.ir.expr import Expr, Op, ParamRef, Size, walk
from attndsl.ir.free import depends
from attndsl.ir.types import INT, kind_of_dtype
from attndsl.ir.weights import weight_form
from attndsl.runtime.triton.launch import SHARED_SECTION
from attndsl.runtime.triton.lowering import Lowered, q_segments
from attndsl.runtime.triton.tables import joined
from attndsl.schedule.problem import Problem

TORCH_DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
_TAKEN = frozenset((
    "HERE", "INTERPRETED", "DTYPE", "CAPABILITY", "BUILT_FOR", "SHAPES", "KINDS", "SCALARS", "CONSTS", "launch",
    "launch_backward", "on_device", "run", "Attend", "once_differentiable",
    "check", "agree", "kind", "aligned", "as_read", "kernel", "tables_on", "importlib", "json", "math", "os", "Path",
    "torch", "triton", "inputs", "scalars", "sizes", "out", "lse", "q", "k", "v", "scale", "return_lse",
))  # fmt: skip
"""Names of the module that a spec may use for something else."""


@dataclass(frozen=True)
class Passed:
    """An argument of a kernel and the code of its value."""

    name: str
    value: str

    @property
    def line(self) -> str:
        """The argument, and its name where the value does not say it."""
        return f"{self.value}," if self.value == self.name else f"{self.value},  # {self.name}"


def call_name(name: str) -> str:
    """A name of the spec as the module writes it: one that Python or the module uses ends in an underscore."""
    return f"{name}_" if keyword.iskeyword(name) or name in _TAKEN else name


def standalone(
    attention: Attention,
    written: Attention,
    problem: Problem,
    forward: Sequence[Lowered],
    backward: Sequence[Lowered] = (),
    text: Sequence[str] = (),
) -> str:
    """The module's text. `attention` is what the kernels compute, `written` what it means, `text` the lines of the spec
    as its user wrote them (the printed meaning unless given). With a backward pass, `forward` saves for it."""
    found = [*forward, *backward]
    rule = rule_of(attention) if backward else None
    by_rows = [it for it in backward if it.step == "dq"]
    by_keys = [it for it in backward if it.step == "dkdv"]
    on_grid = attention.gridded and not problem.moved
    rows, keys = (len(q_segments(problem, on_grid, turned)) for turned in (False, True))
    first = found[0] if found else None
    sizes = problem.sizes
    fixed = fixed_sizes(attention, written, problem)
    free = tuple(n for n in sizes if n not in fixed and n != "L")
    scalars = [p for p in attention.params if isinstance(p, Scalar)]
    inputs = [p for p in attention.params if isinstance(p, Input)]
    pinned = fixed_scalars(attention, written)
    dtype = first.form.dtype if first else "fp32"
    element = 4 if dtype == "fp32" else 2
    has_lse = weight_form(written).has_lse
    return render(
        "triton/standalone.py.j2",
        name=call_name(attention.name),
        module=call_name(attention.name),
        version=attndsl.__version__,
        target=f"sm_{first.capability}" if first else "any device",
        dtype=dtype,
        torch_dtype=TORCH_DTYPES[dtype],
        capability=first.capability if first else 80,
        title=[_printable(line) for line in text or title(written)],
        built_for=", ".join(f"{n}={v}" for n, v in fixed.items() if n != "L"),
        fixed=fixed,
        free=free,
        sizes=sizes,
        inputs=[{"name": p.name, "argument": call_name(p.name)} for p in inputs],
        scalars=[{"name": s.name, "argument": call_name(s.name)} for s in scalars],
        usage=["q", "k", "v", *(f"{call_name(p.name)}={call_name(p.name)}" for p in inputs)],
        signature=signature(scalars, inputs, problem, has_lse),
        shapes={p.name: tuple(_dim(e, fixed) for e in p.shape) for p in inputs},
        kinds={p.name: str(kind_of_dtype(p.dtype)) for p in inputs},
        fixed_scalars={s.name: problem.scalars[s.name] for s in scalars if s.name in pinned},
        consts=_arrays(found),
        has_lse=has_lse,
        bytes_of_a_key=(sizes["D"] + sizes["Dv"]) * element,
        section=SHARED_SECTION,
        backward=bool(backward),
        stats=len(stats_of(rule, False)) if rule is not None else 0,
        sums=len(rule.sums) + int(rule.counts) if rule is not None and rule.over == "row" else 0,
        raw=attention.output is not None,
        whole_rows=len(by_rows) == rows,
        whole_keys=len(by_keys) == keys,
        aligned=any(it.form.stride_unit > 1 for it in found),
        launches=[_launch(it, problem) for it in forward],
        backward_launches=[_launch(it, problem) for it in backward],
    )


def _launch(it: Lowered, problem: Problem) -> dict[str, Any]:
    return {
        "name": it.name,
        "function": it.module.name,
        "tiles": it.tables.tiles,
        "turned": it.form.turned,
        "arguments": [Passed(a.name, value_code(it, problem, a)) for a in it.module.arguments],
        "warps": it.config.warps,
        "stages": it.stages,
        "registers": it.config.registers,
    }


def _printable(line: str) -> str:
    """A line that stays one within a comment."""
    return "".join(c if c.isprintable() else " " for c in line).rstrip()


def tables_of(found: Sequence[Lowered]) -> dict[str, dict[str, Any]]:
    """The tables of every launch: `data`, all in one array, as `joined` lays them out, and `places` in it by the names
    that `value_code` reads."""
    made: dict[str, dict[str, Any]] = {}
    for it in found:
        whole, places = joined(it.tables)
        made[it.name] = {"data": whole.tolist(), "places": {table_name(*key): at for key, at in places.items()}}
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


def fixed_sizes(attention: Attention, written: Attention, problem: Problem) -> dict[str, int]:
    """Sizes that a plan and its kernels were made for: lengths and head sizes, what the mask and the call's conditions
    read, and batches and heads where the mask depends on them."""
    fixed = {"Lq", "Lk", "L", "D", "Dv"}
    fixed |= {n.name for e in (attention.mask, *conditions(written)) for n in walk(e) if isinstance(n, Size)}
    varies = depends(attention.mask)
    if "b" in varies:
        fixed.add("B")
    if varies & {"h", "hkv"}:
        fixed |= {"H", "Hkv"}
    return {n: v for n, v in problem.sizes.items() if n in fixed}


def fixed_scalars(attention: Attention, written: Attention) -> frozenset[str]:
    """Scalars of the plan, and those that a call's conditions are about."""
    parts = (attention.mask, *conditions(written))
    return frozenset(n.name for e in parts for n in walk(e) if isinstance(n, ParamRef))


def conditions(written: Attention) -> list[Expr]:
    """What a call checks on the host: `require` and divisors. A build has checked it, for its own numbers."""
    found = [r.condition for r in written.requires]
    for clause in (written.mask, written.score, written.weight, written.output):
        if clause is not None:
            found += [n.args[1] for n in walk(clause) if isinstance(n, Op) and n.op in ("floordiv", "mod")]
    return found


def _dim(e: Expr, fixed: dict[str, int]) -> str | int | None:
    if isinstance(e, Size):
        return e.name
    try:
        return int(evaluate(e, Env({Size(INT, n): v for n, v in fixed.items()})))
    except UnboundError:
        return None


def _arrays(found: Sequence[Lowered]) -> dict[str, tuple[Any, ...]]:
    """Const arrays that kernels read as tables."""
    arrays: dict[str, tuple[Any, ...]] = {}
    for it in found:
        for a in it.module.arguments:
            param = it.attention.param(str(a.key[0])) if a.role == "input" else None
            if isinstance(param, Const):
                assert isinstance(param.default, tuple)
                arrays[param.name] = param.default
    return arrays


TENSORS = frozenset(("q", "k", "v", "out", "lse", "raw", "sums", "grad", "do", "stats", "dq", "dk", "dv"))
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
        case "table":
            return f't["{table_name(name, int(a.key[1]))}"]'
        case "stride":
            unit = it.form.stride_unit
            return f"{name}.stride({a.key[1]})" + (f" // {unit}" if unit > 1 else "")
        case "number":
            return _number(it, problem, name, int(a.key[1]))
        case "size":
            return f'sizes["{name}"]'
        case "extent":
            side, segment, axis = map(str, a.key)
            space = it.attention.q_space if side == "q" else it.attention.k_space
            assert space is not None
            axes = next(s.axes for s in space.segments if s.name == segment)
            extents = problem.q_extents if side == "q" else problem.k_extents
            return str(extents[segment][axes.index(axis)])
        case "scalar":
            return f'{"float" if a.type == "fp32" else "int"}(scalars["{name}"])'
        case "input":
            return f'inputs["{name}"]'
        case "input stride":
            return f'inputs["{name}"].stride({a.key[1]})'
        case "input size":
            return f'inputs["{name}"].shape[{a.key[1]}]'
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
