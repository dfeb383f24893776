"""The error of each tensor of a candidate's file against the source's, where its format can decode it."""

from __future__ import annotations

from validate.measurement import Candidate, Measurement
from validate.measures.base import FileMeasure


class Tensors(FileMeasure):
    """How a file is decoded and what it was made of is known to its format, which gives `Candidate.tensor_errors`."""

    PART = "tensors"
    PLACE = 10

    def measure(self, candidate: Candidate, result: Measurement) -> None:
        if candidate.tensor_errors is not None:
            result.tensors = candidate.tensor_errors()
            if result.tensors:
                right = sum(not tensor.note for tensor in result.tensors)
                result.metrics["tensors_equal"] = right / len(result.tensors)


MEASURE = Tensors
