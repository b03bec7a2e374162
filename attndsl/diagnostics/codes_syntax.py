"""Codes of lexing and parsing (E01xx)."""

from __future__ import annotations

from attndsl.diagnostics.code_info import CodeInfo

SYNTAX_CODES: dict[str, CodeInfo] = {
    "E0101": CodeInfo(
        "unexpected character",
        "The character is no part of the language. Names are letters, digits and `_`; operators are `+ - * "
        "/ // % @ ^ < <= > >= == != ++`, brackets, `.`, `,`, `:` and `=`; comments start with `#`.",
        "attention a { mask q - k < $window }",
        "attention a(const window: int = 8) { mask q - k < window }",
    ),
    "E0102": CodeInfo(
        "the text is not valid UTF-8",
        "A spec is a text file in UTF-8. The place is the first byte that is not part of such a text; "
        "editors that save Latin-1 or UTF-16 cause this.",
        ("# caf\\xe9 (saved as Latin-1)\nattention a { mask k <= q }"),
        ("# café (saved as UTF-8)\nattention a { mask k <= q }"),
    ),
    "E0103": CodeInfo(
        "a character that only looks like another one",
        "Text copied from a paper, a chat or a web page often has characters that look right and are not: a "
        "Cyrillic а, a minus sign −, ≤, typographic quotes, non-breaking spaces. Type the plain character "
        "that the message names.",
        "attention a { mask k ≤ q }",
        "attention a { mask k <= q }",
    ),
    "E0104": CodeInfo(
        "an invisible character",
        "Control characters, zero-width characters and marks that change the direction of text are refused "
        "everywhere, comments included: with them a text can look different from what it means.",
        "attention a { mask k <= q\u200b }",
        "attention a { mask k <= q }",
    ),
    "E0105": CodeInfo(
        "a name has a letter outside ASCII",
        "Names are made of `a-z`, `A-Z`, `0-9` and `_`, so that they can be typed and told apart "
        "everywhere. Comments and messages may have any letters.",
        "attention a(scalar α: float) { score s * α }",
        "attention a(scalar alpha: float) { score s * alpha }",
    ),
    "E0106": CodeInfo(
        "malformed number",
        "Numbers are decimal: `16`, `1_000_000`, `0.5`, `1e-6`. A product needs its `*`.",
        "attention a { score 2s }",
        "attention a { score 2 * s }",
    ),
    "E0107": CodeInfo(
        "text is not closed",
        'A text starts and ends with `"` on one line. A quote inside it is written `\\"`.',
        ('attention a(const w: int = 8) {\n    require w > 0, "w is positive\n}'),
        ('attention a(const w: int = 8) {\n    require w > 0, "w is positive"\n}'),
    ),
    "E0108": CodeInfo(
        "unknown escape in text",
        'Inside a text, `\\"`, `\\\\`, `\\n` and `\\t` stand for a quote, a backslash, a new line and a tab.',
        ('attention a(const w: int = 8) {\n    require w > 0, "w \\in N"\n}'),
        ('attention a(const w: int = 8) {\n    require w > 0, "w \\\\in N"\n}'),
    ),
    "E0109": CodeInfo(
        "an operator of another language",
        "The message says how this is written here: `and`, `or`, `not` are words, a power is `^`, a choice "
        "is `if a then b else c`, and clauses need no separator.",
        "attention a { mask k <= q && q - k < 8 }",
        "attention a { mask k <= q and q - k < 8 }",
    ),
    "E0110": CodeInfo(
        "unexpected word or symbol",
        "Something else must stand here; the label says what. Newlines mean nothing, so the cause may be "
        "just before: an operator, a comma or a clause word that is missing or misspelled.",
        ("attention a {\n    mask k <= q\n    wieght exp(s) / sum\n}"),
        ("attention a {\n    mask k <= q\n    weight exp(s) / sum\n}"),
    ),
    "E0111": CodeInfo(
        "a bracket is never closed",
        "The bracket that is underlined has no partner before the next clause, the next declaration or the end.",
        ("attention a {\n    mask (k <= q\n    weight exp(s) / sum\n}"),
        ("attention a {\n    mask (k <= q)\n    weight exp(s) / sum\n}"),
    ),
    "E0112": CodeInfo(
        "an unexpected closing bracket",
        "There is no open bracket that this one closes, or something is missing before it.",
        "attention a { mask k <= q) }",
        "attention a { mask (k <= q) }",
    ),
    "E0113": CodeInfo(
        "a reserved word",
        "The words that start clauses and those of expressions cannot be names, wherever they stand; this "
        "includes words that are kept for later versions (`query key value select branch extra emit by "
        "where`, and `top` and `merge` for functions). Take another name.",
        "attention a(const value: int = 8) { mask q - k < value }",
        "attention a(const width: int = 8) { mask q - k < width }",
    ),
    "E0114": CodeInfo(
        "not supported yet",
        "This part of the language is planned and its words are reserved, but no compiler for it exists "
        "yet: clauses that rewrite Q, K and V, content-based selection, branches and their merge, extra "
        "keys and further outputs.",
        ("attention a {\n    query rmsnorm(Q)\n    mask k <= q\n}"),
        ("attention a {\n    mask k <= q\n}"),
    ),
    "E0115": CodeInfo(
        "parentheses are needed",
        "`if ... then ... else ...` and `not` bind more loosely than the operators around them here, so it "
        "is not clear how far they reach. `not in` cannot be part of a chain of comparisons.",
        "attention a { score s + if q == k then 1 else 0 }",
        "attention a { score s + (if q == k then 1 else 0) }",
    ),
    "E0116": CodeInfo(
        "`=` where `==` is meant",
        "`=` gives a value to a name in `let`, in a default or in a function; `==` compares.",
        "attention a { mask q // 8 = k // 8 }",
        "attention a { mask q // 8 == k // 8 }",
    ),
    "E0117": CodeInfo(
        "a block without one `return` at its end",
        "The block of a function is any number of `let`, then one `return`.",
        ("fn near(i, j) {\n    let d = abs(i - j)\n}"),
        ("fn near(i, j) {\n    let d = abs(i - j)\n    return d <= 2\n}"),
    ),
    "E0118": CodeInfo(
        "a clause or declaration in the wrong place",
        "At the top level stand `use`, `fn` and `attention`; inside an attention its clauses and `feature`; "
        "inside the block of a function `let` and `return`.",
        "mask k <= q",
        "attention a { mask k <= q }",
    ),
    "E0119": CodeInfo(
        "an argument with a name",
        "Arguments of functions are given in order, without names.",
        ("fn near(i, j, w) = abs(i - j) <= w\nattention a { mask near(q, k, w=8) }"),
        ("fn near(i, j, w) = abs(i - j) <= w\nattention a { mask near(q, k, 8) }"),
    ),
    "E0120": CodeInfo(
        "this cannot be called",
        "Only functions are called, by their bare name. A product needs its `*`.",
        "attention a { score s * (q - k)(2) }",
        "attention a { score s * (q - k) * 2 }",
    ),
    "E0121": CodeInfo(
        "a tuple has at least two items",
        "`(a, b)` is a tuple; `(a)` is a itself; `()` and `(a,)` mean nothing.",
        "attention a(const w: int[2] = (3,)) { mask k <= q }",
        "attention a(const w: int[2] = (3, 3)) { mask k <= q }",
    ),
    "E0122": CodeInfo(
        "text is not a value",
        'Text in quotes stands only after `use` and as the message of `require condition, "message"`.',
        'attention a { mask k <= "q" }',
        "attention a { mask k <= q }",
    ),
    "E0123": CodeInfo(
        "an empty list",
        "These brackets hold at least one item.",
        ("use masks ()\nattention a { mask k <= q }"),
        ("use masks (causal)\nattention a { mask causal(q, k) }"),
    ),
    "E0124": CodeInfo(
        "a parameter without a role",
        "Each parameter says what it is: `const` is baked into the kernel and part of the cache key, "
        "`scalar` is a run-time number, `input` a run-time tensor.",
        "attention a(window: int = 8) { mask q - k < window }",
        "attention a(const window: int = 8) { mask q - k < window }",
    ),
}
