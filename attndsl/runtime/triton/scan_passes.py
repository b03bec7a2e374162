"""The forward and the backward pass of linear attention as scans.

With w_ij = phi(q_i) . psi(k_j) decay_ij and o = sum w v / z:

    dq = scan(do/z, v, psi(k)) phi'(q)
    dk = reverse scan(v, do/z, phi(q)) psi'(k)      dv = reverse scan(psi(k), phi(q), do/z)

where a normaliser z adds dz_i = -(do_i . o_i) / z_i to every do_i . v_j. With P_ij = w_ij dw_ij, the gradient of the
logarithm of the decay from l - 1 to l is the sum of P_ij over i >= l > j. Within a segment that is the sum over i >= l
of phi(q_i).dphi(q_i) - psi(k_i).dpsi(k_i), plus <S, dS> at the segment's end, where S and dS are known in fp32: the
rounding of the sum does not grow with the length of the sequence.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from attndsl.codegen.triton_scan import DecayKind, Operand, Walk, slope_of
from attndsl.codegen.triton_scan_channel import Channel
from attndsl.codegen.triton_scan_step import Step
from attndsl.ir.expr import Expr
from attndsl.runtime.triton.launch import interpreting
from attndsl.runtime.triton.scan import DTYPES, Carried, Operands, Scan, Segments, aligned, config_of, has_tma
from attndsl.runtime.triton.scan_channel import Channels, Gated, units_of
from attndsl.runtime.triton.scan_config import (
    GATE_LENGTH,
    ScanConfig,
    ScanPass,
    all_forced_scans,
    choose_step,
    forced_scan,
)
from attndsl.runtime.triton.scan_features import apply_map, divided
from attndsl.runtime.triton.scan_gates import log_gradient
from attndsl.runtime.triton.scan_launch import Memo, Reading, launching, likeness, memo_of, recorded
from attndsl.runtime.triton.scan_step import run_step


@dataclass(frozen=True)
class Maps:
    """What a linear attention is made of at compile time: component maps of queries and keys (None: the identity),
    the kind of decay, whether rows are divided by the sum of their weights, and whether a row leaves out its key."""

    query: Expr | None = None
    key: Expr | None = None
    decay: DecayKind = "none"
    normalised: bool = False
    strict: bool = False
    ranks: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, eq=False)
class ScanCall:
    """The tensors of a call: `q [B, H, L, F]`, `k [B, Hkv, L, F]`, `v [B, Hkv, L, Dv]` of one dtype; with a decay per
    head `gamma` (its base or logarithm), with one per token `g`, which broadcast to [B, H] and [B, H, L] (per
    channel [B, heads, L, F]); `docs`, i32
    that broadcast to [B, H, L], ascending, where the state starts anew; `initial`; and what maps read of inputs,
    scalars and sizes. `tuned` are configurations that are known to be better than the usual ones, by pass."""

    maps: Maps
    q: Tensor
    k: Tensor
    v: Tensor
    gamma: Tensor | None = None
    g: Tensor | None = None
    docs: Tensor | None = None
    initial: Carried | None = None
    inputs: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    scalars: Mapping[str, float] = field(default_factory=dict[str, float])
    sizes: Mapping[str, int] = field(default_factory=dict[str, int])
    tuned: tuple[tuple[ScanPass, ScanConfig], ...] = ()
    falls: dict[int, Tensor] = field(default_factory=dict[int, Tensor], init=False)
    """Within a pass: the sums of a decay per token, by the rows of a chunk."""

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.q.shape[0], self.q.shape[1], self.q.shape[2]

    def detach(self) -> ScanCall:
        """The same numbers without a graph; much used, so cheap."""
        made = object.__new__(ScanCall)
        fields = made.__dict__
        fields.update(self.__dict__)
        fields["falls"] = {}
        for name in ("q", "k", "v", "gamma", "g"):
            t: Tensor | None = fields[name]
            fields[name] = None if t is None else t.detach()
        first = self.initial
        if first is not None:
            fields["initial"] = Carried(first.state.detach(), None if first.column is None else first.column.detach())
        return made

    @property
    def group(self) -> int:
        """Query heads of a key head."""
        return self.q.shape[1] // max(self.k.shape[1], 1)

    @cached_property
    def reading(self) -> Reading:
        """What maps read."""
        return Reading(self.inputs, self.scalars, {**self.sizes, "group": self.group})

    @property
    def wide(self) -> bool:
        """Whether offsets within an input do not fit in 32 bits."""
        return any(_extent(t) >= 2**31 for t in self.inputs.values())

    def memo(self, *more: Any) -> Memo:
        """What calls share that differ in nothing but the numbers in their tensors."""
        given = (self.q, self.k, self.v, self.gamma, self.g, self.docs)
        inputs = tuple((n, likeness(t)) for n, t in self.inputs.items()) if self.inputs else ()
        decided = all_forced_scans(), self.tuned, None if (it := recorded()) is None else it.target
        key = (self.maps, self.q.device, decided, *map(likeness, given), *self.sizes.items(), inputs)
        return memo_of((*key, *more))

    def config(self, step: ScanPass, keys: int, values: int) -> ScanConfig:
        """The configuration of a scan of this pass with so many components of keys and of values."""
        found = forced_scan(step) or next((c for name, c in self.tuned if name == step), None)
        if found is not None:
            return found
        return choose_step(keys, values) if step == "step" else config_of(self.q, keys, values)

    @property
    def dtype(self) -> str:
        """The element type that kernels see."""
        return "fp32" if interpreting() and self.q.dtype is torch.bfloat16 else DTYPES[self.q.dtype]


def _scan(
    call: ScanCall,
    memo: Memo,
    name: str,
    step: ScanPass,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    x: Tensor | None = None,
    *,
    u: Tensor | None = None,
    pairs: Gated | None = None,
    **options: Any,
) -> Scan:
    """A scan of the call, of a pass; the memo has what was decided for it under its name. `pairs`: the operands that a
    decay per channel led to."""
    B, H, _ = call.shape
    operands = Operands(
        q, k, v, x, call.gamma, None if pairs is not None else call.g, call.docs, u,
        None if pairs is None else pairs.factors, None if pairs is None else pairs.weights,
        reading=call.reading,
    )  # fmt: skip
    found: tuple[Walk, ScanConfig, Memo] | None = memo.get(name)
    if found is None:
        maps = call.maps
        tensors = (q, k, v, x)
        dtype: Any = call.dtype
        tma = has_tma(*tensors, columns=v)
        walk = Walk(
            dtype, Operand(q.shape[-1]), Operand(k.shape[-1]), Operand(v.shape[-1]), maps.decay, call.docs is not None,
            strict=maps.strict, ranks=maps.ranks,
            tma=tma, aligned=tma or aligned(*tensors), wide=call.wide, **options,
        )  # fmt: skip
        config = call.config(step, k.shape[-1], v.shape[-1])
        if pairs is not None:
            config = replace(config, chunk=pairs.weights.shape[-1])
        found = memo[name] = walk, config, {}
    walk, config, prepared = found
    scan = Scan(walk, operands, B, H, config, prepared)
    if call.maps.decay != "token":
        return scan
    falls = call.falls.get(config.chunk)
    if falls is None:
        falls = call.falls[config.chunk] = scan.falls()
    return replace(scan, operands=replace(operands, falls=falls))


def _extent(t: Tensor) -> int:
    return sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) if t.numel() else 0


def _channels(call: ScanCall, memo: Memo, step: ScanPass, do: Tensor | None = None) -> Channels | None:
    """The kernels of a decay per channel. Its scans have the chunks of these."""
    if call.maps.decay != "channel":
        return None
    assert call.g is not None
    found: tuple[Channel, ScanConfig, Memo] | None = memo.get("channels")
    if found is None:
        dtype: Any = call.dtype
        tensors = {"q": call.q, "k": call.k, "v": call.v, "g": call.g, "do": do}
        maps = call.maps
        slopes = slope_of(maps.query), slope_of(maps.key)
        for name, raw, slope in (("q", call.q, slopes[0]), ("k", call.k, slopes[1])):
            if slope is not None:
                # features are contiguous
                tensors |= {f"{name}_raw": raw, name: None}
        F, Dv = call.k.shape[-1], call.v.shape[-1]
        channel = Channel(dtype, F, Dv, maps.strict, maps.normalised, *slopes, units_of(tensors), maps.ranks, call.wide)
        found = memo["channels"] = channel, call.config(step, F, Dv), {}
    channel, config, prepared = found
    return Channels(channel, call.g, config, call.shape[1], prepared, call.reading)


def _forward_scan(
    call: ScanCall, memo: Memo, q: Tensor, k: Tensor, gated: Gated | None, step: ScanPass = "scan"
) -> Scan:
    """The scan of the output, from the features of queries and keys. The gradient of queries needs its states, too, in
    segments of its own."""
    normalised = call.maps.normalised
    q, k = (q, k) if gated is None else (gated.q, gated.k)
    column = "ones" if normalised else ""
    return _scan(call, memo, "out", step, q, k, call.v, pairs=gated, normalised=normalised, column=column)


def _features(call: ScanCall, memo: Memo) -> tuple[Tensor, Tensor]:
    """Features of queries and keys. Every slice of the values walks over them, so they are computed once."""
    return _mapped(call, memo, "query", call.q, call.maps.query), _mapped(call, memo, "key", call.k, call.maps.key)


def _mapped(call: ScanCall, memo: Memo, name: str, x: Tensor, mapped: Expr | None) -> Tensor:
    """A map of x's components."""
    if mapped is None:
        return x
    return apply_map(x, mapped, call.reading, memo, name, call.maps.ranks, call.wide)


def _empty(call: ScanCall, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=call.q.device)


def forward(
    call: ScanCall, want_final: bool = False, wide: bool = False
) -> tuple[Tensor, Tensor | None, Carried | None]:
    """Output [B, H, L, Dv] in q's dtype (`wide`: fp32); with a normaliser what rows are multiplied by, fp32 [B, H, L];
    the state after the last row if wanted."""
    memo, call = call.memo("forward", wide), replace(call)
    with launching(call.q.device):
        return _forward(call, memo, want_final, wide)


def _forward(call: ScanCall, memo: Memo, want_final: bool, wide: bool) -> tuple[Tensor, Tensor | None, Carried | None]:
    B, H, L = call.shape
    F, Dv = call.k.shape[-1], call.v.shape[-1]
    normalised = call.maps.normalised
    out = _empty(call, B, H, L, Dv, dtype=torch.float32 if wide else call.q.dtype)
    shares = _empty(call, B, H, L) if normalised else None
    final = Carried(_empty(call, B, H, F, Dv)) if want_final else None
    if L == 1:
        maps = call.maps
        if final is not None and normalised:
            final = replace(final, column=_empty(call, B, H, F))
        step = Step(F, Dv, maps.decay, maps.strict, normalised, maps.query, maps.key, maps.ranks, call.wide)
        run_step(step, call.config("step", F, Dv), call.reading, {
            "q": call.q, "k": call.k, "v": call.v, "out": out, "gamma": call.gamma, "g": call.g, "shares": shares,
        }, call.initial, final, memo)  # fmt: skip
        return out, shares, final
    q, k = _features(call, memo)
    channels = _channels(call, memo, "scan")
    scan = _forward_scan(call, memo, q, k, None if channels is None else channels.gated(q, k))
    segments, length = scan.cut()
    entering = scan.states(segments, length, call.initial) if segments > 1 else call.initial
    if normalised:
        columns = scan.columns(None if call.initial is None else call.initial.column)
        scan = replace(scan, operands=replace(scan.operands, norms=scan.norms(columns)))
        if final is not None:
            final = replace(final, column=columns[:, :, -1].contiguous())
    scan.outputs(out, length, segments, entering, final=final, shares=shares)
    return out, shares, final


@dataclass(frozen=True, eq=False)
class Gradients:
    """Of q, k, v in their shapes and dtypes; of the logarithm of the decay per row, fp32 [B, H, L]; of the initial
    state. What was not asked for is None."""

    q: Tensor | None = None
    k: Tensor | None = None
    v: Tensor | None = None
    log: Tensor | None = None
    initial: Carried | None = None


def backward(
    call: ScanCall,
    out: Tensor,
    shares: Tensor | None,
    grad_out: Tensor,
    needs: frozenset[str],
    grad_final: Carried | None = None,
    final: Carried | None = None,
) -> Gradients:
    """Gradients for the names in `needs` (`q`, `k`, `v`, `log`, `initial`). `grad_final` is the gradient of the final
    state; `final`, that state, is needed beside it where `log` is."""
    do = grad_out.to(call.q.dtype)
    if do.stride(-1) != 1 or not aligned(do):
        do = do.contiguous()
    memo, call = call.memo("backward", likeness(do)), replace(call)
    with launching(call.q.device):
        return _backward(call, memo, out, shares, do, needs, grad_final, final)


def _backward(
    call: ScanCall,
    memo: Memo,
    out: Tensor,
    shares: Tensor | None,
    do: Tensor,
    needs: frozenset[str],
    grad_final: Carried | None,
    final: Carried | None,
) -> Gradients:
    maps = call.maps
    normalised = maps.normalised
    u: Tensor | None = None
    logs = "log" in needs
    if shares is not None:
        do, u = divided(do, out, shares, call.reading, memo)
    q, k = _features(call, memo)
    channels = _channels(call, memo, "scan_dv", do)
    gated = None if channels is None else channels.gated(q, k)
    scans = _scans(call, memo, q, k, do, u, gated, logs)
    wanted = {
        "q": logs or "q" in needs or (gated is not None and "k" in needs),
        "k": logs or "k" in needs or (normalised and "initial" in needs) or (gated is not None and "q" in needs),
        "v": bool(needs & {"v", "initial"}),
    }
    scans = {n: s for n, s in scans.items() if wanted[n]} or scans
    # the states that the gradients of keys and of values find come in chunks of the former
    behind = None if scans.keys() == {"q"} else _value_scan(call, memo, q, k, do, u, gated, "scan_dk")
    together = [*scans.values(), *([] if behind is None else [behind])]
    chunk = max(s.config.chunk for s in together)
    most = 0 if not logs else chunk if call.dtype == "fp32" else max(GATE_LENGTH, chunk)
    segments, length = cut_together(together, most)
    before: Segments | Carried | None = call.initial
    after: Segments | Carried | None = grad_final
    columns: dict[str, Tensor] = {}
    if "q" in scans and (segments > 1 or logs or normalised):
        whole = _forward_scan(call, memo, q, k, gated, "scan_dq")
        if segments > 1 or logs:
            before = whole.states(segments, length, call.initial)
        if normalised:
            columns["q"] = whole.columns(None if call.initial is None else call.initial.column)
            if isinstance(before, Segments):
                before = replace(before, column=whole.at_segments(columns["q"], segments, length))
    if behind is not None:
        if segments > 1 or logs:
            after = behind.states(segments, length, grad_final)
        if normalised and "k" in scans:
            columns["k"] = behind.columns(None if grad_final is None else grad_final.column)
            if isinstance(after, Segments):
                after = replace(after, column=behind.at_segments(columns["k"], segments, length))
    B, H, L = call.shape
    F, Dv = call.k.shape[-1], call.v.shape[-1]
    initial = None
    if "initial" in needs:
        initial = Carried(_empty(call, B, H, F, Dv), columns["k"][:, :, -1].contiguous() if normalised else None)
    sums: dict[str, Tensor] = {}
    made: dict[str, Tensor] = {}
    for name, scan in scans.items():
        heads = getattr(call, name).shape[1]
        by_state = gated is not None and name != "v"
        kind = call.q.dtype if heads == H and not by_state else torch.float32
        made[name] = _empty(call, B, H, L, scan.walk.v.size, dtype=kind)
        if scan.walk.gated:
            sums[name] = _empty(call, scan.slices, B, H, L)
        if name in columns:
            scan = replace(scan, operands=replace(scan.operands, entering=columns[name]))
        scan.outputs(made[name], length, segments, before if name == "q" else after, transposed=name != "v",
                     row_sums=sums.get(name), final=initial if name == "v" else None)  # fmt: skip
    local: Tensor | None = sums["q"].sum(0) - sums["k"].sum(0) if "q" in sums else None
    if channels is not None and "q" in made and "k" in made:
        given = {
            "q": q, "k": k, "v": call.v, "do": do, "q_inter": made["q"], "k_inter": made["k"], "u": u,
            "q_raw": call.q, "k_raw": call.k, "done": None if gated is None else gated.done,
        }  # fmt: skip
        made["q"], made["k"], local = channels.finish(given, call.k.shape[1] == H)
    log = None
    if logs:
        assert local is not None
        assert isinstance(before, Segments)
        assert isinstance(after, Segments)
        log = log_gradient(call.docs, call.initial is None, local, before, after, final, grad_final)
    found = {n: _of_heads(t, getattr(call, n)) for n, t in made.items() if n in needs}
    return Gradients(found.get("q"), found.get("k"), found.get("v"), log, initial)


def _scans(
    call: ScanCall, memo: Memo, q: Tensor, k: Tensor, do: Tensor, u: Tensor | None, gated: Gated | None, logs: bool
) -> dict[str, Scan]:
    """The scans of the gradients of queries, keys and values. With a decay per channel the first two are what comes by
    way of the states, before the powers within chunks and the maps."""
    maps = call.maps
    features: tuple[Any, Any] = ("query", "key") if maps.normalised else ("", "")
    gates = " gated" if logs else ""
    if gated is not None:
        across: dict[str, Any] = {"u": u, "pairs": gated, "across": "values"}
        dq = _scan(call, memo, "q", "scan_dq", do, call.v, gated.k, feature=features[0], **across)
        dk = _scan(call, memo, "k", "scan_dk", call.v, do, gated.q, feature=features[1], reverse=True, **across)
    else:
        dq = _scan(call, memo, "q" + gates, "scan_dq", do, call.v, k, call.q, feature=features[0],
                   slope=slope_of(maps.query), u=u, gated=logs, mapped=maps.query)  # fmt: skip
        dk = _scan(call, memo, "k" + gates, "scan_dk", call.v, do, q, call.k, feature=features[1],
                   slope=slope_of(maps.key), u=u, gated=logs, mapped=maps.key, reverse=True)  # fmt: skip
    return {"q": dq, "k": dk, "v": _value_scan(call, memo, q, k, do, u, gated)}


def _value_scan(
    call: ScanCall,
    memo: Memo,
    q: Tensor,
    k: Tensor,
    do: Tensor,
    u: Tensor | None,
    gated: Gated | None,
    step: ScanPass = "scan_dv",
) -> Scan:
    """The scan of the gradients of values."""
    q, k = (q, k) if gated is None else (gated.q, gated.k)
    column = "vector" if call.maps.normalised else ""
    return _scan(call, memo, f"v {step}", step, k, q, do, reverse=True, column=column, u=u, pairs=gated)


def _of_heads(made: Tensor, like: Tensor) -> Tensor:
    """A gradient of the query heads as one of the heads of a tensor."""
    heads = like.shape[1]
    return made if heads == made.shape[1] else made.unflatten(1, (heads, -1)).sum(2).to(like.dtype)


def cut_together(scans: list[Scan], most: int = 0) -> tuple[int, int]:
    """(segments, rows of each) that suit all of these scans."""
    first = scans[0]
    unit = max(s.config.chunk for s in scans)
    _, length = min((s.cut(most) for s in scans), key=lambda c: c[1])
    length = -(-length // unit) * unit
    return max(1, -(-first.rows // length)), length
