"""Which configuration the passes of a linear attention run with: what is known of them, or the default.

Keys have no length. A program of a scan does the same for every chunk, so that the best tile, warps and stages of one
length are those of all; and a configuration says nothing of lengths: the sequence is cut into as many segments as
fill the GPU (`resident`), none of fewer than `least` chunks. One that was found on a sequence too short to be cut
cuts a longer one where `least` chunks are left for every part. What counts beside the attention is how many sequences
and heads there are, as they decide whether the GPU is full without cutting; their buckets are the powers of two, and
a call takes the nearest one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from attndsl.ir.attention import Attention
from attndsl.runtime.cache.key import Bucket, Key, Machine, hashes, kernels_version, up
from attndsl.runtime.cache.lookup import Known, Origin, lookup
from attndsl.runtime.cache.store import generation
from attndsl.runtime.triton.labels import label, scan_config_of
from attndsl.runtime.triton.machine import triton_version
from attndsl.runtime.triton.scan_config import (
    SCAN_PASSES,
    ScanConfig,
    ScanPass,
    choose_scan,
    choose_step,
    forced_scan,
    hazard,
)
from attndsl.schedule.legalise import ScanForm

SURE = 1.15
"""What a prediction must promise: its model is wrong by so much on workloads that it has not seen."""
MOST = 4096
"""Calls of different sizes that are remembered."""
LENGTHS = frozenset(("L", "Lq", "Lk"))
Tuned = tuple[tuple[ScanPass, ScanConfig], ...]


@dataclass(frozen=True)
class ScanFacts:
    """What a choice depends on beside the attention: the GPU (None without one), element type, sizes, and how many
    features a key has."""

    machine: Machine | None
    dtype: str
    sizes: Mapping[str, int]
    features: int


@dataclass(frozen=True)
class ScanChoice:
    """A configuration, where it is from, and why in words."""

    config: ScanConfig
    origin: Origin
    why: str


def scan_facts(form: ScanForm, sizes: Mapping[str, int], dtype: str, machine: Machine | None) -> ScanFacts:
    """The facts of calls of these sizes."""
    return ScanFacts(machine, dtype, sizes, form.features(sizes))


def scan_key(attention: Attention, step: ScanPass, facts: ScanFacts) -> Key:
    """The key of a pass of calls with these facts (`D` is the number of features); their machine must not be None."""
    assert facts.machine is not None
    whole, family = hashes(attention)
    s = facts.sizes
    return Key(
        facts.machine, kernels_version(), triton_version(), whole, family, step, facts.dtype, facts.features, s["Dv"],
        s["H"] // max(s["Hkv"], 1), Bucket(up(s["B"] * s["H"]), 0, 0),
    )  # fmt: skip


def untuned_scan(step: ScanPass, facts: ScanFacts) -> ScanConfig:
    """What runs where nothing is known."""
    keys, values = facts.features, facts.sizes["Dv"]
    if step == "step":
        return choose_step(keys, values)
    if step in ("scan_dq", "scan_dk"):
        # values stand where keys do
        keys, values = values, keys
    return choose_scan(facts.dtype, keys, values, 90 if facts.machine is None else facts.machine.capability)


def decide_scan(attention: Attention, step: ScanPass, facts: ScanFacts) -> ScanChoice:
    """The configuration of a pass, asked anew."""
    asked = forced_scan(step)
    if asked is not None:
        return ScanChoice(asked, "default", "asked for")
    usual = untuned_scan(step, facts)
    if facts.machine is None:
        return ScanChoice(usual, "default", "no GPU")
    found = lookup(scan_key(attention, step, facts), lambda: label(usual))
    if found is not None:
        try:
            config = _adapted(found)
        except ValueError:
            # written by a version with other configurations
            config = None
        if config is not None and (step == "step" or hazard(config, facts.dtype) is None):
            if found.measured or (found.gain or 0.0) >= SURE:
                return ScanChoice(config, found.origin, found.why)
            return ScanChoice(usual, "default", f"{found.why}: too little for a prediction")
    return ScanChoice(usual, "default", "nothing is known; not tuned")


def _adapted(known: Known) -> ScanConfig:
    config = scan_config_of(known.config)
    return config if known.sized else replace(config, segments=0)


class ScanChoices:
    """The choices of one attention, remembered by sizes until this process tunes something."""

    def __init__(self, attention: Attention) -> None:
        self._attention = attention
        self._made: dict[tuple[object, ...], Tuned] = {}
        self._generation = -1

    def tuned(self, form: ScanForm, sizes: Mapping[str, int], dtype: str, machine: Machine | None) -> Tuned:
        """What is known to be better than the usual configurations, by pass."""
        if machine is None:
            return ()
        if self._generation != generation() or len(self._made) > MOST:
            self._made, self._generation = {}, generation()
        memo = (form.kind, machine, dtype, *(n for name, n in sizes.items() if name not in LENGTHS))
        found = self._made.get(memo)
        if found is None:
            facts = scan_facts(form, sizes, dtype, machine)
            choices: dict[ScanPass, ScanChoice] = {s: decide_scan(self._attention, s, facts) for s in SCAN_PASSES}
            found = self._made[memo] = tuple((s, c.config) for s, c in choices.items() if c.origin != "default")
        return found
