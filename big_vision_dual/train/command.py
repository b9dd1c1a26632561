"""Big Vision's entry point: python -m big_vision_dual.train --config F.py:arg --workdir W [--config.key=v ...].

Exit codes: 0 done; 75 stopped by SIGTERM or SIGINT with everything saved, the same command continues;
2 a mistake in the input; 1 failed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from big_vision_dual.core import errors
from big_vision_dual.train import quiet

EXAMPLES = (
    "--config mnist5k_vit_dual --workdir runs/mnist",
    "--config mnist5k_vit:dual --workdir runs/small --config.model.width=32 --config.lr 0.01",
    "--config my_config.py --workdir gs://BUCKET/run --config.wandb=True",
)
_OVERRIDE = "--config."
_DISTRIBUTED = ("auto", "on", "off")  # `distributed.MODES`, which needs JAX


class Parser(argparse.ArgumentParser):
    """Shows defaults in its help, and takes --config.KEY=VALUE or --config.KEY VALUE beside its own arguments."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, formatter_class=_Help, **options)

    def parse(self, arguments: Sequence[str], asked: argparse.ArgumentParser | None = None) -> argparse.Namespace:
        """The namespace, with the overrides in it. asked: the parser of the command that errors are about."""
        args, rest = self.parse_known_args(_joined(arguments))
        wrong = [word for word in rest if not word.startswith(_OVERRIDE)]
        if wrong:
            (asked or self).error(_unrecognized(wrong, asked or self))
        args.overrides = [word for word in rest if word.startswith(_OVERRIDE)]
        return args

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\nSee {self.prog} --help.\n")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps line breaks of descriptions, and adds defaults to the help of arguments that have one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, default = action.help or "", action.default
        if default in (None, False, "", argparse.SUPPRESS) or "default" in text:
            return text
        shown = str(default).replace("%", "%%")
        return f"{text} (default {shown})".strip()


def examples(program: str, given: Sequence[str]) -> str:
    """The last paragraph of a help page."""
    return "\n".join(["examples:", *(f"  {program} {line}" for line in given)])


def options_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    """All options of a parser and of its verbs."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from options_of(verb)


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains; `arguments` as on the command line. Returns the exit code."""
    program = "python -m big_vision_dual.train"
    parser = Parser(prog=program, description=__doc__, epilog=examples(program, EXAMPLES))
    add_arguments(parser)
    args = parser.parse(sys.argv[1:] if arguments is None else arguments)
    quiet.no_tpu()
    with quiet.libraries():
        return errors.guarded(parser.prog, lambda: run(args))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What a run is told beside its --config.KEY=VALUE overrides."""
    parser.add_argument("--config", required=True, help="a config file or a recipe's name, with an optional :arg")
    parser.add_argument("--workdir", required=True, help="folder for metrics and checkpoints, local or gs://")
    parser.add_argument("--distributed", choices=_DISTRIBUTED, default="auto", help="join a pod's other hosts")


def run(args: argparse.Namespace) -> int:
    """Trains with parsed arguments; 0 when done."""
    import jax

    from big_vision_dual.train import distributed, progress, recipes, telling
    from big_vision_dual.train.loop import fit

    started = time.monotonic()
    with distributed.joined(args.distributed):
        last = fit(recipes.load(args.config, args.overrides), args.workdir, name=args.config)
        if jax.process_index() == 0:
            said = telling.closing(last, time.monotonic() - started, args.workdir)
            print(said, file=progress.Screen(sys.stdout), flush=True)
    return 0


def _unrecognized(wrong: Sequence[str], parser: argparse.ArgumentParser) -> str:
    near = errors.did_you_mean(wrong[0].partition("=")[0], options_of(parser))
    return f"unrecognized arguments: {' '.join(wrong)}{near}."


def _joined(arguments: Sequence[str]) -> list[str]:
    """'--config.lr', '1' -> '--config.lr=1'."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1].startswith(_OVERRIDE) and "=" not in joined[-1] and not argument.startswith("--"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined
