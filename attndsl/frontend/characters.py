"""Characters that are not of the language: what each one looks like, and what to type instead."""

from __future__ import annotations

import unicodedata

_CYRILLIC = dict(zip("аеорсхуівѕјһԁԛԝАВЕКМНОРСТХІЅЈ", "aeopcxyibsjhdqwABEKMHOPCTXISJ", strict=True))
_GREEK_LIKE = dict(zip("οΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "oABEZHIKMNOPTYX", strict=True))
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "η": "eta", "θ": "theta",
    "ι": "iota", "κ": "kappa", "λ": "lam", "μ": "mu", "µ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho",
    "σ": "sigma", "ς": "sigma", "τ": "tau", "υ": "upsilon", "φ": "phi", "ϕ": "phi", "χ": "chi", "ψ": "psi",
    "ω": "omega", "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma",
    "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip

SYMBOLS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-", "－": "-", "×": "*", "·": "*", "⋅": "*", "∗": "*",
    "÷": "/", "∕": "/", "⁄": "/", "≤": "<=", "⩽": "<=", "≥": ">=", "⩾": ">=", "≠": "!=", "∧": "and", "∨": "or",
    "¬": "not", "∈": "in", "∞": "inf", "‹": "<", "›": ">", "⟨": "<", "⟩": ">", "：": ":", "，": ",", "、": ",",
    "。": ".", "；": ";", "（": "(", "）": ")", "［": "[", "］": "]", "｛": "{", "｝": "}", "＝": "=", "＜": "<",
    "＞": ">", "＋": "+", "＊": "*", "／": "/", "％": "%", "＾": "^", "＠": "@", "．": ".", "！": "!", "ˆ": "^",
    "＃": "#", "＂": '"', "²": "^2", "³": "^3", "√": "sqrt",
}  # fmt: skip
"""Symbols that stand for something in the language."""

OPENING_QUOTES = "“”„‟«»"


def is_space(char: str) -> bool:
    """A space of Unicode that is not the plain one (a non-breaking space, an ideographic space, a line separator)."""
    return unicodedata.category(char) in ("Zs", "Zl", "Zp")


def is_invisible(char: str) -> bool:
    """A control character, or one that only changes how the text around it is shown."""
    return unicodedata.category(char) in ("Cc", "Cf") and char not in "\n\t"


def is_word(char: str) -> bool:
    return char == "_" or char.isalnum()


def describe(char: str) -> str:
    """A name for a character that may not be printable: `U+0430 CYRILLIC SMALL LETTER A`."""
    names = {"\0": "NULL", "\x1b": "ESCAPE", "\r": "CARRIAGE RETURN", "\x0b": "VERTICAL TAB", "\x0c": "FORM FEED"}
    name = unicodedata.name(char, names.get(char, "control character" if ord(char) < 32 else "no character"))
    return f"U+{ord(char):04X} {name}"


def plain_word(word: str) -> tuple[str, bool]:
    """A word in plain ASCII letters and digits, and whether every foreign character was a look-alike.

    The result is empty where nothing plain comes close.
    """
    out: list[str] = []
    alike = True
    for char in word:
        if char.isascii():
            out.append(char)
        elif char in _CYRILLIC or char in _GREEK_LIKE:
            out.append(_CYRILLIC.get(char) or _GREEK_LIKE[char])
        elif char in _GREEK:
            out.append(_GREEK[char])
            alike = False
        else:
            compatible = unicodedata.normalize("NFKC", char)
            if not (compatible.isascii() and compatible.isalnum()):
                alike = False
                compatible = "".join(c for c in unicodedata.normalize("NFKD", char) if c.isascii() and c.isalnum())
            if not compatible:
                return "", False
            out.append(compatible)
    return "".join(out), alike
