"""Runners by the text of their attention: how an operator in a graph, which holds no Python object, finds its own."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from weakref import WeakValueDictionary

from attndsl.ir.attention import Attention
from attndsl.runtime.runner import Runner

_CAPACITY = 64
"""Runners kept for texts that no living function has."""

_lock = Lock()
_living: WeakValueDictionary[str, Runner] = WeakValueDictionary()
_read: OrderedDict[str, Runner] = OrderedDict()


def registered(spec: str, attention: Attention, simplified: Attention) -> Runner:
    """The runner of an attention that prints as `spec`; functions of the same text share it."""
    with _lock:
        found = _living.get(spec)
        if found is None:
            found = _living[spec] = Runner(attention, simplified)
        return found


def runner_of(spec: str) -> Runner:
    """The runner of a text, made from it if no function in this process has it."""
    found = _living.get(spec)
    if found is not None:
        return found
    from attndsl.ir.reader import read_attention
    from attndsl.ir.simplify import simplify

    attention = read_attention(spec)
    made = registered(spec, attention, simplify(attention))
    with _lock:
        _read[spec] = made
        while len(_read) > _CAPACITY:
            _read.popitem(last=False)
    return made
