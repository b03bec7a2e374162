"""Attentions whose weight is a dot product of features, as scans on the GPU.

Features are computed once, for all positions, and scans see the result: maps of single components (elu + 1, relu,
powers) by a kernel before the scan, and what stands side by side or is multiplied of such by another; features whose
components meet, or that read inputs, by torch.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from attndsl.codegen.triton_scan_source import fused_map
from attndsl.ir.attention import Attention
from attndsl.ir.expr import Count, Expr, Index, Load, Op, Reduce, Value, mentions, rewrite
from attndsl.ir.features import Normaliser
from attndsl.ir.products import bare, times
from attndsl.ir.types import FLOAT, INT, Kind, Type
from attndsl.runtime.call import Call
from attndsl.runtime.sides import Sides
from attndsl.runtime.state import State
from attndsl.runtime.triton.launch import interpreting
from attndsl.runtime.triton.machine import machine_of
from attndsl.runtime.triton.scan import DTYPES, Carried
from attndsl.runtime.triton.scan_autograd import gradients, product, run_forward, run_scan, spread, summed
from attndsl.runtime.triton.scan_choices import ScanChoices, ScanFacts, Tuned, scan_facts
from attndsl.runtime.triton.scan_config import ScanConfig, forced_scan
from attndsl.runtime.triton.scan_features import expand, expands
from attndsl.runtime.triton.scan_launch import Reading
from attndsl.runtime.triton.scan_passes import Maps, ScanCall
from attndsl.runtime.vectors import concatenated, distinct, outer
from attndsl.schedule.legalise import ScanForm

MOST_FEATURES = 512
_TOTAL = Load(FLOAT, "@total", ())
_COUNT = Count(INT)


def gap_of(form: ScanForm, sizes: tuple[tuple[str, int], ...]) -> str | None:
    """What of calls of these sizes has no kernel, in words; None if all has one."""
    decay = form.weight.decay
    if decay.channel and (decay.token or decay.per_head or form.segments or form.kind != "scan"):
        return "a decay per channel beside another, or within documents"
    if decay.token and decay.base is not None:
        return "a power beside a decay per token"
    if (name := form.elsewhere) is not None:
        return f"features that read {name!r} at other positions than their own"
    extents = dict(sizes)
    if max(form.features(extents), form.z_features(extents), extents["Dv"]) > MOST_FEATURES:
        return f"more than {MOST_FEATURES} features"
    return None


@dataclass(frozen=True, eq=False)
class _Known:
    """What was found out about a form, which is looked up by identity: hashing its expressions takes longer than a
    launch."""

    form: ScanForm
    gaps: dict[tuple[tuple[str, int], ...], str | None] = field(default_factory=dict[Any, Any])
    mapped: dict[tuple[int, str], tuple[Expr, bool, Expr | None, bool]] = field(default_factory=dict[Any, Any])

    @staticmethod
    def of(form: ScanForm) -> _Known:
        found = _KNOWN.get(id(form))
        if found is None:
            if len(_KNOWN) >= 512:
                _KNOWN.clear()
            found = _KNOWN[id(form)] = _Known(form)
        return found

    def gap(self, sizes: tuple[tuple[str, int], ...]) -> str | None:
        if sizes not in self.gaps:
            if len(self.gaps) >= 512:
                self.gaps.clear()
            self.gaps[sizes] = gap_of(self.form, sizes)
        return self.gaps[sizes]

    def map_of(self, features: Expr, tensor: str) -> tuple[bool, Expr | None, bool]:
        """As `fused_map`, and whether a kernel expands these features."""
        found = self.mapped.get((id(features), tensor))
        if found is None:
            # the expression is kept: another one may not take its place
            found = self.mapped[id(features), tensor] = (
                features, *fused_map(features, tensor), expands(features, tensor)
            )  # fmt: skip
        return found[1:]


_KNOWN: dict[int, _Known] = {}


@dataclass(frozen=True, eq=False)
class _Parts:
    """A call as the kernels take it, under autograd where that is on: the scan of the numerator, the other scan that a
    denominator of its own needs, and the segments of the positions [B or 1, H or 1, L, n]."""

    scan: ScanCall
    other: ScanCall | None
    segments: Tensor | None


class LinearKernel:
    """The part of a kernel that runs feature maps in linear time: `ScanKernel`."""

    attention: Attention
    scan_choices: ScanChoices

    def scan_gap(self, call: Call, form: ScanForm) -> str | None:
        """What of this call has no kernel, in words; None if all has one."""
        if call.q.dtype not in DTYPES:
            return f"numbers of {call.q.dtype} (fp16, bf16 and fp32 have kernels)"
        if form.kind != "reduction" and (call.q_offset != 0 or call.sizes["Lq"] != call.sizes["Lk"]):
            return "queries at other positions than the keys"
        return _Known.of(form).gap(tuple(call.sizes.items()))

    def scan(
        self, call: Call, form: ScanForm, state: State | None, need_state: bool, save: bool
    ) -> tuple[Tensor, State | None, tuple[Tensor, ...]]:
        """As `ScanKernel.scan`."""
        dtype = call.q.dtype
        call = _for_interpreter(call)
        if form.kind == "reduction":
            return self._reduced(call, form).to(dtype), None, ()
        parts = self._parts(call, form, state)
        if _plain(form):
            out, shares, final = run_forward(parts.scan, need_state)
            saved = (out, *(() if shares is None else (shares,))) if save else ()
            left = (None, None) if final is None else (final.state, final.column)
        else:
            out, *left = self._composed(call, form, parts, need_state, 0 if state is None else state.position)
            saved = ()
        after = None
        if need_state:
            S, z = left
            assert S is not None
            group = 1 if form.by_head else call.sizes["H"] // max(call.sizes["Hkv"], 1)
            last = None if parts.segments is None else parts.segments[:, :, -1:].squeeze(2)[:, ::group]
            if last is not None and not call.sizes["L"]:
                last = None if state is None else state.segment
            position = call.q.shape[2] + (0 if state is None else state.position)
            after = State(S[:, ::group].contiguous(), None if z is None else z[:, ::group].contiguous(), position, last)
        if out.dtype != dtype:
            out = out.to(dtype)
            saved = (out, *saved[1:]) if saved else ()
        return out, after, saved

    def scan_backward(
        self,
        call: Call,
        form: ScanForm,
        state: State | None,
        saved: tuple[Tensor, ...],
        grad_out: Tensor | None,
        grad_state: tuple[Tensor | None, Tensor | None],
        needs: frozenset[str],
    ) -> Mapping[str, Tensor]:
        """As `ScanKernel.scan_backward`."""
        given: dict[str, Tensor] = {"q": call.q, "k": call.k, "v": call.v, **call.inputs}
        if state is not None:
            given |= {"state.S": state.S} | ({} if state.z is None else {"state.z": state.z})
        leaves = {n: t.detach().requires_grad_(n in needs) for n, t in given.items()}
        inner = call.with_tensors(leaves["q"], leaves["k"], leaves["v"], {n: leaves[n] for n in call.inputs})
        begin = None if state is None else replace(state, S=leaves["state.S"], z=leaves.get("state.z"))
        with torch.enable_grad():
            inner = _for_interpreter(inner)
            parts = None if form.kind == "reduction" else self._parts(inner, form, begin)
            if parts is None:
                assert grad_out is not None
                out = self._reduced(inner, form)
                pairs = [(out, grad_out.to(out.dtype))]
            elif _plain(form):
                pairs = self._plain_backward(parts.scan, form, saved, grad_out, grad_state)
            else:
                need_state = any(g is not None for g in grad_state)
                out, S, z = self._composed(inner, form, parts, need_state, 0 if state is None else state.position)
                group = 1 if form.by_head else call.sizes["H"] // max(call.sizes["Hkv"], 1)
                every = ((out, grad_out), (S, grad_state[0]), (z, grad_state[1]))
                pairs = [
                    (t if t is out else t[:, ::group], g.to(t.dtype))
                    for t, g in every
                    if t is not None and g is not None
                ]
        names = [n for n in leaves if n in needs]
        pairs = [(t, g) for t, g in pairs if t.requires_grad]
        # what the kernels read as it is needs no graph
        place = {id(leaves[n]): n for n in names}
        found: dict[str, Tensor] = {}
        behind: list[tuple[Tensor, Tensor]] = []
        for t, g in pairs:
            name = place.get(id(t))
            if name is None:
                behind.append((t, g))
            else:
                found[name] = found[name] + g if name in found else g
        if behind:
            more: Any = torch.autograd.grad(
                [t for t, _ in behind], [leaves[n] for n in names], [g for _, g in behind], allow_unused=True
            )  # fmt: skip
            for name, g in zip(names, more, strict=True):
                if g is not None:
                    found[name] = found[name] + g if name in found else g
        return found

    def _plain_backward(
        self,
        scan: ScanCall,
        form: ScanForm,
        saved: tuple[Tensor, ...],
        grad_out: Tensor | None,
        grad_state: tuple[Tensor | None, Tensor | None],
    ) -> list[tuple[Tensor, Tensor]]:
        """Pairs of a tensor of the scan and its gradient."""
        out, shares = saved[0], saved[1] if len(saved) > 1 else None
        B, H, _ = scan.shape
        group = 1 if form.by_head else H // max(scan.k.shape[1], 1)
        final_grad = None
        if any(g is not None for g in grad_state):
            F, Dv = scan.k.shape[-1], scan.v.shape[-1]
            S = spread(grad_state[0], (B, H, F, Dv), group, scan.q)
            final_grad = Carried(S, spread(grad_state[1], (B, H, F), group, scan.q) if shares is not None else None)
        return gradients(scan, out, shares, grad_out, final_grad)

    # What the kernels are given

    def _parts(self, call: Call, form: ScanForm, state: State | None) -> _Parts:
        weight = form.weight
        position = 0 if state is None else state.position
        H, Hkv = call.sizes["H"], call.sizes["Hkv"]
        rows = Sides(call, H, position=position)
        keys = rows if form.by_head else Sides(call, Hkv, position=position)
        decay = weight.decay
        gamma = None if decay.base is None else rows.value(decay.base)
        log = None if decay.log is None else rows.value(decay.log)
        if gamma is not None and log is not None:
            gamma, log = gamma * log.exp(), None
        g: Tensor | None = None
        for d in decay.token:
            step = rows.value(Load(d.type, d.tensor, (*d.indices, Index(INT, "k"))))
            g = step if g is None else g + step
        if decay.channel:
            g = self._channel_gate(call, form, position)
        segments: Tensor | None = None
        docs: Tensor | None = None
        if form.segments:
            found = torch.broadcast_tensors(*(rows.value(s) for s in form.segments))
            segments = torch.stack(found, -1).expand(-1, -1, call.q.shape[2], -1)
            docs = _ids(segments)
        if g is not None and log is not None:
            g = g + log
        kind: Any = (
            "channel"
            if decay.channel
            else "token"
            if g is not None
            else "log"
            if log is not None
            else "head"
            if gamma is not None
            else "none"
        )
        per_head = log if kind == "log" else gamma
        initial = self._initial(call, form, state, segments)
        query, key = (
            self._features(call, form, weight.query, "Q", rows),
            self._features(call, form, weight.key, "K", keys),
        )
        n = weight.normaliser
        # on both sides the two halves of a row are divided by the sum of both
        own = n is not None and n.own and form.kind == "scan"
        maps = Maps(query[1], key[1], kind, own, form.strict)
        scan = ScanCall(
            maps, query[0], key[0], call.v,
            gamma=None if per_head is None or g is not None else per_head[..., 0].float(),
            g=g if g is None or decay.channel else g.float(),
            docs=docs, tuned=self._tuned(call, form),
            initial=None if initial is None else Carried(initial[0], initial[1] if own else None),
            scalars={k: float(x) for k, x in call.scalars.items()}, sizes=call.sizes,
        )  # fmt: skip
        other = None
        if n is not None and n.node is not None and not own:
            # the numerator's own features stand in the normaliser, too
            other = self._other(call, form, n, scan, rows, keys, None if initial is None else initial[1])
        return _Parts(scan, other, segments)

    def scan_facts(self, call: Call, form: ScanForm) -> ScanFacts:
        """What the configurations of a call depend on."""
        return scan_facts(form, call.sizes, DTYPES[call.q.dtype], machine_of(call.q.device))

    def _tuned(self, call: Call, form: ScanForm) -> Tuned:
        """Configurations that are known for a call."""
        return self.scan_choices.tuned(form, call.sizes, DTYPES[call.q.dtype], machine_of(call.q.device))

    def _config(self, call: Call, form: ScanForm) -> ScanConfig | None:
        """The configuration of the forward pass; None for the usual one."""
        return forced_scan("scan") or dict(self._tuned(call, form)).get("scan")

    def _channel_gate(self, call: Call, form: ScanForm, position: int) -> Tensor:
        """The logarithms of a decay per channel [B, heads, L, F]; one tensor as it is, several added."""
        decays = form.weight.decay.channel
        kinds = {call.inputs[d.tensor].dtype for d in decays if d.tensor in call.inputs}
        alone = len(decays) == 1 and all(k.is_floating_point and k is not torch.float64 for k in kinds)
        dtype = next(iter(kinds)) if alone and not interpreting() else torch.float32
        heads = call.sizes["H"] if form.by_head else call.sizes["Hkv"]
        sides = Sides(call, heads, position=position, dtype=dtype)
        found = [sides.value(Load(d.type, d.tensor, (*d.indices, Index(INT, "k")))) for d in decays]
        total = found[0]
        for other in found[1:]:
            total = total + other
        B, L = call.q.shape[0], call.q.shape[2]
        total = total.expand(B, heads, L, total.shape[-1])
        return total if total.stride(-1) == 1 else total.contiguous()

    def _features(
        self, call: Call, form: ScanForm, features: Expr, tensor: str, sides: Sides
    ) -> tuple[Tensor, Expr | None]:
        given = call.q if tensor == "Q" else call.k
        fused, mapped, expanded = _Known.of(form).map_of(features, tensor)
        if fused and (tensor == "Q" or sides.heads == given.shape[1]):
            return given, mapped
        differentiated = torch.is_grad_enabled() and given.requires_grad
        if not differentiated and expanded and sides.heads == given.shape[1]:
            reading = Reading({}, {k: float(x) for k, x in call.scalars.items()}, call.sizes)
            return expand(given, features, tensor, reading), None
        found = narrowed(sides, features, call.q.dtype)
        B, L = given.shape[0], given.shape[2]
        return found.expand(B, sides.heads, L, found.shape[-1]), None

    def _other(
        self, call: Call, form: ScanForm, n: Normaliser, scan: ScanCall, rows: Sides, keys: Sides, z: Tensor | None
    ) -> ScanCall:
        """The scan whose values are what a denominator sums: numbers are repeated in 16 columns."""
        assert n.key is not None
        key, mapped = self._features(call, form, n.key, "K", keys)
        ones = torch.ones((*key.shape[:3], 16), dtype=key.dtype, device=key.device)
        maps = replace(scan.maps, normalised=False)
        if n.query is None:
            if mapped is not None:
                key = keys.value(n.key).expand(*key.shape).to(key.dtype)
            first = torch.nn.functional.one_hot(torch.zeros((), dtype=torch.int64), 16).to(key)
            one = first.expand(*key.shape[:3], 16)
            q = first.expand(*scan.q.shape[:3], 16)
            start = None if z is None else Carried(first[:, None] * z.unsqueeze(-2))
            return replace(scan, maps=replace(maps, query=None, key=None), q=q, k=one, v=key, initial=start)
        query, query_map = self._features(call, form, n.query, "Q", rows)
        start = None if z is None else Carried(z.unsqueeze(-1).expand(*z.shape, 16))
        return replace(scan, maps=replace(maps, query=query_map, key=mapped), q=query, k=key, v=ones, initial=start)

    def _initial(
        self, call: Call, form: ScanForm, state: State | None, segments: Tensor | None
    ) -> tuple[Tensor, Tensor | None] | None:
        """The state that the first row finds, for every query head."""
        if state is None:
            return None
        H = call.sizes["H"]
        parts = [state.S] if state.z is None else [state.S, state.z]
        if segments is not None and state.segment is not None and segments.shape[2]:
            group = 1 if form.by_head else H // max(call.sizes["Hkv"], 1)
            same = (segments[:, ::group, 0] == state.segment).all(-1)[..., None]
            parts = [p * (same[..., None] if p.ndim == 4 else same) for p in parts]
        parts = [p if p.shape[1] == H else p.repeat_interleave(H // max(p.shape[1], 1), 1) for p in parts]
        return parts[0].contiguous(), parts[1].contiguous() if len(parts) > 1 else None

    # Denominators and outputs that torch computes

    def _composed(
        self, call: Call, form: ScanForm, parts: _Parts, need_state: bool, position: int
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Output, S and z [B, H, ..], differentiable."""
        n = form.weight.normaliser
        out, S, z = _run(parts.scan, form, need_state)
        total: Tensor | None = None
        if parts.other is not None:
            assert n is not None
            total, other_S, _ = _run(parts.other, form, need_state, wide=True)
            if n.query is None:
                z = None if other_S is None else other_S[..., 0, :]
            else:
                total, z = total[..., 0], None if other_S is None else other_S[..., 0]
        L = call.q.shape[2]
        count = torch.arange(L, device=out.device).reshape(1, 1, -1) + (position + (0 if form.strict else 1))
        if form.kind == "both":
            count = torch.full_like(count, L)
        elif parts.segments is not None and n is not None and _counts(n.whole):
            count = _within(parts.segments, form.strict)
        divided = n is not None and not (n.own and form.kind == "scan")
        wide = _finished(call, form, out.float(), count, total, divided, position)
        return wide.to(call.q.dtype), S, z

    def _reduced(self, call: Call, form: ScanForm) -> Tensor:
        """The output where every query sees every key and nothing decays: one sum over the keys, then a product."""
        H, Hkv, Lk = (call.sizes[n] for n in ("H", "Hkv", "Lk"))
        assert isinstance(call.q_offset, int)
        rows = Sides(call, H, offset=call.q_offset)
        keys = Sides(call, H if form.by_head else Hkv, length=Lk)
        B = call.q.shape[0]

        def narrow(sides: Sides, e: Expr) -> Tensor:
            found = sides.value(e)
            return found.expand(B, sides.heads, sides.length, found.shape[-1]).to(call.q.dtype)

        def of_heads(x: Tensor) -> Tensor:
            return x.repeat_interleave(H // max(x.shape[1], 1), 1) if x.shape[1] != H else x

        weight, n = form.weight, form.weight.normaliser
        query, key = narrow(rows, weight.query), narrow(keys, weight.key)
        v = of_heads(call.v) if form.by_head else call.v
        out = product(query, of_heads(summed(key, v, self._config(call, form))))
        count = torch.full((1, 1, 1), Lk, device=out.device)
        total: Tensor | None = None
        if n is not None and n.node is not None:
            assert n.key is not None
            z = of_heads((key if n.own else narrow(keys, n.key)).sum(2, keepdim=True, dtype=torch.float32))
            total = z if n.query is None else (narrow(rows, n.query).float() * z).sum(-1)
        return _finished(call, form, out, count, total, n is not None, 0, call.q_offset).to(call.q.dtype)


def _run(
    call: ScanCall, form: ScanForm, want_final: bool, wide: bool = False
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """A scan; on both sides, one up to the row and one from the end to behind it."""
    if form.kind != "both":
        return run_scan(call, want_final, wide)
    turned = replace(
        call, maps=replace(call.maps, strict=True), q=call.q.flip(2), k=call.k.flip(2), v=call.v.flip(2),
        docs=None if call.docs is None else call.docs.flip(-1),
    )  # fmt: skip
    before, behind = run_scan(call, False, wide=True)[0], run_scan(turned, False, wide=True)[0]
    return before + behind.flip(2), None, None


def _finished(
    call: Call,
    form: ScanForm,
    wide: Tensor,
    count: Tensor,
    total: Tensor | None,
    divided: bool,
    position: int,
    offset: int = 0,
) -> Tensor:
    """The output, fp32, from what the values summed to, the number of visible keys and the denominator's sum."""
    n = form.weight.normaliser

    def rows(values: dict[Expr, Tensor]) -> Sides:
        return Sides(call, call.sizes["H"], position=position, offset=offset, values=values)

    if n is not None and divided:
        values: dict[Expr, Tensor] = {_COUNT: count}
        if n.node is not None:
            assert total is not None
            if n.node.kind == "mean":
                live = count.clamp(min=1)
                total = total / (live if total.ndim == 3 else live[..., None])
            values[_total(n.node)] = total
        below = rows(values).value(_replaced(n.whole))[..., None]
        wide = torch.where(below == 0, 0.0, wide / torch.where(below == 0, 1.0, below))
    if form.output is not None:
        values = {Value(FLOAT, "o"): wide, Value(Type(Kind.FLOAT, ("Dv",)), "o"): wide}
        wide = rows(values).value(form.output).expand(wide.shape)
    return wide


def narrowed(sides: Sides, e: Expr, dtype: torch.dtype) -> Tensor:
    """A vector in a narrow type. What is large is never written in a wide one: the parts of a concatenation and the
    factors of products are rounded, not the whole."""
    if isinstance(e, Op) and dtype is not sides.dtype:
        inner, numbers = bare(e)
        match inner:
            case Op(op="concat", args=args):
                return concatenated(*(narrowed(sides, times(x, numbers), dtype) for x in args))
            case Op(op="outer", args=(a, b)):
                return outer(narrowed(sides, times(a, numbers), dtype), narrowed(sides, b, dtype))
            case Op(op="distinct", args=(a,)):
                return distinct(narrowed(sides, times(a, numbers), dtype), narrowed(sides, a, dtype))
            case _:
                pass
    return sides.value(e).to(dtype)


def _plain(form: ScanForm) -> bool:
    """Whether what the kernels give is the output."""
    n = form.weight.normaliser
    return form.kind == "scan" and (n is None or n.own) and form.output is None


def _for_interpreter(call: Call) -> Call:
    if interpreting() and call.q.dtype is torch.bfloat16:
        # the interpreter's bf16 arithmetic is wrong; every bf16 number is an fp32 one
        return call.with_tensors(call.q.float(), call.k.float(), call.v.float(), call.inputs)
    return call


def _ids(segments: Tensor) -> Tensor:
    """Segments [.., L, n] as one ascending i32 number per position."""
    change = (segments[..., 1:, :] != segments[..., :-1, :]).any(-1)
    return torch.nn.functional.pad(change.cumsum(-1, dtype=torch.int32), (1, 0))[..., : segments.shape[-2]]


def _within(segments: Tensor, strict: bool) -> Tensor:
    """How many keys of its own segment a row sees."""
    ids = _ids(segments)
    at = torch.arange(ids.shape[-1], device=ids.device).expand(ids.shape)
    first = torch.where(torch.nn.functional.pad(ids[..., 1:] != ids[..., :-1], (1, 0), value=True), at, 0)
    return at - first.cummax(-1).values + (0 if strict else 1)


def _counts(e: Expr) -> bool:
    return mentions(e, lambda n: isinstance(n, Count) or (isinstance(n, Reduce) and n.kind == "mean"))


def _total(node: Reduce) -> Load:
    return Load(node.type, "@total", ())


def _replaced(e: Expr) -> Expr:
    return rewrite(e, lambda n: _total(n) if isinstance(n, Reduce) else None)
