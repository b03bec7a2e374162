"""Declarations, clauses and built-in functions of the language."""

from __future__ import annotations

from typing import Any

from attndsl.lang.terms import Term, Value, outside


class _Sum(Term):
    """`sum(e)` over the row's visible keys, and the bare `sum` after a `/`."""

    def __init__(self) -> None:
        pass

    def __call__(self, value: Value, /) -> Term:
        outside("sum")


class _Constant(Term):
    def __init__(self) -> None:
        pass


pi: Term = _Constant()
inf: Term = _Constant()
count: Term = _Constant()
"""The number of visible keys of the row."""
sum = _Sum()


class Declaration:
    """What const(...), scalar(...) and tensor(...) leave in the signature; the spec itself is read from the source."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __repr__(self) -> str:
        return f"<a parameter of a spec: {', '.join(map(repr, self.arguments))}>"


def const(type_or_default: str | bool | int | float | tuple[bool | int | float, ...], default: Any = None, /) -> Any:
    """A compile-time parameter: `const(64)`, `const((3, 9, 9))`, `const("int[3]")`, `const("int[3]", 1)`."""
    return Declaration(type_or_default, default)


def scalar(type_or_default: str | bool | int | float, default: bool | int | float | None = None, /) -> Any:
    """A run-time number: `scalar(1.0)`, `scalar("float")`. A new value never recompiles."""
    return Declaration(type_or_default, default)


def tensor(type: str, /) -> Any:
    """A run-time tensor: `tensor("f32[H]")`, `tensor("i32[B, L] sorted")`."""
    return Declaration(type)


def grid(axes: str, /) -> Any:
    """The grid that positions live on: `video = grid("video(t, y, x)")`, `grid("q (y, x)")`."""
    outside("grid")


def score(value: Value, /) -> None:
    """A clause: the score becomes `value`, in which `s` is the score so far."""
    outside("score")


def mask(condition: Value, /) -> None:
    """A clause: only pairs for which `condition` holds are visible. Several masks are and-ed."""
    outside("mask")


def weight(value: Value, /, *, where: Value = True) -> Any:
    """A clause, or what is returned: the weight of a pair, made of the final score `s`."""
    outside("weight")


def output(value: Value, /) -> None:
    """A clause: the output becomes `value`, in which `o` is the weighted sum."""
    outside("output")


def softmax(value: Value, /, *, where: Value = True) -> Any:
    """Returned: softmax of the score `value` over visible keys. Elsewhere: softmax of a vector."""
    outside("softmax")


def size(grid: Value | str, /) -> Any:
    """Extents of a segment, or of one axis, of the grid."""
    outside("size")


def mean(value: Value, /) -> Term:
    """The mean over the row's visible keys."""
    outside("mean")


def decay(gate: Value, /) -> Term:
    """exp of the sum of `gate` over the keys after k, up to q; `gate` is declared `log_decay`."""
    outside("decay")


def clamp(value: Value, low: Value, high: Value, /) -> Term:
    """min(max(value, low), high)."""
    outside("clamp")


def min(first: Value, second: Value, /, *more: Value) -> Any:
    """The smallest."""
    outside("min")


def max(first: Value, second: Value, /, *more: Value) -> Any:
    """The largest."""
    outside("max")


def all(value: Value, /) -> Any:
    """Whether a condition holds on every axis of a tuple."""
    outside("all")


def any(value: Value, /) -> Any:
    """Whether a condition holds on some axis of a tuple."""
    outside("any")


def abs(value: Value, /) -> Any:
    """The absolute value."""
    outside("abs")


def concat(first: Value, second: Value, /, *more: Value) -> Term:
    """Vectors one after another."""
    outside("concat")


def atan2(y: Value, x: Value, /) -> Term:
    """The angle of (x, y)."""
    outside("atan2")


def dot(x: Value, y: Value, /) -> Term:
    """The dot product of two vectors, unscaled."""
    outside("dot")


def outer(x: Value, y: Value, /) -> Term:
    """All products of components, as one vector."""
    outside("outer")


def roll(x: Value, by: Value, /) -> Term:
    """The components of a vector, moved by an int."""
    outside("roll")


def rope(x: Value, position: Value, /) -> Term:
    """Rotary position embedding of a vector."""
    outside("rope")


def sign(value: Value, /) -> Term:
    """-1, 0 or 1."""
    outside("sign")


def floor(value: Value, /) -> Term:
    """The largest int that is not larger."""
    outside("floor")


def ceil(value: Value, /) -> Term:
    """The smallest int that is not smaller."""
    outside("ceil")


def exp(value: Value, /) -> Term:
    """e to the power of the value."""
    outside("exp")


def log(value: Value, /) -> Term:
    """The natural logarithm."""
    outside("log")


def sqrt(value: Value, /) -> Term:
    """The square root."""
    outside("sqrt")


def tanh(value: Value, /) -> Term:
    """The hyperbolic tangent."""
    outside("tanh")


def sigmoid(value: Value, /) -> Term:
    """1 / (1 + exp(-x))."""
    outside("sigmoid")


def elu(value: Value, /) -> Term:
    """x where positive, exp(x) - 1 elsewhere."""
    outside("elu")


def silu(value: Value, /) -> Term:
    """x * sigmoid(x)."""
    outside("silu")


def gelu(value: Value, /) -> Term:
    """x * Phi(x), the erf form."""
    outside("gelu")


def softplus(value: Value, /) -> Term:
    """log(1 + exp(x))."""
    outside("softplus")


def erf(value: Value, /) -> Term:
    """The error function."""
    outside("erf")


def sin(value: Value, /) -> Term:
    """The sine."""
    outside("sin")


def cos(value: Value, /) -> Term:
    """The cosine."""
    outside("cos")


def acos(value: Value, /) -> Term:
    """The inverse cosine."""
    outside("acos")


def relu(value: Value, /) -> Term:
    """max(x, 0)."""
    outside("relu")


def bitlen(value: Value, /) -> Term:
    """The number of bits of |n|."""
    outside("bitlen")


def ispow2(value: Value, /) -> Term:
    """Whether an int is a power of two."""
    outside("ispow2")


def norm(value: Value, /) -> Term:
    """The 2-norm of a vector."""
    outside("norm")


def total(value: Value, /) -> Term:
    """The sum of a vector's components."""
    outside("total")


def amax(value: Value, /) -> Term:
    """The largest of a vector's components."""
    outside("amax")


def rmsnorm(value: Value, /) -> Term:
    """A vector over the root mean square of its components."""
    outside("rmsnorm")
