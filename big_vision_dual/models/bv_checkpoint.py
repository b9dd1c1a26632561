"""Checkpoints as Big Vision's trainer writes them: a folder with a zarr array a leaf, its path with '~' for '/'.

checkpoint.bv-000001000 is one of them; checkpoint.bv-LAST holds the ending of the newest (google-research/big_vision,
utils.py, save_checkpoint_ts).
"""

from __future__ import annotations

import re

import numpy as np

from big_vision_dual.core import files

_SPEC = re.compile(r"(.*checkpoint\.bv[^:/]*)/?(?::(.+))?")
_PARAMS = "params~"


def parse(spec: str) -> tuple[str, str | None] | None:
    """'W/checkpoint.bv[-STEP][:SUBMODEL]' -> (folder or its beginning, submodel); None for anything else."""
    match = _SPEC.fullmatch(spec)
    return (match[1], match[2]) if match else None


def read(path: str) -> dict[str, np.ndarray]:
    """{path: array} of the parameters of a checkpoint; 'W/checkpoint.bv' is the newest of W.

    Raises FileNotFoundError naming the checkpoints that are there.
    """
    import tensorstore
    from etils import epath

    last = epath.Path(f"{path}-LAST")
    folder = epath.Path(f"{path}-{files.read(last).strip()}" if last.exists() else path)
    names = [leaf.name for leaf in folder.iterdir() if leaf.name.startswith(_PARAMS)] if folder.is_dir() else []
    if not names:
        beside = folder.parent.iterdir() if folder.parent.exists() else ()
        near = sorted(other.name for other in beside if other.name.startswith("checkpoint.bv-") and other.is_dir())
        raise FileNotFoundError(f"no checkpoint {folder} with parameters; there: {', '.join(near) or 'none'}.")

    def opened(name: str) -> tensorstore.Future:
        where = str(folder / name)
        url = where if "://" in where else f"file://{epath.Path(where).resolve()}"
        return tensorstore.open({"driver": "zarr", "kvstore": url}, read=True, open=True)

    arrays = {name: opened(name) for name in names}
    reads = {name: array.result().read() for name, array in arrays.items()}
    return {name.removeprefix(_PARAMS).replace("~", "/"): np.asarray(done.result()) for name, done in reads.items()}
