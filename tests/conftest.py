"""Every run says which random specs it drew."""

from __future__ import annotations

import pytest

from tests.drawing import FACTOR, SEED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"random specs: ATTNDSL_SEED={SEED} ATTNDSL_FUZZ={FACTOR}")
