"""Functions of a generated module that a scan calls: features of a block of rows or keys, decays, the denominator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attndsl.codegen.names import Function
from attndsl.ir.expr import Decay, Expr, Index, Load, Reduce, Value, rewrite
from attndsl.ir.types import INT
from attndsl.schedule.legalise import ScanForm

ROW, COLUMN = "spot_q", "spot_k"
"""Where a row and a key stand in the tensors of the call; with a state these are not their positions."""


@dataclass(frozen=True)
class ScanFunctions:
    """`query`, `key` and `z_query`, `z_key` are vectors; `base` and `log` numbers of a head; `tokens` and `channels`
    what decays at a position; `segments` ints of a position; `denominator` a number of `total`, its sum's value."""

    query: Function
    key: Function
    base: Function | None
    log: Function | None
    tokens: tuple[Function, ...]
    channels: tuple[Function, ...]
    segments: tuple[Function, ...]
    z_query: Function | None
    z_key: Function | None
    denominator: Function | None
    output: Function | None

    @property
    def functions(self) -> tuple[Function, ...]:
        every = (self.query, self.key, self.base, self.log, *self.tokens, *self.channels, *self.segments)
        return tuple(f for f in (*every, self.z_query, self.z_key, self.denominator, self.output) if f is not None)


def scan_functions(form: ScanForm) -> ScanFunctions:
    """The functions of a form."""
    w, n = form.weight, form.weight.normaliser
    moved = form.elsewhere is None
    other = n is not None and n.node is not None and not n.own

    def local(expr: Expr) -> Expr:
        return _local(expr) if moved else expr

    def gate(decay: Decay) -> Expr:
        return Load(decay.type, decay.tensor, (*decay.indices, Index(INT, "k")))

    def made(name: str, doc: str, expr: Expr | None) -> Function | None:
        return None if expr is None else _function(f"scan_{name}", doc, local(expr))

    def several(name: str, doc: str, exprs: tuple[Expr, ...]) -> tuple[Function, ...]:
        return tuple(_function(f"scan_{name}{i}", doc, local(e)) for i, e in enumerate(exprs))

    return ScanFunctions(
        query=_function("scan_query", "The features of a query.", local(w.query)),
        key=_function("scan_key", "The features of a key.", local(w.key)),
        base=made("base", "What a head keeps from one position to the next.", w.decay.base),
        log=made("log", "The logarithm of what a head keeps from one position to the next.", w.decay.log),
        tokens=several("token", "The logarithm of what a position keeps.", tuple(map(gate, w.decay.token))),
        channels=several("channel", "The same by feature.", tuple(map(gate, w.decay.channel))),
        segments=several("segment", "The segment of a position.", form.segments),
        z_query=made("z_query", "The features of a query in the denominator.", n.query if other and n else None),
        z_key=made("z_key", "The features of a key in the denominator.", n.key if other and n else None),
        denominator=made("denominator", "The denominator, from its sum.", _from_total(n.whole) if n else None),
        output=made("output", "The output from the weighted sum of values o.", form.output),
    )


def _function(name: str, doc: str, expr: Expr) -> Function:
    from attndsl.codegen.expr_torch import Body

    body = Body("x").add(expr)
    return Function(name, doc, tuple(body.arguments.values()), tuple(body.lines), body.results[0])


def _value(name: str, like: Any) -> Value:
    return Value(like, name)  # pyright: ignore[reportArgumentType]


def _from_total(expr: Expr) -> Expr:
    return rewrite(expr, lambda n: _value("total", n.type) if isinstance(n, Reduce) else None)


def _local(expr: Expr) -> Expr:
    """The same with tensors along the sequence read where the row or key stands in the call."""
    places: dict[Expr, Expr] = {Index(INT, "q"): _value(ROW, INT), Index(INT, "k"): _value(COLUMN, INT)}

    def rule(node: Expr) -> Expr | None:
        if not isinstance(node, Load) or node.tensor in ("Q", "K", "V"):
            return None
        return node.with_children(tuple(places.get(i, i) for i in node.indices))

    return rewrite(expr, rule)
