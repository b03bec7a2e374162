"""Codes of `use` (E05xx) and of the limits of the text front end (E06xx)."""

from __future__ import annotations

from attndsl.diagnostics.code_info import CodeInfo

FILE_CODES: dict[str, CodeInfo] = {
    "E0501": CodeInfo(
        "the library has no such module",
        "A bare word after `use` names a module of the standard library: `masks`, `scores`, `features`. A "
        "file of yours is named by its path in quotes.",
        ("use mask (causal)\nattention a { mask causal(q, k) }"),
        ("use masks (causal)\nattention a { mask causal(q, k) }"),
    ),
    "E0502": CodeInfo(
        "there is no such file",
        "The path after `use` starts from the folder of the file that it stands in.",
        ('use "./no_such_file.attn" (near)\nattention a { mask near(q, k) }'),
        ('use "./near.attn" (near)\nattention a { mask near(q, k) }'),
    ),
    "E0503": CodeInfo(
        "this path may not be used",
        "A path after `use` is relative, uses `/`, ends in `.attn` and stays in the folder of the root "
        "file, also where links lead. So a spec never reads what does not belong to it. A text without a "
        "file has no folder; give one.",
        ('use "/etc/near.attn" (near)\nattention a { mask near(q, k) }'),
        ('use "./near.attn" (near)\nattention a { mask near(q, k) }'),
    ),
    "E0504": CodeInfo(
        "the module has no such function",
        "`use module (name)` takes functions that the module declares with `fn`, not attentions and not "
        "what the module uses itself.",
        ("use masks (causl)\nattention a { mask causl(q, k) }"),
        ("use masks (causal)\nattention a { mask causal(q, k) }"),
    ),
    "E0505": CodeInfo(
        "files use each other in a cycle",
        "A file cannot use itself, directly or through others. Move what both files need into a third one.",
        ('# in cycle.attn\nuse "./cycle.attn" (near)\nfn near(i, j) = abs(i - j) < 8'),
        ("# in cycle.attn\nfn near(i, j) = abs(i - j) < 8"),
    ),
    "E0506": CodeInfo(
        "two functions with the same name",
        "In one file each name belongs to one function, whether it is declared there or comes from a `use`.",
        ("use masks (causal)\nfn causal(q, k) = k < q\nattention a { mask causal(q, k) }"),
        ("fn causal(q, k) = k < q\nattention a { mask causal(q, k) }"),
    ),
    "E0507": CodeInfo(
        "the file cannot be read",
        "The path leads to something that is not a readable file: a folder, a device, or a file without permission.",
        ('use "./folder.attn" (near)   # where folder.attn is a folder\nattention a { mask near(q, k) }'),
        ('use "./near.attn" (near)\nattention a { mask near(q, k) }'),
    ),
    "E0601": CodeInfo(
        "the source is too large",
        "A spec is at most 64 KiB of text. Specs are short; a file as large as this is something else, or "
        "holds several that `use` can join.",
        "# a file of 10 MB",
        "attention a { mask k <= q }",
    ),
    "E0602": CodeInfo(
        "a literal is too large",
        "Integers stay below 2^31, since positions are 32-bit; other numbers must be finite. `inf` is infinity.",
        "attention a { mask q - k < 4294967296 }",
        "attention a { mask q - k < 2147483647 }",
    ),
    "E0603": CodeInfo(
        "an expression is nested too deeply",
        "At most 64 levels. Brackets, signs and each operator of a chain count. Name parts of the "
        "expression with `let`.",
        "attention a { score " + "(" * 70 + "s" + ")" * 70 + " }",
        "attention a { score s }",
    ),
    "E0604": CodeInfo(
        "too many expressions in a file",
        "A file has at most 4096 nodes of expressions: names, numbers, operators and calls.",
        "# more than 4096 operators, numbers and names",
        "attention a { mask k <= q }",
    ),
    "E0605": CodeInfo(
        "too many errors",
        "At most 100 errors are shown for one file. Mend the first ones; the others may be their consequences.",
        "# a text that is no spec at all",
        "attention a { mask k <= q }",
    ),
    "E0606": CodeInfo(
        "too many files",
        "One program reaches at most 64 files by `use`.",
        "# 65 files, each using the next",
        "attention a { mask k <= q }",
    ),
}
