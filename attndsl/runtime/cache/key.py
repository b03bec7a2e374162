"""What a tuned configuration is for: GPU, version of the compiler, attention, heads, and sizes in buckets."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from math import log2
from pathlib import Path
from typing import Any

import attndsl
from attndsl.ir.attention import Attention
from attndsl.ir.printer import print_attention

FORMAT = 1
FAR = 3.0
"""Entries at a larger distance say nothing about a call."""


@dataclass(frozen=True)
class Machine:
    """A GPU: its name, compute capability times ten, multiprocessors, and bytes of shared memory a block can have."""

    name: str
    capability: int
    multiprocessors: int
    shared_memory: int


@dataclass(frozen=True)
class Bucket:
    """Sizes rounded up to powers of two: heads times batches, lengths, and extents of the axes of grids."""

    programs: int
    Lq: int
    Lk: int
    q_grid: tuple[int, ...] = ()
    k_grid: tuple[int, ...] = ()


@dataclass(frozen=True)
class Key:
    """One tuned configuration's place. `attention` is a hash of the simplified attention with its names made
    anonymous, `family` the same with its numbers blanked; `group` is H // Hkv; `kernels` a hash of what writes kernels.
    """

    machine: Machine
    kernels: str
    triton: str
    attention: str
    family: str
    step: str
    dtype: str
    D: int
    Dv: int
    group: int
    bucket: Bucket

    def data(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @property
    def name(self) -> str:
        """A file name: entries of one family stand together."""
        return f"{self.family}-{self.step}-{digest(repr(self))[:24]}"


def key_of(data: Mapping[str, Any]) -> Key:
    """The key that `data` describes. ValueError for what is none."""
    try:
        machine, bucket = dict(data["machine"]), dict(data["bucket"])
        for axis in ("q_grid", "k_grid"):
            bucket[axis] = tuple(int(n) for n in bucket[axis])
        fields: dict[str, Any] = {**data, "machine": Machine(**machine), "bucket": Bucket(**bucket)}
        key = Key(**fields)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a key: {error}") from error
    machine_, sizes = key.machine, key.bucket
    texts: list[object] = [machine_.name, key.kernels, key.triton, key.attention, key.family, key.step, key.dtype]
    numbers: list[object] = [machine_.capability, machine_.multiprocessors, machine_.shared_memory]
    numbers += [key.D, key.Dv, key.group, sizes.programs, sizes.Lq, sizes.Lk, *sizes.q_grid, *sizes.k_grid]
    plain = all(type(n) is int and n >= 0 for n in numbers) and all(isinstance(t, str) for t in texts)
    if not plain or not _word(key.family) or not _word(key.step):
        raise ValueError("not a key: a field of another type")
    return key


def _word(text: str) -> bool:
    """Whether a text may be part of a file's name."""
    return re.fullmatch(r"\w+", text, re.ASCII) is not None


def distance(wanted: Key, found: Key) -> float | None:
    """How far what is known for `found` is from what is asked; 0 is the same, None has nothing to say."""
    if (wanted.family, wanted.step, wanted.dtype) != (found.family, found.step, found.dtype):
        return None
    if (wanted.D, wanted.Dv) != (found.D, found.Dv):
        return None
    if wanted.machine.capability // 10 != found.machine.capability // 10:
        return None
    far = 0.0
    if wanted.machine != found.machine:
        far += 0.5 + 0.5 * (wanted.machine.shared_memory != found.machine.shared_memory)
    far += 0.1 * (wanted.kernels != found.kernels) + 0.1 * (wanted.triton != found.triton)
    far += 1.0 * (wanted.attention != found.attention)
    far += 0.25 * _doublings(wanted.group, found.group)
    a, b = wanted.bucket, found.bucket
    if len(a.q_grid) != len(b.q_grid) or len(a.k_grid) != len(b.k_grid):
        return None
    far += 0.2 * (_doublings(a.Lq, b.Lq) + _doublings(a.Lk, b.Lk) + _doublings(a.programs, b.programs))
    far += sum(0.1 * _doublings(x, y) for x, y in zip(a.q_grid + a.k_grid, b.q_grid + b.k_grid, strict=True))
    return far if far <= FAR else None


def _doublings(a: int, b: int) -> float:
    return abs(log2(max(a, 1)) - log2(max(b, 1)))


def bucket_of(
    sizes: Mapping[str, int],
    q_extents: Mapping[str, tuple[int, ...]] | None = None,
    k_extents: Mapping[str, tuple[int, ...]] | None = None,
) -> Bucket:
    """The bucket of a call's sizes (`B H Lq Lk`)."""
    return Bucket(
        up(sizes["B"] * sizes["H"]), up(sizes["Lq"]), up(sizes["Lk"]), _extents(q_extents), _extents(k_extents)
    )  # fmt: skip


def _extents(extents: Mapping[str, tuple[int, ...]] | None) -> tuple[int, ...]:
    return tuple(up(n) for axes in (extents or {}).values() for n in axes)


def up(n: int) -> int:
    """The next power of two, 0 for 0."""
    return 1 << (n - 1).bit_length() if n > 0 else 0


@lru_cache(maxsize=256)
def hashes(attention: Attention) -> tuple[str, str]:
    """(attention, family) of an attention whose consts are bound and that is simplified. Names decide nothing."""
    names = [p.name for p in attention.params]
    for space in (attention.q_space, attention.k_space):
        for segment in space.segments if space is not None else ():
            names += [segment.name, *segment.axes]
    number = {n: f"name{i}" for i, n in enumerate(dict.fromkeys(n for n in names if n))}
    text = print_attention(replace(attention, name="_", requires=()))
    plain = re.sub(r"\w+", lambda m: number.get(m[0], m[0]), text, flags=re.ASCII)
    blank = re.sub(r"(?<![\w.])-?\d[\d.]*(e[+-]?\d+)?(?!\w)", "#", plain, flags=re.ASCII)
    return digest(plain)[:16], digest(" ".join(blank.split()))[:16]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@lru_cache(maxsize=1)
def kernels_version() -> str:
    """A hash of what writes kernels: templates, code generation, launches."""
    package = Path(attndsl.__file__).parent
    templates = next((p for p in (package / "templates", package.parent / "templates") if p.is_dir()), None)
    files = [*(package / "codegen").glob("*.py"), *(package / "runtime" / "triton").glob("*.py")]
    if templates is not None:
        files += (templates / "triton").glob("*.j2")
    return _hash_of(files, "")


@lru_cache(maxsize=1)
def compiler_version() -> str:
    """A hash of all that decides generated text: what writes kernels, and the IR with its passes."""
    ir = Path(attndsl.__file__).parent / "ir"
    return _hash_of(ir.rglob("*.py"), kernels_version())


def _hash_of(files: Iterable[Path], before: str) -> str:
    found = hashlib.sha256(f"{FORMAT} {attndsl.__version__}{before}".encode())
    for path in sorted(files, key=lambda p: p.name):
        found.update(path.name.encode())
        found.update(path.read_bytes())
    return found.hexdigest()[:16]
