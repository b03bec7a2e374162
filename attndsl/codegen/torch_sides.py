"""What is computed once a position as torch statements of a module that runs by itself: vectors, numbers, features.

The code is that which `attndsl.runtime.sides` would run, written out: numbers are [batch, heads, positions], each
dimension full or 1, and vectors have their components behind. Everything is differentiable by torch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from attndsl.ir.evaluate import Env, UnboundError, evaluate
from attndsl.ir.expr import Count, Expr, Index, Literal, Load, Op, ParamRef, Size, Value, walk
from attndsl.ir.free import depends
from attndsl.ir.products import bare, times
from attndsl.ir.types import INT, Kind

INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "eq": "==", "ne": "!=", "and": "&", "or": "|",
}  # fmt: skip
CALLS = {
    "abs": "torch.abs", "sign": "torch.sign", "exp": "torch.exp", "log": "torch.log", "sqrt": "torch.sqrt",
    "tanh": "torch.tanh", "sigmoid": "torch.sigmoid", "relu": "torch.relu", "elu": "torch.nn.functional.elu",
    "silu": "torch.nn.functional.silu", "gelu": "torch.nn.functional.gelu",
    "softplus": "torch.nn.functional.softplus", "erf": "torch.erf", "sin": "torch.sin", "cos": "torch.cos",
    "acos": "torch.acos", "atan2": "torch.atan2", "min": "torch.minimum", "max": "torch.maximum",
    "select": "torch.where", "floordiv": "floordiv", "mod": "mod", "bitlen": "bitlen", "concat": "concatenated",
    "outer": "outer", "distinct": "distinct", "matmul": "matmul", "roll": "roll", "rope": "rope",
    "rmsnorm": "rmsnorm",
}  # fmt: skip
HELPERS = frozenset(n for n in CALLS.values() if "." not in n)
"""Functions that the module must hold."""
_VECTOR = frozenset(("concat", "outer", "distinct", "matmul", "roll", "rope", "rmsnorm"))
"""Operations whose arguments keep their dimensions."""
_BINDING = {
    "or": 1, "and": 1, "lt": 0, "le": 0, "gt": 0, "ge": 0, "eq": 0, "ne": 0, "add": 2, "sub": 2, "mul": 3, "div": 3,
    "neg": 4, "not": 4, "pow": 5,
}  # fmt: skip
_ATOM = 9
LINE = 84

Constant = bool | int | float


@dataclass(frozen=True)
class Text:
    """The code of a value. `known`: it is this number for every call."""

    code: str
    binds: int = _ATOM
    known: Constant | None = None

    def within(self, level: int) -> str:
        """As an operand of something that binds like this."""
        return self.code if self.binds > level else f"({self.code})"


@dataclass
class Statements:
    """The statements of one function, and the helpers that they call. `sizes` are numbers that no call changes;
    `shapes` the dimensions of inputs that are such numbers."""

    sizes: Mapping[str, int]
    shapes: Mapping[str, Sequence[int | None]]
    kinds: Mapping[str, Kind]
    lines: list[str] = field(default_factory=list[str])
    helpers: set[str] = field(default_factory=set[str])
    made: set[str] = field(default_factory=set[str])

    def assign(self, name: str, code: str) -> str:
        """Give a value a name."""
        self.lines.append(f"{name} = {code}")
        return name

    def helper(self, name: str) -> str:
        """A function of the module."""
        self.helpers.add(name)
        return name

    def once(self, name: str, code: str) -> str:
        """A value under a name of its own, computed where it is first used."""
        if name not in self.made:
            self.made.add(name)
            self.assign(name, code)
        return name


@dataclass
class SideCode:
    """Expressions of the row or of the key: `heads` is `H`, or `Hkv` for what depends on the key head alone, `places`
    the length of the side, which starts at position `offset`. Names of values begin with `prefix`. `values` are
    expressions whose code is known."""

    body: Statements
    prefix: str
    heads: str
    places: int
    offset: int = 0
    dtype: str = "float"
    position: str = ""
    """The code of where a state ends, which the first row follows; tensors along the sequence hold the rows' own."""
    arrays: frozenset[str] = frozenset()
    values: dict[Expr, Text] = field(default_factory=dict[Expr, Text])
    uses: Counter[Expr] = field(default_factory=Counter[Expr])
    seen: set[Expr] = field(default_factory=set[Expr])
    count: int = 0

    def expect(self, *roots: Expr) -> None:
        """Announce expressions, so that what they share is computed once."""
        for root in dict.fromkeys(roots):
            for node in walk(root):
                if node not in self.seen:
                    self.seen.add(node)
                    self.uses.update(node.children)
            self.uses[root] += 1

    def tensor(self, e: Expr) -> str:
        """The code of an expression as a tensor."""
        return self._tensor(self.value(e))

    def value(self, e: Expr) -> Text:
        """The code of an expression. Indices are not made where nothing is gathered."""
        stack = [e]
        while stack:
            node = stack[-1]
            if node in self.values:
                stack.pop()
                continue
            found = self._direct(node) if isinstance(node, Load) else None
            missing = [] if found is not None else [c for c in self._parts(node) if c not in self.values]
            if missing:
                stack.extend(reversed(missing))
            else:
                self.values[node] = self._kept(node, found or self._term(node))
        return self.values[e]

    def narrowed(self, e: Expr) -> str:
        """A vector in q's type, its parts rounded where they stand side by side or are multiplied."""
        if isinstance(e, Op):
            inner, numbers = bare(e)
            match inner:
                case Op(op="concat", args=args):
                    return self._call("concatenated", *(self.narrowed(times(x, numbers)) for x in args))
                case Op(op="outer", args=(a, b)):
                    return self._call("outer", self.narrowed(times(a, numbers)), self.narrowed(b))
                case Op(op="distinct", args=(a,)):
                    return self._call("distinct", self.narrowed(times(a, numbers)), self.narrowed(a))
                case _:
                    pass
        return f"{self.value(e).within(_ATOM - 1)}.to(q.dtype)"

    def _parts(self, e: Expr) -> tuple[Expr, ...]:
        own = isinstance(e, Load) and e.tensor in ("Q", "K", "V")
        return () if own else e.children

    def _kept(self, e: Expr, found: Text) -> Text:
        """A value used more than once, or a long one, gets a name."""
        if found.known is not None or found.code.isidentifier():
            return found
        if self.uses[e] < 2 and len(found.code) <= LINE:
            return found
        self.count += 1
        return Text(self.body.assign(f"{self.prefix}{self.count}", found.code))

    def _call(self, name: str, *args: str) -> str:
        return f"{self.body.helper(name)}({', '.join(args)})"

    def _tensor(self, text: Text) -> str:
        if text.known is None:
            return text.code
        return self._call("number", text.code, "q")

    # Leaves

    def _term(self, node: Expr) -> Text:
        match node:
            case Literal(value=value):
                return constant(value)
            case Size(name=name):
                known = self.body.sizes.get(name)
                return Text(self._call("number", f'sizes["{name}"]', "q")) if known is None else constant(known)
            case ParamRef(name=name, component=None):
                return Text(self._call("number", f'scalars["{name}"]', "q"))
            case Index(name=name):
                return Text(self._index(name))
            case Load():
                return self._load(node)
            case Op():
                return self._op(node)
            case Count() | Value():
                raise TypeError(f"no value was given for {node}")
            case _:
                raise TypeError(f"no value of one side for {type(node).__name__}")

    def _index(self, name: str) -> str:
        def along(code: str, shape: str) -> str:
            return f"torch.arange({code}, device=q.device).reshape({shape})"

        once = self.body.once
        match name:
            case "b":
                return once("at_b", along("B", "-1, 1, 1"))
            case "h":
                return once("at_h", along("H", "1, -1, 1"))
            case "hkv" if self.heads == "H":
                return f"({self._index('h')} // (H // Hkv))"
            case "hkv":
                return once("at_hkv", along("Hkv", "1, -1, 1"))
            case "row":
                return once("at_row", along(str(self.places), "1, 1, -1"))
            case _:
                name = f"at_{self.places}" if not self.offset else f"at_{self.offset}_{self.places}"
                limits = f"{self.offset}, {self.offset + self.places}" if self.offset else str(self.places)
                end = f" + {self.position}" if self.position else ""
                return once(name, along(limits, "1, 1, -1") + end)

    # Reads

    def _read(self, name: str) -> str:
        if name in ("Q", "K", "V"):
            return f"{name.lower()}.{self.dtype}()"
        kind = self.body.kinds[name]
        made = {Kind.FLOAT: f".{self.dtype}()", Kind.INT: ".long()", Kind.BOOL: ""}[kind]
        return f'inputs["{name}"]{made}'

    def _load(self, node: Load) -> Text:
        read = self._read(node.tensor)
        if node.tensor in ("K", "V") and self.heads == "H":
            return Text(self.body.once(f"{node.tensor.lower()}_of_heads", f"{read}.repeat_interleave(H // Hkv, 1)"))
        if node.tensor in ("Q", "K", "V"):
            return Text(read)
        if not node.indices:
            return Text(f"{read}[None, None, None]")
        at = [self._tensor(self.values[i]) for i in node.indices]
        if self.position and node.tensor not in self.arrays:
            moves = [bool(depends(i) & {"q", "k"}) for i in node.indices]
            at = [f"{code} - {self.position}" if m else code for code, m in zip(at, moves, strict=True)]
        return Text(self._call("gathered", read, f"[{', '.join(at)}]"))

    def _direct(self, node: Load) -> Text | None:
        """A read at the row's own indices without gathering: dimensions in the order batch, head, position."""
        places = {"b": 0, "h": 1, "hkv": 1, "q": 2, "k": 2, "row": 2}
        if node.tensor in ("Q", "K", "V") or not node.indices:
            return None
        if not all(isinstance(i, Index) for i in node.indices):
            return None
        names = [i.name for i in node.indices if isinstance(i, Index)]
        order = [places[n] for n in names]
        if order != sorted(set(order)):
            return None
        text = self._read(node.tensor)
        subscript: dict[int, str] = dict.fromkeys(order, ":")
        for i, n in enumerate(names):
            extent = self.body.shapes[node.tensor][i]
            if places[n] == 2:
                start = 0 if n == "row" else self.offset
                if extent is None or extent < start + self.places or start < 0:
                    return None
                if (start, extent) != (0, self.places):
                    subscript[2] = f"{start}:{start + self.places}" if start else f":{self.places}"
            elif n == "hkv" and self.heads == "H":
                text = f"{text}.repeat_interleave(H // Hkv, {i})"
        parts = [subscript.get(p, "None") for p in range(3)]
        return Text(text if parts == [":"] * 3 else f"{text}[{', '.join(parts)}]")

    # Operations

    def _op(self, node: Op) -> Text:
        args = [self.values[a] for a in node.args]
        if all(a.known is not None for a in args) and (found := folded(node, args)) is not None:
            return constant(found)
        if node.op in ("to_float", "to_int"):
            return Text(f"{args[0].within(_ATOM - 1)}.{self.dtype if node.op == 'to_float' else 'long'}()")
        if (reduced := _REDUCED.get(node.op)) is not None:
            return Text(reduced.format(*(a.within(3) for a in args)))
        if node.op in _VECTOR:
            return Text(self._call(CALLS[node.op], *map(self._tensor, args)))
        rank = len(node.type.shape)
        args = [self._lifted(a, e, rank) for a, e in zip(args, node.args, strict=True)]
        if all(a.known is not None for a in args):
            args = [Text(self._tensor(a)) for a in args]
        return self._elementwise(node.op, args)

    def _elementwise(self, name: str, args: list[Text]) -> Text:
        level = _BINDING.get(name, _ATOM)
        if name in ("neg", "not"):
            return Text(f"{'-' if name == 'neg' else '~'}{args[0].within(level - 1)}", level)
        if name in INFIX:
            left = args[0].within(level if level in (0, 1, 5) else level - 1)
            return Text(f"{left} {INFIX[name]} {args[1].within(level if level != 5 else _ATOM - 1)}", level)
        if name in ("floor", "ceil"):
            return Text(f"torch.{name}({args[0].code}).long()")
        if name == "ispow2":
            n = args[0].within(5)
            return Text(f"({n} > 0) & ({n} & ({n} - 1) == 0)", 1)
        if name in ("floordiv", "mod") and args[1].known:
            if name == "mod":
                return Text(f"{args[0].within(2)} % {args[1].code}", 3)
            return Text(f'torch.div({args[0].code}, {args[1].code}, rounding_mode="floor")')
        call = CALLS[name]
        if call in HELPERS:
            self.body.helper(call)
        return Text(f"{call}({', '.join(map(self._tensor, args))})")

    def _lifted(self, text: Text, e: Expr, rank: int) -> Text:
        missing = rank - len(e.type.shape)
        if text.known is not None or missing == 0:
            return text
        return Text(f"{text.within(_ATOM - 1)}[{', '.join(['...', *['None'] * missing])}]")


_REDUCED = {
    "dot": "({0} * {1}).sum(-1)",
    "norm": "torch.linalg.vector_norm({0}, dim=-1)",
    "total": "({0}).sum(-1)",
    "amax": "({0}).amax(-1)",
    "vsoftmax": "torch.softmax({0}, -1)",
}


def constant(value: Constant) -> Text:
    """A number as Python writes it."""
    if isinstance(value, float) and not math.isfinite(value):
        return Text(f'float("{value}")', known=value)
    text = repr(value)
    return Text(text, 4 if text.startswith("-") else _ATOM, value)


def folded(node: Op, args: Sequence[Text]) -> Constant | None:
    """The number that an operation on numbers gives; None where there is none."""
    literals = tuple(Literal(e.type, a.known) for e, a in zip(node.args, args, strict=True) if a.known is not None)
    try:
        found = evaluate(Op(node.type, node.op, literals), Env({}))
    except (UnboundError, ArithmeticError, ValueError):
        return None
    if node.type.shape or not math.isfinite(float(found)):
        return None
    return {Kind.BOOL: bool, Kind.INT: int, Kind.FLOAT: float}[node.type.kind](found)


def size_names(*expressions: Expr) -> set[str]:
    """The sizes that expressions read."""
    return {n.name for e in expressions for n in walk(e) if isinstance(n, Size) and n.type == INT}
