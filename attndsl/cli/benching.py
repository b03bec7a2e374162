"""What `bench` measures: a call with its tensors on a device, ours and others'."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from attndsl.api import AttentionFunction, load
from attndsl.bench.measure import Keep, Row, measure, said
from attndsl.bench.peers import flex, library, sdpa
from attndsl.cli.options import SIZES, Grid, Setting
from attndsl.cli.output import CallError
from attndsl.cli.planning import check as check_conditions
from attndsl.cli.setup import Setup, prepare
from attndsl.cli.specs import pick
from attndsl.cli.trial import DTYPES, Tensors, check, dense_mask, make_tensors, oracle_rows
from attndsl.ir.expr import SCORE, Literal, Size

if TYPE_CHECKING:
    from torch import Tensor

    from attndsl.bench.workloads import Workload
    from attndsl.schedule.plan import Plan


@dataclass(frozen=True)
class Subject:
    """A call to measure. `flops` are those of the visible pairs, forward; `workload` if it is one of the project's."""

    name: str
    title: str
    setup: Setup
    tensors: Tensors
    workload: Workload | None = None

    @cached_property
    def function(self) -> AttentionFunction:
        return AttentionFunction(self.setup.attention)

    @cached_property
    def plan(self) -> Plan:
        read = {n: t.cpu() for n, t in self.tensors.inputs.items()}
        return self.function._planned(self.setup.problem(_tables(self.setup, read)), None)  # pyright: ignore[reportPrivateUsage]

    @property
    def flops(self) -> float | None:
        if self.workload is not None:
            return float(self.workload.flops)
        ratio, s = self.plan.bounds.dense_over_pairs, self.setup.sizes
        pairs = None if not ratio else s["B"] * s["H"] * s["Lq"] * s["Lk"] / ratio
        return None if pairs is None else 2 * pairs * (self._components + s["Dv"])

    @cached_property
    def _components(self) -> int:
        """Components of a query in the dot products of a pair."""
        from attndsl.ir.finished import before_output
        from attndsl.ir.projection import Projection, projection

        found = projection(before_output(self.function.simplified))
        if isinstance(found, Projection) and found.products:
            return found.components(self.setup.sizes)
        return self.setup.sizes["D"]


def _tables(setup: Setup, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    from attndsl.ir.free import tensors

    read = tensors(setup.attention.mask)
    return {n: t.numpy() for n, t in inputs.items() if n in read}


def device_of(backend: str | None) -> str:
    """Where a backend runs; without one, the machine's GPU if there is one."""
    if backend == "cpu" or (backend is None and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise CallError("--backend triton needs a GPU to be measured")
    return "cuda"


def of_file(
    file: str,
    name: str | None,
    sizes: Mapping[str, int],
    grid: Grid | None,
    settings: Mapping[str, Setting],
    dtype: str | None,
    device: str,
) -> Subject:
    """A user's spec at some sizes, on made-up tensors."""
    setup = prepare(pick(file, name), sizes, grid, settings)
    check_conditions(setup)
    kind = dtype or ("bf16" if device == "cuda" else "fp32")
    tensors = moved(make_tensors(setup, DTYPES[kind], 0), device)
    what = f"{setup.attention.name} {setup.describe()} {kind}"
    return Subject(what, what, setup, tensors)


def of_workload(w: Workload) -> Subject:
    """One of the project's workloads."""
    attention = load(w.text, **w.consts).attention
    fresh = {
        dim.name: n
        for p in attention.inputs
        for dim, n in zip(p.shape, w.inputs[p.name].shape, strict=True)
        if isinstance(dim, Size) and dim.name not in SIZES
    }
    shape = {"B": w.B, "H": w.H, "Hkv": w.Hkv or w.H, "D": w.D, **fresh}
    shape |= {} if w.grid is not None else {"Lq": w.Lq or w.S, "Lk": w.S}
    setup = prepare(attention, shape, None if w.grid is None else (tuple(w.grid),), {})
    q, k, v = w.tensors()
    grad = torch.empty(0, device=q.device)
    return Subject(w.name, w.name, setup, Tensors(q, k, v, dict(w.inputs), grad, oracle_rows(setup)), w)


def moved(t: Tensors, device: str) -> Tensors:
    """The same tensors on a device."""
    inputs = {n: x.to(device) for n, x in t.inputs.items()}
    return Tensors(t.q.to(device), t.k.to(device), t.v.to(device), inputs, t.grad.to(device), t.rows)


def measure_ours(subject: Subject, keep: Keep, backend: str, backward: bool) -> None:
    """Ours: error on sampled rows, then the time of both passes."""
    t, device = subject.tensors, subject.tensors.q.device.type
    names = list(t.inputs)
    arguments: dict[str, Any] = dict(subject.setup.scalars)
    if subject.setup.grid is not None:
        arguments["grid"] = subject.setup.grid

    def call(q: Tensor, k: Tensor, v: Tensor, *inputs: Tensor) -> Tensor:
        every: dict[str, Any] = {**arguments, **dict(zip(names, inputs, strict=True))}
        return subject.function(q, k, v, backend=backend, **every)

    system = f"attndsl-{backend}"
    tensors = (t.q, t.k, t.v, *t.inputs.values())
    try:
        start = time.perf_counter()
        with torch.no_grad():
            out = call(*tensors)
        if device == "cuda":
            torch.cuda.synchronize()
        note = f"first call {time.perf_counter() - start:.2f} s"
        if t.rows:
            found = check(subject.setup, t, out, {})["out"]
            note += f", error {found.error:.1e} of {found.allowed:.1e}"
            if not found.ok:
                keep(Row(subject.name, system, "fwd", None, None, f"WRONG {note}"))
                return
        del out
    except Exception as error:
        keep(Row(subject.name, system, "fwd", None, None, said(error)))
        return
    backward &= subject.workload is None or subject.workload.backward
    measure(
        keep, subject.name, system, call, tensors, flops=subject.flops, backward=backward, device=device, note=note
    )  # fmt: skip


def measure_peers(subject: Subject, keep: Keep, backward: bool) -> None:
    """The others; one that cannot compute this, or fails, is a row that says why."""
    w, t = subject.workload, subject.tensors
    device = t.q.device.type
    backward &= w is None or w.backward
    common: dict[str, Any] = {"flops": subject.flops, "backward": backward, "device": device}
    qkv = (t.q, t.k, t.v)
    if w is None:
        mask, note = dense_mask(subject.setup, replace(t, inputs={n: x.cpu() for n, x in t.inputs.items()}))
        if mask is None and note:
            keep(Row(subject.name, "sdpa-dense", "fwd", None, None, note))
        else:
            plain = subject.setup.attention.score == SCORE and subject.setup.attention.weight is None
            note = "" if plain else "the mask only, not this score or weight"
            call = sdpa(*qkv[:2], None if mask is None else mask.to(device))
            measure(keep, subject.name, "sdpa-dense", call, qkv, **common, note=note)
    elif w.library is not None:
        for name, call in library(w.library, *qkv[:2]).items():
            measure(keep, subject.name, name, call, qkv, **common)
    _flex(subject, keep, qkv, common)


def _flex(subject: Subject, keep: Keep, qkv: tuple[Tensor, Tensor, Tensor], common: dict[str, Any]) -> None:
    w = subject.workload
    name = "flex-perm" if w is not None and w.permuted else "flex"
    score: Callable[..., Any] | None
    try:
        if w is not None:
            if w.flex is None:
                return
            score, mask = w.flex()
            if w.permuted:
                qkv = w.tensors(w.permuted)
        else:
            from attndsl.bench.flex import functions

            score, mask = functions(subject.setup.attention, subject.setup.problem(), subject.tensors.inputs)
            a = subject.setup.attention
            if isinstance(a.mask, Literal) and a.mask.value:
                mask = None
        call, note = flex(qkv[0], qkv[1], score, mask)
        if qkv[0].device.type == "cpu":
            common = {**common, "backward": False}
            note += ", has no backward pass on a CPU"
    except Exception as error:
        keep(Row(subject.name, name, "fwd", None, None, said(error)))
        return
    measure(keep, subject.name, name, call, qkv, **common, note=note)
