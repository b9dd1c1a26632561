"""`bvd norms build | show | compare | diff | check | audit | measure`."""

from __future__ import annotations

import argparse
import pathlib
import re
from typing import Any

import ml_collections
from rich.console import Console
from rich.table import Table

from big_vision_dual.cli import checks
from big_vision_dual.core import files, rules, tables
from big_vision_dual.core.tables import step_size
from big_vision_dual.lab.studies.settings import SETTINGS
from big_vision_dual.models import mup, norm_trees
from big_vision_dual.train import recipes

EXAMPLES = (
    "build --config mnist5k_vit_dual --config.norms.blocks_mass=5 --out t.json",
    "show vit_s16_i1k --plot t.png",
    "show vit_s16_i1k --lr 0.1 --radius 25",
    "compare vit_s16_i1k moonlight scion --lr 0.1,0.001,0.00064 --unit rms",
    "diff vit_s16_i1k vit_s16_i1k_first_attempt",
    "check mnist5k_vit --config mnist5k_vit_dual",
    "audit --config mnist5k_vit_dual",
    "audit --config mnist5k_vit_dual --at runs/mnist5k_dual/checkpoints/300",
    "build --config mnist5k_vit_dual --measured --out measured.json",
    "measure --config mnist5k_vit --at 50",
    "audit --model my_package.nets:Net --data FILE.npz",
    "measure --model my_package.nets:Net --data FILE.npz --setting adamw",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verbs."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    build = verbs.add_parser("build", help="dry-run a config's norm tree; show the table or write it to a file")
    checks.add_subject(build)
    build.add_argument("--out", type=pathlib.Path, help="the JSON file to write")
    build.add_argument("--measured", action="store_true", help="measure how far unit steps move the output instead")
    _add_measuring(build, "with --measured: ")
    build.add_argument("--batches", type=checks.whole(1), default=1, help="with --measured: batches to average over")
    build.add_argument("--json", action="store_true", help="print the table as a file holds it")
    build.add_argument("--mup", action="store_true", help="instead config.mup's table: deviations and multipliers")
    show = verbs.add_parser("show", help="print a table: target norms, layers by atoms, or muP's rules, leaf by leaf")
    show.add_argument("table", help="a JSON file, or a name in norm_cache")
    show.add_argument("--leaves", action="store_true", help="one line a leaf, none for several layers")
    show.add_argument("--plot", type=pathlib.Path, help="also draw target norms, log colour, into this PNG or SVG file")
    _add_step(show)
    compare = verbs.add_parser("compare", help="steps of tables, rules and runs side by side, in common units")
    compare.add_argument(
        "sources", nargs="+", help=f"tables, workdirs of runs, or rules for the first table: {', '.join(rules.RULES)}"
    )
    compare.add_argument(
        "--lr", type=checks.numbers("(0, inf)"), default=[1.0], help="of all, or one each (a run's is its own)"
    )
    compare.add_argument(
        "--unit", choices=("own", "rms", "spectral", "relative"), default="rms", help="to print and draw"
    )
    compare.add_argument("--plot", type=pathlib.Path, help="also draw it, into this PNG or SVG file")
    compare.add_argument("--json", type=pathlib.Path, help="also write every atom in every unit, into this file")
    diff = verbs.add_parser("diff", help="compare two tables, largest ratio of target norms first; 1 if they differ")
    diff.add_argument("a")
    diff.add_argument("b")
    diff.add_argument("--most", type=checks.whole(0), default=20, help="how many leaves to print")
    check = verbs.add_parser("check", help="does a table fit the parameters of a config's model?")
    check.add_argument("table")
    check.add_argument("--config", required=True)
    audit = verbs.add_parser("audit", help="measure what the table of a config declares; 1 if something is flagged")
    checks.add_subject(audit)
    audit.add_argument(
        "--setting",
        choices=[name for name in SETTINGS if name.startswith("dualize")],
        help="put on top of it; of a model of your own dualize where none is given",
    )
    audit.add_argument("--factor", type=checks.number("(1, inf)"), default=8.0, help="how far off is too far")
    audit.add_argument("--steps", type=checks.whole(1), default=20, help="training steps for the growth of weights")
    audit.add_argument("--at", type=_steps_or_checkpoint, default=0, metavar="STEPS|CHECKPOINT",
                       help="where changes are measured: after so many steps of training; or at a checkpoint: a run's "
                       "workdir, WORKDIR/checkpoints/STEP, or a weights file")  # fmt: skip
    measure = verbs.add_parser("measure", help="how far one real step of any optimizer moves the output, atom by atom")
    checks.add_subject(measure)
    measure.add_argument("--setting", choices=list(SETTINGS), help="put on top of it; without, as the recipe trains")
    measure.add_argument("--factor", type=checks.number("(1, inf)"), default=8.0, help="how far off is too far")
    _add_measuring(measure, "")


def _steps_or_checkpoint(text: str) -> int | str:
    """Type of --at: a whole number from 0, or a path."""
    return checks.whole(0)(text) if re.fullmatch(r"[-+]?\d+", text) else text


def _add_step(show: argparse.ArgumentParser) -> None:
    """Of `show`: what a training with this table would do, instead of its target norms."""
    show.add_argument(
        "--lr", type=checks.number("(0, inf)"), help="print steps at this learning rate, and where they settle"
    )
    show.add_argument("--wd", type=checks.number("[0, inf)"), help="with --lr: what a step takes off a matrix")
    show.add_argument("--radius", type=checks.number("(0, inf)"), help="with --lr: instead, the radius of every atom")
    show.add_argument("--momentum", type=checks.number("[0, 1)"), default=0.95, help="with --lr")
    show.add_argument("--nesterov", action="store_true", help="with --lr")


def _add_measuring(parser: argparse.ArgumentParser, when: str) -> None:
    """Where a config's model is measured, see `lab.studies.measuring`."""
    parser.add_argument("--examples", type=checks.whole(1), default=8, help=f"{when}examples of the batch measured on")
    parser.add_argument(
        "--output", choices=("logits", "features"), default="logits", help=f"{when}features feed the head"
    )
    parser.add_argument("--at", "--steps-before", type=_steps_or_checkpoint, default=0, metavar="STEPS|CHECKPOINT",
                        help=f"{when}after so many steps of training, or at a checkpoint as in audit")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Runs one verb; see `add_arguments`."""
    return _VERBS[args.verb](args, Console())


def _build(args: argparse.Namespace, console: Console) -> int:
    config = _subject(args)
    table = _built(config, args)
    kind = mup if args.mup else tables
    if args.out:
        kind.save(table, args.out)
        console.print(f"wrote {args.out}: {len(table.rows)} leaves; bvd norms show {args.out}")
    if args.json:
        print(kind.dumps(table), end="")
    elif not args.out:
        _print_whole(console, _view(table, leaves=False))
    return 0


def _subject(args: argparse.Namespace, setting: str | None = None) -> Any:
    """The config of a verb, with a setting on top of it; its model can be built and takes its data."""
    from big_vision_dual.lab.studies import settings

    config = checks.subject(args)
    if setting:
        config = ml_collections.ConfigDict(settings.apply(setting, config.to_dict()))
    checks.buildable([config.to_dict()])
    return config


def _built(config: Any, args: argparse.Namespace) -> Any:
    """The table that the flags ask for: muP's, a measured one, or the norm tree's."""
    if args.mup:
        return _mup_table(config)
    return _measured(config, args) if args.measured else norm_trees.table_for(config)


def _measured(config: Any, args: argparse.Namespace) -> tables.TargetNormTable:
    from big_vision_dual.lab.studies import measuring

    return measuring.measured_table(
        config.to_dict(), examples=args.examples, batches=args.batches, output=args.output, at=args.at
    )


def _measure(args: argparse.Namespace, console: Console) -> int:
    from big_vision_dual.lab.report import audit_view
    from big_vision_dual.lab.studies import measuring

    config = _subject(args, args.setting).to_dict()
    shares = measuring.step_shares(config, at=args.at, factor=args.factor, examples=args.examples, output=args.output)
    step = f"update {args.at + 1}" if isinstance(args.at, int) else f"a step at {args.at}"
    console.print(audit_view.shares(shares, args.factor, step))
    return 1 if any(share.flagged for share in shares) else 0


def _mup_table(config: Any) -> mup.MupTable:
    if not config.get("mup"):
        raise tables.TableError("--mup needs config.mup = dict(base_width=...), as mamba_bytes_mup has it.")
    return mup.for_config(config, _shapes(config))


def _view(table: Any, leaves: bool) -> Table:
    """A table of either kind for the terminal, folded over layers unless every leaf is wanted."""
    from big_vision_dual.lab.report import mup_view, table_view

    if isinstance(table, mup.MupTable):
        return mup_view.table(table, leaves)
    return table_view.leaves(table) if leaves else table_view.grid(table)


def _shapes(config: Any) -> Any:
    """The parameters of a config's model, as shapes."""
    import jax

    from big_vision_dual import models
    from big_vision_dual.models import init

    return jax.eval_shape(lambda: init.params(config, models.of(config)))


def _show(args: argparse.Namespace, console: Console) -> int:
    from big_vision_dual.lab.report import table_view

    of_mup = mup.is_table(args.table)
    if of_mup and (args.plot or args.lr is not None):
        raise tables.TableError(f"{args.table} is a muP table; --plot and --lr are of target norms, leave them out.")
    table: Any = mup.load(args.table) if of_mup else tables.load(args.table)
    if args.lr is not None:
        return _show_steps(args, table, console)
    if args.wd is not None or args.radius is not None:
        raise tables.TableError("--wd and --radius say where steps settle: give --lr too.")
    _print_whole(console, _view(table, args.leaves))
    if args.plot:
        table_view.plot(table, args.plot)
        console.print(f"wrote {args.plot}")
    return 0


def _show_steps(args: argparse.Namespace, table: tables.TargetNormTable, console: Console) -> int:
    from big_vision_dual.lab.report import step_view

    if args.wd is not None and args.radius is not None:
        raise tables.TableError(f"--wd={args.wd:g} and --radius={args.radius:g}: give one of them.")
    momentum = step_size.Momentum(args.momentum, args.nesterov)
    _print_whole(console, step_view.equilibrium(table, args.lr, momentum, args.wd, args.radius, args.leaves))
    return 0


def _compare(args: argparse.Namespace, console: Console) -> int:
    from big_vision_dual.lab.report import step_view

    if len(args.lr) not in (1, len(args.sources)):
        raise tables.TableError(
            f"--lr has {len(args.lr)} numbers for {len(args.sources)} sources; give one, or one each."
        )
    lrs = args.lr * len(args.sources) if len(args.lr) == 1 else args.lr
    first = args.sources[0]
    base = None if first in rules.RULES or pathlib.Path(first).is_dir() else tables.load(first)
    columns = [step_view.column(source, lr, base) for source, lr in zip(args.sources, lrs, strict=True)]
    _print_whole(console, step_view.comparison(columns, args.unit))
    if args.plot:
        step_view.plot(columns, args.unit, args.plot)
    if args.json:
        files.write_json(args.json, step_view.as_json(columns))
    return 0


def _diff(args: argparse.Namespace, console: Console) -> int:
    from big_vision_dual.lab.report import table_view

    difference = table_view.difference(tables.load(args.a), tables.load(args.b))
    view = table_view.difference_table(difference, args.a, args.b, args.most)
    if view.row_count:
        _print_whole(console, view)
    console.print(table_view.difference_text(difference, args.a, args.b))
    return 0 if difference.same else 1


def _print_whole(console: Console, view: Table) -> None:
    """Prints a table with no number cut, over several tables in a narrow terminal."""
    from big_vision_dual.lab.report import table_view

    for part in table_view.fitting(view, console):
        console.print(part)


def _check(args: argparse.Namespace, console: Console) -> int:
    table = tables.load(args.table)
    tables.check(table, _shapes(recipes.load(args.config, args.overrides)))
    console.print(f"{args.table} fits {args.config}: {len(table.rows)} leaves.")
    return 0


def _audit(args: argparse.Namespace, console: Console) -> int:
    from big_vision_dual.lab.report import audit_view
    from big_vision_dual.lab.studies import norm_audit

    config = _subject(args, args.setting or ("dualize" if args.model else None)).to_dict()
    findings = norm_audit.audit(config, factor=args.factor, steps=args.steps, at=args.at)
    for what in norm_audit.KINDS:
        found = [finding for finding in findings if finding.what == what]
        if found:
            console.print(audit_view.table(what, found, args.factor))
        else:
            console.print(f"no {what}: {config['model_name']} names no blocks (docs/your_model.md).")
    return 1 if any(finding.flagged for finding in findings) else 0


_VERBS = {
    "build": _build,
    "show": _show,
    "compare": _compare,
    "diff": _diff,
    "check": _check,
    "audit": _audit,
    "measure": _measure,
}
