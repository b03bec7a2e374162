"""Functions of the standard library, whose meaning is in `attndsl/std/*.attn`."""

from __future__ import annotations

from typing import Any

from attndsl.lang.terms import Value, outside


def causal(q: Value, k: Value, /) -> Any:
    """Of the library's `masks`."""
    outside("causal")


def sliding_window(q: Value, k: Value, window: Value, /) -> Any:
    """Of the library's `masks`."""
    outside("sliding_window")


def local(q: Value, k: Value, radius: Value, /) -> Any:
    """Of the library's `masks`."""
    outside("local")


def prefix(q: Value, k: Value, length: Value, /) -> Any:
    """Of the library's `masks`."""
    outside("prefix")


def document(a: Value, b: Value, /) -> Any:
    """Of the library's `masks`."""
    outside("document")


def block_diagonal(i: Value, j: Value, block: Value, /) -> Any:
    """Of the library's `masks`."""
    outside("block_diagonal")


def chunked(q: Value, k: Value, chunk: Value, /) -> Any:
    """Of the library's `masks`."""
    outside("chunked")


def block_causal(q: Value, k: Value, block: Value, /) -> Any:
    """Of the library's `masks`."""
    outside("block_causal")


def dilated(q: Value, k: Value, window: Value, step: Value, /) -> Any:
    """Of the library's `masks`."""
    outside("dilated")


def strided(q: Value, k: Value, stride: Value, /) -> Any:
    """Of the library's `masks`."""
    outside("strided")


def fixed(q: Value, k: Value, block: Value, summary: Value, /) -> Any:
    """Of the library's `masks`."""
    outside("fixed")


def sink_window(q: Value, k: Value, sink: Value, window: Value, /) -> Any:
    """Of the library's `masks`."""
    outside("sink_window")


def power(q: Value, k: Value, block: Value, window: Value, sink: Value, /) -> Any:
    """Of the library's `masks`."""
    outside("power")


def heterogeneous_strided(q: Value, k: Value, block: Value, window: Value, stride: Value, shift: Value, /) -> Any:
    """Of the library's `masks`."""
    outside("heterogeneous_strided")


def neighborhood(i: Value, j: Value, n: Value, w: Value, s: Value, d: Value, is_causal: Value, /) -> Any:
    """Of the library's `masks`."""
    outside("neighborhood")


def swin(i: Value, j: Value, w: Value, r: Value, /) -> Any:
    """Of the library's `masks`."""
    outside("swin")


def swin_wrapped(i: Value, j: Value, n: Value, w: Value, r: Value, /) -> Any:
    """Of the library's `masks`."""
    outside("swin_wrapped")


def halo(i: Value, j: Value, b: Value, margin: Value, /) -> Any:
    """Of the library's `masks`."""
    outside("halo")


def axial(y: Value, x: Value, v: Value, u: Value, /) -> Any:
    """Of the library's `masks`."""
    outside("axial")


def convolution(i: Value, j: Value, w: Value, d: Value, /) -> Any:
    """Of the library's `masks`."""
    outside("convolution")


def spread(i: Value, j: Value, n: Value, parts: Value, /) -> Any:
    """Of the library's `masks`."""
    outside("spread")


def radial(t: Value, p: Value, u: Value, r: Value, n: Value, factor: Value, block: Value, /) -> Any:
    """Of the library's `masks`."""
    outside("radial")


def alibi(d: Value, slope: Value, /) -> Any:
    """Of the library's `scores`."""
    outside("alibi")


def alibi_slope(h: Value, heads: Value, /) -> Any:
    """Of the library's `scores`."""
    outside("alibi_slope")


def t5_bucket(d: Value, buckets: Value, furthest: Value, /) -> Any:
    """Of the library's `scores`."""
    outside("t5_bucket")


def t5_bucket_both(d: Value, buckets: Value, furthest: Value, /) -> Any:
    """Of the library's `scores`."""
    outside("t5_bucket_both")


def softcap(s: Value, cap: Value, /) -> Any:
    """Of the library's `scores`."""
    outside("softcap")


def kerple(d: Value, a: Value, c: Value, /) -> Any:
    """Of the library's `scores`."""
    outside("kerple")


def scalable(s: Value, n: Value, factor: Value, /) -> Any:
    """Of the library's `scores`."""
    outside("scalable")


def gain(g: Value, /) -> Any:
    """Of the library's `scores`."""
    outside("gain")


def elu1(x: Value, /) -> Any:
    """Of the library's `features`."""
    outside("elu1")


def relu2(x: Value, /) -> Any:
    """Of the library's `features`."""
    outside("relu2")


def exp_shifted(x: Value, /) -> Any:
    """Of the library's `features`."""
    outside("exp_shifted")


def positive(x: Value, /) -> Any:
    """Of the library's `features`."""
    outside("positive")


def focused(x: Value, /) -> Any:
    """Of the library's `features`."""
    outside("focused")


def turned(x: Value, p: Value, /) -> Any:
    """Of the library's `features`."""
    outside("turned")


def norm_aware(x: Value, width: Value, /) -> Any:
    """Of the library's `features`."""
    outside("norm_aware")


def t2r(x: Value, W: Value, c: Value, /) -> Any:
    """Of the library's `features`."""
    outside("t2r")


def hedgehog(x: Value, W: Value, /) -> Any:
    """Of the library's `features`."""
    outside("hedgehog")


def performer(x: Value, W: Value, d: Value, m: Value, /) -> Any:
    """Of the library's `features`."""
    outside("performer")


def dpfp(x: Value, shift: Value, /) -> Any:
    """Of the library's `features`."""
    outside("dpfp")


def cosformer(x: Value, p: Value, n: Value, /) -> Any:
    """Of the library's `features`."""
    outside("cosformer")


def square(x: Value, /) -> Any:
    """Of the library's `features`."""
    outside("square")


def cube(x: Value, /) -> Any:
    """Of the library's `features`."""
    outside("cube")


def taylor(x: Value, d: Value, /) -> Any:
    """Of the library's `features`."""
    outside("taylor")


def laplace(s: Value, /) -> Any:
    """Of the library's `features`."""
    outside("laplace")
