"""From a file to a `Program`: reading, parsing, and resolving `use`.

What a checker needs to know:

- `Program.file` is the tree of the root file. Check its `attentions`, and check its `functions` where they are used.
- Functions are closed and see only the functions of the file they stand in. `Program.scope` holds what the root file
  can call; `scope.functions["causal"]` is a `Definition`, and its `scope` is where names *inside* its body resolve:

      found = scope.functions.get(call.function)      # a Definition or None: then a built-in or unknown
      check(found.function.value, found.scope)        # the body, in the file where it was written

- A function's own file may call it (recursion is a cycle of Definitions), so compare definitions by identity.
- `Program.diagnostics` holds every finding of reading, lexing, parsing and resolving, of all files. A tree with
  findings is partial: the broken clauses are missing. `is_damaged(node)` says whether a finding lies in a node; a
  checker that skips damaged functions and attentions reports no consequences of an error as errors.
- The parser takes any word as a type and any words as facts: `Parameter.base` and `.facts` are checked later, as are
  declared names (`q` and `k` included).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from attndsl.diagnostics.report import Diagnostic
from attndsl.diagnostics.source import Source
from attndsl.frontend import tree


@dataclass(frozen=True, eq=False)
class Scope:
    """The functions that code of one file can call: its own and those it named in `use`."""

    source: Source
    functions: dict[str, Definition] = field(default_factory=dict[str, "Definition"], repr=False)
    missing: set[str] = field(default_factory=set[str], repr=False)
    """Names of functions whose declaration or `use` was already reported: calls of them need no second finding."""


@dataclass(frozen=True, eq=False)
class Definition:
    """A function and the scope in which the names of its body resolve."""

    function: tree.Function
    scope: Scope = field(repr=False)


@dataclass(frozen=True)
class Program:
    """A root file with everything that it reaches."""

    file: tree.File
    scope: Scope
    diagnostics: tuple[Diagnostic, ...] = ()

    @property
    def functions(self) -> dict[str, tree.Function]:
        """The functions that the root file can call, by name."""
        return {name: d.function for name, d in self.scope.functions.items()}

    def is_damaged(self, node: tree.Node) -> bool:
        """Whether a finding lies inside the node."""
        return covers_any(node, self.diagnostics)


def covers_any(node: tree.Node, diagnostics: Iterable[Diagnostic]) -> bool:
    """Whether one of the findings lies inside the node."""
    at = node.span
    return any(d.span.source is at.source and at.start <= d.span.start <= at.stop for d in diagnostics)
