"""`bvd bisect`: what does each difference between the standard and the dualized ViT do?"""

from __future__ import annotations

import argparse
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from big_vision_dual.cli import checks
from big_vision_dual.train import recipes

EXAMPLES = (
    "",
    "--study factorial --switches optimizer,init --seeds 2",
    "--study growth --out runs/growth",
    "--study constraints --constraints none,'radius 25'",
)
VECTORS = ".*/(bias|scale)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    from big_vision_dual.lab.studies.bisect import SWITCHES

    parser.add_argument("--config", default="study_vit", help="the base recipe")
    parser.add_argument("--study", choices=tuple(_STUDIES), default="dual",
                        help="one switch at a time from an end, all combinations, the target norms of some atoms, "
                        "growth of weights, their sizes against the prediction, each constraint at its own best lr, "
                        "whether the best (lr, radius) stays as training grows, or what unit steps do along "
                        "training")  # fmt: skip
    parser.add_argument(
        "--switches",
        type=checks.names(SWITCHES, "switch"),
        help="of standard and dual (default: all) and factorial (default: optimizer,residual,init)",
    )
    parser.add_argument(
        "--atoms", type=checks.regexes, default=VECTORS, help="of shares: regexes of whole paths, split at commas"
    )
    parser.add_argument(
        "--factors",
        type=checks.numbers("[0, inf)"),
        default="0.25,0.0625,0",
        help="of shares: on the target norms of those atoms",
    )
    parser.add_argument(
        "--constraints", type=checks.names(_constraint_names(), "constraint"), help="of size, constraints and promise"
    )
    parser.add_argument(
        "--seeds", type=checks.whole(2), default=3, help="trainings of each variant, of which the intervals are"
    )
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/bisect"), help="folder of results")


def _constraint_names() -> list[str]:
    from big_vision_dual.lab.studies import constraint, promise, size

    return sorted({*size.CONSTRAINTS, *constraint.CONSTRAINTS, *promise.CONSTRAINTS})


def _chosen(args: argparse.Namespace, possible: Mapping[str, Any]) -> list[str]:
    """The constraints asked for, by default all of the study's."""
    chosen = args.constraints or list(possible)
    for name in chosen:
        if name not in possible:
            raise ValueError(f"--study {args.study} has no constraint {name!r}; possible: {', '.join(possible)}.")
    return chosen


def run(args: argparse.Namespace) -> int:
    """Runs one study, prints its table and draws it."""
    from big_vision_dual.lab.studies.results import Results

    base = recipes.load(args.config, args.overrides).to_dict()
    results, console = Results(args.out / "results.jsonl"), Console()
    picture = _STUDIES[args.study](args, base, results, console)
    written = [str(path) for path in (picture, args.out / "results.jsonl") if path]
    console.print(f"wrote {' and '.join(written)}")
    return 0


def _one_at_a_time(args: argparse.Namespace, base: dict, results, console: Console) -> pathlib.Path:
    from big_vision_dual.lab.studies import bisect

    switches = args.switches or list(bisect.SWITCHES)
    reference = bisect.tune(base, bisect.ENDS[args.study], args.seeds, results)
    effects = []
    for switch, value, variant in bisect.one_at_a_time(args.study, switches):
        effects.append(bisect.effect(switch, value, bisect.tune(base, variant, args.seeds, results), reference))
        console.print(_line(effects[-1]))
    return _report(args, f"leaving the {args.study} end", effects, reference, console)


def _shares(args: argparse.Namespace, base: dict, results, console: Console) -> pathlib.Path:
    from big_vision_dual.lab.studies import bisect

    reference = bisect.tune(base, bisect.DUAL, args.seeds, results)
    effects = []
    for pattern, factor, scaled in bisect.shares(base, args.atoms, args.factors):
        effects.append(bisect.effect(pattern, factor, bisect.tune(scaled, bisect.DUAL, args.seeds, results), reference))
        console.print(_line(effects[-1]))
    return _report(args, "target norms of some atoms", effects, reference, console)


def _report(args: argparse.Namespace, title: str, effects: list, reference, console: Console) -> pathlib.Path:
    from big_vision_dual.lab.report import bisect_plot

    console.print(_table(title, effects, reference))
    bars = [(f"{e.switch} = {_text(e.value)}", e.loss.value, e.loss.low, e.loss.high) for e in effects]
    picture = args.out / f"bisect_{args.study}.png"
    bisect_plot.effects({title: bars}, picture)
    return picture


def _factorial(args: argparse.Namespace, base: dict, results, console: Console) -> pathlib.Path:
    from big_vision_dual.lab.report import bisect_plot
    from big_vision_dual.lab.studies import bisect

    switches = args.switches or ["optimizer", "residual", "init"]
    tuned = [bisect.tune(base, variant, args.seeds, results) for variant in bisect.factorial(switches)]
    view = Table(*switches, "best log2 lr", "loss", "accuracy", title="full factorial, means over seeds")
    for each in tuned:
        values = [_text(each.variant[name]) for name in switches]
        view.add_row(
            *values, f"{each.optimum.log2_lr:.1f}", f"{each.loss_S.mean():.3f}", f"{each.accuracy_S.mean():.3f}"
        )
    console.print(view)
    contrasts = bisect.contrasts(switches, tuned)
    for name, interval in contrasts.items():
        console.print(f"{name}: {interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]")
    picture = args.out / "bisect_factorial.png"
    bars = [(name, each.value, each.low, each.high) for name, each in contrasts.items()]
    bisect_plot.effects({"dual minus standard": bars}, picture)
    return picture


def _growth(args: argparse.Namespace, base: dict, results, console: Console) -> pathlib.Path:
    from big_vision_dual.lab.report import bisect_plot
    from big_vision_dual.lab.studies import growth

    runs = growth.run(base, args.seeds, results)
    view = Table("run", "l2_params end / start", "training loss", "validation accuracy")
    for name, each in runs.items():
        view.add_row(name, f"{each.ratio_SxT[:, -1].mean():.2f}", each.loss, each.accuracy)
    console.print(view)
    picture = args.out / "growth.png"
    bisect_plot.growth({name: (each.steps_T, each.ratio_SxT) for name, each in runs.items()}, picture)
    return picture


def _size(args: argparse.Namespace, base: dict, results, console: Console) -> pathlib.Path:
    from big_vision_dual.lab.report import bisect_plot
    from big_vision_dual.lab.studies import size

    runs = size.run(base, args.seeds, results, _chosen(args, size.CONSTRAINTS))
    view = Table("table", "constraint", "kernels: measured / predicted", "vectors", "head, predicted", "last gain",
                 "training loss", "accuracy")  # fmt: skip
    for (table, constraint), (sizes, records) in runs.items():
        misses = (f"{m[1]:.2f} ({m[0]:.2f} .. {m[2]:.2f})" for m in map(sizes.miss, _PARAMETERS))
        loss, accuracy = (f"{sum(r['result'][n] for r in records) / len(records):.3f}" for n in _RESULTS)
        head, gain = "{:.2f}, {:.2f}".format(*sizes.end("head/kernel")), f"{sizes.end(_LAST_GAIN)[0]:.1f}"
        view.add_row(table, constraint, *misses, head, gain, loss, accuracy)
    console.print(view)
    picture = args.out / "size.png"
    bisect_plot.sizes({f"{table}, {constraint}": sizes for (table, constraint), (sizes, _) in runs.items()}, picture)
    return picture


def _constraints(args: argparse.Namespace, base: dict, results, console: Console) -> None:
    from big_vision_dual.lab.studies import constraint

    found = constraint.at_their_best(base, args.seeds, results, _chosen(args, constraint.CONSTRAINTS))
    first, reference = next(iter(found.items()))
    view = Table("constraint", "best log2 lr", "training loss", f"change from {first}", "test loss", "accuracy",
                 f"change from {first}", "l2 norm, end / start",
                 caption=f"means ± standard deviations of {args.seeds} fresh seeds; changes paired, 95 % t interval; "
                 "*: the best rate is at the edge of the grid")  # fmt: skip
    for name, each in found.items():
        loss, accuracy = constraint.difference(each, reference)
        view.add_row(
            name, f"{each.log2_lr}{'*' if each.at_edge else ''}", _mean(each.loss_S), _three(loss),
            _mean(each.test_loss_S), _mean(each.accuracy_S), _three(accuracy), f"{each.growth_S.mean():.2f}",
        )  # fmt: skip
    console.print(view)


def _radius(args: argparse.Namespace, base: dict, results, console: Console) -> None:
    from big_vision_dual.lab.studies import constraint

    found = constraint.transfer(base, args.seeds, results)
    view = Table("lr", *(f"R = {radius:g}" for radius in constraint.RADII), title="training loss at the base's size")
    for lr in constraint.LRS:
        losses = (_mean(found.base[lr, radius]) for radius in constraint.RADII)
        view.add_row(f"2^{math.log2(lr):.0f}", *losses)
    console.print(view)
    lr, radius = found.best
    view = Table("size", *constraint.NEIGHBOURS, "the best above the lowest",
                 title=f"around the base's best, lr 2^{math.log2(lr):.0f}, R {radius:g}")  # fmt: skip
    for name, losses in found.grown.items():
        view.add_row(name, *map(_mean, losses.values()), _mean(found.regret(name)))
    console.print(view)


def _promise(args: argparse.Namespace, base: dict, results, console: Console) -> None:
    import numpy as np

    from big_vision_dual.lab.studies import promise

    view = Table("constraint", "start", "largest", "end", "one atom over its share, end", "training loss",
                 caption="change of the logits by unit steps of all atoms, of which the algebra promises 1 at most; "
                 f"means ± standard deviations of {args.seeds} seeds")  # fmt: skip
    runs = promise.run(base, args.seeds, results, _chosen(args, promise.CONSTRAINTS))
    for name, records in runs.items():
        results_S = [record["result"] for record in records]
        along_SxT = np.array([result["curve"]["together"] for result in results_S])
        columns = (
            [result["start"]["together"] for result in results_S], along_SxT.max(1), along_SxT[:, -1],
            [result["worst"] for result in results_S], [result["train_loss"] for result in results_S],
        )  # fmt: skip
        view.add_row(name, *(_mean(np.array(column)) for column in columns))
    console.print(view)


def _mean(values_S) -> str:
    return f"{values_S.mean():.3f} ± {values_S.std(ddof=1):.3f}"


_LAST_GAIN = "Transformer/encoder_norm/scale"
_PARAMETERS, _RESULTS = (("kernel",), ("bias", "scale")), ("train_loss", "val_accuracy")
_STUDIES = {"standard": _one_at_a_time, "dual": _one_at_a_time, "muon": _one_at_a_time, "factorial": _factorial,
            "shares": _shares, "growth": _growth, "size": _size, "constraints": _constraints, "radius": _radius,
            "promise": _promise}  # fmt: skip


def _table(title: str, effects: list, reference) -> Table:
    from big_vision_dual.lab.studies import fit

    count, seeds = len(effects), len(reference.loss_S)
    caption = (
        f"reference: loss {reference.loss_S.mean():.3f}, accuracy {reference.accuracy_S.mean():.3f}, best log2 lr "
        f"{reference.optimum.log2_lr:.1f}; changes paired over {seeds} seeds, 95 % t interval; *: the change of loss "
        f"excludes 0 with intervals wide enough for all {count} at once"
    )
    view = Table(
        "switch", "value", "best log2 lr", "change of loss", "change of accuracy", title=title, caption=caption
    )
    for each in sorted(effects, key=lambda e: -e.loss.value):
        together = fit.jointly(each.loss, count, seeds)
        view.add_row(
            each.switch,
            _text(each.value),
            f"{each.tuned.optimum.log2_lr:.1f}",
            _three(each.loss) + (" *" if together.low * together.high > 0 else ""),
            _three(each.accuracy),
        )
    return view


def _line(effect) -> str:
    return (
        f"{effect.switch} = {_text(effect.value)}: {_three(effect.loss)} at log2 lr {effect.tuned.optimum.log2_lr:.1f}"
    )


def _three(interval) -> str:
    return f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _text(value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
