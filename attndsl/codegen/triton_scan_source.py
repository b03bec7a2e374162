"""Which features the kernels of a scan apply themselves, and what a likely scan of an attention looks like."""

from __future__ import annotations

from functools import lru_cache

from attndsl.codegen.expr_triton import UnsupportedError
from attndsl.codegen.templates import title
from attndsl.codegen.triton_scan import (
    DecayKind,
    FeatureMapping,
    Operand,
    Walk,
    component_map,
    generate_features,
    generate_scan,
)
from attndsl.ir.attention import Attention
from attndsl.ir.expr import Count, Expr, Index, Load, Value, mentions, walk
from attndsl.schedule.legalise import scan_form


@lru_cache(maxsize=512)
def fused_map(features: Expr, tensor: str) -> tuple[bool, Expr | None]:
    """Whether the kernels can apply these features of `Q` or `K` themselves, and the map of a component."""
    reads = (Index, Count, Value)
    if mentions(features, lambda n: isinstance(n, reads) and not _own_index(n, features)):
        return False, None
    if mentions(features, lambda n: isinstance(n, Load) and n.tensor != tensor):
        return False, None
    try:
        return True, component_map(features, tensor)
    except UnsupportedError:
        return False, None


def _own_index(node: Expr, root: Expr) -> bool:
    """Whether an index is read by Q or K alone."""
    for other in walk(root):
        if node in other.children and not (isinstance(other, Load) and other.tensor in ("Q", "K")):
            return False
    return True


def typical_scan(attention: Attention) -> str | None:
    """The kernels of a likely call, bf16 and heads of 128; None for an attention that is no scan of this backend."""
    form = scan_form(attention).form
    if form is None or form.kind != "scan" or form.weight.decay.channel:
        return None
    weight, n = form.weight, form.weight.normaliser
    decay: DecayKind = "none"
    if weight.decay.token:
        decay = "token"
    elif weight.decay.per_head:
        decay = "log" if weight.decay.base is None else "head"
    own = n is not None and n.own
    maps = {"queries": fused_map(weight.query, "Q")[1], "keys": fused_map(weight.key, "K")[1]}
    walk = Walk(
        "bf16", Operand(128), Operand(128), Operand(128), decay, bool(form.segments), strict=form.strict,
        column="ones" if own else "", normalised=own, tma=True,
    )  # fmt: skip
    sources = [generate_scan(walk, title(attention)).source]
    for name, mapped in maps.items():
        if mapped is not None:
            sources.append(generate_features(FeatureMapping(128, mapped, False, 8), [f"features of {name}"])[0])
    return "\n\n".join(sources)
