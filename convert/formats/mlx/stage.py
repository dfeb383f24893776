"""An MLX folder for Apple's machines, as mlx-lm writes it and better rounded: 2 to 8 bits, or 4- and 8-bit floats.

A model that sees is laid out as mlx-vlm has it, its vision tower as it is. Nothing of MLX is needed to write it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from convert.bundle import Artifact, Bundle, Role
from convert.errors import ConvertError, Problem
from convert.estimate.amounts import Size
from convert.files import write_text
from convert.formats.carried import copied
from convert.model.memory_needs import LIBRARIES, cores_for
from convert.needs import GB, MB, Needs
from convert.options import Options
from convert.progress import Progress
from convert.stage import Inputs, Stage, TensorType, checkpoint, only

if TYPE_CHECKING:
    from convert.formats.mlx.fit import Open, Target
    from convert.formats.mlx.layout import Folder, Scheme
    from convert.formats.mlx.write import Encoder
    from quantize.mlx_layout import Layout

CARRIED = (Role.TOKENIZER, Role.CHAT_TEMPLATE, Role.GENERATION)
CONFIG_BYTES = 1024  # what quantization adds to config.json, about
DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
Mode = Literal["affine", "mxfp4", "mxfp8", "nvfp4"]
Mixed = Literal["mixed_2_6", "mixed_3_4", "mixed_3_5", "mixed_3_6", "mixed_3_8", "mixed_4_6", "mixed_4_8"]


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None
    return text


class Override(BaseModel):
    """How the modules that a pattern names are stored."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    bits: Literal[2, 3, 4, 5, 6, 8] | None = Field(None, description="bits a weight; the stage's own when left out")
    group_size: Literal[32, 64, 128] | None = Field(None, description="inputs that share a scale; as the stage's")
    mode: Mode = Field("affine", description="affine, mxfp4, mxfp8 or nvfp4")

    def layout(self, default: Layout) -> Layout:
        """In the words of the format."""
        return layout_of(self.mode, self.bits, self.group_size, default)


def layout_of(mode: str, bits: int | None, group_size: int | None, default: Layout | None = None) -> Layout:
    """A layout of what is said of it. ValueError for what MLX does not have."""
    from quantize.mlx_layout import AFFINE, FLOATS, Layout

    if mode != AFFINE:
        return Layout(mode, bits or FLOATS[mode][0], group_size or FLOATS[mode][1])
    usual = default if default is not None and default.mode == AFFINE else Layout()
    return Layout(mode, bits or usual.bits, group_size or usual.group_size)


class MLXFit(Options):
    """A size; every matrix gets the bits that lose least in it."""

    file: Size | None = Field(None, description="bytes of the weights' files together: 4.2GB, 3.9GiB or a bare number")
    bits: float | None = Field(None, gt=1, le=16, description="bits a weight, over all tensors, scales counted in")

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.file is None) == (self.bits is None):
            got = "file and bits" if self.file is not None else "no size"
            raise ValueError(f"fit: {got}, wanted one of {{bits: 4.5}}, {{file: 4.2GB}}")
        return self

    @property
    def target(self) -> Target:
        """In the words of the format."""
        from convert.formats.mlx.fit import Target

        return Target(self.file, self.bits)


class MLXOptions(Options):
    """In how many bits, and how they are found."""

    bits: Literal[2, 3, 4, 5, 6, 8] | None = Field(None, description="bits a weight; 4 when left out")
    group_size: Literal[16, 32, 64, 128] | None = Field(None, description="inputs that share a scale; 64 when left out")
    mode: Mode = Field("affine", description="affine: whole numbers; mxfp4, mxfp8, nvfp4: small floats")
    mixed: Mixed | None = Field(
        None, description="a recipe of mlx-lm: mixed_3_6 has 6 bits where they matter more and 3 elsewhere"
    )
    overrides: dict[Annotated[str, AfterValidator(_pattern)], Override | Literal[False]] = Field(
        {},
        description="regular expression -> {bits, group_size, mode} of the modules whose names it matches, false to "
        "leave them as they are; the first match counts",
    )
    fit: MLXFit | None = Field(
        None,
        description="{bits: 4.5} or {file: 4.2GB}: every matrix gets the bits that lose least in that size; "
        "`overrides` are kept, and `group_size` is asked of all",
    )
    method: Literal["plain", "search"] = Field(
        "search",
        description="plain: as mlx-lm rounds, bit for bit; search: same layout, less error, by the importance or the "
        "Gram matrices of the stage it takes from",
    )
    dtype: Literal["float16", "bfloat16", "float32"] | None = Field(
        None,
        description="of scales and of what is not quantized: float16, bfloat16 or float32; as mlx-lm when left out",
    )
    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=96,
        description="start of the folder's name; the model's name when left out",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; all when left out")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.fit is not None:
            ruled = [w for w in ("bits", "mixed", "mode", "method") if w in self.model_fields_set]
            if ruled or self.group_size == 16:
                raise ValueError(f"fit chooses bits, and {', '.join(ruled) or 'group_size: 16'} too: leave one out")
        default = self._default
        if self.mixed and (self.mode != "affine" or self.bits is not None):
            raise ValueError("mixed: says the bits; leave bits and mode out")
        for override in self.overrides.values():
            if override:
                override.layout(default)
        return self

    @property
    def _default(self) -> Layout:
        """What most matrices have. Of those that a size decides it says which groups all can have: the smallest."""
        return layout_of(self.mode, self.bits, self.group_size or (32 if self.fit else None))

    @property
    def scheme(self) -> Scheme:
        """What is asked for."""
        from convert.formats.mlx.layout import Scheme

        default, fitted = self._default, self.fit.target.label if self.fit else ""
        others = tuple((p, one.layout(default) if one else None) for p, one in self.overrides.items())
        return Scheme(default, self.mixed or "", others, DTYPES.get(self.dtype or "", ""), fitted)


class MLXStage(Stage[MLXOptions]):
    """A folder for Macs that mlx-lm and mlx-vlm load: 2 to 8 bits or small floats, with less error than theirs."""

    NAME = "mlx"
    VERSION = 1
    Options = MLXOptions
    TOOLS = ("numpy", "numba")

    def tools(self, options: MLXOptions) -> tuple[str, ...]:
        """torch solves for Gram matrices."""
        return (*self.TOOLS, "torch") if options.method == "search" else self.TOOLS

    def check(self, options: MLXOptions, inputs: Inputs) -> list[Problem]:
        """What keeps the model from being made, by headers alone."""
        try:
            folder = _folder(options, inputs)
            folder.check()
            if options.fit is not None:
                _opened(options, folder).room(options.fit.target)
        except ConvertError as error:
            return [p if isinstance(p, Problem) else Problem(self.NAME, p) for p in error.problems]
        return []

    def forecast(self, options: MLXOptions, inputs: Inputs) -> Bundle:
        """The bundle that `run` will return, with the weights' sizes but for their headers."""
        source, folder = checkpoint(self.NAME, inputs), _folder(options, inputs)
        home = Path(_name(options, source))
        sizes = _sizes(options, folder)
        weights = _kinds(options, [Artifact("safetensors", home / file, size) for file, size in sizes.items()])
        config = next(a for a in source.of(Role.CONFIG) if a.path.name == "config.json")
        made = Artifact("json", home / "config.json", config.size + CONFIG_BYTES)
        carried = {
            role.value: tuple(Artifact(a.kind, home / a.path.name, a.size) for a in source.of(role))
            for role in _carried(folder)
        }
        return _handed_on(source, folder, weights, made, carried)

    def tensor_types(self, options: MLXOptions, inputs: Inputs) -> Iterable[TensorType]:
        """Every matrix with its layout."""
        folder = _folder(options, inputs)
        free = _opened(options, folder).kinds if options.fit is not None else {}
        for file, tensors in folder.shards.items():
            for tensor in tensors:
                one = tensor.layout
                if tensor.module in free:
                    yield "fit", tensor.name, f"2 … 8 bits, or {tensor.dtype}", "chosen by what it costs"
                    continue
                words = f"{one.mode} {one.bits} bits in {one.group_size}s" if one else tensor.dtype
                yield file, tensor.name, words, "quantized" if one else "as it is"

    def explain(self, options: MLXOptions, inputs: Inputs) -> Iterator[str]:
        """How much is quantized, and by what is known of it."""
        folder, source = _folder(options, inputs), only(inputs)
        made = [tensor for tensor in folder.tensors if tensor.layout is not None]
        yield f"{len(made)} of {len(folder.tensors)} tensors quantized, for {folder.model.library}"
        if options.fit is not None:
            yield f"fit {options.fit.target}: every matrix in 2 to 8 bits, chosen by what errors in it cost"
        if "vision_config" in folder.checkpoint.config and not folder.sees:
            yield "the text model alone, as mlx-lm makes it: the vision tower is left out"
        if options.method == "search":
            from convert.model.statistics import has_grams

            known = "Gram matrices" if has_grams(source) else "importance" if source.of(Role.IMATRIX) else ""
            yield f"scales by the error of {'outputs, from ' + known if known else 'weights: nothing was measured'}"

    def needs(self, options: MLXOptions, inputs: Inputs, made: Bundle) -> Needs:
        """A few million numbers; with Gram matrices the largest of them, and the matrix, several times."""
        from convert.model.statistics import has_grams

        source = only(inputs)
        if options.method == "plain":
            return Needs(400 * MB, 1)
        if not has_grams(source):
            return Needs(500 * MB, cores_for(source))
        shapes = [t.placed.shape[-2:] for t in _folder(options, inputs).tensors if t.layout is not None]
        largest = max(4 * (3 * columns**2 + 6 * rows * columns) for rows, columns in shapes)
        return Needs(LIBRARIES + min(largest, 8 * GB), cores_for(source))

    def run(self, options: MLXOptions, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
        """The folder in `out`."""
        from convert.formats.mlx.write import write_weights

        source, folder = checkpoint(self.NAME, inputs), _folder(options, inputs)
        reports: tuple[Artifact, ...] = ()
        if options.fit is not None:
            from convert.formats.mlx.fit import choose

            chosen = choose(_opened(options, folder), options.fit.target, source, progress)
            folder = folder.with_layouts(chosen.layouts)
            words = json.dumps(chosen.report, indent=1)
            reports = (write_text(out / f"{_name(options, source)}.fit.json", words, "json"),)
        home = out / _name(options, source)
        home.mkdir()
        progress.start(f"writing {home.name}", len(folder.tensors), "tensor")
        with _encoder(options, source, progress) as encoder:
            weights = write_weights(home, folder, encoder, progress.advance)
        index = write_text(home / "model.safetensors.index.json", json.dumps(folder.index, indent=4), "json")
        made = _finished(options, source, folder, home, (*weights, index))
        return made.with_(fit=reports)


@contextmanager
def _encoder(options: MLXOptions, source: Bundle, progress: Progress) -> Iterator[Encoder]:
    from convert.formats.mlx.write import Plain

    if options.method == "plain":
        yield Plain()
        return
    from convert.formats.mlx.importance import Importance, Search, open_grams
    from validate.runtimes._threads import useful_threads

    threads = options.threads or useful_threads(*(a.path for a in source.of(Role.WEIGHTS)))
    with open_grams(source, threads) as grams:
        search = Search(Importance.of(source), grams, threads)
        yield search
        progress.note("matrices: " + ", ".join(f"{count} {word}" for word, count in search.counts.items()))


def _folder(options: MLXOptions, inputs: Inputs) -> Folder:
    from convert.formats.mlx.layout import Folder
    from convert.source.checkpoint import open_bundle

    return Folder(open_bundle(checkpoint("mlx", inputs)), options.scheme)


def _opened(options: MLXOptions, folder: Folder) -> Open:
    """What is to be chosen of a folder."""
    from convert.formats.mlx.fit import Open

    return Open.of(folder, options.group_size)


def _sizes(options: MLXOptions, folder: Folder) -> dict[str, int]:
    """Bytes by file, but for the headers; of a size that is asked for at their largest."""
    if options.fit is None:
        return {file: sum(t.nbytes for t in tensors) for file, tensors in folder.shards.items()}
    from convert.formats.mlx.layout import SHARD_BYTES
    from convert.source.checkpoint import SAFETENSORS

    opened = _opened(options, folder)
    left = opened.around + opened.room(options.fit.target)
    names = SAFETENSORS.names(-(-left // SHARD_BYTES))
    return {file: min(SHARD_BYTES, left - number * SHARD_BYTES) for number, file in enumerate(names)}


def _name(options: MLXOptions, source: Bundle) -> str:
    """As the hub has them: Model-4bit, Model-mxfp4."""
    return f"{options.name or source.model.name}-{options.scheme.type}"


def _kinds(options: MLXOptions, files: Iterable[Artifact]) -> tuple[Artifact, ...]:
    """The first file is the model, the others are parts of it."""
    first, *others = files
    type_ = options.scheme.type
    kinds = [f"mlx/{type_}", *(f"mlx-part/{type_}" for _ in others)]
    return tuple(Artifact(kind, a.path, a.size, a.sha256) for kind, a in zip(kinds, [first, *others], strict=True))


def _carried(folder: Folder) -> tuple[Role, ...]:
    """What lies beside the weights; of a model whose tower is left out no processor."""
    return (*CARRIED, Role.PREPROCESSOR) if folder.sees else CARRIED


def _handed_on(
    source: Bundle,
    folder: Folder,
    weights: tuple[Artifact, ...],
    config: Artifact,
    roles: Mapping[str, tuple[Artifact, ...]],
) -> Bundle:
    dropped = {} if folder.sees else {Role.PREPROCESSOR.value: ()}
    return source.with_(weights=weights, config=config, statistics=(), imatrix=(), **dropped, **roles)


def _finished(options: MLXOptions, source: Bundle, folder: Folder, home: Path, files: tuple[Artifact, ...]) -> Bundle:
    """The bundle of the folder, companions in it."""
    from convert.source.companions import read_companions

    companions = read_companions(source)
    words = json.dumps(folder.config(companions.generation.get("eos_token_id")), indent=4, ensure_ascii=False)
    config = write_text(home / "config.json", words, "json")
    carried = {role: tuple(copied(a, source, home) for a in source.of(role)) for role in _carried(folder)}
    for artifact in source.of(Role.CARD):
        if artifact.path.name.startswith(("LICENSE", "NOTICE")):
            shutil.copyfile(artifact.path, home / artifact.path.name)
    present = {a.path.name for copies in carried.values() for a in copies}
    template = companions.chat_templates.get("default")
    if template is not None and "chat_template.jinja" not in present:  # where mlx-lm's transformers looks first
        carried[Role.CHAT_TEMPLATE] += (write_text(home / "chat_template.jinja", template),)
    roles = {role.value: artifacts for role, artifacts in carried.items()}
    return _handed_on(source, folder, _kinds(options, files), config, roles)


STAGE = MLXStage()
