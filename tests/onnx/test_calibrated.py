"""int4 by what is known of inputs: GPTQ's integers are the gptq stage's own, importance is an imatrix stage's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from convert.bundle import Artifact, Bundle, Role
from convert.formats.gguf.imatrix import Imatrix, ImatrixEntry, write_imatrix
from convert.formats.onnx import known, solving
from convert.formats.onnx.against import tensor_pairs
from convert.formats.onnx.blocks import Int4
from convert.formats.onnx.stage import STAGE as stage
from convert.formats.onnx.stage import _solve
from quantize import nbits
from quantize.nbits_layout import Encoded, Layout
from tests import tiny
from tests.fixtures_gguf import source_inputs
from tests.onnx.graphs import export

ROWS = {"samples": 4, "length": 32}
TEXT = "The rain fell on the roofs of the town, and nobody went out before the evening came. " * 40


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint, a text, and its export with both of GPTQ's precisions."""
    folder = tmp_path_factory.mktemp("calibrated")
    tiny.tiny_qwen2(folder / "Tiny")
    (folder / "text.txt").write_text(TEXT)
    words = {"calibration": {"text": folder / "text.txt", **ROWS}, "v_proj": 4, "scale": True}
    export(folder / "Tiny", folder / "out", precision=["int4", "q4f16"], **words)
    return folder


def stages_own(home: Path, scheme: Any) -> solving.Found:
    """What the gptq stage's quantizer makes of the same rows, here and now."""
    from convert.calibration.batches import batches
    from convert.calibration.rows import Description, make_rows
    from convert.formats.compressed.folder import Layout as FolderLayout
    from convert.formats.compressed.kept_layers import KeptLayers
    from convert.formats.compressed.quantizer import Quantizer
    from convert.model.layered import Layered
    from convert.source.checkpoint import open_checkpoint
    from validate.runtimes._folder import CheckpointFolder

    source = home / "Tiny"
    rows = make_rows(CheckpointFolder(source), Description(text=str(home / "text.txt"), **ROWS))
    layout, kept = FolderLayout(open_checkpoint(source), scheme), KeptLayers(home / "kept")
    quantizer = Quantizer(Layered.open(source), layout, scheme.how, kept, on_layer=lambda: None, warn=lambda _: None)
    for _ in quantizer.model.run(list(batches(rows)), quantizer, head=False):
        pass
    return solving.Found(kept.tensors(), scheme, {})


def test_the_integers_are_those_of_the_gptq_stage(home: Path) -> None:
    from convert.formats.compressed.gptq_stage import GPTQOptions

    found = stages_own(home, GPTQOptions(group_size=32, scale=True).scheme)
    for suffix, scales in (("q4", "F32"), ("q4f16", "F16")):
        model = ir.load(home / "out" / f"model_{suffix}.onnx")
        layers = [node for node in model.graph if node.op_type == "MatMulNBits" and node.attributes["bits"].value == 4]
        assert len(layers) == 2 * 7
        for node in layers:
            name = str(node.inputs[1].name).removesuffix("_Q4")
            given = found.of_tensor(name)
            assert given is not None
            parts = [value.const_value.numpy() for value in node.inputs[1:3]]
            encoded = Encoded(parts[0], parts[1].astype(np.float32))
            decoded = nbits.decode(encoded, Layout(4, 32, True, scales), node.attributes["K"].value)
            np.testing.assert_array_equal(decoded, given.dequantized())


def test_matrices_of_more_bits_are_none_of_its_business(home: Path) -> None:
    """The layers behind them are made for what they give as they are."""
    source = source_inputs(home / "Tiny")["source"]
    calibration = stage.Options(calibration=ROWS).calibration
    assert calibration is not None
    for int4, words in ((Int4(), ("v_proj",)), (Int4(edge_down=8), ("v_proj", "down_proj")), (Int4(v_proj=4), ())):
        options = solving._options(solving.Asked(int4, calibration), source)
        kept = {name.rpartition(".")[2] for name in options.kept}
        assert kept == set(words)


def test_factors_go_into_the_norms_of_the_graph(home: Path) -> None:
    """As the quantizer kept them; a norm that took none is the checkpoint's."""
    from convert.formats.compressed.kept_layers import KeptLayers

    made = KeptLayers(home / "kept").tensors()
    norms = {name: tensor.load() for name, tensor in made.items() if name.endswith("norm.weight")}
    assert norms
    graph = ir.load(home / "out" / "model_q4.onnx").graph
    for name, wanted in norms.items():
        np.testing.assert_array_equal(graph.initializers[name].const_value.numpy(), wanted)
    pairs = tensor_pairs([home / "out" / "model_q4.onnx"], home / "Tiny")
    assert {pair.name.rpartition(".layers.")[0] for pair in pairs} == {""}, "what took factors is not compared"


def with_imatrix(source: Bundle, folder: Path) -> Bundle:
    """The bundle with an importance matrix that has one column of down_proj count a thousand times."""
    from convert.formats.gguf.calibration import model_key, read_matrices

    matrices = read_matrices(source)
    entries = {}
    for name in matrices.shapes:
        experts, columns = matrices.entry_shape(name)
        values = np.ones((experts, columns), np.float32)
        values[:, 3] = 1000
        entries[name] = ImatrixEntry(values, np.full(experts, 1, np.int64))
    file = write_imatrix(folder / "imatrix.gguf", Imatrix(entries, ("text",), 1, 32, model_key(source)))
    return source.with_(imatrix=Artifact("imatrix", file.path, file.size, file.sha256))


def test_importance_is_that_of_an_imatrix_stage(home: Path, tmp_path: Path) -> None:
    source = with_imatrix(source_inputs(home / "Tiny")["source"], tmp_path)
    found = known.importance(source)
    assert len(found) == 2 * 7
    assert all(costs[3] == costs.max() == 1000 * costs[4] for costs in found.values())
    assert known.importance(source.with_(imatrix=())) == {}


def problems(home: Path, source: Bundle | None = None, **words: Any) -> str:
    inputs = source_inputs(home / "Tiny")
    inputs = inputs if source is None else {"source": source}
    return "\n".join(map(str, stage.check(stage.Options(**words), inputs)))


def test_options_that_would_do_nothing_are_refused(home: Path) -> None:
    assert "no int4" in problems(home, precision="int8", calibration={})
    assert "needs a calibration" in problems(home, precision="int4", effort="high")
    assert "leave it out, or `method: plain`" in problems(home, precision="int4", method="plain", calibration={})
    assert "no file" in problems(home, precision="int4", calibration={"text": "nowhere.txt"})
    assert problems(home, precision="int4", calibration={}, scale=True, block_size=32) == ""
    assert "another block_size" in problems(home, precision="q4f16", calibration={}, block_size=128)


def test_what_a_calibration_stage_measured_is_used_unasked(home: Path) -> None:
    source = source_inputs(home / "Tiny")["source"]
    measured = source.with_(statistics=Artifact("statistics/gram", home / "layer-000.safetensors", 1))
    assert "says what was read" in problems(home, measured, precision="int4", calibration={})
    assert Role.STATISTICS in measured.roles
    options = stage.Options(precision="int4")
    assert _solve(options, measured) is not None
    assert _solve(options, source) is None
    assert _solve(options.model_copy(update={"method": "plain"}), measured) is None
