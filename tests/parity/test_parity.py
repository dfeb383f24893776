"""Our files beside those of llama.cpp's own converter: equal but for what is listed here, each with its reason.

make parity        fetches the converter and runs this; without the converter it is skipped
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from convert.architectures import find
from convert.bundle import Role
from tests.fixtures_gguf import convert
from tests.parity.families import Case, every_case, tried
from tests.parity.upstream import HOW_TO_GET, Difference, Upstream, compare, find_llama_cpp

ALL = every_case()
KINDS = ("F32", "Q8_0")

OURS, THEIRS, BOTH = "only ours", "only theirs", ""
ALLOWED: tuple[tuple[str, str, str], ...] = (  # metadata key, whose it is, why ours may differ
    (r".*\.rope\.freq_base", OURS, "stated rather than left to llama.cpp's default"),
    (r".*\.rope\.scaling\.attn_factor", OURS, "the one llama.cpp reads for these architectures"),
    (r".*\.rope\.scaling\.yarn_attn_factor", THEIRS, "not read for these architectures"),
    (r"clip\.vision\.image_(min|max)_pixels", OURS, "the processor's pixel limits"),
    (r"clip\.vision\.(spatial_merge_size|window_size)", OURS, "stated rather than assumed"),
    (r"clip\.vision\.attention\.layer_norm_epsilon", BOTH, "the tower's own; upstream copies the text model's"),
    (r"tokenizer\.ggml\.(eot|eom|fim_[a-z]+)_token_id", OURS, "otherwise llama.cpp searches by text among candidates"),
    (r"tokenizer\.ggml\.(add_space_prefix|remove_extra_whitespaces)", BOTH, "what the tokenizer says, not a default"),
    (r"tokenizer\.ggml\.cls_token_id", OURS, "the token before a text; upstream's writer has no word for it"),
    (r"tokenizer\.ggml\.normalizer\.strip_accents", OURS, "stated; the tokenizer leaves it to its small letters"),
    (r"tokenizer\.ggml\.add_(bos|eos)_token", OURS, "stated; upstream says it where a post-processor has both"),
    (r"tokenizer\.ggml\.add_sep_token", THEIRS, "llama.cpp's default for these kinds"),
    (r"tokenizer\.ggml\.(scores|token_type)", BOTH, "those of the tokenizer.model that tokenizer.json was made from"),
    (r".*\.pooling_type", OURS, "what a classifier gives are scores; upstream leaves it to `--pooling rank`"),
    (r"general\.sampling\.temp", OURS, "do_sample: false is greedy decoding"),
)
# of these tensors values may be one float32 apart: A = -exp(A_log), which we round once and torch as processors do
LAST_BIT = re.compile(r"blk\.\d+\.ssm_a")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    llama_cpp = find_llama_cpp()
    if llama_cpp is None:
        pytest.skip(HOW_TO_GET)
    with Upstream(llama_cpp) as running:
        yield running


@pytest.mark.parametrize("name", tried(ALL))
def test_files_equal_upstreams(name: str, upstream: Upstream, tmp_path: Path) -> None:
    case = ALL[name]
    if case.no_parity:
        pytest.skip(case.no_parity)
    folder = case.make(tmp_path / "tiny")
    has_projector = find(json.loads((folder / "config.json").read_text())).vision is not None
    for kind in KINDS:
        bundle = convert(folder, tmp_path / kind, kind, mmproj=kind if has_projector else None)
        differences = []
        for role, mmproj in ((Role.WEIGHTS, False), (Role.PROJECTOR, True)):
            for artifact in bundle.of(role):
                theirs = tmp_path / f"{kind}-{role.value}.gguf"
                upstream.convert(folder, kind, theirs, mmproj=mmproj, options=() if mmproj else case.upstream_options)
                differences += compare(artifact.path, theirs)
        unexpected = [d for d in differences if not is_allowed(case, d)]
        assert not unexpected, "\n".join(map(str, unexpected))


def is_allowed(case: Case, difference: Difference) -> bool:
    """Whether the two files may differ so."""
    if difference.tensor:
        a_bit = difference.steps == 1 and LAST_BIT.fullmatch(difference.name) is not None
        named = difference.name in case.allowed and difference.what.startswith(("type ", OURS))
        return a_bit or named or f"tensor {difference.name}" in case.allowed
    rules = (*ALLOWED, *((re.escape(key), BOTH, why) for key, why in case.allowed.items()))
    return any(re.fullmatch(key, difference.name) and difference.what.startswith(whose) for key, whose, _ in rules)
