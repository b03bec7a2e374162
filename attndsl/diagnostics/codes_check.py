"""Codes of name, type, structure, limit and value errors that the checker finds (E02xx, E03xx, E04xx, E061x, E070x)."""

from __future__ import annotations

from attndsl.diagnostics.code_info import CodeInfo
from attndsl.diagnostics.codes_python import PYTHON_CODES

CHECK_CODES: dict[str, CodeInfo] = {
    "E0201": CodeInfo(
        "unknown name",
        "A name is a built-in value (`q k b h hkv s o Q K V`, a size such as `H` or `Lk`, `pi`, `inf`, `sum`, "
        "`count`), a "
        "parameter of the attention, or a `let` above. Clauses are read in order, so a `let` stands before its uses.",
        "attention a { mask j <= q }",
        "attention a { mask k <= q }",
    ),
    "E0202": CodeInfo(
        "unknown function",
        "A name before `(` is a built-in function, a `fn` of the file, a `feature` of the attention above the "
        "call, or a "
        "function named in a `use`.",
        "attention a { mask causal(q, k) }",
        "use masks (causal)\nattention a { mask causal(q, k) }",
    ),
    "E0203": CodeInfo(
        "a value is called, or a function is used as a value",
        "Functions and values have names of their own kind: what stands before `(` is a function, everything "
        "else a value. "
        "A product needs its `*`.",
        "use masks (causal)\nattention a { mask causal }",
        "use masks (causal)\nattention a { mask causal(q, k) }",
    ),
    "E0204": CodeInfo(
        "a declared name is taken by the language",
        "A parameter, `let` or segment may not have the name of a built-in value, of an argument of the call (`scale`, "
        "`grid`, `layout`, ...) or of a Python keyword; a function not that of a built-in one. Reading `s` must always "
        "mean the score.",
        "attention a(scalar scale: float) { score s * scale }",
        "attention a(scalar factor: float) { score s * factor }",
    ),
    "E0205": CodeInfo(
        "unknown coordinate, segment or axis",
        "`q.t` and `q.video` are coordinates on a declared grid, `size(t)` and `size(video)` extents of it. "
        "Only q and k have "
        "coordinates.",
        "attention a { grid video(t, y, x)   mask q.z == k.z }",
        "attention a { grid video(t, y, x)   mask q.t == k.t }",
    ),
    "E0206": CodeInfo(
        "a name is declared twice",
        "Nothing is ever overwritten or hidden: each parameter, segment, `let`, function and attention has a "
        "name of its own.",
        "attention a {\n    let d = q - k\n    let d = abs(d)\n    mask d < 8\n}",
        "attention a {\n    let d = q - k\n    let far = abs(d)\n    mask far < 8\n}",
    ),
    "E0207": CodeInfo(
        "a function uses what it does not see",
        "A `fn` is closed: it sees its parameters, its own `let`s, `pi`, `inf` and other functions. A `feature` "
        "inside the "
        "attention sees everything that is declared above it.",
        "fn near(w) = abs(q - k) < w\nattention a { mask near(8) }",
        "fn near(i, j, w) = abs(i - j) < w\nattention a { mask near(q, k, 8) }",
    ),
    "E0301": CodeInfo(
        "an operand has the wrong type",
        "Values are bools, ints and floats, vectors and matrices of them, and tuples for grids. Arithmetic "
        "takes numbers, "
        "`and`, `or`, `not` and conditions take bools, `//` and `%` take ints, `dot` and the like take vectors. An int "
        "becomes a float where one is needed; a bool never becomes a number by itself.",
        "attention a { score s + (k <= q) }",
        "attention a { score s + (if k <= q then 1 else 0) }",
    ),
    "E0302": CodeInfo(
        "shapes do not fit",
        "Vectors that are added, compared or multiplied have one size, tuples one length; `x @ W` takes a "
        "vector as long as "
        "the matrix's first dimension. A number fits everything.",
        "attention a { score dot(Q, V) }",
        "attention a { score dot(Q, K) }",
    ),
    "E0303": CodeInfo(
        "wrong number of arguments",
        "Functions take exactly the arguments that they declare; only `min`, `max` and `concat` take any number.",
        "fn near(i, j, w) = abs(i - j) < w\nattention a { mask near(q, k) }",
        "fn near(i, j, w) = abs(i - j) < w\nattention a { mask near(q, k, 8) }",
    ),
    "E0304": CodeInfo(
        "wrong subscript",
        "An input is read with an int index for each dimension; trailing dimensions such as D may stay and give "
        "a vector "
        "(two give a matrix), but batches, heads and positions always need their index. Consts and scalars without "
        "brackets in their type are numbers and have no elements.",
        "attention a(const slope: float = 1.0) { score s * slope[h] }",
        "attention a(input slope: f32[H]) { score s * slope[h] }",
    ),
    "E0305": CodeInfo(
        "a dimension takes only its own index",
        "B is indexed by `b`, H by `h`, Hkv by `hkv`, and Lq by the bare `q`, which means this row. Dimensions "
        "L, Lk and those "
        "with sizes of their own take any int.",
        "attention a(input u: f32[Hkv]) { score s * u[h] }",
        "attention a(input u: f32[Hkv]) { score s * u[hkv] }",
    ),
    "E0306": CodeInfo(
        "a segment is used as a value, or `in` without one",
        "The name of a segment stands on the right of `in` (`q in video`), after a dot (`q.video`) and in "
        "`size(video)`.",
        "attention a { grid text(m) ++ video(t, y, x)   mask q in 5 }",
        "attention a { grid text(m) ++ video(t, y, x)   mask q in text }",
    ),
    "E0307": CodeInfo(
        "wrong type of a parameter",
        "A const is `bool`, `int` or `float`, or an array with a literal length such as `int[3]`; a scalar has "
        "no brackets; an "
        "input has an element type (`bool i8 i16 i32 i64 f16 bf16 f32 f64`) and int sizes.",
        "attention a(input slope: float[H]) { score s * slope[h] }",
        "attention a(input slope: f32[H]) { score s * slope[h] }",
    ),
    "E0308": CodeInfo(
        "wrong promise about a parameter",
        "Promises stand after the type of an input: `sorted` (non-decreasing along the last axis), "
        "`permutation` (ints), "
        "`log_decay` (floats at most 0, with L last or last but one).",
        "attention a(input doc: i32[B, L] sort) { mask doc[b, q] == doc[b, k] }",
        "attention a(input doc: i32[B, L] sorted) { mask doc[b, q] == doc[b, k] }",
    ),
    "E0309": CodeInfo(
        "wrong argument of decay",
        "`decay(g)` is exp of the sum of g over the keys after k, up to q. It takes the name of an input that "
        "is declared "
        "`log_decay`; dimensions before L take their own indices.",
        "attention a(input g: f32[B, H, L]) { mask k <= q   weight dot(Q, K) * decay(g) }",
        "attention a(input g: f32[B, H, L] log_decay) { mask k <= q   weight dot(Q, K) * decay(g) }",
    ),
    "E0310": CodeInfo(
        "a clause has the wrong type",
        "A mask and a `require` are bools, a score and a weight numbers, an output a vector of Dv floats.",
        "attention a { mask q - k }",
        "attention a { mask q - k >= 0 }",
    ),
    "E0311": CodeInfo(
        "a function requires what varies",
        "A `require` inside a function holds for every call of it, and it is decided before the call looks at data. So "
        "the arguments that it speaks of are made of consts, scalars, sizes and extents; none depends on positions, "
        "heads, batches or tensors. Where it has to vary, write the function's formula out.",
        'fn recent(i, j, w) { require w >= 1, "no window"  return j <= i and i - j < w }\n'
        "attention a(input span: i32[H]) { mask recent(q, k, span[h]) }",
        'fn recent(i, j, w) { require w >= 1, "no window"  return j <= i and i - j < w }\n'
        "attention a(scalar span: int) { mask recent(q, k, span) }",
    ),
    "E0401": CodeInfo(
        "a clause that may stand once stands twice",
        "An attention has one `weight`, one `output`, and one grid (or one for q and one for k). Masks are "
        "and-ed and scores "
        "compose, so those may stand several times.",
        "attention a { weight relu(s)   weight sigmoid(s) }",
        "attention a { weight sigmoid(relu(s)) }",
    ),
    "E0402": CodeInfo(
        "a value is not available in this clause",
        "A mask is made of positions, sizes, scalars and inputs; a score sees Q, K and s too; a weight also "
        "sums over keys; an "
        "output sees o and what belongs to the row, no key; a `require` sees consts, scalars, sizes and extents only.",
        "attention a { mask s > 0 }",
        "attention a { score if s > 0 then s else -inf }",
    ),
    "E0403": CodeInfo(
        "a bare sum without a quotient",
        "A bare `sum` stands for the sum of the left side of the nearest `/` that has it on its right. Anywhere "
        "else, write "
        "what is summed: `sum(e)`.",
        "attention a { weight relu(s) * sum }",
        "attention a { weight relu(s) / sum }",
    ),
    "E0404": CodeInfo(
        "a segment without a name among several",
        "Where a sequence has several segments, each has a name, so that `q in video` and `q.video` can say "
        "which one is meant.",
        "attention a { grid text(m) ++ (t, y, x)   mask q in text }",
        "attention a { grid text(m) ++ video(t, y, x)   mask q in text }",
    ),
    "E0405": CodeInfo(
        "a function calls itself",
        "Functions are written out where they are called, so none may lead back to itself, directly or through others.",
        "fn f(x) = if x > 0 then f(x - 1) else 0\nattention a { mask f(k) == 0 }",
        "fn f(x) = max(x, 0)\nattention a { mask f(k) == 0 }",
    ),
    "E0611": CodeInfo(
        "an attention is too large",
        "With its functions written out an attention has at most 4096 distinct operations. A formula that grows "
        "with every "
        "call is smaller as a table: a const array, or an input.",
        "fn a4(x, c) = (x * c + 1) // 3 + (x * c + 2) // 5 + (x + c) // 7 + (x - c) // 11\n"
        "fn b4(x, c) = a4(x, c) + a4(x + 1, c) + a4(x + 2, c) + a4(x + 3, c)\n"
        "fn c4(x, c) = b4(x, c) + b4(x, c + 10) + b4(x, c + 20) + b4(x, c + 30)\n"
        "fn d4(x, c) = c4(x, c) + c4(x + 50, c + 100) + c4(x + 60, c + 200) + c4(x + 70, c + 300)\n"
        "fn e4(x, c) = d4(x, c) + d4(x + 500, c + 1000) + d4(x + 600, c + 2000) + d4(x + 700, c + 3000)\n"
        "attention a { mask e4(q, 1) <= e4(k, 5) }",
        "attention a(const table: int[16]) { mask table[q % 16] <= table[k % 16] }",
    ),
    "E0612": CodeInfo(
        "an expression is too deep",
        "With its functions written out an expression is at most 200 operations high, so that every part of the "
        "compiler can "
        "read it. Functions that call functions, and lets that build on lets, add up.",
        "fn f(x) = (((x * 2 + 1) * 2 + 1) * 2 + 1) * 2 + 1\n"
        "fn g(x) = f(f(f(f(f(x)))))\nattention a { mask g(g(g(g(g(g(q)))))) <= k }",
        "fn f(x) = x * 16 + 15\nattention a { mask f(f(q)) <= k }",
    ),
    "E0613": CodeInfo(
        "a constant power is too large",
        "Constant exponents are at most 8: powers are written out as products, and larger ones leave the range "
        "of floats.",
        "attention a { weight relu(s)^20 / sum }",
        "attention a { weight (relu(s)^4)^5 / sum }",
    ),
    "E0614": CodeInfo(
        "a number is too large",
        "Integer literals, and powers of them, are below 2^31.",
        "attention a { mask k < 2^40 }",
        "attention a(scalar far: int) { mask k < far }",
    ),
    "E0615": CodeInfo(
        "a parameter is too large",
        "A const array has at most 4096 numbers and an input at most 6 dimensions. A longer table is an input.",
        "attention a(const table: int[100000]) { mask table[q] == table[k] }",
        "attention a(input table: i32[L]) { mask table[q] == table[k] }",
    ),
    "E0616": CodeInfo(
        "a grid has too many axes",
        "A segment has at most three axes.",
        "attention a { grid video(n, t, y, x)   mask q.t == k.t }",
        "attention a { grid video(t, y, x)   mask q.t == k.t }",
    ),
    "E0701": CodeInfo(
        "division by a constant zero",
        "The right side of `/`, `//` or `%` is 0 whatever the call gives. (A zero from a tensor gives x // 0 = "
        "x % 0 = 0, one "
        "from a const or a scalar is an error of the call.)",
        "attention a { mask q % 0 == k }",
        "attention a { mask q % 2 == k % 2 }",
    ),
    "E0702": CodeInfo(
        "a default does not fit its parameter",
        "The default of a const or scalar is a literal of its type; an array takes a tuple of its length, or "
        "one number for "
        "all. Inputs have no default.",
        "attention a(const window: int = 0.5) { mask q - k < window }",
        "attention a(const window: int = 8) { mask q - k < window }",
    ),
    **PYTHON_CODES,
}
