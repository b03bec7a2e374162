"""Random scores, weights and outputs, written as text."""

from __future__ import annotations

from tests.random_masks import Writer


def score_clauses(w: Writer) -> list[str]:
    """None to two clauses that rewrite s, each smooth, and masks that they need."""
    clauses: list[str] = []
    for _ in range(w.pick([0, 1, 1, 1, 2])):
        form = w.int(0, 19)
        if form >= 16:
            clauses += _composed_clauses(w)
        elif form == 13:
            # what it would be on invisible pairs is not a number
            clauses += ["mask k <= q", f"score s - {_strength(w)} * log(1 + q - k)"]
        elif form == 14:
            clauses.append("score if q >= k then s * sqrt(1 + 0.1 * (q - k)) else s")
        elif form == 12:
            clauses.append(f"score {_several_products(w)}")
        elif form == 15:
            clauses += ["mask k <= q", f"score s + {w.input('f32', 'M=9', 'normal')}[q - k]"]
        else:
            clauses.append(f"score {_score(w)}")
    return clauses


SMOOTH = (
    "tanh({})", "sin({})", "cos({})", "erf({})", "sigmoid({})", "silu({})", "gelu({})", "softplus({})", "{}^2",
    "log(1 + ({})^2)", "sqrt(1 + ({})^2)", "1 / (1 + ({})^2)", "exp(-({})^2)",
)  # fmt: skip


def _composed_clauses(w: Writer) -> list[str]:
    """A score made of functions of functions; often one that has no value where nothing is seen."""
    wild = w.chance(50)
    return [*(["mask k <= q"] if wild else []), f"score s + {_strength(w)} * ({_composed(w, 3, wild)})"]


def _composed(w: Writer, depth: int, wild: bool) -> str:
    if depth == 0 or w.chance(15):
        leaves = ["s", "s", f"{_strength(w)} * s", "0.1 * (q - k)", f"{w.input('f32', 'H', 'normal')}[h]"]
        if w.tables_by_position:
            leaves += [f"{w.input('f32', 'B, L', 'normal')}[b, k]", f"{w.input('f32', 'B, H, Lq', 'normal')}[b, h, q]"]
        if wild:
            leaves += ["log(1 + q - k)", "sqrt(q - k)", "1 / (1 + q - k)"]
        return w.pick(leaves)
    first = _composed(w, depth - 1, wild)
    form = w.int(0, 4)
    if form <= 1:
        return w.pick(SMOOTH).format(f"({first})")
    second = _composed(w, depth - 1, wild)
    if form == 2:
        return f"({first}) {w.pick(['+', '-', '*'])} ({second})"
    if form == 3:
        return f"(if {w.pick(['q > k + 3', 'k % 3 == 0', 'q % 2 == h'])} then {first} else {second})"
    return f"(if {w.input('f32', 'H', 'normal')}[h] > 0 then {first} else {second})"


VECTORS = ("roll({}, 1)", "rmsnorm({})", "tanh({})", "0.5 * {}")


def _product(w: Writer) -> str:
    """A dot product of a vector of the query and one of the key, of about the size of s."""
    if w.chance(40):
        map_ = w.input("f32", f"H, D, N{len(w.inputs)}={w.pick([3, 8])}", "normal", 0.3)
        return f"dot(Q @ {map_}[h], K @ {map_}[h])"
    query, key = w.pick(VECTORS).format("Q"), w.pick([*VECTORS, "{}", "{}"]).format("K")
    return f"dot({query}, {key}) / sqrt(D)"


def _several_products(w: Writer) -> str:
    """A score of dot products that are no sum."""
    first, second = _product(w), _product(w)
    forms = [
        f"s + {_strength(w)} * tanh({first})", f"s * sigmoid({first})", f"tanh({first}) + {second}",
        f"s + sin(0.1 * (q - k)) * {first}", f"softplus({first}) - sigmoid({second}) * s", f"cos(s) * {first} + s",
        f"(if q > k + 3 then {first} else s)",
    ]  # fmt: skip
    if w.tables_by_position:
        forms.append(f"s * {w.input('f32', 'B, H, Lq', 'positive', 2.0)}[b, h, q] + erf({first} + s)")
    return w.pick(forms)


def hidden_clauses(w: Writer) -> list[str]:
    """Sometimes a last score that is minus infinity on some pairs."""
    if not w.chance(10):
        return []
    return [f"score if {w.pick(['k % 3 == 1', '(q + k) % 4 == h', 'q - k > 5'])} then -inf else s"]


def _strength(w: Writer) -> str:
    how = w.int(0, 3)
    if how == 0:
        return w.scalar("float", w.pick([0.5, 1.0, 0.125]))
    if how == 1:
        return w.const("float", w.pick([0.5, 1.0, 0.25]))
    return w.pick(["0.5", "1.0", "0.3"])


def _score(w: Writer) -> str:
    forms = ["scale", "alibi", "distance", "softcap", "table", "per head table", "temperature", "relu", "log", "where"]
    if w.tables_by_position:
        forms += ["per key", "per row", "pair of vectors", "per key"]
    form = w.pick([*forms, "vector", "curve", "components"])
    if form == "components":
        return f"s + {_strength(w)} * {_components(w)}"
    if form == "scale":
        return f"s * {w.pick(['2', '0.5', '-1.5'])} + {_strength(w)}"
    if form == "alibi":
        return f"s - {_strength(w)} * {w.input('f32', 'H', 'positive', 0.1)}[h] * (q - k)"
    if form == "distance":
        return f"s - {w.input('f32', 'H', 'positive', 0.3)}[h] * abs(q - k)"
    if form == "softcap":
        cap = w.scalar("float", 3.0) if w.chance(30) else w.pick(["2.0", "5"])
        return f"{cap} * tanh(s / {cap})"
    if form == "table":
        name = w.input("f32", "M=9", "normal")
        return f"s + {name}[clamp(q - k, 0, M - 1)]"
    if form == "per head table":
        reach = w.int(1, 8)
        name = w.input("f32", f"H, {2 * reach + 1}", "normal")
        return f"s + {name}[h, clamp(k - q, -{reach}, {reach}) + {reach}]"
    if form == "temperature":
        return f"s * {w.input('f32', 'H', 'positive', 1.5)}[h]"
    if form == "relu":
        return f"s + {_strength(w)} * {w.pick(['silu', 'gelu', 'softplus', 'sin', 'erf', 'tanh', 'cos'])}(s)"
    if form == "log":
        return f"s - {_strength(w)} * log(1 + abs(q - k))"
    if form == "where":
        return f"if k < {w.int(1, 20)} then s + {w.input('f32', 'H', 'normal')}[h] else s"
    if form == "per key":
        if w.chance(50):
            return f"s + {w.input('f32', 'B, L', 'normal')}[b, k]"
        return f"s + {w.input('f32', 'B, H, L', 'normal')}[b, h, k]"
    if form == "per row":
        return f"s * {w.input('f32', 'B, H, Lq', 'positive', 2.0)}[b, h, q]"
    if form == "pair of vectors":
        name = w.input("f32", "H, D", "normal", 0.3)
        return f"s + dot({name}[h], K)"
    if form == "vector":
        name = w.input("f32", "H, D", "normal", 0.3)
        if w.chance(40):
            of_v = w.input("f32", "H, Dv", "normal", 0.3)
            return f"s + {w.pick([f'dot({of_v}[h], V)', 'norm(V) / sqrt(Dv)'])}"
        return f"s + dot({name}[h], tanh(Q))"
    return f"s + {_strength(w)} * sin({w.pick(['0.1', '0.7'])} * (q - k))"


def _components(w: Writer) -> str:
    """A sum over the components of a vector of the pair, of about the size of s."""
    pair = w.pick(["Q - K", "Q + roll(K, 1)", "0.5 * Q - tanh(K)", "max(Q, K)", "rmsnorm(Q) * s - K"])
    if w.chance(40):
        pair = _moved(w, pair)
    if w.chance(30):
        return w.pick([f"norm({pair})", f"total(abs({pair}))"]) + " / sqrt(D)"
    name = w.input("f32", "H, D", "normal", 0.5)
    return f"dot({name}[h], {w.pick(['tanh', 'sigmoid', 'relu', 'softmax', 'cos'])}({pair}))"


def _moved(w: Writer, pair: str) -> str:
    """A vector of the pair whose components are those of others at other places, or that the pair chooses."""
    forms = [f"roll({pair}, q - k)", "roll(Q, abs(q - k)) - K", "chosen", "map"]
    form = w.pick([*forms, f"rope({pair}, q - k)", "rope(Q, abs(q - k)) * K"] if w.sizes["D"] % 2 == 0 else forms)
    if form == "chosen":
        return f"Q + {w.input('f32', 'M=9, D', 'normal', 0.5)}[min(abs(q - k), 8)] - K"
    if form == "map":
        return f"({pair}) @ {w.input('f32', 'D, D', 'normal', 0.3)}"
    return form


WEIGHTS = (
    "softmax", "softmax", "softmax", "explicit", "sink", "constant", "sigmoid", "relu2", "cog", "elementwise",
    "counted", "amplitude", "linear", "taylor", "retention", "simple decay", "channel decay", "hedgehog",
    "softplus sum", "statistics", "exponential statistics", "decayed", "vector sums",
    "gated", "product of two",
)  # fmt: skip
STATISTICS = (
    "tanh(s - mean(s))", "softplus(s - 0.5 * mean(s)) / sum", "s / sqrt(0.3 + sum(s^2))", "sigmoid(s) * log(2 + count)",
    "silu(s) / (1 + softplus(s) + sum(softplus(s)))", "(s - mean(sigmoid(s))) / (1 + sum(s^2))",
    "gelu((s - mean(s)) / sqrt(0.2 + mean((s - mean(s))^2))) / count", "s * mean(tanh(s) * cos(0.1 * (q - k)))",
)  # fmt: skip
"""Weights that need sums of their row before its pairs."""
VECTOR_SUMS = (
    "tanh(s - norm({0}) / sqrt(D))", "softplus(s + dot({0}, K) / D) / sum", "s / sqrt(0.3 + total(({0})^2) / D)",
    "sigmoid(s) * dot({0}, {1}) / D", "gelu(s - norm(K - {0}) / D) / count", "s / (0.2 + norm({0}))",
)  # fmt: skip
SUMMED = (
    "mean(K)", "mean(tanh(s) * K)", "sum(exp(s) * K) / sum(exp(s))", "mean(Q * K + tanh(K))", "mean(sin(K)) * mean(s)",
    "sum(s * roll(K, 1)) / (1 + sum(s^2))", "mean(if k <= q then K else 0.5 * Q)",
)  # fmt: skip
EXPONENTIAL_STATISTICS = (
    "exp((s - mean(s)) / sqrt(0.2 + mean((s - mean(s))^2))) / sum", "exp(s) / sqrt(sum(exp(2 * s)))",
    "exp(0.5 * s * log(2 + count)) / sum", "exp(s) * sigmoid(mean(s)) / sum(exp(s))", "exp(s) / (1 + exp(s) + sum)",
)  # fmt: skip


def weight_clause(w: Writer) -> tuple[str, frozenset[str]]:
    """The clause (empty for none) and what it needs: "causal", "raw score" (one that nothing rewrote), "no score",
    "exp" (it is 0 for a score of minus infinity)."""
    form = w.pick(WEIGHTS)
    no: frozenset[str] = frozenset()
    exp, dot = frozenset({"exp"}), frozenset({"no score"})
    if form in ("retention", "simple decay", "channel decay", "decayed") and not w.tables_by_position:
        form = "linear"
    if form == "softmax":
        return w.pick(["", "weight softmax"]), exp
    if form == "explicit":
        return "weight exp(s) / sum", exp
    if form == "sink":
        return f"weight exp(s) / (exp({w.input('f32', 'H', 'normal')}[h]) + sum)", exp
    if form == "constant":
        return "weight exp(s) / (1 + sum)", exp
    if form == "sigmoid":
        return f"weight sigmoid(s + {w.scalar('float', -1.0)})", no
    if form == "relu2":
        return "weight relu(s)^2 / count", frozenset({"raw score"})
    if form == "cog":
        return "weight sign(s) * exp(abs(s)) / sum(exp(abs(s)))", frozenset({"raw score"})
    if form == "elementwise":
        return f"weight {w.pick(['softplus(s)', 'tanh(s)', 'gelu(s)', '0.5 * (1 + erf(s - 0.7))'])}", no
    if form == "counted":
        return f"weight {w.pick(['silu(s)', '(elu(s) + 1)', 's', '(s - mean(s))'])} / count", no
    if form == "amplitude":
        return f"weight sigmoid(s) * exp(s - {_strength(w)}) / sum(exp(s))", no
    if form == "statistics":
        return f"weight {w.pick(STATISTICS)}", no
    if form == "vector sums":
        return f"weight {w.pick(VECTOR_SUMS).format(w.pick(SUMMED), w.pick(SUMMED))}", no
    if form == "exponential statistics":
        return f"weight {w.pick(EXPONENTIAL_STATISTICS)}", exp
    if form == "decayed":
        g = w.input("f32", w.pick(["B, H, L", "B, Hkv, L"]), "log_decay", 0.2, facts="log_decay")
        return f"weight exp(s) * decay({g}) / sum", exp | {"causal"}
    if form == "gated":
        return f"weight sigmoid({_product(w)}) * exp(s) / sum(exp(s))", exp
    if form == "product of two":
        return f"weight sigmoid(s) * {_product(w)}{w.pick([' / count', ''])}", no
    if form == "softplus sum":
        return "weight softplus(s) / sum", no
    if form == "linear":
        w.functions.append("fn elu1(x) = elu(x) + 1")
        return f"weight dot(elu1(Q), elu1(K)){w.pick([' / sum', ' / count', ''])}", dot
    if form == "taylor":
        return "weight (1 + s + 0.5 * s^2) / sum", no
    if form == "retention":
        gamma = w.input("f32", "H", "below_one", 0.7)
        return f"weight dot(Q, K) * {gamma}[h]^(q - k)", dot | {"causal"}
    if form == "simple decay":
        g = w.input("f32", w.pick(["B, H, L", "B, Hkv, L"]), "log_decay", 0.2, facts="log_decay")
        return f"weight dot(Q, K) * decay({g})", dot | {"causal"}
    if form == "channel decay":
        g = w.input("f32", "B, Hkv, L, D", "log_decay", 0.2, facts="log_decay")
        return f"weight dot(Q, K * decay({g}))", dot | {"causal"}
    M = w.pick([3, 5])
    W = w.input("f32", f"H, D, M={M}", "normal", 0.3)
    phi = w.pick([f"softmax(x @ {W}[h])", f"concat(softmax(x @ {W}[h]), softmax(-(x @ {W}[h])))"])
    w.features.append(f"feature phi(x) = {phi}")
    return "weight dot(phi(Q), phi(K)) / sum", dot


def output_clause(w: Writer) -> list[str]:
    """Mostly nothing; a gate or a scale, or all components at once."""
    form = w.int(0, 11)
    if form == 10:
        map_ = w.input("f32", "H, D, Dv", "normal", 0.3)
        return [f"output {w.pick(['o', 'o', 'rmsnorm(o)'])} * {w.pick(['sigmoid', 'silu', 'tanh'])}(Q @ {map_}[h])"]
    if form == 11:
        map_ = w.input("f32", "Dv, Dv", "normal", 0.3)
        vector = w.pick(["o / (1 + norm(o))", "roll(o, 1) - 0.3 * o", "softmax(o)", f"o @ {map_}", "rope(o, q)"])
        return [f"output {vector}"]
    if form == 7:
        return [f"output o * sigmoid({w.input('f32', 'B, H, Lq', 'normal')}[b, h, q])"]
    if form == 8:
        return [f"output o * {w.input('f32', 'H', 'normal')}[h]"]
    if form == 9:
        return [w.pick(["output silu(o)", "output tanh(o) * 0.5", "output 0.5 * o + 1"])]
    return []
