"""`Entry`: what tuning found for a key, every candidate with its time, as JSON that a person can read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast
from typing import Literal as Lit

from attndsl.runtime.cache.key import FORMAT, Key, key_of

State = Lit["measured", "predicted", "wrong", "failed", "unfit", "running"]
STATES: tuple[State, ...] = ("measured", "predicted", "wrong", "failed", "unfit", "running")


@dataclass(frozen=True)
class Timing:
    """One candidate: its configuration by field, what became of it, milliseconds (measured or predicted), the spread
    of the measurement (the middle half of the samples over their median), and what there is to say.

    `running` is written before a candidate is run: where nobody holds the key, its process ended over it."""

    config: Mapping[str, Any]
    state: State
    ms: float | None = None
    spread: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Entry:
    """Candidates by label. `name` and `shape` are the attention and the sizes that were tuned, `default` the label of
    what runs without tuning, `made` what it was made with: time, versions, origin."""

    key: Key
    name: str
    shape: Mapping[str, Any]
    timings: Mapping[str, Timing]
    default: str = ""
    made: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def measured(self) -> bool:
        """Whether its best was measured, not predicted."""
        return any(t.state == "measured" for t in self.timings.values())

    @property
    def best(self) -> str | None:
        """The label of the fastest candidate that was right: measured ones, else predicted ones."""
        for state in ("measured", "predicted"):
            timed = {n: t.ms for n, t in self.timings.items() if t.state == state and t.ms is not None}
            if timed:
                return min(timed, key=lambda n: (timed[n], n))
        return None

    @property
    def config(self) -> Mapping[str, Any] | None:
        """The best candidate's configuration."""
        return None if self.best is None else self.timings[self.best].config

    @property
    def gain(self) -> float | None:
        """Time of the default over that of the best; None where either is not known."""
        if self.best is None or self.default not in self.timings:
            return None
        best, default = self.timings[self.best], self.timings[self.default]
        if best.state != default.state or not best.ms or not default.ms:
            return None
        return default.ms / best.ms

    @property
    def settled(self) -> Entry:
        """The same without what runs just now: elsewhere nobody runs it."""
        return replace(self, timings={n: t for n, t in self.timings.items() if t.state != "running"})

    def with_timings(self, timings: Mapping[str, Timing]) -> Entry:
        """The same with these candidates added or replaced."""
        return replace(self, timings={**self.timings, **timings})


def entry_data(entry: Entry) -> dict[str, Any]:
    """As JSON has it, without the checksum."""
    payload = {
        "attention": entry.name,
        "shape": dict(entry.shape),
        "best": entry.best,
        "default": entry.default,
        "made": dict(entry.made),
        "timings": {n: _timing_data(t) for n, t in entry.timings.items()},
    }
    return {"format": FORMAT, "key": entry.key.data(), "payload": payload}


def _timing_data(timing: Timing) -> dict[str, Any]:
    found = {**asdict(timing), "config": dict(timing.config)}
    return {n: v for n, v in found.items() if v not in (None, "")}


def dump(entry: Entry) -> bytes:
    """The contents of an entry's file."""
    data = entry_data(entry)
    text = json.dumps({**data, "sha256": _checksum(data)}, indent=1, sort_keys=True, allow_nan=False)
    return text.encode() + b"\n"


def parse(text: bytes) -> Entry:
    """The entry of a file's contents. ValueError says what is wrong with them."""
    try:
        data: Any = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError("not an object")
        whole = cast(dict[str, Any], data)
        found = whole.pop("sha256", None)
        if whole.get("format") != FORMAT:
            raise ValueError(f"format {whole.get('format')!r}, this version reads {FORMAT}")
        if found != _checksum(whole):
            raise ValueError("the checksum is another")
        return entry_of(whole)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not an entry: {error!r}") from error


def entry_of(data: Mapping[str, Any]) -> Entry:
    """The entry that `data` describes, checksum or not. ValueError, KeyError or TypeError for what is none."""
    payload = data["payload"]
    timings: dict[str, Timing] = {}
    for label, t in payload["timings"].items():
        timing = Timing(**t)
        if timing.state not in STATES or not isinstance(timing.config, dict) or not _numbers(timing.ms, timing.spread):
            raise ValueError(f"not a timing: {label!r}")
        timings[str(label)] = timing
    return Entry(
        key_of(data["key"]), str(payload["attention"]), dict(payload["shape"]), timings, str(payload["default"]),
        {str(n): str(v) for n, v in payload["made"].items()},
    )  # fmt: skip


def _numbers(*values: object) -> bool:
    return all(v is None or (isinstance(v, int | float) and 0 <= v < float("inf")) for v in values)


def _checksum(data: Mapping[str, Any]) -> str:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
