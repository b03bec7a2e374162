"""Hypothesis strategies that write whole programs: `masks()` for schedules, `specs()` to run end to end."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from hypothesis import strategies as st

from tests.random_masks import LENGTHS, Draw, Pair, Writer
from tests.random_weights import hidden_clauses, output_clause, score_clauses, weight_clause
from tests.spec import Spec

AXES = ("t", "y", "x")


@st.composite
def masks(draw: Draw) -> Spec:
    """A program that is a mask, over a line, a grid of one to three axes, segments, or two grids."""
    kind = draw(st.sampled_from(["line", "line", "line", "line", "grid", "grid", "grid", "segments", "two grids"]))
    w, clauses, call = _mask_of_kind(draw, kind, small=False)
    return _spec(w, clauses, **call)


@st.composite
def specs(draw: Draw) -> Spec:
    """A program with a mask, scores, a weight and an output, small enough for the dense evaluation."""
    kind = draw(st.sampled_from(["dense", "line", "line", "line", "line", "grid", "grid", "segments", "two grids"]))
    w, clauses, call = _mask_of_kind(draw, kind, small=True)
    dtype = draw(st.sampled_from(["f32", "f32", "f32", "bf16", "f16"]))
    weight, needs = weight_clause(w)
    if "causal" in needs:
        clauses.append("mask k <= q")
    if not needs & {"raw score", "no score"}:
        clauses += score_clauses(w)
    if "exp" in needs:
        clauses += hidden_clauses(w)
    clauses += [weight] if weight else []
    clauses += output_clause(w)
    scale = draw(st.sampled_from([None, None, None, 0.25]))
    layout = draw(st.sampled_from(["bhsd", "bhsd", "bshd", "strided"]))
    return _spec(w, clauses, **call, dtype=dtype, lattice="raw score" in needs, scale=scale, layout=layout)


def _spec(w: Writer, clauses: Sequence[str], **call: Any) -> Spec:
    w.forget_unused([*w.features, *clauses])
    text = w.program([*w.features, *clauses])
    seed = w.int(0, 2**16)
    return Spec(text, w.sizes, w.consts, w.scalars, tuple(w.inputs.values()), seed=seed, **call)


def _sizes(draw: Draw, small: bool) -> dict[str, int]:
    Hkv = draw(st.sampled_from([1, 1, 2]))
    H = Hkv * draw(st.sampled_from([1, 2, 3]))
    D = draw(st.sampled_from([8, 16, 24, 32, 40])) if small else 8
    Dv = draw(st.sampled_from([D, D, 8, 24])) if small else 8
    return {"B": draw(st.sampled_from([1, 1, 2])), "H": H, "Hkv": Hkv, "Lq": 1, "Lk": 1, "D": D, "Dv": Dv}


def _mask_of_kind(draw: Draw, kind: str, small: bool) -> tuple[Writer, list[str], dict[str, Any]]:
    """The writer, the clauses (grids and masks), and the arguments `grid`, `q_offset`, `tile` of the call."""
    w = Writer(draw, _sizes(draw, small))
    w.limit = 60_000 if small else 100_000
    if kind in ("dense", "line"):
        return _line(w, kind == "dense")
    if kind == "grid":
        return _grid(w)
    if kind == "segments":
        return _segments(w)
    return _two_grids(w)


def _line(w: Writer, dense: bool) -> tuple[Writer, list[str], dict[str, Any]]:
    Lk = w.pick(LENGTHS)
    Lq = Lk if w.chance(60) else w.pick(LENGTHS)
    w.resize({"Lq": Lq, "Lk": Lk})
    offset: int | str | tuple[int, ...] = 0
    if w.chance(30):
        offset = w.pick(["end", w.int(0, 40), tuple(w.int(0, 60) for _ in range(w.sizes["B"]))])
        if offset == "end" and Lq > Lk:
            offset = 0
    has_offset = isinstance(offset, tuple) or (offset == "end" and Lk != Lq) or (offset not in ("end", 0))
    w.sizes["L"] = Lk if has_offset else max(Lq, Lk)
    extent = max(Lq, Lk)
    pair = Pair("q", "k", extent, w.pick([n for n in ("Lk", "Lq", "L") if w.sizes[n] == extent]))
    clauses: list[str] = []
    if not dense:
        if w.chance(15):
            clauses += ["let d = q - k", f"mask {w.pick(['d >= 0', 'abs(d) % 3 < 2', '-9 <= d < 30'])}"]
        clauses.append(f"mask {w.mask([pair])}")
        if w.chance(15):
            clauses.append(f"mask {w.atom([pair])}")
    tile = w.pick([None, ((16,), (16,)), ((16,), (32,)), ((64,), (32,)), ((64,), (64,)), ((8,), (24,))])
    return w, clauses, {"q_offset": offset, "tile": tile}


def _axis_pairs(w: Writer, names: Sequence[str], shape: Sequence[int], q: str, k: str) -> list[Pair]:
    # the extent of an axis goes by the axis's own name
    return [Pair(f"{q}.{a}", f"{k}.{a}", n, str(n)) for a, n in zip(names, shape, strict=True)]


def _shape(w: Writer, rank: int) -> tuple[int, ...]:
    options = {1: [7, 17, 40, 64, 129], 2: [1, 2, 5, 8, 11, 16], 3: [1, 2, 3, 5, 6, 8]}[rank]
    return tuple(w.pick(options) for _ in range(rank))


def _grid(w: Writer) -> tuple[Writer, list[str], dict[str, Any]]:
    rank = w.int(1, 3)
    shape, names = _shape(w, rank), AXES[-rank:]
    L = prod(shape)
    w.resize({"Lq": L, "Lk": L, "L": L})
    pairs = _axis_pairs(w, names, shape, "q", "k")
    clauses = [f"grid video({', '.join(names)})"]
    form = w.int(0, 4)
    if form == 0:
        clauses.append(f"mask {_gna(w, rank, shape)}")
    elif form <= 2:
        clauses += [f"mask {w.atom([p])}" for p in pairs]
    else:
        line = Pair("q", "k", L, "L")
        clauses.append(f"mask {w.mask([*pairs, *pairs, line])}")
    box = {1: [(16,), (32,)], 2: [(4, 4), (2, 8), (1, 16)], 3: [(2, 2, 4), (1, 4, 4), (2, 4, 2)]}[rank]
    tile = w.pick([None, (w.pick(box), w.pick(box))])
    return w, clauses, {"grid": shape, "tile": tile}


def _gna(w: Writer, rank: int, shape: tuple[int, ...]) -> str:
    """Generalized neighborhood attention through tuples, consts within what `neighborhood` allows."""
    w.uses.add("neighborhood")
    dilation = [w.int(1, max(1, min(3, n // 2))) for n in shape]
    window = [w.int(1, max(1, n // d)) for n, d in zip(shape, dilation, strict=True)]
    stride = [w.int(1, x) for x in window]
    causal = [w.chance(30) for _ in shape]
    if rank == 1:
        names = [w.const("int", v[0]) for v in (window, stride, dilation)] + [w.const("bool", causal[0])]
        return f"neighborhood(q.x, k.x, {shape[0]}, {', '.join(names)})"
    names = [w.const(f"int[{rank}]", tuple(v)) for v in (window, stride, dilation)]
    names.append(w.const(f"bool[{rank}]", tuple(causal)))
    return f"all(neighborhood(q.video, k.video, size(video), {', '.join(names)}))"


def _segments(w: Writer) -> tuple[Writer, list[str], dict[str, Any]]:
    rank = w.int(1, 2)
    names = AXES[-rank:]
    shape = tuple(w.pick([2, 3, 5, 8]) for _ in names) if rank == 2 else (w.pick([5, 17, 40]),)
    text = w.pick([1, 5, 17])
    L = text + prod(shape)
    w.resize({"Lq": L, "Lk": L, "L": L})
    pairs = _axis_pairs(w, names, shape, "q", "k")
    w.tables_by_position = w.chance(50)
    inner = " and ".join(f"({w.atom([p])})" for p in pairs) if w.chance(60) else w.mask(pairs, 1)
    line = Pair("q", "k", L, "L")
    form = w.int(0, 3)
    if form == 0:
        body = f"not (q in video and k in video) or ({inner})"
    elif form == 1:
        body = f"k in text and ({w.mask([line], 1)}) or q in video and k in video and ({inner})"
    elif form == 2:
        body = f"if q in text then k <= q else k in text or ({inner})"
    else:
        body = f"({w.mask([line], 1)}) and (q in text or k in video or q.{names[-1]} % 2 == 0)"
    order = w.pick(["text first", "video first"])
    grids = [("text", "m", (text,)), ("video", ", ".join(names), shape)]
    if order == "video first":
        grids.reverse()
    clauses = [f"grid {' ++ '.join(f'{n}({a})' for n, a, _ in grids)}", f"mask {body}"]
    return w, clauses, {"grid": {n: s for n, _, s in grids}}


def _two_grids(w: Writer) -> tuple[Writer, list[str], dict[str, Any]]:
    q_shape, k_shape = (w.pick([2, 5, 8, 12]), w.pick([3, 8, 10])), (w.pick([1, 3, 4, 6]), w.pick([2, 4, 5]))
    w.resize({"Lq": prod(q_shape), "Lk": prod(k_shape)})
    w.tables_by_position = False
    ratio = w.int(1, 3)
    extents = [max(n, m) for n, m in zip(q_shape, k_shape, strict=True)]
    pairs = [Pair(f"(q.{a} // {ratio})", f"k.{c}", n, str(n)) for a, c, n in zip("yx", "vu", extents, strict=True)]
    form = w.int(0, 1)
    masks = [f"mask abs({p.q} - {p.k}) <= {w.width(p)}" for p in pairs] if form == 0 else [f"mask {w.mask(pairs)}"]
    tile = w.pick([None, ((2, 4), (2, 2)), ((4, 4), (1, 4))])
    return w, ["grid q (y, x)", "grid k (v, u)", *masks], {"grid": {"q": q_shape, "k": k_shape}, "tile": tile}
