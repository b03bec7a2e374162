"""Triton code of decays per channel: what scans of chunks need, and the gradients of pairs within chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attndsl.codegen.expr_triton import Reads
from attndsl.codegen.templates import render
from attndsl.codegen.triton_arguments import Argument
from attndsl.codegen.triton_form import Dtype, Part, parts
from attndsl.codegen.triton_scan import ScanModule, map_code, padded_parts, read_arguments, tidied
from attndsl.ir.expr import Expr

Units = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Channel:
    """The kernels `gates` and `finish`, and the careful ones of both, for features of `keys` components and `values`
    values.

    `units` are the elements that strides of a tensor are counted in, by name. `summed`: every dA_ij has a number u_i of
    its row more (a normaliser's). The slopes, functions of what the features of queries and of keys were made from, are
    what gradients of features are multiplied by.
    """

    dtype: Dtype
    keys: int
    values: int
    strict: bool = False
    summed: bool = False
    query_slope: Expr | None = None
    key_slope: Expr | None = None
    units: Units = ()
    ranks: tuple[tuple[str, int], ...] = ()
    wide: bool = False


@dataclass
class _Side:
    name: str
    raw: str
    slope: list[Any] | None
    slice_slope: Any


def finish_slices(keys: int) -> int:
    """How many programs of `finish` share a chunk: each has 64 components, which fit into its registers."""
    return -(-keys // 64)


GATES = ("q", "k", "g")
FINISH = ("q", "k", "g", "v", "do")


def generate_channel(c: Channel, title: list[str]) -> ScanModule:
    """The module of a decay per channel. `title` is a comment at its top."""
    reads = Reads(dict(c.ranks), c.wide)
    keys, values = parts(c.keys), parts(c.values)
    whole = padded_parts(c.keys, c.dtype)
    sides: list[_Side] = []
    for name, slope in (("q", c.query_slope), ("k", c.key_slope)):
        made = None
        one = None
        if slope is not None:
            made = [map_code(slope, f"raw_{name}{p.index}", f"d{name}{p.index}_", reads) for p in keys]
            one = map_code(slope, f"raw_{name}0", f"d{name}0_", reads)
        sides.append(_Side(name, f"{name}_raw", made, one))
    raw = [s.raw for s in sides if s.slope]
    roles: dict[str, list[str]] = {
        "gates": list(GATES), "careful": list(GATES), "finish": [*FINISH, *raw], "finish_careful": [*FINISH, *raw],
    }  # fmt: skip
    arguments = {name: tuple(_arguments(c, name, roles[name], reads)) for name in roles}
    units = dict(c.units)
    text = render(
        "triton/scan_channel.py.j2", title=title, helpers=reads.helpers, fast_tanh=False, keys=keys, values=values,
        size=c.keys, value_size=c.values, strict=c.strict, summed=c.summed, sides=sides, arguments=arguments,
        units={n: [(r, units.get(r, 1)) for r in found] for n, found in roles.items()},
        numbers={
            n: [a.name for a in found if a.role != "constexpr" and not a.type.startswith("*")]
            for n, found in arguments.items()
        },
        whole=whole, slices=finish_slices(c.keys), slice=Part(0, 0, 64, True),
        whole_values=padded_parts(c.values, c.dtype), small_range=c.dtype == "fp16",
        precision=', input_precision="ieee"' if c.dtype == "fp32" else "",
        exact=f', input_precision="{"ieee" if c.dtype == "fp32" else "tf32"}"',
    )  # fmt: skip
    return ScanModule(tidied(text), arguments)


def _arguments(c: Channel, kernel: str, roles: list[str], reads: Reads) -> list[Argument]:
    gates = kernel in ("gates", "careful")
    found = [Argument(r, "*input" if r == "g" else "*qkv", "tensor", (r,)) for r in roles]
    if gates:
        found += [Argument(n, "*qkv", "tensor", (n,)) for n in ("q_decayed", "k_decayed", "weights")]
        found.append(Argument("factors", "*fp32", "tensor", ("factors",)))
    else:
        found += [Argument(n, "*fp32", "tensor", (n,)) for n in ("q_inter", "k_inter", "log")]
        found += [Argument("u", "*fp32", "tensor", ("u",))] if c.summed else []
        found += [Argument("grad_q", "*qkv", "tensor", ("grad_q",)), Argument("grad_k", "*fp32", "tensor", ("grad_k",))]
    found += [] if kernel == "finish" else [Argument("done", "*i32", "tensor", ("done",))]
    found += [Argument(f"{r}_s{axis}", "i64", "stride", (r, axis)) for r in roles for axis in "bhl"]
    found += [Argument(f"{r}_group", "i32", "number", (f"{r}_group",)) for r in roles]
    numbers = ["group", "H", "L", "chunks", *(["k_share"] if gates else [])]
    found += [Argument(n, "i32", "number", (n,)) for n in numbers]
    found += [] if gates else read_arguments(reads)
    found += [Argument("REST", "constexpr", "constexpr", ("REST",))] if "careful" in kernel else []
    return [*found, Argument("BT", "constexpr", "constexpr", ("BT",))]
