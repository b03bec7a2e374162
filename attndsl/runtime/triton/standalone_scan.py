"""A Python module that runs linear attention as scans by itself: torch, triton and the kernels, nothing of attndsl."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import attndsl
from attndsl.codegen.templates import render, title
from attndsl.codegen.torch_scan import (
    ScanCode,
    counted,
    decay_of,
    finished,
    fixed_by_scan,
    other_sum,
    scan_code,
    sums_itself,
)
from attndsl.codegen.triton_arguments import Argument
from attndsl.codegen.triton_form import Dtype
from attndsl.codegen.triton_scan import Operand, ScanModule, Walk, generate_scan
from attndsl.codegen.triton_scan_channel import Channel, finish_slices, generate_channel
from attndsl.codegen.triton_scan_step import Step, generate_step
from attndsl.ir.attention import Attention, Const, Input, Scalar
from attndsl.ir.expr import ParamRef, Size, walk
from attndsl.ir.types import kind_of_dtype
from attndsl.runtime.triton.config import shared_memory
from attndsl.runtime.triton.cross import Compiled, compile_for
from attndsl.runtime.triton.failures import Attempt, failure, reported
from attndsl.runtime.triton.modules import load_module
from attndsl.runtime.triton.scan import CHUNK_WARPS, PREFIX_BLOCK, PREFIX_WIDTH
from attndsl.runtime.triton.scan_channel import WARPS as CHANNEL_WARPS
from attndsl.runtime.triton.scan_config import GATE_LENGTH, ScanConfig, choose_scan, choose_step
from attndsl.runtime.triton.scan_kernel import gap_of
from attndsl.runtime.triton.side_by_side import side_by_side
from attndsl.runtime.triton.standalone import TORCH_DTYPES, call_name, conditions, dimension, printable, sources
from attndsl.runtime.triton.standalone_boxes import BoxLaunch
from attndsl.schedule.legalise import ScanForm, legalise
from attndsl.schedule.problem import Problem

CAREFUL = {"gates": "careful", "finish": "finish_careful"}
"""Kernels for the chunks of a decay per channel that others leave."""
_ELEMENT = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True)
class ScanFile:
    """A file of kernels, and the passes that launch them."""

    name: str
    module: ScanModule
    tensors: Mapping[str, str]


@dataclass(frozen=True)
class ScanLaunch:
    """One kernel of a file as a call launches it."""

    attention: Attention
    file: ScanFile
    function: str
    constants: Mapping[str, Any]
    warps: int
    stages: int
    capability: int
    tile: tuple[int, int]
    dtype: Dtype

    @property
    def home(self) -> str:
        """Its file."""
        return self.file.name

    @property
    def name(self) -> str:
        """The file, the kernel, the tile and the options."""
        flags = [n.lower() for n in ("START", "FINAL") if self.constants.get(n)]
        rows, columns = self.tile
        return "_".join([
            self.file.name, self.function, *flags, f"{rows}x{columns}", f"w{self.warps}", f"s{self.stages}"
        ])  # fmt: skip

    def attempt(self) -> Attempt:
        """Its compilation."""
        signature: dict[str, str] = {}
        attributes: dict[tuple[int, ...], list[list[Any]]] = {}
        for i, a in enumerate(self.arguments):
            type_ = self.types(a)
            signature[a.name] = type_
            if type_.startswith("*"):
                attributes[(i,)] = [["tt.divisibility", 16]]
        return Attempt(
            self.attention, self.file.module.source, self.function, signature, self.constants, attributes, self.warps,
            self.stages, self.capability, (self.file.name, self.dtype),
        )  # fmt: skip

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """Those of the kernel, in order."""
        found = self.file.module.arguments.get(self.function)
        return found if found is not None else _OWN[self.function]

    def types(self, a: Argument) -> str:
        """The type of an argument, as Triton spells it."""
        if a.type == "*qkv":
            # gradients that are summed over the heads of a group are fp32
            return f"*{self.file.tensors.get(a.name, self.dtype)}"
        return "*fp32" if a.type == "*input" else a.type


def _plain(tensors: Sequence[str], numbers: Sequence[str], constants: Sequence[str]) -> tuple[Argument, ...]:
    return (
        *(Argument(n, "*fp32", "tensor", (n,)) for n in tensors),
        *(Argument(n, "i32", "number", (n,)) for n in numbers),
        *(Argument(n, "constexpr", "constexpr", (n,)) for n in constants),
    )


_OWN = {
    "carry": _plain(("local", "initial", "decays"), ("segments", "size", "inner", "blocks"), ("START", "BLOCK")),
    "prefix": _plain(
        ("added", "decays", "initial", "entering"), ("chunks_all", "blocks"), ("START", "BLOCK", "WIDTH")
    ),
}  # fmt: skip
"""Arguments of kernels that every file has alike."""


@dataclass(frozen=True)
class Plan:
    """How a walk of `SCANS` is launched."""

    file: ScanFile
    config: ScanConfig
    keys: int
    values: int
    reverse: bool
    unit: int
    wide: bool = False

    @property
    def entry(self) -> dict[str, Any]:
        """What the module says of it."""
        c = self.config
        found = {
            "kernels": self.file.name, "keys": self.keys, "values": self.values, "chunk": c.chunk,
            "columns": c.columns, "warps": c.warps, "stages": c.stages, "states": c.of_states, "resident": c.resident,
            "least": c.least, "reverse": self.reverse, "unit": self.unit,
        }  # fmt: skip
        return found | {"wide": self.wide}


@dataclass(frozen=True)
class ScanLowering:
    """The scans of a call of `attention` (consts bound, simplified), which means `written`, by what they sum and name;
    `differentiated`: with a backward pass."""

    attention: Attention
    written: Attention
    problem: Problem
    form: ScanForm
    dtype: Dtype
    capability: int
    scans: Mapping[str, Mapping[str, Plan]]
    differentiated: bool
    step: bool

    @property
    def files(self) -> tuple[ScanFile, ...]:
        """Every file once."""
        return tuple({p.file.name: p.file for plans in self.scans.values() for p in plans.values()}.values())

    @property
    def stateful(self) -> bool:
        """Whether calls may start from a state and return one."""
        return self.form.stateless is None and self.attention.q_space is None

    @property
    def launches(self) -> tuple[ScanLaunch, ...]:
        """The kernels of a call, each once."""
        found: dict[str, ScanLaunch] = {}
        for plans in self.scans.values():
            for name, plan in plans.items():
                for it in self._of(name, plan):
                    found.setdefault(it.name, it)
        return tuple(found.values())

    def _of(self, name: str, plan: Plan) -> list[ScanLaunch]:
        c, file = plan.config, plan.file

        def made(function: str, columns: int, warps: int, stages: int, **constants: Any) -> ScanLaunch:
            known = {"BT": c.chunk, "BV": columns, **constants}
            wanted = {a.name for a in (file.module.arguments.get(function) or _OWN[function]) if a.role == "constexpr"}
            return ScanLaunch(
                self.attention, file, function, {n: x for n, x in known.items() if n in wanted}, warps, stages,
                self.capability, (c.chunk, columns), self.dtype,
            )  # fmt: skip

        states = made("states", *c.of_states) if "states" in file.module.arguments else None
        if self.form.kind == "reduction":
            return [] if states is None else [states]
        if name == "forward" and self.step:
            return [made("step", c.columns, c.warps, 1, START=start, FINAL=True) for start in (False, True)]
        if name == "gates":
            passes = ("gates", "finish") if self.differentiated else ("gates",)
            every = (*(passes if c.gate_whole else ()), *(CAREFUL[p] for p in passes))
            warps = {**CHANNEL_WARPS, "careful": c.warps}
            return [made(n, plan.keys, warps[n], 1, REST=c.gate_whole) for n in every]
        assert states is not None
        found = [states]
        block = 256 if plan.keys * plan.values <= 1 << 14 else 1024
        if name in ("forward", "dq_states", "dk_states"):
            found.append(made("carry", block, 4, 3, START=False, BLOCK=block))
        if "sums" in file.module.arguments and name == "forward":
            found.append(made("sums", c.chunk, CHUNK_WARPS["sums"], 1))
        if "columns" in file.module.arguments and name in ("forward", "dq_states", "dk_states"):
            found.append(made("columns", plan.keys, CHUNK_WARPS["columns"], 1))
            found.append(made("prefix", PREFIX_WIDTH, 4, 1, START=False, BLOCK=PREFIX_BLOCK, WIDTH=PREFIX_WIDTH))
        if "norms" in file.module.arguments and name == "forward":
            found.append(made("norms", plan.keys, CHUNK_WARPS["norms"], 1))
        if name.endswith("states"):
            return found
        if name != "forward":
            # their states are those of others
            found.remove(states)
        starts = (False, True)
        return [*found, *(made("outputs", c.columns, c.warps, c.stages, START=s, FINAL=False) for s in starts)]

    def fitted(self, launch: ScanLaunch, stages: int) -> ScanLowering:
        """With fewer stages of a kernel, everywhere."""
        scans: dict[str, dict[str, Plan]] = {}
        for of, plans in self.scans.items():
            scans[of] = {}
            for name, plan in plans.items():
                c = plan.config
                if plan.file.name == launch.file.name and launch in self._of(name, plan):
                    c = replace(c, state_stages=stages) if launch.function == "states" else replace(c, stages=stages)
                scans[of][name] = replace(plan, config=c)
        return replace(self, scans=scans)


def lower_scan_module(
    attention: Attention,
    written: Attention,
    problem: Problem,
    dtype: Dtype,
    *,
    capability: int = 90,
    backward: bool = True,
) -> ScanLowering | str:
    """The scans of a call; in words why there are none."""
    found = legalise(attention, problem)
    form = found.form
    if form is None:
        return "; ".join(found.reasons) or f"it runs as {found}"
    sizes = problem.sizes
    if form.kind != "reduction" and (problem.q_offset != 0 or sizes["Lq"] != sizes["Lk"]):
        return "queries at other positions than the keys"
    gap = gap_of(form, tuple(sizes.items()))
    if gap is not None:
        return gap
    step = form.kind == "scan" and sizes["Lq"] == 1
    lowering = _Scans(attention, form, problem, dtype, capability, backward, step)
    return ScanLowering(attention, written, problem, form, dtype, capability, lowering.run(), backward, step)


@dataclass
class _Scans:
    attention: Attention
    form: ScanForm
    problem: Problem
    dtype: Dtype
    capability: int
    backward: bool
    step: bool
    files: dict[str, ScanFile] = field(default_factory=dict[str, ScanFile])

    def run(self) -> dict[str, dict[str, Plan]]:
        form, sizes = self.form, self.problem.sizes
        F, Dv = form.features(sizes), sizes["Dv"]
        scans = {"out": self.walks("", F, Dv, sums_itself(form), form.strict, form.kind == "both")}
        if other_sum(form) and form.kind != "reduction":
            n = form.weight.normaliser
            assert n is not None
            z = form.z_features(sizes)
            keys, values = (z, 16) if n.own or n.query is not None else (16, z)
            scans["other"] = self.walks("other_", keys, values, False, form.strict, True)
        if form.kind == "both":
            for of, plans in list(scans.items()):
                prefix = "behind_" if of == "out" else "other_behind_"
                some = plans["forward"]
                scans[f"{of}, behind"] = self.walks(prefix, some.keys, some.values, False, True, True)
        return scans

    def walks(self, prefix: str, keys: int, values: int, normalised: bool, strict: bool, wide: bool) -> dict[str, Plan]:
        """The scans of a sum and of its gradients."""
        form, dtype = self.form, self.dtype
        decay = decay_of(form)
        unit = 16 // _ELEMENT[dtype]
        aligned = keys % unit == 0 and values % unit == 0
        tma = aligned and self.capability >= 90
        one = "ones" if normalised else ""
        common: dict[str, Any] = {
            "decay": decay, "docs": bool(form.segments), "strict": strict, "tma": tma, "aligned": aligned
        }  # fmt: skip

        def made(name: str, q: int, k: int, v: int, narrow: bool = True, **options: Any) -> ScanFile:
            scan = Walk(dtype, Operand(q), Operand(k), Operand(v), **common, **options)
            return self.file(
                prefix + name, generate_scan(scan, title(self.attention)), {} if narrow else {"out": "fp32"}
            )

        across: dict[str, Any] = {"across": "values"} if decay == "channel" else {}

        def plan(file: ScanFile, keys: int, values: int, reverse: bool = False, wide: bool = False) -> Plan:
            config = choose_scan(dtype, keys, values, self.capability)
            return Plan(file, config, keys, values, reverse, unit if aligned else 1, wide)

        forward = made("scan", keys, keys, values, not wide, normalised=normalised, column=one)
        if form.kind == "reduction":
            return {"forward": plan(forward, keys, values)}
        found: dict[str, Plan] = {"forward": plan(forward, keys, values, wide=wide)}
        if self.step:
            step = Step(keys, values, decay, strict, normalised)
            file = self.file(
                prefix + "step", generate_step(step, title(self.attention)), {"out": "fp32"} if wide else {}
            )
            found["forward"] = Plan(file, choose_step(keys, values), keys, values, False, 1, wide)
        if decay == "channel" and (self.backward or not self.step):
            units = tuple((n, unit) for n in ("q", "k", "v", "do")) if aligned else ()
            channel = generate_channel(
                Channel(dtype, keys, values, strict, normalised, units=units), title(self.attention)
            )
            config = choose_scan(dtype, keys, values, self.capability)
            config = replace(config, warps=config.gate_warps)
            file = self.file(prefix + "channel", channel, {})
            found["gates"] = Plan(file, config, keys, values, False, unit if aligned else 1)
        if not self.backward:
            return found
        features = ("query", "key") if normalised else ("", "")
        found["dq_states"] = plan(forward, keys, values)
        for gated in (False, True) if decay not in ("none", "channel") else (False,):
            end = "_decay" if gated else ""
            dq = made(f"dq{end}", values, values, keys, feature=features[0], gated=gated, **across)
            dk = made(
                f"dk{end}", values, values, keys, feature=features[1], gated=gated, reverse=True, **across
            )  # fmt: skip
            found |= {f"dq{end}": plan(dq, values, keys), f"dk{end}": plan(dk, values, keys, True)}
        dv = made("dv", keys, keys, values, reverse=True, column="vector" if normalised else "")
        return found | {"dk_states": plan(dv, keys, values, True), "dv": plan(dv, keys, values, True)}

    def file(self, name: str, module: ScanModule, tensors: Mapping[str, str]) -> ScanFile:
        """A file, once."""
        return self.files.setdefault(name, ScanFile(name, module, tensors))


def scan_standalone(lowering: ScanLowering, text: Sequence[str] = ()) -> str:
    """The module's text; `text` are the lines of the spec as its user wrote them (the printed meaning unless given)."""
    attention, form, problem, written = lowering.attention, lowering.form, lowering.problem, lowering.written
    sizes = problem.sizes
    fixed = _fixed(lowering)
    stateful = lowering.stateful
    code = scan_code(attention, form, problem, tuple(fixed), "position" if stateful else "")
    scalars = [p for p in attention.params if isinstance(p, Scalar)]
    inputs = [p for p in attention.params if isinstance(p, Input)]
    pinned = {n.name for e in (attention.mask, *conditions(written)) for n in walk(e) if isinstance(n, ParamRef)}
    n = form.weight.normaliser
    return render(
        "triton/standalone_scan.py.j2",
        name=call_name(written.name),
        module=call_name(written.name),
        version=attndsl.__version__,
        target=f"sm_{lowering.capability}",
        runs=str(legalise(attention, problem)).capitalize(),
        dtype=lowering.dtype,
        torch_dtype=TORCH_DTYPES[lowering.dtype],
        capability=lowering.capability,
        title=[printable(line) for line in text or title(written)],
        built_for=", ".join(f"{n}={v}" for n, v in fixed.items() if n != "L"),
        fixed=fixed,
        free=tuple(n for n in sizes if n not in fixed and n != "L"),
        sizes=sizes,
        inputs=[{"name": p.name, "argument": call_name(p.name)} for p in inputs],
        scalars=[{"name": s.name, "argument": call_name(s.name)} for s in scalars],
        usage=["q", "k", "v", *(f"{call_name(p.name)}={call_name(p.name)}" for p in inputs)],
        signature=_signature(scalars, inputs, problem, stateful),
        shapes={p.name: tuple(dimension(e, fixed) for e in p.shape) for p in inputs},
        kinds={p.name: str(kind_of_dtype(p.dtype)) for p in inputs},
        fixed_scalars={s.name: problem.scalars[s.name] for s in scalars if s.name in pinned},
        consts=_arrays(attention, code),
        scans={of: {name: p.entry for name, p in plans.items()} for of, plans in lowering.scans.items()},
        stateful=stateful,
        has_z=n is not None and n.node is not None,
        docs=bool(form.segments),
        backward=lowering.differentiated,
        kind=form.kind,
        strict=form.strict,
        decay=decay_of(form),
        normalised=sums_itself(form),
        other=other_sum(form),
        own=n is not None and n.own,
        other_query=n is not None and n.query is not None,
        counts=counted(form),
        moves=form.by_head,
        by_head=form.by_head,
        before=code.prepare,
        called="\n".join(code.prepare),
        finish=code.finish if finished(form) else [],
        helpers=sources(code.helpers),
        aligned=any(p.unit > 1 for plans in lowering.scans.values() for p in plans.values()),
        step=lowering.step,
        whole=any(p.config.gate_whole for p in lowering.scans["out"].values()),
        channel_warps=CHANNEL_WARPS,
        finish_slices=finish_slices(form.features(sizes)),
        features=form.features(sizes),
        gate_length=GATE_LENGTH,
        prefix_block=PREFIX_BLOCK,
        prefix_width=PREFIX_WIDTH,
    )


def _fixed(lowering: ScanLowering) -> dict[str, int]:
    """Sizes that no call changes: lengths, head sizes, what the number of features, the mask and conditions read."""
    read = (lowering.attention.mask, *conditions(lowering.written))
    fixed = {"Lq", "Lk", "L", "D", "Dv"} | fixed_by_scan(lowering.form)
    fixed |= {n.name for e in read for n in walk(e) if isinstance(n, Size)}
    return {n: v for n, v in lowering.problem.sizes.items() if n in fixed}


def _arrays(attention: Attention, code: ScanCode) -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    for p in attention.params:
        if isinstance(p, Const) and p.name in code.arrays:
            assert isinstance(p.default, tuple)
            found[p.name] = p.default
    return found


def _signature(scalars: Sequence[Scalar], inputs: Sequence[Input], problem: Problem, stateful: bool) -> list[str]:
    declared = [call_name(p.name) for p in inputs]
    declared += [
        call_name(s.name) if s.name not in problem.scalars else f"{call_name(s.name)}={problem.scalars[s.name]!r}"
        for s in sorted(scalars, key=lambda s: s.name in problem.scalars)
    ]
    states = ["initial_state=None", "return_state=False"] if stateful else []
    more = [*declared, *states]
    return ["q", "k", "v", *(["*", *more] if more else [])]


T = TypeVar("T", ScanLaunch, BoxLaunch)


def compile_scan(it: T) -> tuple[T, Compiled]:
    """The machine code of a launch, with fewer stages where it takes more shared memory than there is. KernelError
    where Triton's compiler fails, and where one stage does not fit."""
    limit = shared_memory(it.capability)
    while True:
        attempt = it.attempt()
        with reported(it.attempt):
            kernel = getattr(load_module(attempt.source), it.function)
            options = {"num_warps": it.warps, "num_stages": it.stages}
            built = compile_for(
                it.capability, kernel, attempt.signature, attempt.constants, attempt.attributes, options
            )  # fmt: skip
        if built.shared <= limit:
            return it, built
        if it.stages == 1:
            words = f"out of resource: shared memory, required: {built.shared}, hardware limit: {limit}"
            raise failure(attempt, words)
        it = replace(it, stages=it.stages - 1)


def compile_scans(found: Sequence[T], done: Callable[[int], None] = lambda _: None) -> list[tuple[T, Compiled]]:
    """`compile_scan` for every launch, in processes of their own. `done` is told how many are."""
    return side_by_side(compile_scan, found, done)
