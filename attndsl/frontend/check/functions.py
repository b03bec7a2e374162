"""Checking functions on their own: names, numbers of arguments, recursion. Types are checked where they are called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from attndsl.diagnostics.source import Source, Span
from attndsl.frontend import tree
from attndsl.frontend.check import names
from attndsl.frontend.check.sink import Sink
from attndsl.frontend.library import library_functions
from attndsl.frontend.modules import Definition, Scope


def is_library(source: Source) -> bool:
    """Whether a source is part of the standard library."""
    return source.name.startswith("std/")


def parts(node: tree.TreeExpr) -> tuple[tree.TreeExpr, ...]:
    """The expressions directly inside one."""
    match node:
        case tree.Name() | tree.Number() | tree.Boolean():
            return ()
        case tree.Attribute(base=base):
            return (base,)
        case tree.Subscript(base=base, indices=indices):
            return (base, *indices)
        case tree.Call(arguments=arguments):
            return arguments
        case tree.Unary(operand=operand):
            return (operand,)
        case tree.Binary(left=left, right=right):
            return left, right
        case tree.Comparison(operands=operands):
            return operands
        case tree.Conditional(condition=condition, then=then, otherwise=otherwise):
            return condition, then, otherwise
        case tree.TupleLiteral(items=items):
            return items


def expressions(root: tree.TreeExpr) -> Iterator[tree.TreeExpr]:
    """Every expression under one, in reading order."""
    stack = [root]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(parts(node)))


def content(statement: tree.Statement) -> tree.TreeExpr:
    """The expression of a let or a precondition."""
    return statement.value if isinstance(statement, tree.Let) else statement.condition


def calls_of(function: tree.Function) -> Iterator[tree.Call]:
    """Every call in a function's body."""
    for value in (*map(content, function.statements), function.value):
        for node in expressions(value):
            if isinstance(node, tree.Call):
                yield node


def reachable(scope: Scope) -> list[Definition]:
    """Every definition that code of this scope can reach, each once, in a fixed order."""
    seen: dict[int, Definition] = {}
    stack = list(reversed(scope.functions.values()))
    while stack:
        definition = stack.pop()
        if id(definition) in seen:
            continue
        seen[id(definition)] = definition
        stack.extend(reversed(definition.scope.functions.values()))
    return list(seen.values())


def check_functions(
    definitions: Iterable[Definition], sink: Sink, damaged: Callable[[tree.Node], bool]
) -> frozenset[int]:
    """Report what is wrong in functions, whoever calls them. Gives the ids of the trees of recursive ones."""
    for definition in definitions:
        if not damaged(definition.function):
            check_declaration(definition.function, sink)
            _check_body(definition, sink)
    return _recursion(definitions, sink)


def check_declaration(function: tree.Function, sink: Sink) -> None:
    """The names that a function declares: its own, its parameters, its lets."""
    at = function.name_span
    if function.name in names.ARITY:
        other = names.other_name(function.name, names.ARITY)
        help_ = f"choose another name, such as `{other}`"
        sink.report("E0204", f"`{function.name}` is a built-in function", at, help=help_)
    taken: set[str] = set()
    for parameter in function.parameters:
        if parameter in taken:
            sink.report("E0206", f"`{function.name}` has two parameters called `{parameter}`", at)
        taken.add(parameter)
        _reserved(function, parameter, at, sink)
    for let in function.lets:
        if let.name in taken:
            message = f"`{let.name}` is declared twice in `{function.name}`"
            sink.report("E0206", message, let.name_span, help="choose another name: nothing is ever overwritten")
        taken.add(let.name)
        _reserved(function, let.name, let.name_span, sink)


def _reserved(function: tree.Function, name: str, span: Span, sink: Sink) -> None:
    everywhere = name in (*names.EVERYWHERE, "count")
    why = names.why_reserved(name) if everywhere or (function.kind == "feature" and name in names.VALUES) else ""
    if why:
        help_ = f"choose another name, such as `{names.other_name(name, function.parameters)}`"
        sink.report("E0204", f"`{name}` is {why}", span, help=help_)


def _check_body(definition: Definition, sink: Sink) -> None:
    function = definition.function
    known = {*function.parameters}
    later = {let.name for let in function.lets}
    for statement in function.statements:
        _check_names(content(statement), function, definition.scope, known, later, sink)
        if isinstance(statement, tree.Let):
            known.add(statement.name)
    _check_names(function.value, function, definition.scope, known, set(), sink)


def _check_names(
    root: tree.TreeExpr, function: tree.Function, scope: Scope, known: set[str], later: set[str], sink: Sink
) -> None:
    for node in expressions(root):
        if isinstance(node, tree.Name) and node.id not in known and node.id not in names.EVERYWHERE:
            _unknown_name(node, function, scope, known, later, sink)
        if isinstance(node, tree.Call):
            check_call(node, scope, {}, known, sink)


def _unknown_name(
    node: tree.Name, function: tree.Function, scope: Scope, known: set[str], later: set[str], sink: Sink
) -> None:
    name = node.id
    if name in later:
        help_ = f"move `let {name}` up"
        sink.report("E0201", f"`{name}` is used before its `let`", node.span, help=help_)
    elif name in names.VALUES:
        message = f"`{function.name}` does not see `{name}`: a `fn` sees only its parameters"
        help_ = f"add a parameter and pass `{name}` to it; a `feature` inside the attention sees everything"
        sink.report("E0207", message, node.span, help=help_)
    elif name in names.ARITY or name in scope.functions:
        sink.report(
            "E0203", f"`{name}` is a function", node.span, label="a value was expected", help=f"call it: `{name}(...)`"
        )
    else:
        found = names.did_you_mean(names.suggestion(name, {*known, *names.EVERYWHERE}))
        help_ = found or "a `fn` sees only its parameters: pass it what it needs"
        sink.report("E0201", f"unknown name `{name}`", node.span, help=help_)


def check_call(node: tree.Call, scope: Scope, features: dict[str, tree.Function], known: set[str], sink: Sink) -> None:
    """Report a call of an unknown function, or one with a wrong number of arguments."""
    name = node.function
    function = features.get(name) or (scope.functions[name].function if name in scope.functions else None)
    if name in names.ARITY:
        fewest, most = names.ARITY[name]
    elif function is not None:
        fewest = most = len(function.parameters)
    elif name in scope.missing:
        return
    elif name in known:
        help_ = "write `*` to multiply"
        sink.report("E0203", f"`{name}` is not a function", node.span, label="a function was expected", help=help_)
        return
    else:
        help_ = function_help(name, {*names.ARITY, *scope.functions, *features})
        sink.report("E0202", f"unknown function `{name}`", called(node), help=help_)
        return
    wrong = wrong_count(node, fewest, most)
    if wrong:
        sink.report("E0303", wrong, node.span)


def wrong_count(node: tree.Call, fewest: int, most: int | None) -> str:
    """What is wrong with the number of arguments of a call; empty if nothing is."""
    given = len(node.arguments)
    if given >= fewest and (most is None or given <= most):
        return ""
    expected = f"{fewest}" if most == fewest else f"at least {fewest}"
    arguments = "argument" if expected == "1" else "arguments"
    return f"`{node.function}` takes {expected} {arguments}, and {given} {'is' if given == 1 else 'are'} given"


def called(node: tree.Call) -> Span:
    """The name in a call."""
    return Span(node.span.source, node.span.start, min(node.span.stop, node.span.start + len(node.function)))


def function_help(name: str, known: set[str]) -> str:
    """What to do about an unknown function: a close name, or the `use` that brings one of the library."""
    found = names.function_suggestion(name, known)
    if found:
        return names.did_you_mean(found)
    library = library_functions()
    close = name if name in library else names.suggestion(name, library)
    if close:
        brings = f"`use {library[close]} ({close})` brings it"
        return brings if close == name else f"{names.did_you_mean(close)} {brings}"
    return "declare it with `fn`, or name it in a `use`"


def _recursion(definitions: Iterable[Definition], sink: Sink) -> frozenset[int]:
    """Report each cycle of calls once, at the call that closes it."""
    state: dict[int, int] = {}
    cyclic: set[int] = set()
    for root in definitions:
        if id(root) in state:
            continue
        path: list[Definition] = [root]
        pending = [iter(list(calls_of(root.function)))]
        state[id(root)] = 1
        while path:
            node = next(pending[-1], None)
            if node is None:
                state[id(path.pop())] = 2
                pending.pop()
                continue
            target = path[-1].scope.functions.get(node.function)
            if target is None or state.get(id(target)) == 2:
                continue
            if state.get(id(target)) == 1:
                loop = path[path.index(target) :]
                cyclic.update(id(d.function) for d in loop)
                _report_loop(node, loop, sink)
                continue
            state[id(target)] = 1
            path.append(target)
            pending.append(iter(list(calls_of(target.function))))
    return frozenset(cyclic)


def _report_loop(node: tree.Call, loop: list[Definition], sink: Sink) -> None:
    shown = " -> ".join(f"`{d.function.name}`" for d in (*loop, loop[0]))
    message = f"`{loop[0].function.name}` calls itself"
    help_ = f"{shown}; functions are written out where they are called, so none may lead back to itself"
    sink.report("E0405", message, node.span, help=help_ if len(loop) > 1 else help_.split("; ")[1])
