"""The shell scripts that the workers of a slice run. Each may be sent again at any time and does no harm.

A run lives in ~/bvd-runs/NAME: `log`, `pid` while it runs, `exit_code` once it has ended. The job gets a session of
its own, so that a dropped ssh connection does not end it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

_UV = "0.13.9"
_STATUS = re.compile(r"^bvd-status (absent|running|exit (\d+))$", re.MULTILINE)


def _folder(name: str) -> str:
    return f"$HOME/bvd-runs/{shlex.quote(name)}"


def install(archive: str, commit: str) -> str:
    """Unpacks the source and installs the exact packages of its locks; uv, of one version, brings Python."""
    source, uv = f"$HOME/bvd-source/{commit}", f"$HOME/.local/uv-{_UV}"
    return (
        f"set -eu; mkdir -p {source}; tar -xzf $HOME/{shlex.quote(archive)} -C {source}; cd {source}; "
        f"test -x {uv}/uv || curl -LsSf https://astral.sh/uv/{_UV}/install.sh | env UV_UNMANAGED_INSTALL={uv} sh; "
        f"test -d .venv || {uv}/uv venv -q --managed-python --python 3.11; "
        f"{uv}/uv pip install -q --no-deps -r requirements.txt -r requirements-tpu.txt "
        "--build-constraints requirements-build.txt"
    )


def start(name: str, commit: str, train: Sequence[str], xla_flags: str = "") -> str:
    """Starts `train` (arguments of big_vision_dual.train) unless it runs here or has succeeded here.

    xla_flags: of the TPU's compiler, as LIBTPU_INIT_ARGS has them.
    """
    job = f"LIBTPU_INIT_ARGS={shlex.quote(xla_flags)} " if xla_flags else ""
    job += f"$HOME/bvd-source/{commit}/.venv/bin/python -m big_vision_dual.train {shlex.join(train)} "
    job += ">>$run/log 2>&1; echo $? >$run/exit_code"
    return (
        f"set -eu; mkdir -p {_folder(name)}; cd {_folder(name)}; "
        'if test "$(cat exit_code 2>/dev/null)" = 0; then exit 0; fi; '
        'if test -f pid && kill -0 "$(cat pid)" 2>/dev/null; then exit 0; fi; '
        f"rm -f exit_code; touch log; run=$PWD; cd $HOME/bvd-source/{commit}; export run; "
        f"setsid nohup sh -c {shlex.quote(job)} </dev/null >/dev/null 2>&1 & "
        "echo $! >$run/pid"
    )


def status(name: str) -> str:
    """Prints one line a worker: `bvd-status absent`, `running` or `exit N`; 137 for a job that vanished."""
    return (
        f"cd {_folder(name)} 2>/dev/null || {{ echo bvd-status absent; exit 0; }}; "
        'if test -f exit_code; then echo "bvd-status exit $(cat exit_code)"; '
        'elif kill -0 "$(cat pid)" 2>/dev/null; then echo bvd-status running; else echo "bvd-status exit 137"; fi'
    )


def parse_status(output: str) -> list[str | int]:
    """['absent' | 'running' | exit status], one entry a worker that answered."""
    return [int(code) if code else word for word, code in _STATUS.findall(output)]


def follow(name: str) -> str:
    """The log as it grows, until the job ends."""
    return f'cd {_folder(name)} && tail -n 100 -F log --pid="$(cat pid)"'


def stop(name: str) -> str:
    """Ends what is left of the job, its children included, so that a new one finds the TPU free."""
    end = 'kill -TERM -- -"$(cat pid)" 2>/dev/null; sleep 5; rm -f pid exit_code'
    return f"cd {_folder(name)} 2>/dev/null || exit 0; {end}"


def keep_log(name: str, workdir: str) -> str:
    """Copies each worker's log into the workdir before the VMs go."""
    return f'gcloud storage cp {_folder(name)}/log {shlex.quote(workdir)}/launch_logs/"$(hostname)".log'


def mark_finished(name: str, marker: str) -> str:
    """Leaves the exit status in the workdir, so that the same launch later knows that nothing is left to do."""
    return f"gcloud storage cp {_folder(name)}/exit_code {shlex.quote(marker)}"
