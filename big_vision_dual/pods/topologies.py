"""TPU slices by the names Google Cloud gives them, with the published peaks of each chip.

Google counts TensorCores in the names of v3, v4 and v5p slices (a v4-32 has 16 chips) and chips in those of
v5e and v6e. JAX sees one device per TensorCore on v3 and one device per chip on all later kinds.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from big_vision_dual.train.throughput import PEAK_FLOPS

GIB = 2**30


class TopologyError(ValueError):
    """A slice name that names no slice."""


@dataclass(frozen=True)
class Chip:
    """Published peaks of one chip: HBM bytes and bytes/s, one-way bytes/s of one ICI link.

    device_kind: JAX's name of its devices, of which there are `devices` in a chip.
    """

    kind: str
    device_kind: str
    hbm_bytes: int
    hbm_bandwidth: float
    link_bandwidth: float
    links: int
    cores_in_name: int
    devices: int
    accelerator: str
    runtime: str
    source: str

    @property
    def flops(self) -> float:
        """bf16 FLOP/s."""
        return self.devices * PEAK_FLOPS[self.device_kind]


_CLOUD = "https://cloud.google.com/tpu/docs/"
_TPU_V4_PAPER = "Jouppi et al. 2023, arXiv:2304.01433, table 4 (links)"

_UBUNTU = "tpu-ubuntu2204-base"

# Google publishes ICI as both directions of all links of a chip: v5e 400 GB/s over 4, v5p 1200 over 6, v6e 800 over 4.
# `runtime` is the software version of https://cloud.google.com/tpu/docs/runtimes, section "PyTorch and JAX".
CHIPS = {
    chip.kind: chip
    for chip in (
        Chip("v3", "TPU v3", 32 * GIB, 900e9, 70e9, 4, 2, 2, "v3", _UBUNTU, f"{_CLOUD}v3; {_TPU_V4_PAPER}"),
        Chip("v4", "TPU v4", 32 * GIB, 1200e9, 50e9, 6, 2, 1, "v4", _UBUNTU, f"{_CLOUD}v4; {_TPU_V4_PAPER}"),
        Chip("v5e", "TPU v5 lite", 16 * GIB, 819e9, 50e9, 4, 1, 1, "v5litepod", "v2-alpha-tpuv5-lite", f"{_CLOUD}v5e"),
        Chip("v5p", "TPU v5p", 95 * GIB, 2765e9, 100e9, 6, 2, 1, "v5p", "v2-alpha-tpuv5", f"{_CLOUD}v5p"),
        Chip("v6e", "TPU v6 lite", 32 * GIB, 1638e9, 100e9, 4, 1, 1, "v6e", "v2-alpha-tpuv6e", f"{_CLOUD}v6e"),
    )
}

_TORUS_2D = {4: (2, 2), 16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16), 256: (16, 16), 512: (16, 32), 1024: (32, 32)}
_TORUS_3D = {
    4: (2, 2, 1),
    8: (2, 2, 2),
    16: (2, 2, 4),
    32: (2, 4, 4),
    64: (4, 4, 4),
    128: (4, 4, 8),
    256: (4, 8, 8),
    512: (8, 8, 8),
    1024: (8, 8, 16),
    2048: (8, 16, 16),
}
_LITE = {8: (2, 4)} | {chips: shape for chips, shape in _TORUS_2D.items() if chips <= 256}
_SHAPES = {"v3": _TORUS_2D, "v4": _TORUS_3D, "v5e": _LITE, "v5p": _TORUS_3D, "v6e": _LITE}


@dataclass(frozen=True)
class Slice:
    """A slice: its chip, the shape of its chip grid, and the counts that follow from them."""

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def devices(self) -> int:
        """Devices as JAX counts them."""
        return self.chips * self.chip.devices

    @property
    def hosts(self) -> int:
        """VMs: four chips each; the single-host v5e-8 and v6e-8 have eight."""
        return 1 if len(self.shape) == 2 and self.chips <= 8 else max(1, self.chips // 4)

    @property
    def accelerator_type(self) -> str:
        """The value of gcloud's --accelerator-type: v5e-16 is called v5litepod-16 there."""
        return f"{self.chip.accelerator}-{self.chips * self.chip.cores_in_name}"

    @property
    def hbm_per_device(self) -> int:
        return self.chip.hbm_bytes // self.chip.devices

    @property
    def ici_bandwidth(self) -> float:
        """One-way bytes/s out of a chip over the links that this shape connects: one along an axis of two chips."""
        links = sum(0 if extent == 1 else 1 if extent == 2 else 2 for extent in self.shape)
        return links * self.chip.link_bandwidth


def known() -> list[str]:
    """Every slice name that `parse` understands."""
    return [
        f"{kind}-{chips * CHIPS[kind].cores_in_name}" for kind, shapes in _SHAPES.items() for chips in sorted(shapes)
    ]


def parse(name: str) -> Slice:
    """'v4-32' -> its slice; 'v5litepod-16' is accepted for 'v5e-16'."""
    kind, _, count = name.replace("v5litepod-", "v5e-").partition("-")
    shapes = _SHAPES.get(kind)
    if shapes is None or not count.isdigit():
        raise TopologyError(f"no TPU slice {name!r}; possible: {', '.join(known())}.")
    chips, odd_core = divmod(int(count), CHIPS[kind].cores_in_name)
    if odd_core or chips not in shapes:
        possible = [option for option in known() if option.startswith(f"{kind}-")]
        raise TopologyError(f"no {kind} slice of size {count}; possible: {', '.join(possible)}.")
    return Slice(f"{kind}-{count}", CHIPS[kind], shapes[chips])


def devices(tpu: Slice) -> list:
    """The slice's devices as the TPU compiler describes them; needs libtpu, but no TPU.

    Raises `TopologyError` when libtpu is not installed.
    """
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no metadata server to ask for a TPU
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # compiling claims no TPU: two may compile at once
    options = {"chip_config_name": "megacore"} if tpu.chip.kind == "v4" else {}
    shape = "x".join(map(str, tpu.shape))
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=f"{tpu.chip.kind}:{shape}", **options)
    except (RuntimeError, NotImplementedError) as error:
        raise TopologyError(
            f"the TPU compiler does not describe {tpu.name} ({shape}): {error} "
            "If libtpu is missing: `pip install 'big_vision_dual[preflight]'`."
        ) from error
    if len(described.devices) != tpu.devices:
        raise TopologyError(
            f"{tpu.name}: the TPU compiler describes {len(described.devices)} devices, not {tpu.devices}."
        )
    return list(described.devices)
