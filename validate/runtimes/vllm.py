"""vLLM: GPTQ, AWQ and compressed-tensors checkpoints on what serves them, by its logprobs, in its own environment."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from validate.runtimes._elsewhere import ElsewhereRuntime, Environment

WORKER = Path(__file__).parent / "_workers" / "vllm_worker.py"


class Vllm(ElsewhereRuntime):
    """vLLM, in the environment that a recipe names, else in ours where it is installed."""

    NAME = "vLLM"
    ALSO_RUNS = ("gptq", "awq", "fp8", "compressed")

    def __init__(self, environment: Environment | None = None) -> None:
        here = importlib.util.find_spec("vllm") is not None
        super().__init__(Environment(Path(sys.executable), WORKER) if environment is None and here else environment)

    def available(self) -> str | None:
        """Why it cannot run, or None."""
        if self.environment is None:
            return (
                "vllm not installed here: `runtimes: {vllm: {python: PATH}}` names the Python of an environment "
                "that has it (PATH -m pip install vllm)"
            )
        return super().available()


RUNTIME = Vllm()
