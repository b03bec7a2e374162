"""What calling an attention does before and after its operator. Runs eagerly, and is traced by torch.compile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from attndsl.runtime.dispatch import choose_backend
from attndsl.runtime.given import Signature, given
from attndsl.runtime.operator import attend


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
) -> Tensor | tuple[Tensor, Tensor]:
    """The output in q's dtype and layout, and lse [B, H, Lq] if asked for. Raises TypeError and ValueError that name
    the argument."""
    owner = signature.attention.name
    if return_lse and not signature.has_lse:
        raise ValueError(f"{owner}: return_lse needs a weight with an exponential of s, and this one has none")
    # before anything reads an element: some devices have none
    choose_backend(owner, backend, q.device.type if isinstance(q, Tensor) else "cpu")
    call = given(
        signature, q, k, v, arguments, layout=layout, scale=scale, q_offset=q_offset, grid=grid, backend=backend
    )
    results = attend(call, bool(return_lse), bool(checked))
    out = results[0].transpose(1, 2) if layout == "bshd" else results[0]
    return (out, results[1]) if return_lse else out
