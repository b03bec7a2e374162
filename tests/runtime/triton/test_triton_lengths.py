"""A call that differs from earlier ones in lengths launches what it would launch if there had been none.

Kernels are not compiled: a launch is written down, with the kernel that would run, all numbers and the tables.
"""
# pyright: reportUnknownMemberType=false, reportMissingImports=false, reportUnknownLambdaType=false
# pyright: reportPrivateUsage=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import ctypes
import random
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakValueDictionary

import pytest
import torch
from torch import Tensor

import attndsl
from attndsl.runtime import lengths, registry
from attndsl.runtime.triton import filling, launch
from attndsl.runtime.triton.config import Config, configured
from tests.drawing import SEED
from tests.runtime.triton.pretend import pretend

pytest.importorskip("triton")

SPECS: dict[str, tuple[str, dict[str, Callable[[Any], Any]]]] = {
    "causal": ("attention causal { mask k <= q }", {}),
    "full": ("attention full { score s }", {}),
    "ahead": ("attention ahead { mask q - k > -150 }", {}),
    "sink": ("attention sink { mask k <= q and (q - k < 200 or k < 64) }", {}),
    "end": ("attention last { mask k <= q and k >= Lk - 300 }", {}),
    "window": (
        "attention window(scalar w: int, scalar c: float, input slope: f32[H])"
        "{ score s - c * slope[h] * (q - k) mask k <= q and q - k < w }",
        {"w": lambda it: it.w, "c": lambda it: it.c, "slope": lambda it: torch.ones(it.H)},
    ),
    "by position": (
        "attention placed(input g: f32[B, H, Lq], input m: f32[Lk])"
        "{ score s + m[k] mask k <= q output o * g[b, h, q] }",
        {"g": lambda it: torch.ones(it.B, it.H, it.Lq), "m": lambda it: torch.ones(it.Lk)},
    ),
    "projected": ("attention normed { score dot(rmsnorm(Q), rmsnorm(K)) / 4 mask k <= q }", {}),
    "staged": ("attention centred { mask k <= q weight relu(s - mean(s)) / count }", {}),
    "documents": (
        "attention docs(input doc: i32[B, L] sorted) { mask doc[b, q] == doc[b, k] and k <= q }",
        {"doc": lambda it: torch.zeros(it.B, it.L, dtype=torch.int32)},
    ),
}


class Built:
    """What stands for a compiled kernel: it writes down its launches."""

    packed_metadata = None
    metadata = SimpleNamespace(global_scratch_size=0)

    def __init__(self, happened: list[Any], it: Any, about: tuple[Any, ...]) -> None:
        self.happened, self.module, self.about, self.function = happened, it.module, about, None
        self.asm = {"ttgir": "ttg.warp_specialize" if it.form.walk == "specialized" else ""}
        # others hold what only a device makes
        self.tables = it.places is None

    def run(self, programs: int, *rest: Any) -> None:
        values = rest[8:]
        named = {a.name: (a, v) for a, v in zip(self.module.arguments, values, strict=True)}
        shown = {n: _shown(a, v) for n, (a, v) in named.items()}
        if self.tables and "tiles" in named and all(n in named for n in ("order", "rows", "bounds")):
            tiles = named["tiles"][1]
            for name, count in (("order", tiles), ("rows", 2 * tiles), ("bounds", 10 * tiles)):
                shown[name] = tuple((ctypes.c_int32 * count).from_address(named[name][1]))
        self.happened.append((self.about, programs, shown))


def _shown(argument: Any, value: Any) -> Any:
    if not argument.type.startswith("*"):
        return value
    address = value.data_ptr() if isinstance(value, Tensor) else value
    return "pointer", address % 16 == 0


@pytest.fixture
def happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "cache"))
    pretend(monkeypatch)
    found: list[Any] = []

    def first_launch(it: Any, ready: Any, values: Any, device: Any, run: Callable[[Any], object]) -> Built:
        about = it.module.name, it.module.source, tuple(it.config.options(ready.stages).items())
        built = Built(found, it, about)
        run(built)
        return built

    monkeypatch.setattr(launch, "first_launch", first_launch)
    monkeypatch.setattr("attndsl.runtime.triton.kernel.begin", lambda it: None)
    monkeypatch.setattr("attndsl.runtime.triton.backward.begin", lambda it: None)
    # tables of documents are the device's
    monkeypatch.setattr(filling.Steps, "run", lambda self, call, values, before=None: None)
    return found


def forget() -> None:
    """As in a new process."""
    registry._living, registry._read = WeakValueDictionary(), OrderedDict()


class Drawn:
    """One call."""

    def __init__(self, r: random.Random) -> None:
        self.B, self.H, self.Hkv = r.choice((1, 2)), 4, r.choice((2, 4))
        self.D = r.choice((64, 64, 64, 72))
        self.Lq = r.choice((r.randint(130, 1100), r.randint(130, 1100), 128 * r.randint(2, 8), 1024, 9000))
        self.Lk = r.choice((self.Lq, self.Lq, self.Lq, r.randint(130, 1100)))
        self.offset: Any = r.choice((0, 0, 0, 0, 5, "end"))
        number = self.Lk - self.Lq if self.offset == "end" else self.offset
        self.L = max(self.Lq, self.Lk) if number == 0 else self.Lk
        self.dtype = r.choice((torch.bfloat16, torch.bfloat16, torch.float16))
        self.w, self.c = r.choice((100, 100, 37)), r.choice((1.0, 0.5, -0.0))
        self.way = r.choice(("contiguous", "contiguous", "sliced", "heads last", "bshd", "odd address", "odd stride"))
        self.scale = r.choice((None, None, 0.5))
        self.train = r.random() < 0.25
        self.lse = r.random() < 0.25

    def tensor(self, heads: int, length: int) -> Tensor:
        shape = self.B, heads, length, self.D
        many = self.B * heads * length * self.D
        match self.way:
            case "sliced":
                return torch.zeros(self.B, heads, 9216, self.D, dtype=self.dtype)[:, :, :length]
            case "heads last":
                return torch.zeros(self.B, length, heads, self.D, dtype=self.dtype).transpose(1, 2)
            case "bshd":
                return torch.zeros(self.B, length, heads, self.D, dtype=self.dtype)
            case "odd address":
                return torch.zeros(many + 1, dtype=self.dtype)[1:].view(shape)
            case "odd stride":
                return torch.zeros(self.B, heads, length, self.D + 1, dtype=self.dtype)[..., : self.D]
            case _:
                return torch.zeros(shape, dtype=self.dtype)

    def call(self, f: attndsl.AttentionFunction, more: dict[str, Callable[[Any], Any]]) -> None:
        q, k, v = self.tensor(self.H, self.Lq), self.tensor(self.Hkv, self.Lk), self.tensor(self.Hkv, self.Lk)
        if self.train:
            q, k, v = (t.requires_grad_() for t in (q, k, v))
        given = {n: make(self) for n, make in more.items()}
        layout = "bshd" if self.way == "bshd" else "bhsd"
        found = f(
            q, k, v, **given, layout=layout, scale=self.scale, q_offset=self.offset, return_lse=self.lse
        )  # fmt: skip
        out = found[0] if self.lse else found
        if self.train:
            torch.autograd.grad(out, (q, k, v), torch.zeros_like(out))


@pytest.mark.parametrize("name", SPECS)
def test_what_is_launched(name: str, happened: list[Any]) -> None:
    text, more = SPECS[name]
    r = random.Random(f"{SEED} {name}")
    f = attndsl.load(text)
    small = Config(64, 32, 4, 2)
    found = 0
    with configured(small, dq=small, dkdv=small, decode=None):
        for i in range(8):
            # a few calls of a kind after one another, then others
            drawn = Drawn(r)
            drawn.lse &= name != "staged"
            for _ in range(2):
                other = Drawn(r)
                drawn.Lq, drawn.Lk, drawn.L, drawn.offset = other.Lq, other.Lk, other.L, other.offset
                happened.clear()
                runner = f._runner
                before = dict(runner._lengths._known)
                drawn.call(f, more)
                found += before == runner._lengths._known
                seen = list(happened)
                happened.clear()
                kept = registry._living, registry._read
                forget()
                drawn.call(attndsl.load(text), more)
                registry._living, registry._read = kept
                assert seen
                assert len(seen) == len(happened)
                for ours, alone in zip(seen, happened, strict=True):
                    assert ours == alone, (i, vars(drawn))
    assert found


def test_lengths_that_do_not_fit_are_told(happened: list[Any]) -> None:
    f = attndsl.load(SPECS["by position"][0])

    def call(Lq: int, Lk: int, g: int, b: int, v: int) -> None:
        q, k, w = (torch.zeros(1, 2, n, 64, dtype=torch.bfloat16) for n in (Lq, Lk, v))
        f(q, k, w, g=torch.ones(1, 2, g), m=torch.ones(b))

    for _ in range(2):
        call(300, 200, 300, 200, 200)
        call(310, 210, 310, 210, 210)
        for wrong in ((320, 210, 310, 210, 210), (310, 210, 310, 209, 210), (310, 210, 310, 210, 209)):
            with pytest.raises(ValueError, match=r"Lq = 320|Lk = 210"):
                call(*wrong)


def test_positions_that_leave_32_bits_are_told(happened: list[Any]) -> None:
    f = attndsl.load(SPECS["causal"][0])
    q = torch.zeros(1, 2, 400, 64, dtype=torch.bfloat16)
    first = 2**31 - 350
    for n in (200, 300):
        f(q[:, :, :n], q[:, :, :n], q[:, :, :n], q_offset=first)
    assert len(f._runner._lengths._known) == 1
    with pytest.raises(ValueError, match="within 32 bits"):
        f(q, q, q, q_offset=first)


def test_what_has_conditions_on_lengths_is_checked_anew(happened: list[Any]) -> None:
    f = attndsl.load('attention even { require Lk % 2 == 0, "an odd number of keys" mask k <= q }')
    q = torch.zeros(1, 2, 400, 64, dtype=torch.bfloat16)
    for n in (400, 398):
        f(q[:, :, :n], q[:, :, :n], q[:, :, :n])
    with pytest.raises(ValueError, match="an odd number of keys"):
        f(q[:, :, :397], q[:, :, :397], q[:, :, :397])
    assert not f._runner._lengths._known


def test_only_so_many_kinds_are_kept(happened: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lengths, "CAPACITY", 3)
    f = attndsl.load("attention causal { mask k <= q }")
    for heads in range(1, 8):
        q = torch.zeros(1, heads, 200, 64, dtype=torch.bfloat16)
        f(q, q, q)
    assert len(f._runner._lengths._known) == 3
