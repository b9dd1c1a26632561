"""`bvd completion`: completes commands, options, their choices and recipes in bash and zsh."""

from __future__ import annotations

import argparse

from big_vision_dual.train import command

EXAMPLES = ("bash >> ~/.bashrc", "zsh >> ~/.zshrc")
_RECIPES = ("--config", "--vs")
_BASH = """_bvd() {{
  local words
  case "${{COMP_WORDS[1]}} ${{COMP_WORDS[COMP_CWORD-1]}}" in
{values}
  *) case "$COMP_CWORD ${{COMP_WORDS[1]}}" in
    "1 "*) words="{commands}" ;;
{options}
    esac ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _bvd bvd
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which shell."""
    parser.add_argument("shell", choices=("bash", "zsh"))


def run(args: argparse.Namespace) -> int:
    """Prints the script."""
    from big_vision_dual.cli.main import COMMANDS, parsers

    _, commands = parsers(list(COMMANDS))
    start = "autoload -U +X bashcompinit && bashcompinit\n" if args.shell == "zsh" else ""
    print(start + script(commands), end="")
    return 0


def script(commands: dict[str, argparse.ArgumentParser]) -> str:
    """A bash function for the parsers of commands, by name."""
    values, options = [], []
    for name, parser in commands.items():
        chosen = {option: words for each in _with_verbs(parser) for option, words in _choices(each)}
        values += [f'  "{name} {option}") words="{words}" ;;' for option, words in chosen.items()]
        words = " ".join([*_positional(parser), *dict.fromkeys(command.options_of(parser))])
        options.append(f'    *" {name}") words="{words}" ;;')
    return _BASH.format(values="\n".join(values), commands=" ".join(commands), options="\n".join(options))


def _with_verbs(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    verbs = [v for a in parser._actions if isinstance(a, argparse._SubParsersAction) for v in a.choices.values()]
    return [parser, *verbs]


def _choices(parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    """(option, its possible values) where they are known."""
    from big_vision_dual.cli import list as listed

    recipes = " ".join(path.stem for path in listed.recipes())
    return [
        (option, recipes if option in _RECIPES else " ".join(map(str, action.choices or ())))
        for action in parser._actions
        for option in action.option_strings
        if option in _RECIPES or action.choices
    ]


def _positional(parser: argparse.ArgumentParser) -> list[str]:
    """Verbs, and the values of positional arguments that have choices."""
    return [str(word) for a in parser._actions if not a.option_strings and a.choices for word in a.choices]
