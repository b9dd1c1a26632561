"""Every field of a config: its type, default, range and meaning. A new field is a line here; see `schema` for its use.

Names are dotted paths; a part '*' stands for a name of one's own, such as an evaluator's. Standard library only.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import types
from collections.abc import Mapping
from typing import Any

from big_vision_dual.core import rules

UNITS = ("steps", "epochs", "examples", "percent")
"""Of durations: Big Vision's `{name}_{steps,epochs,examples,percent}`, at most one of which is set."""
EVALUATORS = ("classification", "fewshot_lsr", "language", "mean", "save")  # modules of train.evaluators
SCHEDULING = ("type", "pred", "prefix", "skip_first", "at_start", "cache", *(f"log_{unit}" for unit in UNITS))
"""Fields of any evaluator, one of your own too."""
PERIODS = {"log_training": 50, "ckpt": 1000, "keep_ckpt": 0}
"""Of a run's events, in steps, where a config names none; 0 for never."""
NEEDED: Any = ...
"""The default of a field that must be given."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """Numbers between two ends, written as in mathematics: '[0, 1)'; inf and NaN are in none."""

    text: str

    def allows(self, value: Any) -> bool:
        low, high = (float(end) for end in self.text[1:-1].split(","))
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            return False
        value = float(value)
        return (low <= value if self.text[0] == "[" else low < value) and (
            value <= high if self.text[-1] == "]" else value < high
        )

    def __str__(self) -> str:
        return f"in {self.text}"


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Some names; with `dotted` also the import path of a module, with `inside` of what is in it."""

    names: tuple[str, ...]
    dotted: bool = False
    inside: bool = False

    def allows(self, value: Any) -> bool:
        return value in self.names or (self.dotted and "." in value) or (self.inside and ":" in value)

    def __str__(self) -> str:
        own = (", or a module's dotted name" if self.dotted else "") + (", or 'module:Name'" if self.inside else "")
        return ", ".join(map(repr, self.names)) + own


@dataclasses.dataclass(frozen=True)
class Row:
    """A tuple of numbers, of certain lengths (empty for any)."""

    each: Interval
    lengths: tuple[int, ...] = ()

    def allows(self, value: Any) -> bool:
        return (not self.lengths or len(value) in self.lengths) and all(self.each.allows(entry) for entry in value)

    def __str__(self) -> str:
        return f"{' or '.join(map(str, self.lengths)) or 'any number of'} numbers {self.each}"


@dataclasses.dataclass(frozen=True)
class Pairs:
    """A list of (name or regex, value) pairs."""

    def allows(self, value: Any) -> bool:
        return all(isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in value)

    def __str__(self) -> str:
        return "[(regex, value), ...]"


@dataclasses.dataclass(frozen=True)
class Field:
    """One field. kind: a type, or a union of them (tuple stands for lists too).

    possible: what a value must be in besides; of a union, it rules the kinds that it can speak of.
    open: a dict whose further fields belong to whoever reads it. none: whether None is possible where it is not the
    default.
    """

    name: str
    kind: Any
    default: Any
    meaning: str
    possible: Interval | OneOf | Row | Pairs | None = None
    open: bool = False
    none: bool = False

    @property
    def kinds(self) -> tuple[type, ...]:
        return self.kind.__args__ if isinstance(self.kind, types.UnionType) else (self.kind,)

    @property
    def needed(self) -> bool:
        return self.default is NEEDED

    @property
    def optional(self) -> bool:
        """Whether it may be None."""
        return self.none or self.default is None

    def allows(self, value: Any) -> bool:
        """Whether a value has a right type and range."""
        if value is None:
            return self.optional
        kind = _kind_of(value)
        if kind not in self.kinds and not (kind is int and float in self.kinds):
            return False
        ruled = {Interval: (int, float), OneOf: (str,), Row: (tuple,), Pairs: (tuple,)}
        return self.possible is None or kind not in ruled[type(self.possible)] or self.possible.allows(value)

    def says(self) -> str:
        """What is possible: 'float in (0, inf)'."""
        names = " or ".join(kind.__name__ for kind in self.kinds)
        text = names if self.possible is None else f"{names} {self.possible}"
        return f"{text}, or None" if self.optional else text


def _kind_of(value: Any) -> type:
    if isinstance(value, bool | str):
        return type(value)
    if isinstance(value, list | tuple):
        return tuple
    if isinstance(value, Mapping) or hasattr(value, "items"):  # a ConfigDict is a mapping in all but name
        return dict
    if isinstance(value, numbers.Integral):
        return int
    return float if isinstance(value, numbers.Real) else type(value)


def _duration(prefix: str, meaning: str, default: str = "0") -> tuple[Field, ...]:
    """The four fields of a duration; a negative value unsets one."""
    any_number, share = Interval("(-inf, inf)"), Interval("(-inf, 1]")
    return (
        Field(f"{prefix}_steps", int, None, f"{meaning}; without one of them {default}", any_number),
        Field(f"{prefix}_epochs", float, None, "the same in epochs", any_number),
        Field(f"{prefix}_examples", float, None, "the same in examples", any_number),
        Field(f"{prefix}_percent", float, None, "the same as a share in [0, 1] of the training", share),
    )


_POSITIVE, _FROM_0, _SHARE = Interval("(0, inf)"), Interval("[0, inf)"), Interval("[0, 1)")
_COUNT, _LOSSES = Interval("[1, inf)"), OneOf(("softmax_xent", "sigmoid_xent"))
_CONSTRAINTS = OneOf(("none", "decay", "radius", "hyperball", "project", "frank_wolfe"))
_DTYPES = OneOf(("float32", "bfloat16", "float16"))

_RUN = (
    Field("seed", int, 0, "of initial values, data order, augmentation and dropout", _FROM_0),
    *_duration("total", "length of the training", "an error"),
    *_duration("log_training", "period of the training metrics", str(PERIODS["log_training"])),
    *_duration("ckpt", "period of the checkpoints", str(PERIODS["ckpt"])),
    *_duration("keep_ckpt", "period of checkpoints that are kept for good", str(PERIODS["keep_ckpt"])),
    Field("resume", str, None, "workdir of another run, continued with its step and optimizer"),
    Field("resume_step", int, None, "continue at this older checkpoint, not at the newest", _FROM_0),
    Field("resume_changed", bool, False, "continue although the config is not the one that the workdir had"),
    Field("compile_cache", str, None, "folder of compiled programs, or 'off'; see docs/reliability.md"),
    Field("compile_effort", float, None, "how long XLA may look for a faster step; else -1 on a TPU v3, or its own",
          Interval("[-1, 1]")),
    Field("profile", dict, None, "the steps to trace with jax.profiler, into the workdir"),
    Field("profile.start", int, NEEDED, "first step traced", _COUNT),
    Field("profile.steps", int, NEEDED, "how many", _COUNT),
    Field("wandb", bool | dict, None, "whether Weights & Biases hears of it; options of wandb.init", open=True),
    Field("wandb.project", str, "big_vision_dual", "the project of Weights & Biases"),
    Field("log_atom_norms", bool, True, "whether every atom's weight, gradient and update are measured in its norm"),
    Field("mesh", tuple, (("data", -1),), "axes of the devices and their sizes, -1 for what is left", Pairs()),
    Field("sharding_strategy", tuple, ((".*", "replicate"),),
          "how state is sharded: replicate, fsdp(axis=...), stack(axis=...)", Pairs()),
    Field("sharding_rules", tuple, (), "mesh axes of the batch: [('act_batch', axes)]", Pairs()),
)  # fmt: skip

_DATA = (
    Field("num_classes", int, NEEDED, "classes, or of a language model tokens", _COUNT),
    Field("input_shape", tuple, None, "pixels (H, W, C), or the length (L,) of a text's windows; the data's without",
          Row(_COUNT, (1, 3))),
    Field("input_dtype", str, None, "of examples (D,) that are no text: numbers or indices",
          OneOf(("float32", "int32"))),
    Field("input", dict, NEEDED, "training data; a mixture has its parts' settings in input.PART"),
    Field("input.data", dict, NEEDED, "the data set, or a mixture {part: weight}"),
    Field("input.data.name", str, NEEDED, "name in TFDS, mnist5k, array:FILE.npz, bytes, or bv:jsonl"),
    Field("input.data.split", str, "train", "a split, or a slice such as train[:99%]; an evaluator's of arrays: test"),
    Field("input.data.data_dir", str, None, "folder of TFDS data sets; TFDS's own without it"),
    Field("input.data.path", str, None, "of bytes: a text file, or tfds:NAME"),
    Field("input.data.length", int, None, "of bytes: predictions a window", _COUNT),
    Field("input.data.validation", float, 0.1, "of bytes: the share of the text held out", _SHARE),
    Field("input.data.tfds_split", str, "train", "of bytes in TFDS: the split read"),
    Field("input.data.feature", str, "text", "of bytes in TFDS: the feature read"),
    Field("input.data.fname", str, None, "of bv:jsonl: the file, one JSON object a line"),
    Field("input.data.fopen_keys", tuple | dict, (), "of bv:jsonl: entries that name files, or {entry: their folder}",
          open=True),
    Field("input.data.start", int, 0, "of bv:jsonl: the first line taken", _FROM_0),
    Field("input.data.stop", int, None, "of bv:jsonl: the line after the last one taken", _COUNT),
    Field("input.data.*", float, 0.0, "of a mixture: the weight of a part", _FROM_0),
    Field("input.batch_size", int, NEEDED, "examples a step, over all devices", _COUNT),
    Field("input.accum_freq", int, 1, "micro-batches whose gradients are averaged before a step", _COUNT),
    Field("input.pp", str, "", "preprocessing of TFDS examples, an op string"),
    Field("input.augment", str, "", "augmentation on the devices, of raw pixels: shift(2)|flip_lr|randaug(2,10)"),
    Field("input.shuffle_buffer_size", int, 0, "examples held, still encoded, to draw from", _FROM_0),
    Field("input.cache_raw", bool, False, "whether all encoded examples stay in memory"),
    Field("input.prefetch", int, 2, "batches made ahead", _FROM_0),
    Field("input.skip_bad_records", int, 0, "unusable TFDS records of a host that others replace, at most", _FROM_0),
    Field("input.keep_only", tuple, (), "entries of an example that are left after preprocessing; all without it"),
    Field("input.pre_filter_fn", types.FunctionType, None,
          "{entry: tensor} -> bool, of examples before preprocessing: which ones are trained on"),
    Field("input.*", dict, {}, "of a mixture: the settings of a part"),
    Field("input.*.data", dict, NEEDED, "its data set, as input.data", open=True),
    Field("input.*.pp", str, "", "its preprocessing"),
    Field("input.*.shuffle_buffer_size", int, 0, "its share of what is held to draw from", _FROM_0),
    Field("input.*.cache_raw", bool, False, "whether it stays in memory"),
    Field("input.*.pre_filter_fn", types.FunctionType, None, "its filter, as input.pre_filter_fn"),
    Field("pp_modules", tuple, (), "modules with preprocessing ops of one's own"),
    Field("mixup", dict, None, "mixing of examples (Zhang et al. 2018)"),
    Field("mixup.p", float, 0.0, "of Beta(p, p), from which the share is drawn; 0 mixes nothing", _FROM_0),
)  # fmt: skip

_MODEL = (
    Field("model_name", str, NEEDED, "the model",
          OneOf(("vit", "mlp", "gpt", "mamba", "mamba2", "vision_mamba"), dotted=True, inside=True)),
    Field("model", dict, {}, "its options; a model of one's own has its own"),
    Field("model.scaling", str | dict, "standard", "the architecture, or its switches", OneOf(("standard", "dual"))),
    Field("model.scaling.gelu", str, "plain", "GELU, or divided by its largest slope", OneOf(("plain", "unit"))),
    Field("model.scaling.attention_logits", str, "rsqrt", "q.k / sqrt(d_head), or / d_head",
          OneOf(("rsqrt", "inverse"))),
    Field("model.scaling.attention_out", float, 1.0, "factor on attention's values", Interval("(0, 1]")),
    Field("model.scaling.attention_out_at", str, "values", "where that factor acts: values, or the output of `out`",
          OneOf(("values", "output"))),
    Field("model.scaling.residual", str, "sum", "x + f(x), or (1 - 1/2L) x + f(x)/2L", OneOf(("sum", "convex"))),
    Field("model.scaling.init", str, "standard", "Big Vision's initial values, or scaled orthogonal matrices",
          OneOf(("standard", "dual"))),
    Field("model.variant", str, None, "sizes by name: S/16, B/32, Ti/16 ..."),
    Field("model.width", int, None, "features of the residual stream, or of an MLP's layers", Interval("[1, 1e6]")),
    Field("model.depth", int, None, "blocks, or hidden layers", Interval("[1, 1e4]")),
    Field("model.mlp_dim", int, None, "features inside a block's MLP; 4 widths without it", Interval("[1, 1e7]")),
    Field("model.num_heads", int, None, "attention heads", Interval("[1, 1e4]")),
    Field("model.patch_size", int | tuple, None, "pixels of a patch, one number or (height, width)",
          Row(_COUNT, (2,))),
    Field("model.pool_type", str, "gap", "from tokens to one vector", OneOf(("gap", "tok", "map", "0"))),
    Field("model.posemb", str, "learn", "position embedding", OneOf(("learn", "sincos2d"))),
    Field("model.rep_size", bool | int, False, "features of a tanh layer before the head; True for the width"),
    Field("model.dropout", float, 0.0, "rate", _SHARE),
    Field("model.head_zeroinit", bool, None, "whether the head starts at 0; by the architecture without it"),
    Field("model.scan", bool | str, False,
          "of transformers: stacked blocks; of state spaces: how the scan runs, chunked without it",
          OneOf(("chunked", "sequential", "associative"))),
    Field("model.remat_policy", str, "none", "what is computed again in the backward pass"),
    Field("model.dtype_mm", str, "float32", "of matrix products", _DTYPES),
    Field("model.d_model", int, None, "of state spaces: features of the residual stream", Interval("[1, 1e6]")),
    Field("model.n_layers", int, None, "of state spaces: layers", Interval("[1, 1e4]")),
    Field("model.d_state", int, None, "of state spaces: states a channel; mamba's 16, mamba2's 64 without it",
          Interval("[1, 1e5]")),
    Field("model.expand", int, 2, "of state spaces: inner features over d_model", Interval("[1, 1e3]")),
    Field("model.d_conv", int, 4, "of state spaces: taps of the causal convolution", Interval("[1, 1e3]")),
    Field("model.chunk", int, 32, "of state spaces: steps of the scan at once", Interval("[1, 1e6]")),
    Field("model.norm_eps", float, 1e-5, "of state spaces: added in the RMS norms", _POSITIVE),
    Field("model.dt_rank", int, None, "of mamba: rank of Delta's projection; d_model / 16 without it", _COUNT),
    Field("model.d_head", int, None, "of mamba2: features a head", Interval("[1, 1e5]")),
    Field("model.n_groups", int, 1, "of mamba2: groups of heads that share B and C", Interval("[1, 1e4]")),
    Field("model.mixer_out", float, 1.0, "of state spaces: factor on a mixer's values", Interval("(0, 1]")),
    Field("model.mup_base_width", int, None, "of state spaces: d_model at which muP is the standard", _COUNT),
    Field("model_init", str, None, "weights to start from: FILE.npz or W/checkpoint.bv, each with :SUBMODEL"),
    Field("model_load", dict, {}, "how they are loaded"),
    Field("model_load.dont_load", tuple, (), "regexes of whole paths that keep their initial values"),
    Field("model_load.stored_grid", tuple, None, "(rows, columns) of the file's patches, for learned positions"),
    Field("init_head_bias", float, None, "initial value of the head's bias"),
)  # fmt: skip

_OPTIMIZER = (
    Field("loss", str, "softmax_xent", "what is minimized", _LOSSES),
    Field("label_smoothing", float, 0.0, "share of each label spread over all classes", _SHARE),
    Field("lr", float, NEEDED, "learning rate", _FROM_0),
    Field("wd", float, None, "decay: each step takes wd * schedule off a weight, whatever lr is", _FROM_0),
    Field("lr_mults", tuple, (), "factors on lr by regex of the whole path, first match; 1 without one", Pairs()),
    Field("wd_mults", tuple, ((".*/kernel", 1.0),), "factors on wd likewise; 0 without a match", Pairs()),
    Field("grad_clip_norm", float, None, "largest global norm of the gradient", _FROM_0),
    Field("schedule", dict | tuple, {}, "factor on lr and wd over the steps, or [(regex, one or None to freeze)]",
          Pairs()),
    Field("schedule.decay_type", str, "stair", "its shape",
          OneOf(("linear", "polynomial", "cosine", "rsqrt", "stair"))),
    *_duration("schedule.warmup", "length of the warm-up"),
    *_duration("schedule.cooldown", "length of the cooldown"),
    Field("schedule.mult", float, 1.0, "its largest value", _FROM_0),
    Field("schedule.scale_with_batchsize", bool, False, "whether that is multiplied by batch_size / 256"),
    Field("schedule.power", float, 1.0, "of linear", _FROM_0),
    Field("schedule.end", float, 0.0, "of linear: last value", _FROM_0),
    Field("schedule.linear_end", float, None, "the same by Big Vision's name", _FROM_0),
    Field("schedule.timescale", float, 1e4, "of rsqrt, steps", _POSITIVE),
    Field("schedule.timescale_examples", float, None, "of rsqrt, examples", _POSITIVE),
    Field("schedule.shift", float, 0.0, "of rsqrt, steps"),
    Field("schedule.steps", tuple, (), "of stair: where it changes", Row(_FROM_0)),
    Field("schedule.mults", tuple, (), "of stair: its values", Row(_FROM_0)),
    Field("optax_name", str, NEEDED, "big_vision_dual.scale_by_dualize, big_vision.*, or a path on optax"),
    Field("optax", dict, {}, "its arguments; those of optax's own functions are there", open=True),
    Field("optax.momentum", float, 0.95, "of scale_by_dualize: weight of the past in the mean of gradients", _SHARE,
          none=True),
    Field("optax.momentum_kind", str, "ema", "of scale_by_dualize: mean or sum", OneOf(("ema", "trace", "debiased"))),
    Field("optax.nesterov", bool, False, "whether the direction looks one step ahead"),
    Field("optax.polar", str, "newton_schulz_6", "of scale_by_dualize: how matrices are orthogonalized"),
    Field("optax.dtype", str, "float32", "of scale_by_dualize: of its matrix products", _DTYPES),
    Field("optax.mu_dtype", str, "float32", "of the stored momentum", _DTYPES),
    Field("optax.per_head", bool, False, "of scale_by_dualize: whether query, key and value count a head at a time"),
    Field("optax.scale_floor", bool, False, "of scale_by_dualize: the first attempt's larger steps"),
    Field("optax.unroll", bool | int, False, "of scale_by_dualize: steps of the iteration in one loop turn"),
    Field("optax.fallback", tuple, (), "of scale_by_dualize: [(regex, 'adam' or 'dualize')]", Pairs()),
    Field("optax.fallback_scale", float, 1.0, "of scale_by_dualize: factor on the fallback's updates", _POSITIVE),
    Field("optax.adam", dict, None, "of scale_by_dualize: arguments of optax.scale_by_adam for the fallback",
          open=True),
    Field("optax.shard_axis", str, None, "of scale_by_dualize: mesh axis that shares its work and momentum"),
    Field("optax.table", str, None, "of scale_by_dualize: a table's file or name; the norm tree's without it"),
    Field("optax.b1", float, 0.9, "of Adam", _SHARE),
    Field("optax.b2", float, 0.999, "of Adam", _SHARE),
    Field("optax.eps", float, 1e-8, "of Adam", _FROM_0),
    Field("weight_constraint", str | dict, None, "what bounds the weights after each step", _CONSTRAINTS),
    Field("weight_constraint.kind", str, NEEDED, "the same, beside its options", _CONSTRAINTS),
    Field("weight_constraint.radius", float | tuple, 1.0, "of radius: of the ball, or [(regex, radius or None)]",
          Pairs()),
    Field("weight_constraint.cautious", bool, False, "of decay, radius: only where the step shrinks an entry too"),
    Field("weight_constraint.size", float | tuple, None, "of hyperball: the norm held, or rules; that at init without",
          Pairs()),
    Field("weight_constraint.norm", str, "frobenius", "of hyperball: which norm", OneOf(("frobenius", "own"))),
    Field("weight_constraint.polar", str, "newton_schulz_6", "of project: how matrices are orthogonalized"),
    Field("weight_constraint.dtype", str, "float32", "of project: of its matrix products", _DTYPES),
    Field("weight_constraint.shard_axis", str, None, "of project, hyperball: mesh axis that shares the work"),
    Field("ema", dict, None, "an average of the parameters beside them"),
    Field("ema.decay", float, 0.9999, "of the average, a step", _SHARE),
)  # fmt: skip

_NORMS = (
    Field("norms", dict, {}, "how the norm tree becomes a table"),
    Field("norms.conventions", str, "well_normed", "sensitivities of constants and means",
          OneOf(("well_normed", "first_attempt", "flat", "seed"))),
    Field("norms.shared_layer_norms", bool, None,
          "whether a block's two LayerNorms count as one object; true under first_attempt, else false"),
    Field("norms.biases_per_head", bool, None,
          "whether biases of query, key and value move at full size in each head; likewise"),
    Field("norms.rule", str, None, "other people's target norms in place of the dry run's (docs/size.md)",
          OneOf(tuple(rules.RULES))),
    Field("norms.blocks_mass", float, None, "mass of all blocks together; the model's own without it", _POSITIVE),
    Field("norms.masses", dict, {}, "{kind of atom, or regex of whole paths: mass}, 1 where not named"),
    Field("norms.masses.*", float, 1.0, "the mass of those atoms", _POSITIVE),
    Field("target_norm_scale", tuple, (), "[(regex of whole paths, factor)] on target norms, first match", Pairs()),
    Field("mup", dict, None, "muP's initial values and multipliers for Adam"),
    Field("mup.base_width", int, NEEDED, "the width at which muP is the standard parametrization", _COUNT),
    Field("mup.rules", str, "strict", "the rule set", OneOf(("strict", "reference"))),
)  # fmt: skip

_EVALS = (
    Field("evals", dict, {}, "{name of your own: evaluator}"),
    Field("evals.*", dict, {}, "one evaluator; one of your own has its own fields"),
    Field("evals.*.type", str, None, "the evaluator; its name without it",
          OneOf(EVALUATORS, dotted=True)),
    *_duration("evals.*.log", "period of the evaluation", "an error"),
    Field("evals.*.skip_first", bool, False, "whether it does not run after step 1"),
    Field("evals.*.at_start", bool, False, "whether it also runs before step 1"),
    Field("evals.*.cache", str, "none", "what stays in memory: encoded examples, or finished batches",
          OneOf(("none", "raw", "final"))),
    Field("evals.*.prefix", str, None, "of its metrics; NAME/ without it"),
    Field("evals.*.pred", str, "predict", "what it evaluates", OneOf(("predict", "predict_ema", "loss"))),
    Field("evals.*.data", dict, NEEDED, "its data set, as input.data"),
    Field("evals.*.pp_fn", str, "", "preprocessing of TFDS examples, an op string"),
    Field("evals.*.batch_size", int, None, "examples at once; the training's without it", _COUNT),
    Field("evals.*.loss_name", str, "softmax_xent", "of classification", _LOSSES),
    Field("evals.*.label_key", str, None, "the labels; labels, of fewshot_lsr label"),
    Field("evals.*.metric", str, "acc@1", "of classification: the name of the share", OneOf(("acc@1", "prec@1"))),
    Field("evals.*.outfile", str, NEEDED, "of save: the file, '{workdir}/NAME-{step:09d}.npz'"),
    Field("evals.*.datasets", dict, NEEDED, "of fewshot_lsr: {name: (data set, train split, test split)}", open=True),
    Field("evals.*.shots", tuple, (1, 5, 10, 25), "of fewshot_lsr: examples a class", Row(_COUNT)),
    Field("evals.*.l2_reg", float | tuple, 1024.0, "of fewshot_lsr: regularization, or several", Row(_FROM_0)),
    Field("evals.*.pp_train", str, "", "of fewshot_lsr: preprocessing of what is fitted"),
    Field("evals.*.pp_eval", str, "", "of fewshot_lsr: preprocessing of what is tested"),
    Field("evals.*.data_dir", str, None, "of fewshot_lsr: folder of the data sets"),
    Field("evals.*.display_first", tuple, (), "of fewshot_lsr: (name, shots) whose metric begins with a/", Pairs()),
    Field("evals.*.representation_layer", str, "pre_logits", "of fewshot_lsr: path in the model's intermediates"),
    Field("evals.*.num_seeds", int, 3, "of fewshot_lsr: draws of the examples", _COUNT),
)  # fmt: skip

SECTIONS: dict[str, tuple[Field, ...]] = {
    "The run": _RUN,
    "Data": _DATA,
    "Model": _MODEL,
    "Loss and optimizer": _OPTIMIZER,
    "Norms": _NORMS,
    "Evaluation": (
        *_EVALS,
        *(dataclasses.replace(f, name=f.name.replace("input.", "evals.*.", 1)) for f in _DATA
          if f.name.startswith("input.data.") and not f.name.endswith("*")),
    ),
}  # fmt: skip
"""{heading in docs/config.md: fields}."""
FIELDS: dict[str, Field] = {field.name: field for fields in SECTIONS.values() for field in fields}
