"""Which loops a kernel has: one for FULL and one for PARTIAL boxes, or one over all with warps that only load."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from attndsl.codegen.triton_form import Form
from attndsl.ir.attention import Attention
from attndsl.runtime.triton.config import Config
from attndsl.runtime.triton.generated import forward_module
from attndsl.runtime.triton.several import sums_components
from attndsl.runtime.triton.tables import LaunchTables


@dataclass(frozen=True)
class Walked:
    """The form and configuration that a launch uses, and why a wish for specialised warps is not granted (empty where
    it is, or where there is none)."""

    form: Form
    config: Config
    reason: str = ""


def walked(attention: Attention, form: Form, tables: LaunchTables, config: Config, capability: int) -> Walked:
    """Grant `config.specialize` where Triton is known to specialise the kernel's loop."""
    form = replace(form, pipelined=pipelines(attention, form, config))
    reason = refusal(attention, form, tables, config, capability) if config.specialize else ""
    if config.specialize and not reason:
        return Walked(replace(form, walk="specialized", bare=tables.bare), config)
    # on a line lengths decide whether a last box is cut, and new ones are not to compile again
    return Walked(replace(form, bare=form.on_grid and tables.bare), plain(config), reason)


def pipelines(attention: Attention, form: Form, config: Config) -> bool:
    """Whether descriptors load boxes ahead: shared memory holds two stages of heads that are not larger. Nothing is
    loaded ahead of a loop over components."""
    return form.tma and config.stages > 1 and max(form.depth, form.Dv) <= 128 and not sums_components(attention)


def plain(config: Config) -> Config:
    """A configuration with the same tile and two loops."""
    if not config.specialize:
        return config
    return replace(config, specialize=False, warps=8 if config.rows >= 128 else 4, stages=3, registers=0)


@lru_cache(maxsize=1024)
def specialized(compiled: Any) -> bool:
    """Whether a compiled kernel has specialised warps."""
    text = compiled.asm["ttgir"] if hasattr(compiled, "asm") else compiled.ttgir
    return "ttg.warp_specialize" in text


def refusal(attention: Attention, form: Form, tables: LaunchTables, config: Config, capability: int) -> str:
    """Why a kernel cannot have specialised warps; empty if it can."""
    if capability // 10 != 9:
        return "warps are specialised on compute capability 9 only"
    if config.warps != 4 or config.rows < 64:
        return "specialised warps are groups of 4, over tiles of at least 64 rows"
    if config.stages != 2:
        return "Triton 3.6 computes wrong numbers with specialised warps and other than 2 stages"
    if form.products:
        return "tiles have several dot products"
    if sums_components(attention):
        return "tiles have sums over components"
    if not form.low_precision:
        return "fp32 products have no matrix instructions"
    if not form.tma:
        return "keys and values are not loaded by tensor descriptors"
    if len(form.q.axes) > 1 or form.q.any_split:
        return "the rows of a tile are not neighbours in memory"
    if len(form.pieces) != 1:
        return "keys of several segments take several loops"
    piece = form.pieces[0]
    if len(piece.side.axes) > 1:
        return "Triton 3.6 lets boxes of several axes be overwritten before products have read them"
    if not (piece.spans or piece.flat):
        return "tiles with many runs of boxes take nested loops"
    if forward_module(attention, replace(form, walk="specialized", bare=tables.bare)).reads_vectors:
        return "vectors of inputs are loaded by pointers"
    return ""
