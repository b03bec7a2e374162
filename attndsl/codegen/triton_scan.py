"""Triton code of chunked scans: one module per direction and operands, with three kernels.

`states` sums a state over every segment of the sequence, `carry` turns those sums into the states that enter the
segments, `outputs` walks the chunks of a segment. All four tensors of linear attention come from this one template:

    out = scan(phi(q), phi(k), v)            dq = scan(do, v, phi(k)) * phi'(q)
    dk = reverse scan(v, do, phi(q)) * phi'(k)            dv = reverse scan(phi(k), phi(q), do)

for decay_ij is the same number in all of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal as Lit

from attndsl.codegen.expr_triton import (
    Printer,
    Reads,
    Scope,
    UnsupportedError,
    input_name,
    scalar_name,
    size_name,
)
from attndsl.codegen.templates import render
from attndsl.codegen.triton_arguments import Argument
from attndsl.codegen.triton_form import Dtype, Part, parts
from attndsl.ir.derivative import derivative
from attndsl.ir.expr import Expr, Index, Load, Op, ParamRef, Reduce, op, walk
from attndsl.ir.types import FLOAT, INT, Kind

DecayKind = Lit["none", "head", "log", "token", "channel"]
"""Per head as the base of a power (`head`) or as its natural logarithm (`log`), or one per token and head, or
one per token, head and component of the keys (`channel`)."""
COMPONENT = ParamRef(FLOAT, "@component")
"""In a map: the component that it is applied to."""


@dataclass(frozen=True)
class Operand:
    """A tensor [B, heads, L, size] of a scan."""

    size: int


@dataclass(frozen=True)
class Walk:
    """A scan: out_i = sum over visible j of (q_i . k_j) decay_ij v_j, j <= i or (`reverse`) j >= i, without i itself
    where `strict`.

    `column`: what keys are summed with for every chunk, beside v: `ones` (the normaliser) or `vector` (a number u per
    row). `normalised` divides by the sum of weights. `feature`: a further component of q (u_i, with 1 for k) or of k.
    `slope` is what the output is multiplied by, a function of the components of `x` at the same place; with `gated` the
    sums over components of out times `mapped` (a function of x, too) are stored.
    """

    dtype: Dtype
    q: Operand
    k: Operand
    v: Operand
    decay: DecayKind = "none"
    docs: bool = False
    reverse: bool = False
    strict: bool = False
    column: Lit["", "ones", "vector"] = ""
    normalised: bool = False
    feature: Lit["", "query", "key"] = ""
    slope: Expr | None = None
    gated: bool = False
    mapped: Expr | None = None
    ranks: tuple[tuple[str, int], ...] = ()
    tma: bool = False
    aligned: bool = False
    wide: bool = False
    across: Lit["keys", "values"] = "keys"
    """What a decay per channel belongs to, the rows or the columns of the states. Operands hold its powers within
    chunks already: kernels multiply states by those of whole chunks, and of pairs read the weights (by `keys`) or leave
    them out (by `values`)."""

    @property
    def channel(self) -> bool:
        return self.decay == "channel"

    @property
    def decays(self) -> bool:
        """Whether rows have factors of their own."""
        return self.decay not in ("none", "channel") or self.docs

    @property
    def per_head(self) -> bool:
        return self.decay in ("head", "log")

    @property
    def reads_x(self) -> bool:
        return self.gated or self.slope is not None

    @property
    def words(self) -> str:
        kinds = {"none": "no decay", "token": "a decay per token and head", "channel": "a decay per channel"}
        return kinds.get(self.decay, "a decay per head") + (", within documents" if self.docs else "")

    @property
    def stride_unit(self) -> int:
        """Elements that strides are counted in."""
        return (4 if self.dtype == "fp32" else 8) if self.aligned or self.tma else 1

    @property
    def vectors(self) -> list[str]:
        """Numbers per row that `outputs` loads."""
        return [*(["u"] if self.feature else []), *(["norms"] if self.normalised else [])]


@dataclass(frozen=True)
class ScanModule:
    """A generated module: its text, and the arguments of its kernels in order."""

    source: str
    arguments: dict[str, tuple[Argument, ...]]


SUMS = (
    Argument("g", "*input", "tensor", ("g",)), Argument("falls", "*fp32", "tensor", ("falls",)),
    *(Argument(f"g_s{axis}", "i64", "stride", ("g", axis)) for axis in "bhl"),
    *(Argument(n, "i32", "number", (n,)) for n in ("H", "L", "chunks_all")),
    Argument("BT", "constexpr", "constexpr", ("BT",)),
)  # fmt: skip
"""Arguments of `sums`."""


@dataclass
class MapCode:
    """Statements, and the value that they lead to."""

    lines: list[str]
    value: str


@dataclass
class _Role:
    name: str
    size: int
    parts: tuple[Part, ...]


def component_map(features: Expr, tensor: str) -> Expr | None:
    """A vector that maps every component of Q, K or V alike, as an expression of COMPONENT; None for the identity.

    UnsupportedError where components meet (softmax, norms, products with a matrix, vectors of parameters).
    """
    made: dict[Expr, Expr] = {}
    for node in walk(features):
        if isinstance(node, Load) and node.tensor == tensor and node.type.shape:
            made[node] = COMPONENT
        elif isinstance(node, Load) and node.type.shape:
            raise UnsupportedError(f"features that read vectors of `{node.tensor}`")
        elif isinstance(node, Reduce):
            raise UnsupportedError("features with a reduction")
        elif isinstance(node, Op):
            if any(a.type.shape for a in node.args) and (node.op in MIXING or not node.type.shape):
                raise UnsupportedError(f"features with `{node.op}`")
            made[node] = op(node.op, *(made[a] for a in node.args))
        else:
            made[node] = node
    found = made[features]
    return None if found == COMPONENT else found


MIXING = frozenset(("vsoftmax", "rmsnorm", "concat", "outer", "distinct", "matmul", "roll", "rope"))


@lru_cache(maxsize=256)
def slope_of(mapped: Expr | None) -> Expr | None:
    """The derivative of a map of components; None for one."""
    return None if mapped is None else derivative(mapped, COMPONENT)


def generate_scan(w: Walk, title: list[str]) -> ScanModule:
    """The module of a scan. `title` is a comment at its top."""
    reads = Reads(dict(w.ranks), w.wide)
    q = _Role("q", w.q.size, padded_parts(w.k.size, w.dtype))
    k = _Role("k", w.k.size, padded_parts(w.k.size, w.dtype))
    v = _Role("v", w.v.size, (Part(0, 0, 0, True),))
    slope = None if w.slope is None else map_code(w.slope, "x0_x", "ds", reads)
    mapped = map_code(COMPONENT if w.mapped is None else w.mapped, "x0_x", "xm", reads) if w.gated else None
    arguments = {name: tuple(_arguments(w, name, reads)) for name in ("states", "outputs")}
    if w.decay == "token":
        arguments["sums"] = SUMS
    if w.column:
        arguments["columns"] = tuple(_chunk_arguments(w, "k"))
    if w.normalised:
        arguments["norms"] = tuple(_chunk_arguments(w, "q"))
    x = _Role("x", w.v.size, ())
    roles = {"states": [k, v], "outputs": [q, k, v, *([x] if w.reads_x else [])]}
    text = render(
        "triton/scan.py.j2",
        title=title,
        helpers=reads.helpers,
        fast_tanh=False,
        w=w,
        q=q,
        k=k,
        v=v,
        x_slope=slope,
        x_map=mapped,
        arguments=arguments,
        roles=roles,
        numbers={
            n: [a.name for a in found if a.role != "constexpr" and not a.type.startswith("*")]
            for n, found in arguments.items()
        },
        tma=w.tma,
        aligned=w.stride_unit,
        wide_state=w.dtype == "fp16",
        precision=', input_precision="ieee"' if w.dtype == "fp32" else "",
    )
    return ScanModule(tidied(text), arguments)


def padded_parts(size: int, dtype: Dtype) -> tuple[Part, ...]:
    """Components of queries and keys as powers of two. They are the rows of the states: of at least 64, so that all
    products of narrow floats are of one kind (wgmma; mixed with the older one, pipelined loads read what is not there).
    """
    if dtype == "fp32":
        return parts(size)
    padded = parts(-(-size // 64) * 64)
    return tuple(Part(p.index, p.start, p.width, p.start + p.width > size) for p in padded)


def map_code(expr: Expr, x: str, prefix: str, reads: Reads) -> MapCode:
    """The code of a map of components that are in `x`; names of its own start with `prefix`."""
    leaves: dict[Expr, str] = {COMPONENT: x}
    for name, text in (("b", "b"), ("h", "h"), ("hkv", "(h // group)")):
        leaves[Index(INT, name)] = text  # pyright: ignore[reportArgumentType]
    for name in ("q", "k", "row"):
        leaves[Index(INT, name)] = "rows[:, None]"  # pyright: ignore[reportArgumentType]
    scope = Scope(prefix)
    value = Printer(reads, leaves, scope).print(expr)
    return MapCode(scope.lines, value)


def _arguments(w: Walk, kernel: str, reads: Reads) -> list[Argument]:
    states = kernel == "states"
    roles = ["k", "v"] if states else ["q", "k", "v", *(["x"] if w.reads_x else [])]
    found = [Argument(r, "*qkv", "tensor", (r,)) for r in roles]
    names: list[str] = []
    if states:
        names = ["local", *(["decays"] if w.decays or w.channel else [])]
    else:
        found.append(Argument("out", "*qkv", "tensor", ("out",)))
        names = ["state", "final", *(["entering"] if w.feature else [])]
        names += (["shares"] if w.normalised else []) + (["row_sums"] if w.gated else []) + w.vectors
    if w.channel:
        names.append("factors")
        if w.across == "keys" and not states:
            found.append(Argument("weights", "*qkv", "tensor", ("weights",)))
    found += [Argument(n, "*fp32", "tensor", (n,)) for n in names]
    found += _decay_arguments(w, roles)
    found += [Argument(f"{r}_group", "i32", "number", (f"{r}_group",)) for r in roles]
    numbers = ["group", "B", "H", "L", "slices", "segments", "parts", "first", "length"]
    numbers += ["chunks_all"] if w.decay in ("token", "channel") or (w.feature and not states) else []
    numbers += [] if states else ["state_sk", "state_sv"]
    found += [Argument(n, "i32", "number", (n,)) for n in numbers]
    found += read_arguments(reads)
    constants = ["BT", "BV"] if states else ["BT", "BV", "START", "FINAL"]
    return [*found, *(Argument(c, "constexpr", "constexpr", (c,)) for c in constants)]


def _decay_arguments(w: Walk, roles: list[str]) -> list[Argument]:
    """What a row's decay is read from, and the strides of that and of operands."""
    found: list[Argument] = []
    strides: list[tuple[str, str]] = [(r, axis) for r in roles for axis in "bhl"]
    if w.per_head:
        found.append(Argument("gamma", "*input", "tensor", ("gamma",)))
        strides += [("gamma", "b"), ("gamma", "h")]
    elif w.decay == "token":
        found.append(Argument("falls", "*fp32", "tensor", ("falls",)))
    if w.docs:
        found.append(Argument("docs", "*i32", "tensor", ("docs",)))
        strides += [("docs", axis) for axis in "bhl"]
    return [*found, *(Argument(f"{t}_s{axis}", "i64", "stride", (t, axis)) for t, axis in strides)]


def _chunk_arguments(w: Walk, role: str) -> list[Argument]:
    """Of `columns` (keys) and `norms` (queries)."""
    if role == "k":
        names = ["added", *(["decays"] if w.decays else []), *(["u"] if w.column == "vector" else [])]
    else:
        names = ["entering", "normed"]
    found = [Argument(role, "*qkv", "tensor", (role,)), *(Argument(n, "*fp32", "tensor", (n,)) for n in names)]
    found += _decay_arguments(w, [role])
    found += [Argument(n, "i32", "number", (n,)) for n in (f"{role}_group", "H", "L", "chunks_all")]
    return [*found, Argument("BT", "constexpr", "constexpr", ("BT",))]


def read_arguments(reads: Reads) -> list[Argument]:
    """What maps read beside components."""
    found = [Argument(size_name(name), "i32", "size", (name,)) for name in reads.sizes]
    for name, kind in reads.scalars.items():
        found.append(Argument(scalar_name(name), "fp32" if kind is Kind.FLOAT else "i32", "scalar", (name,)))
    for name in reads.inputs:
        text = input_name(name)
        found.append(Argument(text, "*input", "input", (name,)))
        for i in range(reads.ranks[name]):
            found.append(Argument(f"{text}_s{i}", "i64", "input stride", (name, i)))
            found.append(Argument(f"{text}_n{i}", "i32", "input size", (name, i)))
    return found


@dataclass(frozen=True)
class FeatureMapping:
    """Features of a tensor [B, H, L, size]: `map`, a function of COMPONENT (None: the identity), times a number of the
    row where `scaled`. Strides are counted in `unit` elements. `dotted`: the row's product with one of `o`, times minus
    that number, is written to `u`."""

    size: int
    map: Expr | None
    scaled: bool
    unit: int = 1
    ranks: tuple[tuple[str, int], ...] = ()
    wide: bool = False
    dotted: bool = False


def generate_features(m: FeatureMapping, title: list[str]) -> tuple[str, tuple[Argument, ...]]:
    """The module of a map, with one kernel `features`, and its arguments in order."""
    reads = Reads(dict(m.ranks), m.wide)
    code = MapCode([], "x_here") if m.map is None else map_code(m.map, "x_here", "m", reads)
    found = [Argument(n, t, "tensor", (n,)) for n, t in (("x", "*qkv"), ("out", "*qkv"))]
    found += [Argument("share", "*fp32", "tensor", ("share",))] if m.scaled else []
    found += [Argument("o", "*qkv", "tensor", ("o",)), Argument("u", "*fp32", "tensor", ("u",))] if m.dotted else []
    found += [Argument(f"x_s{axis}", "i64", "stride", ("x", axis)) for axis in "bhl"]
    found += [Argument(n, "i32", "number", (n,)) for n in ("H", "L", "tiles", "group")]
    found += read_arguments(reads)
    arguments = (*found, Argument("BT", "constexpr", "constexpr", ("BT",)))
    text = render(
        "triton/scan_features.py.j2", title=title, helpers=reads.helpers, fast_tanh=False, map=m.map is not None,
        scaled=m.scaled, dotted=m.dotted, arguments=arguments,
        numbers=[a.name for a in found if not a.type.startswith("*")],
        size=m.size, width=max(1 << (m.size - 1).bit_length(), 1), unit=m.unit, code=code,
    )  # fmt: skip
    return tidied(text), arguments


def tidied(text: str) -> str:
    """Without empty lines in kernels, and with two between them."""
    text = "\n".join(line.rstrip() for line in text.splitlines())
    text = re.sub(r"\n{2,}( +\S)", r"\n\1", text)
    return re.sub(r"\n{3,}", "\n\n\n", text).rstrip() + "\n"
