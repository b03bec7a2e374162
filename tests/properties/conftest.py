"""Threads and seeds of the random tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.drawing import FACTOR, SEED


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors are too small here for more threads to help."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"random specs: ATTNDSL_SEED={SEED} ATTNDSL_FUZZ={FACTOR}")
