"""Steels and microscopes drawn at random, wider than any one laboratory sees them.

A network that is to segment micrographs that nobody annotated must not learn one steel and one detector
setting. Every number in ``STEEL``, ``MADE``, ``LARGE`` and ``LOOK`` is drawn from a range around what is
known of reactor-pressure-vessel steel (`carde_monai.synthetic` has two of that kind), far to both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from carde_monai.synthetic import Shape, Steel

PIXEL_SIZES_UM = (0.003, 0.025)
_ASPECTS = {"ellipse": (1.0, 1.8), "rod": (1.6, 3.2), "peanut": (1.7, 2.6), "plate": (3.0, 9.0)}
ASPECTS: Mapping[str, tuple[float, float]] = _ASPECTS | {"chain": (1.2, 3.0), "lobed": (1.0, 1.8)}
CARBIDES_PER_MEGAPIXEL = 5000  # at most: more of them are too small to be told apart, and slow


class Range(NamedTuple):
    """Limits of a number; ``log``: its logarithm is uniform between them."""

    low: float
    high: float
    log: bool = False

    def draw(self, rng: np.random.Generator) -> float:
        """One number."""
        if self.log:
            return float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))
        return float(rng.uniform(self.low, self.high))


@dataclass(frozen=True)
class RandomSteel(Steel):
    """A steel with the carbides that :class:`Steel` lacks: large bodies side by side, films on boundaries."""

    gap_px: float = 3.0  # free matrix between two carbides; below 0 they may touch
    crowd_share: float = 0.0  # share of cells that a large body fills; 0: none at all
    crowd_size_um: float = 0.5
    crowd_channel_um: float = 0.05  # matrix between two of them
    film_um: float = 0.0  # thickness of films on grain boundaries; 0: none
    film_share: float = 0.5  # of the length of the boundaries


@dataclass(frozen=True)
class Look:
    """One look through a microscope, and the hand that labelled it. Pairs are (SE2, InLens)."""

    detectors: int = 2
    mix: float = 0.0  # of one detector: 0 sees as SE2 does, 1 as InLens
    gamma: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)  # brightness knob, greys; large ones saturate
    astigmatism: float = 1.0  # ratio of the two widths of the focus
    astigmatism_angle: float = 0.0
    body_spread: float = 0.1  # relative, of the greys of carbides
    halo: tuple[float, float] = (0.0, 0.0)  # outside the edge, of the carbide's grey
    halo_px: float = 2.0
    boundary_grey: float = 0.0  # lines between grains, bright or dark
    texture: float = 0.0  # fine relief of the matrix, of the carbides' grey
    texture_px: float = 3.0
    jitter_px: float = 0.0  # of rows, one to the next
    drift_px: float = 0.0  # of rows, over the frame
    charging: float = 0.0  # streaks beside bright bodies, of their grey; dark if negative
    charging_px: float = 60.0
    scratches: float = 0.0  # mean number
    scratch_grey: float = 8.0
    stains: float = 0.0  # mean number of dark clouds
    dark_frame: float = 0.0  # greys that an earlier scan's rectangle is darker
    scan_width_px: float = 0.0  # the amplifier smears noise along the scan
    legend_px: float = 0.0  # height of the text of a burnt-in scale bar; 0: none
    label_bias_px: float = 0.0  # of all outlines
    label_wander_px: float = 2.0  # length over which an outline wanders


# fields of Steel, in its units
STEEL: Mapping[str, Range] = MappingProxyType(
    {
        "pixel_size_um": Range(*PIXEL_SIZES_UM, log=True),
        "ecd_sigma": Range(0.25, 0.8),
        "roughness": Range(0.02, 0.22),
        "rim_width_um": Range(0.007, 0.030, log=True),
        "grey_follows_matrix": Range(0.0, 1.0),
        "small_boost": Range(0.0, 1.0),
        "grain_size_um": Range(1.0, 8.0, log=True),
        "cell_size_um": Range(0.25, 1.6, log=True),
        "bright_grains": Range(0.0, 0.45),  # every other region only
        "mottle_grey": Range(0.0, 4.5),
        "ghosts_per_um2": Range(0.0, 4.5),
        "pores_per_um2": Range(0.0, 1.5),
        "line_noise_grey": Range(0.0, 2.2),
        "shading": Range(0.0, 0.07),
        "glow_grey": Range(0.0, 16.0),
        "label_noise_px": Range(0.0, 0.8),
        "label_bias_px": Range(0.0, 0.4),
    }
)
# what fields of Steel are made from
MADE: Mapping[str, Range] = MappingProxyType(
    {
        "area_fraction": Range(0.004, 0.40, log=True),  # of carbides laid one by one
        "ecd_median_px": Range(3.0, 36.0, log=True),
        "ecd_median_um": Range(0.015, 0.6),  # clips the above
        "contrast": Range(14.0, 110.0, log=True),  # SE2: carbide above matrix, greys
        "interior": Range(-0.15, 0.9),  # InLens: of that contrast; below 0 darker than the matrix
        "rim": Range(0.3, 1.8),  # InLens: of that contrast, further at the rim
        "rim_se2": Range(-0.1, 0.35),
        "shadow": Range(0.0, 0.6),
        "grain_contrast": Range(0.8, 28.0, log=True),  # SE2: standard deviation of grain greys
        "contrast_to_noise": Range(2.2, 40.0, log=True),  # contrast in units of the matrix noise
        "noise_px": Range(0.0, 1.1),
        "blur_px": Range(0.35, 2.2, log=True),
        "matrix_grey": Range(55.0, 185.0),
        "gain": Range(0.85, 1.2),
    }
)
# of `RandomSteel`; lengths in pixels
LARGE: Mapping[str, Range] = MappingProxyType(
    {
        "gap": Range(-0.5, 4.0),
        "crowd_share": Range(0.3, 1.0),
        "crowd_size": Range(26.0, 180.0),
        "crowd_channel": Range(0.06, 0.4),  # of that size, 3 px at least
        "film": Range(4.0, 40.0, log=True),
        "film_share": Range(0.2, 1.0),
    }
)
LOOK: Mapping[str, Range] = MappingProxyType(
    {
        "mix": Range(0.0, 1.0),
        "gamma": Range(0.7, 1.45, log=True),
        "offset": Range(-30.0, 30.0),
        "astigmatism": Range(1.0, 1.5),
        "astigmatism_angle": Range(0.0, np.pi),
        "body_spread": Range(0.05, 0.30),
        "halo": Range(-0.8, 0.35),
        "halo_px": Range(1.2, 6.0, log=True),
        "boundary_grey": Range(-45.0, 45.0),
        "texture": Range(0.02, 0.2),
        "texture_px": Range(1.5, 9.0, log=True),
        "jitter_px": Range(0.05, 0.5),
        "drift_px": Range(0.5, 6.0),
        "charging": Range(-0.5, 0.5),
        "charging_px": Range(8.0, 90.0, log=True),
        "scratches": Range(0.5, 5.0),
        "scratch_grey": Range(3.0, 30.0, log=True),
        "stains": Range(0.5, 4.0),
        "dark_frame": Range(4.0, 35.0),
        "scan_width_px": Range(0.3, 1.6),
        "legend_px": Range(8.0, 28.0, log=True),
        "label_bias_px": Range(-0.7, 0.9),
        "label_wander_px": Range(1.5, 4.0),
    }
)
# how often a frame has what most frames lack
CHANCES: Mapping[str, float] = MappingProxyType(
    {
        "crowd": 0.15,  # no grain is bright there
        "film": 0.12,
        "one_detector": 0.4,
        "gamma": 0.5,
        "offset": 0.25,
        "halo": 0.5,
        "boundary_grey": 0.5,
        "texture": 0.4,
        "jitter_px": 0.2,
        "drift_px": 0.2,
        "charging": 0.2,
        "scratches": 0.2,
        "stains": 0.12,
        "dark_frame": 0.07,
        "scan_width_px": 0.35,
        "legend_px": 0.05,
    }
)


def random_steel(
    rng: np.random.Generator, pixel_size_um: tuple[float, float] = PIXEL_SIZES_UM
) -> RandomSteel:
    """A steel of which everything is drawn from ``STEEL`` and ``MADE``; pixel sizes from the limits given.

    Sizes in micrometres are kept inside what pixels of that size can show: carbides of 2.2 to 150 px.
    """
    drawn: dict[str, Any] = {name: limits.draw(rng) for name, limits in STEEL.items()}
    pixel = drawn["pixel_size_um"] = Range(*pixel_size_um, log=True).draw(rng)
    drawn["cell_size_um"] = max(drawn["cell_size_um"], 24 * pixel)
    drawn["grain_size_um"] = max(drawn["grain_size_um"], 2 * drawn["cell_size_um"])
    # as many as a frame of 640 px shows well, however large the pixels
    for name in ("ghosts_per_um2", "pores_per_um2"):
        drawn[name] = min(drawn[name], 4e-4 / pixel**2)
    drawn |= _large(rng, pixel)
    crowded = "crowd_share" in drawn
    drawn |= _carbides(rng, pixel, drawn["ecd_sigma"], crowded)
    return RandomSteel(
        **drawn | random_greys(rng, pixel, crowded),
        grain_kinds=tuple(rng.dirichlet((1, 1, 1)).tolist()),
    )


def _large(rng: np.random.Generator, pixel: float) -> dict[str, float]:
    """Fields of the bodies that are not laid one by one; many steels have none."""
    made = {name: limits.draw(rng) for name, limits in LARGE.items()}
    drawn = {"gap_px": made["gap"]}
    if rng.random() < CHANCES["crowd"]:
        channel = max(3.0, made["crowd_size"] * made["crowd_channel"])
        drawn |= {"crowd_share": made["crowd_share"], "crowd_size_um": made["crowd_size"] * pixel}
        drawn |= {"crowd_channel_um": channel * pixel}
    elif rng.random() < CHANCES["film"]:
        drawn |= {"film_um": made["film"] * pixel, "film_share": made["film_share"]}
    return drawn


def _carbides(rng: np.random.Generator, pixel: float, sigma: float, crowded: bool) -> dict[str, Any]:
    """Number, sizes and shapes of the carbides that are laid one by one."""
    median = MADE["ecd_median_px"].draw(rng) * (0.4 if crowded else 1.0)
    low, high = max(2.2 * pixel, 0.008), min(150 * pixel, 2.5)
    least, most, _ = MADE["ecd_median_um"]
    median = float(np.clip(median * pixel, max(least, 1.2 * low), most))
    fraction = MADE["area_fraction"].draw(rng) * (0.4 if crowded else 1.0)
    density = fraction / (np.pi / 4 * median**2 * np.exp(2 * sigma**2))  # mean of the square of a log-normal
    shares = rng.dirichlet(np.full(len(ASPECTS), 0.7))
    spread = rng.uniform(0.85, 1.3, len(ASPECTS))  # of the range of aspects
    return {
        "ecd_median_um": median,
        "ecd_min_um": low,
        "ecd_max_um": max(high, 1.5 * median),
        "density_per_um2": float(min(density, CARBIDES_PER_MEGAPIXEL * 1e-6 / pixel**2)),
        "shapes": tuple(
            Shape(name, float(share), *(1 + (aspect - 1) * wide for aspect in ASPECTS[name]))
            for name, share, wide in zip(ASPECTS, shares, spread.tolist(), strict=True)
        ),
    }


def random_greys(rng: np.random.Generator, pixel_size_um: float, crowded: bool = False) -> dict[str, Any]:
    """The fields of `Steel` that tell greys, sharpness and noise, drawn anew.

    Noise and mottle follow from the contrast, so that what is labelled can be seen; a rim is no thinner than
    a pixel; and among large bodies (``crowded``) no grain is as bright as they are.
    """
    made = {name: limits.draw(rng) for name, limits in MADE.items()}
    contrast = made["contrast"]
    grain = min(made["grain_contrast"], 2.5 * contrast)
    interior = max(made["interior"], 0.4 - made["rim"])
    seen = np.array([contrast, contrast * (max(interior, 0) + made["rim"]) / 2])
    ratio = made["contrast_to_noise"] * np.exp(rng.normal(0, 0.2, 2))
    noise = tuple((seen / ratio.clip(MADE["contrast_to_noise"].low)).clip(0.5, 18.0).tolist())
    names = ("rim_width_um", "grey_follows_matrix", "small_boost", "bright_grains", "mottle_grey")
    names += ("line_noise_grey", "shading", "glow_grey", "label_noise_px", "label_bias_px")
    share = float(rng.uniform(0.2, 1.0))
    drawn = {name: STEEL[name].draw(rng) for name in names}
    # few carbides have the grey of the grain that they lie in
    follows = max(drawn["grey_follows_matrix"], 1 - 0.6 * contrast / (grain + 1))
    return drawn | {
        "grey_follows_matrix": follows,
        "mottle_grey": min(drawn["mottle_grey"], 0.15 * contrast, 0.7 * min(noise)),
        "rim_width_um": max(drawn["rim_width_um"], 1.1 * pixel_size_um),
        "line_noise_grey": min(drawn["line_noise_grey"], 0.6 * noise[0]),
        "bright_grains": 0.0 if crowded else drawn["bright_grains"],
        "carbide_grey": (contrast, interior * contrast),
        "rim_grey": (made["rim_se2"] * contrast, made["rim"] * contrast),
        "shadow_grey": (made["shadow"] * contrast, 0.3 * made["shadow"] * contrast),
        "grain_grey": (grain, share * grain),
        "cell_grey": (0.7 * share * grain, 0.7 * share**2 * grain),
        "matrix_grey": (made["matrix_grey"],) * 2,
        "noise_grey": noise,
        "noise_px": (made["noise_px"],) * 2,
        "blur_px": (made["blur_px"],) * 2,
        "gain": (made["gain"],) * 2,
    }


def regreyed(rng: np.random.Generator, steel: RandomSteel) -> RandomSteel:
    """The same steel with other `random_greys`: another microscope, another preparation."""
    return replace(steel, **random_greys(rng, steel.pixel_size_um, steel.crowd_share > 0))


def random_look(rng: np.random.Generator, one_detector: float = CHANCES["one_detector"]) -> Look:
    """Settings of the microscope and habits of the label, from ``LOOK`` and, where rare, ``CHANCES``."""

    def perhaps(name: str, *default: float) -> float | tuple[float, ...]:
        happens = rng.random() < CHANCES[name]
        drawn = tuple(LOOK[name].draw(rng) if happens else value for value in default)
        return drawn if len(default) > 1 else drawn[0]

    always = ("astigmatism", "astigmatism_angle", "body_spread", "halo_px", "texture_px", "charging_px")
    always += ("scratch_grey", "label_bias_px", "label_wander_px")
    sometimes = ("boundary_grey", "texture", "jitter_px", "drift_px", "charging", "scratches", "stains")
    sometimes += ("dark_frame", "scan_width_px", "legend_px")
    drawn: dict[str, Any] = {name: LOOK[name].draw(rng) for name in always}
    drawn |= {name: perhaps(name, 0.0) for name in sometimes}
    drawn |= {"gamma": perhaps("gamma", 1.0, 1.0), "offset": perhaps("offset", 0.0, 0.0)}
    drawn["halo"] = perhaps("halo", 0.0, 0.0)
    detectors = 1 if rng.random() < one_detector else 2
    # of one detector a third each: as SE2, as InLens, between
    mix = float(np.clip(3 * LOOK["mix"].draw(rng) - 1, 0, 1))
    return Look(**drawn, detectors=detectors, mix=mix)
