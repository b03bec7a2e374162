"""Random index expressions and masks, written as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import strategies as st

from tests.spec import InputSpec

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[Any]], Any]
LENGTHS = (1, 2, 3, 5, 16, 17, 31, 33, 64, 65, 100, 127, 129, 190, 0)


@dataclass(frozen=True)
class Pair:
    """A coordinate of q and the one of k that belongs to it, in `[0, extent)`; `size` is the extent's text."""

    q: str
    k: str
    extent: int
    size: str


@dataclass
class Writer:
    """A program being written: its parameters so far and the sizes of its call."""

    draw: Draw
    sizes: dict[str, int]
    parameters: dict[str, str] = field(default_factory=dict)
    consts: dict[str, Any] = field(default_factory=dict)
    scalars: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, InputSpec] = field(default_factory=dict)
    uses: set[str] = field(default_factory=set)
    functions: list[str] = field(default_factory=list)
    features: list[str] = field(default_factory=list)
    limit: int = 100_000
    """The most pairs over batches and heads."""
    tables_by_position: bool = True
    """Whether inputs along L may be read."""

    def resize(self, lengths: dict[str, int]) -> None:
        """Set the lengths; with fewer batches and heads where the pairs are too many."""
        z = self.sizes
        z |= lengths
        pairs = z["Lq"] * z["Lk"]
        if z["B"] * z["H"] * pairs > self.limit:
            z["B"] = 1
        if z["H"] * pairs > self.limit:
            z["H"] = z["Hkv"]

    def pick(self, options: Sequence[T]) -> T:
        return self.draw(st.sampled_from(options))

    def chance(self, percent: int) -> bool:
        return self.draw(st.integers(1, 100)) > 100 - percent

    def int(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, max(low, high)))

    def name(self, stem: str) -> str:
        return f"{stem}{sum(n.startswith(stem) for n in self.parameters)}"

    def const(self, kind: str, value: Any) -> str:
        name = self.name("con")
        self.parameters[name] = f"const {name}: {kind}"
        self.consts[name] = value
        return name

    def scalar(self, kind: str, value: Any) -> str:
        name = self.name("run")
        self.parameters[name] = f"scalar {name}: {kind}"
        self.scalars[name] = value
        return name

    def input(self, dtype: str, dims: str, fill: str, top: float = 1.0, facts: str = "") -> str:
        """Declare an input of these dims ("B, L"); a fresh size is written `name=extent`."""
        name = self.name("inp")
        sizes = {**self.sizes}
        words = [d.strip() for d in dims.split(",")]
        shape: list[int] = []
        for i, word in enumerate(words):
            label, _, extent = word.partition("=")
            words[i] = label
            shape.append(int(extent) if extent else int(label) if label.isdigit() else sizes[label])
        self.parameters[name] = f"input {name}: {dtype}[{', '.join(words)}]{' ' + facts if facts else ''}"
        self.inputs[name] = InputSpec(name, dtype, tuple(shape), fill, top)
        return name

    # numbers in masks

    def number(self, low: int, high: int) -> str:
        """A whole number that is mostly a literal, sometimes a const, a scalar or one per head."""
        value = self.int(low, high)
        how = self.int(0, 9)
        if how == 7:
            return self.const("int", value)
        if how == 8:
            return self.scalar("int", value)
        if how == 9:
            return f"{self.input('i32', 'H', 'ints', max(low, high))}[h]"
        return str(value)

    def divisor(self, high: int) -> str:
        """A divisor; one from a tensor may be 0."""
        value = self.int(1, max(1, high))
        how = self.int(0, 11)
        if how == 9:
            return self.const("int", value)
        if how == 10:
            return self.scalar("int", value)
        if how == 11:
            return f"{self.input('i32', 'H', 'ints', 5)}[h]"
        return str(value)

    def width(self, pair: Pair) -> str:
        """A distance that is neither nothing nor everything, mostly."""
        return self.number(1, max(1, pair.extent * 3 // 5))

    # index expressions

    def index(self, pairs: Sequence[Pair], depth: int) -> str:
        """A random whole-number expression of positions."""
        pair = self.pick(pairs)
        if depth == 0 or self.chance(25):
            leaves = [pair.q, pair.k, "num", "h", "size"]
            if self.tables_by_position and pair.q == "q":
                leaves.append("table")
            leaf = self.pick(leaves)
            if leaf == "num":
                return self.number(0, pair.extent)
            if leaf == "size":
                return pair.size
            if leaf == "table":
                return f"{self.input('i32', 'B, L', 'ints', pair.extent)}[b, {self.pick(['q', 'k'])}]"
            return leaf
        a = self.index(pairs, depth - 1)
        form = self.int(0, 11)
        if form <= 2:
            return f"({a} {self.pick(['+', '-'])} {self.index(pairs, depth - 1)})"
        if form == 3:
            return f"{a} * {self.int(0, 4)}"
        if form == 4:
            return f"({a} // {self.divisor(pair.extent // 2)})"
        if form == 5:
            return f"({a} % {self.divisor(pair.extent // 2)})"
        if form == 6:
            return f"{self.pick(['min', 'max'])}({a}, {self.index(pairs, depth - 1)})"
        if form == 7:
            return f"abs({a})"
        if form == 8:
            low = self.int(0, pair.extent // 2)
            return f"clamp({a}, {low}, {low + self.int(0, pair.extent)})"
        if form == 9:
            condition = f"{a} {self.comparison()} {self.index(pairs, depth - 1)}"
            return f"(if {condition} then {self.index(pairs, depth - 1)} else {self.index(pairs, depth - 1)})"
        if form == 10:
            return f"bitlen({a})"
        return f"-({a})"

    def comparison(self) -> str:
        return self.pick(["<=", "<", ">=", ">", "==", "!="])

    # masks

    def mask(self, pairs: Sequence[Pair], depth: int = 2) -> str:
        """A random condition on pairs of positions."""
        if depth == 0 or self.chance(30):
            return self.atom(pairs)
        form = self.int(0, 9)
        left = self.mask(pairs, depth - 1)
        if form <= 4:
            return f"({left}) and ({self.mask(pairs, depth - 1)})"
        if form <= 7:
            return f"({left}) or ({self.mask(pairs, depth - 1)})"
        if form == 8:
            return f"not ({left})"
        which = self.int(0, 3)
        flag = f"{self.input('bool', 'H', 'flags', 0.5)}[h]" if which == 2 else ""
        condition = ("h == 0", "h % 2 == 0", flag, left)[which]
        return f"if {condition} then {self.mask(pairs, depth - 1)} else {self.mask(pairs, depth - 1)}"

    def atom(self, pairs: Sequence[Pair]) -> str:
        p = self.pick(pairs)
        x, y, n = p.q, p.k, p.extent
        forms: list[Callable[[], str]] = [
            lambda: f"{y} <= {x}",
            lambda: f"abs({x} - {y}) <= {self.width(p)}",
            lambda: f"0 <= {x} - {y} < {self.width(p)}",
            lambda: f"{x} // {(c := self.divisor(n // 2))} == {y} // {c}",
            lambda: f"{x} % {(c := self.divisor(6))} == {y} % {c}",
            lambda: f"({x} - {y}) % {self.divisor(6)} == {self.int(0, 2)}",
            lambda: f"{y} // {(c := self.divisor(n // 2))} <= {x} // {c}",
            lambda: f"{y} < {self.number(1, n // 2 + 1)}",
            lambda: f"{x} - {y} <= {self.width(p)} * (h + 1)",
            lambda: self.neighborhood(p),
            lambda: self.per_token(p),
            lambda: f"{x} + {y} {self.pick(['<', '>='])} {self.number(n // 2, n + n // 2)}",
            lambda: f"ispow2({x} - {y})",
            lambda: f"bitlen({x} - {y}) <= {self.int(1, 6)}",
            lambda: f"{y} {self.pick(['<=', '>='])} {x} * {self.int(1, 3)} // {self.int(1, 3)} + {self.int(0, 5)}",
            lambda: f"{self.index(pairs, 2)} {self.comparison()} {self.index(pairs, 2)}",
            lambda: f"{self.index(pairs, 1)} {self.comparison()} {self.index(pairs, 1)}",
            lambda: f"({x} * {y}) % {self.int(2, 7)} == {self.int(0, 1)}",
            lambda: self.crossed(pairs),
            lambda: self.real(p),
        ]
        return self.pick(forms)()

    def real(self, p: Pair) -> str:
        """A condition with floats, on no boundary that rounding could move."""
        x, y, n = p.q, p.k, p.extent
        width = self.int(0, max(1, n // 2)) + 0.25
        form = self.int(0, 4)
        if form == 0:
            return f"abs({x} - {y}) <= {self.scalar('float', width)}"
        if form == 1:
            return f"{x} - {y} < {self.input('f32', 'H', 'positive', max(1.0, n / 2))}[h]"
        if form == 2:
            return f"{self.pick(['floor', 'ceil'])}({x} * {self.pick(['0.5', '1.5', '0.25'])}) >= {y}"
        if form == 3:
            return f"{self.pick(['0.5', '2.0'])} * {x} + {width} > {y}"
        return f"(if {y} > {x} then 0.5 else {width}) * abs({x} - {y}) <= {width}"

    def crossed(self, pairs: Sequence[Pair]) -> str:
        """A condition that joins two axes."""
        p, r = self.pick(pairs), self.pick(pairs)
        if p == r:
            return f"{p.k} <= {p.q}"
        total = self.number(0, (p.extent + r.extent) // 2)
        return self.pick([
            f"abs({p.q} - {p.k}) + abs({r.q} - {r.k}) <= {total}",
            f"({p.q} - {p.k})^2 + ({r.q} - {r.k})^2 <= {self.int(0, (p.extent + r.extent) ** 2 // 8)}",
            f"{p.k} < {p.q} or ({p.k} == {p.q} and {r.k} <= {r.q})",
        ])  # fmt: skip

    def neighborhood(self, p: Pair) -> str:
        """`neighborhood` of the standard library, window and dilation within the axis."""
        if p.extent == 0:
            return f"{p.k} <= {p.q}"
        self.uses.add("neighborhood")
        dilation = self.int(1, max(1, min(3, p.extent // 2)))
        window = self.int(1, max(1, p.extent // dilation))
        stride = self.int(1, window)
        is_causal = self.pick(["false", "true"])
        return f"neighborhood({p.q}, {p.k}, {p.size}, {window}, {stride}, {dilation}, {is_causal})"

    def per_token(self, p: Pair) -> str:
        """A condition on run-time tensors along L."""
        if not self.tables_by_position or p.q != "q":
            return f"{p.k} <= {p.q}"
        form = self.int(0, 6)
        if form == 4:
            name = self.input("i32", "H, L", "permutation", facts="permutation")
            return f"abs({name}[h, q] - {name}[h, k]) <= {self.width(p)}"
        if form == 5:
            return f"q - k <= {self.input('i64', 'B, H, Lq', 'ints', p.extent // 2)}[b, h, q]"
        if form == 6:
            name = self.input("i32", "L", "sorted", self.int(1, 6), facts="sorted")
            return f"{name}[q] == {name}[k] and k <= q"
        if form <= 1:
            name = self.input("i32", "B, L", "sorted", self.int(1, 6), facts="sorted")
            return f"{name}[b, q] {'==' if form == 0 else '>='} {name}[b, k]"
        if form == 2:
            name = self.input("i32", "B, L", "signed", self.int(2, 40))
            return f"abs({name}[b, q] - {name}[b, k]) <= {self.int(0, 20)}"
        return f"{self.input('bool', 'B, L', 'flags', 0.6)}[b, k]"

    # programs

    def forget_unused(self, clauses: Sequence[str]) -> None:
        """Drop the parameters that were declared for text that is in no clause."""
        used = set(re.findall(r"\w+", " ".join(clauses)))
        for declared in (self.parameters, self.consts, self.scalars, self.inputs):
            for name in set(declared) - used:
                del declared[name]
        self.uses &= used

    def program(self, clauses: Sequence[str], name: str = "drawn") -> str:
        """The text, from its clauses."""
        lines = [f"use masks ({', '.join(sorted(self.uses))})"] if self.uses else []
        lines += self.functions
        body = "\n".join(f"    {c}" for c in clauses)
        arguments = ", ".join(self.parameters.values())
        head = f"attention {name}({arguments})" if arguments else f"attention {name}"
        return "\n".join([*lines, f"{head} {{", body, "}"]) + "\n"
