"""Which configuration the passes of an attention's calls run with: what is known of them, or the default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from attndsl.ir.attention import Attention
from attndsl.runtime.cache.key import Key, Machine, bucket_of, hashes, kernels_version
from attndsl.runtime.cache.lookup import Known, Origin, lookup
from attndsl.runtime.cache.store import generation
from attndsl.runtime.triton.config import Config, Pass, Visits, all_forced, choose, forced
from attndsl.runtime.triton.labels import config_of, label
from attndsl.runtime.triton.machine import triton_version
from attndsl.runtime.triton.several import depths, pair_tiles, sums_components
from attndsl.runtime.triton.visits import visits_of
from attndsl.schedule.problem import Problem

MOST = 4096
"""Calls of different sizes that are remembered."""


@dataclass(frozen=True)
class Facts:
    """What a choice depends on beside the attention: the GPU (None without one), element type, sizes, and extents of
    grids (empty where positions are on a line)."""

    machine: Machine | None
    dtype: str
    sizes: Mapping[str, int]
    q_extents: Mapping[str, tuple[int, ...]]
    k_extents: Mapping[str, tuple[int, ...]]
    visits: Callable[[], Visits] | None = None
    """What the forward pass visits, where an untuned configuration depends on it."""
    further: tuple[int, ...] = ()
    """Components of the vectors of further dot products."""
    products: int = 1
    """Numbers that kernels keep of every pair: as `several.pair_tiles`."""
    sums: bool = False
    """Whether some of them are sums over components."""

    @property
    def depth(self) -> int:
        """Components of a query in all dot products."""
        return self.sizes["D"] + sum(self.further)

    @property
    def memo(self) -> tuple[object, ...]:
        """Equal for calls that are chosen for alike."""
        s = self.sizes
        numbers = (s["B"], s["H"], s["Hkv"], s["Lq"], s["Lk"], s["D"], s["Dv"], *self.further)
        return self.machine, self.dtype, numbers, tuple(self.q_extents.items()), tuple(self.k_extents.items())


def facts_of(attention: Attention, problem: Problem, dtype: str, machine: Machine | None) -> Facts:
    """The facts of calls of an attention (consts bound, simplified) on a GPU."""
    visits, further = partial(visits_of, attention, problem), depths(attention, problem.sizes)
    products = pair_tiles(attention)
    if not attention.gridded or problem.moved:
        return Facts(machine, dtype, problem.sizes, {}, {}, visits, further, products, sums_components(attention))
    return Facts(
        machine, dtype, problem.sizes, problem.q_extents, problem.k_extents, visits, further, products,
        sums_components(attention),
    )  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """A configuration, where it is from, and why in words."""

    config: Config
    origin: Origin
    why: str


def key_for(attention: Attention, step: Pass, facts: Facts) -> Key:
    """The key of a pass of calls with these facts; their machine must not be None."""
    assert facts.machine is not None
    whole, family = hashes(attention)
    s = facts.sizes
    return Key(
        facts.machine, kernels_version(), triton_version(), whole, family, step, facts.dtype, s["D"], s["Dv"],
        s["H"] // max(s["Hkv"], 1), bucket_of(s, facts.q_extents, facts.k_extents),
    )  # fmt: skip


def untuned(step: Pass, facts: Facts) -> Config:
    """What runs where nothing is known."""
    Dv, products = facts.sizes["Dv"], facts.products
    if facts.machine is None:
        return choose(step, facts.dtype, facts.depth, Dv, products=products, sums=facts.sums)
    capability = facts.machine.capability
    return choose(step, facts.dtype, facts.depth, Dv, capability, facts.visits, products, facts.sums)


def decide(attention: Attention, step: Pass, facts: Facts) -> Choice:
    """The configuration of a pass, asked anew."""
    asked = forced(step)
    if asked is not None:
        return Choice(asked, "default", "asked for")
    if facts.machine is None:
        return Choice(untuned(step, facts), "default", "no GPU")
    return _known(key_for(attention, step, facts), lambda: untuned(step, facts))


def _known(key: Key, default: Callable[[], Config]) -> Choice:
    found = lookup(key, lambda: label(default()))
    if found is not None:
        try:
            return Choice(_adapted(found), found.origin, found.why)
        except ValueError:
            # written by a version with other configurations
            pass
    return Choice(default(), "default", "nothing is known; not tuned")


def _adapted(known: Known) -> Config:
    config = config_of(known.config)
    if not known.same:
        config = replace(config, q_box=(), k_box=())
    return config if known.sized else replace(config, splits=0)


def settings() -> tuple[tuple[tuple[Pass, Config | None], ...], int]:
    """What decides configurations beside a call: those that are asked for, and how often this process has tuned. What
    is remembered of a call holds as long as this does."""
    return all_forced(), generation()


class Choices:
    """The choices of one attention, remembered by sizes and by what is looked up for these until this process tunes
    something."""

    def __init__(self, attention: Attention) -> None:
        self._attention = attention
        self._made: dict[tuple[object, ...], Config] = {}
        self._found: dict[Key, Config | dict[Config, Config]] = {}
        self._generation = -1

    def config(self, step: Pass, facts: Facts) -> Config:
        """The configuration of a pass."""
        asked = forced(step)
        if asked is not None:
            return asked
        if self._generation != generation() or len(self._made) > MOST:
            self._made, self._found, self._generation = {}, {}, generation()
        memo = (step, *facts.memo)
        found = self._made.get(memo)
        if found is None:
            found = self._made[memo] = self._config(step, facts)
        return found

    def _config(self, step: Pass, facts: Facts) -> Config:
        if facts.machine is None:
            return untuned(step, facts)
        key = key_for(self._attention, step, facts)
        known = self._found.get(key)
        if isinstance(known, Config):
            return known
        default: list[Config] = []

        def asked() -> Config:
            if not default:
                default.append(untuned(step, facts))
            return default[0]

        if known is None:
            made = _known(key, asked).config
            self._found[key] = {asked(): made} if default else made
            return made
        # sizes of one key may have several defaults
        if asked() not in known:
            known[asked()] = _known(key, asked).config
        return known[asked()]
