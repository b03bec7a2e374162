"""Checks a state that a call starts from, and whether the call can have states at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attndsl.runtime.state import State
from attndsl.schedule.legalise import Legalised, ScanForm

if TYPE_CHECKING:
    from attndsl.runtime.call import Call


def check_states(call: Call, found: Legalised, q_offset: Any) -> ScanForm:
    """The form of a call that starts from a state or returns one. ValueError if it cannot."""
    name = call.attention.name
    if found.form is None:
        why = f" ({'; '.join(found.reasons)})" if found.reasons else ""
        raise ValueError(f"{name}: states belong to a scan, and this attention runs as {found}{why}")
    reason = found.form.stateless
    if reason is None and call.attention.q_space is not None:
        reason = "its positions lie on a grid, which a state does not continue"
    if reason is not None:
        raise ValueError(f"{name}: a call cannot start from a state or return one: {reason}")
    if not isinstance(q_offset, int) or q_offset != 0:
        raise ValueError(
            f"{name}: 'q_offset' must be 0 in a call with states, which hold the position; got {q_offset!r}"
        )
    if call.q.shape[2] != call.k.shape[2]:
        raise ValueError(
            f"{name}: a call with states takes a key for each query: q has {call.q.shape[2]} rows, k {call.k.shape[2]}"
        )
    return found.form


def check_state(call: Call, form: ScanForm, state: Any) -> State:
    """The state a call starts from. TypeError and ValueError where it does not fit."""
    from torch import Tensor, float32, float64

    name, owner = call.attention.name, "initial_state"
    if not isinstance(state, State):
        raise TypeError(
            f"{name}: {owner!r} must be a State (of a call with return_state=True), got {type(state).__name__}"
        )
    B, H, Hkv, Dv = (call.sizes[n] for n in ("B", "H", "Hkv", "Dv"))
    heads = H if form.by_head else Hkv
    F, n = form.features(call.sizes), form.weight.normaliser
    wanted: dict[str, tuple[int, ...]] = {"S": (B, heads, F, Dv)}
    if n is not None and n.node is not None:
        wanted["z"] = (B, heads, form.z_features(call.sizes))
    given: dict[str, Any] = {"S": state.S, "z": state.z}
    dtype = float64 if call.q.dtype == float64 else float32
    for part, tensor in given.items():
        if part not in wanted:
            if tensor is not None:
                raise ValueError(f"{name}: {owner!r} has a z, and this attention sums no denominator")
            continue
        shape = wanted[part]
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: {owner}.{part} must be a tensor {list(shape)}, got {type(tensor).__name__}")
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: {owner}.{part} is {list(tensor.shape)}, expected {list(shape)}")
        if tensor.dtype != dtype:
            raise TypeError(f"{name}: {owner}.{part} is {tensor.dtype}, expected {dtype}")
        if tensor.device != call.q.device:
            raise ValueError(f"{name}: {owner}.{part} is on {tensor.device}, but 'q' is on {call.q.device}")
    if state.position < 0:
        raise ValueError(f"{name}: {owner}.position is {state.position}, expected 0 or more")
    if form.segments and state.position > 0 and state.segment is None:
        raise ValueError(f"{name}: {owner} has no segment, and the mask compares it with that of the next position")
    return state
