"""What is known about a call before any tensor is read: sizes, scalars, extents, and the conditions on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from attndsl.ir.attention import Attention
from attndsl.ir.evaluate import Env, UnboundError, evaluate
from attndsl.ir.expr import Expr, Extent, Literal, Op, ParamRef, Size, walk
from attndsl.ir.precondition import said, with_values
from attndsl.ir.types import INT, Type
from attndsl.runtime.names import show_dim

Number = bool | int | float


@dataclass(frozen=True, eq=False)
class Facts:
    """The host's numbers of a call."""

    sizes: Mapping[str, int]
    scalars: Mapping[str, Number]
    q_extents: Mapping[str, tuple[int, ...]]
    k_extents: Mapping[str, tuple[int, ...]]


def host_env(attention: Attention, facts: Facts) -> Env:
    """An environment in which expressions over sizes, scalars and extents have values."""
    values: dict[Expr, Number] = {Size(INT, name): n for name, n in facts.sizes.items()}
    for scalar in attention.scalars:
        if scalar.name in facts.scalars:
            values[ParamRef(Type(scalar.kind), scalar.name)] = facts.scalars[scalar.name]
    for side, space, extents in (
        ("q", attention.q_space, facts.q_extents),
        ("k", attention.k_space, facts.k_extents),
    ):
        for segment in space.segments if space is not None else ():
            for axis, n in zip(segment.axes, extents.get(segment.name, ()), strict=False):
                values[Extent(INT, "q" if side == "q" else "k", segment.name, axis)] = n
    return Env(values)


def check_conditions(attention: Attention, facts: Facts) -> None:
    """ValueError for a `require` that fails and for a divisor that is zero; conditions on numbers that are not known
    (scalars and sizes that were not given) are left alone."""
    conditions = _conditions(attention)
    if not conditions.requires and not conditions.divisors:
        return
    env = host_env(attention, facts)
    for require in attention.requires:
        try:
            holds = bool(evaluate(require.condition, env))
        except UnboundError:
            continue
        if not holds and require.of is not None:
            text = said(require, require.of)
            raise ValueError(f"{attention.name}: {text}{with_values(require.of, env)}")
        if not holds:
            text = require.condition.span.text
            written = f"required: {text}"
            message = f"{require.message} ({written})" if require.message and text else require.message or written
            raise ValueError(f"{attention.name}: {message}{_with_values(require.condition, env)}")
    for node in conditions.divisors:
        try:
            divisor = evaluate(node.args[1], env)
        except UnboundError:
            continue
        if divisor == 0:
            word = "modulo" if node.op == "mod" else "division"
            text = f" in {node.span.text!r}" if node.span.text else ""
            raise ValueError(f"{attention.name}: {word} by zero{text}{_with_values(node.args[1], env)}")


def _with_values(expr: Expr, env: Env) -> str:
    """`, where window = 3`: the numbers that decided a condition."""
    shown: dict[str, Number] = {}
    for node in walk(expr):
        match node:
            case ParamRef(name=name) | Size(name=name):
                shown[name] = env.values[node]
            case Extent(axis=axis):
                shown[f"size of {axis}"] = env.values[node]
            case _:
                pass
    return f", where {', '.join(f'{n} = {v}' for n, v in shown.items())}" if shown else ""


@dataclass(frozen=True)
class _Conditions:
    requires: bool
    divisors: tuple[Op, ...]


@lru_cache(maxsize=256)
def _conditions(attention: Attention) -> _Conditions:
    divisors = dict.fromkeys(
        node
        for expr in meaning(attention)
        for node in walk(expr)
        if isinstance(node, Op)
        and node.op in ("floordiv", "mod")
        and not isinstance(node.args[1], Literal)
        and on_host(node.args[1])
    )
    return _Conditions(bool(attention.requires), tuple(divisors))


def conditions_of(attention: Attention) -> tuple[Expr, ...]:
    """What the host looks at before a call: conditions that must hold, divisors that must not be zero."""
    return (*(r.condition for r in attention.requires), *(d.args[1] for d in _conditions(attention).divisors))


def decided_by(attention: Attention) -> frozenset[str]:
    """Scalars that a `require` or a divisor on the host reads."""
    return frozenset(n.name for e in conditions_of(attention) for n in walk(e) if isinstance(n, ParamRef))


def meaning(attention: Attention) -> Iterator[Expr]:
    """The mask, score, weight and output that are there."""
    yield attention.mask
    yield attention.score
    if attention.weight is not None:
        yield attention.weight
    if attention.output is not None:
        yield attention.output


def on_host(expr: Expr) -> bool:
    """Whether sizes, scalars and extents alone decide a value."""
    return all(isinstance(n, Literal | ParamRef | Size | Extent | Op) for n in walk(expr))


class SizeTable:
    """The sizes of a call, and which argument gave each one."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.sizes: dict[str, int] = {}
        self._givers: dict[str, str] = {}

    def set(self, name: str, value: int, giver: str) -> None:
        """Bind a size; ValueError naming both givers where it has another value."""
        known = self.sizes.setdefault(name, value)
        if known != value:
            raise ValueError(
                f"{self.owner}: {giver} has {name} = {value}, but {self._givers[name]} has {name} = {known}"
            )
        self._givers.setdefault(name, giver)

    def bind_shapes(self, attention: Attention, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Check the shapes of inputs against the declared ones, binding fresh sizes as they come."""
        declared = [(p, shapes[p.name]) for p in attention.inputs if p.name in shapes]
        for param, shape in declared:
            if len(shape) != len(param.shape):
                expected = ", ".join(map(show_dim, param.shape))
                raise ValueError(
                    f"{self.owner}: input {param.name!r} must have shape [{expected}] "
                    f"({len(param.shape)} dimensions), got {list(shape)}"
                )
            for axis, (dim, n) in enumerate(zip(param.shape, shape, strict=True)):
                if isinstance(dim, Size) and dim.name not in self.sizes:
                    self.set(dim.name, n, f"input {param.name!r} (dimension {axis})")
        if not declared:
            return
        env = Env({Size(INT, name): n for name, n in self.sizes.items()})
        for param, shape in declared:
            wanted: list[int | None] = []
            for dim in param.shape:
                try:
                    wanted.append(int(evaluate(dim, env)))
                except UnboundError:
                    wanted.append(None)
            if any(w is not None and w != n for w, n in zip(wanted, shape, strict=True)):
                raise ValueError(self._mismatch(param.name, param.shape, wanted, shape))

    def _mismatch(self, name: str, declared: tuple[Expr, ...], wanted: list[int | None], shape: tuple[int, ...]) -> str:
        dims = ", ".join(map(show_dim, declared))
        numbers = ", ".join("?" if w is None else str(w) for w in wanted)
        givers = dict.fromkeys(
            f"{node.name} = {self.sizes[node.name]} from {self._givers[node.name]}"
            for dim, w, n in zip(declared, wanted, shape, strict=True)
            if w != n
            for node in walk(dim)
            if isinstance(node, Size) and node.name in self.sizes
        )
        reasons = f"; {', '.join(givers)}" if givers else ""
        return f"{self.owner}: input {name!r} must have shape [{dims}] = [{numbers}], got {list(shape)}{reasons}"
