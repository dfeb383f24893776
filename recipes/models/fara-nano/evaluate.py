"""How good the model in a folder is: clicks inside their target, and perplexity. `python evaluate.py [FOLDER]`.

Everything here reads the published files through transformers, as anybody would; nothing of the training is used.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

import data
import prose

HERE = Path(__file__).parent
HELDOUT_SEED = 90_001  # no training seed is near
SCREENSHOTS = 100
TEXT_CHARACTERS = 36_000
WINDOW = 512  # tokens; the length the model was trained on
IMAGE_PAD = "<|image_pad|>"


@dataclass(frozen=True)
class Loaded:
    """A model in float32 (its weights are bf16), and what prepares its inputs."""

    model: Any
    tokenizer: Any
    image_processor: Any


def load(folder: Path) -> Loaded:
    """The model, tokenizer and image processor in `folder`. Without AutoProcessor, which would need torchvision."""
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

    model, keys = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    if keys["missing_keys"] or keys["unexpected_keys"]:
        raise ValueError(f"{folder}: not this model's weights: {keys}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return Loaded(model.eval(), tokenizer, Qwen2VLImageProcessorPil.from_pretrained(folder))


def click_inputs(loaded: Loaded, image: Image.Image, instruction: str, tools: bool = False) -> dict[str, torch.Tensor]:
    """What the model is given for one screenshot and one instruction."""
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": instruction}]}
    text = loaded.tokenizer.apply_chat_template(
        [message], tools=[prose.TOOL] if tools else None, add_generation_prompt=True, tokenize=False
    )
    seen = loaded.image_processor(images=[image], return_tensors="pt")
    count = int(seen["image_grid_thw"].prod()) // 4  # four patches make one token
    ids = loaded.tokenizer(text.replace(IMAGE_PAD, IMAGE_PAD * count), return_tensors="pt")["input_ids"]
    is_image = (ids == loaded.tokenizer.convert_tokens_to_ids(IMAGE_PAD)).int()
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": is_image,
        "pixel_values": seen["pixel_values"],
        "image_grid_thw": seen["image_grid_thw"],
    }


def reply(loaded: Loaded, image: Image.Image, instruction: str, tools: bool = False) -> str:
    """The model's greedy answer, without the end-of-turn token."""
    inputs = click_inputs(loaded, image, instruction, tools)
    with torch.no_grad():
        greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        out = loaded.model.generate(**inputs, max_new_tokens=64, **greedy)
    text: str = loaded.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text


def click_accuracy(loaded: Loaded, heldout: Path, tools: bool = False) -> dict[str, float]:
    """Over `heldout/clicks.jsonl`: share inside the target, share well formed, mean distance from the centre."""
    rows = [json.loads(line) for line in (heldout / "clicks.jsonl").read_text(encoding="utf-8").splitlines()]
    hits, formed, distance = 0, 0, 0.0
    for row in rows:
        answer = reply(loaded, Image.open(heldout / row["image"]).convert("RGB"), row["instruction"], tools)
        point = data.clicked(answer)
        hits += data.inside(point, tuple(row["target"]))
        if point is not None:
            formed += 1
            x0, y0, x1, y1 = row["target"]
            distance += math.dist(point, ((x0 + x1) / 2, (y0 + y1) / 2))
    return {
        "screenshots": len(rows),
        "inside": hits / len(rows),
        "well_formed": formed / len(rows),
        "mean_distance_px": round(distance / max(formed, 1), 2),
    }


def perplexity(loaded: Loaded, text: str) -> tuple[float, int]:
    """Perplexity over windows of WINDOW tokens that do not overlap, and how many tokens were scored."""
    ids = torch.tensor(loaded.tokenizer(text)["input_ids"])
    total, count = 0.0, 0
    for start in range(0, len(ids) - WINDOW + 1, WINDOW):
        window = ids[None, start : start + WINDOW]
        with torch.no_grad():
            logits = loaded.model(input_ids=window).logits[0, :-1]
        total += F.cross_entropy(logits, window[0, 1:], reduction="sum").item()
        count += WINDOW - 1
    return math.exp(total / count), count


def write_text(path: Path, seed: int, render: Any) -> None:
    """A file of TEXT_CHARACTERS of documents: the first ones the seed gives."""
    pieces: list[str] = []
    for document in prose.documents(seed, render):
        pieces.append(document + "<|endoftext|>")
        if sum(map(len, pieces)) >= TEXT_CHARACTERS:
            break
    path.write_text("".join(pieces), encoding="utf-8")


def write_heldout(heldout: Path, train_text_seed: int, render: Any) -> None:
    """Held-out screenshots with their clicks, held-out text, and the first text that training reads."""
    heldout.mkdir(exist_ok=True)
    rng = Random(HELDOUT_SEED)
    rows = []
    for i in range(SCREENSHOTS):
        page = data.page(rng)
        element, name = rng.choice(page.elements), f"{i:03d}.png"
        page.image.save(heldout / name, optimize=True)
        rows.append({"image": name, "instruction": data.instruction(rng, element), "target": element.box})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (heldout / "clicks.jsonl").write_text(lines, encoding="utf-8")
    write_text(heldout / "text.txt", HELDOUT_SEED, render)
    write_text(heldout / "train_text.txt", train_text_seed, render)


def measure(folder: Path) -> dict[str, Any]:
    """All the numbers of the model card."""
    loaded, heldout = load(folder), folder / "heldout"
    trained, _ = perplexity(loaded, (heldout / "train_text.txt").read_text(encoding="utf-8"))
    unseen, tokens = perplexity(loaded, (heldout / "text.txt").read_text(encoding="utf-8"))
    return {
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "clicks": click_accuracy(loaded, heldout),
        "clicks_with_tools_in_the_prompt": click_accuracy(loaded, heldout, tools=True),
        "perplexity": {
            "heldout": round(unseen, 3),
            "train": round(trained, 3),
            "ratio": round(unseen / trained, 4),
            "tokens": tokens,
        },
    }


def main() -> None:
    """Prints the numbers of the model in a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=HERE)
    print(json.dumps(measure(parser.parse_args().folder), indent=2))


if __name__ == "__main__":
    main()
