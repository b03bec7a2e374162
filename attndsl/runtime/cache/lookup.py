"""The best that is known for a key: the user's entry, shipped data, then the nearest entry of either."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from typing import Literal as Lit

import attndsl
from attndsl.runtime.cache.entry import Entry, entry_of
from attndsl.runtime.cache.key import Key, distance
from attndsl.runtime.cache.store import Store

Origin = Lit["tuned", "shipped", "near", "default"]
PREDICTED = 1.0
"""What a prediction counts in distance: a measurement of a neighbour comes before it."""


@dataclass(frozen=True)
class Known:
    """A configuration by field, where it is from, and why in words. `same` where numbers of the attention and the grid
    are those that were measured: shapes of boxes hold for them alone. `sized` where sizes and GPU are too: the number
    of splits holds for them alone. `gain` is the default's time over that of the configuration, where both are known;
    `measured`, whether they were."""

    config: Mapping[str, Any]
    origin: Origin
    why: str
    same: bool = True
    sized: bool = True
    gain: float | None = None
    measured: bool = True


def lookup(key: Key, default: Callable[[], str] | None = None, store: Store | None = None) -> Known | None:
    """What is known for a key; None where nothing is, and the default decides. `default` tells its label: an entry of
    another version that never compared it says nothing."""
    store = store or Store()
    default = lru_cache(maxsize=1)(default or str)
    own = store.read(key)
    if own is not None and own.config is not None and own.measured:
        return Known(own.config, "tuned", _said(own))
    for entry in shipped_entries(key.machine.name):
        # a version is no reason to measure again what the package itself brings
        same = replace(entry.key, kernels=key.kernels, triton=key.triton) == key
        if same and entry.config is not None and _trusted(key, entry, default):
            return Known(entry.config, "shipped", _said(entry))
    return _nearest(key, [*store.entries(key.family), *every_shipped_entry()], default)


def _nearest(key: Key, entries: list[Entry], default: Callable[[], str]) -> Known | None:
    best: tuple[float, str, Entry] | None = None
    for entry in entries:
        far = distance(key, entry.key)
        if far is None or entry.config is None or not _trusted(key, entry, default):
            continue
        far += 0.0 if entry.measured else PREDICTED
        rank = (far, entry.key.name)
        if best is None or rank < best[:2]:
            best = (far, entry.key.name, entry)
    if best is None:
        return None
    entry = best[2]
    assert entry.config is not None
    grids = (key.bucket.q_grid, key.bucket.k_grid) == (entry.key.bucket.q_grid, entry.key.bucket.k_grid)
    same = grids and key.attention == entry.key.attention
    origin: Origin = "tuned" if entry.key == key else "near"
    sized = (key.bucket, key.group, key.machine) == (entry.key.bucket, entry.key.group, entry.key.machine)
    why = _said(entry) + _differs(key, entry.key)
    return Known(entry.config, origin, why, same, sized, entry.gain, entry.measured)


def _trusted(key: Key, entry: Entry, default: Callable[[], str]) -> bool:
    """Whether a configuration that was right and best there is so here: what the Triton compiler itself makes of warp
    specialisation was checked for one version of it, and other kernels may have another default."""
    if key.kernels != entry.key.kernels and default() and default() not in entry.timings:
        return False
    return not (entry.config or {}).get("specialize") or key.triton == entry.key.triton


def _said(entry: Entry) -> str:
    what = "measured" if entry.measured else "predicted"
    gain = "" if entry.gain is None else f", {entry.gain:.2f}x the default"
    return f"{what} for {entry.name} {show_shape(entry.shape)} on {entry.key.machine.name}{gain}"


def _differs(a: Key, b: Key) -> str:
    reasons: list[str] = []
    if a.machine != b.machine:
        reasons.append(f"this is {a.machine.name}")
    if a.attention != b.attention:
        reasons.append("numbers of the attention differ")
    if a.bucket != b.bucket or a.group != b.group:
        reasons.append("sizes differ")
    if (a.kernels, a.triton) != (b.kernels, b.triton):
        reasons.append("versions differ")
    return f" ({', '.join(reasons)})" if reasons else ""


def show_shape(shape: Mapping[str, Any]) -> str:
    """`B=1 H=16 L=32768 D=128 grid=30x48x80`."""
    return " ".join(f"{n}={v}" for n, v in shape.items())


DATA = Path(attndsl.__file__).parent / "tune" / "data"


def data_file(gpu: str) -> Path:
    """Where the package has its data for a GPU."""
    return DATA / f"{gpu.lower().replace(' ', '-')}.json"


@lru_cache(maxsize=16)
def shipped_entries(gpu: str) -> tuple[Entry, ...]:
    """The entries that the package brings for a GPU."""
    return _read(data_file(gpu))


@lru_cache(maxsize=1)
def every_shipped_entry() -> tuple[Entry, ...]:
    """The entries that the package brings, for all GPUs."""
    return tuple(e for path in sorted(DATA.glob("*.json")) for e in _read(path))


def _read(path: Path) -> tuple[Entry, ...]:
    try:
        data: Any = json.loads(path.read_bytes())
        return tuple(entry_of(e) for e in data["entries"])
    except FileNotFoundError:
        return ()
