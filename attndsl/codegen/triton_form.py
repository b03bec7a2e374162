"""What a Triton kernel is generated for: the shape of the plan, element type and head sizes, but no length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal as Lit

from attndsl.ir.attention import Attention, Segment, Space
from attndsl.ir.expr import FURTHER

Dtype = Lit["fp16", "bf16", "fp32"]


@dataclass(frozen=True)
class SideForm:
    """A segment's axes (none of extent 1 by construction) and which of them are split into residue classes."""

    segment: str
    axes: tuple[str, ...]
    split: tuple[bool, ...]

    @property
    def any_split(self) -> bool:
        return any(self.split)


FULL_SPANS, PARTIAL_SPANS = 2, 3
"""Runs of FULL and of PARTIAL boxes that a tile may have where they are told by spans."""
Walk = Lit["two loops", "one loop", "specialized"]


@dataclass(frozen=True)
class PieceForm:
    """How the boxes of a k segment are told.

    `spans`: at most FULL_SPANS and PARTIAL_SPANS runs of boxes along the only axis, whose places a kernel computes.
    Otherwise a list: box by box (`flat`), or runs along the only axis.
    """

    side: SideForm
    flat: bool
    spans: bool = False

    @property
    def numbers(self) -> int:
        """How many numbers a tile has in the table of bounds: three places in a list, or, for every span, where it ends
        in the count of boxes and its origin, and the residue of its columns."""
        return 2 * (FULL_SPANS + PARTIAL_SPANS) + int(self.side.any_split) if self.spans else 3


@dataclass(frozen=True)
class Part:
    """Components [start, start + width) of a head; `ragged` where the head ends inside."""

    index: int
    start: int
    width: int
    ragged: bool


def parts(size: int, least: int = 16) -> tuple[Part, ...]:
    """A head size as powers of two of at least `least`: 96 is 64 + 32, 40 is 32 + 16, or 64."""
    left, start = -(-size // least) * least, 0
    found: list[Part] = []
    while left:
        width = 1 << (left.bit_length() - 1)
        found.append(Part(len(found), start, width, start + width > size))
        start, left = start + width, left - width
    return tuple(found)


@dataclass(frozen=True)
class Form:
    """A kernel: the rows of one q segment against the pieces of their k segments. `turned`: the other way round, `q` is
    the k segment whose keys are a tile's rows, and `pieces` are q segments.

    `on_grid`: axes are those of the attention's grids; otherwise positions are linear and coordinates follow from
    them. `tma`: k and v (q on a line) are loaded as boxes by tensor descriptors, otherwise by pointers. `aligned`:
    addresses and strides of q, k and v are multiples of 16 bytes. `wide`: an input has 2^31 elements or more.
    `far`: elements of a tile or box lie 2^31 or more apart. `batch_offset`: `q_offset` is a tensor. `negative`: the
    scale is below zero. `boxed_stats`: what is known of rows is loaded as boxes too, which begin at multiples of 16
    bytes. `loaded`: scalars that are given as tensors of one number, sorted.

    `products`: components of the vectors of further dot products, in order.

    `walk`: a loop over FULL boxes without mask code and one over PARTIAL boxes; or one loop over all boxes, whose mask
    is arithmetic that FULL boxes switch off, `specialized` if some warps only load. `bare`: all boxes are FULL, so that
    there is no mask at all. `pipelined`:
    boxes that descriptors load are under way while others are multiplied.
    """

    dtype: Dtype
    D: int
    Dv: int
    q: SideForm
    pieces: tuple[PieceForm, ...]
    on_grid: bool = False
    tma: bool = False
    aligned: bool = False
    wide: bool = False
    batch_offset: bool = False
    negative: bool = False
    interpreted: bool = False
    walk: Walk = "two loops"
    bare: bool = False
    searched: bool = False
    far: bool = False
    turned: bool = False
    loaded: tuple[str, ...] = ()
    boxed_stats: bool = False
    pipelined: bool = False
    products: tuple[int, ...] = ()

    @property
    def depth(self) -> int:
        """Components of a query or key in all dot products."""
        return self.D + sum(self.products)

    @property
    def sides(self) -> tuple[Lit["q", "k"], Lit["q", "k"]]:
        """The side of a tile's rows and that of its columns."""
        return ("k", "q") if self.turned else ("q", "k")

    @property
    def stride_unit(self) -> int:
        """Elements that strides are counted in."""
        return (8 if self.low_precision else 4) if self.aligned or self.tma else 1

    @property
    def low_precision(self) -> bool:
        return self.dtype != "fp32"

    @property
    def narrowest(self) -> int:
        """The least width of a part of a product's result. On Hopper, Triton 3.6 multiplies wrong by boxes that are not
        loaded ahead by descriptors and are narrower than others: it reads shared memory beyond them."""
        if self.pipelined or not self.low_precision:
            return 16
        return min(64, max(p.width for n in (self.D, self.Dv, *self.products) for p in parts(n)))

    @property
    def v_parts(self) -> tuple[Part, ...]:
        """The parts of a value, and of a row of the output."""
        return parts(self.Dv, self.narrowest)


@dataclass(frozen=True)
class LimitedPart:
    """A part and where its head ends."""

    index: int
    start: int
    width: int
    ragged: bool
    limit: int


def limited(found: tuple[Part, ...], limit: int) -> list[LimitedPart]:
    """Parts as templates take them."""
    return [LimitedPart(p.index, p.start, p.width, p.ragged, limit) for p in found]


@dataclass(frozen=True)
class Product:
    """A dot product of a tile as templates take it: its tensors `q` and `k`, of `D` components in `parts`, and its
    name, `s` and the letter behind those of its tensors."""

    letter: str
    D: int
    parts: list[LimitedPart]

    @property
    def q(self) -> str:
        return "q" + self.letter

    @property
    def k(self) -> str:
        return "k" + self.letter

    @property
    def s(self) -> str:
        return "s" + self.letter


def products_of(form: Form, narrowest: int = 16) -> list[Product]:
    """The dot products of a form's pairs, that of q and k first."""
    sizes = {"": form.D} | {leaf.name[1:]: n for leaf, n in zip(FURTHER, form.products, strict=False)}
    return [Product(letter, n, limited(parts(n, narrowest), n)) for letter, n in sizes.items()]


def typical_forms(attention: Attention) -> tuple[Form, ...]:
    """The forms that a call of this attention most likely needs: bf16, heads of 128, tensors that TMA can load."""
    columns, rows = _sides(attention.k_space), _sides(attention.q_space)
    pieces = tuple(PieceForm(s, len(s.axes) > 1, len(s.axes) == 1) for s in columns)
    on_grid = attention.gridded
    further = tuple(128 for _ in attention.products)
    if len(further) > 1:
        further = tuple(64 for _ in further)
    return tuple(
        Form("bf16", 128, 128, r, pieces, on_grid=on_grid, tma=True, aligned=True, products=further) for r in rows
    )


def _sides(space: Space | None) -> list[SideForm]:
    return [SideForm("", ("0",), (False,))] if space is None else [_side(s) for s in space.segments]


def _side(segment: Segment) -> SideForm:
    return SideForm(segment.name, segment.axes, (False,) * len(segment.axes))
