"""A drafted family as the files that one would write by hand: the family, a tiny checkpoint, and a test that fails."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from convert.architectures import _rows
from convert.architectures._decoder import GELU, SILU, Graph
from convert.architectures._graph_spec import TensorRule
from convert.architectures._nearest import SILENT
from convert.errors import ConvertError, Problem
from convert.inspection.draft import EXPERT_WIDTHS, EXPERTS, Draft, Row, is_word, said_flags

OPEN = "# OPEN: "
WIDTH = 118
PLAIN = re.compile(r"[A-Za-z0-9_.]+")
GROUPS: Mapping[str, tuple[TensorRule, ...]] = {
    "ENDS": _rows.ENDS,
    "NORMS": _rows.NORMS,
    "ATTENTION": _rows.ATTENTION,
    "QKV": _rows.QKV,
    "OUTPUT": _rows.OUTPUT,
    "QK_NORM": _rows.QK_NORM,
    "MLP": _rows.MLP,
    "ROUTER": _rows.ROUTER,
    "EXPERTS": _rows.EXPERTS,
}
BIASED = ("ATTENTION", "QKV", "OUTPUT", "MLP", "NORMS", "ENDS[1:]")
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}


def files(draft: Draft, folder: Path) -> dict[Path, str]:
    """Path in a tree like this project's -> text. Raises ConvertError where one is there: nothing is replaced."""
    made = {
        folder / "convert" / "architectures" / f"{draft.name}.py": family_text(draft),
        folder / "tests" / "parity" / "checkpoints" / f"{draft.name}.py": checkpoint_text(draft),
        folder / "tests" / "parity" / f"test_{draft.name}.py": test_text(draft),
    }
    there = [path for path in made if path.exists()]
    remedy = "nothing was written; go on with it, or name another folder with --out"
    if there:
        raise ConvertError(*(Problem(str(path), "is there already", "a new file", remedy) for path in there))
    return made


# -- the family --------------------------------------------------------------------------------------------------------


def family_text(draft: Draft) -> str:
    """architectures/<name>.py."""
    used, own = composed(draft.rows)
    biases = [word for word in used if word.startswith("biases(")]
    plain = [word for word in used if word not in biases]
    body = [*_constants(draft, plain, own), "", "", *_text(draft, biases), "", "", *_declaration(draft)]
    imports = list(_imports(draft, "\n".join(body)))
    near = f"; the nearest known is {draft.near.family}" if draft.near else ""
    head = [f'"""{title(draft)}: a draft{near}. Every line with OPEN is a question to answer and take away."""', ""]
    return "\n".join([*head, "from __future__ import annotations", "", *imports, "", *body]) + "\n"


def title(draft: Draft) -> str:
    """What people may call it."""
    return re.sub(r"For[A-Z]\w*$|LMHeadModel$|Model$", "", draft.served) or draft.served


def composed(rows: Iterable[Row]) -> tuple[list[str], list[Row]]:
    """The rows by the names that _rows.py has for groups of them, and those that it has none for."""
    left: dict[tuple[object, ...], Row] = {_key(row.rule): row for row in rows if row.target and row.words}
    left.pop(_key(_rows.HEAD), None)  # decoder_spec adds it
    used: list[str] = []
    for name, group in GROUPS.items():
        if all(_key(rule) in left for rule in group):
            used.append(f"*{name}")
        elif name in ("ENDS", "NORMS", "MLP"):
            used += [f"{name}[{i}]" for i, rule in enumerate(group) if _key(rule) in left]
        else:
            continue
        for rule in group:
            left.pop(_key(rule), None)
    for name in BIASED:
        biased = [*_rows.biases(_rows.ENDS[1:] if name == "ENDS[1:]" else GROUPS[name])]
        if all(_key(rule) in left for rule in biased):
            used.append(f"biases({name})")
            for rule in biased:
                left.pop(_key(rule))
    return used, list(left.values())


def _key(rule: TensorRule) -> tuple[object, ...]:
    return rule[0], rule[1], tuple(rule[2])


def _constants(draft: Draft, plain: list[str], own: list[Row]) -> Iterator[str]:
    yield f"GRAPH = {_graph(draft.graph)}"
    if own:
        yield "OWN: tuple[TensorRule, ...] = ("
        for row in own:
            yield f"    ({_name(row.source)}, {_name(row.target)}, {_tuple(row.words)}{_role(row)}),"
        yield ")"
    every = [*plain, *(["*OWN"] if own else [])]
    yield f"ROWS = ({', '.join(every)}{',' if len(every) == 1 else ''})"


def _role(row: Row) -> str:
    """Gate and up in one matrix, which llama.cpp keeps so under a plain name."""
    return ", TensorRole.GATE_UP" if row.words[:1] == ("ffn+ffn",) and row.target.endswith("ffn_up.weight") else ""


def _name(text: str) -> str:
    """A name of a table, with the house's short words for its beginning."""
    for start, word in (("model.layers.{i}", "{L}"), ("blk.{i}", "{B}")):
        if text.startswith(start):
            rest = text.removeprefix(start)
            if PLAIN.fullmatch(rest.replace("{e}", "")):
                return f'f"{word}{rest.replace("{e}", "{{e}}")}"'
    return json.dumps(text)


def _tuple(words: Iterable[str]) -> str:
    items = [json.dumps(word) for word in words]
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


def _graph(graph: Graph) -> str:
    words = [json.dumps(graph.name)]
    words += ["layer_norm=True"] if graph.layer_norm else []
    words += [f"epsilon={json.dumps(graph.epsilon)}"] if graph.epsilon != "rms_norm_eps" else []
    acts = graph.activations
    if acts != SILU:
        words.append("activations=GELU" if acts == GELU else f"activations={_tuple(acts)}")
    words += [f"activation={json.dumps(graph.activation)}"] if graph.activation != "hidden_act" else []
    part = graph.rotary.partial if graph.rotary else None
    words += [f"rotary=Rotary(partial={part})"] if part is not None else []
    words += [f"{key}=True" for key, value in (("square", graph.square), ("tied", graph.tied)) if value]
    return f"Graph({', '.join(words)})"


def _text(draft: Draft, biases: list[str]) -> Iterator[str]:
    """The function that makes the table of a config."""
    read = {flag for word in biases if (flag := _flag(draft, word))}
    yield "def text(values: JsonObject) -> GraphSpec:"
    yield '    """The language model. Raises PlanError with every problem of the config."""'
    if draft.near is not None and draft.near.differences:
        yield from _comment(f"compared with {draft.near.family}: {draft.near.differences}", "# ")
    asked = [question for question in draft.questions if not any(question.startswith(f"{key} is ") for key in read)]
    for question in asked:
        yield from _comment(question)
    spelled = "".join(f", {key}={json.dumps(other)}" for key, other in draft.spellings.items() if is_word(other))
    merged = f'.merged("{draft.nested}")' if draft.nested else ""
    yield f"    config = Config(values){merged}" + (f".spelled({spelled[2:]})" if spelled else "")
    yield "    decoder = read_decoder(config, GRAPH)"
    for key in sorted(said_flags(draft)):
        if is_word(key):
            yield from _comment(f"does llama.cpp's graph have what {key} asks for?")
            why = f"llama.cpp's {draft.graph.name} graph has no such thing"
            yield f"    config.require({json.dumps(key)}, False, {json.dumps(why)})"
    yield from _biased(draft, biases)
    fields = [] if draft.graph.square else ["*head_size_fields(decoder)"]
    decoder = "decoder"
    if draft.has_experts:
        yield f"    experts = read_experts(decoder{_expert_keys(draft)})"
        fields.append("*expert_fields(decoder, experts)")
        decoder = "with_experts(decoder, experts)"
    for word, key in draft.sizes.items():
        decoder += f".having({word}=config.size({json.dumps(key)}))"
    rows = "rows" if biases else "ROWS"
    transforms = ", side_by_side(decoder)" if draft.graph.name == "llama" else ""
    fields_text = f", [{', '.join(fields)}]" if fields or transforms else ""
    if len(fields) > 1:
        yield f"    fields = [{', '.join(fields)}]"
        fields_text = ", fields"
    yield f"    return decoder_spec({decoder}, {rows}{fields_text}{transforms})"


def _biased(draft: Draft, biases: list[str]) -> Iterator[str]:
    """Rows of biases, by the config's word for them where there is one."""
    if not biases:
        return
    yield "    rows = [*ROWS]"
    for word in biases:
        if flag := _flag(draft, word):
            yield f"    if config.flag({json.dumps(flag)}, True):"
        yield f"    {'    ' if flag else ''}rows += {word}"


def _flag(draft: Draft, word: str) -> str:
    """The config's word for these biases; empty where it has none."""
    of_mlp, of_norm = "MLP" in word, "NORM" in word or "ENDS" in word
    found = (key for key, value in draft.unread.items() if value is True and "bias" in key and is_word(key))
    return next((key for key in found if ("mlp" in key) == of_mlp and not of_norm), "")


def _expert_keys(draft: Draft) -> str:
    count, width = draft.first(EXPERTS), draft.first(EXPERT_WIDTHS)
    words = [f'count="{count}"'] if count not in ("", EXPERTS[0]) else []
    words += [f'ffn="{width}"'] if width not in ("", EXPERT_WIDTHS[0]) else []
    return "".join(f", {word}" for word in words)


def _comment(text: str, start: str = OPEN) -> list[str]:
    """Text as a comment that nothing in it can end: a question, unless it starts otherwise."""
    plain = "".join(c if c.isprintable() else "?" for c in text)
    wrapped = textwrap.wrap(plain, WIDTH - 4 - len(start)) or [""]
    return [f"    {start if number == 0 else '#'.ljust(len(start))}{line}" for number, line in enumerate(wrapped)]


def _declaration(draft: Draft) -> list[str]:
    return [
        "FAMILY = Family(",
        f"    name={json.dumps(draft.name)},",
        f"    title={json.dumps(title(draft))},",
        f"    classes=({json.dumps(draft.served)},),",
        "    text=text,",
        ")",
    ]


def _imports(draft: Draft, body: str) -> Iterator[str]:
    """The imports of what the body says, in order."""

    def used(words: Iterable[str]) -> list[str]:
        return sorted(
            (w for w in words if re.search(rf"\b{w}\b", body)), key=lambda w: (not w.isupper(), w[0].islower(), w)
        )

    a = "convert.architectures"
    decoder = used(("GELU", "Graph", "decoder_spec", "head_size_fields", "read_decoder"))
    tables = used(("ATTENTION", "ENDS", "EXPERTS", "MLP", "NORMS", "OUTPUT", "QKV", "QK_NORM", "ROUTER"))
    tables += [word for word in ("B", "L") if f"{{{word}}}" in body] + used(("biases",))
    yield f"from {a}._config import Config"
    yield f"from {a}._decoder import {', '.join(decoder)}"
    if draft.has_experts:
        yield f"from {a}._experts import expert_fields, read_experts, with_experts"
    yield f"from {a}._family import Family"
    yield f"from {a}._graph_spec import GraphSpec" + (", TensorRule" if "TensorRule" in body else "")
    if "TensorRole" in body:
        yield f"from {a}._roles import TensorRole"
    if "Rotary" in body:
        yield f"from {a}._rope import Rotary"
    if tables:
        yield f"from {a}._rows import {', '.join(tables)}"
    if "side_by_side(" in body and draft.graph.name == "llama":
        yield f"from {a}.llama import side_by_side"
    yield "from convert.json_types import JsonObject"


# -- the checkpoint, and the test --------------------------------------------------------------------------------------


def tiny_config(draft: Draft) -> dict[str, object]:
    """The config with sizes of a test: few layers, few heads, few experts."""
    config = {key: value for key, value in draft.config.items() if key not in SILENT or key == "model_type"}
    config["architectures"] = [draft.served]
    config.pop("vocab_size", None)
    called = {key: draft.spellings.get(key, key) for key in TINY}
    layers = config.get(called["num_hidden_layers"])
    for key, size in TINY.items():
        config[called[key]] = size
    kv = draft.spellings.get("num_key_value_heads", "num_key_value_heads")
    if isinstance(config.get(kv), int):
        config[kv] = 4 if config[kv] == draft.config.get(called["num_attention_heads"]) else 2
    small = {"head_dim": 32, **dict.fromkeys(EXPERTS, 4), **dict.fromkeys(EXPERT_WIDTHS[:2], 32)}
    small |= {"num_experts_per_tok": 2, **dict.fromkeys(draft.sizes.values(), 48)}
    config |= {key: size for key, size in small.items() if isinstance(config.get(key), int)}
    return {
        key: value[:2] if isinstance(value, list) and len(value) == layers else value for key, value in config.items()
    }


def checkpoint_text(draft: Draft) -> str:
    """tests/parity/checkpoints/<name>.py."""
    config = tiny_config(draft)
    lines = [
        f"        {json.dumps(key)}: {_literal(value)}," for key, value in sorted(config.items(), key=_architecture)
    ]
    flags = ", ".join(key for key, value in config.items() if isinstance(value, bool) and is_word(key))
    return "\n".join(
        [
            "from __future__ import annotations",
            "",
            "from pathlib import Path",
            "",
            "from tests.parity.build import QWEN, SHARP, SIZES, build",
            "from tests.parity.families import Case",
            "",
            "",
            f"def {draft.name}(folder: Path, **words: object) -> Path:",
            "    config = {",
            "        **SIZES,",
            *lines,
            "    }",
            "    return build(folder, QWEN, config | words, scales=SHARP)",
            "",
            "",
            *(line.strip() for line in _comment(f"a variant for every branch of the family's file: {flags}")),
            f'CASES = {{"": Case({draft.name})}}',
            "",
        ]
    )


def _architecture(item: tuple[str, object]) -> tuple[bool, str]:
    return item[0] not in ("architectures", "model_type"), item[0]


def _literal(value: object) -> str:
    """As Python, whatever a stranger's config holds; strings in double quotes."""
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(str(key))}: {_literal(inner)}' for key, inner in value.items())}}}"
    return repr(value)


def test_text(draft: Draft) -> str:
    """tests/parity/test_<name>.py."""
    return f'''"""Fails until the family has no open question and llama.cpp computes what transformers computes.

Once it holds this file can go: tests/parity/test_logits.py has the case.
"""

from __future__ import annotations

from pathlib import Path

from tests.parity import test_logits
from tests.parity.checkpoints import {draft.name}

TREE = Path(__file__).parents[2]


def test_no_question_is_open() -> None:
    files = (TREE / "convert/architectures/{draft.name}.py", Path({draft.name}.__file__))
    lines = [line.strip() for path in files for line in path.read_text().splitlines() if "OPEN:" in line]
    assert not lines, "\\n".join(lines)


def test_logits_equal_transformers(tmp_path: Path) -> None:
    test_logits.test_logits_equal_transformers("{draft.name}", tmp_path)
'''
