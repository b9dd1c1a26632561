"""`bvd sample`: text from a run of a byte-level language model."""

from __future__ import annotations

import argparse

EXAMPLES = ('runs/mamba_bytes --prompt "The " --length 200', "runs/mamba_bytes --temperature 0")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("workdir", help="the folder of a run")
    parser.add_argument("--prompt", default="\n", help="what the text begins with (default a new line)")
    parser.add_argument("--length", type=int, default=200, help="bytes to write (default 200)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest byte (default .8)")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Prints prompt and continuation."""
    import numpy as np

    from big_vision_dual.train import sampling

    prompt = args.prompt.encode()
    if not prompt or args.length < 1 or args.temperature < 0:
        raise ValueError(f"--prompt {args.prompt!r}, --length {args.length}, --temperature {args.temperature}; "
                         "possible: some text, at least 1, at least 0.")  # fmt: skip
    model, params = sampling.load(args.workdir)
    tokens = np.frombuffer(prompt, np.uint8).astype(np.int32)
    written = sampling.generate(model, params, tokens, args.length, args.temperature, args.seed)
    print((prompt + np.asarray(written).astype(np.uint8).tobytes()).decode(errors="replace"))
    return 0
