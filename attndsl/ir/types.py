"""Types of expressions: bool, int and float numbers, and vectors and matrices of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    BOOL = "bool"
    INT = "int"
    FLOAT = "float"


Dim = int | str
"""An extent of a vector: a number, or the name of a size (`D`, `Dv`, a fresh name such as `M`)."""


@dataclass(frozen=True)
class Type:
    """A number (`shape == ()`), a vector (one dimension) or a matrix (two)."""

    kind: Kind
    shape: tuple[Dim, ...] = ()

    @property
    def is_number(self) -> bool:
        return not self.shape

    def __str__(self) -> str:
        dims = ", ".join(map(str, self.shape))
        return f"{self.kind}[{dims}]" if self.shape else str(self.kind)


BOOL = Type(Kind.BOOL)
INT = Type(Kind.INT)
FLOAT = Type(Kind.FLOAT)

DTYPES = ("bool", "i8", "i16", "i32", "i64", "f16", "bf16", "f32", "f64")
"""Element types of run-time tensors, as the language spells them."""


def kind_of_dtype(dtype: str) -> Kind:
    """The kind of number that a tensor of this element type holds."""
    if dtype == "bool":
        return Kind.BOOL
    return Kind.INT if dtype.startswith("i") else Kind.FLOAT
