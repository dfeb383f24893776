"""What becomes of images: their tokens by size, the projector's embeddings, and the next token behind them."""

from __future__ import annotations

from functools import cached_property

from validate import behaviour, vision
from validate.errors import RuntimeFailure, Unsupported
from validate.measures.base import RunningCandidate, SessionMeasure, not_asked
from validate.runtimes.base import Ability

RULES_OF = "llama.cpp"  # the runtime whose own rules for images the source knows


class Images(SessionMeasure):
    """Asked where the source takes images and can be shown them, and a projector was made; else the reason is noted."""

    PART = "vision"
    PLACE = 60
    NEEDS = (Ability.IMAGES,)
    DESPITE_FAILURES = True

    def prepare(self) -> None:
        """What the reference makes of every image, where a candidate can be shown one."""
        if self.reference.identity().has_vision and any(c.projector and not c.text_only for c in self.candidates):
            _ = self._no_images_reason

    def is_asked(self, running: RunningCandidate) -> bool:
        candidate, result = running.candidate, running.result
        if not self.reference.identity().has_vision:
            result.vision_reason = vision.NO_VISION
        elif why := candidate.text_only or not_asked(candidate, Ability.IMAGES):
            result.vision_reason = why
        elif candidate.projector is None or self._no_images_reason:
            result.vision_reason = (
                self._no_images_reason if candidate.projector else "no projector was made beside this file"
            )
            if self.questions.images_required:
                raise Unsupported(f"the recipe names images or clicks, but {result.vision_reason}")
        else:
            return True
        return False

    def without(self, running: RunningCandidate, ability: Ability) -> None:
        """The projector was loaded, and there is no vision in it."""
        projector = running.candidate.projector
        assert projector is not None
        raise Unsupported(f"the projector {projector.name} has no vision part")

    def measure(self, running: RunningCandidate) -> None:
        result = running.result
        result.checks += behaviour.image_checks(self.reference, running.session)
        runtime = running.candidate.runtime
        result.images, checks = behaviour.compare_images(
            self._reference_answers, running.session, runtime is not None and runtime.NAME == RULES_OF
        )
        result.checks += checks
        result.metrics |= vision.image_metrics(result.images)

    @cached_property
    def _no_images_reason(self) -> str:
        """Why the source was shown no image; empty where it was. It is no output's failure."""
        if not self.questions.no_images_reason:
            try:
                _ = self._reference_answers
            except RuntimeFailure as error:
                return f"the source cannot be shown an image: {error}"
        return self.questions.no_images_reason

    @cached_property
    def _reference_answers(self) -> list[vision.ImageAnswer]:
        text = self.questions.image_text
        return [vision.ask(self.reference, name, pixels, text) for name, pixels in self.questions.images]


MEASURE = Images
