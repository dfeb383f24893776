"""TensorRT engines from the graphs of an onnx stage: by TensorRT for RTX, which builds without a GPU, or data-centre's.

An engine runs on one version of one TensorRT and on some GPUs; engine.json says which, and onnx/ rebuilds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, field_validator

from convert.bundle import Bundle, Role
from convert.errors import ConvertError, Problem
from convert.formats.tensorrt import SUFFIX
from convert.needs import GB, MB, Needs
from convert.options import Options, RecipePath
from convert.progress import Progress
from convert.stage import Inputs, Stage

if TYPE_CHECKING:
    from convert.formats.tensorrt.choice import BuildSettings


PRECISIONS = ("fp32", "fp16", "bf16", "int8-qdq")
MOST = 1 << 31


def _range(value: object) -> object:
    """Three sizes in order, or one that stands for all three."""
    numbers = [value] * 3 if isinstance(value, int) and not isinstance(value, bool) else value
    if (
        not isinstance(numbers, list | tuple)
        or len(numbers) != 3
        or any(isinstance(n, bool) or not isinstance(n, int) or not 0 <= n < MOST for n in numbers)
        or list(numbers) != sorted(numbers)
    ):
        raise ValueError(f"{value!r} is no range: a number, or [smallest, usual, largest]")
    return tuple(numbers)


def _some(value: object) -> object:
    """A range of what there is never none of."""
    sizes = _range(value)
    if isinstance(sizes, tuple) and sizes[0] < 1:
        raise ValueError(f"{value!r} starts at 0, and an engine needs 1 at least")
    return sizes


def _capability(value: object) -> object:
    return str(value) if isinstance(value, float | int) and not isinstance(value, bool) else value


def _listed(value: object) -> object:
    """One is a list of one, and none is named twice: 8.6 and '8.6' are the same GPU."""
    if value is None or isinstance(value, dict):
        return value
    named = value if isinstance(value, list | tuple) else [value]
    return list(dict.fromkeys(_capability(one) for one in named if not isinstance(one, list | dict))) or value


def _size(text: str | None) -> str | None:
    from convert.formats.gguf.shard_names import size_in_bytes

    if text is not None:
        size_in_bytes(text)
    return text


_NUMBER = {"type": "integer", "minimum": 0}
_RANGE_SCHEMA = {"anyOf": [_NUMBER, {"type": "array", "items": _NUMBER, "minItems": 3, "maxItems": 3}]}
Range = Annotated[tuple[int, int, int] | None, BeforeValidator(_range), WithJsonSchema(_RANGE_SCHEMA)]
Some = Annotated[tuple[int, int, int] | None, BeforeValidator(_some), WithJsonSchema(_RANGE_SCHEMA)]


class Profile(Options):
    """Ranges of sizes that an engine is made for; each is a number or [smallest, usual, largest]."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64, description="what the report calls it")
    batch: Some = Field(None, description="texts at once; 1 when left out")
    sequence: Some = Field(None, description="tokens at once: for the decoder and the embeddings")
    past: Range = Field(None, description="tokens in the cache; 0 when left out")
    patches: Some = Field(None, description="patches of all images: for the vision encoder")
    images: Some = Field(None, description="images at once; 1 when left out")

    @property
    def ranges(self) -> dict[str, tuple[int, int, int]]:
        axes = {
            "batch": self.batch,
            "sequence": self.sequence,
            "past": self.past,
            "patches": self.patches,
            "images": self.images,
        }
        return {axis: sizes for axis, sizes in axes.items() if sizes is not None}


class TensorRTOptions(Options):
    """Which engines to build, and for what."""

    precision: Annotated[str | None, WithJsonSchema({"enum": [*PRECISIONS, None]})] = Field(
        None, description="which of the onnx stage's graphs; types are theirs. Its first when left out"
    )
    profiles: list[Profile] = Field(
        [], description="sizes the engines are made for; prefill, decode and image when left out"
    )
    compute_capabilities: Annotated[list[str], BeforeValidator(_listed)] = Field(
        [], description="GPUs to build for, as '8.6'; from 8.0 on when left out (TensorRT for RTX)"
    )
    workspace: Annotated[str | None, BeforeValidator(_capability), AfterValidator(_size)] = Field(
        None, description="most memory that a layer may use beside its tensors, as 2G or 500M"
    )
    tf32: bool = Field(False, description="let float32 products use 10-bit mantissas: faster, and no longer float32")
    weight_streaming: bool = Field(False, description="weights may stay in host memory and be streamed to the GPU")
    refittable: bool = Field(False, description="weights can be replaced later without a build")
    strip_weights: bool = Field(
        False, description="engines without weights, kernels alone: whoever runs them refits them from onnx/"
    )
    version_compatible: bool = Field(False, description="runs on later versions too (data-centre TensorRT)")
    timing_cache: bool | RecipePath = Field(
        False,
        description="data-centre TensorRT: true writes timing.cache beside the engines, a file is where to start from",
    )

    @field_validator("profiles")
    @classmethod
    def _different(cls, profiles: list[Profile]) -> list[Profile]:
        names = [profile.name for profile in profiles]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two profiles are called {', '.join(twice)}")
        for profile in profiles:
            if not profile.sequence and not profile.patches:
                raise ValueError(f"profile {profile.name} names neither sequence (text) nor patches (images)")
        return profiles


def _settings(options: TensorRTOptions) -> BuildSettings:
    from convert.formats.gguf.shard_names import size_in_bytes
    from convert.formats.tensorrt.choice import BuildSettings
    from convert.formats.tensorrt.profiles import Profile as Sizes

    return BuildSettings(
        options.precision,
        tuple(Sizes(profile.name, profile.ranges) for profile in options.profiles),
        tuple(options.compute_capabilities),
        size_in_bytes(options.workspace) if options.workspace else None,
        options.tf32,
        options.weight_streaming,
        options.refittable,
        options.version_compatible,
        options.timing_cache,
        options.strip_weights,
    )


class TensorRTStage(Stage[TensorRTOptions]):
    """TensorRT engines from an onnx stage's graphs, by TensorRT for RTX (no GPU needed) or data-centre TensorRT."""

    NAME = "tensorrt"
    VERSION = 1
    TOOLS = ("onnx", "tensorrt_rtx_cu12_bindings")
    NEEDS: ClassVar[Mapping[str, str]] = {"onnx": "onnx"}
    Options = TensorRTOptions

    def tools(self, options: TensorRTOptions) -> tuple[str, ...]:
        """The distributions that decide the bytes."""
        from convert.formats.tensorrt import flavours

        del options
        flavour = flavours.find()
        return self.TOOLS if flavour is None or flavour.is_rtx else ("onnx", "tensorrt")

    def check(self, options: TensorRTOptions, inputs: Inputs) -> list[Problem]:
        """No TensorRT, options that the one there is has not, graphs that it cannot take."""
        from convert.formats.tensorrt import choice

        try:
            return choice.check(inputs, _settings(options))
        except ConvertError as error:
            return [p if isinstance(p, Problem) else Problem("tensorrt", p) for p in error.problems]

    def forecast(self, options: TensorRTOptions, inputs: Inputs) -> Bundle:
        """The bundle that `run` will return; how large an engine is, its builder alone knows."""
        from convert.formats.tensorrt import choice

        return choice.forecast(inputs, _settings(options))

    def notes(self, options: TensorRTOptions) -> list[str]:
        """What a user should know before the run."""
        from convert.formats.tensorrt import flavours

        said = ["tensorrt: two builds of one engine differ in their bytes; everything beside it is equal"]
        flavour = flavours.find()
        if flavour is not None and flavour.is_rtx and "7.5" in options.compute_capabilities:
            said.append("tensorrt: for 7.5 (Turing) there are no float32 matrix products: use fp16 graphs")
        if len([p for p in options.profiles if p.sequence]) != 1:
            said.append(
                "tensorrt: a profile for single tokens (decode) holds the weights again; engines are smallest without"
            )
        return said

    def needs(self, options: TensorRTOptions, inputs: Inputs, made: Bundle) -> Needs:
        """The builder holds the graph's weights and those of the engine it makes."""
        from convert.formats.tensorrt import flavours

        engines = sum(
            a.size for role in (Role.WEIGHTS, Role.PROJECTOR) for a in made.of(role) if a.path.suffix == SUFFIX
        )
        flavour = flavours.find()
        needs_device = flavour is not None and not flavour.is_rtx
        return Needs(500 * MB + 2 * engines, 1 if engines < GB else 0, accelerator=needs_device)

    def explain(self, options: TensorRTOptions, inputs: Inputs) -> Iterator[str]:
        """Lines for `convert plan -v`: which TensorRT, for which GPUs, which engines."""
        from convert.formats.tensorrt import choice

        return choice.explain(inputs, _settings(options))

    def run(self, options: TensorRTOptions, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
        """Build the engines in `out`. Raises StageError with every node TensorRT refuses, or what its builder says."""
        from convert.formats.tensorrt import engines

        return engines.build_all(inputs, _settings(options), out, progress)


STAGE = TensorRTStage()
