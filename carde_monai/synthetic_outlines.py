"""Outlines of synthetic carbides, and how deep inside one a pixel lies.

Lengths are pixels. Angles are radians from the column axis towards the row axis.
"""

from __future__ import annotations

import numpy as np

ANGLES = np.linspace(-np.pi, np.pi, 257)
POWERS = {"ellipse": 2.0, "lobed": 2.0, "chain": 2.2, "rod": 2.8, "plate": 3.0}  # of superellipses
WOBBLES = 5


def outline(rng: np.random.Generator, shape: str, aspect: float, roughness: float) -> np.ndarray:
    """Radius at ``ANGLES`` of a closed star-shaped outline with the area of the unit circle."""
    power = 0.0 if shape == "peanut" else rng.uniform(0, 0.6)
    height = rng.normal(0, 1, (WOBBLES, 1))
    return star(shape, aspect, power, height[:, 0], rng.uniform(0, 2 * np.pi, (WOBBLES, 1))[:, 0], roughness)


def star(
    shape: str,
    aspect: float | np.ndarray,
    power: float | np.ndarray,
    height: np.ndarray,
    phase: np.ndarray,
    roughness: float,
) -> np.ndarray:
    """Radii (N, 257) at ``ANGLES`` of star-shaped outlines with the area of the unit circle.

    ``aspect`` and ``power`` are (N, 1), or numbers: then (257,) comes back. Ellipses, blocky rods and plates
    are superellipses, peanuts are hippopedes; ``WOBBLES`` harmonics of ``height`` and ``phase`` (N, WOBBLES)
    make them irregular, lobed ones very much so.
    """
    cos, sin = np.cos(ANGLES), np.sin(ANGLES)
    if shape == "peanut":
        radius = np.sqrt((aspect * cos) ** 2 + sin**2)
    else:
        power = POWERS[shape] + power
        radius = (np.abs(cos / aspect) ** power + np.abs(sin) ** power) ** (-1 / power)
    order = np.arange(2, 2 + WOBBLES)[:, None]
    wobble = height[..., None] * np.cos(order * ANGLES + phase[..., None]) / order
    radius = radius * np.exp((roughness + 0.25 * (shape == "lobed")) * wobble.sum(-2))
    return radius / np.sqrt(np.mean(radius[..., :-1] ** 2, -1, keepdims=True))  # area = mean(r^2) * pi


def signed_depth(
    radius: np.ndarray, centre: tuple[float, float], angle: float, frame: tuple[int, int], margin: float
) -> tuple[slice, slice, np.ndarray]:
    """Signed distance (pixels, inside positive) to an outline on the window of ``frame`` around it.

    First-order: level function over the length of its gradient, exact at the outline, where it matters.
    """
    reach = radius.max() + margin
    r0, r1 = max(0, int(centre[0] - reach)), min(frame[0], int(centre[0] + reach) + 2)
    c0, c1 = max(0, int(centre[1] - reach)), min(frame[1], int(centre[1] + reach) + 2)
    dy = np.arange(r0, r1)[:, None] - centre[0]
    dx = np.arange(c0, c1)[None, :] - centre[1]
    distance = np.hypot(dy, dx)
    theta = np.arctan2(dy, dx) - angle
    theta = (theta + np.pi) % (2 * np.pi) - np.pi
    here = np.interp(theta, ANGLES, radius)
    slope = np.interp(theta, ANGLES, np.gradient(radius, ANGLES))
    # level function distance / r(theta) - 1; the length of its gradient is sqrt(1 + (r'/r)^2) / r
    depth = (here - distance) / np.sqrt(1 + (slope / here) ** 2)
    # nowhere deeper than the narrowest half width: the first order is wrong on the axis of a long plate
    return slice(r0, r1), slice(c0, c1), np.minimum(depth, radius.min()).astype(np.float32)
