"""How an attention whose weight is a dot product of features runs: a scan, a reduction, or tiles of pairs.

`legalise` is the one decision that all backends share. A causal mask, also within segments, is a scan over chunks of
the sequence; no mask is a reduction over the keys and a product with the queries; a mask that bounds a neighborhood is
left to the tiles of the plan, which visit few pairs anyway; whatever does not fit runs pair by pair, the reason said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal as Lit

from attndsl.ir.attention import Attention, Input
from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import Decay, Expr, Index, Literal, Load, Op, Size, op, walk
from attndsl.ir.features import FeatureWeight, at_row, counts, feature_weight, read_elsewhere
from attndsl.ir.free import column_only, depends, q_side
from attndsl.ir.types import INT
from attndsl.schedule.problem import Problem

Kind = Lit["scan", "both", "reduction", "tiles", "quadratic"]

_Q, _K = Index(INT, "q"), Index(INT, "k")


@dataclass(frozen=True)
class ScanForm:
    """A weight of features under a mask that a scan can follow.

    `kind`: `scan`, keys up to the query; `both`, keys on both sides, as one scan forwards and one backwards;
    `reduction`, every query sees every key and nothing decays. `strict`: a query does not see its own position (of
    a `scan`).
    `segments` are int expressions of the key's position that never fall along the sequence (`doc[b, k]`, `k // 64`): a
    pair is visible only where each has the value of the query's position (`at_row` of it). `output` is the attention's
    output clause, None for none.
    """

    weight: FeatureWeight
    kind: Lit["scan", "both", "reduction"]
    strict: bool
    segments: tuple[Expr, ...]
    output: Expr | None = None

    @cached_property
    def by_head(self) -> bool:
        """Whether states differ between the query heads of a key head: they are [B, H, ..] then, else [B, Hkv, ..]."""
        return self.weight.by_head or any("h" in depends(s) for s in self.segments)

    def features(self, sizes: Mapping[str, int]) -> int:
        """How many features a key has."""
        return _number(self.weight.extent, sizes)

    def z_features(self, sizes: Mapping[str, int]) -> int:
        """How many features the normaliser's sum has; 0 without one."""
        extent = self.weight.z_extent
        return 0 if extent is None else _number(extent, sizes)

    @cached_property
    def elsewhere(self) -> str | None:
        """A tensor that is read at other positions than the row's and the key's own; None if there is none."""
        outer = () if self.output is None else (self.output,)
        return read_elsewhere((*self.weight.expressions, *self.segments, *outer))

    @cached_property
    def stateless(self) -> str | None:
        """Why a call cannot start from a state or return one, in words; None if it can."""
        if self.kind != "scan":
            return "its queries see keys on both sides"
        if (name := self.elsewhere) is not None:
            return f"it reads {name!r} at other positions than its own"
        for root in (*self.weight.expressions, *self.segments, *(() if self.output is None else (self.output,))):
            for node in walk(root):
                if isinstance(node, Size) and node.name in ("L", "Lq", "Lk"):
                    return f"it reads the length {node.name}, and a call does not know that of the whole sequence"
        if self.segments and self.weight.normaliser is not None and counts(self.weight.normaliser.whole):
            return "it counts the keys of a segment"
        return None


@dataclass(frozen=True)
class Legalised:
    """How an attention runs. `form` is there for a scan or reduction; `reasons` say why it is not, in words."""

    kind: Kind
    form: ScanForm | None
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        match self.kind:
            case "scan":
                within = " within segments" if self.form is not None and self.form.segments else ""
                return f"a scan over chunks{within}: linear in L"
            case "both":
                within = " within segments" if self.form is not None and self.form.segments else ""
                return f"two scans over chunks, forwards and backwards{within}: linear in L"
            case "reduction":
                return "a reduction over the keys, then a product: linear in L"
            case "tiles":
                return "tiles of pairs"
            case "quadratic":
                return "pair by pair: quadratic in L"


def legalise(attention: Attention, problem: Problem) -> Legalised:
    """How a call of a simplified attention runs; needs no tensors."""
    found = scan_form(attention)
    if found.form is None:
        return found
    reasons: list[str] = []
    if not isinstance(problem.q_offset, int):
        reasons.append("every sequence has a q_offset of its own")
    elif problem.q_offset < 0 and found.kind != "reduction":
        reasons.append("rows stand before position 0")
    elif found.form.segments and problem.q_offset + problem.sizes["Lq"] > problem.sizes["L"]:
        reasons.append("rows stand past the end of the segments")
    elif found.kind == "both" and (problem.q_offset != 0 or problem.sizes["Lq"] != problem.sizes["Lk"]):
        reasons.append("queries and keys do not stand at the same positions")
    return Legalised("quadratic", None, tuple(reasons)) if reasons else found


@lru_cache(maxsize=512)
def scan_form(attention: Attention) -> Legalised:
    """The form of an attention as far as it does not depend on the call."""
    weight = feature_weight(attention)
    if isinstance(weight, str):
        return Legalised("quadratic", None, (weight,))
    causal: bool | None = None
    strict = False
    segments: list[Expr] = []
    others: list[Expr] = []
    for part in conjuncts(attention.mask):
        if part in _UP_TO or part in _BEFORE:
            causal, strict = True, strict or part in _BEFORE
        elif (segment := _segment(part, attention)) is not None:
            segments.append(segment)
        else:
            others.append(part)
    if others:
        from attndsl.ir.infix import infix

        return Legalised("tiles", None, tuple(f"the mask also asks {infix(o, 60)}" for o in others))
    if causal:
        return Legalised("scan", ScanForm(weight, "scan", strict, tuple(segments), attention.output))
    if weight.normaliser is not None and segments and counts(weight.normaliser.whole):
        return Legalised("quadratic", None, ("it counts the keys of a segment",))
    decay = weight.decay
    if decay.per_head and not decay.absolute:
        return Legalised("quadratic", None, ("its decay grows for keys after the query",))
    if decay.token or decay.channel:
        return Legalised("quadratic", None, ("its decay needs a mask that implies k <= q",))
    if segments or decay.per_head:
        return Legalised("both", ScanForm(weight, "both", False, tuple(segments), attention.output))
    return Legalised("reduction", ScanForm(weight, "reduction", False, (), attention.output))


def _ordered(a: Expr, b: Expr, word: str, turned: str) -> tuple[Expr, Expr]:
    return op(word, a, b), op(turned, b, a)


_UP_TO = _ordered(_K, _Q, "le", "ge")
_BEFORE = _ordered(_K, _Q, "lt", "gt")


def conjuncts(mask: Expr) -> list[Expr]:
    """The conditions that a mask asks for together."""
    found: list[Expr] = []
    stack = [mask]
    while stack:
        node = stack.pop()
        if isinstance(node, Op) and node.op == "and":
            stack.extend(reversed(node.args))
        elif not (isinstance(node, Literal) and node.value is True):
            found.append(node)
    return found


def _segment(part: Expr, attention: Attention) -> Expr | None:
    """x where the condition is x(q) == x(k) and x never falls along the sequence."""
    if not isinstance(part, Op) or part.op != "eq":
        return None
    a, b = part.args
    key, row = (b, a) if column_only(b) and q_side(a) else (a, b)
    if key.type != INT or not column_only(key) or at_row(key) != row or key == row:
        return None
    return key if _never_falls(key, attention) else None


def _never_falls(e: Expr, attention: Attention) -> bool:
    match e:
        case Load(tensor=name, indices=indices):
            param = next((p for p in attention.params if p.name == name), None)
            promised = isinstance(param, Input) and "sorted" in param.facts
            fixed = all("k" not in depends(i) for i in indices[:-1])
            return promised and fixed and len(indices) > 0 and _never_falls(indices[-1], attention)
        case Op(op="floordiv", args=(x, Literal(value=by))):
            return by > 0 and _never_falls(x, attention)
        case Op(op="add" | "sub", args=(x, y)) if "k" not in depends(y):
            return _never_falls(x, attention)
        case _:
            return e == _K


def _number(extent: Expr, sizes: Mapping[str, int]) -> int:
    return int(evaluate(extent, Env({Size(INT, n): v for n, v in sizes.items()})))


def decays_of(form: ScanForm) -> tuple[Decay, ...]:
    """The `decay` tensors of a form."""
    return (*form.weight.decay.token, *form.weight.decay.channel)
