"""`bvd bisect`: what does each difference between the standard and the dualized ViT do?"""

from __future__ import annotations

import argparse
import pathlib

from rich.console import Console
from rich.table import Table

from big_vision_dual.cli import checks
from big_vision_dual.train import recipes

EXAMPLES = ("", "--study factorial --switches optimizer,init --seeds 2", "--study growth --out runs/growth")
VECTORS = ".*/(bias|scale)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    from big_vision_dual.lab.studies.bisect import SWITCHES

    parser.add_argument("--config", default="study_vit", help="the base recipe")
    parser.add_argument("--study", choices=tuple(_STUDIES), default="dual",
                        help="one switch at a time from an end, all combinations, the target norms of some atoms, "
                        "growth of weights, or their sizes against the prediction")  # fmt: skip
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
        "--seeds", type=checks.whole(2), default=3, help="trainings of each variant, of which the intervals are"
    )
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/bisect"), help="folder of results")


def run(args: argparse.Namespace) -> int:
    """Runs one study, prints its table and draws it."""
    from big_vision_dual.lab.studies.results import Results

    base = recipes.load(args.config, args.overrides).to_dict()
    results, console = Results(args.out / "results.jsonl"), Console()
    picture = _STUDIES[args.study](args, base, results, console)
    if picture:
        console.print(f"wrote {picture} and {args.out / 'results.jsonl'}")
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

    runs = size.run(base, args.seeds, results)
    view = Table("table", "constraint", "kernels: measured / predicted", "vectors", "training loss", "accuracy")
    for (table, constraint), (sizes, records) in runs.items():
        misses = (f"{m[1]:.2f} ({m[0]:.2f} .. {m[2]:.2f})" for m in map(sizes.miss, _PARAMETERS))
        loss, accuracy = (f"{sum(r['result'][n] for r in records) / len(records):.3f}" for n in _RESULTS)
        view.add_row(table, constraint, *misses, loss, accuracy)
    console.print(view)
    picture = args.out / "size.png"
    bisect_plot.sizes({f"{table}, {constraint}": sizes for (table, constraint), (sizes, _) in runs.items()}, picture)
    return picture


_PARAMETERS, _RESULTS = (("kernel",), ("bias", "scale")), ("train_loss", "val_accuracy")
_STUDIES = {"standard": _one_at_a_time, "dual": _one_at_a_time, "muon": _one_at_a_time, "factorial": _factorial,
            "shares": _shares, "growth": _growth, "size": _size}  # fmt: skip


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
