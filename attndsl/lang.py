"""The words of the language for specs that are written as Python functions.

A function under `@attndsl.attention` is read by its syntax tree and never executed; these names make it readable for
ruff, pyright and editors. `const`, `scalar` and `tensor` declare parameters (as defaults of keyword-only arguments) and
may run, everything else raises `OutsideSpecError` when Python executes it.

flake8-bugbear's B008 (calls in defaults), where it is selected, is told by ruff's setting
`lint.flake8-bugbear.extend-immutable-calls = ["attndsl.lang.const", "attndsl.lang.scalar", "attndsl.lang.tensor"]`;
pyright's strict mode also wants annotations: `q: Term`, `window: Term = const(64)`.

Functions of the standard library are named here too; their meaning is in `attndsl/std/*.attn`.
"""

from __future__ import annotations

from typing import Any, NoReturn


class OutsideSpecError(TypeError):
    """A word of the language was executed by Python instead of being read by `@attndsl.attention`."""


def _outside(name: str) -> NoReturn:
    message = f"`{name}` is a word of the attention language: it has a meaning only inside a function that is "
    raise OutsideSpecError(message + "decorated with @attndsl.attention, which is read and never executed")


class Term:
    """Any value inside a spec: a position, a score, a vector, a tuple of coordinates. Never made at run time."""

    def __init__(self) -> None:
        _outside(type(self).__name__)

    def __add__(self, other: Value, /) -> Term:
        _outside("add")

    def __radd__(self, other: Value, /) -> Term:
        _outside("add")

    def __sub__(self, other: Value, /) -> Term:
        _outside("sub")

    def __rsub__(self, other: Value, /) -> Term:
        _outside("sub")

    def __mul__(self, other: Value, /) -> Term:
        _outside("mul")

    def __rmul__(self, other: Value, /) -> Term:
        _outside("mul")

    def __truediv__(self, other: Value, /) -> Term:
        _outside("truediv")

    def __rtruediv__(self, other: Value, /) -> Term:
        _outside("truediv")

    def __floordiv__(self, other: Value, /) -> Term:
        _outside("floordiv")

    def __rfloordiv__(self, other: Value, /) -> Term:
        _outside("floordiv")

    def __mod__(self, other: Value, /) -> Term:
        _outside("mod")

    def __rmod__(self, other: Value, /) -> Term:
        _outside("mod")

    def __matmul__(self, other: Value, /) -> Term:
        _outside("matmul")

    def __rmatmul__(self, other: Value, /) -> Term:
        _outside("matmul")

    def __pow__(self, other: Value, /) -> Term:
        _outside("pow")

    def __rpow__(self, other: Value, /) -> Term:
        _outside("pow")

    def __lt__(self, other: Value, /) -> Term:
        _outside("lt")

    def __le__(self, other: Value, /) -> Term:
        _outside("le")

    def __gt__(self, other: Value, /) -> Term:
        _outside("gt")

    def __ge__(self, other: Value, /) -> Term:
        _outside("ge")

    # comparisons are part of the formula: they give no bool
    def __eq__(self, other: object, /) -> Term:  # type: ignore[override]
        _outside("==")

    def __ne__(self, other: object, /) -> Term:  # type: ignore[override]
        _outside("!=")

    __hash__ = None  # type: ignore[assignment]

    def __neg__(self) -> Term:
        _outside("-")

    def __bool__(self) -> bool:
        _outside("bool")

    def __contains__(self, position: Value, /) -> bool:
        _outside("in")

    def __getitem__(self, indices: Value | tuple[Value, ...], /) -> Term:
        _outside("a subscript")

    def __getattr__(self, name: str, /) -> Term:
        if name.startswith("__"):
            raise AttributeError(name)
        _outside(name)


Value = Term | bool | int | float | tuple["bool | int | float", ...]
"""What operators and functions of the language take."""


class _Sum(Term):
    """`sum(e)` over the row's visible keys, and the bare `sum` after a `/`."""

    def __init__(self) -> None:
        pass

    def __call__(self, value: Value, /) -> Term:
        _outside("sum")


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
    _outside("grid")


def score(value: Value, /) -> None:
    """A clause: the score becomes `value`, in which `s` is the score so far."""
    _outside("score")


def mask(condition: Value, /) -> None:
    """A clause: only pairs for which `condition` holds are visible. Several masks are and-ed."""
    _outside("mask")


def weight(value: Value, /, *, where: Value = True) -> Any:
    """A clause, or what is returned: the weight of a pair, made of the final score `s`."""
    _outside("weight")


def output(value: Value, /) -> None:
    """A clause: the output becomes `value`, in which `o` is the weighted sum."""
    _outside("output")


def softmax(value: Value, /, *, where: Value = True) -> Any:
    """Returned: softmax of the score `value` over visible keys. Elsewhere: softmax of a vector."""
    _outside("softmax")


def size(grid: Value | str, /) -> Any:
    """Extents of a segment, or of one axis, of the grid."""
    _outside("size")


def mean(value: Value, /) -> Term:
    """The mean over the row's visible keys."""
    _outside("mean")


def decay(gate: Value, /) -> Term:
    """exp of the sum of `gate` over the keys after k, up to q; `gate` is declared `log_decay`."""
    _outside("decay")


def clamp(value: Value, low: Value, high: Value, /) -> Term:
    """min(max(value, low), high)."""
    _outside("clamp")


def min(first: Value, second: Value, /, *more: Value) -> Any:
    """The smallest."""
    _outside("min")


def max(first: Value, second: Value, /, *more: Value) -> Any:
    """The largest."""
    _outside("max")


def all(value: Value, /) -> Any:
    """Whether a condition holds on every axis of a tuple."""
    _outside("all")


def any(value: Value, /) -> Any:
    """Whether a condition holds on some axis of a tuple."""
    _outside("any")


def abs(value: Value, /) -> Any:
    """The absolute value."""
    _outside("abs")


def concat(first: Value, second: Value, /, *more: Value) -> Term:
    """Vectors one after another."""
    _outside("concat")


def atan2(y: Value, x: Value, /) -> Term:
    """The angle of (x, y)."""
    _outside("atan2")


def dot(x: Value, y: Value, /) -> Term:
    """The dot product of two vectors, unscaled."""
    _outside("dot")


def outer(x: Value, y: Value, /) -> Term:
    """All products of components, as one vector."""
    _outside("outer")


def roll(x: Value, by: Value, /) -> Term:
    """The components of a vector, moved by an int."""
    _outside("roll")


def rope(x: Value, position: Value, /) -> Term:
    """Rotary position embedding of a vector."""
    _outside("rope")


def sign(value: Value, /) -> Term:
    """-1, 0 or 1."""
    _outside("sign")


def floor(value: Value, /) -> Term:
    """The largest int that is not larger."""
    _outside("floor")


def ceil(value: Value, /) -> Term:
    """The smallest int that is not smaller."""
    _outside("ceil")


def exp(value: Value, /) -> Term:
    """e to the power of the value."""
    _outside("exp")


def log(value: Value, /) -> Term:
    """The natural logarithm."""
    _outside("log")


def sqrt(value: Value, /) -> Term:
    """The square root."""
    _outside("sqrt")


def tanh(value: Value, /) -> Term:
    """The hyperbolic tangent."""
    _outside("tanh")


def sigmoid(value: Value, /) -> Term:
    """1 / (1 + exp(-x))."""
    _outside("sigmoid")


def elu(value: Value, /) -> Term:
    """x where positive, exp(x) - 1 elsewhere."""
    _outside("elu")


def silu(value: Value, /) -> Term:
    """x * sigmoid(x)."""
    _outside("silu")


def gelu(value: Value, /) -> Term:
    """x * Phi(x), the erf form."""
    _outside("gelu")


def softplus(value: Value, /) -> Term:
    """log(1 + exp(x))."""
    _outside("softplus")


def erf(value: Value, /) -> Term:
    """The error function."""
    _outside("erf")


def sin(value: Value, /) -> Term:
    """The sine."""
    _outside("sin")


def cos(value: Value, /) -> Term:
    """The cosine."""
    _outside("cos")


def acos(value: Value, /) -> Term:
    """The inverse cosine."""
    _outside("acos")


def relu(value: Value, /) -> Term:
    """max(x, 0)."""
    _outside("relu")


def bitlen(value: Value, /) -> Term:
    """The number of bits of |n|."""
    _outside("bitlen")


def ispow2(value: Value, /) -> Term:
    """Whether an int is a power of two."""
    _outside("ispow2")


def norm(value: Value, /) -> Term:
    """The 2-norm of a vector."""
    _outside("norm")


def total(value: Value, /) -> Term:
    """The sum of a vector's components."""
    _outside("total")


def amax(value: Value, /) -> Term:
    """The largest of a vector's components."""
    _outside("amax")


def rmsnorm(value: Value, /) -> Term:
    """A vector over the root mean square of its components."""
    _outside("rmsnorm")


# The standard library


def causal(q: Value, k: Value, /) -> Any:
    """Of the library's `masks`."""
    _outside("causal")


def sliding_window(q: Value, k: Value, window: Value, /) -> Any:
    """Of the library's `masks`."""
    _outside("sliding_window")


def local(q: Value, k: Value, radius: Value, /) -> Any:
    """Of the library's `masks`."""
    _outside("local")


def prefix(q: Value, k: Value, length: Value, /) -> Any:
    """Of the library's `masks`."""
    _outside("prefix")


def document(a: Value, b: Value, /) -> Any:
    """Of the library's `masks`."""
    _outside("document")


def block_diagonal(i: Value, j: Value, block: Value, /) -> Any:
    """Of the library's `masks`."""
    _outside("block_diagonal")


def chunked(q: Value, k: Value, chunk: Value, /) -> Any:
    """Of the library's `masks`."""
    _outside("chunked")


def block_causal(q: Value, k: Value, block: Value, /) -> Any:
    """Of the library's `masks`."""
    _outside("block_causal")


def dilated(q: Value, k: Value, window: Value, step: Value, /) -> Any:
    """Of the library's `masks`."""
    _outside("dilated")


def strided(q: Value, k: Value, stride: Value, /) -> Any:
    """Of the library's `masks`."""
    _outside("strided")


def fixed(q: Value, k: Value, block: Value, summary: Value, /) -> Any:
    """Of the library's `masks`."""
    _outside("fixed")


def sink_window(q: Value, k: Value, sink: Value, window: Value, /) -> Any:
    """Of the library's `masks`."""
    _outside("sink_window")


def power(q: Value, k: Value, block: Value, window: Value, sink: Value, /) -> Any:
    """Of the library's `masks`."""
    _outside("power")


def heterogeneous_strided(q: Value, k: Value, block: Value, window: Value, stride: Value, shift: Value, /) -> Any:
    """Of the library's `masks`."""
    _outside("heterogeneous_strided")


def neighborhood(i: Value, j: Value, n: Value, w: Value, s: Value, d: Value, is_causal: Value, /) -> Any:
    """Of the library's `masks`."""
    _outside("neighborhood")


def swin(i: Value, j: Value, w: Value, r: Value, /) -> Any:
    """Of the library's `masks`."""
    _outside("swin")


def swin_wrapped(i: Value, j: Value, n: Value, w: Value, r: Value, /) -> Any:
    """Of the library's `masks`."""
    _outside("swin_wrapped")


def halo(i: Value, j: Value, b: Value, margin: Value, /) -> Any:
    """Of the library's `masks`."""
    _outside("halo")


def axial(y: Value, x: Value, v: Value, u: Value, /) -> Any:
    """Of the library's `masks`."""
    _outside("axial")


def convolution(i: Value, j: Value, w: Value, d: Value, /) -> Any:
    """Of the library's `masks`."""
    _outside("convolution")


def spread(i: Value, j: Value, n: Value, parts: Value, /) -> Any:
    """Of the library's `masks`."""
    _outside("spread")


def radial(t: Value, p: Value, u: Value, r: Value, n: Value, factor: Value, block: Value, /) -> Any:
    """Of the library's `masks`."""
    _outside("radial")


def alibi(d: Value, slope: Value, /) -> Any:
    """Of the library's `scores`."""
    _outside("alibi")


def alibi_slope(h: Value, heads: Value, /) -> Any:
    """Of the library's `scores`."""
    _outside("alibi_slope")


def t5_bucket(d: Value, buckets: Value, furthest: Value, /) -> Any:
    """Of the library's `scores`."""
    _outside("t5_bucket")


def t5_bucket_both(d: Value, buckets: Value, furthest: Value, /) -> Any:
    """Of the library's `scores`."""
    _outside("t5_bucket_both")


def softcap(s: Value, cap: Value, /) -> Any:
    """Of the library's `scores`."""
    _outside("softcap")


def kerple(d: Value, a: Value, c: Value, /) -> Any:
    """Of the library's `scores`."""
    _outside("kerple")


def scalable(s: Value, n: Value, factor: Value, /) -> Any:
    """Of the library's `scores`."""
    _outside("scalable")


def gain(g: Value, /) -> Any:
    """Of the library's `scores`."""
    _outside("gain")


def elu1(x: Value, /) -> Any:
    """Of the library's `features`."""
    _outside("elu1")


def relu2(x: Value, /) -> Any:
    """Of the library's `features`."""
    _outside("relu2")


def exp_shifted(x: Value, /) -> Any:
    """Of the library's `features`."""
    _outside("exp_shifted")


def positive(x: Value, /) -> Any:
    """Of the library's `features`."""
    _outside("positive")


def focused(x: Value, /) -> Any:
    """Of the library's `features`."""
    _outside("focused")


def turned(x: Value, p: Value, /) -> Any:
    """Of the library's `features`."""
    _outside("turned")


def norm_aware(x: Value, width: Value, /) -> Any:
    """Of the library's `features`."""
    _outside("norm_aware")


def t2r(x: Value, W: Value, c: Value, /) -> Any:
    """Of the library's `features`."""
    _outside("t2r")


def hedgehog(x: Value, W: Value, /) -> Any:
    """Of the library's `features`."""
    _outside("hedgehog")


def performer(x: Value, W: Value, d: Value, m: Value, /) -> Any:
    """Of the library's `features`."""
    _outside("performer")


def dpfp(x: Value, shift: Value, /) -> Any:
    """Of the library's `features`."""
    _outside("dpfp")


def cosformer(x: Value, p: Value, n: Value, /) -> Any:
    """Of the library's `features`."""
    _outside("cosformer")


def square(x: Value, /) -> Any:
    """Of the library's `features`."""
    _outside("square")


def cube(x: Value, /) -> Any:
    """Of the library's `features`."""
    _outside("cube")


def taylor(x: Value, d: Value, /) -> Any:
    """Of the library's `features`."""
    _outside("taylor")


def laplace(s: Value, /) -> Any:
    """Of the library's `features`."""
    _outside("laplace")
