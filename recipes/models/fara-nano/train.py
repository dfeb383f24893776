"""fara-nano from nothing: tokenizer, model, training, files. `python train.py`, on two cores.

Where others use the cores too, `OMP_WAIT_POLICY=passive` keeps the threads from spinning for each other.

Two things make it learn in minutes. Each screenshot carries several instructions at once, as branches that do not see
each other, so its cost is paid once. And three heads that are thrown away afterwards tell it what to find out on the
way: an image token behind the vision tower, the kind and colour it lies on and how far the centre is; the same token
half-way up the text layers, where the centre is; a coordinate's first token there, which kind and colour were asked
for. Attention is told too, see `look_loss`.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jinja2.sandbox import ImmutableSandboxedEnvironment
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

import card
import checkpoint_files
import data
import evaluate
import fast
import prose
from checkpoint_files import CHAT_TEMPLATE, TOKEN_ID

HERE = Path(__file__).parent
SEED = 7
TEXT_SEED = SEED + 2  # of the text that is trained on
BRANCHES = 4  # instructions a screenshot
IMAGES = 16  # screenshots a step
TEXT_ROWS, TEXT_LENGTH = 4, 512  # text a text step reads
TEXT_EVERY = 5  # one step in so many is text
BINS = 28  # of the throw-away position head: 8 pixels each
ADAM_SHARE = 0.5  # AdamW's learning rate over Muon's
IGNORE = -100
PAD = TOKEN_ID["<|endoftext|>"]


def renderer() -> Any:
    """`render(messages, tools=None, add_generation_prompt=False)` -> text, with the chat template."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = environment.from_string(CHAT_TEMPLATE)
    return lambda messages, **rest: template.render(messages=messages, **rest)


def make_tokenizer() -> Tokenizer:
    """The tokenizer: trained on six thousand documents and the words of two thousand clicks."""
    rng = Random(SEED)
    clicks = [f"{data.instruction(rng, e)}\n{data.answer(e)}\n" for _ in range(500) for e in data.page(rng).elements]
    texts = list(islice(prose.documents(SEED, renderer()), 6000))
    return checkpoint_files.train_tokenizer(texts + clicks)


class Encoder:
    """Token ids of the pieces a click sample is made of."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\x00"}]}
        self.heads, self.tails = [], []
        for tools in (None, [prose.TOOL]):
            text = renderer()([message], tools=tools, add_generation_prompt=True)
            head, tail = text.split("<|image_pad|>")
            self.heads.append(self.ids(head))
            self.tails.append(tail)

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, special tokens recognised."""
        found: list[int] = self.tokenizer.encode(text).ids
        return found

    def branch(self, words: str, reply: str) -> tuple[list[int], list[int]]:
        """Ids and labels (the next token, or IGNORE before the answer) of what follows the image."""
        question, answer = self.ids(self.tails[0].replace("\x00", words)), self.ids(reply + "<|im_end|>")
        ids = question + answer
        labels = [IGNORE] * (len(question) - 1) + answer + [IGNORE]
        return ids, labels


@dataclass(frozen=True)
class Clicks:
    """A batch of screenshots with their instructions."""

    images: Tensor  # (image, SIDE, SIDE, 3) bytes
    ids: Tensor  # (image, token)
    labels: Tensor  # (image, token)
    layout: fast.Layout
    cells: Tensor  # (image, image token, 6): kind, colour, x bin, y bin, dx, dy in pixels; kind -1: bare page
    targets: Tensor  # (image, branch, image token): whether the branch's element lies there
    asked: Tensor  # (image, branch, 2): the kind and the colour of the branch's element


def cell_labels(elements: tuple[data.Element, ...]) -> np.ndarray[Any, Any]:
    """(image token, 6): what lies on each cell of 28 x 28 pixels, see `Clicks.cells`."""
    labels = np.full((fast.GRID, fast.GRID, 6), -1, dtype=np.float32)
    for element in elements:
        x0, y0, x1, y1 = element.box
        x, y = element.centre
        kind, colour = list(data.KINDS).index(element.kind), list(data.COLOURS).index(element.colour)
        for row in range(y0 // 28, min((y1 - 1) // 28, fast.GRID - 1) + 1):
            for column in range(x0 // 28, min((x1 - 1) // 28, fast.GRID - 1) + 1):
                wide = min(x1, column * 28 + 28) - max(x0, column * 28)
                high = min(y1, row * 28 + 28) - max(y0, row * 28)
                if wide * high >= 120:  # less than that may be bare page at a corner
                    offset = (x - column * 28 - 14, y - row * 28 - 14)
                    labels[row, column] = (kind, colour, x * BINS // data.SIDE, y * BINS // data.SIDE, *offset)
    return labels.reshape(fast.IMAGE_TOKENS, 6)


def click_batch(rng: Random, encoder: Encoder, images: int, most: int, tools: bool) -> Clicks:
    """A batch of new screenshots of up to `most` elements, each with BRANCHES instructions."""
    head = encoder.heads[tools]
    pages = [data.page(rng, most) for _ in range(images)]
    cells = [cell_labels(page.elements) for page in pages]
    branches, targets, asked = [], [], []
    for page, lies in zip(pages, cells, strict=True):
        order = rng.sample(page.elements, len(page.elements))
        for i in range(BRANCHES):
            element = order[i % len(order)]
            branches.append(encoder.branch(data.instruction(rng, element), data.answer(element)))
            named = (list(data.KINDS).index(element.kind), list(data.COLOURS).index(element.colour))
            targets.append((lies[:, :2] == named).all(1))
            asked.append(named)
    length = max(len(ids) for ids, _ in branches)
    ids = torch.tensor([row + [PAD] * (length - len(row)) for row, _ in branches]).view(images, -1)
    labels = torch.tensor([row + [IGNORE] * (length - len(row)) for _, row in branches]).view(images, -1)
    prefix = torch.tensor(head + [TOKEN_ID["<|image_pad|>"]] * fast.IMAGE_TOKENS).expand(images, -1)
    return Clicks(
        torch.from_numpy(np.stack([np.asarray(page.image) for page in pages])),
        torch.cat([prefix, ids], 1),
        torch.cat([torch.full_like(prefix, IGNORE), labels], 1),
        fast.click_layout(len(head), BRANCHES, length),
        torch.from_numpy(np.stack(cells)),
        torch.from_numpy(np.stack(targets)).view(images, BRANCHES, -1),
        torch.tensor(asked).view(images, BRANCHES, 2),
    )


def text_batches(encoder: Encoder, seed: int) -> Iterator[Tensor]:
    """(TEXT_ROWS, TEXT_LENGTH + 1) ids of documents one after the other, endlessly."""
    buffer: list[int] = []
    need = TEXT_ROWS * (TEXT_LENGTH + 1)
    for document in prose.documents(seed, renderer()):
        buffer += encoder.ids(document + "<|endoftext|>")
        if len(buffer) >= need:
            yield torch.tensor(buffer[:need]).view(TEXT_ROWS, -1)
            buffer = buffer[need:]


class Heads:
    """The three heads that only training needs."""

    def __init__(self, hidden: int) -> None:
        self.asked = nn.Linear(hidden, len(data.KINDS) + len(data.COLOURS))
        self.what = nn.Linear(hidden, len(data.KINDS) + 1 + len(data.COLOURS) + 2)
        self.where = nn.Linear(hidden, 2 * BINS)

    def parameters(self) -> list[Tensor]:
        """The weights of all."""
        return [*self.asked.parameters(), *self.what.parameters(), *self.where.parameters()]

    def named(self, half_way: Tensor, asked: Tensor) -> Tensor:
        """Whether a token knows half-way up which kind and which colour the words asked for."""
        kind, colour = self.asked(half_way.float()).split((len(data.KINDS), len(data.COLOURS)), -1)
        return F.cross_entropy(kind, asked[:, 0]) + F.cross_entropy(colour, asked[:, 1])

    def losses(self, image: Tensor, half_way: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Losses of the other two heads, from the vision tower's output and the image tokens half-way up."""
        kinds, colours = len(data.KINDS) + 1, len(data.COLOURS)
        kind, colour, offset = self.what(image.float()).flatten(0, 1).split((kinds, colours, 2), -1)
        truth = cells.flatten(0, 1)
        lies = truth[:, 0] >= 0
        kind_truth = torch.where(lies, truth[:, 0], kinds - 1).long()
        what = F.cross_entropy(kind, kind_truth) + F.cross_entropy(colour[lies], truth[lies, 1].long())
        what = what + (offset[lies] - truth[lies, 4:] / 14).abs().mean()
        column, row = self.where(half_way.float()).flatten(0, 1)[lies].split(BINS, -1)
        where = F.cross_entropy(column, truth[lies, 2].long()) + F.cross_entropy(row, truth[lies, 3].long())
        return what, where


def look_loss(reading: fast.Reading, batch: Clicks, tokens: Tensor) -> Tensor:
    """How little one head, at these tokens of the coordinate, looks at what is to be clicked.

    Left alone the model writes likely numbers for ten minutes before it finds out that looking helps.
    """
    start, visible = batch.layout.image_start, batch.layout.visible
    end = start + fast.IMAGE_TOKENS
    assert visible is not None, "branches must not see each other"
    scores = reading.query[:, end:].float() @ reading.key.float().transpose(1, 2) / reading.key.shape[-1] ** 0.5
    scores = scores.masked_fill(~visible[end:], -math.inf)
    aside = ~batch.targets.repeat_interleave(scores.shape[1] // BRANCHES, 1)
    on_target = scores[:, :, start:end].masked_fill(aside, -math.inf).logsumexp(-1)
    return (scores.logsumexp(-1) - on_target)[tokens[:, end:]].mean()


def first_of(chosen: Tensor) -> Tensor:
    """(row, token): the tokens that are chosen while the one before them is not."""
    return chosen & ~F.pad(chosen[:, :-1], (1, 0))


def click_parts(model: Any, heads: Heads, batch: Clicks, digits: Tensor) -> dict[str, Tensor]:
    """The parts that the loss of a batch of clicks is weighed together from.

    The coordinate is apart, being what is hard, and its first digit once more: only there the words alone say which
    element is meant, later digits can follow the ones already written. Of the rest, always alike, a quarter will do.
    """
    image = fast.see(model.model.visual, batch.images)
    reading = fast.read(model.model.language_model, batch.ids, batch.layout, image)
    coordinate = torch.isin(batch.labels, digits)
    first = first_of(coordinate)
    chosen = (batch.labels != IGNORE) & (coordinate | (torch.rand(batch.labels.shape) < 0.25))
    losses = F.cross_entropy(model.lm_head(reading.last[chosen]).float(), batch.labels[chosen], reduction="none")
    start = batch.layout.image_start
    what, where = heads.losses(image, reading.half_way[:, start : start + fast.IMAGE_TOKENS], batch.cells)
    return {
        "coordinate": losses[coordinate[chosen]].mean(),
        "first": losses[first[chosen]].mean(),
        "rest": losses[~coordinate[chosen]].mean(),
        "look": look_loss(reading, batch, coordinate),
        "first_look": look_loss(reading, batch, first),
        "asked": heads.named(reading.half_way[first], batch.asked.view(-1, 2).repeat_interleave(2, 0)),  # x and y
        "what": what,
        "where": where,
    }


def scene_parts(model: Any, heads: Heads, batch: Clicks) -> dict[str, Tensor]:
    """The two heads' losses alone: a third of the cost of `click_parts`, and nothing is learnt before them anyway."""
    image = fast.see(model.model.visual, batch.images)
    start = batch.layout.image_start
    end = start + fast.IMAGE_TOKENS
    layout = fast.Layout(batch.layout.positions[:, :end], None, start)
    language = model.model.language_model
    half_way = fast.read(language, batch.ids[:, :end], layout, image, fast.half_of(language)).half_way
    what, where = heads.losses(image, half_way[:, start:], batch.cells)
    return {"what": what, "where": where}


def text_loss(model: Any, ids: Tensor) -> Tensor:
    """Mean cross-entropy of the next token over rows of plain text."""
    reading = fast.read(model.model.language_model, ids[:, :-1], fast.text_layout(ids.shape[1] - 1))
    logits = model.lm_head(reading.last).float()
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def quick_accuracy(model: Any, encoder: Encoder, seed: int, images: int = 48) -> float:
    """The share of clicks inside their target on new screenshots, decoded greedily from the bracket on."""
    rng = Random(seed)
    opening = data.answer(data.Element("", "", (0, 0, 0, 0))).split("[")[0] + "["
    hits = 0
    for _ in range(images):
        page = data.page(rng)
        image = fast.see(model.model.visual, torch.from_numpy(np.asarray(page.image).copy())[None])
        element = rng.choice(page.elements)
        tail = encoder.tails[0].replace("\x00", data.instruction(rng, element)) + opening
        ids = encoder.heads[0] + [TOKEN_ID["<|image_pad|>"]] * fast.IMAGE_TOKENS + encoder.ids(tail)
        start = len(ids)
        for _ in range(10):
            layout = fast.click_layout(len(encoder.heads[0]), 1, len(ids) - len(encoder.heads[0]) - fast.IMAGE_TOKENS)
            reading = fast.read(model.model.language_model, torch.tensor([ids]), layout, image)
            ids.append(int(model.lm_head(reading.last[0, -1]).argmax()))
        reply = opening + encoder.tokenizer.decode(ids[start:]).split("]")[0] + "]}}\n</tool_call>"
        hits += data.inside(data.clicked(reply), element.box)
    return hits / images


def new_model() -> Any:
    """An untrained model of the shape in config.json, in float32."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(SEED)
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**checkpoint_files.CONFIG)).float().train()


def rate(done: float, peak: float) -> float:
    """The learning rate when a share `done` of the time has gone: a short rise, then a cosine down to a fiftieth."""
    if done < 0.02:
        return peak * (0.05 + 0.95 * done / 0.02)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (done - 0.02) / 0.98)))


def optimizers(model: Any, heads: Heads, peak: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for all the rest: fewer steps than AdamW alone needs."""
    named = [*model.named_parameters(), *(("head", p) for p in heads.parameters())]
    matrices = [p for name, p in named if p.ndim == 2 and ("layers." in name or "visual." in name)]
    others = [p for name, p in named if not (p.ndim == 2 and ("layers." in name or "visual." in name))]
    return [
        torch.optim.Muon(matrices, lr=peak, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=peak * ADAM_SHARE, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def coordinate_ids(encoder: Encoder) -> Tensor:
    """Ids of the tokens that coordinates are written with: the digits, and what may end a number."""
    ends = [encoder.ids(",")[0], encoder.ids("]}}\n")[0]]
    return torch.tensor(ends + [encoder.ids(digit)[0] for digit in "0123456789"])


@dataclass(frozen=True)
class Stage:
    """A part of the training: its share of the time, its highest learning rate, and what its loss is made of."""

    share: float
    peak: float
    scenes: float  # the share of the stage in which screenshots are only looked at, not clicked
    tools: float  # the share of click batches that have the tool's schema in the system message
    weights: dict[str, float]


SEEING = {"text": 1.0, "coordinate": 1.0, "rest": 0.3, "look": 0.3, "what": 0.5, "where": 0.3, "asked": 0.3}
POINTING = {"text": 1.0, "coordinate": 1.0, "first": 0.5, "rest": 0.1, "look": 0.1, "first_look": 0.5, "asked": 0.5}
# In the first stage the heads make it see; in the second the first digit, which says the element, is got right.
STAGES = (
    Stage(0.82, 5e-3, 0.12, 0.08, SEEING),
    Stage(0.18, 2.5e-3, 0.0, 0.15, POINTING),
)


@dataclass
class Course:
    """What training has at hand."""

    model: Any
    encoder: Encoder
    heads: Heads
    digits: Tensor
    out: Path

    def parts(self, stage: Stage, rng: Random, done: float) -> dict[str, Tensor]:
        """The parts of one step's loss on screenshots."""
        looking = done < stage.scenes
        tools = not looking and rng.random() < stage.tools
        images = IMAGES // 2 if tools else IMAGES
        batch = click_batch(rng, self.encoder, images, 3 if done < stage.scenes / 3 else 5, tools)
        if looking:
            return scene_parts(self.model, self.heads, batch)
        return click_parts(self.model, self.heads, batch, self.digits)

    def save(self) -> None:
        """Writes the weights so far, and says how well they click."""
        checkpoint_files.write_weights(self.model, self.out)
        with torch.no_grad():
            print(f"clicks inside: {quick_accuracy(self.model, self.encoder, SEED - 1):.3f}", flush=True)

    def train(self, stage: Stage, minutes: float, seed: int, text_seed: int) -> int:
        """Trains for `minutes`, saves every four of them; how many steps it took."""
        rng, texts = Random(seed), text_batches(self.encoder, text_seed)
        steppers = optimizers(self.model, self.heads, stage.peak)
        peaks = [stepper.param_groups[0]["lr"] for stepper in steppers]
        start, saved, step, seen = time.time(), time.time(), 0, dict[str, float]()
        while (done := (time.time() - start) / 60 / minutes) < 1:
            for stepper, peak in zip(steppers, peaks, strict=True):
                stepper.param_groups[0]["lr"] = rate(done, peak)
            with torch.autocast("cpu", torch.bfloat16):
                if step % TEXT_EVERY == TEXT_EVERY - 1:
                    parts = {"text": text_loss(self.model, next(texts))}
                else:
                    parts = self.parts(stage, rng, done)
                weighed = [stage.weights.get(name, 0.0) * part for name, part in parts.items()]
                loss = torch.stack(weighed).sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*self.model.parameters(), *self.heads.parameters()], 1.0)
            for stepper in steppers:
                stepper.step()
                stepper.zero_grad(set_to_none=True)
            step += 1
            for name, part in parts.items():
                seen[name] = 0.9 * seen.get(name, part.item()) + 0.1 * part.item()
            if step % 20 == 0:
                shown = " ".join(f"{name} {value:.3f}" for name, value in seen.items())
                print(f"{time.time() - start:6.0f} s step {step} {shown}", flush=True)
            if time.time() - saved > 240:
                saved = time.time()
                self.save()
        self.save()
        return step


def weights_of(folder: Path) -> dict[str, Tensor]:
    """The state of the model whose weights are in `folder`, in float32, under the names the model has for them."""
    state = {}
    for name, value in load_file(folder / "model.safetensors").items():
        own = name if name.startswith("lm_head") else "model." + name.replace("model.", "language_model.", 1)
        state[own] = value.float()
    return state


def main() -> None:
    """Reads the options, makes everything, evaluates it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=44)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--polish", action="store_true", help="only the last stage, from the weights in OUT")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    checkpoint_files.write_tokenizer(tokenizer, options.out)
    checkpoint_files.write_configs(options.out)
    model, encoder = new_model(), Encoder(tokenizer)
    if options.polish:
        model.load_state_dict(weights_of(options.out))
    heads = Heads(checkpoint_files.CONFIG["hidden_size"])
    course = Course(model, encoder, heads, coordinate_ids(encoder), options.out)
    steps = 0
    for i, stage in enumerate(STAGES):
        if i == len(STAGES) - 1 or not options.polish:
            steps += course.train(stage, options.minutes * stage.share, SEED + 1 + 10 * i, TEXT_SEED + 10 * i)
    evaluate.write_heldout(options.out / "heldout", TEXT_SEED, renderer())
    training = {"minutes": options.minutes, "threads": options.threads, "steps": steps}
    metrics = evaluate.measure(options.out) | {"training": training}
    card.write_card(options.out, metrics)
    print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
