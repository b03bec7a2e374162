"""Codes of the Python front end (E08xx); their examples are Python."""

from __future__ import annotations

from attndsl.diagnostics.code_info import CodeInfo

_IMPORT = "import attndsl\nfrom attndsl.lang import const, exp, softmax, tensor\n\n\n@attndsl.attention\n"

PYTHON_CODES: dict[str, CodeInfo] = {
    "E0801": CodeInfo(
        "the source of a function is not there",
        "A decorated function is read by its source text, never executed. Functions that are typed at a prompt, "
        "made by `exec` "
        "or run with `python -c` keep none, and a file that changed since it was imported no longer fits. Write "
        "the function "
        "in a file, or pass the spec as text to `attndsl.load`.",
        'exec("@attndsl.attention\\ndef a(q, k): return softmax(s, where=k <= q)")',
        'a = attndsl.load("attention a { mask k <= q }")',
    ),
    "E0802": CodeInfo(
        "wrong signature",
        "The positional parameters of the function are symbols of the pair that it uses: `q k b h hkv s o Q K "
        "V` and sizes. "
        "Parameters of the attention stand after a `*`, declared by const(...), scalar(...) or tensor(...).",
        _IMPORT + "def a(q, k, s, window):\n    return softmax(s, where=q - k < window)",
        _IMPORT + "def a(q, k, s, *, window=const(64)):\n    return softmax(s, where=q - k < window)",
    ),
    "E0803": CodeInfo(
        "wrong declaration",
        "const(...) and scalar(...) take a literal (`const(64)`, `const((3, 9, 9))`), or a type as text "
        '(`const("int[3]")`), or '
        'both; tensor(...) takes a type as text (`tensor("f32[B, H, L] log_decay")`); grid(...) takes a grid as text.',
        _IMPORT + "def a(q, k, s, *, window=64):\n    return softmax(s, where=q - k < window)",
        _IMPORT + "def a(q, k, s, *, window=const(64)):\n    return softmax(s, where=q - k < window)",
    ),
    "E0804": CodeInfo(
        "a name from outside the function",
        "Only the function itself is read: no global, no closure, no other function of yours. Declare what it "
        "needs after the "
        "`*`, name the symbols of the pair as parameters, and write helpers as nested functions.",
        "WINDOW = 64\n\n\n" + _IMPORT + "def a(q, k, s):\n    return softmax(s, where=q - k < WINDOW)",
        _IMPORT + "def a(q, k, s, *, window=const(64)):\n    return softmax(s, where=q - k < window)",
    ),
    "E0805": CodeInfo(
        "Python that has no meaning in an attention",
        "A body is made of assignments to new names, `grid`, `assert`, nested functions with one `return`, "
        "clauses such as "
        "`mask(...)`, and a `return`. Expressions use arithmetic, comparisons, `and or not`, `a if c else b`, "
        "`@`, `in`, "
        "subscripts and calls. There are no loops, no statements with `if`, and nothing is overwritten.",
        _IMPORT + "def a(q, k, s):\n    return softmax(s, where=(k <= q) & (q - k < 64))",
        _IMPORT + "def a(q, k, s):\n    return softmax(s, where=(k <= q) and (q - k < 64))",
    ),
    "E0806": CodeInfo(
        "wrong arguments of a call",
        "Arguments have no names and stand in order; only the outermost call of `return` takes `where=`, the mask.",
        _IMPORT + "def a(q, k, s):\n    return softmax(exp(x=s), where=k <= q)",
        _IMPORT + "def a(q, k, s):\n    return softmax(exp(s), where=k <= q)",
    ),
}
