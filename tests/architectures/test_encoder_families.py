"""What a config of an encoder may say, and what of it llama.cpp cannot compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convert import architectures
from convert.errors import ConvertError, PlanError
from convert.formats.compressed.supports import supports_family
from convert.source.checkpoint import open_checkpoint
from tests.fixtures_gguf import edit_config, source_inputs
from tests.parity.checkpoints.qwen3 import embedder
from tests.parity.families import config_of, every_case
from tests.parity.sentences import pooled

CASES = every_case()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ("bert", {"is_decoder": True}, "is_decoder is true, wanted false"),
        ("bert", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ("bert, reranker", {"id2label": {"0": "a", "2": "b"}}, "wanted names of outputs by their numbers, from 0 on"),
        ("bert, reranker", {"id2label": ["a"]}, "wanted names of outputs by their numbers, from 0 on"),
        ("roberta", {"pad_token_id": 257}, "max_position_embeddings is 258, wanted more than pad_token_id + 1, 258"),
        ("distilbert", {"activation": "relu"}, "activation is 'relu'"),
        ("modern_bert", {"norm_bias": True}, "norm_bias is true, wanted false"),
        ("modern_bert", {"classifier_pooling": "max"}, "classifier_pooling is 'max', wanted 'cls' or 'mean'"),
        (
            "modern_bert",
            {"layer_types": ["sliding_attention", *["full_attention"] * 3]},
            "full attention in the first layer and every n-th after it",
        ),
    ],
)
def test_what_llama_cpp_cannot_compute_is_refused(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = config_of(name, tmp_path)
    with pytest.raises(PlanError) as caught:
        architectures.find(config).text({**config, **changes})
    assert message in str(caught.value)


def test_a_classifier_without_names_has_transformers_own(tmp_path: Path) -> None:
    config = config_of("bert, reranker", tmp_path)
    for words, wanted in (({}, ("LABEL_0", "LABEL_1")), ({"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2"))):
        plain = {key: value for key, value in config.items() if key != "id2label"} | words
        fields = {field.key: field.value for field in architectures.find(plain).text(plain).fields}
        assert fields["bert.classifier.output_labels"] == wanted
        assert fields["bert.pooling_type"] == 4


def test_a_classifier_is_part_of_a_classifier_alone(tmp_path: Path) -> None:
    """Beside a model that gives no scores it is a leftover of training."""
    folder = CASES["bert, reranker"].make(tmp_path / "tiny")
    assert "classifier.weight" in open_checkpoint(folder).tensors
    edit_config(folder, architectures=["BertModel"])
    assert "classifier.weight" not in open_checkpoint(folder).tensors


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if not case.writes and "," not in n])
def test_no_format_of_decoders_takes_an_encoder(name: str, tmp_path: Path) -> None:
    folder = CASES[name].make(tmp_path / "tiny")
    family = architectures.find(open_checkpoint(folder).config)
    (said,) = supports_family(family).missing
    assert said.startswith(f"fp8: {family.title} gives ")
    assert "and only models that write text are quantized here" in said


# ---- sentence-transformers' files


def problems(folder: Path) -> list[str]:
    from convert.formats.gguf.stage import STAGE

    return [str(p) for p in STAGE.check(STAGE.Options(types=["F32"]), source_inputs(folder))]


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_how_a_folder_pools_is_read_or_refused(tmp_path: Path) -> None:
    folder = CASES["bert, mean of the tokens"].make(tmp_path / "tiny")
    assert problems(folder) == []
    edit(folder / "1_Pooling" / "config.json", pooling_mode_mean_tokens=False, pooling_mode_max_tokens=True)
    (said,) = problems(folder)
    assert "1_Pooling pools by pooling_mode_max_tokens, wanted one of mean, cls, lasttoken" in said
    edit(folder / "1_Pooling" / "config.json", pooling_mode_mean_tokens=True)
    (said,) = problems(folder)
    assert "1_Pooling pools by pooling_mode_mean_tokens and pooling_mode_max_tokens" in said
    (folder / "1_Pooling" / "config.json").unlink()
    (said,) = problems(folder)
    assert "names 1_Pooling, and there is no 1_Pooling/config.json" in said


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ("{}", "modules.json is not a list of parts"),
        ("[1]", "modules.json is not a list of parts"),
        ("[", "not valid JSON"),
        ('[{"type": "a.Pooling", "path": "../up"}]', "the path of Pooling is '../up', wanted the name of a folder"),
        ('[{"type": "a.LSTM", "path": "1_LSTM"}]', "a part of type 'LSTM', wanted Transformer, Pooling"),
    ],
)
def test_a_strangers_list_of_parts_is_one_problem(modules: str, message: str, tmp_path: Path) -> None:
    folder = CASES["bert"].make(tmp_path / "tiny")
    (folder / "modules.json").write_text(modules)
    (said,) = problems(folder)
    assert message in said


def test_an_embedder_may_lack_a_head_that_is_not_tied(tmp_path: Path) -> None:
    """As Qwen3-Embedding's larger ones are published; a model that writes text may not."""
    folder = embedder(tmp_path / "tiny", tied=False)
    assert problems(folder) == []
    (folder / "modules.json").unlink()
    (said,) = problems(folder)
    assert "lacks lm_head.weight, the output head" in said


def test_a_matrix_behind_the_pooling_that_llama_cpp_does_not_multiply_is_refused(tmp_path: Path) -> None:
    folder = pooled(CASES["bert"].make(tmp_path / "tiny"), "mean", ((32, "torch.nn.modules.linear.Identity"),))
    (said,) = problems(folder)
    assert "1 matrices behind the pooling, wanted 2 of gemma-embedding" in said


def test_a_config_of_no_labels_is_refused_in_one_line(tmp_path: Path) -> None:
    config = config_of("bert, reranker", tmp_path)
    with pytest.raises(ConvertError) as caught:
        architectures.find(config).text({**config, "id2label": {}})
    assert len(str(caught.value).splitlines()) == 1
