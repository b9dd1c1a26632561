"""`bvd launch`."""

from __future__ import annotations

import argparse
import pathlib
import sys

from big_vision_dual.pods import gcloud, launcher, topologies, xla_flags

EXAMPLES = (
    "--tpu v4-32 --zone us-central2-b --name run1 --config vit_s16_i1k_dual --workdir gs://BUCKET/run1 --spot",
    "--tpu v5e-8 --zone us-west4-a --name run2 --config cifar10_vit --workdir gs://BUCKET/run2 --execute",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `bvd launch`."""
    parser.add_argument(
        "--tpu", required=True, help=f"slice: {', '.join(topologies.known()[:4])}, ..., v4-32, v5e-16, v6e-256"
    )
    parser.add_argument("--zone", required=True, help="Google Cloud zone, for example us-central2-b")
    parser.add_argument("--name", required=True, help="name of the slice; the same name takes up the same run")
    parser.add_argument("--config", required=True, help="recipe, as for big_vision_dual.train")
    parser.add_argument("--workdir", default="", help="gs://BUCKET/FOLDER for checkpoints, metrics and logs")
    parser.add_argument("--project", help="Google Cloud project; otherwise gcloud's own setting")
    parser.add_argument("--spot", action="store_true", help="cheaper, may be preempted; then created anew and resumed")
    parser.add_argument(
        "--xla-flags", nargs="+", default=(), choices=tuple(xla_flags.GROUPS), metavar="GROUP",
        help=f"groups of XLA's flags for the workers: {', '.join(xla_flags.GROUPS)} (see bvd preflight)",
    )  # fmt: skip
    parser.add_argument("--keep", action="store_true", help="do not delete the slice at the end")
    parser.add_argument("--max-wait-hours", type=float, default=24.0, help="longest wait in the queue (default 24)")
    parser.add_argument("--source", type=pathlib.Path, default=pathlib.Path("."), help="clone whose HEAD runs")
    parser.add_argument("--execute", action="store_true", help="run the commands; without it they are only printed")


def run(args: argparse.Namespace) -> int:
    """Runs `bvd launch` with `args.overrides`, a list of --config.key=value; 0 done, 1 failed, 130 interrupted."""
    try:
        spec = launcher.LaunchSpec(
            tpu=args.tpu,
            zone=args.zone,
            name=args.name,
            config=args.config,
            workdir=args.workdir,
            overrides=tuple(args.overrides),
            project=args.project,
            spot=args.spot,
            keep=args.keep,
            source=args.source,
            xla_flags=tuple(args.xla_flags),
            max_wait_s=args.max_wait_hours * 3600,
        )
        outcome = launcher.launch(spec, gcloud.SubprocessRunner(), dry_run=not args.execute)
    except (launcher.LaunchError, topologies.TopologyError) as error:
        print(f"bvd launch: {error}", file=sys.stderr)
        return 1
    if not args.execute:
        print("# dry run: nothing was run. Add --execute to run these commands.", file=sys.stderr)
    return 130 if outcome is launcher.Outcome.INTERRUPTED else 0
