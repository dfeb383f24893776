"""One layer at a time is the whole model: logits, what goes into matrices, gradients, of every family there is."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from convert.model import layered
from convert.model.fisher import _log_probability, fisher
from convert.model.hollow import auto_class
from convert.model.inputs import GatherInputs, Inputs, LinearCalls
from convert.model.layered import Layer, Layered
from convert.model.scratch import Scratch
from convert.model.session import LayeredSession
from tests import tiny
from tests.parity.families import IMAGES_NOT_KNOWN, Case, cases, loadable, tried
from validate import vision
from validate.errors import RuntimeFailure
from validate.runtimes.transformers import TransformersSession

LENGTHS = (24, 24, 17)
PACKED = {"gpt_oss"}  # stored in blocks that transformers unpacks only as a whole
INDEXED = {"gemma4_vision", "gemma4_vision, experts"}  # whose model looks into the embedding's weights past the module
EVERY = {name: case for name, case in loadable().items() if name not in PACKED | INDEXED}
PLAIN = tried(EVERY)


@pytest.fixture(autouse=True)
def small_matrices_are_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embedding and head are read for themselves, as those of large models are."""
    monkeypatch.setattr(layered, "LARGE", 64 * 200)


def whole(folder: Path) -> Any:
    """The model as transformers loads it."""
    auto: Any = auto_class(AutoConfig.from_pretrained(folder))
    return auto.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)


def windows(model: Any) -> list[Mapping[str, torch.Tensor]]:
    text, generator = model.config.get_text_config(), torch.Generator().manual_seed(0)
    most = min(text.vocab_size, 200)
    return [{"input_ids": torch.randint(5, most, (1, length), generator=generator)} for length in LENGTHS]


@pytest.mark.parametrize("name", PLAIN)
def test_the_same_logits(name: str, tmp_path: Path) -> None:
    folder = PLAIN[name].make(tmp_path / "tiny")
    model, parts = whole(folder), Layered.open(folder)
    inputs = windows(model)
    with torch.inference_mode():
        wanted = [model(**arguments, use_cache=False).logits for arguments in inputs]
        at_once = parts.model(**inputs[0], use_cache=False).logits
    got = {number: output.logits for number, output in parts.run(inputs)}  # type: ignore[attr-defined]
    assert sorted(got) == [0, 1, 2]
    for number, logits in enumerate(wanted):
        assert torch.allclose(got[number], logits, rtol=0, atol=1e-5), number
    assert torch.allclose(at_once, wanted[0], rtol=0, atol=1e-5)
    assert all(p.is_meta for layer in parts.layers for p in layer.module.parameters()), "weights stay only for a visit"


# those whose code around the layers differs: factors, tied heads, experts, scaled embeddings, images
DIFFERENT = (
    "llama",
    "gpt2",
    "gemma2",
    "mixtral",
    "deepseek2",
    "qwen3_moe",
    "bloom",
    "granite",
    "qwen2_5_vl",
    "cohere2",
)


@pytest.mark.parametrize("name", [name for name in PLAIN if name.split(",")[0] in DIFFERENT])
def test_the_same_gradients(name: str, tmp_path: Path) -> None:
    folder = PLAIN[name].make(tmp_path / "tiny")
    model, parts = whole(folder), Layered.open(folder)
    inputs = windows(model)
    rows, by_token = autograd(model, inputs)
    found = fisher(parts, inputs)
    assert rows.keys() <= found.rows.keys()
    for module, wanted in rows.items():
        assert torch.allclose(found.rows[module], wanted, rtol=1e-4, atol=1e-4 * float(wanted.max())), module
    (got,) = found.by_token.values()
    assert torch.allclose(got, by_token, rtol=1e-4, atol=1e-4 * float(by_token.max()))


def test_what_belongs_to_no_layer_is_seen_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small embedding and head: the same numbers as where they are layers."""
    folder = tiny.tiny_llama(tmp_path / "tiny", tied=False)
    inputs = windows(whole(folder))
    apart = fisher(Layered.open(folder), inputs)
    monkeypatch.setattr(layered, "LARGE", 1 << 30)
    beside = fisher(Layered.open(folder), inputs)
    assert beside.by_token.keys() == apart.by_token.keys()
    assert beside.rows.keys() == apart.rows.keys()
    for name, wanted in (apart.rows | apart.by_token).items():
        assert torch.allclose((beside.rows | beside.by_token)[name], wanted, rtol=1e-4, atol=1e-9), name
    for name, wanted in apart.inputs.items():
        assert torch.allclose(beside.inputs[name].squares, wanted.squares, rtol=1e-4), name


def test_what_goes_in_is_weighed_by_its_tokens_gradients_experts_each_by_their_own(tmp_path: Path) -> None:
    """Against autograd over each expert's linear calls, and what 8 bits lose."""
    folder = tiny.tiny_qwen3_moe(tmp_path / "tiny")
    model, inputs = whole(folder), windows(whole(folder))[:1]
    found = fisher(Layered.open(folder), inputs)
    model.set_experts_implementation("eager")
    name, parameter = next((n, p) for n, p in model.named_parameters() if n.endswith("experts.down_proj"))
    calls: list[tuple[int, torch.Tensor, torch.Tensor]] = []

    def note(x: torch.Tensor, weight: torch.Tensor, output: torch.Tensor) -> None:
        offset = weight.data_ptr() - parameter.data_ptr()
        if 0 <= offset < parameter.nbytes and weight.shape == parameter.shape[1:]:
            expert = offset // parameter[0].nbytes
            output.register_hook(lambda g: calls.append((expert, x.detach().double(), g.double())))

    model.get_input_embeddings().register_forward_hook(lambda module, args, output: output.requires_grad_())
    with LinearCalls(note):
        output = model(**inputs[0], use_cache=False)
    _log_probability(0, 0, output).backward()
    assert {f"{name}[{expert}]" for expert, _, _ in calls} == {n for n in found.rows if n.startswith(name)}
    for expert, x, g in calls:
        squares, got = g.square(), found.inputs[f"{name}[{expert}]"]
        weights = squares.sum(1) / squares.sum()
        rows = squares.sum(0) / inputs[0]["input_ids"].numel()
        assert torch.allclose(found.rows[f"{name}[{expert}]"], rows, rtol=1e-3, atol=1e-4 * float(rows.max()))
        assert torch.allclose(got.squares, weights @ x.square(), rtol=1e-3)
        steps = x.view(len(x), -1, 32).abs().amax(-1).repeat_interleave(32, 1) / 127
        lost = torch.minimum(steps.square() / 12, x.square())
        assert torch.allclose(got.rounding[32], weights @ lost, rtol=1e-3)


def autograd(model: Any, inputs: list[Mapping[str, torch.Tensor]]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Mean squares of gradients at the outputs of the linear modules, and by token, by the whole model."""
    names, rows = {module: name for name, module in model.named_modules()}, dict[str, torch.Tensor]()
    embedding = model.get_input_embeddings()
    by_token = torch.zeros(len(embedding.weight), dtype=torch.float64)

    def linear(module: Any, _: Any, output: torch.Tensor) -> None:
        def add(gradient: torch.Tensor) -> None:
            rows[names[module]] = rows.get(names[module], 0) + gradient.double().flatten(0, -2).square().sum(0)

        output.register_hook(add)

    def looked_up(_: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        def add(gradient: torch.Tensor) -> None:
            by_token.index_add_(0, args[0].flatten(), gradient.double().flatten(0, -2).square().mean(-1))

        output.requires_grad_().register_hook(add)

    embedding.register_forward_hook(looked_up)
    text = model.get_decoder() if model.get_decoder() is not model else model.base_model
    for module in [*text.modules(), model.get_output_embeddings()]:
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(linear)
    for number, arguments in enumerate(inputs):
        _log_probability(0, number, model(**arguments, use_cache=False)).backward()
    count = sum(arguments["input_ids"].numel() for arguments in inputs)
    return {name: total / count for name, total in rows.items()}, by_token / count


SEEING = [
    name
    for name in PLAIN
    if ("vision" in name or name in {"idefics3", "internvl", "llava"} or "_vl" in name)
    and name.split(",")[0] not in IMAGES_NOT_KNOWN
]


@pytest.mark.parametrize("name", SEEING)
def test_the_same_answers_to_images(name: str, tmp_path: Path) -> None:
    folder = PLAIN[name].make(tmp_path / "tiny")
    picture = vision.drawing(112, 84)
    one, other = (
        vision.ask(session, "x", picture)
        for session in (TransformersSession(folder, 1, False), LayeredSession(folder, 1, False))
    )
    assert abs(one.embeddings - other.embeddings).max() < 1e-5
    assert abs(one.logits - other.logits).max() < 1e-5


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "bloom"])
def test_gram_matrices_are_those_of_what_goes_in(name: str, tmp_path: Path) -> None:
    folder = PLAIN[name].make(tmp_path / "tiny")
    model, parts = whole(folder), Layered.open(folder)
    inputs, heard = windows(model), dict[str, list[torch.Tensor]]()
    for path, module in model.named_modules():
        if getattr(module, "weight", None) is not None and module.weight.ndim == 2:
            module.register_forward_pre_hook(
                lambda _, args, path=path: heard.setdefault(f"{path}.weight", []).append(args[0].flatten(0, -2))
            )
    with torch.inference_mode():
        for arguments in inputs:
            model(**arguments, use_cache=False)
    found = dict[str, Inputs]()
    gather = GatherInputs(parts, lambda layer, inputs: found.update(inputs), grams=lambda name: True)
    list(parts.run(inputs, gather, head=False))
    assert found
    for matrix, one in found.items():
        if one.experts > 1:
            assert int(one.counts.sum()) > 0
            continue
        rows = torch.cat(heard[matrix])
        assert torch.allclose(one.gram(), rows.T @ rows / len(rows), rtol=1e-4, atol=1e-5), matrix
        assert torch.allclose(one.squares[0].float(), rows.double().square().sum(0).float())
        assert torch.equal(one.largest[0], rows.abs().amax(0))


def test_hidden_states_in_files_change_nothing(tmp_path: Path) -> None:
    folder = PLAIN["llama"].make(tmp_path / "tiny")
    inputs = windows(whole(folder))
    (tmp_path / "scratch").mkdir()
    tight = Layered.open(folder, scratch=Scratch(0, tmp_path / "scratch"))
    wanted = dict(Layered.open(folder).run(inputs))
    for number, output in tight.run(inputs):
        assert torch.equal(output.logits, wanted[number].logits)  # type: ignore[attr-defined]
    assert not any((tmp_path / "scratch").iterdir())


def test_a_pass_that_fails_ends_the_others(tmp_path: Path) -> None:
    folder = PLAIN["llama"].make(tmp_path / "tiny")
    parts, before = Layered.open(folder), threading.active_count()

    class Fails:
        def visit(self, layer: Layer, calls: Any) -> Any:
            raise ValueError("no")
            yield

    with pytest.raises(ValueError, match="no"):
        list(parts.run(windows(whole(folder)), Fails()))
    assert threading.active_count() <= before


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_weights_that_do_not_fit_are_refused(change: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny.tiny_llama(tmp_path / "tiny")
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "q_proj" in name)
    tensors |= {name.replace("q_proj", "z_proj"): tensors[name].clone()}
    if change == "missing":
        del tensors[name]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(RuntimeFailure, match=change):
        Layered.open(folder)


def test_every_family_is_here() -> None:
    assert {name for name in loadable() if isinstance(cases()[name], Case)} == EVERY.keys() | PACKED | INDEXED
