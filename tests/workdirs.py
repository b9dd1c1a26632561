"""Workdirs as the trainer leaves them, without training."""

import json
import math
import pathlib
from typing import Any

from big_vision_dual.core import tables
from big_vision_dual.models import norm_trees

CONFIG: dict[str, Any] = dict(
    model_name="vit", num_classes=7, input_shape=(16, 16, 3), total_steps=4, seed=0, lr=0.5,
    optax_name="big_vision_dual.scale_by_dualize", input=dict(batch_size=10, data=dict(name="digits", split="train")),
    model=dict(width=8, depth=2, num_heads=2, patch_size=(8, 8), scaling="dual"),
)  # fmt: skip
SCHEDULE = {1: 1.0, 2: 0.5, 4: 0.25}


def workdir(folder: pathlib.Path, *, table: bool = True, loss: float = 2.0, versions: Any = None, **changes: Any):
    """A run of 4 steps of which 1, 2 and 4 were logged. With a table, every step is twice its target and every weight
    has norm 1/4. A last row is half written.
    """
    folder.mkdir(parents=True)
    config = {**CONFIG, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    versions = {"jax": "1.2.3", "devices": 2, "device": "cpu"} if versions is None else versions
    (folder / "versions.json").write_text(json.dumps(versions))
    rows = [row(step, loss) for step in SCHEDULE]
    (folder / "big_vision_metrics.txt").write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"step": 5, "trai')
    if table:
        made = norm_trees.table_for(config)
        tables.save(made, folder / "norm_table.json")
        (folder / "atom_norms.jsonl").write_text("".join(json.dumps(atoms(step, made)) + "\n" for step in SCHEDULE))
    return folder


def row(step: int, loss: float) -> dict[str, float]:
    return {
        "step": step, "training_loss": loss / step, "train/loss": loss / step, "val/acc@1": 0.1 * step,
        "val/loss": math.nan if step == 1 else 1 / step, "global_schedule": SCHEDULE[step], "progress": step / 4,
        "l2_params": 3.0, "img/sec": 100.0, "core_hours": 0.5 * step, "update_norm/Linear/head": 0.1,
        "weight_norm/Linear/head": 0.25,
    }  # fmt: skip


def atoms(step: int, table: tables.TargetNormTable) -> dict[str, Any]:
    rate = CONFIG["lr"] * SCHEDULE[step]
    updates = [2 * rate * float(row.target_norm) for row in table.rows]  # pyright: ignore[reportArgumentType]
    return {"step": step, "update_norm": updates, "weight_norm": [0.25] * len(updates), "gradient_norm": updates}
