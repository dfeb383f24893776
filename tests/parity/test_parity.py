"""Our files beside those of llama.cpp's own converter: equal but for what is listed here, each with its reason.

make parity        fetches the converter and runs this; without the converter it is skipped
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from convert.bundle import Role
from tests.fixtures_gguf import convert
from tests.parity.families import cases
from tests.parity.upstream import HOW_TO_GET, Upstream, compare, find_llama_cpp

ALL = cases()
KINDS = ("F32", "Q8_0")

ALLOWED: Mapping[str, str] = {  # metadata keys -> why ours may differ
    r"[a-z0-9-]+\.rope\.freq_base": "stated rather than left to llama.cpp's default",
    r"[a-z0-9-]+\.rope\.scaling\.(yarn_)?attn_factor": "llama.cpp reads attn_factor for these architectures",
    r"clip\.vision\.image_(min|max)_pixels": "the processor's pixel limits",
    r"clip\.vision\.(spatial_merge_size|window_size)": "stated rather than assumed",
    r"clip\.vision\.attention\.layer_norm_epsilon": "the tower's own; upstream copies the text model's",
    r"tokenizer\.ggml\.(eot|eom|fim_[a-z]+)_token_id": "otherwise llama.cpp searches by text among candidates",
    r"tokenizer\.ggml\.(add_space_prefix|remove_extra_whitespaces)": "what the tokenizer says, not a default",
    r"tokenizer\.ggml\.add_sep_token": "llama.cpp's default for these kinds",
    r"tokenizer\.ggml\.(scores|token_type)": "those of the tokenizer.model that tokenizer.json was made from",
    r"tokenizer\.ggml\.padding_token_id": "upstream takes it from config.json too, where it is no token's role",
    r"general\.sampling\.temp": "do_sample: false is greedy decoding",
    r"general\.source\.huggingface\..*": "where the weights come from, to the commit",
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    llama_cpp = find_llama_cpp()
    if llama_cpp is None:
        pytest.skip(HOW_TO_GET)
    with Upstream(llama_cpp) as running:
        yield running


@pytest.mark.parametrize("name", ALL)
def test_files_equal_upstreams(name: str, upstream: Upstream, tmp_path: Path) -> None:
    case = ALL[name]
    if case.no_parity:
        pytest.skip(case.no_parity)
    folder = case.make(tmp_path / "tiny")
    for kind in KINDS:
        bundle = convert(folder, tmp_path / kind, kind, mmproj=kind if case.image else None)
        differences = []
        for role, mmproj in ((Role.WEIGHTS, False), (Role.PROJECTOR, True)):
            for artifact in bundle.of(role):
                theirs = tmp_path / f"{kind}-{role.value}.gguf"
                upstream.convert(folder, kind, theirs, mmproj=mmproj)
                differences += compare(artifact.path, theirs)
        allowed = {**ALLOWED, **case.allowed}
        unexpected = [d for d in differences if d.tensor or not any(re.fullmatch(key, d.name) for key in allowed)]
        assert not unexpected, "\n".join(map(str, unexpected))
