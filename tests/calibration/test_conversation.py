"""A conversation in templates of every kind: all its words arrive, as near to the model's own form as it allows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from convert.calibration import mix
from convert.calibration.conversation import rendered
from convert.calibration.rows import mix_windows
from tests import tiny
from validate.runtimes._folder import CheckpointFolder

TOOL = {"type": "function", "function": {"name": "find_tide", "description": "The next tide", "parameters": {}}}
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "When is high water?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "find_tide", "arguments": {"port": "Dover"}}}],
    },
    {"role": "tool", "name": "find_tide", "content": '{"at": "12:40"}'},
    {"role": "assistant", "content": "At 12:40."},
]
PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
WITH_TOOLS = (
    "{% if tools %}[{{ tools | tojson }}]{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls %}({{ c.function.name }} {{ c.function.arguments | tojson }}){% endfor %}</s>{% endfor %}"
)
IN_TURN = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('user and assistant in turn') }}{% endif %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
)


def folder(where: Path, template: str | None) -> CheckpointFolder:
    made = tiny.tiny_qwen2(where / "Tiny")
    path = made / "tokenizer_config.json"
    words = json.loads(path.read_text("utf-8")) | {"chat_template": template}
    path.write_text(json.dumps({name: value for name, value in words.items() if value is not None}), "utf-8")
    (made / "chat_template.jinja").unlink(missing_ok=True)
    return CheckpointFolder(made)


@pytest.mark.parametrize(
    ("template", "first"),
    [(WITH_TOOLS, '[[{"type"'), (PLAIN, "<system>Be brief.\n\nYou have"), (IN_TURN, "<user>Be brief.\n\nYou have")],
)
def test_every_template_gets_all_the_words(template: str, first: str, tmp_path: Path) -> None:
    text, special = rendered(folder(tmp_path, template), TALK, [TOOL])
    assert special
    assert text.startswith(first)
    places = [text.index(word) for word in ("The next tide", "high water?", '"port": "Dover"', "12:40", "At 12:40.")]
    assert places == sorted(places)
    assert text.count("<assistant>") == 2


def test_without_a_template_it_is_a_transcript(tmp_path: Path) -> None:
    text, special = rendered(folder(tmp_path, None), TALK, [TOOL])
    assert not special
    assert text.endswith("Assistant: At 12:40.\n\n")
    assert '"name": "find_tide"' in text


def test_every_conversation_of_the_mix_is_rendered_by_the_models_template(tmp_path: Path) -> None:
    session = folder(tmp_path, WITH_TOOLS)
    for talk in mix.first(mix.PARTS[3], 60):
        text, special = rendered(session, talk.messages, talk.tools)
        assert special
        assert all(str(message["content"]) in text for message in talk.messages)


@pytest.mark.parametrize("make", [tiny.tiny_llama, tiny.tiny_qwen2])
def test_rows_of_the_mix_are_full_and_begin_as_the_model_wants(make: Callable[[Path], Path], tmp_path: Path) -> None:
    session = CheckpointFolder(make(tmp_path / "Tiny"))
    identity = session.identity()
    rows = mix_windows(session, 24, 48)
    assert [len(row) for row in rows] == [48] * 24
    assert len(set(map(tuple, rows))) == 24
    if identity.adds_bos:
        assert {row[0] for row in rows} == {identity.bos}
        assert sum(row.count(identity.bos) for row in rows) < 2 * 24
    assert mix_windows(session, 24, 48) == rows
    assert mix_windows(session, 24, 48, seed=1) != rows
