"""Positions and merged embeddings in plain numpy: transformers' own, for text, images and padding."""

import ast
from pathlib import Path

import numpy as np
import pytest

from validate.runtimes import _qwen2_5_vl_inputs as inputs

IMAGE, VIDEO, START, PAD = 90, 91, 92, 0
ONE, WIDE, TALL, FRAMES = (1, 4, 6), (1, 2, 12), (1, 10, 2), (3, 4, 4)


def prompt(*parts):
    """Token ids: a number is that many words, a grid an image between its marks."""
    ids = []
    for part in parts:
        words = range(1, part + 1) if isinstance(part, int) else [START, *[IMAGE] * int(np.prod(part) // 4)]
        ids += words
    return ids


def padded(*rows):
    """Ids and mask of rows of unequal length, padded on the left."""
    longest = max(map(len, rows))
    ids = np.array([[PAD] * (longest - len(row)) + row for row in rows], np.int64)
    return ids, np.array([[0] * (longest - len(row)) + [1] * len(row) for row in rows], np.int64)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """transformers' get_rope_index as a function of ids, mask and grids."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tests.tiny import tiny_qwen2_5_vl

    config = transformers.AutoConfig.from_pretrained(tiny_qwen2_5_vl(tmp_path_factory.mktemp("vl")))
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config).model

    def positions(ids, mask, grids):
        ids, mask = torch.from_numpy(ids), torch.from_numpy(mask)
        grid = torch.tensor(grids) if grids else None
        return model.get_rope_index(ids, (ids == IMAGE).int(), image_grid_thw=grid, attention_mask=mask)

    return positions


@pytest.mark.parametrize(
    ("rows", "grids"),
    [
        ([(7,)], []),
        ([(7,), (3,), (12,)], []),
        ([(3, ONE, 5)], [ONE]),
        ([(ONE,)], [ONE]),
        ([(2, WIDE, 1, TALL, 4)], [WIDE, TALL]),
        ([(2, FRAMES, 3)], [FRAMES]),
        ([(3, ONE, 5), (9,), (1, TALL, 2, WIDE)], [ONE, TALL, WIDE]),
    ],
    ids=["text", "padded text", "image", "nothing after", "two images", "frames", "padded images"],
)
def test_positions_are_those_of_transformers(theirs, rows, grids):
    ids, mask = padded(*(prompt(*row) for row in rows))
    positions, deltas = inputs.position_ids(ids, mask, np.array(grids).reshape(-1, 3), image_token_id=IMAGE)
    wanted, wanted_deltas = theirs(ids, mask, grids)
    np.testing.assert_array_equal(positions, wanted.numpy())
    np.testing.assert_array_equal(deltas, wanted_deltas.numpy())
    assert positions.dtype == deltas.dtype == np.int64


def test_next_tokens_go_on_where_the_prompt_ended():
    ids, mask = padded(prompt(3, WIDE, 4), prompt(2))
    whole = np.concatenate([ids, np.full((2, 3), 1)], 1)
    grown = np.concatenate([mask, np.ones((2, 3), np.int64)], 1)
    _, deltas = inputs.position_ids(ids, mask, np.array([WIDE]), image_token_id=IMAGE)
    wanted, _ = inputs.position_ids(whole, grown, np.array([WIDE]), image_token_id=IMAGE)
    np.testing.assert_array_equal(inputs.next_position_ids(grown, deltas, 3), wanted[:, :, -3:])


def test_without_a_mask_every_token_counts():
    ids, mask = padded(prompt(3, ONE, 5))
    np.testing.assert_array_equal(
        inputs.position_ids(ids, None, np.array([ONE]), image_token_id=IMAGE)[0],
        inputs.position_ids(ids, mask, np.array([ONE]), image_token_id=IMAGE)[0],
    )


def test_rows_of_images_take_the_places_of_their_tokens():
    ids, _ = padded(prompt(2, ONE, 1), prompt(1, TALL, 2))
    count = int(inputs.tokens_per_image(np.array([ONE, TALL])).sum())
    embeds = np.zeros((*ids.shape, 2), np.float32)
    images = np.arange(1, 2 * count + 1, dtype=np.float32).reshape(count, 2)
    merged = inputs.merge_images(embeds, ids, images, IMAGE)
    np.testing.assert_array_equal(merged[ids == IMAGE], images)
    assert not merged[ids != IMAGE].any()
    assert not embeds.any()


@pytest.mark.parametrize(
    ("parts", "grids", "words"),
    [
        ((3, ONE, 2), [], "more images than image_grid_thw"),
        ((3, ONE, 2), [ONE, TALL], "1 images more than input_ids"),
        ((3, ONE, 2), [TALL], "more images than image_grid_thw"),
        ((3, ONE), [(1, 8, 8)], "image of 16 tokens has fewer"),
    ],
)
def test_images_that_do_not_match_their_tokens_are_refused(parts, grids, words):
    ids, mask = padded(prompt(*parts))
    with pytest.raises(ValueError, match=words):
        inputs.position_ids(ids, mask, np.array(grids).reshape(-1, 3), image_token_id=IMAGE)


def test_too_few_rows_of_embeddings_are_refused():
    ids, _ = padded(prompt(2, ONE))
    with pytest.raises(ValueError, match="6 image tokens for 5 rows"):
        inputs.merge_images(np.zeros((*ids.shape, 2)), ids, np.zeros((5, 2)), IMAGE)


def test_a_video_is_refused():
    ids, mask = padded([1, START, VIDEO, VIDEO, 2])
    with pytest.raises(ValueError, match="video"):
        inputs.position_ids(ids, mask, image_token_id=IMAGE, video_token_id=VIDEO)


def test_it_imports_numpy_only():
    tree = ast.parse(Path(inputs.__file__).read_text(encoding="utf-8"))
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert names == {"numpy", "__future__", "collections.abc"}
