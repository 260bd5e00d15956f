"""What `aweigh.export` writes, and that it is the detector."""

import numpy as np

import aweigh


def test_the_file_finds_what_the_detector_finds(small_detector, small_graph):
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    ours, theirs = (aweigh.load(path)(image, score=0) for path in (small_detector, small_graph))
    assert len(ours) > 20 and len(set(ours.labels.tolist())) > 1
    np.testing.assert_allclose(theirs.boxes, ours.boxes, atol=0.01)
    np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-4)
    assert theirs.labels.tolist() == ours.labels.tolist()
