"""The function of a written module that computes what its kernels read: the vectors, numbers, tables and prefix sums of
a projection, as statements of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attndsl.codegen.torch_sides import SideCode, Statements, Text, constant
from attndsl.ir.attention import Attention, Const, Input
from attndsl.ir.evaluate import Env, UnboundError, evaluate
from attndsl.ir.expr import Expr, Index, Load, Size, walk
from attndsl.ir.infix import infix
from attndsl.ir.one_product import SCALE
from attndsl.ir.projected import GIVEN_SIZE, Number, Prefix, Projection, Table, Vectors
from attndsl.ir.types import INT, Kind, kind_of_dtype
from attndsl.schedule.problem import Problem

MOST = 90


@dataclass(frozen=True)
class TorchCode:
    """Statements, the helpers that they call, and the const arrays that they read."""

    lines: Sequence[str]
    helpers: frozenset[str]
    arrays: frozenset[str]


def statements(attention: Attention, problem: Problem, fixed: Sequence[str]) -> Statements:
    """No statements yet, of a module for this call whose `fixed` sizes no call changes."""
    sizes = {n: problem.sizes[n] for n in fixed}
    shapes: dict[str, Sequence[int | None]] = {}
    kinds: dict[str, Kind] = {}
    for p in attention.params:
        if isinstance(p, Input):
            shapes[p.name] = [extent(e, sizes) for e in p.shape]
            kinds[p.name] = kind_of_dtype(p.dtype)
        elif isinstance(p, Const) and isinstance(p.default, tuple):
            shapes[p.name] = [len(p.default)]
            kinds[p.name] = p.kind
    return Statements(sizes, shapes, kinds)


def extent(e: Expr, sizes: Mapping[str, int]) -> int | None:
    """The number of a dimension; None where calls differ in it."""
    try:
        return int(evaluate(e, Env({Size(INT, n): v for n, v in sizes.items()})))
    except UnboundError:
        return None


def arrays_of(attention: Attention, expressions: Sequence[Expr]) -> frozenset[str]:
    """The const arrays that expressions read."""
    read = {n.tensor for e in expressions for n in walk(e) if isinstance(n, Load)}
    return frozenset(p.name for p in attention.consts if p.name in read)


def sizes_of_vectors(found: Projection) -> set[str]:
    """The sizes that the vectors' extent depends on."""
    extents = [p.vectors.extent for p in found.products]
    extents += [] if found.vectors is None else [found.vectors.extent]
    return {n.name for e in extents for n in walk(e) if isinstance(n, Size)}


def projection_code(attention: Attention, found: Projection, problem: Problem, fixed: Sequence[str]) -> TorchCode:
    """What stands in `prepare` before it returns: from `q`, `k`, `v`, `inputs`, `scalars`, `sizes` and `scale` of a
    call those of the kernels."""
    assert isinstance(problem.q_offset, int)
    body = statements(attention, problem, fixed)
    writer = _Writer(attention, found, problem, body)
    writer.run()
    expressions = (
        *(() if found.vectors is None else (found.vectors.query, found.vectors.key)),
        *(e for p in found.products for e in (p.vectors.query, p.vectors.key)),
        *(n.value for n in (*found.numbers, *found.channels, *found.gates)), *(t.vector for t in found.tables),
    )  # fmt: skip
    helpers = body.helpers | {n for n in ("number",) if any(f"{n}(" in line for line in body.lines)}
    return TorchCode(body.lines, frozenset(helpers), arrays_of(attention, expressions))


class _Writer:
    def __init__(self, attention: Attention, found: Projection, problem: Problem, body: Statements) -> None:
        self.attention, self.found, self.problem, self.body = attention, found, problem, body
        sizes = problem.sizes
        assert isinstance(problem.q_offset, int)
        scale = Text("number(scale, q)")
        self.rows = SideCode(body, "row", "H", sizes["Lq"], problem.q_offset, values={SCALE: scale})
        self.keys = {
            heads: SideCode(body, prefix, heads, sizes["Lk"], values={SCALE: scale})
            for heads, prefix in (("H", "key_of_head"), ("Hkv", "key"))
        }

    def side(self, of_row: bool, by_head: bool) -> SideCode:
        return self.rows if of_row else self.keys["H" if by_head else "Hkv"]

    def run(self) -> None:
        found, lines = self.found, self.body.lines
        vectors = found.vectors
        every = [*([] if vectors is None else [vectors]), *(p.vectors for p in found.products)]
        for v in every:
            self.rows.expect(v.query)
            self.side(False, found.by_head).expect(v.key)
        for n in (*found.numbers, *found.channels):
            self.side(n.of_row, n.by_head).expect(n.value)
        for t in found.tables:
            self.side(t.of_row, t.by_head).expect(t.vector)
        self.rows.expect(*(g.value for g in found.gates))
        lines.append("read = dict(inputs)")
        for number in found.numbers:
            self._number(number)
        for table in found.tables:
            self._table(table)
        for channels in found.channels:
            side = self.side(channels.of_row, channels.by_head)
            self._comment(channels.value)
            lines.append(f'read["{channels.name}"] = {self._components(side, side.value(channels.value))}')
        for gate in found.gates:
            self._comment(gate.value)
            code = self.rows.value(gate.value).within(8)
            lines.append(f'read["{gate.name}"] = {code}.expand({shape(self.rows)}, -1).contiguous()')
        for prefix in found.prefixes:
            self._prefix(prefix)
        sizes = found.sizes(self.problem.sizes)
        heads = "H" if found.by_head else "Hkv"
        changed = {GIVEN_SIZE: str(self.problem.sizes["D"])}
        changed |= {"Hkv": heads} if every else {}
        changed |= {name: str(sizes[name]) for name, _ in found.extents}
        for product in found.products:
            self._vectors(product.vectors, f'read["{product.query}"]', f'read["{product.key}"]', sizes[product.size])
            changed[product.size] = str(sizes[product.size])
        given = "q", "k"
        if vectors is not None:
            self._vectors(vectors, "query", "key", sizes["D"])
            given = "query", "key"
            changed["D"] = str(sizes["D"])
        elif found.by_head:
            lines.append("k = k.repeat_interleave(H // Hkv, 1)")
        if found.by_head:
            lines.append("v = v.repeat_interleave(H // Hkv, 1)")
        pairs = ", ".join(f'"{n}": {code}' for n, code in changed.items())
        lines.append(f"sizes = {{**sizes, {pairs}}}")
        lines.append(f"return {', '.join(given)}, v, read, sizes, {'1.0' if vectors is not None else 'scale'}")

    def _vectors(self, vectors: Vectors, query: str, key: str, size: int) -> None:
        """The two vectors of a dot product, under these names."""
        lines, vector = self.body.lines, self.body.helper("vector")
        keys = self.side(False, self.found.by_head)
        for name, side, e in ((query, self.rows, vectors.query), (key, keys, vectors.key)):
            self._comment(e)
            code = side.narrowed(e)
            lines.append(f"{name} = {vector}({code}, (B, {side.heads}, {side.places}), {size})")

    def _comment(self, e: Expr) -> None:
        self.body.lines.append(f"# {infix(e, MOST)}")

    def _number(self, number: Number) -> None:
        side = self.side(number.of_row, number.by_head)
        self._comment(number.value)
        code = side.value(number.value)
        self.body.lines.append(f'read["{number.name}"] = {tensor_of(side, code)}.expand({shape(side)}).contiguous()')

    def _table(self, table: Table) -> None:
        side, body = self.side(table.of_row, table.by_head), self.body
        self._comment(table.vector)
        vectors = f"{side.value(table.vector).within(8)}.expand({shape(side)}, -1)"
        chosen = f'inputs["{table.tensor}"].float()'
        lead = [i.name for i in table.lead if isinstance(i, Index)]
        if side.heads == "H" and "hkv" in lead:
            chosen += f".repeat_interleave(H // Hkv, {lead.index('hkv')})"
        places = [":" if "b" in lead else "None", ":" if {"h", "hkv"} & set(lead) else "None"]
        if places != [":", ":"]:
            chosen += f"[{', '.join(places)}]"
        body.lines.append(f'read["{table.name}"] = ({vectors} @ {chosen}.transpose(-1, -2)).contiguous()')

    def _prefix(self, prefix: Prefix) -> None:
        body, lines = self.body, self.body.lines
        lines.append(f"# sums of {prefix.tensor} up to each position, in two floats each")
        added = body.helper("prefix_sums")
        steps = f'inputs["{prefix.tensor}"]'
        whole = f"{added}({steps}.transpose(-1, -2)).transpose(-1, -2)" if prefix.size else f"{added}({steps})"
        sums = body.assign(f"sums_of_{len(lines)}", whole)
        assert isinstance(self.problem.q_offset, int)
        side = _Doubles(body, f"at{len(lines)}_", "H", self.problem.sizes["Lq"], self.problem.q_offset, "double")
        side.sums = {prefix.tensor: sums}
        side.expect(prefix.at_row)
        at_row = side.value(prefix.at_row)
        halves = body.helper("halves")
        if not prefix.size:
            for (name, rest), code in (
                (prefix.rows, f"{at_row.within(8)}.expand({shape(side)})"), (prefix.keys, sums)
            ):  # fmt: skip
                lines.append(f'read["{name}"], read["{rest}"] = {halves}({code})')
            return
        heads = "H" if prefix.by_head else "Hkv"
        own = _Doubles(body, f"at{len(lines)}_", heads, self.problem.sizes["Lk"], dtype="double")
        own.sums = side.sums
        own.expect(prefix.at_key)
        for (name, rest), of, code in (
            (prefix.rows, side, at_row), (prefix.keys, own, own.value(prefix.at_key))
        ):  # fmt: skip
            parts = body.assign(f"halves_of_{len(lines)}", f"{halves}({code.within(8)})")
            for i, part in enumerate((name, rest)):
                lines.append(f'read["{part}"] = {self._components(of, Text(f"{parts}[{i}]"))}')

    def _components(self, side: SideCode, vectors: Text) -> str:
        """Vectors with each component of all places side by side in memory."""
        return f"{self.body.helper('components')}({vectors.code}, ({shape(side)}))"


@dataclass
class _Doubles(SideCode):
    """Reads of sums in double precision."""

    sums: dict[str, str] | None = None

    def _read(self, name: str) -> str:
        return (self.sums or {}).get(name) or super()._read(name)


def tensor_of(side: SideCode, text: Text) -> str:
    """A value as the object of an attribute."""
    if text.known is None:
        return text.within(8)
    return f"{side.body.helper('number')}({constant(text.known).code}, q)"


def shape(side: SideCode) -> str:
    """The dimensions of a number of every place."""
    return f"B, {side.heads}, {side.places}"
