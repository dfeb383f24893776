"""Input sets: our own, those of files, and the windows they are cut into."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from validate.runtimes import Identity, RuntimeFailure
from validate.texts import InputSet, default_sets, mixed, read_set, tool_prompts, windows

BOS = 1
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}


class Speller:
    """A session that cuts text into characters, token = code point; `<s>` is its BOS."""

    def __init__(self, adds_bos: bool = False, template: str = "default", shows_tools: bool = True) -> None:
        self.adds_bos, self.template, self.shows_tools = adds_bos, template, shows_tools
        self.asked: list[str] = []

    def identity(self) -> Identity:
        templates = {"default": "…"} if self.template else {}
        return Identity(vocab=1 << 21, bos=BOS, adds_bos=self.adds_bos, templates=templates)

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        assert parse_special
        assert not add_special
        self.asked.append(text)
        lead = text.startswith("<s>")
        return [BOS] * lead + list(map(ord, text.removeprefix("<s>")))

    def render(self, messages: Sequence[Any], tools: Sequence[Any] | None, generation_prompt: bool) -> str:
        if any(message["role"] == "system" for message in messages):
            raise RuntimeFailure("no system role\nat line 3")
        shown = f"[{len(tools)} tools]" if tools and self.shows_tools else ""
        said = "".join(f"{m['role'][0]}:{m['content']}{'!' * len(m.get('tool_calls', ()))};" for m in messages)
        return f"<s>{shown}{said}{'a:' if generation_prompt else ''}"


def text_set(name: str, text: str) -> InputSet:
    return InputSet(name, "text", "0" * 64, text)


def chat_set(tmp_path: Path, *lines: Any) -> InputSet:
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return read_set(path)


def user(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def spelled(ids: Sequence[int]) -> str:
    return "".join("^" if i == BOS else chr(i) for i in ids)


# ---- our own


def test_our_own_sets_are_varied_and_small() -> None:
    sets = default_sets()
    assert [(s.name, s.kind) for s in sets] == [
        ("prose", "text"),
        ("code", "text"),
        ("multilingual", "text"),
        ("tools", "chat"),
    ]
    for one in sets[:3]:
        assert 2000 < len(one.text) < 6000, one.name  # characters
    languages = {p for p in sets[2].text.split("\n\n") if p.strip()}
    assert len(languages) >= 12
    calls = [m for talk in sets[3].conversations for m in talk.messages if m.get("tool_calls")]
    assert len(calls) >= 8


def test_our_own_tool_calls_are_ones_that_their_tools_allow() -> None:
    from validate.toolcalls import valid_call

    checked = 0
    for talk in default_sets()[3].conversations:
        for message in talk.messages:
            for call in message.get("tool_calls", ()):
                assert valid_call(json.dumps(call["function"]), talk.tools), call
                checked += 1
    assert checked >= 10


# ---- files


def test_a_file_is_a_text_and_its_hash_is_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_bytes(b"\xef\xbb\xbfGr\xc3\xbc\xc3\x9fe\r\nzwei")
    one = read_set(path)
    assert (one.name, one.kind, one.text) == ("notes.md", "text", "Grüße\nzwei")
    assert one.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_set(path, "mine").name == "mine"


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    latin, empty = tmp_path / "latin.txt", tmp_path / "empty.txt"
    latin.write_bytes(b"one\ntwo\nGr\xfc\xdfe")
    empty.write_text(" \n\t")
    with pytest.raises(ValueError, match=r"latin\.txt:3: not UTF-8"):
        read_set(latin)
    with pytest.raises(ValueError, match=r"empty\.txt has no text in it"):
        read_set(empty)
    with pytest.raises(ValueError, match=r"gone\.txt cannot be read: No such file"):
        read_set(tmp_path / "gone.txt")


def test_a_file_without_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from validate import texts

    monkeypatch.setattr(texts, "MAX_BYTES", 10)
    (tmp_path / "long.txt").write_text("x" * 11)
    with pytest.raises(ValueError, match="11 bytes; wanted at most 10"):
        read_set(tmp_path / "long.txt")


def test_conversations_of_a_dataset_are_made_what_templates_take(tmp_path: Path) -> None:
    line = {
        "id": 7,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "go"}], "tool_calls": None},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}],
            },
        ],
        "tools": [],
    }
    one = chat_set(tmp_path, "", line, "  ", user("a\u2028b"))
    first, second = one.conversations
    assert one.kind == "chat"
    assert first.tools is None
    assert "tool_calls" not in first.messages[0]
    assert first.messages[1]["content"] == ""
    assert first.messages[1]["tool_calls"][0]["function"]["arguments"] == {"x": 1}
    assert (first.name, second.name) == ("line 2", "line 4")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", r":2: Expecting"),
        ("[1]", r":2: a list, not an object"),
        ('{"conversations": []}', r":2: no `messages`, only 'conversations'; what others call"),
        ('{"messages": "hi"}', r":2: messages is text, not a list"),
        ('{"messages": []}', r":2: `messages` is empty"),
        ('{"messages": [3]}', r":2: messages\[0\] is a number, not an object"),
        ('{"messages": [{"content": "x"}]}', r":2: messages\[0\] has no `role`"),
        ('{"messages": [{"role": "user", "content": 3}]}', r":2: messages\[0\].content is a number"),
        ('{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', r":2: messages\[0\].content .* no text"),
        ('{"messages": [{"role": "user"}], "tools": {}}', r":2: tools is an object, not a list"),
        ('{"messages": [{"role": "a", "tool_calls": [{}]}]}', r":2: messages\[0\].tool_calls\[0\] has no function"),
        (
            '{"messages": [{"role": "a", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]}',
            r":2: .*`arguments` is text that is no JSON",
        ),
        (
            '{"messages": [{"role": "a", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]}]}',
            r":2: .*`arguments` is a list, not an object",
        ),
        ('{"messages": [{"role": "user", "content": "x", "n": NaN}]}', r":2: NaN is no JSON"),
        ('{"messages": [{"role": "user", "content": "\\ud83d alone"}]}', r":2: .*surrogates not allowed"),
        ("[" * 100_000, r":2: JSON nested too deep"),
    ],
)
def test_a_line_that_is_no_conversation_is_named(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        chat_set(tmp_path, user("fine"), line)
    assert "wanted one {" in str(caught.value)


def test_a_file_of_no_conversations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no conversation"):
        chat_set(tmp_path, "", " ")


# ---- windows


def test_a_text_is_cut_into_windows_that_do_not_overlap() -> None:
    made = windows(Speller(), [text_set("t", "abcdefghij")], tokens=9, window=4)
    assert [spelled(w) for w in made.tokens] == ["abcd", "efgh"]  # one token alone is no window
    (entry,) = made.entries
    assert (entry.name, entry.tokens, entry.windows, made.sets) == ("t", 8, 2, ["t", "t"])


def test_every_window_begins_with_bos_where_the_model_wants_one() -> None:
    made = windows(Speller(adds_bos=True), [text_set("t", "abcdef")], tokens=6, window=4)
    assert [spelled(w) for w in made.tokens] == ["^abc", "^def"]


def test_sets_get_the_same_share_and_what_a_short_one_leaves() -> None:
    sets = [text_set("long", "a" * 100), text_set("short", "b" * 10), text_set("other", "c" * 100)]
    made = windows(Speller(), sets, tokens=90, window=16)
    assert {e.name: e.tokens for e in made.entries} == {"long": 40, "short": 10, "other": 40}
    assert [len(set(w)) for w in made.tokens] == [1] * len(made.tokens)  # no window of two sets
    assert made.sets == ["long"] * 3 + ["short"] + ["other"] * 3
    few = windows(Speller(), sets, tokens=1000, window=16)
    assert {e.name: e.tokens for e in few.entries} == {"long": 100, "short": 10, "other": 100}


def test_all_tokens_asked_for_are_used_when_they_do_not_divide() -> None:
    sets = [text_set(name, name * 50) for name in "abc"]
    made = windows(Speller(), sets, tokens=100, window=64)
    assert sum(e.tokens for e in made.entries) == 100


def test_mixed_windows_have_as_much_of_each_set_from_the_beginning() -> None:
    sets = [text_set("long", "a" * 100), text_set("short", "b" * 20), text_set("other", "c" * 100)]
    made = windows(Speller(), sets, tokens=1000, window=16)
    again = mixed(made)
    assert again.sets[:6] == ["long", "short", "other", "long", "short", "other"]
    assert again.sets[6:] == ["long", "other"] * 5
    assert sorted(map(tuple, again.tokens)) == sorted(map(tuple, made.tokens))
    assert again.entries == made.entries
    of_one = [w for w, name in zip(again.tokens, again.sets, strict=True) if name == "long"]
    assert of_one == [w for w, name in zip(made.tokens, made.sets, strict=True) if name == "long"]


def test_two_sets_of_one_name_are_told_apart() -> None:
    sets = [text_set("text.txt", "abc"), text_set("text.txt", "def"), text_set("text.txt", "ghi")]
    made = windows(Speller(), sets, tokens=100, window=8)
    assert [e.name for e in made.entries] == ["text.txt", "text.txt (2)", "text.txt (3)"]
    assert made.sets == ["text.txt", "text.txt (2)", "text.txt (3)"]


def test_of_a_long_text_only_the_beginning_is_cut_into_tokens() -> None:
    session = Speller()
    made = windows(session, [text_set("t", "x" * 100_000)], tokens=32, window=64)
    assert made.entries[0].tokens == 32
    assert max(map(len, session.asked)) < 5000


def test_a_beginning_that_holds_too_few_tokens_is_not_believed() -> None:
    class Wide(Speller):
        def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
            return [7] * (len(text) // 100)

    made = windows(Wide(), [text_set("t", "x" * 100_000)], tokens=500, window=100)
    assert made.entries[0].tokens == 500


def test_a_conversation_has_windows_of_its_own(tmp_path: Path) -> None:
    one = chat_set(tmp_path, user("abcdef"), user("gh"), user("never reached"))
    made = windows(Speller(adds_bos=True), [one], tokens=14, window=7)
    assert [spelled(w) for w in made.tokens] == ["^u:abcd", "^ef;", "^u:gh;"]
    assert made.entries[0].kind == "chat"
    without = windows(Speller(), [one], tokens=14, window=7)  # BOS is the template's alone: as it renders it
    assert [spelled(w) for w in without.tokens] == ["^u:abcd", "ef;", "^u:g"]


def test_a_model_without_template_skips_chats_and_says_so(tmp_path: Path) -> None:
    sets = [text_set("t", "abc"), chat_set(tmp_path, user("x"))]
    made = windows(Speller(template=""), sets, tokens=100, window=8)
    assert made.sets == ["t"]
    assert made.entries[1].windows == 0
    assert made.notes == ["chats.jsonl left out: the model has no chat template"]
    assert tool_prompts(sets, Speller(template="")) == []


def test_a_conversation_that_the_template_refuses_is_named(tmp_path: Path) -> None:
    talk = {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "x"}]}
    made = windows(Speller(), [chat_set(tmp_path, talk, user("x"), *[talk] * 4)], tokens=100, window=8)
    assert len(made.tokens) == 1
    (note,) = made.notes
    refused = "the chat template refuses it: no system role"
    assert note == f"chats.jsonl: line 1, line 3, line 4, 2 more left out: {refused}"


# ---- prompts for tool calls


def talk_with_calls(*calls: int) -> dict[str, Any]:
    said = [[{"role": "user", "content": "go"}], *[[CALL, {"role": "tool", "content": "ok"}]] * len(calls)]
    return {"messages": [m for part in said for m in part], "tools": TOOLS}


def test_prompts_end_where_a_call_comes_next(tmp_path: Path) -> None:
    one = chat_set(tmp_path, user("x"), talk_with_calls(1, 2))
    first, second = tool_prompts([text_set("t", "abc"), one], Speller(adds_bos=True))
    assert spelled(first.tokens) == "^[1 tools]u:go;a:"
    assert spelled(second.tokens) == "^[1 tools]u:go;a:!;t:ok;a:"
    assert first.tools == TOOLS


def test_a_template_that_shows_no_tools_asks_for_no_call(tmp_path: Path) -> None:
    assert tool_prompts([chat_set(tmp_path, talk_with_calls(1))], Speller(shows_tools=False)) == []


def test_refused_conversations_ask_for_nothing_and_many_are_thinned(tmp_path: Path) -> None:
    refused = talk_with_calls(1)
    refused["messages"].insert(0, {"role": "system", "content": "x"})
    one = chat_set(tmp_path, refused, *[talk_with_calls(1)] * 40)
    assert len(tool_prompts([one], Speller())) == 16
    assert len(tool_prompts([one], Speller(), most=3)) == 3
    two = chat_set(tmp_path, talk_with_calls(1, 2))
    long = len(tool_prompts([two], Speller())[1].tokens)
    assert [len(p.tokens) < long for p in tool_prompts([two], Speller(), longest=long - 1)] == [True]
