"""The training run of one static config as pure functions of its numbers, ready for `jax.vmap` over trials."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from big_vision_dual import models
from big_vision_dual.core.tables import TargetNormTable
from big_vision_dual.lab.studies import dataset, target_norms
from big_vision_dual.lab.studies.grid import Config, get, numbers, replace
from big_vision_dual.models import init as models_init
from big_vision_dual.train import losses, optim, update
from big_vision_dual.train.data import arrays
from big_vision_dual.train.data.drawn import DrawnSource
from big_vision_dual.train.update import TrainState

PyTree = Any
Numbers = dict[str, Any]  # {field: scalar, 'target_norms': {row.key: scalar or vector}}, arrays or traced

VALIDATION_BATCH = 256
NOT_HONOURED = {
    "input.pp": "studies draw batches on the device; use input.augment",
    "evals.val.pp_fn": "studies resize what they validate on to input_shape, nothing else",
    "evals.val.pred": "studies validate the parameters themselves",
    "model_init": "studies start afresh",
    "resume": "studies start afresh",
}
"""{dotted field: why a study cannot do what it says}. Logging, checkpoints and sharding do not change a trial."""


def check(config: Mapping[str, Any]) -> None:
    """Raises `ValueError` naming the fields of a config that a study would not do as they say."""
    given = [name for name in NOT_HONOURED if get(config, name)]
    if given:
        reasons = "; ".join(f"config.{name}={get(config, name)!r}: {NOT_HONOURED[name]}" for name in given)
        raise ValueError(f"a study cannot honour {reasons}. Set them to None or '', or take a recipe without them.")


def stacked(trees: Sequence[PyTree]) -> PyTree:
    """Trees of arrays, one a trial -> one tree with a leading axis of trials, on the host."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def one_by_one(init: Callable[[Numbers], TrainState], given: Sequence[Numbers]) -> TrainState:
    """The initial states of trials, stacked. On a CPU, jaxlib 0.10.2 can deadlock in a vmapped QR (orthogonal init)."""
    return stacked([jax.device_get(init(one)) for one in given])


@dataclasses.dataclass(frozen=True)
class Program:
    """What trials of one static config share.

    config: that of any of them; the methods put each trial's own numbers in. table: None unless dualized.
    """

    config: Config
    model: Any
    table: TargetNormTable | None
    source: DrawnSource
    validation: dict[str, np.ndarray]

    @classmethod
    def of(cls, config: Config) -> Program:
        """The model, table and data of a config. Reads the data, allocates nothing on the device."""
        check(config)
        table = target_norms.table_for(config) if optim.needs_table(config) else None
        return cls(config, models.of(config), table, dataset.training(config), dataset.validation(config))

    @property
    def total_steps(self) -> int:
        return optim.steps("total", self.config, self.source.num_examples, self.source.batch_size)

    def data(self) -> dict[str, Any]:
        """The arrays that all trials draw from: the argument `data` of the methods below."""
        examples = len(next(iter(self.validation.values())))
        size = min(VALIDATION_BATCH, examples)
        count = examples // size
        held_out = {
            name: jnp.asarray(np.reshape(x[: count * size], (count, size, *x.shape[1:])))
            for name, x in self.validation.items()
        }
        return {"train": self.source.on_device(), "validation": held_out}

    def to_model(self, raw: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
        """A stored batch as the model takes it."""
        return raw if "tokens" in raw else arrays.to_model(raw["image"], raw["label"], self.config["num_classes"])

    def numbers_of(self, config: Config) -> Numbers:
        """The numbers of a trial of this program, NumPy scalars: what the methods below vmap over."""
        values: Numbers = {
            name: np.uint32(value) if name == "seed" else np.float32(value) for name, value in numbers(config).items()
        }
        if optim.is_dualized(config):
            rows = target_norms.table_for(config).rows
            values["target_norms"] = {row.key: np.asarray(row.target_norm, np.float32) for row in rows}
        return values

    def optimizer(self, given: Numbers) -> optax.GradientTransformation:
        """Big Vision's chain with a trial's numbers in it."""
        config = replace(self.config, {name: value for name, value in given.items() if name != "target_norms"})
        if "target_norms" in given:
            config["optax"] = {**config["optax"], "target_norms": given["target_norms"]}
        tx, _ = optim.make(
            config,
            jax.eval_shape(lambda: self.params(jnp.uint32(0))),
            total_steps=self.total_steps,
            batch_size=self.source.batch_size,
            data_size=self.source.num_examples,
            table=self.table,
        )
        return tx

    def params(self, seed: Any) -> PyTree:
        """Fresh parameters."""
        return models_init.params(self.config, self.model, seed)

    def init(self, given: Numbers) -> TrainState:
        """State before the first step."""
        return update.init(self.config, self.model, self.optimizer(given), given["seed"])

    def logits(self, params: PyTree, images_BxHxWxC: jax.Array) -> jax.Array:
        """(B, classes), without dropout."""
        return self.model.apply({"params": params}, images_BxHxWxC, train=False)[0]

    def update(self, state: TrainState, given: Numbers, data: Mapping[str, Any]) -> update.Update:
        """The trainer's update, with the batch that belongs to the state's step."""
        batch = self.source.batch(data["train"], state.step, given["seed"])
        return update.update(self.config, self.model, self.optimizer(given))(state, batch)

    def advance(
        self,
        state: TrainState,
        given: Numbers,
        data: Mapping[str, Any],
        start: jax.Array,
        stop: jax.Array,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Steps start ... stop - 1 as one loop: (state, their mean loss and the final l2 norm of the parameters)."""

        def body(_: jax.Array, carry: tuple[TrainState, jax.Array]) -> tuple[TrainState, jax.Array]:
            state, total = carry
            done = self.update(state, given, data)
            return done.state, total + done.loss

        state, total = jax.lax.fori_loop(start, stop, body, (state, jnp.float32(0)))
        return state, {"loss": total / (stop - start), "l2_params": optax.tree.norm(state.params)}

    def evaluate(self, state: TrainState, data: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Cross-entropy (nats) and accuracy over the validation split, in whole batches; l2 norm of the parameters."""

        def measure(raw: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
            batch = self.to_model(raw)
            logits_BxC = self.logits(state.params, losses.inputs(batch))
            labels_BxC = losses.labels(batch, logits_BxC.shape[-1])
            right_B = jnp.argmax(logits_BxC, axis=-1) == jnp.argmax(labels_BxC, axis=-1)
            return jnp.mean(losses.softmax_xent(logits_BxC, labels_BxC)), jnp.mean(right_B)

        loss, accuracy = jax.lax.map(measure, data["validation"])
        return {
            "val_loss": jnp.mean(loss),
            "val_accuracy": jnp.mean(accuracy),
            "l2_params": optax.tree.norm(state.params),
        }
