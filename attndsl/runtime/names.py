"""Names of arguments: which parameter an argument is, and what was probably meant by an unknown one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from attndsl.ir.attention import Attention, Const, Input, Param, Scalar
from attndsl.ir.expr import Expr, Literal, Size

CALL_OPTIONS = ("layout", "return_lse", "scale", "q_offset", "grid", "backend", "checked", "tune")
"""Keyword arguments that every call takes beside the parameters of its attention."""

PLAN_OPTIONS = ("Lq", "Lk", "L", "B", "H", "Hkv", "D", "Dv", "grid", "tile", "q_offset")
"""Keyword arguments that `plan` takes beside scalars, tables and fresh sizes."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing when no known name is close."""
    options = list(known)
    folded = {o.lower(): o for o in options}
    close = get_close_matches(name.lower(), list(folded), n=1, cutoff=0.6)
    return f"; did you mean {folded[close[0]]!r}?" if close else ""


def choice(owner: str, name: str, given: object, options: tuple[str, ...]) -> str:
    """An option that is one of some words. TypeError for what is no str, ValueError for another word."""
    listed = " or ".join((", ".join(map(repr, options[:-1])), repr(options[-1])))
    if not isinstance(given, str):
        raise TypeError(f"{owner}: {name} must be {listed}, got {type(given).__name__}")
    if given not in options:
        raise ValueError(f"{owner}: {name} must be {listed}, got {given!r}{did_you_mean(given, options)}")
    return given


def show_dim(dim: Expr) -> str:
    """A dimension of a declared shape, as its user wrote it."""
    if isinstance(dim, Literal):
        return str(dim.value)
    if isinstance(dim, Size):
        return dim.name
    return dim.span.text or "?"


def show_param(param: Param) -> str:
    """`input slope: f32[H]`, `scalar strength: float`, `const window: int[3]`."""
    match param:
        case Input():
            facts = "".join(f" {f}" for f in sorted(param.facts))
            return f"input {param.name}: {param.dtype}[{', '.join(map(show_dim, param.shape))}]{facts}"
        case Scalar():
            return f"scalar {param.name}: {param.kind}"
        case Const():
            length = "" if param.length is None else f"[{param.length}]"
            return f"const {param.name}: {param.kind}{length}"


def show_names(attention: Attention) -> str:
    """The run-time parameters in words, for messages."""
    shown = [show_param(p) for p in attention.params if not isinstance(p, Const)]
    return ", ".join(shown) if shown else "no parameters"


def split_arguments(
    attention: Attention, arguments: Mapping[str, object], consts: Iterable[str], options: Iterable[str]
) -> tuple[dict[str, object], dict[str, object]]:
    """Sorts keyword arguments into scalars (defaults filled in) and inputs (None counts as not given).

    `consts` are the names of consts, bound ones included. TypeError for an unknown name or a const.
    Scalars without a value and inputs that were not given are absent from the result.
    """
    params = {p.name: p for p in attention.params}
    known_consts = set(consts)
    scalars: dict[str, object] = {s.name: s.default for s in attention.scalars if s.default is not None}
    inputs: dict[str, object] = {}
    for name, given in arguments.items():
        param = params.get(name)
        if name in known_consts or isinstance(param, Const):
            raise TypeError(
                f"{attention.name}: {name!r} is const, fixed before the call; "
                f"set it with .with_consts({name}=...) or attndsl.load(..., {name}=...)"
            )
        if param is None:
            hint = did_you_mean(name, (*params, *known_consts, *options))
            raise TypeError(f"{attention.name}: unknown argument {name!r}{hint} (takes {show_names(attention)})")
        if isinstance(param, Scalar):
            scalars[name] = given
        elif given is not None:
            inputs[name] = given
    return scalars, inputs


def require_all(attention: Attention, scalars: Mapping[str, object], inputs: Mapping[str, object] | None) -> None:
    """TypeError naming every run-time parameter that has no value; inputs=None means they are not needed."""
    missing: list[Param] = [s for s in attention.scalars if s.name not in scalars]
    if inputs is not None:
        missing += [i for i in attention.inputs if i.name not in inputs]
    if missing:
        plural = "arguments" if len(missing) > 1 else "argument"
        raise TypeError(f"{attention.name}: missing {plural}: {', '.join(show_param(p) for p in missing)}")
