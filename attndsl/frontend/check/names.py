"""Built-in names, and what a misspelt one was likely meant to be."""

from __future__ import annotations

import keyword
from collections.abc import Iterable
from difflib import get_close_matches

from attndsl.frontend.check.values import SIZES

INDICES = ("q", "k", "b", "h", "hkv")
CONSTANTS = ("pi", "inf")
EVERYWHERE = frozenset(("pi", "inf", "sum"))
"""Values that closed functions see too."""
VALUES = frozenset((*INDICES, *SIZES, *CONSTANTS, "s", "o", "Q", "K", "V", "sum", "count"))
CALL_ARGUMENTS = frozenset(
    ("scale", "grid", "layout", "name", "backend", "q_offset", "return_lse", "checked", "tile", "tune", "out", "lse")
)
"""Arguments of a call, of `load` and of `plan`, which a parameter of the same name would hide."""

FLOAT_FUNCTIONS = (
    "exp",
    "log",
    "sqrt",
    "tanh",
    "sigmoid",
    "elu",
    "silu",
    "gelu",
    "softplus",
    "erf",
    "sin",
    "cos",
    "acos",
)
KIND_FUNCTIONS = ("abs", "sign", "relu")
ARITY: dict[str, tuple[int, int | None]] = {
    **dict.fromkeys((*FLOAT_FUNCTIONS, *KIND_FUNCTIONS, "floor", "ceil", "bitlen", "ispow2"), (1, 1)),
    **dict.fromkeys(("size", "all", "any", "norm", "total", "amax", "softmax", "rmsnorm"), (1, 1)),
    **dict.fromkeys(("decay", "sum", "mean"), (1, 1)),
    **dict.fromkeys(("atan2", "dot", "outer", "roll", "rope"), (2, 2)),
    **dict.fromkeys(("min", "max", "concat"), (2, None)),
    "clamp": (3, 3),
}  # fmt: skip
"""Built-in functions: fewest and most arguments (None: any number)."""

_KNOWN_ELSEWHERE = {
    "alpha": "", "i": "q", "j": "k", "q_idx": "q", "kv_idx": "k", "head": "h", "batch": "b", "score": "s", "e": "",
    "where": "", "scores": "s", "query": "Q", "key": "K", "value": "V", "PI": "pi", "infinity": "inf", "d": "D",
    "v": "V", "l": "L", "output": "o", "dv": "Dv", "out": "o", "true": "true", "True": "true", "False": "false",
}  # fmt: skip
_KNOWN_FUNCTIONS = {
    "maximum": "max", "minimum": "min", "clip": "clamp", "round": "floor", "pow": "^", "swish": "silu", "len": "size",
    "log2": "log", "ln": "log", "cat": "concat", "sgn": "sign", "fabs": "abs", "exp2": "2^", "matmul": "@",
    "logistic": "sigmoid", "absolute": "abs", "mod": "%", "where": "if ... then ... else ...", "int": "floor",
    "reduce_sum": "sum",
}  # fmt: skip


def suggestion(name: str, known: Iterable[str]) -> str:
    """The known name that was likely meant, or an empty string."""
    candidates = sorted(set(known))
    other = _KNOWN_ELSEWHERE.get(name, "")
    if other in candidates:
        return other
    folded = [c for c in candidates if c.lower() == name.lower()]
    if folded:
        return folded[0]
    if len(name) < 2:
        return ""
    short = len(name) <= 3
    close = get_close_matches(name, [c for c in candidates if not short or c[0] == name[0]], 1, 0.6 if short else 0.67)
    return close[0] if close else ""


def function_suggestion(name: str, known: Iterable[str]) -> str:
    """Like `suggestion`, for names of functions."""
    candidates = set(known)
    other = _KNOWN_FUNCTIONS.get(name, "")
    if other and (other in candidates or not other.isidentifier()):
        return other
    return suggestion(name, candidates)


def did_you_mean(found: str) -> str:
    return f"did you mean `{found}`?" if found else ""


def why_reserved(name: str) -> str:
    """Why a parameter, a let or a segment may not have this name; empty if it may."""
    if name in VALUES:
        return "a built-in value"
    if name in CALL_ARGUMENTS:
        return "an argument of every call"
    if keyword.iskeyword(name):
        return "a Python keyword, which no call could name"
    return ""


def other_name(name: str, taken: Iterable[str]) -> str:
    """A free name close to a reserved one."""
    taken = set(taken)
    longer = {
        "q": "query", "k": "keys", "b": "batch", "h": "head", "s": "scores", "o": "result", "Q": "queries",
        "K": "keys", "V": "values", "v": "values", "scale": "factor", "sum": "amount", "count": "number",
        "name": "label", "grid": "lattice", "D": "depth", "H": "heads", "B": "batches", "L": "length",
    }  # fmt: skip
    first = [longer[name]] if name in longer else []
    for candidate in (*first, f"{name}_", f"my_{name}", f"{name}_1", f"{name}_2"):
        if candidate not in taken and not why_reserved(candidate) and candidate not in _CLAUSE_WORDS:
            return candidate
    return f"{name}_3"


_CLAUSE_WORDS = frozenset(
    ("query", "key", "value", "score", "mask", "weight", "output", "select", "branch", "extra", "emit", "let", "use")
)
