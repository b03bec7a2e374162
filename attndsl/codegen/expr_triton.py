"""Expressions as Triton statements.

Ints are int32, floats fp32. A value of the row is a tensor [BM, 1], one of the key [1, BN], one of the pair
[BM, BN], anything else a scalar. What does not vary with the key is hoisted out of the loops over keys; structurally
equal subexpressions are computed once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache

from attndsl.codegen.expr_torch import mangle
from attndsl.ir.channels import needs, numbers_of, reduces_components, split, within
from attndsl.ir.expr import (
    Component,
    Coord,
    Expr,
    Extent,
    Index,
    Literal,
    Load,
    Op,
    ParamRef,
    Search,
    Size,
    Value,
    mentions,
    walk,
)
from attndsl.ir.free import k_side, q_side
from attndsl.ir.types import INT, Kind
from attndsl.schedule.interval import Boxes, bounds

INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==",
    "ne": "!=", "and": "&", "or": "|",
}  # fmt: skip
LIBRARY = {
    "abs": "tl.abs", "min": "tl.minimum", "max": "tl.maximum", "exp": "tl.exp", "log": "tl.log", "sqrt": "tl.sqrt",
    "erf": "tl.erf", "select": "tl.where", "sigmoid": "tl.sigmoid",
}  # fmt: skip
HELPERS = {
    "tanh": "tanh", "sign": "sign", "elu": "elu", "silu": "silu", "gelu": "gelu", "softplus": "softplus",
    "sin": "sine", "cos": "cosine", "bitlen": "bitlen", "ispow2": "ispow2", "pow": "power", "floordiv": "floordiv",
    "mod": "modulo", "acos": "arccosine", "atan2": "angle",
}  # fmt: skip
"""Operations that become calls of functions written into the module."""
NEEDS = {"silu": (), "gelu": (), "modulo": ("floordiv",), "sine": ("turns",), "cosine": ("turns",)}
LINE = 88


class UnsupportedError(ValueError):
    """A feature that this backend does not have; the text names it."""


class Level(IntEnum):
    """What a value varies with."""

    UNIFORM = 0
    ROW = 1
    COLUMN = 2
    PAIR = 3


def level(node: Expr) -> Level:
    """What an expression varies with where rows are queries."""
    return Level(int(q_side(node)) + 2 * int(k_side(node)))


_TURNED = {Level.ROW: Level.COLUMN, Level.COLUMN: Level.ROW}


@dataclass(frozen=True)
class Text:
    """The code of a value; an atom needs no parentheses."""

    code: str
    atom: bool = True

    @property
    def operand(self) -> str:
        return self.code if self.atom else f"({self.code})"


@dataclass
class Scope:
    """Statements in one place of the kernel, and the values that they compute."""

    prefix: str
    lines: list[str] = field(default_factory=list[str])
    known: dict[Expr, Text] = field(default_factory=dict[Expr, Text])

    def name(self, code: str) -> Text:
        made = f"{self.prefix}{len(self.lines)}"
        self.lines.append(f"{made} = {code}")
        return Text(made)


@dataclass
class Reads:
    """What the kernel must be given beside q, k and v: arguments in order of first use, and helper functions.

    `ranks` maps inputs (and const arrays) to their number of dimensions. Offsets within them are int32 unless `wide`.
    `loaded` are the scalars that are passed as pointers to a number, `channels` the inputs whose vectors are read
    component by component. `vectors` becomes true when more than a number of an input is read at once.
    """

    ranks: Mapping[str, int]
    wide: bool = False
    loaded: frozenset[str] = frozenset()
    channels: frozenset[str] = frozenset()
    vectors: bool = False
    sizes: dict[str, None] = field(default_factory=dict[str, None])
    extents: dict[tuple[str, str, str], None] = field(default_factory=dict[tuple[str, str, str], None])
    scalars: dict[str, Kind] = field(default_factory=dict[str, Kind])
    inputs: dict[str, None] = field(default_factory=dict[str, None])
    helpers: dict[str, None] = field(default_factory=dict[str, None])

    def helper(self, name: str) -> str:
        for other in NEEDS.get(name, ()):
            self.helpers[other] = None
        self.helpers[name] = None
        return name


@dataclass
class Printer:
    """Prints expressions into `inner`; values that do not vary with the key go to `outer`, if there is one.

    `leaves` maps leaf nodes to the names that the kernel gives them; `used` collects those that were needed.
    `component` is the index vector [1, width] of components in an epilogue, where vectors are allowed. `turned`: the
    rows of a tile are keys, its columns queries. `columns` is the number of these, all of them inside where they are
    `seen`. In a loop over components `channel` is the number of one, and vectors are what they have there; `bound` is
    that number where numbers read it. `like` is a number of every pair whose layout such loops begin with. `places` are
    the positions of rows and of columns where they are neighbours: that of the first, and their distance from it.
    """

    reads: Reads
    leaves: Mapping[Expr, str]
    inner: Scope
    outer: Scope | None = None
    component: tuple[str, str] | None = None
    turned: bool = False
    columns: str = "BN"
    seen: bool = False
    channel: str = ""
    bound: Component | None = None
    like: str = ""
    places: Mapping[Expr, tuple[str, str]] = field(default_factory=dict[Expr, tuple[str, str]])
    used: set[Expr] = field(default_factory=set[Expr])
    uses: Counter[Expr] = field(default_factory=Counter[Expr])
    crossing: set[Expr] = field(default_factory=set[Expr])
    expected: set[Expr] = field(default_factory=set[Expr])

    def level(self, node: Expr) -> Level:
        """What an expression varies with in the tile."""
        found = level(node)
        return _TURNED.get(found, found) if self.turned else found

    def expect(self, *roots: Expr) -> None:
        """Values that will be printed: what several of them need gets a name at its first use."""
        for root in roots:
            self.uses[root] += 1
            for node in self._nodes(root):
                if node not in self.expected:
                    self.expected.add(node)
                    self.uses.update(self._needs(node))

    def _nodes(self, root: Expr) -> list[Expr]:
        """What is printed for a value, what it needs first."""
        if self.bound is not None:
            varying, others = split(root, self.bound)
            return [*others, *varying]
        if self.channel:
            vectors, numbers = within(Op(root.type, "total", (root,)))
            return [*numbers, *vectors]
        return list(walk(root) if self.component else numbers_of(root))

    def _needs(self, node: Expr) -> tuple[Expr, ...]:
        whole = self.component or (self.channel and self.bound is None)
        return node.children if whole else needs(node)

    def print(self, root: Expr) -> str:
        """The code of a value, after its statements."""
        nodes = self._nodes(root)
        for node in nodes:
            if node not in self.expected:
                self.uses.update(self._needs(node))
            self.crossing.update(c for c in self._needs(node) if self.level(c) <= Level.ROW < self.level(node))
        if self.level(root) <= Level.ROW:
            self.crossing.add(root)
        for node in nodes:
            self._visit(node)
        return self._at(node=root).code

    def _at(self, node: Expr) -> Text:
        if self.outer is not None and node in self.outer.known:
            return self.outer.known[node]
        return self.inner.known[node]

    def value_of(self, node: Expr) -> Text:
        """A value under a name."""
        self.print(node)
        scope, text = self.scope_of(node), self._at(node)
        if node not in self.leaves and not isinstance(node, Literal) and not _simple(text.code):
            text = scope.known[node] = scope.name(text.code)
        return text

    def scope_of(self, node: Expr) -> Scope:
        """Where a value is computed."""
        return self.outer if self.outer is not None and self.level(node) <= Level.ROW else self.inner

    def _visit(self, node: Expr) -> None:
        scope = self.scope_of(node)
        if node in self.leaves:
            self.used.add(node)
        if node in scope.known:
            known = scope.known[node]
            if node in self.crossing and not _simple(known.code):
                scope.known[node] = scope.name(known.code)
            return
        text = self._text(node)
        hoisted = self.outer is not None and node in self.crossing
        again = self.uses[node] > 1 or len(text.code) > LINE or hoisted
        scope.known[node] = scope.name(text.code) if again and not _simple(text.code) else text

    def _text(self, node: Expr) -> Text:
        if node in self.leaves:
            return Text(self.leaves[node])
        match node:
            case Literal(value=value):
                return _literal(value)
            case Size(name=name):
                self.reads.sizes[name] = None
                return Text(size_name(name))
            case Extent(side=side, segment=segment, axis=axis):
                self.reads.extents[side, segment, axis] = None
                return Text(extent_name(side, segment, axis))
            case ParamRef(name=name, component=None):
                self.reads.scalars[name] = node.type.kind
                text = scalar_name(name)
                if name in self.reads.loaded:
                    if node.type.kind is Kind.BOOL:
                        return Text(f"(tl.load({text}) != 0)")
                    kind = "tl.int32" if node.type.kind is Kind.INT else "tl.float32"
                    return Text(f"tl.load({text}).to({kind})")
                return Text(f"({text} != 0)") if node.type.kind is Kind.BOOL else Text(text)
            case Load():
                return self._load(node)
            case Op():
                return self._op(node)
            case Search():
                raise UnsupportedError("a search in a sorted table")
            case Value(name=name):
                raise UnsupportedError(f"`{name}` outside its clause")
            case Coord() | Index():
                raise UnsupportedError(f"{type(node).__name__.lower()} of the other side here")
            case _:
                raise UnsupportedError(_WORDS.get(type(node).__name__, type(node).__name__.lower()))

    # Reads

    def _load(self, node: Load) -> Text:
        if node.tensor in ("Q", "K", "V"):
            raise UnsupportedError(f"the vector {node.tensor} in an expression")
        if node.tensor in self.reads.channels and node.type.shape:
            return Text(self.component_of(node))
        rank, given = self.reads.ranks[node.tensor], len(node.indices)
        if rank - given > (1 if self.component else 0):
            raise UnsupportedError(f"vectors read from `{node.tensor}`")
        place, inside = self.element(node)
        where = f", mask={inside}, other=0" if inside else ""
        read = f"tl.load({place}{where})"
        kind = node.type.kind
        if kind is Kind.BOOL:
            return Text(f"({read} != 0)")
        return Text(f"{read}.to({'tl.int32' if kind is Kind.INT else 'tl.float32'})")

    def element(self, node: Load, name: str = "") -> tuple[str, str]:
        """The address of what is read of a tensor, or in another that has its strides, and whether it is inside."""
        rank, given = self.reads.ranks[node.tensor], len(node.indices)
        self.reads.inputs[node.tensor] = None
        own = input_name(node.tensor)
        base: list[str] = []
        offset: list[str] = []
        inside: list[str] = []
        narrow = "" if self.reads.wide else ".to(tl.int32)"
        for i, index in enumerate(node.indices):
            at = self._at(index)
            if level(index) is Level.UNIFORM:
                base.append(f"{at.operand} * {own}_s{i}")
            else:
                offset.append(f"{at.operand} * {own}_s{i}{narrow}")
            if not _within(index):
                inside += [f"({at.operand} >= 0)", f"({at.operand} < {own}_n{i})"]
        if rank > given and self.component:
            offset.append(f"{self.component[0]} * {own}_s{given}{narrow}")
            inside.append(self.component[1])
        self.reads.vectors |= bool(offset)
        whole = f" + ({' + '.join(offset)})" if len(offset) > 1 else f" + {offset[0]}" if offset else ""
        return f"{' + '.join([name or own, *base])}{whole}", " & ".join(inside)

    def component_of(self, node: Load) -> str:
        """The code that loads a component of a vector of every row, or of every column, side by side in memory."""
        place, inside = self.place_of(node)
        where = f", mask={inside}, other=0.0" if inside else ""
        return f"tl.load({input_name(node.tensor)} + {place}{where})"

    def place_of(self, node: Load) -> tuple[str, str]:
        """Where a component lies in its tensor, and the condition that it is inside."""
        assert self.channel
        *lead, position = node.indices
        name, at = input_name(node.tensor), self.print_number(position)
        self.reads.inputs[node.tensor] = None
        self.reads.vectors = True
        terms = [f"{self.print_number(i)} * {name}_s{n}" for n, i in enumerate(lead)]
        terms += [f"{self.channel} * {name}_s{len(node.indices)}", *self.places.get(position, (at,))]
        inside = f"({at} < {name}_n{len(lead)})"
        if self.level(position) is Level.COLUMN:
            inside = "" if self.seen else f"({at} >= 0) & {inside}"
        return " + ".join(terms), inside

    def print_number(self, node: Expr) -> str:
        """The code of a number that is known in a loop over components."""
        if node in self.leaves:
            self.used.add(node)
            return self.leaves[node]
        return self._at(node).operand

    # Operations

    def _op(self, node: Op) -> Text:
        if reduces_components(node) and not self.component:
            from attndsl.codegen.triton_channels import reduction

            return reduction(self, node)
        if node.type.shape and not self.component and not self.channel:
            raise UnsupportedError(f"vectors (`{node.op}`)")
        args = [self._at(a) for a in node.args]
        codes = [a.code for a in args]
        match node.op:
            case "neg":
                return Text(f"-{args[0].operand}", False)
            case "not":
                return Text(f"{args[0].operand} == 0", False)
            case "to_float" if is_long_product(node.args[0]):
                # in floats nothing wraps, and positions are exact
                by = [self._at(f) for f in _two_factors(node.args[0])]
                return Text(" * ".join(f"{f.operand}.to(tl.float32)" for f in by), False)
            case "to_float":
                return Text(f"{args[0].operand}.to(tl.float32)")
            case "to_int":
                return Text(f"{args[0].operand}.to(tl.int32)")
            case "floor" | "ceil":
                return Text(f"tl.{node.op}({codes[0]}).to(tl.int32)")
            case "relu":
                return Text(f"tl.maximum({codes[0]}, {'0.0' if node.type.kind is Kind.FLOAT else '0'})")
            case "mul" | "pow" if is_long_product(node):
                a, b = (self._at(f).operand for f in _two_factors(node))
                return Text(f"{a}.to(tl.int64) * {b}", False)
            case "pow":
                return self._power(node, args)
            case "floordiv" | "mod":
                return self._division(node, args)
            case "div" if isinstance(node.args[1], Literal) and float(node.args[1].value) != 0.0:
                return Text(f"{args[0].operand} * {1.0 / float(node.args[1].value)!r}", False)
            case "bitlen" if is_long(node.args[0]):
                return Text(f"{self.reads.helper('bitlen_long')}({codes[0]})")
            case "bitlen" | "ispow2" | "sign":
                return Text(f"{self.reads.helper(node.op)}({codes[0]})")
            case name if name in INFIX:
                return Text(f"{args[0].operand} {INFIX[name]} {args[1].operand}", False)
            case name if name in LIBRARY:
                return Text(f"{LIBRARY[name]}({', '.join(codes)})")
            case name if name in HELPERS:
                return Text(f"{self.reads.helper(HELPERS[name])}({', '.join(codes)})")
            case name:
                raise UnsupportedError(f"`{name}`")

    def _power(self, node: Op, args: list[Text]) -> Text:
        exponent = node.args[1]
        while isinstance(exponent, Op) and exponent.op == "to_float":
            exponent = exponent.args[0]
        if isinstance(exponent, Literal) and float(exponent.value) in (1.0, 2.0, 3.0, 4.0) and not _is_long_op(node):
            base = args[0]
            if not base.code.isidentifier():
                scope = self.scope_of(node)
                base = scope.known[node.args[0]] = scope.name(base.code)
            return Text(" * ".join([base.code] * int(exponent.value)), False)
        if node.type.kind is Kind.INT:
            return self._whole_power(node, args[0], exponent)
        return Text(f"{self.reads.helper('power')}({args[0].code}, {args[1].code})")

    def _whole_power(self, node: Op, base: Text, exponent: Expr) -> Text:
        """An int to a power that soon leaves 32 bits, in 64."""
        assert isinstance(exponent, Literal)
        count, scope = int(exponent.value), self.scope_of(node)
        if isinstance(node.args[0], Literal):
            return _literal(int(node.args[0].value) ** count)
        if not count:
            return Text(f"{base.operand} * 0 + 1", False)
        square = scope.name(f"{base.operand}.to(tl.int64)").code
        factors: list[str] = []
        while count:
            if count & 1:
                factors.append(square)
            count >>= 1
            if count:
                square = scope.name(f"{square} * {square}").code
        return Text(" * ".join(factors), False)

    def _division(self, node: Op, args: list[Text]) -> Text:
        by = node.args[1]
        number = int(by.value) if isinstance(by, Literal) else 0
        if number > 0 and number & (number - 1) == 0:
            # an arithmetic shift and a mask floor
            text = f">> {number.bit_length() - 1}" if node.op == "floordiv" else f"& {number - 1}"
            return Text(f"{args[0].operand} {text}", False)
        if _positive(by) and nonnegative(node.args[0]):
            return Text(f"{args[0].operand} {'//' if node.op == 'floordiv' else '%'} {args[1].operand}", False)
        return Text(f"{self.reads.helper(HELPERS[node.op])}({args[0].code}, {args[1].code})")


_WORDS = {
    "Decay": "a decay", "Reduce": "a reduction here", "Count": "`count` here", "Member": "membership of a segment here",
}  # fmt: skip


MOST_SHORT = 4
"""The largest power of an int that may be computed in 32 bits."""
POSITIONS = 1 << 24
"""More than any sequence has."""


def is_long(e: Expr) -> bool:
    """Whether the code of an int may be one of 64 bits."""
    return mentions(e, _is_long_op)


def is_long_product(e: Expr) -> bool:
    """Whether an int is a product of two that vary with positions, or the square of one, which may leave 32 bits."""
    return _is_long_op(e) and _two_factors(e) != ()


def _two_factors(e: Expr) -> tuple[Expr, ...]:
    match e:
        case Op(op="mul", args=(a, b)):
            return a, b
        case Op(op="pow", args=(a, Literal(value=2))):
            return a, a
        case _:
            return ()


@lru_cache(maxsize=4096)
def _is_long_op(node: Expr) -> bool:
    if not isinstance(node, Op) or node.op not in ("mul", "pow") or node.type != INT:
        return False
    if node.op == "pow" and isinstance(node.args[1], Literal) and node.args[1].value > MOST_SHORT:
        return True
    by = node.args if node.op == "mul" else node.args[:1]
    if not all(mentions(f, lambda n: isinstance(n, Index | Coord)) for f in by):
        # what a scalar, an input or an extent multiplies stays a place
        return False
    free = (Index, Coord, Size, Extent, ParamRef, Load, Search)
    read: list[Expr] = [n for n in walk(node) if n.type == INT and isinstance(n, free)]
    ranges = dict.fromkeys(read, (-POSITIONS, POSITIONS))
    low, high = bounds(node, Boxes(ranges, {}))
    return int(low) < -(2**31) or int(high) >= 2**31


def nonnegative(node: Expr) -> bool:
    """Whether a value is never negative on visible pairs."""
    match node:
        case Literal(value=value):
            return value >= 0
        case Index(name=name):
            return name != "q"
        case Size() | Extent():
            return True
        case Op(op="add" | "mul" | "floordiv" | "min", args=args):
            return all(map(nonnegative, args))
        case Op(op="mod", args=(_, by)):
            return _positive(by)
        case Op(op="max", args=args):
            return any(map(nonnegative, args))
        case Op(op="abs"):
            return True
        case _:
            return False


def _positive(node: Expr) -> bool:
    return (isinstance(node, Literal) and node.value > 0) or isinstance(node, Extent)


def _within(index: Expr) -> bool:
    """Whether an index is inside by what it is."""
    return isinstance(index, Index) and index.name in ("b", "h", "hkv")


def _simple(code: str) -> bool:
    return code.isidentifier() or code.replace(".", "", 1).isdigit()


def _literal(value: bool | int | float) -> Text:
    if isinstance(value, bool):
        return Text(repr(value))
    if value in (float("inf"), float("-inf")):
        return Text('float("inf")') if value > 0 else Text('-float("inf")', False)
    text = repr(value)
    return Text(text, not text.startswith("-"))


def size_name(name: str) -> str:
    """The argument that holds a size."""
    return f"size_{mangle(name)}"


def extent_name(side: str, segment: str, axis: str) -> str:
    """The argument that holds the extent of an axis."""
    return f"n_{side}_{mangle(segment)}_{mangle(axis)}"


def scalar_name(name: str) -> str:
    """The argument that holds a scalar."""
    return f"scalar_{mangle(name)}"


def input_name(name: str) -> str:
    """The argument that points to an input; `_s0`, ... are its strides and `_n0`, ... its extents."""
    return f"in_{mangle(name)}"
