"""Where objects will be: a Kalman filter of constant velocity over their boxes, as SORT and its successors have it.

A box is four values `(x, y, a, h)`: its middle, its width by its height, and its height (Wojke et al. 2017, section
2.1), each with a velocity of its own. So the filter of eight numbers is four filters of two, written out here. How much
in doubt values, velocities and what is seen are is a share of the height, 1/20 and 1/160 (DeepSORT's code).

states: `[T, 5, 4]` float64 of T objects: `(x, y, a, h)`, their velocities in a frame, the variance of the values, the
covariance of each with its velocity, and the variance of the velocities.
"""

from __future__ import annotations

import numpy as np

VALUE, VELOCITY = 1 / 20, 1 / 160  # shares of the height
SHAPE, SHAPE_VELOCITY, SHAPE_SEEN = 1e-2, 1e-5, 1e-1  # of width by height, for objects of any size
FLATTEST = 1.0  # pixels, ours: the height that a flatter box is taken for, so that its shape is a number


def begun(boxes: np.ndarray) -> np.ndarray:
    """The states of objects at rest at these boxes, `[T, 4]` xyxy in pixels."""
    values = _values(boxes)
    still = np.zeros_like(values)
    variance, velocity_variance = _variance(values, 2 * VALUE, SHAPE), _variance(values, 10 * VELOCITY, SHAPE_VELOCITY)
    return np.stack([values, still, variance, still, velocity_variance], axis=1)  # [T, 5, 4]


def predicted(states: np.ndarray) -> np.ndarray:
    """The same a frame later."""
    values, velocities, variance, covariance, velocity_variance = states.transpose(1, 0, 2)
    return np.stack(
        [
            values + velocities,
            velocities,
            variance + 2 * covariance + velocity_variance + _variance(values, VALUE, SHAPE),
            covariance + velocity_variance,
            velocity_variance + _variance(values, VELOCITY, SHAPE_VELOCITY),
        ],
        axis=1,
    )


def corrected(states: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The same after the objects were seen at these boxes, `[T, 4]` xyxy in pixels."""
    values, velocities, variance, covariance, velocity_variance = states.transpose(1, 0, 2)
    total = variance + _variance(values, VALUE, SHAPE_SEEN)
    gain, velocity_gain = variance / total, covariance / total
    missed = _values(boxes) - values
    return np.stack(
        [
            values + gain * missed,
            velocities + velocity_gain * missed,
            variance - gain * variance,
            covariance - gain * covariance,
            velocity_variance - velocity_gain * covariance,
        ],
        axis=1,
    )


def boxes_of(states: np.ndarray) -> np.ndarray:
    """`[T, 4]` float64 xyxy in pixels."""
    x, y, shape, height = states[:, 0].T
    half_width, half_height = shape * height / 2, height / 2
    return np.stack([x - half_width, y - half_height, x + half_width, y + half_height], axis=1)


def _values(boxes: np.ndarray) -> np.ndarray:
    """`[T, 4]` xyxy as `(x, y, a, h)`, float64."""
    x0, y0, x1, y1 = boxes.astype(np.float64).T
    height = np.maximum(y1 - y0, FLATTEST)
    return np.stack([(x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / height, height], axis=1)


def _variance(values: np.ndarray, share: float, of_shape: float) -> np.ndarray:
    """`[T, 4]`, how much each of `(x, y, a, h)` is in doubt: a share of the height, and a number for the shape."""
    by_height = share * np.maximum(values[:, 3], FLATTEST)
    return np.stack([by_height, by_height, np.full_like(by_height, of_shape), by_height], axis=1) ** 2
