"""GPTQ and AWQ of a real checkpoint beside gptqmodel: seconds, peak memory, bits a weight and KL on another text.

    python -m tests.bench.calibrated FOLDER CALIBRATION.txt TEST.txt [--samples 64] [--tokens 2048] [--group 64]
                                     [--methods gptq awq] [--no-peer]

Every side is a process of its own and is given the same rows. What it makes is put into the model as floats, which
transformers runs in float32: KL is that of the weights, whoever's kernels run them later. A plain forward pass over the
same rows is timed too: what anything that looks at the inputs costs at least.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.bench.conversion import measured

RUN = "import sys; from tests.bench import calibrated as c; getattr(c, sys.argv[1])(*sys.argv[2:])"
WINDOW = 512


def ours(method: str, folder: str, calibration: str, samples: str, group: str, home: str) -> None:
    """Our stage, as a recipe runs it."""
    from convert.calibration.options import Calibration
    from convert.progress import Silent
    from convert.registry import load
    from convert.source.stage import STAGE as source

    inside = Path(home) / "stages"
    for name in ("source", method):
        (inside / name).mkdir(parents=True)
    bundle = source.run(source.Options(path=Path(folder)), {}, inside / "source", Silent())
    rows = Calibration.model_validate({"text": calibration, "samples": int(samples), "length": WINDOW})
    stage = load(method)
    asked = stage.Options.model_validate({"calibration": rows.model_dump(), "group_size": int(group)})
    stage.run(asked, {"source": bundle}, inside / method, Silent())


def peer(method: str, folder: str, calibration: str, samples: str, group: str, home: str) -> None:
    """gptqmodel, with the settings that its own documentation gives for a CPU."""
    import torch
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

    from convert.calibration.rows import Description, make_rows
    from validate.runtimes._folder import CheckpointFolder

    asked = Description(text=calibration, samples=int(samples), length=WINDOW)
    rows = make_rows(CheckpointFolder(Path(folder)), asked)
    awq = method == "awq"
    words = {"bits": 4, "group_size": int(group), "offload_to_disk": False}
    words |= {"quant_method": "awq", "format": "gemm", "sym": False} if awq else {"sym": True, "act_group_aware": True}
    kernel = BACKEND.TORCH_AWQ if awq else BACKEND.TORCH
    dtype = torch.bfloat16 if awq else torch.float32
    model = GPTQModel.load(folder, QuantizeConfig(**words), device="cpu", backend=kernel, dtype=dtype)
    model.quantize([row["input_ids"][0].tolist() for row in rows], batch_size=1, backend=kernel)
    model.save(str(Path(home) / "stages" / method / "made"))


def forward(folder: str, calibration: str, samples: str) -> None:
    """A pass over the rows, one layer at a time, and nothing else."""
    import torch

    from convert.calibration.rows import Description, make_rows
    from convert.model.layered import Layered
    from validate.runtimes._folder import CheckpointFolder

    asked = Description(text=calibration, samples=int(samples), length=WINDOW)
    rows = make_rows(CheckpointFolder(Path(folder)), asked)
    ids = torch.cat([torch.from_numpy(row["input_ids"]) for row in rows])
    for _ in Layered.open(Path(folder)).run([{"input_ids": some} for some in ids.split(4)], head=False):
        pass


def drift(folder: str, made: str, text: str, tokens: str) -> None:
    """Print mean KL of a folder's weights, and its bits a weight."""
    import numpy as np
    import torch

    from convert.model.layered import Layered
    from convert.source.checkpoint import open_tensors
    from validate.runtimes import _compressed, _packed
    from validate.runtimes._folder import CheckpointFolder

    ids = CheckpointFolder(Path(folder)).tokenize(Path(text).read_text(encoding="utf-8"))[: int(tokens)]
    windows = [{"input_ids": torch.tensor([ids[i : i + WINDOW]])} for i in range(0, len(ids), WINDOW)]
    reference = [output.logits[0].log_softmax(-1) for _, output in Layered.open(Path(folder)).run(windows)]
    words = json.loads((Path(made) / "config.json").read_text())["quantization_config"]
    matrices, _ = _packed.decoded(Path(made), words)
    with tempfile.TemporaryDirectory() as whole:
        from safetensors.torch import save_file

        state = _compressed.tensors(Path(made), _packed.plain_names(Path(made)))
        state |= {name: torch.from_numpy(np.ascontiguousarray(matrix)) for name, matrix in matrices.items()}
        state = {name: tensor for name, tensor in state.items() if name != "lm_head.weight"}
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, Path(whole) / "model.safetensors")
        for name in ("config.json", "generation_config.json"):
            if (Path(folder) / name).exists():
                shutil.copyfile(Path(folder) / name, Path(whole) / name)
        got = [output.logits[0].log_softmax(-1) for _, output in Layered.open(Path(whole)).run(windows)]
    kl = [float((r.exp() * (r - g)).sum(-1).mean()) for r, g in zip(reference, got, strict=True)]
    weights = sum(int(np.prod(tensor.shape)) for tensor in open_tensors(Path(folder)).values())
    size = sum(path.stat().st_size for path in Path(made).glob("*.safetensors"))
    print(json.dumps({"kl": sum(kl) / len(kl), "bits": 8 * size / weights, "bytes": size}))


def run(*arguments: str) -> tuple[float, float]:
    """Seconds and peak bytes of one of the functions above in a process of its own."""
    return measured([sys.executable, "-c", RUN, *arguments])


def main() -> None:
    """Print a row for each method and side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("calibration")
    parser.add_argument("test")
    parser.add_argument("--samples", default="64")
    parser.add_argument("--tokens", default="2048")
    parser.add_argument("--group", default="64")
    parser.add_argument("--methods", nargs="+", default=["gptq", "awq"])
    parser.add_argument("--no-peer", action="store_true")
    asked = parser.parse_args()
    os.environ |= {"GPTQMODEL_CPU_WORKERS": "2", "TORCHDYNAMO_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    seconds, _ = run("forward", asked.folder, asked.calibration, asked.samples)
    print(f"a forward pass over {asked.samples} x {WINDOW} tokens: {seconds:.0f} s", flush=True)
    for method in asked.methods:
        for side in ("ours", *(() if asked.no_peer else ("peer",))):
            with tempfile.TemporaryDirectory() as home:
                where = (method, asked.folder, asked.calibration, asked.samples, asked.group, home)
                seconds, peak = run(side, *where)
                (weights,) = {path.parent for path in Path(home).glob(f"stages/{method}/*/*.safetensors")}
                out = Path(home) / "drift.json"
                os.system(
                    f"{sys.executable} -c '{RUN}' drift {asked.folder} {weights} {asked.test} {asked.tokens} > {out}"
                )
                found = json.loads(out.read_text().splitlines()[-1])
                print(
                    f"{method} {side}: {seconds:.0f} s, peak {peak / 1e9:.2f} GB, KL {found['kl']:.4f}, "
                    f"{found['bits']:.2f} bits a weight ({found['bytes'] / 1e6:.0f} MB)",
                    flush=True,
                )


if __name__ == "__main__":
    main()
