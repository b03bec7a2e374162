"""Gradients of inputs: which reads have one, which kernel sums it, and where it goes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from attndsl.codegen.expr_triton import Level, Printer, Reads, Scope, input_name, level
from attndsl.codegen.triton_arguments import Argument
from attndsl.ir.channels import components_in
from attndsl.ir.expr import Expr, Index, Load, walk
from attndsl.ir.types import Kind


@dataclass(frozen=True)
class Slot:
    """The gradient of one read of an input, summed by one kernel.

    `level`: what its indices vary with (rows are queries). `direct`: every index is a different one of b, h, hkv and
    the position, so that sums go to a place of their own in `g<number>` (`[B, H]` for every tile, `[B, H, row]` or
    `[B, H, key]`; a vector's components last). Otherwise they are added to the input's elements atomically.
    """

    number: int
    load: Load
    level: Level
    direct: bool
    vector: bool = False

    @property
    def name(self) -> str:
        """Of the running sum, and of the argument where it is `direct`."""
        return f"g{self.number}"

    @property
    def target(self) -> str:
        """The argument that it is stored to."""
        return f"{self.name}_sums" if self.direct else f"grad_{input_name(self.load.tensor)}"


@dataclass
class Slots:
    """The slots of one kernel, in order of their first use."""

    wanted: Collection[str]
    ranks: dict[str, int]
    batch_offset: bool
    found: dict[Load, Slot] = field(default_factory=dict[Load, Slot])

    def of(
        self, expressions: Sequence[Expr], levels: Collection[Level], moves: Callable[[Load], bool] = lambda _: True
    ) -> list[Slot]:
        """Those of the reads in some expressions whose indices vary like this and that move a value: one that is only
        compared has no gradient."""
        loads = dict.fromkeys(n for e in expressions for n in walk(e) if isinstance(n, Load))
        return [self._slot(n) for n in loads if self._counts(n) and index_level(n) in levels and moves(n)]

    def _counts(self, load: Load) -> bool:
        return load.tensor in self.wanted and load.type.kind is Kind.FLOAT and not components_in(load)

    def component(self, load: Load) -> Slot:
        """That of a read at the number of a component, which several pairs and programs add to."""
        return self.found.setdefault(load, Slot(len(self.found), load, Level.PAIR, direct=False))

    def _slot(self, load: Load) -> Slot:
        known = self.found.get(load)
        if known is None:
            own = index_level(load)
            vector = self.ranks[load.tensor] > len(load.indices)
            known = Slot(len(self.found), load, own, self._direct(load, own), vector)
            self.found[load] = known
        return known

    def _direct(self, load: Load, own: Level) -> bool:
        names = [i.name for i in load.indices if isinstance(i, Index)]
        if len(names) < len(load.indices) or len(set(names)) < len(names) or {"h", "hkv"} <= set(names):
            return False
        places = {"row", "q", "k"} & set(names)
        if "q" in places and self.batch_offset:
            return False
        return own is not Level.PAIR and len(places) == int(own is not Level.UNIFORM)

    @property
    def listed(self) -> list[Slot]:
        return list(self.found.values())

    def arguments(self, deterministic: bool) -> list[Argument]:
        """Where the sums go. In fixed point an element is two int64 (units of 2^-20 and 2^-60), and one float for what
        is not finite."""
        found: dict[str, Argument] = {}
        for s in self.listed:
            if s.direct:
                found[s.target] = Argument(s.target, "*fp32", "sums", (s.number,))
                continue
            name = s.load.tensor
            type_ = "*i64" if deterministic else "*fp32"
            found[s.target] = Argument(s.target, type_, "gradient", (name,))
            if deterministic:
                found[s.target + "_rest"] = Argument(s.target + "_rest", "*fp32", "gradient rest", (name,))
                found[s.target + "_size"] = Argument(s.target + "_size", "i64", "gradient size", (name,))
        return list(found.values())


def index_level(load: Load) -> Level:
    """What the place of a read varies with, where rows are queries."""
    found = 0
    for i in load.indices:
        found |= int(level(i))
    return Level(found)


def element_of(load: Load, printer: Printer, reads: Reads, component: str = "", limit: str = "") -> tuple[str, str]:
    """The number of the element that is read in a contiguous tensor, and the condition that it is inside one."""
    name = input_name(load.tensor)
    reads.inputs[load.tensor] = None
    terms: list[str] = []
    inside: list[str] = []
    indices = [printer.print(i) for i in load.indices] + ([component] if component else [])
    for n, text in enumerate(indices):
        inner = "".join(f" * {name}_n{j}" for j in range(n + 1, len(indices)))
        whole = f"({text})" if " " in text else text
        wide = whole if whole.isdigit() else f"{whole}.to(tl.int64)" if reads.wide and inner else whole
        terms.append(f"{wide}{inner}")
        inside += [f"({text} >= 0)", f"({text} < {name}_n{n})"]
    return " + ".join(terms) or "0", " & ".join([*inside, *([limit] if limit else [])])


def scope_lines(scope: Scope, prefix: str) -> list[str]:
    """The statements made so far; later ones get names with another prefix."""
    lines, scope.lines = scope.lines, []
    scope.prefix = prefix
    return lines
