"""Checks the arguments of a call and makes the `Call` that backends take."""

from __future__ import annotations

from attndsl.runtime.call import Call, Kernel

__all__ = ["Call", "Kernel"]
