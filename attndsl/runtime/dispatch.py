"""Which backend runs a call, and its kernel."""

from __future__ import annotations

import importlib.util
import os

from attndsl.ir.attention import Attention
from attndsl.runtime.call import Kernel
from attndsl.runtime.names import choice

BACKENDS = ("cpu", "triton", "cutlass")
"""Names that `backend=` takes."""

_DEVICES = {"cpu": "cpu", "triton": "cuda", "cutlass": "cuda"}
_BUILT = ("cpu", "triton")


def check_backend(owner: str, backend: object) -> str:
    """A backend that this version has. ValueError for an unknown name and for one without kernels."""
    name = choice(owner, "backend", backend, BACKENDS)
    if name not in _BUILT:
        raise ValueError(
            f"{owner}: backend {name!r} has no kernels in this version; "
            "backend 'cpu' can run this attention, on CPU tensors"
        )
    return name


def choose_backend(owner: str, backend: object, device: str) -> str:
    """The backend for tensors on a device (`cpu`, `cuda`): the one asked for, or the device's own."""
    if backend is None:
        if device != "cpu":
            if device in _DEVICES.values():
                return "triton"
            raise ValueError(
                f"{owner}: tensors are on {device}, which no backend of this version runs; "
                "backend 'cpu' runs CPU tensors (q.cpu(), ...)"
            )
        return "cpu"
    name = check_backend(owner, backend)
    if name == "triton" and device == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return name
    if _DEVICES[name] != device:
        raise ValueError(f"{owner}: backend {name!r} runs {_DEVICES[name]} tensors, but 'q' is on {device}")
    return name


def kernel_of(attention: Attention, backend: str) -> Kernel:
    """The kernel of an attention (consts bound, simplified) on a backend."""
    if backend == "triton":
        if importlib.util.find_spec("triton") is None:
            raise ValueError(f"{attention.name}: backend 'triton' needs the package triton (attndsl[triton])")
        from attndsl.runtime.triton import kernel_for

        return kernel_for(attention)
    assert backend == "cpu", backend
    from attndsl.runtime.cpu import CpuKernel

    return CpuKernel(attention)


def source_of(attention: Attention, backend: str) -> str:
    """The generated code of an attention (consts bound, simplified) on a backend."""
    if backend == "triton":
        from attndsl.codegen import triton_source

        return triton_source.source_of(attention)
    from attndsl.codegen.cpu import generate

    return generate(attention).source
