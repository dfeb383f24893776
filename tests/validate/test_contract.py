"""The contract holds for our files and is broken by each thing that people have shipped broken."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from convert.bundle import Bundle
from convert.formats.gguf import special_tokens
from tests import tiny
from tests.fixtures_validate import convert_tiny, folder, rewritten, tiny_text, weights
from tests.parity import variants
from validate import contract, runtimes
from validate.contract import CONVERSATIONS, HARD_STRINGS, Check
from validate.runtimes import llama_cpp, transformers

__all__ = ["tiny_text"]  # fixture

Broken = Callable[..., dict[str, Check]]


@pytest.fixture(scope="module")
def reference(tiny_text: dict[str, Bundle]) -> Iterator[Any]:
    with runtimes.open_session(transformers.RUNTIME, folder(tiny_text)) as session:
        yield session


@pytest.fixture
def broken(tiny_text: dict[str, Bundle], reference: Any, tmp_path: Path) -> Broken:
    """The checks of the good file with some metadata changed."""

    def checks(**change: Any) -> dict[str, Check]:
        changed = {key.replace("__", "."): value for key, value in change.items()}
        path = rewritten(weights(tiny_text, "F32").path, tmp_path / "broken.gguf", changed)
        with runtimes.open_session(llama_cpp.RUNTIME, path) as candidate:
            return {check.name: check for check in contract.check_contract(reference, candidate)}

    return checks


def test_the_questions_are_many_and_all_different() -> None:
    assert len(HARD_STRINGS) >= 60
    assert len(set(HARD_STRINGS)) == len(HARD_STRINGS)
    assert len({talk.name for talk in CONVERSATIONS}) == len(CONVERSATIONS) >= 12
    assert any(talk.has_image for talk in CONVERSATIONS)


def test_our_file_keeps_it(broken: Broken) -> None:
    checks = broken()
    for check in checks.values():
        if check.metric:
            assert check.score == 1.0, check
    assert checks["tokens"].total > len(HARD_STRINGS)
    assert checks["templates_runtime"].total >= 10
    # The one known difference is counted where it belongs: llama.cpp does not normalize.
    assert checks["normalization"].equal == 0
    assert all("\\u0" in d.what or "\\u1" in d.what or "\\u2" in d.what for d in checks["normalization"].differences)


def test_a_llama_keeps_it_too(tmp_path: Path) -> None:
    """Sentencepiece, a BOS before every text, and a template that writes the BOS itself."""
    bundles = convert_tiny(tiny.tiny_llama, tmp_path, ["F32"])
    with (
        runtimes.open_session(transformers.RUNTIME, folder(bundles)) as reference,
        runtimes.open_session(llama_cpp.RUNTIME, weights(bundles, "F32").path) as candidate,
    ):
        assert reference.identity().adds_bos
        checks = {check.name: check for check in contract.check_contract(reference, candidate)}
    for check in checks.values():
        assert check.score == 1.0 or check.name == "templates_runtime", check
    # The tiny template prints a list of text parts as Python does; llama.cpp joins them.
    assert [d.what for d in checks["templates_runtime"].differences] == ["text parts"]
    assert "BOS" in checks["templates_runtime"].note


def test_another_end_of_sequence(broken: Broken, reference: Any) -> None:
    check = broken(tokenizer__ggml__eos_token_id=5)["special_ids"]
    assert {d.what for d in check.differences} >= {"EOS"}
    assert str(reference.identity().eos) in {d.reference for d in check.differences}


def test_ends_that_llama_cpp_knows_by_name_are_those_of_the_converter() -> None:
    of_its_converter_alone = {"<|plamo:op|>"}  # PLaMo 2's file names it; llama.cpp does not look for it
    assert special_tokens.ENDS_BY_TEXT - of_its_converter_alone == contract.ENDS_BY_NAME


def test_an_end_of_turn_that_is_no_end_of_the_source(broken: Broken) -> None:
    check = broken(tokenizer__ggml__eot_token_id=5)["special_ids"]
    assert "end of turn is one of the source's ends" in {d.what for d in check.differences}


def test_an_end_that_the_runtime_adds_by_its_name_is_a_note_and_one_left_out_a_failure(tmp_path: Path) -> None:
    """A base model: <|im_end|> is in its vocabulary, and no file names it as an end."""

    def base_model(folder: Path) -> Path:
        tiny.tiny_qwen2(folder)
        variants.base(folder)
        return folder

    bundles = convert_tiny(base_model, tmp_path, ["F32"])
    good = weights(bundles, "F32").path
    lost = {"tokenizer.ggml.eos_token_id": 3, "tokenizer.ggml.eot_token_id": 3}
    wrong = rewritten(good, tmp_path / "wrong.gguf", lost)
    with runtimes.open_session(transformers.RUNTIME, folder(bundles)) as reference:
        for path, equal in ((good, True), (wrong, False)):
            with runtimes.open_session(llama_cpp.RUNTIME, path) as candidate:
                check = {c.name: c for c in contract.check_contract(reference, candidate)}["special_ids"]
            assert (check.score == 1.0) is equal
            assert "<|im_end|> (482)" in check.note


def test_a_beginning_of_sequence_nobody_asked_for(broken: Broken) -> None:
    checks = broken(tokenizer__ggml__add_bos_token=True, tokenizer__ggml__bos_token_id=7)
    assert "BOS tokens put before a text" in {d.what for d in checks["special_ids"].differences}
    assert checks["tokens"].score < 0.5


def test_a_template_with_one_byte_changed(broken: Broken, reference: Any) -> None:
    template = reference.identity().templates["default"]
    checks = broken(tokenizer__chat_template=template.replace("<|im_end|>\n", "<|im_end|>", 1))
    assert checks["templates"].score < 0.5
    assert checks["templates_runtime"].score < 0.5
    assert checks["templates"].differences[0].what == "text of the template 'default'"


def test_a_template_that_is_gone(broken: Broken) -> None:
    check = broken(tokenizer__chat_template=None)["templates"]
    assert check.differences[0].what == "names of the templates"


STRICT = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('one system message') }}"
    "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}"
    "\n</think>\n\n{% endif %}{{ m.content }}{% for call in m.tool_calls or [] %}<tool_call>\n"
    "{{ call.function.arguments | tojson }}</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORGETFUL = THINKING.replace("{{ m.reasoning_content }}", "")


def with_template(template: str, home: Path) -> tuple[Path, Path]:
    """A checkpoint with the template, and its file."""

    def make(folder: Path) -> Path:
        tiny.tiny_qwen2(folder)
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
        return folder

    bundles = convert_tiny(make, home, ["F32"])
    return folder(bundles), weights(bundles, "F32").path


def template_checks(source: Path, file: Path, projector: Path | None = None) -> dict[str, Check]:
    with (
        runtimes.open_session(transformers.RUNTIME, source) as reference,
        runtimes.open_session(llama_cpp.RUNTIME, file, projector=projector) as candidate,
    ):
        return {check.name: check for check in contract.check_contract(reference, candidate)}


def test_what_the_sources_template_refuses_the_runtime_may_refuse_in_its_own_words(tmp_path: Path) -> None:
    checks = template_checks(*with_template(STRICT, tmp_path))
    assert {d.what for d in checks["templates_runtime"].differences} <= {"text parts"}  # llama.cpp joins them
    assert checks["templates"].score == 1.0


def test_a_template_that_a_file_has_laxer_than_the_source_is_found(tmp_path: Path) -> None:
    source, file = with_template(STRICT, tmp_path)
    lax = STRICT.replace("{{ raise_exception('one system message') }}", "")
    checks = template_checks(source, rewritten(file, tmp_path / "lax.gguf", {"tokenizer.chat_template": lax}))
    assert "two system messages" in {d.what for d in checks["templates"].differences}
    assert "'two system messages' is refused by the source" in checks["templates_runtime"].note


def test_reasoning_that_a_template_loses_is_found_by_both_engines(tmp_path: Path) -> None:
    source, file = with_template(THINKING, tmp_path)
    honest = template_checks(source, file)
    assert {d.what for d in honest["templates_runtime"].differences} <= {"text parts"}
    changed = rewritten(file, tmp_path / "changed.gguf", {"tokenizer.chat_template": FORGETFUL})
    for name in ("templates", "templates_runtime"):
        differing = {d.what: d for d in template_checks(source, changed)[name].differences}
        assert "reasoning" in differing
        assert "add them" in differing["reasoning"].reference
        assert "add them" not in differing["reasoning"].candidate


def test_images_are_rendered_by_the_runtimes_own_engine(tmp_path: Path) -> None:
    from convert.bundle import Role

    bundles = convert_tiny(tiny.tiny_qwen2_5_vl, tmp_path, ["F32"])
    file, projector = weights(bundles, "F32").path, bundles["gguf"].of(Role.PROJECTOR)[0].path
    seeing = template_checks(folder(bundles), file, projector)["templates_runtime"]
    assert seeing.score == 1.0, seeing.differences
    blind = template_checks(folder(bundles), file)["templates_runtime"]
    assert blind.total < seeing.total
    assert "left out: images" in blind.note
    template = json.loads((folder(bundles) / "tokenizer_config.json").read_text())["chat_template"]
    moved = template.replace("<|vision_start|><|image_pad|><|vision_end|>", "picture")
    path = rewritten(file, tmp_path / "moved.gguf", {"tokenizer.chat_template": moved})
    differing = template_checks(folder(bundles), path, projector)["templates"].differences
    assert "image" in {d.what for d in differing}


def test_another_pre_tokenizer(tmp_path: Path) -> None:
    """Qwen's cuts digits apart, GPT-2's does not: it shows where the merges know a pair of digits."""
    bundles = convert_tiny(qwen_with_a_pair_of_digits, tmp_path, ["F32"])
    good = weights(bundles, "F32").path
    wrong = rewritten(good, tmp_path / "wrong.gguf", {"tokenizer.ggml.pre": "gpt-2"})
    scores = []
    with runtimes.open_session(transformers.RUNTIME, folder(bundles)) as reference:
        for path in (good, wrong):
            with runtimes.open_session(llama_cpp.RUNTIME, path) as candidate:
                scores.append({c.name: c for c in contract.check_contract(reference, candidate)}["tokens"])
    assert scores[0].score == 1.0
    assert scores[1].score < 1.0
    assert all("12" in d.what for d in scores[1].differences)


def qwen_with_a_pair_of_digits(home: Path) -> Path:
    """A tiny Qwen2 whose last merge makes `12`, in the place of whatever it made before."""
    path = tiny.tiny_qwen2(home) / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocab, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    vocab["12"] = vocab.pop("".join(merges.pop()))
    merges.append(["1", "2"])
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    return home


def test_a_special_token_marked_as_a_normal_one(broken: Broken, reference: Any, tiny_text: dict[str, Bundle]) -> None:
    import gguf

    key = "tokenizer.ggml.token_type"
    types = list(gguf.GGUFReader(weights(tiny_text, "F32").path).fields[key].contents())
    types[reference.tokenize("<|image_pad|>")[0]] = 1
    checks = broken(**{key.replace(".", "__"): types})
    assert checks["tokens"].equal < checks["tokens"].total


def test_two_tokens_that_changed_places(broken: Broken, tiny_text: dict[str, Bundle]) -> None:
    import gguf

    key = "tokenizer.ggml.tokens"
    tokens = list(gguf.GGUFReader(weights(tiny_text, "F32").path).fields[key].contents())
    tokens[40], tokens[41] = tokens[41], tokens[40]
    check = broken(**{key.replace(".", "__"): tokens})["vocabulary"]
    assert [d.what for d in check.differences] == ["token 40", "token 41"]


class Stub:
    """A session that only tokenizes."""

    def tokenize_by_file(self, text: str) -> None:
        """There is no file."""

    def __init__(self, tokenize: Callable[[str], list[int]], **identity: Any) -> None:
        self._tokenize, self._identity = tokenize, runtimes.Identity(vocab=9, **identity)

    def identity(self) -> runtimes.Identity:
        return self._identity

    def pieces(self) -> list[str]:
        return ["x"] * 8 + ["</s>"]

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        return self._tokenize(text)


def test_known_limits_are_proven_not_assumed() -> None:
    import unicodedata

    decomposed, named = "e\u0301", "a </s> b"
    nfc: Any = Stub(lambda text: [ord(c) for c in unicodedata.normalize("NFC", text)])
    raw: Any = Stub(lambda text: [ord(c) for c in text])
    wrong: Any = Stub(lambda text: [0])
    names = [check.name for check in contract._tokens(nfc, raw, [decomposed, "abc"])]
    assert names == ["tokens", "tokens_as_text", "normalization"]
    # wrong in normal form as well: normalization is no excuse
    (tokens, *_) = contract._tokens(nfc, wrong, [decomposed])
    assert (tokens.equal, tokens.total) == (0, 1)

    by_name: Any = Stub(
        lambda text: [8 if part == "</s>" else 1 for part in text.split()], end_of_generation=frozenset({8})
    )
    plain: Any = Stub(lambda text: [1 for _ in text.split()])
    checks = {check.name: check for check in contract._tokens(plain, by_name, [named, "abc"])}
    assert checks["special_by_name"].total == 1
    assert checks["tokens"].score == 1.0

    # ends every text at a NUL, as an interface of C strings does; and one that is wrong without any NUL too
    cut: Any = Stub(lambda text: [ord(c) for c in text.partition("\0")[0]])
    checks = {check.name: check for check in contract._tokens(raw, cut, ["nul\0inside", "abc"])}
    assert checks["nul"].total == 1
    assert checks["tokens"].score == 1.0
    (tokens, *_) = contract._tokens(raw, wrong, ["nul\0inside"])
    assert (tokens.equal, tokens.total) == (0, 1)
