"""The four filters of two against the filter of eight written as matrices, and what it foretells."""

import numpy as np

from aweigh.tracking.motion import begun, boxes_of, corrected, predicted


def textbook(boxes: np.ndarray) -> np.ndarray:
    """The box `[4]` that Kalman's equations expect after these, `[F, 4]` xyxy, with the noise of DeepSORT's code."""

    def measured(box: np.ndarray) -> np.ndarray:
        width, height = box[2:] - box[:2]
        return np.array([*(box[:2] + box[2:]) / 2, width / height, height])

    first = measured(boxes[0])
    height = first[3]
    mean = np.concatenate([first, np.zeros(4)])
    deviations = [height / 10, height / 10, 1e-2, height / 10, height / 16, height / 16, 1e-5, height / 16]
    covariance = np.diag(np.square(deviations))
    moves, shows = np.eye(8) + np.eye(8, k=4), np.eye(4, 8)
    for box in [*boxes[1:], None]:
        height = mean[3]
        noise = [height / 20, height / 20, 1e-2, height / 20, height / 160, height / 160, 1e-5, height / 160]
        mean = moves @ mean
        covariance = moves @ covariance @ moves.T + np.diag(np.square(noise))
        if box is not None:
            height = mean[3]
            seen = shows @ covariance @ shows.T + np.diag(np.square([height / 20, height / 20, 1e-1, height / 20]))
            gain = covariance @ shows.T @ np.linalg.inv(seen)
            mean = mean + gain @ (measured(box) - shows @ mean)
            covariance = covariance - gain @ seen @ gain.T
    x, y, shape, height = mean[:4]
    return np.array([x - shape * height / 2, y - height / 2, x + shape * height / 2, y + height / 2])


def test_it_is_kalmans_filter_of_eight_numbers() -> None:
    random = np.random.default_rng(0)
    corners = np.cumsum(random.normal(4, 3, (12, 2, 2)), axis=0) + random.uniform(0, 300, (1, 2, 2))
    sides = random.uniform(20, 60, (12, 2, 2))
    boxes = np.concatenate([corners, corners + sides], axis=2)  # [12 frames, 2 objects, 4]
    states = begun(boxes[0])
    for frame in boxes[1:]:
        states = corrected(predicted(states), frame)
    expected = boxes_of(predicted(states))
    for number in range(2):
        np.testing.assert_allclose(expected[number], textbook(boxes[:, number]), rtol=1e-9)


def test_what_moves_steadily_is_expected_where_it_will_be() -> None:
    states = begun(np.array([[10.0, 20, 50, 100]]))
    for frame in range(1, 30):
        states = corrected(predicted(states), np.array([[10.0 + 5 * frame, 20, 50 + 5 * frame, 100]]))
    for _ in range(6):
        states = predicted(states)
    np.testing.assert_allclose(boxes_of(states), [[185, 20, 225, 100]], atol=1.5)


def test_a_box_without_height_is_an_ordinary_one() -> None:
    states = corrected(predicted(begun(np.array([[5.0, 5, 5, 5], [0, 3, 40, 3]]))), np.array([[6.0, 5, 6, 5]] * 2))
    assert np.isfinite(states).all()
    assert np.isfinite(boxes_of(predicted(begun(np.zeros((0, 4)))))).all()
