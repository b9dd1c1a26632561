"""The one place through which every `gcloud` call goes: commands as values, and what their failures mean."""

from __future__ import annotations

import enum
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from big_vision_dual.pods import topologies


@dataclass(frozen=True)
class Result:
    """How a command ended: its exit status and what it printed."""

    code: int
    out: str = ""
    err: str = ""

    @property
    def ok(self) -> bool:
        return self.code == 0


class Runner(Protocol):
    """Runs commands. Tests and rehearsals put a stand-in here."""

    def run(self, argv: Sequence[str]) -> Result:
        """Runs to the end and captures the output."""
        ...

    def stream(self, argv: Sequence[str]) -> Result:
        """Runs to the end and passes the output on as it comes; `err` holds what stderr said."""
        ...

    def sleep(self, seconds: float) -> None: ...


class Failure(enum.Enum):
    """What a failed gcloud call was about, as far as its message tells."""

    STOCK_OUT = "no capacity"
    QUOTA = "quota"
    PERMISSION = "permission"
    ALREADY_EXISTS = "already exists"
    NOT_FOUND = "not found"
    PREEMPTED = "preempted"
    SSH = "ssh"
    TRANSIENT = "transient"
    UNKNOWN = "unknown"


# Order matters: a quota error is also RESOURCE_EXHAUSTED, which is what a stock-out says too.
_MESSAGES = (
    (Failure.QUOTA, r"quota"),
    (Failure.STOCK_OUT, r"no more capacity|insufficient.*capacity|RESOURCE_EXHAUSTED|stockout|unavailable in the"),
    (
        Failure.PERMISSION,
        r"PERMISSION_DENIED|does not have permission|'[^']*' permission|not .* an active account",
    ),
    (Failure.ALREADY_EXISTS, r"ALREADY_EXISTS|already exists"),
    (Failure.PREEMPTED, r"PREEMPTED|has been preempted|in state.*SUSPEND"),
    (Failure.NOT_FOUND, r"NOT_FOUND|was not found|matched no objects"),
    (Failure.SSH, r"return code \[?255|Connection .*(refused|timed out|closed|reset)|Permission denied \(publickey"),
    (Failure.TRANSIENT, r"\b50[0234]\b|UNAVAILABLE|INTERNAL: |deadline exceeded|try again"),
)


def classify(result: Result) -> Failure:
    """The failure that the command's stderr reports; only meaningful when `not result.ok`."""
    for failure, pattern in _MESSAGES:
        if re.search(pattern, result.err, re.IGNORECASE):
            return failure
    return Failure.SSH if result.code == 255 else Failure.UNKNOWN


ADVICE = {
    Failure.QUOTA: "The project has no quota for this slice here: ask for more (cloud.google.com/tpu/docs/quota), "
    "take a smaller slice, or delete queued resources that are SUSPENDED or FAILED, which count as well.",
    Failure.PERMISSION: "The account may not do this: `gcloud auth login`, `gcloud config set project`, and the role "
    "roles/tpu.admin (https://cloud.google.com/tpu/docs/setup-gcp-account).",
    Failure.SSH: "The workers cannot be reached: is there a firewall rule for ssh? `gcloud compute config-ssh`?",
}


class SubprocessRunner:
    """Runs commands on this machine."""

    def run(self, argv: Sequence[str]) -> Result:
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            return Result(127, "", f"{argv[0]}: command not found ({error})")
        return Result(done.returncode, done.stdout, done.stderr)

    def stream(self, argv: Sequence[str]) -> Result:
        # stderr goes through a pipe of its own: it is what tells an ssh drop from an end of the log.
        with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                sys.stderr.write(line)
        return Result(process.returncode, "", "".join(said[-50:]))

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass(frozen=True)
class Tpu:
    """The commands about one queued resource and its one node, both called `name`."""

    name: str
    zone: str
    slice: topologies.Slice
    project: str | None = None
    spot: bool = False

    def _gcloud(self, *words: str) -> list[str]:
        project = [f"--project={self.project}"] if self.project else []
        return ["gcloud", "compute", "tpus", *words, f"--zone={self.zone}", *project, "--quiet"]

    def create(self) -> list[str]:
        return self._gcloud(
            "queued-resources",
            "create",
            self.name,
            f"--node-id={self.name}",
            f"--accelerator-type={self.slice.accelerator_type}",
            f"--runtime-version={self.slice.chip.runtime}",
            *(["--spot"] if self.spot else []),
        )

    def describe(self) -> list[str]:
        return self._gcloud("queued-resources", "describe", self.name, "--format=json")

    def describe_node(self) -> list[str]:
        return self._gcloud("tpu-vm", "describe", self.name, "--format=value(state)")

    def delete(self) -> list[str]:
        """--force deletes the node with the request; without it a request that holds a node stays."""
        return self._gcloud("queued-resources", "delete", self.name, "--force")

    def copy(self, path: str) -> list[str]:
        return self._gcloud("tpu-vm", "scp", path, f"{self.name}:", "--worker=all")

    def ssh(self, script: str, worker: str = "all") -> list[str]:
        return self._gcloud("tpu-vm", "ssh", self.name, f"--worker={worker}", f"--command={script}")


def storage_has(url: str) -> list[str]:
    return ["gcloud", "storage", "ls", url]


def state_of(described: Result) -> tuple[str, str]:
    """(state, accelerator type) of `queued-resources describe --format=json`."""
    resource = json.loads(described.out)
    (node,) = resource["tpu"]["nodeSpec"]
    return resource["state"]["state"], node["node"].get("acceleratorType", "")


def shown(argv: Sequence[str]) -> str:
    """The command as one would type it."""
    return shlex.join(argv)
