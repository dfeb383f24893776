"""Ways to break a good tiny checkpoint: what arrives damaged, and what arrives on purpose.

Every function of BROKEN takes the folder of a checkpoint in one file (`tiny_llama(folder)`) and leaves it so that a
program must refuse it: one message, nothing run, nothing read outside of the folder.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
EMBEDDING = "model.embed_tokens.weight"


def read_parts(path: Path) -> tuple[dict[str, Any], bytes]:
    """(header, data) of a good safetensors file."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def write_parts(path: Path, header: dict[str, Any] | bytes, data: bytes, length: int | None = None) -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.unlink(missing_ok=True)  # it may be a hard link to a checkpoint that other tests use
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)


def edit_header(folder: Path, change: Callable[[dict[str, Any]], None], *, extra: bytes = b"") -> None:
    header, data = read_parts(folder / WEIGHTS)
    change(header)
    write_parts(folder / WEIGHTS, header, data + extra)


def edit_config(folder: Path, **words: Any) -> None:
    _rewrite(folder / "config.json", json.dumps(json.loads((folder / "config.json").read_text()) | words))


def split(folder: Path) -> dict[str, str]:
    """Turn the single file into two good shards and their index; returns the weight_map."""
    header, data = read_parts(folder / WEIGHTS)
    header.pop("__metadata__", None)
    names = sorted(header, key=lambda name: header[name]["data_offsets"][0])
    weight_map = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        base, end = header[part[0]]["data_offsets"][0], header[part[-1]]["data_offsets"][1]
        moved = {
            name: header[name] | {"data_offsets": [o - base for o in header[name]["data_offsets"]]} for name in part
        }
        write_parts(folder / file, moved, data[base:end])
        weight_map |= dict.fromkeys(part, file)
    (folder / WEIGHTS).unlink()
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: object) -> None:
    _rewrite(folder / INDEX, json.dumps({"metadata": {}, "weight_map": weight_map}))


def _rewrite(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(text)


# --- the file itself


def break_header_longer_than_file(folder: Path) -> None:
    header, data = read_parts(folder / WEIGHTS)
    write_parts(folder / WEIGHTS, header, data, length=1 << 40)


def break_header_not_json(folder: Path) -> None:
    _, data = read_parts(folder / WEIGHTS)
    write_parts(folder / WEIGHTS, b'{"a": [1, 2', data)


def break_overlapping_tensors(folder: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        header["model.copy"] = header[EMBEDDING]

    edit_header(folder, change)


def break_offsets_out_of_range(folder: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        last = max((v for k, v in header.items() if k != "__metadata__"), key=lambda v: v["data_offsets"][1])
        last["shape"] = [1 << 20, *last["shape"]]
        start, stop = last["data_offsets"]
        last["data_offsets"] = [start, start + (stop - start << 20)]

    edit_header(folder, change)


def break_hole_between_tensors(folder: Path) -> None:
    edit_header(folder, lambda header: header.pop("model.layers.0.input_layernorm.weight"))


def break_bytes_after_the_end(folder: Path) -> None:
    edit_header(folder, lambda header: None, extra=b"\0" * 16)


def break_shape_too_large(folder: Path) -> None:
    edit_header(folder, lambda header: header[EMBEDDING].update(shape=[1 << 40, 1 << 40]))


def break_negative_shape(folder: Path) -> None:
    edit_header(folder, lambda header: header[EMBEDDING].update(shape=[-384, -64]))


def break_tensor_twice_in_header(folder: Path) -> None:
    header, data = read_parts(folder / WEIGHTS)
    again = json.dumps({EMBEDDING: header[EMBEDDING]})[1:]
    write_parts(folder / WEIGHTS, (json.dumps(header)[:-1] + ", " + again).encode(), data)


def break_truncated(folder: Path) -> None:
    raw = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).write_bytes(raw[: len(raw) * 2 // 3])


def break_empty_file(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).touch()


def break_lfs_pointer(folder: Path) -> None:
    _rewrite(folder / WEIGHTS, f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123456\n")


def break_unsupported_dtype(folder: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        rows, columns = header[EMBEDDING]["shape"]
        header[EMBEDDING].update(dtype="F8_E4M3", shape=[rows, columns * 2])

    edit_header(folder, change)


# --- the index and the folder


def break_missing_shard(folder: Path) -> None:
    split(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def break_tensor_in_two_shards(folder: Path) -> None:
    split(folder)
    header, data = read_parts(folder / "model-00002-of-00002.safetensors")
    header[EMBEDDING] = {"dtype": "F32", "shape": [1], "data_offsets": [len(data), len(data) + 4]}
    write_parts(folder / "model-00002-of-00002.safetensors", header, data + bytes(4))


def break_index_disagrees_with_shards(folder: Path) -> None:
    weight_map = split(folder)
    write_index(folder, weight_map | {"model.layers.9.mlp.up_proj.weight": "model-00001-of-00002.safetensors"})


def break_path_outside_the_folder(folder: Path) -> None:
    weight_map = split(folder)
    (folder / "model-00002-of-00002.safetensors").rename(folder.parent / "outside.safetensors")
    moved = {k: "../outside.safetensors" if v.startswith("model-00002") else v for k, v in weight_map.items()}
    write_index(folder, moved)


def break_absolute_path(folder: Path) -> None:
    write_index(folder, dict.fromkeys(split(folder), "/etc/passwd.safetensors"))


def unpacked(link: Path) -> None:
    """Give a link the time it had in an archive, as tar does."""
    os.utime(link, (1_500_000_000, 1_500_000_000), follow_symlinks=False)


def downloaded(link: Path) -> None:
    """What `hf download --local-dir` leaves in the folder."""
    (link.parent / ".cache" / "huggingface").mkdir(parents=True)


def cloned(link: Path) -> None:
    """What `git clone` leaves in the folder."""
    (link.parent / ".git").mkdir()


BROUGHT: dict[str, Callable[[Path], None]] = {"unpacked": unpacked, "downloaded": downloaded, "cloned": cloned}
"""How a link came into a folder that nobody here made."""


def break_symlink_out(folder: Path) -> None:
    outside = folder.parent / f"{folder.name}-secret.safetensors"
    (folder / WEIGHTS).rename(outside)
    (folder / WEIGHTS).symlink_to(outside)
    unpacked(folder / WEIGHTS)


def break_config_symlink_out(folder: Path) -> None:
    outside = folder.parent / f"{folder.name}-secret.json"
    (folder / "config.json").rename(outside)
    (folder / "config.json").symlink_to(f"../{outside.name}")
    unpacked(folder / "config.json")


# --- config.json


def break_config_missing(folder: Path) -> None:
    (folder / "config.json").unlink()


def break_config_not_an_object(folder: Path) -> None:
    _rewrite(folder / "config.json", '["LlamaForCausalLM"]')


def break_config_nested_too_deeply(folder: Path) -> None:
    _rewrite(folder / "config.json", '{"a":' * 100_000 + "1" + "}" * 100_000)


def break_config_disagrees_with_shapes(folder: Path) -> None:
    edit_config(folder, intermediate_size=4 * json.loads((folder / "config.json").read_text())["intermediate_size"])


def break_config_has_more_layers(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=99)


# --- pickles


class _Code:
    def __init__(self, witness: str) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.witness}",)


def witness(folder: Path) -> Path:
    """The file that exists once code out of a pickle was run."""
    return folder.parent / f"{folder.name}.pwned"


def break_pickle_with_code(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    program = pickle.dumps({EMBEDDING: _Code(str(witness(folder)))}, protocol=2)
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3\n")


def break_legacy_pickle_with_code(folder: Path) -> None:
    """As PyTorch before 1.6 wrote them: five pickles in a row, no archive."""
    (folder / WEIGHTS).unlink()
    parts = [0x1950A86A20F9469CFC6C, 1001, {}, {EMBEDDING: _Code(str(witness(folder)))}, []]
    (folder / "pytorch_model.bin").write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in parts))


def break_pickle_bomb(folder: Path) -> None:
    """A few kB that unpack to many times as much."""
    (folder / WEIGHTS).unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("archive/data/0", bytes(16 << 20))


BROKEN: dict[str, Callable[[Path], None]] = {
    name.removeprefix("break_"): function for name, function in list(globals().items()) if name.startswith("break_")
}
"""Case -> what breaks a checkpoint that way."""

BY_CONFIG = frozenset({"config_disagrees_with_shapes", "config_has_more_layers"})
"""The cases that only who knows the architecture can see: the files themselves are sound."""
