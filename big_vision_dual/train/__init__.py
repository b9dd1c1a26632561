"""One training run: state, sharded step, loop, checkpoints, metrics."""
