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

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from attndsl.diagnostics.report import Diagnostic, Note
from attndsl.diagnostics.source import Source, Span
from attndsl.diagnostics.suggest import closest, did_you_mean
from attndsl.frontend import limits, tree
from attndsl.frontend.parser import empty_file, parse, too_large

STD = Path(__file__).parent.parent / "std"
"""The standard library: `use masks (...)` reads `masks.attn` here."""


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


def read_program(path: Path) -> Program:
    """The program whose root file is `path`. OSError where the file itself cannot be read; every error of its
    content, and of the files that it uses, is a finding of the program."""
    source, found = read_source(path, path.as_posix())
    root = path.resolve()
    loader = _Loader(root.parent, path.parent)
    if found:
        return Program(empty_file(source), Scope(source), tuple(found))
    file, scope = loader.load(source, root)
    return Program(file, scope, tuple(loader.found))


def program_from_text(text: str, name: str = "<text>", folder: Path | None = None) -> Program:
    """The program of a text. `folder` is where its relative `use` look; without one they are findings."""
    text = text.removeprefix("\ufeff")
    lone = re.search("[\ud800-\udfff]", text)
    source = Source(name, re.sub("[\ud800-\udfff]", "\ufffd", text))
    loader = _Loader(folder.resolve() if folder is not None else None, folder)
    if lone:
        at = Span(source, lone.start(), lone.end())
        # what `surrogateescape` makes of a byte that is not UTF-8
        byte = ord(lone.group()) - 0xDC00
        what = f"byte 0x{byte:02X} is not UTF-8" if 0x80 <= byte <= 0xFF else "half of a surrogate pair"
        loader.found.append(Diagnostic("E0102", "the text is not valid Unicode", at, what))
        return Program(empty_file(source), Scope(source), tuple(loader.found))
    file, scope = loader.load(source, None)
    return Program(file, scope, tuple(loader.found))


def read_source(path: Path, name: str) -> tuple[Source, list[Diagnostic]]:
    """A file as a source called `name`, with a finding where it is too large or not UTF-8. OSError if unreadable."""
    with path.open("rb") as handle:
        data = handle.read(limits.SOURCE_BYTES + 4)
    bom = data.startswith(b"\xef\xbb\xbf")
    data = data[3:] if bom else data
    if len(data) > limits.SOURCE_BYTES:
        source = Source(name, "")
        return source, [too_large(source, path.stat().st_size)]
    try:
        return Source(name, data.decode("utf-8")), []
    except UnicodeDecodeError as error:
        start = len(data[: error.start].decode("utf-8"))
        source = Source(name, data.decode("utf-8", "replace"))
        byte = data[error.start]
        help = "save the file as UTF-8"
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            help = "this looks like UTF-16; save the file as UTF-8"
        at = Span(source, start, start + 1)
        return source, [Diagnostic("E0102", "the file is not valid UTF-8", at, f"byte 0x{byte:02X} is not UTF-8", help)]


def std_modules() -> tuple[str, ...]:
    """Names of the modules of the standard library."""
    return tuple(sorted(p.stem for p in STD.glob("*.attn")))


@cache
def _std(name: str) -> tuple[tree.File, Scope, tuple[Diagnostic, ...]]:
    source, found = read_source(STD / f"{name}.attn", f"std/{name}.attn")
    loader = _Loader(None)
    loader.found += found
    file, scope = loader.load(source, None)
    return file, scope, tuple(loader.found)


class _Loader:
    """Loads one program: each file once, files that are being loaded remembered to see cycles."""

    def __init__(self, folder: Path | None, shown: Path | None = None) -> None:
        self.folder = folder
        self.shown = shown or Path()
        self.found: list[Diagnostic] = []
        self.loaded: dict[Path, tuple[tree.File, Scope]] = {}
        self.open: list[Path] = []

    def load(self, source: Source, path: Path | None) -> tuple[tree.File, Scope]:
        """Parse a source and resolve its uses. `path` is None for a text."""
        file, found = parse(source)
        self.found += found
        scope = Scope(source)
        if path is not None:
            self.loaded[path] = file, scope
            self.open.append(path)
        places: dict[str, Span] = {}
        for function in file.functions:
            self.declare(scope, places, Definition(function, scope), function.name_span)
        for use in file.uses:
            self.resolve(use, scope, places, path.parent if path is not None else self.folder)
        if found:
            scope.missing.update(_declared(source.text))
            scope.missing.difference_update(scope.functions)
        if path is not None:
            self.open.pop()
        return file, scope

    def declare(self, scope: Scope, places: dict[str, Span], definition: Definition, at: Span) -> None:
        name = definition.function.name
        known = scope.functions.get(name)
        if known is None:
            scope.functions[name] = definition
            places[name] = at
        elif known.function is not definition.function:
            note = Note(places[name], "the first one is here")
            message = f"two functions are called `{name}`"
            label = "declared a second time" if definition.scope is scope else "this one comes from another file"
            self.report("E0506", message, at, label, "rename one, or use only one", note)

    def report(self, code: str, message: str, span: Span, label: str = "", help: str = "", *notes: Note) -> None:
        self.found.append(Diagnostic(code, message, span, label, help, notes))

    def resolve(self, use: tree.Use, scope: Scope, places: dict[str, Span], folder: Path | None) -> None:
        found = self.open_path(use, folder) if use.is_path else self.open_std(use)
        if found is None:
            scope.missing.update(use.names)
            return
        file, used = found
        own = {f.name for f in file.functions}
        for i, name in enumerate(use.names):
            at = use.name_spans[i]
            if name in own and name in used.functions:
                self.declare(scope, places, used.functions[name], at)
                continue
            scope.missing.add(name)
            if name in used.missing:
                continue
            help = did_you_mean(name, own)
            if any(a.name == name for a in file.attentions):
                help = f"`{name}` is an attention; only functions can be used"
            elif name in used.functions:
                help = f"`{use.module}` only uses `{name}` itself; use it from where it is declared"
            elif not help:
                help = "it declares " + _some(sorted(own))
            self.report("E0504", f"`{use.module}` has no function `{name}`", at, "not declared there", help)

    def open_std(self, use: tree.Use) -> tuple[tree.File, Scope] | None:
        modules = std_modules()
        if use.module not in modules:
            near = closest(use.module, modules)
            help = f"did you mean `{near}`?" if near else "the library has " + ", ".join(f"`{m}`" for m in modules)
            if near is None and self.folder is not None and (self.folder / f"{use.module}.attn").is_file():
                help = f'a file of yours is named by its path: `use "./{use.module}.attn" (...)`'
            self.report("E0501", f"the library has no module `{use.module}`", use.module_span, "unknown module", help)
            return None
        file, scope, found = _std(use.module)
        self.found += [d for d in found if d not in self.found]
        return file, scope

    def open_path(self, use: tree.Use, folder: Path | None) -> tuple[tree.File, Scope] | None:
        at = use.module_span
        if folder is None or self.folder is None:
            self.report("E0503", "a text without a file cannot use files", at, "relative to what?",
                        "save it in a file, or give the folder that its paths start from")  # fmt: skip
            return None
        why = _refused(use.module)
        path = folder / use.module
        if not why:
            try:
                path = path.resolve()
            except (OSError, RuntimeError, ValueError):
                why = "this path cannot be followed"
            if not why and not path.is_relative_to(self.folder):
                why = "it leaves the folder of the root file"
        if why:
            self.report("E0503", "this path may not be used", at, why, 'write a path such as "./mine.attn"')
            return None
        if path in self.open:
            names = " -> ".join(p.name for p in (*self.open[self.open.index(path) :], path))
            self.report("E0505", f"files use each other in a cycle: {names}", at, "this file is being read already",
                        "move what both need into a third file")  # fmt: skip
            return None
        if path in self.loaded:
            return self.loaded[path]
        if len(self.loaded) >= limits.FILES:
            self.report("E0606", f"a program uses more than {limits.FILES} files", at)
            return None
        return self.read(path, use, folder)

    def read(self, path: Path, use: tree.Use, folder: Path) -> tuple[tree.File, Scope] | None:
        at = use.module_span
        if not path.exists():
            near = closest(path.name, (p.name for p in _files(path.parent)))
            shown = (Path(use.module).parent / near).as_posix() if near else ""
            if near and not shown.startswith("."):
                shown = f"./{shown}"
            help = f'did you mean "{shown}"?' if near else ""
            self.report("E0502", f"there is no file `{use.module}`", at, "no such file", help)
            return None
        if not path.is_file():
            self.report("E0507", f"`{use.module}` is not a file", at, "expected a text file")
            return None
        assert self.folder is not None
        try:
            source, found = read_source(path, (self.shown / path.relative_to(self.folder)).as_posix())
        except OSError as error:
            self.report("E0507", f"`{use.module}` cannot be read", at, error.strerror or "")
            return None
        if found:
            self.found += found
            return None
        return self.load(source, path)


def _declared(text: str) -> set[str]:
    """Every name that a text seems to declare or use; for texts that did not parse."""
    names = set(re.findall(r"\b(?:fn|feature)\s+(\w+)", text))
    for listed in re.findall(r'\buse\s+(?:\w+|"[^"\n]*"?)\s*\(([^){}=]*)', text):
        names.update(re.findall(r"\w+", listed))
    return names


def _some(names: list[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(f"`{n}`" for n in names[:most]) or "no functions") + more


def _refused(path: str) -> str:
    """Why a path may not stand after `use`, or nothing."""
    if "\\" in path:
        return "folders are separated by `/`"
    if path.startswith(("/", "~")) or re.match("[A-Za-z]:", path):
        return "it is not relative"
    if any(ord(c) < 32 for c in path):
        return "it has a control character"
    return "" if path.endswith(".attn") else "it does not end in `.attn`"


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.attn")) if folder.is_dir() else []
