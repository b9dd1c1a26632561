"""The preflight of a very small model, by the real TPU compiler; about 15 s."""

import argparse
import dataclasses
import io
import json

import jax
import ml_collections
import pytest
from rich.console import Console

from big_vision_dual.cli import launch as launch_command
from big_vision_dual.cli import preflight as preflight_command
from big_vision_dual.pods import preflight, preflight_report, step_cost, topologies, xla_flags
from big_vision_dual.pods.roofline import Roofline
from big_vision_dual.train import data, recipes, setup

WIDTH, DEPTH, BATCH = 256, 2, 64
V5E = topologies.parse("v5e-4")


def config(**fields):
    base = dict(
        seed=0, total_epochs=3, num_classes=12, input_shape=(8, 8, 3), model_name="mlp",
        model=dict(width=WIDTH, depth=DEPTH), input=dict(data=dict(name="nowhere"), batch_size=BATCH, accum_freq=1),
        optax_name="trace", optax=dict(decay=0.9), lr=0.1, schedule=dict(decay_type="cosine"),
    )  # fmt: skip
    return step_cost.changed(ml_collections.ConfigDict(base), **fields)


@pytest.fixture(scope="module")
def report(libtpu):  # noqa: ARG001
    said = []
    report = preflight.preflight("tiny", config(), V5E, 6400, flags=["data_parallel"], say=said.append)
    assert said == ["compiling tiny for v5e-4", "compiling with the XLA flags 'data_parallel'"]
    return report


@pytest.fixture(scope="module")
def refused(libtpu):  # noqa: ARG001
    """Parameters, momentum and gradients of 6.7 GB each on 16 GB."""
    huge = config(model=ml_collections.ConfigDict(dict(width=40960, depth=2)), input__batch_size=8)
    return preflight.preflight("huge", huge, V5E, 6400, say=lambda _: None)


def test_memory_flops_and_gradient_traffic_are_those_of_the_model(report):
    weights = 192 * WIDTH + WIDTH * WIDTH + WIDTH * 12
    parameters = weights + 2 * WIDTH + 12
    step = report.step
    # parameters and momentum in float32 and a quarter of the batch; the rest is padding to tiles. Measured: 1.14.
    assert 1.0 < step.memory.arguments / (4 * (2 * parameters + BATCH / 4 * 204)) < 1.25
    # three products a weight and example, but no gradient to the input; element-wise work on top. Measured: 1.19.
    products = 2 * BATCH / 4 * (3 * weights - 192 * WIDTH)
    assert 1.0 < step.flops / products < 1.35
    (reduced,) = step.traffic
    assert (reduced.kind, reduced.count) == ("all-reduce", 1)
    assert reduced.bytes == pytest.approx(4 * parameters, rel=0.01)


def test_hours_and_input_rate_follow_from_the_best_estimate(report):
    step = report.step
    assert step.compiler_seconds > step.roofline.compute
    assert report.total_steps == 300
    assert report.hours == pytest.approx(300 * step.compiler_seconds / 3600)
    assert report.tpu_hours == pytest.approx(4 * report.hours)
    assert report.images_per_host_second == pytest.approx(BATCH / step.compiler_seconds)


def test_accumulation_multiplies_what_runs_not_what_is_written(report):
    accumulated = step_cost.measure(config(input__accum_freq=4), V5E, 6400)
    assert isinstance(accumulated, step_cost.StepCost)
    # The same products in four parts; each micro-batch adds element-wise work on the weights. Measured: 1.01.
    assert accumulated.flops == pytest.approx(report.step.flops, rel=0.15)


def test_a_step_that_cannot_fit_is_refused_with_a_change_that_fits(refused):
    assert isinstance(refused.step, step_cost.Misfit)
    assert refused.step.needed > refused.step.capacity > 15 * 2**30
    assert refused.hours is None
    tried = {suggestion.change.partition("=")[0].strip(): suggestion.fits for suggestion in refused.suggestions}
    assert tried == {"config.sharding_strategy": True, "--config.input.accum_freq": False}


def test_the_table_shows_both_and_cites_the_peaks(report, refused):
    page = io.StringIO()
    Console(file=page, width=160).print(preflight_report.to_table([report, refused]))
    text = page.getvalue()
    for part in (
        "fits",
        "does not fit",
        "accum_freq",
        "all-reduce",
        "TPU-hours",
        "images/s",
        "tpu/docs/v5e",
        "XLA flags data_par",
    ):
        assert part in text


def test_json_has_every_number_and_the_versions(report, refused):
    fits, misfit = json.loads(preflight_report.to_json([report, refused]))["reports"]
    assert fits["fits"]
    assert fits["slice"]["hosts"] == 1
    assert fits["step"]["roofline"]["seconds"] == report.step.roofline.seconds
    assert fits["hours"] == report.hours
    assert not misfit["fits"]
    assert misfit["suggestions"][0]["fits"]


def test_every_dualized_recipe_has_a_plain_momentum_to_compare_with():
    for name in ("vit_s16_i1k_dual", "mnist5k_vit_dual"):
        config = preflight.momentum_only(recipes.load(name))
        recipes.schema.check(config, whole=True)
        examples = step_cost.Examples(5000, config.num_classes)
        assert setup.prepare(config, examples, jax.devices("cpu")[:1]).fns.state.opt_state


def test_flags_of_xla_reach_the_compiler(report):
    assert preflight_report._with_flags(report, "data_parallel") == "+0.00%, +0.0%"  # one layer: nothing to hide behind
    assert preflight_report._with_flags(report, "vmem") == "-"
    doubled = dataclasses.replace(report.step, compiler_seconds=2 * report.step.compiler_seconds)
    assert "+100.00%" in preflight_report._with_flags(dataclasses.replace(report, flagged={"vmem": doubled}), "vmem")
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option: 'xla_no_flag'"):
        step_cost.measure(config(), V5E, 6400, {"xla_no_flag": "true"})
    assert xla_flags.of(["vmem", "data_parallel"]).keys() == (
        xla_flags.GROUPS["vmem"].keys() | xla_flags.GROUPS["data_parallel"].keys()
    )
    with pytest.raises(ValueError, match="no group of XLA flags 'fast'; possible: vmem, async, data_parallel"):
        xla_flags.of(["fast"])


def test_a_share_needs_both_sides(report):
    assert report.over_momentum(lambda step: step.flops) is None
    dearer = dataclasses.replace(report.step, flops=report.step.flops * 1.02)
    both = dataclasses.replace(report, step=dearer, momentum=report.step)
    assert both.over_momentum(lambda step: step.flops) == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("estimate", "seconds", "note"),
    [
        (0.105, 0.105, ""),
        (-0.9, 0.1, "without 1 operations"),  # one loop of unknown length
        (-7.89, 0.11, "without 8 operations"),  # four asynchronous collectives, start and done
        (-0.99, None, "the compiler says -0.99 s"),  # 10 ms would beat peak FLOP/s
        (None, None, "no estimate"),
        (0.0, None, "no estimate"),
    ],
)
def test_the_compilers_estimate_counts_only_where_it_can_be_one(estimate, seconds, note):
    limits = Roofline(compute=0.08, memory=0.06, interconnect=0.0)
    got, said = step_cost.compiler_seconds(estimate, limits)
    assert got == (None if seconds is None else pytest.approx(seconds))
    assert note in said


def test_imagenets_size_follows_the_split_and_unknown_data_asks_for_it():
    imagenet = config(input__data=ml_collections.ConfigDict(dict(name="imagenet2012", split="train[:99%]")))
    assert step_cost.num_examples(imagenet) == 1_268_355
    assert step_cost.num_examples(imagenet, given=7) == 7
    with pytest.raises(data.DataError, match="--num-examples N"):
        step_cost.num_examples(config())


def test_both_wordings_of_the_compilers_refusal_are_read():
    one = "required for HLO temporaries (35.17G) exceeds available HBM (15.75G)."
    two = "Ran out of memory in memory space hbm. Used 34.58G of 15.48G hbm. Exceeded hbm capacity by 19.10G."
    assert step_cost._misfit(one) == step_cost.Misfit(int(35.17 * 2**30), int(15.75 * 2**30))
    assert step_cost._misfit(two) == step_cost.Misfit(int(34.58 * 2**30), int(15.48 * 2**30))
    assert step_cost._misfit("INTERNAL: something else") is None


def parsed(add_arguments, *words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args, args.overrides = parser.parse_known_args(words)
    return args


def test_the_launch_command_rehearses_by_default(capsys):
    words = ["--tpu", "v5e-16", "--zone", "z", "--name", "run-1", "--config", "mnist5k_vit_dual", "--config.lr=1"]
    words += ["--xla-flags", "vmem", "data_parallel"]
    assert launch_command.run(parsed(launch_command.add_arguments, *words)) == 0
    printed = capsys.readouterr()
    assert "--accelerator-type=v5litepod-16" in printed.out
    assert "--config.lr=1" in printed.out
    assert "--xla_tpu_scoped_vmem_limit_kib=98304 --xla_tpu_enable_data_parallel_all_reduce_opt=true" in printed.out
    assert "nothing was run" in printed.err


def test_commands_tell_what_is_wrong(capsys):
    args = parsed(launch_command.add_arguments, "--tpu=v5e-17", "--zone=z", "--name=run-1", "--config=c.py")
    assert launch_command.run(args) == 1
    assert "v5e-16" in capsys.readouterr().err
    args = parsed(preflight_command.add_arguments, *["--config", "no_such_recipe", "--topology", "v3-8"])
    with pytest.raises(recipes.RecipeError, match="no_such_recipe"):
        preflight_command.run(args)
