"""One pass of a text through the source: what goes into its linear layers, as an importance matrix.

Tokens, chunks and counts are those of llama-imatrix (tools/imatrix/imatrix.cpp): the text is cut into windows that do
not overlap, each begins with BOS where the model wants one, special tokens spelled out in the text are text unless
asked otherwise, and the head and the embedding are left out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convert import architectures
from convert.architectures._graph_spec import OutputTensor
from convert.bundle import Bundle, Role
from convert.calibration import mix
from convert.calibration.rows import MAX_TEXT_BYTES, first_windows, mix_windows
from convert.errors import ConvertError, Problem, StageError
from convert.files import CHUNK_BYTES
from convert.formats.gguf.imatrix import Imatrix, ImatrixEntry
from convert.json_types import JsonDict
from convert.model.reference import check_memory, open_layered
from convert.progress import Progress
from convert.source.checkpoint import read_config
from convert.source.companions import read_text
from convert.source.untrusted import listed

if TYPE_CHECKING:
    from torch import Tensor

    from convert.model.inputs import Inputs
    from convert.model.layered import Layer
    from validate.runtimes.transformers import TransformersSession

LAYER = re.compile(r"\blayers\.(\d+)\.")

# llama.cpp's names for the stacked matrices of a layer's experts, by the parameter transformers keeps them in
EXPERTS: Mapping[str, tuple[str, ...]] = {
    "gate_up_proj": ("ffn_gate_exps", "ffn_up_exps", "ffn_gate_up_exps"),
    "up_proj": ("ffn_up_exps",),
    "down_proj": ("ffn_down_exps",),
}


@dataclass(frozen=True)
class Matrices:
    """The matrices of the layers: GGUF name -> shape, and by the checkpoint's name the GGUF names it becomes."""

    shapes: Mapping[str, tuple[int, ...]]
    by_source: Mapping[str, tuple[str, ...]]
    own_name: Callable[[str], str]  # of a checkpoint's tensor, as the family's tables have it

    def entry_shape(self, name: str) -> tuple[int, int]:
        """(experts or 1, columns): what an entry of an importance matrix has for it."""
        shape = self.shapes[name]
        return (shape[0] if len(shape) == 3 else 1), shape[-1]

    def made_of(self, parameter: str) -> tuple[str, ...]:
        """The GGUF matrices that a parameter of the loaded model becomes."""
        return self.by_source.get(self.own_name(parameter), ())

    def takers(self, parameter: str) -> tuple[str, ...]:
        """The GGUF matrices whose inputs are those of a parameter of the loaded model."""
        layer, (module, _, name) = LAYER.search(parameter), parameter.rpartition(".")
        del module
        return self.experts(layer[1], name) if layer and name in EXPERTS else self.made_of(parameter)

    def experts(self, layer: str, parameter: str) -> tuple[str, ...]:
        """The GGUF matrices that hold the experts of a layer, whose inputs are those of `parameter`."""
        names = (f"blk.{layer}.{name}.weight" for name in EXPERTS.get(parameter, ()))
        return tuple(name for name in names if name in self.shapes)


def read_matrices(source: Bundle) -> Matrices:
    """What can be calibrated, by the config alone. Raises ConvertError for one of no known architecture."""
    config = _config(source)
    family = architectures.find(config)
    outputs = [(t.source, o) for t in family.text(config).tensors for o in t.outputs if _is_layer_matrix(o)]
    by_source: dict[str, tuple[str, ...]] = {}
    for name, output in outputs:
        by_source[name] = (*by_source.get(name, ()), output.name)
    return Matrices({o.name: o.shape for _, o in outputs}, by_source, family.own_name)


def _config(source: Bundle) -> JsonDict:
    return read_config(next(iter(source.of(Role.CONFIG))).path.parent)


def _is_layer_matrix(output: OutputTensor) -> bool:
    return output.name.startswith("blk.") and output.name.endswith(".weight") and len(output.shape) > 1


def model_key(source: Bundle) -> str:
    """sha256 over the sha256s of the weights' files; those that have none yet are read for it."""
    digests = [artifact.sha256 or _sha256(artifact.path) for artifact in source.of(Role.WEIGHTS)]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True)
class Corpus:
    """What to measure on: the first `chunks` windows of `window` tokens of the file `text`, by `threads` or all.

    Without a file, as many windows of the default mix.
    """

    text: Path | None
    chunks: int = 128
    window: int = 512
    parse_special: bool = False  # special tokens spelled out in the text become those tokens
    threads: int | None = None

    @property
    def name(self) -> str:
        """What the matrix says it was measured on."""
        return self.text.name if self.text else f"{mix.NAME} {mix.sha256()[:8]}"


def check_calibration(source: Bundle, corpus: Corpus, where: str = "imatrix") -> list[Problem]:
    """What keeps a source from being calibrated, by headers and the text alone. Never raises for bad input."""
    looks = (_check_text, _check_window, _check_matrices)
    try:
        return [problem for look in looks for problem in look(source, corpus, where)] + check_memory(source, where)
    except ConvertError as error:
        return [p if isinstance(p, Problem) else Problem(where, p) for p in error.problems]


def _check_text(source: Bundle, corpus: Corpus, where: str) -> list[Problem]:
    if corpus.text is None:
        return []
    if not corpus.text.is_file():
        return [Problem(where, f"no file {corpus.text}", remedy="paths are relative to the recipe")]
    return [] if read_text(corpus.text, MAX_TEXT_BYTES).strip() else [Problem(str(corpus.text), "is empty", "a text")]


def _check_window(source: Bundle, corpus: Corpus, where: str) -> list[Problem]:
    """A window longer than what the model was made for measures how it breaks."""
    config = _config(source)
    text = config.get("text_config", config)
    longest = text.get("max_position_embeddings") if isinstance(text, dict) else None
    if not isinstance(longest, int) or corpus.window <= longest:
        return []
    return [Problem(where, f"window: {corpus.window}", f"at most the model's {longest} positions")]


def _check_matrices(source: Bundle, corpus: Corpus, where: str) -> list[Problem]:
    return [] if read_matrices(source).shapes else [Problem(where, "the model has no matrices to measure")]


def calibrate(source: Bundle, corpus: Corpus, progress: Progress, state: Path | None = None) -> Imatrix:
    """The importance matrix of a checkpoint for a text.

    The same files, threads and versions of torch and transformers give the same matrix. Memory: a layer, the hidden
    states of all windows (in files, where they are many), and one float64 a column. A run that was killed goes on from
    what it left in the folder `state`. Raises StageError for a text of less than one window, a model that does not
    load, or numbers that overflow; InputError for a text that is none.
    """
    from convert.model.inputs import GatherInputs
    from convert.model.resume import Resume
    from validate.runtimes import RuntimeFailure

    matrices = read_matrices(source)
    gathered, model = Gathered(matrices), model_key(source)
    resume = Resume(state, f"{model} {corpus.threads}", say=progress.note) if state else None
    with open_layered(source, corpus.threads, resume=resume) as reference:
        windows = _windows(reference, corpus)
        if len(windows) < corpus.chunks:
            got = f"{len(windows)} chunks of {corpus.window} tokens"
            progress.warn(f"{corpus.text} gives {got}, fewer than the {corpus.chunks} asked for")
        progress.start("calibrating", len(windows) * corpus.window, "tok")
        try:
            gathered.tensors = reference.layered.tensors
            reference.visit(windows, lambda layers: GatherInputs(layers, gathered.take), progress.advance, gathered)
        except RuntimeFailure as error:
            raise StageError("the reference", str(error)) from error
    silent(matrices, gathered.entries)
    return Imatrix(gathered.entries, (corpus.name,), len(windows), corpus.window, model)


def silent(matrices: Matrices, entries: Mapping[str, ImatrixEntry]) -> None:
    """Raise StageError for matrices that nothing went into."""
    if found := [n for n in matrices.shapes if n not in entries or not entries[n].counts.any()]:
        remedy = "the architecture's file names modules that transformers does not have"
        raise StageError("calibration", f"nothing went into {listed(found)}", "every matrix used", remedy)


@dataclass
class Gathered:
    """Entries of the layers that the windows went through, which a run that was killed goes on from."""

    matrices: Matrices
    tensors: Mapping[str, str] = field(default_factory=dict)  # parameter -> the one tensor of the checkpoint it is
    entries: dict[str, ImatrixEntry] = field(default_factory=dict)

    def take(self, _: Layer, found: Mapping[str, Inputs]) -> None:
        """Enter what went into a layer's matrices for the GGUF tensors that these become.

        Squares of float32 are exact in float64 and their sums as good as: how the tokens come in batches leaves no
        trace in the float32 values. (llama-imatrix adds up in float32.)
        """
        for parameter, inputs in found.items():
            for name in self._takers(parameter):
                if not inputs.finite:
                    remedy = "is the checkpoint sound?"
                    raise StageError(f"calibration: {name}", "inputs that are not finite", "finite numbers", remedy)
                values = np.minimum(inputs.squares.numpy(), np.finfo(np.float32).max).astype(np.float32)
                self.entries[name] = ImatrixEntry(values, inputs.counts.numpy().astype(np.float32))

    def names(self, found: Mapping[str, Inputs]) -> dict[str, str]:
        """The GGUF matrices that a layer's parameters become -> the parameter whose inputs are theirs.

        Without those that are put together of parameters with inputs of their own.
        """
        named: dict[str, str] = {}
        several = set()
        for parameter, inputs in found.items():
            for name in self._takers(parameter):
                if found[named.setdefault(name, parameter)] is not inputs:
                    several.add(name)
        return {name: parameter for name, parameter in named.items() if name not in several}

    def _takers(self, parameter: str) -> tuple[str, ...]:
        return self.matrices.takers(parameter) or self.matrices.made_of(self.tensors.get(parameter, ""))

    def state(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Name -> squares and counts."""
        from torch import from_numpy

        return {n: (from_numpy(entry.values), from_numpy(entry.counts)) for n, entry in self.entries.items()}

    def restore(self, state: object) -> None:
        """Go on from it."""
        if not isinstance(state, dict):
            raise TypeError("no entries")
        self.entries = {name: ImatrixEntry(values.numpy(), counts.numpy()) for name, (values, counts) in state.items()}


def _windows(reference: TransformersSession, corpus: Corpus) -> list[list[int]]:
    """Windows of tokens, all of one length. Raises StageError when there is none."""
    if corpus.text is None:
        return mix_windows(reference, corpus.chunks, corpus.window)
    return first_windows(reference, corpus.text, corpus.chunks, corpus.window, corpus.parse_special)
