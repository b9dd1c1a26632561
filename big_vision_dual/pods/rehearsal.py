"""A launch without a cloud: prints every command and answers as a cloud without trouble would."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from big_vision_dual.pods import gcloud, topologies
from big_vision_dual.pods.gcloud import Result


class Rehearsal:
    """The `Runner` of a dry run. The launcher goes its normal way, so what is printed is what would be run."""

    def __init__(self, tpu: topologies.Slice, say: Callable[[str], None]):
        self._tpu, self._say = tpu, say
        self._created = self._followed = False

    def run(self, argv: Sequence[str]) -> Result:
        self._say(gcloud.shown(argv))
        words = set(argv)
        if "create" in words:
            self._created = True
        if {"queued-resources", "describe"} <= words:
            return self._described()
        if {"storage", "ls"} <= words:
            return Result(1, "", "One or more URLs matched no objects.")
        if "rev-parse" in words:
            return Result(0, "COMMIT\n")
        if any("bvd-status" in word for word in argv):
            status = "exit 0" if self._followed else "absent"
            return Result(0, f"bvd-status {status}\n" * self._tpu.hosts)
        return Result(0)

    def stream(self, argv: Sequence[str]) -> Result:
        self._followed = True
        return self.run(argv)

    def sleep(self, seconds: float) -> None:
        del seconds  # a rehearsal does not wait

    def _described(self) -> Result:
        if not self._created:
            return Result(1, "", "NOT_FOUND")
        node = {"acceleratorType": self._tpu.accelerator_type}
        return Result(0, json.dumps({"state": {"state": "ACTIVE"}, "tpu": {"nodeSpec": [{"node": node}]}}))
