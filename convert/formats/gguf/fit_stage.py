"""`fit:` as the gguf stage uses it: what it refuses, forecasts, explains, and writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from convert.bundle import Artifact, Bundle, Role
from convert.errors import ConvertError, PlanError, Problem
from convert.formats.gguf.conversion import Conversion
from convert.formats.gguf.fit import BASE, Open, Target, open_types, presets, target_of
from convert.formats.gguf.fit_costs import check_decoder
from convert.formats.gguf.fit_options import Fit
from convert.formats.gguf.fit_run import Work, write_fits
from convert.formats.gguf.shard_names import Split
from convert.formats.gguf.writer import write_files
from convert.progress import Progress
from convert.stage import TensorType


@dataclass(frozen=True)
class Wanted:
    """What a stage is asked for in the place of types."""

    fits: tuple[Fit, ...]
    keep: Mapping[str, str]
    prove: bool
    name: str  # start of the file names; the model's where empty
    split: Split | None

    def planned_types(self, *, weighted: bool) -> tuple[str, ...]:
        """The usual types that sizes and candidates are taken from."""
        likes = [one.like for one in self.fits if one.like]
        return tuple(dict.fromkeys((BASE, *likes, *presets(weighted=weighted))))

    def open(self, conversion: Conversion, source: Bundle) -> Open:
        """What is to be chosen. Raises PlanError for what cannot be."""
        check_decoder()
        if any(artifact.kind == "gguf" for artifact in source.of(Role.WEIGHTS)):
            remedy = "convert the checkpoint it was made from, or name `types:`"
            raise PlanError(Problem("fit", "the source is a GGUF file, which nothing can be measured on", "", remedy))
        types = [volume[0].kind.partition("/")[2] for volume in conversion.text.volumes]
        start, gradients = self.name or source.model.name, bool(source.of(Role.GRADIENTS))
        opened = open_types(conversion, types, self.keep, start, gradients=gradients)
        return replace(opened, split=self.split)

    def check(self, conversion: Conversion, source: Bundle) -> list[Problem]:
        """Sizes that no choice of types comes down to. Raises PlanError for rules that fail."""
        opened = self.open(conversion, source)
        found: list[Problem | str] = []
        for one in self.fits:
            try:
                target_of(one, opened)
            except ConvertError as error:
                found += error.problems
        return [p if isinstance(p, Problem) else Problem("fit", p) for p in found]

    def forecast(self, conversion: Conversion, source: Bundle) -> tuple[Artifact, ...]:
        """The files at their largest, which they come near to; the bits in a name may be a hundredth less."""
        opened = self.open(conversion, source)
        return tuple(self._forecast(opened, target_of(one, opened)) for one in self.fits)

    @staticmethod
    def _forecast(opened: Open, target: Target) -> Artifact:
        size, bits = opened.largest(target)
        return Artifact(f"gguf/{bits:.2f}bpw", Path(f"{opened.start}-{bits:.2f}bpw.gguf"), size)

    def explain(self, conversion: Conversion, source: Bundle) -> Iterator[str]:
        """What will be sought."""
        opened = self.open(conversion, source)
        for one in self.fits:
            size, bits = opened.largest(target_of(one, opened))
            yield f"fit {one}: at most {size:,} bytes, {bits:.2f} bits a weight"
        kinds = sorted({kind for of_one in opened.kinds.values() for kind in of_one})
        yield f"  {len(opened.kinds)} tensors of {len(opened.base.infos)}, each in one of {', '.join(kinds)}"

    def tensor_types(self, conversion: Conversion, source: Bundle) -> Iterator[TensorType]:
        """The types that there is no choice of, and of the others which there may be."""
        opened = self.open(conversion, source)
        for info in opened.base.infos:
            kinds = opened.kinds.get(info.name)
            if kinds is None or len(kinds) == 1:
                yield "fit", info.name, kinds[0] if kinds else info.type.name, "keep" if kinds else info.why
            else:
                yield "fit", info.name, f"{kinds[0]} … {kinds[-1]}", "chosen by what it costs"

    def write(
        self, conversion: Conversion, source: Bundle, out: Path, progress: Progress
    ) -> tuple[list[tuple[Artifact, ...]], tuple[Artifact, ...]]:
        """The files of the model, and of its projector; and how the types were chosen."""
        opened = self.open(conversion, source)
        files, reports = write_fits(opened, self.fits, source, Work(out, progress, self.prove))
        made = [tuple(files)]
        for group in conversion.groups[1:]:
            progress.start(f"writing {group.plans[0].name}", group.source_bytes)
            made.append(write_files(out, group, progress))
        return made, tuple(reports)
