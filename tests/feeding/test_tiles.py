"""Tiles of a split: which there are, what is in sight in each, how they are drawn, and how they are cut."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.annotated import Make, coco_dict

from aweigh.annotations.images import read_as_annotated
from aweigh.annotations.split import NEVER_LABELLED, Split
from aweigh.feeding import tiles
from aweigh.feeding.dataset import DetectionDataset, Sample
from aweigh.feeding.loader import make_loader
from aweigh.feeding.sampling import Sampling, epoch_length
from aweigh.feeding.tiles import ImageByImage, KeptImages, TileRows
from aweigh.feeding.transforms import Augmentation, Transform
from aweigh.geometry.tiles import Tiles
from aweigh.images.reader import read_image
from aweigh.images.resize import Resize
from aweigh.layouts.load import load_split

TILES = Tiles(64, 0.25)
AS_IT_IS = Transform(Resize(None, None), tile=64)
SIZES_WH = {1: (200, 120), 2: (40, 30)}
# x, y, width, height: across the first seam, whole in the first tile, by a tenth in it, in the last one.
BOXES: list[list[float]] = [[40, 10, 20, 10], [5, 20, 12, 12], [62, 40, 20, 20], [150, 90, 15, 20]]


def mosaic(coco: Make, *, masks: bool = False) -> Split:
    """One image of noise with the boxes, and one smaller than a tile without any."""
    data = coco_dict(BOXES)
    data["images"] = [
        {"id": number, "file_name": f"{number}.png", "width": width, "height": height}
        for number, (width, height) in SIZES_WH.items()
    ]
    if masks:
        for entry in data["annotations"]:
            x, y, w, h = entry["bbox"]
            entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    root = coco(data)
    random = np.random.default_rng(0)
    for number, (width, height) in SIZES_WH.items():
        noise = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / "images" / f"{number}.png")
    return load_split(root)


def samples(data: DetectionDataset) -> list[Sample]:
    found = [data[row] for row in range(len(data))]
    readable = [one for one in found if isinstance(one, Sample)]
    assert len(readable) == len(found)
    return readable


def test_each_tile_is_the_window_it_says_with_what_is_in_sight(coco: Make) -> None:
    split = mosaic(coco)
    rows = TileRows.of(split, TILES)
    data = DetectionDataset(split, AS_IT_IS, tiles=rows)
    pixels = [read_image(path) for path in split.paths]
    assert len(rows) == len(data) == 4 * 3 + 1 and rows.image_of.tolist() == [0] * 12 + [1]
    for row, sample in enumerate(samples(data)):
        x0, y0, x1, y1 = rows.windows[row].tolist()
        expected = pixels[rows.image_of[row]][y0:y1, x0:x1]
        assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), expected)
        assert sample.original_hw == expected.shape[:2] and sample.index == row
        assert len(sample.targets) == rows.counts[row]
        boxes = sample.targets.boxes.numpy() + np.array([x0, y0, x0, y0])
        whole = split.boxes[sample.targets.ids.numpy() - 10]
        np.testing.assert_allclose(boxes, whole.clip([x0, y0] * 2, [x1, y1] * 2))
        learned = sample.targets.labels[sample.targets.learned].numpy()
        assert np.flatnonzero(rows.shows[row]).tolist() == np.unique(learned).tolist()


def test_what_is_seen_too_little_of_is_neither_learned_nor_background(coco: Make) -> None:
    split = mosaic(coco)
    for share, ignored in ((0.25, [False, False, True]), (0.05, [False, False, False])):  # a tenth of the third is seen
        data = DetectionDataset(split, AS_IT_IS, tiles=TileRows.of(split, TILES, min_visible=share))
        targets = samples(data)[0].targets
        assert targets.ids.tolist() == [10, 11, 12] and targets.ignore.tolist() == ignored


def test_masks_and_keypoints_are_cut_with_their_tile(coco: Make) -> None:
    split = mosaic(coco, masks=True)
    data = DetectionDataset(split, AS_IT_IS, tiles=TileRows.of(split, TILES), masks=True, keypoints=2)
    for sample in samples(data):
        targets = sample.targets
        assert targets.masks is not None and targets.masks.shape[1:] == sample.image.shape[1:]
        assert targets.keypoints is not None and targets.keypoints.shape == (len(targets), 2, 3)
        for (x0, y0, x1, y1), mask in zip(targets.boxes.int().tolist(), targets.masks, strict=True):
            assert mask[y0:y1, x0:x1].all() and int(mask.sum()) == (x1 - x0) * (y1 - y0)


def test_an_image_in_another_size_than_annotated_is_cut_where_its_objects_are(coco: Make) -> None:
    split = mosaic(coco, masks=True)
    path = split.paths[0]
    Image.open(path).resize((400, 240)).save(path)
    data = DetectionDataset(split, AS_IT_IS, tiles=TileRows.of(split, TILES), masks=True)
    sample = samples(data)[0]
    assert sample.image.shape == (3, 128, 128) and sample.problem is not None and sample.original_hw == (64, 64)
    assert sample.targets.boxes[0].tolist() == [80, 20, 120, 40]
    assert sample.targets.masks is not None and sample.targets.masks[0, 20:40, 80:120].all()


def test_every_tile_is_resized_as_a_whole_one(coco: Make) -> None:
    split = mosaic(coco)
    rows = TileRows.of(split, TILES)
    data = DetectionDataset(split, Transform(Resize(96, None), tile=64), tiles=rows)
    assert [tuple(one.image.shape[1:]) for one in samples(data)] == [(96, 96)] * 12 + [(45, 60)]
    drawn = Transform(Resize(96, None), Augmentation(short_sides=(32, 128, 160)), 64)
    first = [DetectionDataset(split, drawn, tiles=rows, seed=seed)[0] for seed in range(12)]
    sides = {tuple(sample.image.shape[1:]) for sample in first if isinstance(sample, Sample)}
    assert sides == {(32, 32), (128, 128), (160, 160)} and drawn.largest_resize.size_for(64, 64) == (160, 160)


def test_empty_tiles_make_up_their_share_of_an_epoch(coco: Make) -> None:
    split = mosaic(coco)
    rows = TileRows.of(split, TILES)
    showing = int(rows.shows.any(axis=1).sum())
    all_others = len(rows) - showing
    for share, others in ((0, 0), (0.25, round(showing / 3)), (0.5, min(showing, all_others)), (1, all_others)):
        draws = Sampling(empty_tiles=share).draws_of_tiles(rows, split.classes.names)
        loader = make_loader(DetectionDataset(split, AS_IT_IS, tiles=rows, draws=draws), batch=2, shuffle=True)
        assert epoch_length(len(rows), draws) == showing + others and len(loader) == -(-(showing + others) // 2)
        for epoch in range(3):
            loader.set_epoch(epoch)
            drawn = [row for batch in loader for row in batch.indices]
            assert len(drawn) == len(set(drawn)) == showing + others
            assert set(np.flatnonzero(rows.shows.any(axis=1))) <= set(drawn)


def test_a_sampler_goes_by_the_classes_of_tiles(coco: Make) -> None:
    split = mosaic(coco)
    split = replace(split, labels=np.array([0, 0, 0, 1]))
    rows = TileRows.of(split, TILES)
    draws = Sampling("class_aware", empty_tiles=0.5).draws_of_tiles(rows, split.classes.names)
    half = rows.shows.any(axis=1).sum() / 2
    assert [draws[rows.shows[:, label]].sum() for label in (0, 1)] == pytest.approx([half, half])
    told = Sampling("class_aware").describe(split, rows)
    assert told[0].startswith(f"{rows}; an epoch draws ") and told[1].startswith("sampler class_aware")


def test_images_nobody_labelled_teach_by_the_tiles_that_show_objects(coco: Make) -> None:
    split = mosaic(coco)
    unlabelled = replace(split, reviewed=np.full(2, NEVER_LABELLED, dtype=np.int8))
    rows = TileRows.of(unlabelled, TILES)
    teaching = rows.teaching(unlabelled)
    assert len(TileRows.of(split, TILES).teaching(split)) == len(rows) and (teaching.counts > 0).all()
    assert len(teaching) == (rows.counts > 0).sum() < len(rows)


@pytest.mark.parametrize("world", [1, 2])
def test_in_order_every_image_is_in_batches_of_its_own(coco: Make, world: int) -> None:
    rows = TileRows.of(mosaic(coco), TILES)
    of = [[*ImageByImage(rows, 5, rank, world)] for rank in range(world)]
    batches = [batch for own in of for batch in own]
    assert sorted(row for batch in batches for row in batch) == [*range(13)]
    assert sorted(map(len, batches)) == [1, 2, 5, 5] and len(ImageByImage(rows, 5)) == 4
    assert all(len({int(rows.image_of[row]) for row in batch}) == 1 for batch in batches)
    assert world == 1 or of[1] == [[12]]


def test_batches_of_tiles_are_the_same_with_workers(coco: Make) -> None:
    split = mosaic(coco)
    change = Augmentation(mosaic=0.5, color=0.3)
    data = DetectionDataset(split, Transform(Resize(48, None), change, 64), tiles=TileRows.of(split, TILES), seed=3)
    alone = make_loader(data, batch=4, shuffle=True)
    workers = make_loader(data, batch=4, shuffle=True, workers=1, start_method="fork")
    for one, other in zip(alone, workers, strict=True):
        assert one.indices == other.indices and torch.equal(one.images.pixels, other.images.pixels)


def test_an_image_that_cannot_be_read_is_one_problem(coco: Make) -> None:
    split = mosaic(coco)
    Path(split.paths[0]).write_bytes(b"no image")
    loader = make_loader(DetectionDataset(split, AS_IT_IS, tiles=TileRows.of(split, TILES)), batch=4, max_bad=0.5)
    assert [batch.blank for batch in loader] == [True] * 3 + [False]
    assert loader.unread == [0] and len(loader.problems) == 1


def test_images_are_kept_up_to_a_limit(coco: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counting(path: Path, declared_hw: tuple[int, int]) -> object:
        read.append(path.name)
        return read_as_annotated(path, declared_hw)

    monkeypatch.setattr(tiles, "read_as_annotated", counting)
    split = mosaic(coco)
    sizes = [(int(height), int(width)) for height, width in split.sizes_hw]
    for limit, expected in ((1 << 20, ["1.png", "2.png"]), (1000, ["1.png", "2.png", "1.png"])):
        read.clear()
        kept = KeptImages(limit)
        for row in (0, 0, 1, 0, 0):
            kept.read(split.paths[row], sizes[row])
        assert read == expected
