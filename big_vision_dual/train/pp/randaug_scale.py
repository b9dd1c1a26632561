"""RandAugment's operations by name, and how strong each is at a magnitude. No TensorFlow, no JAX."""

from __future__ import annotations

import dataclasses

FILL = 128  # grey level of what is uncovered or cut out
SCALE = 10
ADD_BELOW = 128  # SolarizeAdd brightens grey levels under this
NAMES = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "Color", "Contrast", "Brightness",
    "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout", "SolarizeAdd",
)  # fmt: skip
"""In the order that they are drawn by."""


@dataclasses.dataclass(frozen=True)
class Strength:
    """What the operations do at a magnitude, of which 10 is AutoAugment's strongest (arXiv 1805.09501, table 6)."""

    magnitude: float

    @property
    def level(self) -> float:
        return self.magnitude / SCALE

    @property
    def factor(self) -> float:
        """Of Color, Contrast, Brightness, Sharpness: 0 gives what they degenerate to, 1 the image."""
        return self.level * 1.8 + 0.1

    @property
    def degrees(self) -> float:
        return self.level * 30.0

    @property
    def shear(self) -> float:
        """Pixels sideways per pixel."""
        return self.level * 0.3

    @property
    def shift(self) -> int:
        """Pixels of a translation."""
        return round(self.level * 100)

    @property
    def half(self) -> int:
        """Pixels, half the side of Cutout's square."""
        return int(self.level * 40)

    @property
    def addition(self) -> int:
        """Grey levels."""
        return min(int(self.level * 110), 255)

    @property
    def bits(self) -> int:
        """That Posterize keeps."""
        return max(8 - round(self.level * 4), 1)

    @property
    def threshold(self) -> int:
        """From which Solarize inverts; 256 changes nothing."""
        return max(256 - int(self.level * 256), 0)
