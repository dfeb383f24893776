"""YAML: anchors that multiply, depths, tags that make objects; recipes, lists of models, cards."""

from __future__ import annotations

from collections.abc import Callable

from tests.robust.cases.base import GGUF_RECIPE, KINDS, Case, Place, cases, make_special

DEEP = 10_000
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
MERGES = "m0: &m0 {a: 1}\n" + "".join(f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 10)}]}}\n" for i in range(1, 12))
TEXTS: dict[str, str | bytes] = {
    "a billion laughs": LAUGHS + GGUF_RECIPE,
    "a billion merges": MERGES + GGUF_RECIPE,
    "an alias of itself": "name: &a [*a]\n",
    "a mapping within itself": "name: r\nmodel: &m {path: *m}\n",
    "lists 10,000 deep": "name: " + "[" * DEEP + "]" * DEEP,
    "mappings 10,000 deep": "name: " + "{a: " * DEEP + "}" * DEEP,
    "indents 2,000 deep": "".join(" " * i + "a:\n" for i in range(2000)),
    "a tag of Python": "name: !!python/object/apply:os.system ['touch PWNED']\nmodel: {path: Tiny}\n",
    "a tag of a module": "name: !!python/module:os\nmodel: {path: Tiny}\n",
    "a key twice": "name: r\nname: s\nmodel: {path: Tiny}\n",
    "keys that are lists": "? [a, b]\n: c\n",
    "a number of 100,000 digits": "name: " + "9" * 100_000 + "\nmodel: {path: Tiny}\n",
    "a date of nobody": "name: 9999-99-99\nmodel: {path: Tiny}\n",
    "a name that is a path": GGUF_RECIPE.replace("name: r", "name: ../../pwned"),
    "a name of 100,000 letters": GGUF_RECIPE.replace("name: r", "name: " + "a" * 100_000),
    "a stage that is a path": GGUF_RECIPE.replace("gguf: {use", "'../gguf': {use"),
    "a model's name that is a path": GGUF_RECIPE.replace("{path: Tiny}", "{path: Tiny, name: ../../pwned}"),
    "a hub's name that is a path": GGUF_RECIPE.replace("{path: Tiny}", "{hub: ../../etc/passwd}"),
    "a revision that is a path": GGUF_RECIPE.replace("{path: Tiny}", "{hub: a/b, revision: ../../x}"),
    "control characters": "name: \x07\x1b[2J\n",
    "NULs": "\0" * 1000,
    "not UTF-8": b"name: \xff\xfe\xfd\n",
    "two megabytes": "# " + "x" * (2 << 20),
    "a hundred thousand stages": "name: r\nmodel: {path: Tiny}\nstages:\n"
    + "".join(f"  s{i}: {{use: gguf}}\n" for i in range(30_000)),
    "two documents": GGUF_RECIPE + "---\n" + GGUF_RECIPE,
    "tabs": "name:\tr\n\tmodel: x\n",
}


def _recipe(text: str | bytes) -> Callable[[Place], object]:
    def make(place: Place) -> None:
        place.write("r.yaml", text.replace("PWNED", str(place.witness)) if isinstance(text, str) else text)

    return make


def _card(text: str) -> Callable[[Place], object]:
    return lambda place: place.write("Tiny/README.md", f"---\n{text.replace('PWNED', str(place.witness))}\n---\n# A\n")


CARDS = {
    "a billion laughs": LAUGHS + "license: mit",
    "a billion laughs as its languages": LAUGHS + "language: *a11",
    "a billion merges": MERGES + "base: *m11",
    "lists 10,000 deep": "tags: " + "[" * DEEP + "]" * DEEP,
    "an alias of itself": "tags: &a [*a]",
    "a tag of Python": "license: !!python/object/apply:os.system ['touch PWNED']",
    "control characters": 'license: "\\e[2J\\nerror: x"',
    "a number of 100,000 digits": "license: " + "9" * 100_000,
    "a licence that is a list": "license: [[mit]]\nlicense_link: ../../../etc/passwd\nbase_model: {a: b}",
    "no end": "license: mit\n" + "x: y\n" * 1000,
}


def _batch(text: str) -> Callable[[Place], object]:
    return lambda place: place.write("b.yaml", text)


BATCHES = {
    "a billion laughs": LAUGHS + "recipes: [r.yaml]\nmodels: [Tiny]\n",
    "lists 10,000 deep": "recipes: " + "[" * DEEP + "]" * DEEP,
    "models that are numbers": "recipes: [r.yaml]\nmodels: [1, 2]\n",
    "a pattern of everything": "recipes: [r.yaml]\nmodels: ['/**/**/**/*']\n",
}


def _list(text: str) -> Callable[[Place], object]:
    return lambda place: place.write("m.jsonl", text)


LISTS = {
    "nested 10,000 deep": '{"model":' * DEEP + "1" + "}" * DEEP,
    "garbage": "\0\1\2\n" * 1000,
    "a path that leads out": '{"model": "../../../../../etc"}\n',
    "a line of 10 MB": '{"model": "' + "x" * (10 << 20) + '"}',
}
CASES = [
    *cases("recipe", {n: _recipe(text) for n, text in TEXTS.items()}, errors=20),
    *(Case("recipe", f"a {kind}", lambda p, kind=kind: make_special(p.root / "r.yaml", kind)) for kind in KINDS),
    *cases("card", {n: _card(text) for n, text in CARDS.items()}, harmless=True),
    *cases(
        "batch", {n: _batch(text) for n, text in BATCHES.items()}, command=("batch", "b.yaml", "--dry-run"), errors=6
    ),
    *cases(
        "list of models",
        {n: _list(text) for n, text in LISTS.items()},
        command=("batch", "--recipe", "r.yaml", "--models", "m.jsonl", "--dry-run"),
        errors=100,
    ),
]
