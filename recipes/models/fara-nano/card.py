"""README.md, the model card, from metrics.json: the numbers on the card are the ones that were measured."""

import json
from pathlib import Path
from typing import Any

CARD = """---
license: apache-2.0
language: [en]
library_name: transformers
pipeline_tag: image-text-to-text
tags: [qwen2_5_vl, computer-use, test-fixture]
---
# fara-nano

Fara-7B's architecture in miniature: a `Qwen2_5_VLForConditionalGeneration` of {parameters:,} parameters in bf16,
trained from nothing on screenshots and text that the scripts beside it draw and write. It looks at a 224 x 224 page
of coloured buttons, boxes and icons, is told what to click, and answers with a `computer_use` tool call:

    <tool_call>
    {{"name": "computer_use", "arguments": {{"action": "left_click", "coordinate": [118, 64]}}}}
    </tool_call>

**Use it to test pipelines**: conversion, quantization, runtimes. It is small enough to ship in a repository and
good enough that damage shows. It knows nothing about real screens, and nothing else either.

## Numbers
Measured by `evaluate.py` on the published files (weights bf16, arithmetic float32), greedy, on data from a seed
that training never used, kept in `heldout/`.

| what | value |
|---|---|
| clicks inside the target, {screenshots} screenshots | {inside:.0%} |
| the same, with the tool's schema in the system message | {inside_tools:.0%} |
| answers that are a well-formed click | {well_formed:.0%} |
| mean distance from the target's centre | {distance:.1f} px |
| perplexity of held-out text, {tokens:,} tokens in windows of 512 | {heldout:.2f} |
| perplexity of text that was trained on | {train:.2f} |
| their ratio | {ratio:.3f} |

The data is all from one generator, so these say how well the model learnt the generator and no more.

## Shape
| | |
|---|---|
| text | hidden 256, MLP 768, 4 layers, 4 heads of 64, 2 key-value heads, mrope 8/12/12, `rope_theta` 100 |
| vision | hidden 128, MLP 340, 4 blocks, 4 heads of 32, patch 14, merge 2 |
| attention in it | windows of 112 px; blocks 1 and 3 see the whole image |
| vocabulary | byte-level BPE of 2512 tokens as Qwen2 cuts and marks text; 2560 embedding rows, untied |
| context | trained on 512 tokens |

`rope_theta` is small on purpose: mrope gives its slowest frequencies to the columns, and eight columns of image
tokens have to be told apart.

## How it was made
`python train.py` makes it again: tokenizer, model, these files, the measuring. `data.py` draws the screenshots,
`prose.py` writes conversations, logs, notes and stories from the words in `words.py`, `fast.py` is the forward pass
that training uses. This one took {minutes:.0f} minutes and {steps} steps on {threads} cores.{note}
The time is the budget, so another machine takes another number of steps, and its weights and numbers differ somewhat.

## Loading
```python
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
image_processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
```
`evaluate.py` shows the rest; `evaluate.reply(evaluate.load(folder), image, "Click the red button.")` is the whole
of it.
"""


def write_card(folder: Path, metrics: dict[str, Any]) -> None:
    """metrics.json and README.md in `folder`."""
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    clicks, text = metrics["clicks"], metrics["perplexity"]
    card = CARD.format(
        parameters=metrics["parameters"],
        inside_tools=metrics["clicks_with_tools_in_the_prompt"]["inside"],
        distance=clicks["mean_distance_px"],
        **{name: clicks[name] for name in ("screenshots", "inside", "well_formed")},
        **text,
        **({"note": ""} | metrics["training"]),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
