"""The passes of linear attention as kernels run them, on tensors, or recorded without any and compiled for a GPU."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attndsl.ir.attention import Attention
from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import Expr, Size
from attndsl.ir.types import INT
from attndsl.runtime.call import Call
from attndsl.runtime.state import State
from attndsl.runtime.triton.cross import Compiled, compile_for
from attndsl.runtime.triton.kernels import kernel_for
from attndsl.runtime.triton.scan_config import ScanConfig, ScanPass, scan_configured
from attndsl.runtime.triton.scan_kernel import LinearKernel
from attndsl.runtime.triton.scan_launch import Launched, recording
from attndsl.schedule.legalise import ScanForm, legalise
from attndsl.schedule.problem import Problem

DTYPES: dict[str, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
INPUTS: dict[str, torch.dtype] = {
    "f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "f64": torch.float64, "bool": torch.bool,
    "i8": torch.int8, "i16": torch.int16, "i32": torch.int32, "i64": torch.int64,
}  # fmt: skip
POINTERS = {
    torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64", torch.bool: "i1",
    torch.int8: "i8", torch.int16: "i16", torch.int32: "i32", torch.int64: "i64", torch.uint8: "u8",
}  # fmt: skip
GRADIENTS: dict[ScanPass, str] = {"scan_dq": "q", "scan_dk": "k", "scan_dv": "v"}
FIXED = frozenset(("features", "expand", "carry", "prefix", "sums", "columns", "norms"))
"""Kernels that are the same in every configuration."""


def run_pass(
    kernel: LinearKernel,
    call: Call,
    form: ScanForm,
    step: ScanPass,
    saved: tuple[Tensor, ...] = (),
    grad: Tensor | None = None,
    state: State | None = None,
) -> Mapping[str, Tensor]:
    """The results of one pass of a call by name: `out`; a gradient (`q`, `k` or `v`) from what forward saved and `grad`
    of the output; of a step, whose call has one row, also the next state."""
    if step in GRADIENTS:
        found = kernel.scan_backward(call, form, None, saved, grad, (None, None), frozenset((GRADIENTS[step],)))
        return {n: t for n, t in found.items() if n == GRADIENTS[step]}
    out, after, _ = kernel.scan(call, form, state, step == "step", save=False)
    found = {"out": out}
    if after is not None:
        found |= {"S": after.S} | ({} if after.z is None else {"z": after.z})
    return found


@dataclass(frozen=True)
class Gpu:
    """What launches depend on: compute capability times ten, multiprocessors."""

    capability: int
    multiprocessors: int


def lower_scan(
    attention: Attention, problem: Problem, dtype: str, step: ScanPass, config: ScanConfig, gpu: Gpu
) -> list[Launched]:
    """What a pass of a call of these sizes launches in a configuration, on no tensors: `attention` has its consts bound
    and is simplified. ValueError where it does not run as a scan."""
    sizes = dict(problem.sizes)
    if step == "step":
        sizes |= {"L": 1, "Lq": 1, "Lk": 1}
    call = bare_call(attention, sizes, problem.scalars, DTYPES[dtype])
    form = legalise(attention, call.problem).form
    kernel = kernel_for(attention)
    gap = "its weight has no scan" if form is None else kernel.scan_gap(call, form)
    if form is None or gap is not None:
        raise ValueError(f"{attention.name} does not run as a scan: {gap}")
    with torch.no_grad(), scan_configured(**{step: config}), recording(gpu.capability, gpu.multiprocessors) as launches:
        saved: tuple[Tensor, ...] = ()
        grad = None
        if step in GRADIENTS:
            *_, saved = kernel.scan(call, form, None, False, save=True)
            grad = call.q.new_empty((*call.q.shape[:3], call.v.shape[3]))
            launches.clear()
        run_pass(kernel, call, form, step, saved, grad, _state(call, form) if step == "step" else None)
    return [it for it in launches if it.kernel.__name__ not in FIXED]


def bare_call(attention: Attention, sizes: Mapping[str, int], scalars: Mapping[str, Any], dtype: torch.dtype) -> Call:
    """A call on tensors without memory."""

    def empty(*shape: int, of: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, dtype=of, device="meta")

    known: dict[Expr, Any] = {Size(INT, name): n for name, n in sizes.items()}
    inputs = {
        p.name: empty(*(int(evaluate(e, Env(known))) for e in p.shape), of=INPUTS[p.dtype]) for p in attention.inputs
    }
    B, H, Hkv, D, Dv = (sizes[n] for n in ("B", "H", "Hkv", "D", "Dv"))
    q, k, v = empty(B, H, sizes["Lq"], D), empty(B, Hkv, sizes["Lk"], D), empty(B, Hkv, sizes["Lk"], Dv)
    return Call(attention, q, k, v, inputs, dict(scalars), dict(sizes), {}, {}, 0, D**-0.5, {})


def _state(call: Call, form: ScanForm) -> State:
    """A state that a step of a call starts from."""
    s = call.sizes
    heads = s["H"] if form.by_head else s["Hkv"]

    def empty(*shape: int) -> Tensor:
        return torch.empty((s["B"], heads, *shape), dtype=torch.float32, device=call.q.device)

    z = form.z_features(s)
    segment = torch.zeros((s["B"], heads, len(form.segments)), dtype=torch.int64, device=call.q.device)
    S = empty(form.features(s), s["Dv"])
    return State(S, empty(z) if z else None, 0, segment if form.segments else None)


def compile_launched(it: Launched, capability: int) -> Compiled:
    """The machine code of a launch. Pointers are taken to be aligned to 16 bytes."""
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for i, (p, value) in enumerate(zip(it.kernel.params, it.values, strict=True)):
        if p.is_constexpr:
            signature[p.name], constants[p.name] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[p.name] = f"*{POINTERS[value.dtype]}"
            attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[p.name] = p.annotation_type or ("fp32" if isinstance(value, float) else "i32")
    options = {"num_warps": it.warps, "num_stages": it.stages}
    return compile_for(capability, it.kernel, signature, constants, attributes, options)
