"""Which configurations a pass of linear attention may have, from its form and the hardware's limits.

What Triton 3.6 miscompiles (`hazard`) is not among them; the state and the products of a chunk must fit the registers
of a program's threads, and its chunks shared memory. Ways to cut the sequence are tried where they cut this one
differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from attndsl.runtime.cache.key import up
from attndsl.runtime.triton.scan_choices import ScanFacts
from attndsl.runtime.triton.scan_config import ScanConfig, ScanPass, cut, hazard, step_width
from attndsl.schedule.legalise import ScanForm
from attndsl.tune.candidates import BESIDE, REGISTERS, Footprint, element_size
from attndsl.tune.machines import Gpu

CHUNKS, COLUMNS = (64, 128), (64, 128, 256)
NARROW_CHUNKS, NARROW_COLUMNS = (16, 32, 64), (16, 32, 64)
"""Of fp32, whose products are scalar."""
WARPS, STAGES = (4, 8), (1, 2, 3, 4)
RESIDENT, LEAST = (1, 2), (4, 2, 8, 16)
STATES = ((0, 0, 4), (0, 0, 6), (128, 8, 4))
"""Columns, warps and stages of `states` beside those of `outputs`."""
STEP_NUMBERS = range(10, 16)
"""Logarithms of how many numbers of a state a program of a step holds."""
SPARE = 1.2
"""How far a program may be over its registers by this count: what compiling finds decides."""


@dataclass(frozen=True)
class Shape:
    """One scan of a pass: sequences times heads, heads of keys, rows, components of keys and of values, whether rows
    have factors of a decay, whether the output is multiplied by a map's slope, whether decays are per channel, and
    whether the states at the boundaries of segments are its own: those of values' gradients are those of keys'."""

    B: int
    H: int
    Hkv: int
    L: int
    keys: int
    values: int
    dtype: str
    decays: bool = False
    mapped: bool = False
    channel: bool = False
    states: bool = True

    @property
    def padded(self) -> int:
        """Components of keys as tiles have them: at least 64 for products of 16-bit floats."""
        unit = 16 if self.dtype == "fp32" else 64
        return -(-self.keys // unit) * unit

    def slices(self, columns: int) -> int:
        """Programs that share the values of a head."""
        return -(-self.values // columns)

    def cut(self, config: ScanConfig, gpu: Gpu) -> tuple[int, int]:
        """(segments, rows of each)."""
        programs = self.B * self.H * self.slices(config.columns)
        fill = gpu.machine.multiprocessors * config.resident
        return cut(self.L, config.chunk, programs, fill, config.segments, least=config.least)


def shape_of(step: ScanPass, facts: ScanFacts, form: ScanForm) -> Shape:
    """The scan of a pass of calls with these facts."""
    s, decay = facts.sizes, form.weight.decay
    keys, values = facts.features, s["Dv"]
    turned = step in ("scan_dq", "scan_dk")
    rows = 1 if step == "step" else s["Lk"]
    return Shape(
        s["B"], s["H"], s["Hkv"], rows, *((values, keys) if turned else (keys, values)), facts.dtype,
        decays=bool(decay.token or decay.per_head or form.segments), mapped=turned and facts.features == s["D"],
        channel=bool(decay.channel), states=step != "scan_dv",
    )  # fmt: skip


def scan_footprint(config: ScanConfig, shape: Shape) -> Footprint:
    """The registers of a thread and the shared memory that a program of `outputs` needs."""
    e, chunk, columns = element_size(shape.dtype), config.chunk, config.columns
    numbers = shape.padded * columns + chunk * columns + chunk * chunk
    loaded = chunk * (2 * shape.padded + columns * (2 if shape.mapped else 1)) * e
    # the state and the decayed values in the element type, on their way to a product
    kept = (shape.padded * columns + chunk * columns) * e
    return Footprint(numbers / (32 * config.warps) + BESIDE, config.stages * loaded + kept)


def scan_candidates(
    step: ScanPass, facts: ScanFacts, form: ScanForm, gpu: Gpu, default: ScanConfig
) -> tuple[ScanConfig, ...]:
    """The configurations to try for calls of these sizes, the default first."""
    shape = shape_of(step, facts, form)
    if step == "step":
        return tuple(dict.fromkeys((default, *_steps(shape))))
    narrow = facts.dtype == "fp32"
    chunks = NARROW_CHUNKS if narrow else CHUNKS
    if shape.channel and step != "scan":
        # all three scans of the backward pass have the chunks of the powers that were put in their operands
        chunks = (default.chunk,)
    least_columns = (NARROW_COLUMNS if narrow else COLUMNS)[0]
    columns = [c for c in (NARROW_COLUMNS if narrow else COLUMNS) if c <= max(up(shape.values), least_columns)]
    found: dict[ScanConfig, None] = {default: None}
    seen = {_effect(default, shape, gpu)}
    for chunk, c, warps, stages in product(chunks, columns, WARPS, STAGES[:2] if narrow else STAGES):
        tile = ScanConfig(chunk, c, warps, stages, gate_warps=default.gate_warps)
        need = scan_footprint(tile, shape)
        if need.registers > SPARE * REGISTERS or need.shared > gpu.machine.shared_memory:
            continue
        for config in _cuts(tile, shape, gpu):
            effect = _effect(config, shape, gpu)
            if effect not in seen and hazard(config, facts.dtype) is None:
                seen.add(effect)
                found[config] = None
    if shape.channel and step == "scan":
        found |= dict.fromkeys(
            (*(replace(default, gate_warps=w) for w in (1, 2, 4)), replace(default, gate_whole=False))
        )
    return tuple(found)


def _cuts(tile: ScanConfig, shape: Shape, gpu: Gpu) -> Iterator[ScanConfig]:
    """A tile with every way to cut the sequence, and where it is cut with every way to sum states."""
    for resident, least in product(RESIDENT, LEAST):
        config = replace(tile, resident=resident, least=least)
        yield config
        if shape.cut(config, gpu)[0] > 1:
            for columns, warps, stages in STATES if shape.states else ():
                if columns <= shape.values and shape.dtype != "fp32":
                    yield replace(config, state_columns=columns, state_warps=warps, state_stages=stages)


def _effect(config: ScanConfig, shape: Shape, gpu: Gpu) -> tuple[object, ...]:
    """Equal for configurations that launch the same for this shape."""
    segments, length = shape.cut(config, gpu)
    states = config.of_states if segments > 1 and shape.states else ()
    return config.chunk, config.columns, config.warps, config.stages, segments, length, states, config.gate_warps


def _steps(shape: Shape) -> Iterator[ScanConfig]:
    """Tiles of a state: so many numbers a program, at most half of the registers of its threads."""
    width = step_width(shape.keys)
    for n, warps in product(STEP_NUMBERS, (1, 2, 4, 8)):
        columns = (1 << n) // width
        if 4 <= columns <= max(up(shape.values), 16) and 8 <= (1 << n) // (32 * warps) <= REGISTERS // 2:
            yield ScanConfig(1, columns, warps, 1)
