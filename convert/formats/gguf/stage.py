"""GGUF files for llama.cpp: the language model in any number of types, and the projector of a model with vision.

One pass over the checkpoint writes every file; nothing lies in between.
"""

from __future__ import annotations

import functools
import importlib.util
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from convert.bundle import Artifact, Bundle, Model, Pending, Role
from convert.distribution import install_command
from convert.errors import ConvertError, Problem
from convert.formats.gguf.fit_options import Fit, check_words, fits_of
from convert.formats.gguf.imatrix_option import Calibration, ImatrixOption
from convert.formats.gguf.imatrix_stage import STAGE as imatrix
from convert.formats.gguf.imatrix_stage import file_name as matrix_name
from convert.formats.gguf.type_words import BlockType, ProjectorType, TextType, pattern
from convert.model.memory_needs import cores_for
from convert.model.statistics import has_grams
from convert.needs import MB, Needs
from convert.options import Options, RecipePath
from convert.progress import Progress
from convert.stage import Inputs, Stage, checkpoint, only
from quantize.encoders import ENCODERS
from quantize.mixes import MIXES, Asked

if TYPE_CHECKING:
    from convert.formats.gguf.conversion import Conversion, ConversionSettings
    from convert.formats.gguf.fit_stage import Wanted


VOCABULARY_COPIES = 12  # of tokenizer.json: parsed by us and, in the proof, by two libraries


def _split(text: str | None) -> str | None:
    from convert.formats.gguf.shard_names import read_split

    if text is not None:
        read_split(text)
    return text


class GGUFOptions(Options):
    """Which files to make."""

    types: list[TextType] = Field(
        [], description=f"types of the language model's files: {', '.join(MIXES)}; `fit:` stands in their place"
    )
    fit: Annotated[list[Fit] | None, BeforeValidator(fits_of)] = Field(
        None,
        description="the types that lose least in a size, a file each: {file: 4.2GB}, {bits: 4.25}, {like: Q4_K_M}",
    )
    keep: dict[Annotated[str, AfterValidator(pattern)], BlockType] = Field(
        {}, description="with fit: role (output, token_embd, attn_v …) or regular expression -> type that is not chosen"
    )
    prove: bool = Field(True, description="with fit: compare candidates on llama.cpp before one is chosen")
    mmproj: ProjectorType = Field(
        None, description="type of the projector's file, F16 when left out; false to make none"
    )
    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=96,
        description="start of the file names; the model's name when left out",
    )
    pre_tokenizer: str | None = Field(
        None, max_length=64, description="llama.cpp's name of the pre-tokenizer, where it is not recognized"
    )
    tokenizer_check: Literal["fail", "warn"] = Field(
        "fail", description="what what to do where llama.cpp's token ids differ from the checkpoint's own tokenizer"
    )
    output_tensor: BlockType | None = Field(
        None, description=f"type of output.weight, or of the embedding where the two are one: {', '.join(ENCODERS)}"
    )
    token_embedding: BlockType | None = Field(None, description="type of token_embd.weight")
    leave_output_tensor: bool = Field(False, description="output.weight in the type that the source has it in")
    overrides: dict[Annotated[str, AfterValidator(pattern)], BlockType] = Field(
        {},
        description="regular expression -> type of the tensors in whose names it is found, in either case of letters; "
        "the first that is found counts",
    )
    tensor_type_file: RecipePath | None = Field(
        None, description="file of such overrides for llama-quantize, pattern=type; they come after those above"
    )
    pure: bool = Field(False, description="every tensor in the type the file is named after, as llama-quantize --pure")
    imatrix: ImatrixOption = Field(
        None,
        description="importance weights: a file, or {calibrate: text.txt}, or {} for a mix of our own; false for none, "
        "when left out those of the stage it takes from",
    )
    refine: bool = Field(
        False,
        description="choose levels and scales by what goes into each matrix, which a calibration stage has measured "
        "(`from:` it): the same types and sizes drift less; no bytes of llama-quantize",
    )
    allow_requantize: bool = Field(
        False, description="where the source is a GGUF file of other types than F32, F16 and BF16: make these of it"
    )
    split: Annotated[str | None, AfterValidator(_split)] = Field(
        None,
        description="45GB, 500MB or 40GiB of tensors a file, or 128 tensors: larger models are split as "
        "llama-gguf-split does it; keep: in the shards that the source has",
    )

    @model_validator(mode="before")
    @classmethod
    def _of_old(cls, words: object) -> object:
        """`split` used to be called max_shard."""
        if not isinstance(words, Mapping) or "max_shard" not in words:
            return words
        if "split" in words:
            raise ValueError("max_shard is the former name of split: give one of them")
        return {"split" if word == "max_shard" else word: value for word, value in words.items()}

    @model_validator(mode="after")
    def _types_or_fit(self) -> GGUFOptions:
        check_words(self.model_fields_set, types=bool(self.types), fit=bool(self.fit))
        return self


def is_gguf(source: Bundle) -> bool:
    """Whether the recipe's model is a GGUF file and not a checkpoint; what a stage made says of which type it is."""
    return any(artifact.kind == "gguf" for artifact in source.of(Role.WEIGHTS))


def _is_streamed(inputs: Inputs) -> bool:
    """Whether the weights are read from a server: a pass over them does that."""
    return len(inputs) == 1 and any(a.elsewhere for a in only(inputs).of(Role.WEIGHTS))


def _lacking_modules() -> list[Problem]:
    """What a calibration imports and this Python does not have."""
    return [
        Problem("gguf", f"imatrix: {{calibrate: …}} needs {module}", "", install_command(extra))
        for module, extra in imatrix.NEEDS.items()
        if importlib.util.find_spec(module) is None
    ]


def _unmeasured(inputs: Inputs) -> list[Problem]:
    """What keeps a file from being refined."""
    if importlib.util.find_spec("torch") is None:
        return [Problem("gguf", "refine: true needs torch", "", install_command("validate"))]
    (stage, source), *_ = inputs.items()
    if has_grams(source):
        return []
    got = f"refine: true, and '{stage}' has no Gram matrices of what goes into the model's matrices"
    remedy = "take `from:` a stage with `use: calibration`, which keeps them"
    if source.of(Role.STATISTICS):
        remedy = f"say `grams: true` in '{stage}'"
    return [Problem("gguf", got, "", remedy)]


def _prepare(options: GGUFOptions, inputs: Inputs) -> Conversion:
    """The conversion; worked out once for check, forecast, explain and run, unless a file changes in between."""
    from convert.formats.gguf.conversion import ConversionSettings
    from convert.formats.gguf.shard_names import read_split
    from convert.formats.gguf.type_words import read_tensor_types

    again = len(inputs) == 1 and is_gguf(only(inputs))
    source = only(inputs) if again or _is_streamed(inputs) else checkpoint("gguf", inputs)
    file, awaited = _imatrix_file(options, source)
    listed = read_tensor_types(options.tensor_type_file) if options.tensor_type_file else ()
    wanted = _wanted(options)
    tensors = Asked(
        options.output_tensor or "",
        options.token_embedding or "",
        (*options.overrides.items(), *listed),
        options.pure,
        options.leave_output_tensor,
    )
    settings = ConversionSettings(
        wanted.planned_types(weighted=bool(file or awaited)) if wanted else tuple(options.types),
        options.mmproj,
        options.name or "",
        options.pre_tokenizer,
        tensors,
        file,
        awaited,
        imatrix.measured_on(options.imatrix.asked) if isinstance(options.imatrix, Calibration) else "",
        _weights_key(source) if file else "",
        read_split(options.split) if options.split and not wanted else None,
        options.refine,
    )
    # A file's hash, which a plan need not know yet, does not change what is made of it; `_stamps` tells its changes.
    roles = tuple((role, tuple(replace(a, sha256="") for a in files)) for role, files in source.roles.items())
    allowed = options.allow_requantize if again else None
    return _prepared(
        (source.model, roles, source.pending), _stamps(source, file, options.tensor_type_file), settings, allowed
    )


def _wanted(options: GGUFOptions) -> Wanted | None:
    """What is asked of a fit; None where types are named."""
    if not options.fit:
        return None
    from convert.formats.gguf.fit_stage import Wanted
    from convert.formats.gguf.shard_names import read_split

    split = read_split(options.split) if options.split else None
    return Wanted(tuple(options.fit), options.keep, options.prove, options.name or "", split)


def _imatrix_file(options: GGUFOptions, source: Bundle) -> tuple[Path | None, str]:
    """The importance matrix's file; or, where it is yet to be made, what it will be called."""
    if isinstance(options.imatrix, Calibration):
        return None, matrix_name(source)
    if isinstance(options.imatrix, Path):
        return options.imatrix, ""
    if options.imatrix is None:
        for artifact in source.of(Role.IMATRIX):
            return (artifact.path, "") if artifact.path.is_file() else (None, artifact.path.name)
    return None, ""


def _weights_key(source: Bundle) -> str:
    """What an importance matrix remembers of the weights it was made from; empty while they are not all hashed."""
    from convert.formats.gguf.calibration import model_key

    return model_key(source) if all(artifact.sha256 for artifact in source.of(Role.WEIGHTS)) else ""


@functools.lru_cache(maxsize=2)
def _prepared(
    source: tuple[Model, tuple[tuple[Role, tuple[Artifact, ...]], ...], Pending | None],
    stamps: tuple[object, ...],
    settings: ConversionSettings,
    allowed: bool | None,  # to requantize; None where the source is a checkpoint
) -> Conversion:
    from convert.formats.gguf.conversion import prepare

    model, roles, pending = source
    if allowed is not None:
        from convert.formats.gguf.requantize import prepare_again

        return prepare_again(Bundle(model, dict(roles)), settings, allowed)
    return prepare(Bundle(model, dict(roles), pending=pending), settings)


def _stamps(source: Bundle, *others: Path | None) -> tuple[object, ...]:
    """What changes when a file of the bundle, or one of the others, does."""
    paths = [*(artifact.path for _, artifact in source.artifacts()), *(path for path in others if path)]
    paths = [path for path in paths if path.is_file()]
    return tuple((str(path), status.st_mtime_ns, status.st_size) for path in paths for status in [path.stat()])


def _refined(conversion: Conversion, source: Bundle) -> Conversion:
    """The same, with what is known of what goes into the text's matrices."""
    from convert.formats.gguf.refinement import Refinement

    text = conversion.text
    return replace(conversion, text=replace(text, refinement=Refinement.of(source, text.tensors)))


def _bundle(inputs: Inputs, made: Sequence[tuple[Artifact, ...]]) -> Bundle:
    made_of = only(inputs).with_(statistics=(), gradients=())
    return made_of.with_(weights=made[0], projector=made[1] if len(made) > 1 else ())


class GGUFStage(Stage[GGUFOptions]):
    """GGUF files for llama.cpp: the language model in any number of types, and the projector of a model with vision."""

    NAME = "gguf"
    VERSION = 2
    TOOLS = ("numpy", "numba")
    Options = GGUFOptions

    def tools(self, options: GGUFOptions) -> tuple[str, ...]:
        """The distributions that decide the bytes: those of a calibration too, where the stage makes one."""
        calibrated = imatrix.TOOLS if isinstance(options.imatrix, Calibration) else ("torch",) if options.refine else ()
        return (*self.TOOLS, *calibrated)

    def calibrates(self, options: GGUFOptions) -> list[Path]:
        """What an importance matrix made on the way is measured on."""
        return imatrix.calibrates(options.imatrix.asked) if isinstance(options.imatrix, Calibration) else []

    def versions(self, options: GGUFOptions) -> Mapping[str, str]:
        """What the default mix says, where an importance matrix made on the way is measured on it."""
        return imatrix.versions(options.imatrix.asked) if isinstance(options.imatrix, Calibration) else {}

    def check(self, options: GGUFOptions, inputs: Inputs) -> list[Problem]:
        """What keeps the model from being converted, by its headers and configs."""
        problems = []
        try:
            conversion = _prepare(options, inputs)
            if wanted := _wanted(options):
                problems += wanted.check(conversion, only(inputs))
        except ConvertError as error:
            problems += [p if isinstance(p, Problem) else Problem("gguf", p) for p in error.problems]
        if isinstance(options.imatrix, Calibration) and not problems:
            problems += _lacking_modules() or imatrix.check(options.imatrix.asked, inputs)
        return problems + (_unmeasured(inputs) if options.refine else [])

    def lacking(self, options: GGUFOptions, made: Bundle) -> list[str]:
        """The types that cannot hold a value of the model."""
        there = {artifact.type for artifact in made.of(Role.WEIGHTS)}
        if options.fit:
            return []
        lost = [kind for kind in dict.fromkeys(options.types) if MIXES[kind].name not in there]
        return [f"{kind} is not made: it cannot hold a value of this model, use BF16" for kind in lost]

    def forecast(self, options: GGUFOptions, inputs: Inputs) -> Bundle:
        """The bundle that `run` will return, with the exact sizes of its files."""
        conversion = _prepare(options, inputs)
        made = [
            tuple(Artifact(plan.kind, Path(plan.name), plan.size) for plan in group.plans)
            for group in conversion.groups
        ]
        if wanted := _wanted(options):
            made[0] = wanted.forecast(conversion, only(inputs))
        if isinstance(options.imatrix, Calibration):
            inputs = {"source": imatrix.forecast(options.imatrix.asked, inputs)}
        return _bundle(inputs, made)

    def needs(self, options: GGUFOptions, inputs: Inputs, made: Bundle) -> Needs:
        """A few chunks of rows whatever the model's size, and its vocabulary; a calibration runs the model first.

        Refining takes the Gram matrices of two of the model's matrices.
        """
        from convert.formats.gguf.refinement import refinement_bytes

        if isinstance(options.imatrix, Calibration):
            return imatrix.needs(options.imatrix.asked, inputs, made)
        source = only(inputs)
        tokenizer = sum(a.size for a in source.of(Role.TOKENIZER))
        refining = refinement_bytes(_prepare(options, inputs).text.tensors) if options.refine else 0
        return Needs(300 * MB + VOCABULARY_COPIES * tokenizer + refining, cores_for(source))

    def explain(self, options: GGUFOptions, inputs: Inputs) -> Iterator[str]:
        """Lines about every file: its types and the rules that picked them; then what is left out, and notes."""
        from convert.formats.gguf.conversion import imatrix_lines

        conversion, wanted = _prepare(options, inputs), _wanted(options)
        if wanted:
            yield from wanted.explain(conversion, only(inputs))
        for group in conversion.groups[1:] if wanted else conversion.groups:
            for plan in group.plans:
                yield f"{plan.name}: {plan.size:,} bytes"
                count = Counter((info.type.name, info.why) for info in plan.infos)
                yield from (f"  {kind:6} {number:5} tensors: {why}" for (kind, why), number in count.items())
        reasons = Counter(rule.reason for rule in conversion.left_out.values())
        yield from (f"left out: {number} tensors, {reason}" for reason, number in reasons.items())
        yield from imatrix_lines(conversion)
        yield from (f"note: {note}" for note in conversion.notes)

    def tensor_types(self, options: GGUFOptions, inputs: Inputs) -> Iterator[tuple[str, str, str, str]]:
        """File, tensor, type and the rule that picked it, for `convert plan --explain-types`."""
        from convert.formats.gguf.conversion import tensor_types

        conversion, wanted = _prepare(options, inputs), _wanted(options)
        return wanted.tensor_types(conversion, only(inputs)) if wanted else tensor_types(conversion)

    def run(self, options: GGUFOptions, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
        """Write the files into `out`. Raises ConvertError before a byte is written when the model does not fit."""
        from convert.formats.gguf.conversion import imatrix_lines, prove_tied
        from convert.formats.gguf.tokenizer_proof import prove_tokenizer
        from convert.formats.gguf.writer import write_files

        conversion = _prepare(options, inputs)
        prove_tied(conversion)
        if isinstance(options.imatrix, Calibration):
            inputs = {"source": imatrix.run(options.imatrix.asked, inputs, out, progress)}
            conversion = _prepare(options.model_copy(update={"imatrix": None}), inputs)
        for name, rule in conversion.left_out.items():
            progress.note(f"left out: {name}, {rule.reason}")
        for line in imatrix_lines(conversion):
            progress.note(line)
        for note in conversion.notes:
            progress.warn(note)
        if options.refine:
            conversion = _refined(conversion, only(inputs))
        if wanted := _wanted(options):
            made, reports = wanted.write(conversion, only(inputs), out, progress)
        else:
            names = ", ".join(plan.name for group in conversion.groups for plan in group.plans)
            progress.start(f"writing {names}", sum(group.source_bytes for group in conversion.groups))
            made, reports = [write_files(out, group, progress) for group in conversion.groups], ()
        for line in conversion.text.refinement.lines() if conversion.text.refinement else ():
            progress.note(line)
        fields = conversion.text.plans[0].fields  # whatever the type, the tokenizer's are the same
        prove_tokenizer(made[0][0].path, fields, conversion.tokenizer, options.tokenizer_check, progress)
        return _bundle(inputs, made).with_(fit=reports)


STAGE = GGUFStage()
