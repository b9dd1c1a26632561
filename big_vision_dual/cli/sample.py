"""`bvd sample`: text from a run of a byte-level language model."""

from __future__ import annotations

import argparse

from big_vision_dual.cli import checks

EXAMPLES = ('runs/mamba_bytes --prompt "The " --length 200', "runs/mamba_bytes --temperature 0")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("workdir", help="the folder of a run")
    parser.add_argument("--prompt", default="\n", help="what the text begins with (default a new line)")
    parser.add_argument("--length", type=checks.whole(1), default=200, help="bytes to write")
    parser.add_argument("--temperature", type=checks.number("[0, inf)"), default=0.8, help="0 takes the likeliest byte")
    parser.add_argument("--seed", type=checks.whole(0), default=0, help="of what is drawn")


def run(args: argparse.Namespace) -> int:
    """Prints prompt and continuation."""
    import numpy as np

    from big_vision_dual.train import sampling

    prompt = args.prompt.encode()
    if not prompt:
        raise ValueError("--prompt is empty; possible: some text, by default a new line.")
    model, params = sampling.load(args.workdir)
    tokens = np.frombuffer(prompt, np.uint8).astype(np.int32)
    written = sampling.generate(model, params, tokens, args.length, args.temperature, args.seed)
    print(printable((prompt + np.asarray(written).astype(np.uint8).tobytes()).decode(errors="replace")))
    return 0


def printable(text: str) -> str:
    """Control characters but new lines and tabs as escapes, so that none of them commands the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
