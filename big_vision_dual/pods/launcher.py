"""Runs one training on a TPU slice: create, install, start, follow, re-create after preemption, delete.

Everything is keyed by the slice's name and the workdir, and every step may be repeated: a launcher that was
stopped is started again with the same command and takes up what it finds.
"""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Callable

from big_vision_dual.pods import gcloud, remote, topologies, xla_flags
from big_vision_dual.pods.gcloud import Failure, Result, Runner
from big_vision_dual.pods.rehearsal import Rehearsal
from big_vision_dual.pods.spec import LaunchError, LaunchSpec, Outcome, check_recipe

PLACEHOLDER = "gs://YOUR-BUCKET"


def backoff(attempt: int) -> float:
    """Seconds before try `attempt` (0, 1, ...): 10, 20, 40, ... at most 5 minutes."""
    return min(300.0, 10.0 * 2 ** min(attempt, 5))


def launch(spec: LaunchSpec, runner: Runner, dry_run: bool = True, say: Callable[[str], None] = print) -> Outcome:
    """Runs `spec` to its end and returns how it ended; a dry run only prints the commands, in order.

    Before anything is printed or created the recipe is loaded here, with its overrides. Raises `LaunchError` with what
    is left running, and what `recipes.load` raises. Ctrl-C leaves the training running and says how to go on.
    """
    check_recipe(spec)
    workdir = (spec.workdir or f"{PLACEHOLDER}/{spec.name}").rstrip("/")
    if dry_run:
        runner = Rehearsal(topologies.parse(spec.tpu), say)
    else:
        _check_ready(spec)
    run = _Launch(spec, workdir, runner, say)
    try:
        return run.to_the_end()
    except KeyboardInterrupt:
        say(f"\nStopped watching. {run.left_running()}")
        return Outcome.INTERRUPTED
    except LaunchError as error:
        raise LaunchError(f"{error}\n{run.left_running()}") from error


def _check_ready(spec: LaunchSpec) -> None:
    if not spec.workdir:
        raise LaunchError("no --workdir: checkpoints would go with the slice. Give --workdir gs://BUCKET/FOLDER.")
    if not (spec.source / "requirements.txt").is_file():
        raise LaunchError(f"no requirements.txt in {spec.source.resolve()}: give --source CLONE of this project.")


class _Preempted(Exception):
    """The slice is gone; the run goes on from its last checkpoint on a new one."""


class _Launch:
    """One launch: the state machine. Each method is one transition."""

    def __init__(self, spec: LaunchSpec, workdir: str, runner: Runner, say: Callable[[str], None]):
        self.spec, self.workdir, self.runner, self.say = spec, workdir, runner, say
        self.tpu = gcloud.Tpu(spec.name, spec.zone, topologies.parse(spec.tpu), spec.project, spec.spot)
        self.marker = f"{workdir}/launch_finished"
        self.exists = False
        self.commit = ""

    def to_the_end(self) -> Outcome:
        if self._marked_finished():
            self.say(f"{self.spec.name} has finished: {self.marker} exists. Use another --workdir to run it again.")
            return Outcome.ALREADY_FINISHED
        for preemptions in range(self.spec.max_preemptions + 1):
            try:
                self._acquire()
                self._train()
                break
            except _Preempted as event:
                self.say(f"preempted ({preemptions + 1}): {event}; a new slice resumes from {self.workdir}")
                self._delete()
        else:
            raise LaunchError(f"{self.spec.name}: preempted more than {self.spec.max_preemptions} times; giving up.")
        self._release()
        return Outcome.FINISHED

    def left_running(self) -> str:
        """What this launch leaves behind, and the commands that end it or take it up again."""
        if not self.exists:
            return "This launch leaves no slice behind."
        return (
            f"The slice {self.spec.name} ({self.spec.tpu}, {self.spec.zone}) is left as it is and costs money.\n"
            f"  delete it:    {gcloud.shown(self.tpu.delete())}\n"
            "  take it up:   the same `bvd launch` command again (it follows what runs and starts nothing twice)"
        )

    # ---- the slice

    def _acquire(self) -> None:
        """Returns when the queued resource is ACTIVE; creates it, or creates it anew, where needed."""
        waited, attempt = 0.0, 0
        while True:
            state = self._state()
            if state == "ACTIVE":
                return
            if state in ("FAILED", "SUSPENDED"):
                self.say(f"{self.spec.name} is {state}: deleted, to be requested again")
                self._delete()
            if state in ("FAILED", "SUSPENDED", "absent"):
                self._create()
            if waited >= self.spec.max_wait_s:
                raise LaunchError(
                    f"no {self.spec.tpu} in {self.spec.zone} within {self.spec.max_wait_s / 3600:g} h (now {state}). "
                    "Try another zone, another size, --spot, or a longer --max-wait-hours."
                )
            self.runner.sleep(backoff(attempt))
            waited, attempt = waited + backoff(attempt), attempt + 1

    def _state(self) -> str:
        result = self._call(self.tpu.describe())
        if not result.ok:
            if gcloud.classify(result) is Failure.NOT_FOUND:
                self.exists = False
                return "absent"
            raise self._fatal("describe", result)
        self.exists = True
        state, accelerator = gcloud.state_of(result)
        if accelerator and accelerator != self.tpu.slice.accelerator_type:
            raise LaunchError(
                f"a slice called {self.spec.name} exists, but it is a {accelerator}, not a "
                f"{self.tpu.slice.accelerator_type}. Choose another --name, or delete it first."
            )
        return state

    def _create(self) -> None:
        self.exists = True  # from here on: a Ctrl-C may come after the request has gone out
        result = self._call(self.tpu.create())
        if result.ok or gcloud.classify(result) is Failure.ALREADY_EXISTS:
            return
        self.exists = False
        if gcloud.classify(result) is not Failure.STOCK_OUT:
            raise self._fatal("create", result)
        self.say(f"no capacity for {self.spec.tpu} in {self.spec.zone} now; trying again")

    def _delete(self) -> None:
        result = self._call(self.tpu.delete())
        if not result.ok and gcloud.classify(result) is not Failure.NOT_FOUND:
            raise self._fatal("delete", result)
        self.exists = False

    def _release(self) -> None:
        if self.spec.keep:
            self.say(self.left_running())
        else:
            self._delete()

    # ---- the job on it

    def _train(self) -> None:
        """Brings the job to exit status 0 on every worker; raises on failure or preemption."""
        statuses = self._statuses()
        if "absent" in statuses or any(status not in ("running", 0) for status in statuses):
            self._install_and_start(stop_first=set(statuses) != {"absent"})
        drops = 0
        while True:
            result = self.runner.stream(self.tpu.ssh(remote.follow(self.spec.name), worker="0"))
            statuses = self._statuses()
            if all(status == 0 for status in statuses):
                mark = remote.mark_finished(self.spec.name, self.marker)
                self._on_workers(self.tpu.ssh(mark, worker="0"), "mark as finished")
                return
            if any(status not in ("running", 0) for status in statuses):
                self._give_up(statuses)
            drops = 0 if result.ok else drops + 1
            if drops > self.spec.max_drops:
                raise LaunchError(f"{self.spec.name}: the log broke off {drops} times in a row; the job still runs.")
            if drops:
                self.say("the log broke off, the job runs on: following it again (up to 100 lines come twice)")
            self.runner.sleep(backoff(drops))

    def _statuses(self) -> list[str | int]:
        """One status a worker; all must answer."""
        result = self._on_workers(self.tpu.ssh(remote.status(self.spec.name)), "status")
        statuses = remote.parse_status(result.out)
        if len(statuses) != self.tpu.slice.hosts:
            raise LaunchError(f"{self.spec.name}: {len(statuses)} of {self.tpu.slice.hosts} workers told their status.")
        return statuses

    def _install_and_start(self, stop_first: bool) -> None:
        git = ["git", "-C", str(self.spec.source)]
        if not self.commit:  # once a launch: what resumes after a preemption is what ran before it
            self.commit = self._checked([*git, "rev-parse", "HEAD"], "git").out.strip()
        commit, archive = self.commit, f"bvd-{self.spec.name}.tar.gz"
        if stop_first:
            self._on_workers(self.tpu.ssh(remote.stop(self.spec.name)), "stop")
        with tempfile.TemporaryDirectory(prefix="bvd-launch-") as private:  # nobody else can put a link there
            path = str(pathlib.Path(private) / archive)
            self._checked([*git, "archive", "--format=tar.gz", f"--output={path}", commit], "git")
            self._on_workers(self.tpu.copy(path), "copy")
        self._on_workers(self.tpu.ssh(remote.install(archive, commit)), "install")
        train = [f"--config={self.spec.config}", f"--workdir={self.workdir}", *self.spec.overrides]
        flags = xla_flags.environment(self.spec.xla_flags)
        self._on_workers(self.tpu.ssh(remote.start(self.spec.name, commit, train, flags)), "start")

    def _give_up(self, statuses: list[str | int]) -> None:
        """Some worker failed. A preemption ends jobs before it shows: so ask first whether the slice still stands."""
        self._raise_if_preempted()
        self.runner.run(self.tpu.ssh(remote.keep_log(self.spec.name, self.workdir)))
        self._release()
        logs = f"{self.workdir}/launch_logs/"
        raise LaunchError(f"{self.spec.name}: training failed, status by worker: {statuses}; logs: {logs}.")

    def _on_workers(self, argv: list[str], what: str) -> Result:
        """Runs a repeatable command on the workers; repeats it when ssh fails on a slice that still stands."""
        for attempt in range(self.spec.max_drops + 1):
            result = self.runner.run(argv)
            if result.ok:
                return result
            self._raise_if_preempted()
            if gcloud.classify(result) not in (Failure.SSH, Failure.TRANSIENT, Failure.PREEMPTED):
                break
            self.runner.sleep(backoff(attempt))
        raise self._fatal(what, result)

    def _raise_if_preempted(self) -> None:
        """The node may be PREEMPTED while its queued resource still says ACTIVE, so both are asked."""
        state = self._state()
        if state != "ACTIVE":
            raise _Preempted(f"queued resource {state}")
        node = self._call(self.tpu.describe_node())
        if not node.ok and gcloud.classify(node) is Failure.NOT_FOUND:
            raise _Preempted("node gone")
        if node.ok and node.out.strip() in ("PREEMPTED", "TERMINATED", "STOPPED"):
            raise _Preempted(f"node {node.out.strip()}")

    # ---- calls

    def _marked_finished(self) -> bool:
        result = self._call(gcloud.storage_has(self.marker))
        if not result.ok and gcloud.classify(result) is not Failure.NOT_FOUND:
            raise self._fatal("look into the workdir", result)
        return result.ok

    def _call(self, argv: list[str]) -> Result:
        """Runs a command; repeats it while the answer is one of those that pass: 503, a broken connection."""
        result = self.runner.run(argv)
        for attempt in range(self.spec.max_drops):
            if result.ok or gcloud.classify(result) not in (Failure.TRANSIENT, Failure.SSH):
                break
            self.runner.sleep(backoff(attempt))
            result = self.runner.run(argv)
        return result

    def _checked(self, argv: list[str], what: str) -> Result:
        result = self.runner.run(argv)
        if not result.ok:
            raise self._fatal(what, result)
        return result

    def _fatal(self, what: str, result: Result) -> LaunchError:
        said = result.err.strip()[-800:]
        advice = gcloud.ADVICE.get(gcloud.classify(result), "`gcloud info` shows the account and project in use.")
        return LaunchError(f"{self.spec.name}: {what} failed (exit {result.code}): {said}\n{advice}")
