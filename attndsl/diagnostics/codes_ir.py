"""Codes of what is found when a spec's consts get their values."""

from __future__ import annotations

from attndsl.diagnostics.code_info import CodeInfo

DIVISION_BY_ZERO = "E0720"
REQUIREMENT = "E0721"

IR_CODES: dict[str, CodeInfo] = {
    DIVISION_BY_ZERO: CodeInfo(
        "division by a constant zero",
        "A divisor is zero once the consts have their values, so the spec has no meaning. A divisor that comes out of "
        "a run-time tensor may be zero: there x // 0 and x % 0 are 0.",
        "attention strided(const stride: int = 0) { mask (q - k) % stride == 0 }",
        "attention strided(const stride: int = 4) { mask (q - k) % stride == 0 }",
    ),
    REQUIREMENT: CodeInfo(
        "a requirement is not met",
        "A `require` clause is false for the values that the consts were given. Give other values, or change the rule. "
        "Functions have such clauses too: they hold for every call, and the call is what is shown.",
        """
attention blocks(const window: int = 4, const stride: int = 8) {
    require stride <= window, "stride exceeds window"
    mask abs(q - k // stride * stride) < window
}""",
        """
attention blocks(const window: int = 8, const stride: int = 4) {
    require stride <= window, "stride exceeds window"
    mask abs(q - k // stride * stride) < window
}""",
    ),
}
