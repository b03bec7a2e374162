"""Sums over the components of a vector of the pair: `norm(Q - K)`, `dot(w[h], tanh(Q + K))`, `dot(Q, K * decay(g))`
with a decay per channel.

A dot product of a vector of the row and one of the key is a product of matrices. What else is summed over components
is computed for every pair and component. `lowered` writes the reductions of such vectors as `total` and `amax` of
expressions whose operations act on components one by one, and takes out of them what is a dot product after all.
`needs` and `within` tell the numbers that such a reduction is made of from what is computed per component.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce

from attndsl.ir.build import ONE, ZERO, Part, add, neg, sub
from attndsl.ir.derivative import derivative
from attndsl.ir.expr import OVER, VECTOR_OPS, Component, Expr, Load, Op, ParamRef, mentions, number, op, rewrite, walk
from attndsl.ir.features import vector_factors
from attndsl.ir.free import column_only, row_only, uniform
from attndsl.ir.one_product import CannotProjectError, sides_of
from attndsl.ir.simplify import simplify_expr
from attndsl.ir.types import Type

REDUCTIONS = ("total", "amax")


def of_pair(e: Expr) -> bool:
    """Whether a value differs between the keys of a row and between the rows of a key."""
    return not row_only(e) and not column_only(e)


def reduces_components(node: Expr) -> bool:
    """Whether a node is a number made of the components of a vector one after another."""
    return isinstance(node, Op) and (node.op in REDUCTIONS or node.op in OVER)


def numbered(node: Expr) -> bool:
    """Whether a reduction is one of a number that reads the number of a component."""
    return isinstance(node, Op) and node.op in OVER


def components_in(e: Expr) -> frozenset[str]:
    """The numbers of components that a value varies with: those that no reduction within it binds."""
    known = _KNOWN.get(e)
    if known is not None:
        return known
    if len(_KNOWN) > _MOST:
        _KNOWN.clear()
    for node in walk(e):
        if node not in _KNOWN:
            found = frozenset((node.name,)) if isinstance(node, Component) else frozenset[str]()
            found = found.union(*(_KNOWN[c] for c in node.children))
            if isinstance(node, Op) and node.op in OVER:
                found -= {bound(node).name}
            _KNOWN[node] = found
    return _KNOWN[e]


_KNOWN: dict[Expr, frozenset[str]] = {}
_MOST = 65536


def bound(node: Op) -> Component:
    """The number of a component that a reduction over it binds."""
    found = node.args[1]
    assert isinstance(found, Component)
    return found


def needs(node: Expr) -> tuple[Expr, ...]:
    """The values that a value is computed from; of a reduction over components its numbers, not its vectors."""
    if not reduces_components(node):
        return node.children
    return within(node)[1]


def within(node: Expr) -> tuple[tuple[Expr, ...], tuple[Expr, ...]]:
    """The vectors of a reduction, children first, and the numbers that they are computed from: what varies with the
    component that it is about, and what does not."""
    if isinstance(node, Op) and node.op in OVER:
        return split(node.args[0], bound(node))
    vectors: dict[Expr, None] = {}
    numbers: dict[Expr, None] = {}
    stack = [(c, False) for c in node.children]
    while stack:
        at, ready = stack.pop()
        if at in vectors or at in numbers:
            continue
        if not at.type.shape:
            numbers[at] = None
        elif ready:
            vectors[at] = None
        else:
            stack.append((at, True))
            stack.extend((c, False) for c in reversed(at.children))
    return tuple(vectors), tuple(numbers)


def split(e: Expr, by: Component) -> tuple[tuple[Expr, ...], tuple[Expr, ...]]:
    """What varies in a number with the number of a component, what it needs first, and what that needs and does not."""
    varying: dict[Expr, None] = {}
    others: dict[Expr, None] = {}
    stack = [(e, False)]
    while stack:
        at, ready = stack.pop()
        if at in varying or at in others:
            continue
        if by.name not in components_in(at):
            others[at] = None
        elif ready:
            varying[at] = None
        else:
            stack.append((at, True))
            stack.extend((c, False) for c in reversed(needs(at)))
    return tuple(varying), tuple(others)


def numbers_of(root: Expr) -> Iterator[Expr]:
    """Every distinct number under a root, what it `needs` first; vectors of reductions are left out."""
    seen = set[Expr]()
    stack = [(root, False)]
    while stack:
        node, ready = stack.pop()
        if node in seen:
            continue
        if ready:
            seen.add(node)
            yield node
        else:
            stack.append((node, True))
            stack.extend((c, False) for c in reversed(needs(node)) if c not in seen)


# Reductions of vectors of the pair as sums over components


def lowered(e: Expr) -> Expr:
    """With reductions of vectors of the pair as `total` and `amax`."""
    return rewrite(e, _lowered)


def _lowered(node: Expr) -> Expr | None:
    if not isinstance(node, Op) or node.op not in VECTOR_OPS:
        return None
    if not any(of_pair(a) for a in node.args if a.type.shape):
        # a dot product of a row's and a key's vector stays one
        return None
    first = node.args[0]
    match node.op:
        case "dot":
            return _dot(node)
        case "total":
            return _total(first)
        case "amax":
            return None
        case "norm":
            square = _total(op("mul", first, first))
            return op("select", op("eq", square, ZERO), ZERO, op("sqrt", square))
        case "vsoftmax":
            power = op("exp", op("sub", first, op("amax", first)))
            return op("div", power, op("total", power))
        case "rmsnorm":
            ones = op("select", op("eq", first, first), ONE, ONE)
            mean = op("div", _total(op("mul", first, first)), op("total", ones))
            return op("div", first, op("sqrt", op("add", mean, number(1e-6))))
        case "roll" if not of_pair(node.args[1]):
            return _rolled(first, node.args[1])
        case "matmul" | "rope" if not of_pair(node.args[1]):
            return _linear(node.op, first, node.args[1])
        case _:
            return None


def _rolled(e: Expr, by: Expr) -> Expr | None:
    """An expression of components with the vectors of one side in it rolled; None where they are not of one side."""
    if not of_pair(e):
        found = op("roll", e, by)
        return None if of_pair(found) else found
    if not isinstance(e, Op) or e.op in VECTOR_OPS:
        return None
    args = [_rolled(a, by) if a.type.shape else a for a in e.args]
    return None if None in args else op(e.op, *(a for a in args if a is not None))


def _linear(name: str, e: Expr, by: Expr) -> Expr | None:
    """A linear operation on a sum of vectors as a sum of its results on those of one side; None where one is not."""
    if not of_pair(e) and not of_pair(op(name, e, by)):
        return op(name, e, by)
    return _distributed_over(e, lambda part: _linear(name, part, by))


def _distributed_over(e: Expr, part: Callable[[Expr], Expr | None]) -> Expr | None:
    """A linear function of a sum of vectors as a sum; None where it is no sum, or the function has no value."""
    match e:
        case Op(op="add" | "sub" | "neg", args=args) if all(a.type.shape for a in args):
            parts = [part(a) for a in args]
            return None if None in parts else op(e.op, *(a for a in parts if a is not None))
        case Op(op="mul" | "div", args=(a, b)) if a.type.shape and not b.type.shape:
            found = part(a)
            return None if found is None else op(e.op, found, b)
        case Op(op="mul", args=(a, b)) if b.type.shape and not a.type.shape:
            found = part(b)
            return None if found is None else op("mul", a, found)
        case _:
            return None


def _is_product(node: Expr) -> bool:
    try:
        sides_of(node)
    except CannotProjectError:
        return False
    return True


def _dot(node: Op) -> Expr:
    if _is_product(node) or _is_chosen(node):
        return node
    return _total(op("mul", *node.args))


def _is_chosen(node: Op) -> bool:
    """Whether it is a dot product with a vector of an input that the pair chooses."""
    return any(
        isinstance(chosen, Load) and not of_pair(other)
        for chosen, other in (node.args, node.args[::-1])
        if of_pair(chosen)
    )


def _total(e: Expr) -> Expr:
    """The sum of the components of a vector: of dot products where it is one of these."""
    return _of_products(e) or _of_factors(e)


def _of_products(e: Expr) -> Expr | None:
    """A sum of dot products, of sums of one side, and of dot products with chosen vectors; None if it is none."""
    if not of_pair(e):
        return op("total", e)
    if isinstance(e, Op):
        match e.op:
            case "add" | "sub":
                parts = [_of_products(_filled(a, e)) for a in e.args]
                return op(e.op, *parts) if all(parts) else None  # pyright: ignore[reportArgumentType]
            case "neg":
                found = _of_products(e.args[0])
                return None if found is None else op("neg", found)
            case "div" if not e.args[1].type.shape and e.args[0].type.shape:
                found = _of_products(e.args[0])
                return None if found is None else op("div", found, e.args[1])
            case "mul":
                return _distributed(e)
            case _:
                pass
    return None


def _filled(e: Expr, like: Expr) -> Expr:
    """A number that is added to a vector as a vector."""
    return e if e.type.shape else op("mul", op("select", op("eq", like, like), ONE, ONE), e)


def _distributed(e: Op) -> Expr | None:
    factors = vector_factors(e)
    numbers = [f for f in factors if not f.type.shape]
    vectors = [f for f in factors if f.type.shape]
    mixed = [f for f in vectors if of_pair(f)]
    found: Expr | None = None
    if not mixed:
        rows, keys = ([f for f in vectors if row_only(f)], [f for f in vectors if not row_only(f)])
        found = op("dot", _product(rows), _product(keys)) if rows and keys else op("total", _product(vectors))
    elif len(mixed) == 1:
        others = [f for f in vectors if f is not mixed[0]]
        of_rows = all(map(row_only, others))
        (only,) = mixed
        if isinstance(only, Load) and others and (of_rows or all(map(column_only, others))):
            found = op("dot", _product(others), only)
        elif isinstance(only, Op) and only.op in ("add", "sub"):
            parts = [_of_products(_product([*others, _filled(a, only)])) for a in only.args]
            found = op(only.op, *parts) if all(parts) else None  # pyright: ignore[reportArgumentType]
        elif isinstance(only, Op) and only.op == "neg":
            inner = _of_products(_product([*others, only.args[0]]))
            found = None if inner is None else op("neg", inner)
        elif isinstance(only, Op) and only.op in ("rope", "roll"):
            found = _turned(only, others)
    return None if found is None else reduce(lambda a, b: op("mul", a, b), numbers, found)


def _turned(node: Op, others: list[Expr]) -> Expr | None:
    """The sum of a product of `others` with a vector that is turned by a number of the pair: turned by the row's part
    of it on the row's side, against the key's part on the key's side."""
    vector, by = node.args
    if of_pair(vector):
        parts = _distributed_over(vector, lambda part: op(node.op, part, by))
        return None if parts is None else _of_products(_product([*others, parts]))
    if not others:
        return None
    other = _product(others)
    sides = by_side(by)
    if sides is None or of_pair(other) or not (row_only(vector) or row_only(other)):
        return None
    of_row, of_key = sides
    if row_only(vector) and column_only(other):
        return op("dot", _by(node.op, vector, of_row), _by(node.op, other, neg(of_key)))
    if row_only(other) and column_only(vector):
        return op("dot", _by(node.op, other, neg(of_row)), _by(node.op, vector, of_key))
    return None


def by_side(e: Expr) -> tuple[Part, Part] | None:
    """A number of the row and one of the key whose sum a number is, of the same type; None where it is no such sum."""
    if row_only(e):
        return e, None
    if column_only(e):
        return None, e
    match e:
        case Op(op="neg" | "to_float", args=(only,)):
            found = by_side(only)
            if found is None:
                return None
            row, key = (None if p is None else neg(p) if e.op == "neg" else op(e.op, p) for p in found)
            return row, key
        case Op(op="add" | "sub", args=(a, b)):
            first, second = by_side(a), by_side(b)
            if first is None or second is None:
                return None
            combine = add if e.op == "add" else sub
            return combine(first[0], second[0]), combine(first[1], second[1])
        case Op(op="mul", args=(a, b)) if uniform(a) or uniform(b):
            of, by = (b, a) if uniform(a) else (a, b)
            found = by_side(of)
            if found is None:
                return None
            row, key = (None if p is None else op("mul", p, by) for p in found)
            return row, key
        case _:
            return None


def _by(name: str, vector: Expr, by: Part) -> Expr:
    return vector if by is None else op(name, vector, by)


def _of_factors(e: Expr) -> Expr:
    """The sum of what is computed for every component, but for the numbers that all are multiplied by."""
    factors = vector_factors(e)
    numbers = [f for f in factors if not f.type.shape]
    total = op("total", _product([f for f in factors if f.type.shape]))
    return reduce(lambda a, b: op("mul", a, b), numbers, total)


def _product(vectors: list[Expr]) -> Expr:
    return reduce(lambda a, b: op("mul", a, b), vectors)


# Components of the vectors of one side


def elementwise(e: Expr, whole: Callable[[Expr], bool]) -> bool:
    """Whether a vector is made of `whole` ones by operations that act on components one by one."""
    stack, seen = [e], set[Expr]()
    while stack:
        node = stack.pop()
        if node in seen or not node.type.shape or whole(node):
            continue
        seen.add(node)
        if not isinstance(node, Op) or node.op in VECTOR_OPS:
            return False
        stack.extend(node.children)
    return True


def retyped(e: Expr, vector: Callable[[Expr], Expr | None], number: Callable[[Expr], Expr]) -> Expr:
    """An expression of components over other vectors: `vector` replaces as a whole, or says None for what is looked
    into; `number` replaces the numbers in it. It must be `elementwise`."""
    made: dict[Expr, Expr] = {}
    stack = [(e, False)]
    while stack:
        node, ready = stack.pop()
        if node in made:
            continue
        if not node.type.shape:
            made[node] = number(node)
            continue
        found = None if ready else vector(node)
        if found is not None:
            made[node] = found
        elif ready:
            assert isinstance(node, Op)
            made[node] = op(node.op, *(made[a] for a in node.args))
        else:
            stack.append((node, True))
            stack.extend((c, False) for c in node.children)
    return made[e]


def slope_of(total: Op, load: Load) -> Expr | None:
    """The derivative of a component of what a `total` adds up with respect to that component of a vector; None for
    zero. Numbers in it are held constant. Largest components share that of `amax`."""
    body = total.args[0]
    inner = _component_slope(body, load)
    if inner is None or total.op == "total":
        return inner
    largest = op("select", op("eq", body, total), ONE, ZERO)
    return op("mul", op("div", largest, op("max", op("total", largest), ONE)), inner)


def _component_slope(body: Expr, load: Load) -> Expr | None:
    names: dict[Expr, Expr] = {}
    back: dict[Expr, Expr] = {}

    def leaf(node: Expr) -> Expr:
        if node not in names:
            made = ParamRef(Type(node.type.kind), f"@{len(names)}")
            names[node], back[made] = made, node
        return names[node]

    scalar = _scalar(body, leaf)
    if load not in names:
        return None
    found = simplify_expr(derivative(scalar, names[load]))
    if found == ZERO:
        return None
    made: dict[Expr, Expr] = {}
    for node in walk(found):
        if node in back:
            made[node] = back[node]
        elif isinstance(node, Op):
            made[node] = op(node.op, *(made[a] for a in node.args), span=node.span)
        else:
            made[node] = node
    return made[found]


def _scalar(body: Expr, leaf: Callable[[Expr], Expr]) -> Expr:
    """An expression of components as one of numbers."""
    made: dict[Expr, Expr] = {}
    stack = [(body, False)]
    while stack:
        node, ready = stack.pop()
        if node in made:
            continue
        if not node.type.shape or isinstance(node, Load):
            # derivatives look at literals
            made[node] = leaf(node) if node.children or isinstance(node, Load) else node
        elif ready:
            assert isinstance(node, Op)
            made[node] = op(node.op, *(made[a] for a in node.args))
        else:
            stack.append((node, True))
            stack.extend((c, False) for c in node.children)
    return made[body]


def reductions_of(e: Expr, reads: Load) -> list[Op]:
    """The reductions over components, in an expression, that read a vector among their own."""
    return [n for n in walk(e) if isinstance(n, Op) and n.op in REDUCTIONS and reads in within(n)[0]]


def vectors_read(e: Expr) -> list[Load]:
    """The vectors that reductions over components read."""
    found = [
        v for n in walk(e) if reduces_components(n) and not numbered(n) for v in within(n)[0] if isinstance(v, Load)
    ]
    return list(dict.fromkeys(found))


def holds_reduction(e: Expr) -> bool:
    """Whether a reduction over components stands in an expression."""
    return mentions(e, reduces_components)
