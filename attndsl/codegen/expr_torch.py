"""Expressions as torch statements: one function body of a generated module.

Structurally equal subexpressions are computed once. Values broadcast: what depends on the row has one column, what
depends on the key one row, so that whatever is not a property of the pair is computed once per row or column.

In a weight, exponentials are carried as `value * exp(shift)` with one shift per row, a formal sum of row constants;
in a quotient of equal shifts nothing of it is left. So definitions over the reals hold where exp would overflow.

Gradients: an operation is `tame` if it maps finite operands to finite values and derivatives; others are called in
their strict form, whose derivative is 0 wherever the incoming one is, so that pairs that contribute nothing give
exact zeros instead of 0 * inf.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from attndsl.codegen.names import Argument
from attndsl.ir.expr import (
    COMPARISONS,
    Coord,
    Count,
    Decay,
    Expr,
    Extent,
    Index,
    Literal,
    Load,
    Member,
    Op,
    ParamRef,
    Reduce,
    Size,
    Value,
    mentions,
    walk,
)
from attndsl.ir.free import column_only, k_side, q_side, row_only
from attndsl.ir.types import INT, Kind

INFIX = {
    "add": "+", "sub": "-", "mul": "*", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
    "and": "&", "or": "|",
}  # fmt: skip
CALLS = {
    "div": "divide", "floordiv": "floordiv", "mod": "modulo", "pow": "power", "min": "minimum", "max": "maximum",
    "abs": "absolute", "sign": "sign", "floor": "floor", "ceil": "ceil", "exp": "exp", "log": "log", "sqrt": "sqrt",
    "tanh": "tanh", "sigmoid": "sigmoid", "relu": "relu", "elu": "elu", "silu": "silu", "gelu": "gelu",
    "softplus": "softplus", "erf": "erf", "sin": "sin", "cos": "cos", "acos": "acos", "atan2": "atan2",
    "bitlen": "bitlen", "ispow2": "ispow2", "not": "negate", "select": "select", "to_float": "to_float",
    "to_int": "to_int", "dot": "dot", "norm": "norm", "total": "component_sum", "amax": "component_max",
    "vsoftmax": "component_softmax",
    "rmsnorm": "rmsnorm", "concat": "concat", "outer": "outer", "distinct": "distinct", "matmul": "matmul",
    "roll": "roll", "rope": "rope",
}  # fmt: skip
WILD = frozenset(("exp", "log", "sqrt", "pow", "acos", "atan2", "div"))
"""Operations whose value or derivative can be infinite."""
STRICT = frozenset((
    *WILD, "mul", "abs", "tanh", "sigmoid", "elu", "silu", "gelu", "softplus", "erf", "sin", "cos",
    "dot", "norm", "amax", "vsoftmax", "rmsnorm", "outer", "distinct", "matmul",
))  # fmt: skip
"""Operations that have a strict form: all whose derivative is computed from what they were given."""
UNLIFTED = frozenset(("dot", "norm", "total", "amax", "matmul", "concat", "outer", "distinct"))
"""Operations whose arguments are vectors already."""
LINE = 88


def mangle(name: str) -> str:
    """A user's name as part of an identifier."""
    return re.sub(r"[^A-Za-z0-9_]", lambda m: f"_u{ord(m.group()):x}_", name)


@dataclass(frozen=True)
class Term:
    """The text of a value; `shift` maps row constants to coefficients: the value means text * exp(sum of them)."""

    text: str
    atom: bool = True
    shift: tuple[tuple[str, float], ...] = ()

    @property
    def operand(self) -> str:
        return self.text if self.atom else f"({self.text})"


@dataclass
class Body:
    """One function under construction: its arguments (in order of first use), statements and what they return."""

    prefix: str
    scaled: bool = False
    arguments: dict[str, Argument] = field(default_factory=dict[str, Argument])
    lines: list[str] = field(default_factory=list[str])
    results: list[str] = field(default_factory=list[str])
    terms: dict[Expr, Term] = field(default_factory=dict[Expr, Term])
    uses: Counter[Expr] = field(default_factory=Counter[Expr])
    known_tame: dict[Expr, bool] = field(default_factory=dict[Expr, bool])

    def add(self, *results: Expr) -> Body:
        """Compute these expressions and return them."""
        for root in results:
            self.uses.update(c for node in walk(root) for c in node.children)
        for root in results:
            for node in walk(root):
                if node not in self.terms:
                    self.terms[node] = self._term(node)
            self.results.append(self.plain(root))
        return self

    def plain(self, node: Expr) -> str:
        """The value without a shift left."""
        term = self.terms[node]
        if not term.shift:
            return term.text
        return self._name(f"{term.operand} * exp({_sum(term.shift)})")

    def _operand(self, node: Expr) -> str:
        term = self.terms[node]
        return self.plain(node) if term.shift else term.operand

    def _name(self, text: str) -> str:
        name = f"{self.prefix}{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        return name

    def _keep(self, node: Expr, text: str, atom: bool, shift: tuple[tuple[str, float], ...] = ()) -> Term:
        """A value used more than once, or a long one, gets a name."""
        if (self.uses[node] > 1 and not text.isidentifier()) or len(text) > LINE or shift:
            return Term(self._name(text), shift=shift)
        return Term(text, atom)

    def argument(self, name: str, source: str, *key: str | int) -> str:
        """An argument of the function."""
        self.arguments.setdefault(name, Argument(name, source, key))
        return name

    def _term(self, node: Expr) -> Term:
        match node:
            case Literal(value=value):
                return _literal(value)
            case Index(name=name):
                return Term(self.argument(name, "index", name))
            case Coord(side=side, segment=segment, axis=axis):
                name = f"{side}_at_{mangle(segment)}_{mangle(axis)}"
                return Term(self.argument(name, "coord", side, segment, axis))
            case Member(side=side, segment=segment):
                return Term(self.argument(f"{side}_in_{mangle(segment)}", "member", side, segment))
            case Extent(side=side, segment=segment, axis=axis):
                name = f"{side}_size_{mangle(segment)}_{mangle(axis)}"
                return Term(self.argument(name, "extent", side, segment, axis))
            case Size(name=name):
                return Term(self.argument(f"size_{mangle(name)}", "size", name))
            case ParamRef(name=name, component=None):
                return Term(self.argument(f"scalar_{mangle(name)}", "scalar", name))
            case Value(name=name):
                return Term(self.argument(name, "value", name))
            case Count():
                return Term(self.argument("count", "value", "count"))
            case Load():
                return self._load(node)
            case Decay(tensor=tensor, indices=indices):
                prefix = self.argument(f"prefix_{mangle(tensor)}", "prefix", tensor)
                at = [self.plain(i) for i in indices] + [self._index("q"), self._index("k")]
                text = f"decay({prefix}, {self._alive()}, {', '.join(at)})"
                return self._keep(node, text, True)
            case Reduce():
                return self._reduce(node)
            case Op():
                return self._scaled(node) if self.scaled else self._op(node)
            case _:
                raise TypeError(f"no torch code for {type(node).__name__}")

    def _index(self, name: str) -> str:
        return self.argument(name, "index", name)

    def _alive(self) -> str:
        return self.argument("alive", "value", "alive")

    def _load(self, node: Load) -> Term:
        if node.tensor in ("Q", "K", "V"):
            own = {"Q": ("b", "h", "q"), "K": ("b", "hkv", "k"), "V": ("b", "hkv", "k")}[node.tensor]
            names = tuple(i.name if isinstance(i, Index) else "" for i in node.indices)
            if names == own or (node.tensor == "Q" and names == ("b", "h", "row")):
                return Term(self.argument(f"own_{node.tensor}", "own", node.tensor))
            tensor = self.argument(f"tensor_{node.tensor}", "tensor", node.tensor)
            at = [self.plain(i) for i in node.indices]
            if node.tensor == "Q" and names[2] != "row":
                at[2] = f"{self.terms[node.indices[2]].operand} - {self.argument('offset', 'value', 'offset')}"
        else:
            tensor = self.argument(f"input_{mangle(node.tensor)}", "tensor", node.tensor)
            at = [self.plain(i) for i in node.indices]
        return self._keep(node, f"load({', '.join([tensor, *at])})", True)

    def _reduce(self, node: Reduce) -> Term:
        rank = len(node.type.shape)
        name = "row_sum" if node.kind == "sum" else "row_mean"
        shift = self.terms[node.body].shift if rank == 0 else ()
        body = self.terms[node.body].text if shift else self.plain(node.body)
        extra = [self.argument("count", "value", "count")] if node.kind == "mean" else []
        ranks = [str(rank)] if rank else []
        text = f"{name}({', '.join([body, self._alive(), *extra, *ranks])})"
        return Term(self._name(text), shift=shift)

    def _op(self, node: Op) -> Term:
        rank = 0 if node.op in UNLIFTED else len(node.type.shape)
        if node.op == "to_float" and _is_gap(node.args[0]):
            return self._keep(node, f"gap({', '.join(self.plain(a) for a in node.args[0].children)})", True)
        args = [self._lifted(a, rank) if rank else self._operand(a) for a in node.args]
        bare = [_strip(a) for a in args]
        if node.op in ("roll", "rope"):
            bare = [self.plain(a) for a in node.args]
        if node.op == "div" and self._by_sum(node):
            return self._keep(node, f"quotient({bare[0]}, {bare[1]})", True)
        if node.op in STRICT and node.type.kind is Kind.FLOAT and not self._tame_op(node):
            call = CALLS.get(node.op, "multiply")
            return self._keep(node, f"strict_{call}({', '.join(bare)})", True)
        if node.op == "neg":
            return self._keep(node, f"-{args[0]}", False)
        if node.op in INFIX:
            return self._keep(node, f"{args[0]} {INFIX[node.op]} {args[1]}", False)
        return self._keep(node, f"{CALLS[node.op]}({', '.join(bare)})", True)

    def _lifted(self, arg: Expr, rank: int) -> str:
        missing = rank - len(arg.type.shape)
        return self._operand(arg) if missing == 0 or is_host(arg) else f"lift({self.plain(arg)}, {missing})"

    def _by_sum(self, node: Op) -> bool:
        return mentions(node.args[1], _is_reduction)

    # Tameness: finite operands give finite values and derivatives.

    def _tame_op(self, node: Op) -> bool:
        if node.op in WILD:
            return (node.op == "div" and _nonzero(node.args[1]) and self.tame(node.args[0])) or (
                node.op == "pow" and _small_power(node.args[1]) and self.tame(node.args[0])
            )
        return all(self.tame(a) for a in node.args)

    def tame(self, node: Expr) -> bool:
        """Whether the value is finite on every pair, also the invisible ones, for finite tensors."""
        known = self.known_tame.get(node)
        if known is None:
            known = self._tame(node)
            self.known_tame[node] = known
        return known

    def _tame(self, node: Expr) -> bool:
        if is_host(node) or node.type.kind is not Kind.FLOAT:
            return not (isinstance(node, Literal) and abs(float(node.value)) == float("inf"))
        if isinstance(node, Load | Value | Decay):
            return True
        if isinstance(node, Op) and node.op == "div" and self._by_sum(node):
            return all(self.tame(a) for a in node.args)
        if isinstance(node, Op) and node.op == "exp" and self.scaled and node.type.is_number:
            return self.tame(node.args[0])
        if isinstance(node, Op) and node.op in WILD:
            return self._tame_op(node)
        if isinstance(node, Reduce):
            return True
        return all(self.tame(c) for c in node.children)

    # Exponentials with their shifts.

    def _scaled(self, node: Op) -> Term:
        if not node.type.is_number or (node.type.kind is not Kind.FLOAT and node.op not in COMPARISONS):
            return self._op(node)
        terms = [self.terms[a] for a in node.args]
        if node.op == "exp":
            return self._exponential(node)
        if not any(t.shift for t in terms):
            return self._op(node)
        rule: Callable[[Op, list[Term]], Term] | None = {
            "mul": self._times, "div": self._over, "neg": self._same, "abs": self._same, "relu": self._same,
            "sign": self._sign, "add": self._aligned, "sub": self._aligned, "min": self._aligned,
            "max": self._aligned, "select": self._choice, "sqrt": self._root, "log": self._logarithm,
            **dict.fromkeys(COMPARISONS, self._compared),
        }.get(node.op)  # fmt: skip
        return self._op(node) if rule is None else rule(node, terms)

    def _exponential(self, node: Op) -> Term:
        if is_host(node.args[0]):
            return self._op(node)
        x = self.plain(node.args[0])
        x = x if x.isidentifier() else self._name(x)
        if k_side(node.args[0]):
            top = self._name(f"row_top({x}, {self._alive()})")
            return Term(self._name(f"exp_below({x}, {top}, {self._alive()})"), shift=((top, 1.0),))
        top = self._name(f"steady({x})")
        return Term(self._name(f"exp({x} - {top})"), shift=((top, 1.0),))

    def _times(self, node: Op, terms: list[Term]) -> Term:
        shift = _merge(terms[0].shift, terms[1].shift, 1.0)
        name = "*" if all(self.tame(a) for a in node.args) else None
        a, b = terms[0], terms[1]
        text = f"{a.operand} * {b.operand}" if name else f"strict_multiply({a.text}, {b.text})"
        return self._keep(node, text, name is None, shift)

    def _over(self, node: Op, terms: list[Term]) -> Term:
        shift = _merge(terms[0].shift, terms[1].shift, -1.0)
        call = "quotient" if self._by_sum(node) else "strict_divide"
        return self._keep(node, f"{call}({terms[0].text}, {terms[1].text})", True, shift)

    def _same(self, node: Op, terms: list[Term]) -> Term:
        text = f"-{terms[0].operand}" if node.op == "neg" else f"{CALLS[node.op]}({terms[0].text})"
        return self._keep(node, text, node.op != "neg", terms[0].shift)

    def _sign(self, node: Op, terms: list[Term]) -> Term:
        return self._keep(node, f"sign({terms[0].text})", True)

    def _root(self, node: Op, terms: list[Term]) -> Term:
        return self._keep(node, f"strict_sqrt({terms[0].text})", True, tuple((n, c / 2) for n, c in terms[0].shift))

    def _logarithm(self, node: Op, terms: list[Term]) -> Term:
        return self._keep(node, f"strict_log({terms[0].text}) + {_sum(terms[0].shift)}", False)

    def _align(self, terms: Sequence[Term]) -> tuple[list[Term], tuple[tuple[str, float], ...]]:
        """The same values under the largest of their shifts."""
        shifts = dict.fromkeys(t.shift for t in terms)
        if len(shifts) == 1:
            return list(terms), next(iter(shifts))
        texts = [_sum(s) if s else "0.0" for s in shifts]
        top = texts[0]
        for text in texts[1:]:
            top = self._name(f"maximum({top}, {text})")
        names = dict(zip(shifts, texts, strict=True))
        out = [Term(self._name(f"{t.operand} * exp({_minus(names[t.shift], top)})")) for t in terms]
        return out, ((top, 1.0),)

    def _aligned(self, node: Op, terms: list[Term]) -> Term:
        (a, b), shift = self._align(terms)
        if node.op in INFIX:
            return self._keep(node, f"{a.operand} {INFIX[node.op]} {b.operand}", False, shift)
        return self._keep(node, f"{CALLS[node.op]}({a.text}, {b.text})", True, shift)

    def _compared(self, node: Op, terms: list[Term]) -> Term:
        (a, b), _ = self._align(terms)
        return self._keep(node, f"{a.operand} {INFIX[node.op]} {b.operand}", False)

    def _choice(self, node: Op, terms: list[Term]) -> Term:
        (a, b), shift = self._align(terms[1:])
        return self._keep(node, f"select({terms[0].text}, {a.text}, {b.text})", True, shift)


def is_host(node: Expr) -> bool:
    """Whether the value is a number known without any tensor."""
    leaf = Index | Coord | Member | Load | Value | Reduce | Count | Decay
    return not mentions(node, lambda n: isinstance(n, leaf))


def _is_reduction(node: Expr) -> bool:
    # a scan has the value of its denominator's reduction already
    return isinstance(node, Reduce | Count) or (isinstance(node, Value) and str(node.name) == "total")


def pair_vectors(root: Expr) -> bool:
    """Whether a vector of the pair must be written out (one per query and key)."""
    return mentions(root, lambda n: not n.type.is_number and q_side(n) and k_side(n))


def _is_gap(node: Expr) -> bool:
    """Whether this is the difference of an int of the row and one of the column, or the other way round."""
    if not isinstance(node, Op) or node.op != "sub" or node.type != INT:
        return False
    a, b = node.args
    one_sided = (row_only(a) and column_only(b)) or (column_only(a) and row_only(b))
    return one_sided and q_side(node) and k_side(node)


def _nonzero(node: Expr) -> bool:
    """A divisor that is one number for the whole call (a zero one is an error of the call)."""
    return is_host(node)


def _small_power(node: Expr) -> bool:
    while isinstance(node, Op) and node.op == "to_float":
        node = node.args[0]
    return isinstance(node, Literal) and float(node.value) >= 0 and float(node.value).is_integer()


def _literal(value: bool | int | float) -> Term:
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return Term("inf" if value > 0 else "-inf", value > 0)
    text = repr(value)
    return Term(text, not text.startswith("-"))


def _strip(text: str) -> str:
    """Without the parentheses that enclose all of it."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0:
            return text[1:-1] if i == len(text) - 1 else text
    return text


def _merge(
    a: tuple[tuple[str, float], ...], b: tuple[tuple[str, float], ...], sign: float
) -> tuple[tuple[str, float], ...]:
    out = dict(a)
    for name, c in b:
        out[name] = out.get(name, 0.0) + sign * c
    return tuple(sorted((n, c) for n, c in out.items() if c != 0.0))


def _sum(shift: tuple[tuple[str, float], ...]) -> str:
    parts = [n if c == 1.0 else f"{c!r} * {n}" if c > 0 else f"({c!r}) * {n}" for n, c in shift]
    return " + ".join(parts)


def _minus(a: str, b: str) -> str:
    return f"-{b}" if a == "0.0" else f"{a} - {b}" if a.isidentifier() else f"({a}) - {b}"
