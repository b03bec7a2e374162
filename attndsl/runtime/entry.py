"""What calling an attention does before and after its operator. Runs eagerly, and is traced by torch.compile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from attndsl.runtime.dispatch import choose_backend
from attndsl.runtime.given import Signature, given
from attndsl.runtime.operator import attend
from attndsl.runtime.quick import asked, first, run
from attndsl.runtime.scans import repeated as again
from attndsl.runtime.scans import scanned, traced
from attndsl.runtime.state import State


def enter(
    signature: Signature,
    q: Any,
    k: Any,
    v: Any,
    arguments: Mapping[str, Any],
    *,
    layout: str = "bhsd",
    return_lse: bool = False,
    scale: Any = None,
    q_offset: Any = 0,
    grid: Any = None,
    backend: str | None = None,
    checked: bool = False,
    initial_state: State | None = None,
    return_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor | State]:
    """The output in q's dtype and layout, and lse [B, H, Lq] or the state after the last row if asked for. Raises
    TypeError and ValueError that name the argument."""
    owner = signature.attention.name
    if return_lse and not signature.has_lse:
        raise ValueError(f"{owner}: return_lse needs a weight with an exponential of s, and this one has none")
    # before anything reads an element: some devices have none
    choose_backend(owner, backend, q.device.type if isinstance(q, Tensor) else "cpu")
    stateful = initial_state is not None or return_state
    repeated = None
    if not (checked or stateful or traced()):
        repeated = asked(
            signature, q, k, v, arguments, layout, bool(return_lse), scale, q_offset, grid, backend
        )  # fmt: skip
    if stateful or (signature.scans and not traced()):
        done = None if repeated is None else again(signature, repeated, layout)
        if done is not None:
            return done
        found = scanned(
            signature.spec, q, k, v, arguments, initial_state, return_state,
            layout=layout, scale=scale, q_offset=q_offset, grid=grid, backend=backend, checked=checked,
            again=None if repeated is None else (signature, repeated),
        )  # fmt: skip
        if found is not None:
            out, state = found
            return out if state is None else (out, state)
    if repeated is not None:
        results = run(signature, repeated, layout, bool(return_lse))
        if results is not None:
            out = results[0].transpose(1, 2) if layout == "bshd" else results[0]
            return (out, results[1]) if return_lse else out
    call = given(
        signature, q, k, v, arguments, layout=layout, scale=scale, q_offset=q_offset, grid=grid, backend=backend
    )
    results = None if repeated is None else first(signature, repeated, call, bool(return_lse))
    if results is None:
        results = attend(call, bool(return_lse), bool(checked))
    out = results[0].transpose(1, 2) if layout == "bshd" else results[0]
    return (out, results[1]) if return_lse else out
