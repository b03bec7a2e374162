"""Triton code for few rows: the keys of a row are split over many programs, whose partial results are merged.

The heads that share keys are rows of one tile, so that every key is read once for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attndsl.codegen.expr_triton import UnsupportedError
from attndsl.codegen.templates import render
from attndsl.codegen.triton import Generator, TritonModule, tidy
from attndsl.codegen.triton_arguments import Argument, read_arguments
from attndsl.codegen.triton_form import Form
from attndsl.codegen.triton_score import TILE_FIRST_ROW, TILE_ORIGIN
from attndsl.codegen.triton_sides import RowCode
from attndsl.ir.attention import Attention
from attndsl.ir.expr import Expr, Index
from attndsl.ir.types import INT


@dataclass(frozen=True)
class DecodeModule(TritonModule):
    """A generated module: its text, and the arguments of its kernels `decode` and `merge`, the same and in order.

    `state` names what a share of the keys leaves of a row beside the sums of its values.
    """

    state: tuple[str, ...] = ()


def generate_decode(attention: Attention, form: Form) -> DecodeModule:
    """The module of an attention (consts bound, simplified) for a form on a line, with keys of one segment that are
    loaded by pointers. UnsupportedError names a missing feature."""
    if attention.products:
        raise UnsupportedError("kernels of few rows for several dot products of a pair")
    assert len(form.pieces) == 1
    assert len(form.q.axes) == 1
    assert not (form.tma or form.on_grid)
    return _DecodeGenerator(attention, form).decode_module()


class _DecodeGenerator(Generator):
    def decode_module(self) -> DecodeModule:
        piece = self._piece(0)
        piece.entry += 1
        piece.loads = [line.replace(f"run * {piece.entry - 1}", f"run * {piece.entry}") for line in piece.loads]
        if piece.flat:
            piece.entry -= 1
        end = self._end()
        arguments = self._decode_arguments()
        state = self._state()
        holes = self._holes(arguments)
        text = render("triton/decode.py.j2", **holes, p=piece, end=end, state=state)
        return DecodeModule(tidy(text), arguments, self.reads.vectors, "decode", state=tuple(state))

    def _rows(self) -> RowCode:
        """Rows of a tile: positions of the plan's row tile for the first head of a group, then for the next."""
        form = self.form
        split = form.q.any_split
        width = 3 if split else 2
        at = f"rows + tile * {width}"
        lines = [
            "local = tl.arange(0, BM)[:, None]",
            f"c_0 = tl.load({at}) + local % width",
            f"row = tl.load({at} + 2) + split_q_0 * c_0" if split else "row = c_0",
            f"row_inside = (local < group * width) & (c_0 < tl.load({at} + 1)) & (row < Lq)",
            "h = hkv * group + tl.minimum(local // width, group - 1)",
            "q_at = row + q_offset",
        ]
        leaves: dict[Expr, str] = {Index(INT, n): n for n in ("row", "b", "h", "hkv")}
        # the same for all tiles: shares of different tiles, and what merges them, agree
        leaves |= {Index(INT, "q"): "q_at", TILE_FIRST_ROW: "0", TILE_ORIGIN: "q_offset"}
        return RowCode(form.q.axes, split, ["BM"], ["Lq"], lines, leaves)

    def _by_row(self, e: Expr) -> bool:
        # heads are rows, and so is whatever varies with them
        return True

    def _vector(self, text: str, e: Expr) -> str:
        return f"tl.reshape({text} + tl.zeros([BM, 1], tl.float32), [BM])"

    def _state(self) -> Mapping[str, str]:
        """Vectors [BM] that shares leave, and the code that makes fp32 of them."""
        found = {"m": "m", "l": "l"} if self.rule.logit is not None else {}
        found |= {f"sum{i}": f"sum{i}" for i in range(len(self.rule.sums))}
        if self.rule.counts:
            found["count"] = "count.to(tl.float32, bitcast=True)"
        return found

    def _decode_arguments(self) -> tuple[Argument, ...]:
        form = self.form
        found = [Argument(t, "*qkv", "tensor", (t,)) for t in ("q", "k", "v", "out")]
        found.append(Argument("partial", "*fp32", "tensor", ("partial",)))
        if self.rule.logit is not None:
            found.append(Argument("lse", "*fp32", "tensor", ("lse",)))
        found.append(Argument("rows", "*i32", "table", ("rows", -1)))
        found += [Argument(t, "*i32", "table", (t, 0)) for t in ("bounds", "boxes", "classes")]
        if form.batch_offset:
            found.append(Argument("offsets", "*i32", "tensor", ("offsets",)))
        for t in "qkv":
            found += [Argument(f"{t}_s{axis}", "i64", "stride", (t, n)) for n, axis in enumerate("bhl")]
        numbers = ["B", "H", "Hkv", "Lq", "Lk", "tiles", "width", "splits"]
        numbers += [] if form.batch_offset else ["q_offset"]
        numbers += ["k_start", "class_sb", "class_sh"]
        numbers += ["split_q_0"] if form.q.any_split else []
        numbers += ["split_k_0"] if form.pieces[0].side.any_split else []
        found += [Argument(n, "i32", "number", (n, -1)) for n in numbers]
        found.append(Argument("scale", "fp32", "number", ("scale", -1)))
        found += read_arguments(self.reads)
        constants = ["BM", "BN", "SPLIT", *(["LSE"] if self.rule.logit is not None else [])]
        return (*found, *(Argument(c, "constexpr", "constexpr", (c,)) for c in constants))
