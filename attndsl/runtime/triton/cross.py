"""Kernels compiled for a GPU that is not there: machine code, registers, spills and shared memory."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attndsl.codegen.triton import TritonModule
from attndsl.codegen.triton_form import Dtype
from attndsl.runtime.triton.compiled import our_cache
from attndsl.runtime.triton.modules import load_module


@dataclass(frozen=True)
class Compiled:
    """A kernel's code and what it takes: registers per thread, bytes of spilled registers per thread, bytes of shared
    memory per block."""

    registers: int
    spills: int
    shared: int
    ptx: str
    ttgir: str
    cubin: bytes


def cross_compile(
    module: TritonModule,
    constants: Mapping[str, int | bool],
    *,
    dtype: Dtype,
    inputs: Mapping[str, str],
    warps: int,
    stages: int,
    capability: int = 90,
    kernel: str = "",
    registers: int = 0,
) -> Compiled:
    """Compile a kernel of a module for a compute capability (times ten). `inputs` gives the element types of inputs as
    Triton spells them (`fp32`, `i32`, `u8` for bools); pointers are taken to be aligned to 16 bytes. `registers` is the
    most that a thread may have."""
    signature, attributes = signature_of(module, dtype, inputs)
    function = getattr(load_module(module.source), kernel or module.name)
    values = {a.name: constants[a.name] for a in module.arguments if a.role == "constexpr"}
    options = {"num_warps": warps, "num_stages": stages, **({"maxnreg": registers} if registers else {})}
    return compile_for(capability, function, signature, values, attributes, options)


def compile_for(
    capability: int,
    function: Any,
    signature: Mapping[str, str],
    constants: Mapping[str, Any],
    attributes: Mapping[tuple[int, ...], Any],
    options: Mapping[str, int],
) -> Compiled:
    """Compile a function of a module for a compute capability (times ten): types of arguments by name, values of
    constexprs, and by position what is known of an argument."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(function, dict(signature), constexprs=dict(constants), attrs=dict(attributes))
    with our_cache():
        built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(options))
    cubin = built.asm["cubin"]
    registers, spills = _resources(cubin)
    return Compiled(registers, spills, built.metadata.shared, built.asm["ptx"], built.asm["ttgir"], cubin)


def signature_of(
    module: TritonModule, dtype: Dtype, inputs: Mapping[str, str]
) -> tuple[dict[str, str], dict[tuple[int, ...], list[list[Any]]]]:
    """Argument types by name, and by position what Triton may know of an argument: pointers are aligned."""
    signature: dict[str, str] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for i, a in enumerate(module.arguments):
        type_ = a.type
        if type_ == "*qkv":
            type_ = f"*{dtype}"
        elif type_ == "*input":
            type_ = f"*{inputs[str(a.key[0])]}"
        signature[a.name] = type_
        if type_.startswith("*"):
            attributes[(i,)] = [["tt.divisibility", 16]]
    return signature, attributes


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers and stack (spilled registers) per thread, as `cuobjdump` of the Triton wheel reads them."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        shown = subprocess.run([str(tool), "-res-usage", file.name], capture_output=True, text=True, check=True)
    text = shown.stdout + shown.stderr
    registers, stack = re.search(r"REG:(\d+)", text), re.search(r"STACK:(\d+)", text)
    if registers is None or stack is None:
        raise RuntimeError(f"cuobjdump said nothing of registers: {text[:200]}")
    return int(registers.group(1)), int(stack.group(1))
