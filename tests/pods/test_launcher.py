"""The launcher against a stand-in for Google Cloud that fails in the ways the real one does."""

import dataclasses
import json
import pathlib
import stat
import subprocess
from typing import Any

import pytest

from big_vision_dual.pods import gcloud, launcher, remote
from big_vision_dual.pods.gcloud import Failure, Result
from big_vision_dual.pods.spec import LaunchError, LaunchSpec, Outcome
from big_vision_dual.train import recipes

# What the real gcloud says, from public issue threads and Google's troubleshooting pages.
STOCK_OUT = Result(1, err='There is no more capacity in the zone "europe-west4-a"; you can try in another zone')
QUOTA = Result(1, err="RESOURCE_EXHAUSTED: Quota limit 'TPUV4PodPerProjectPerZone' has been exceeded. Limit: 0")
DENIED = Result(1, err="PERMISSION_DENIED: The caller does not have permission")
NOT_FOUND = Result(1, err="NOT_FOUND: Resource 'projects/p/locations/z/queuedResources/run-1' was not found")
EXISTS = Result(1, err="ALREADY_EXISTS: Resource 'run-1' already exists")
SSH_DROP = Result(255, err="ERROR: (gcloud.compute.tpus.tpu-vm.ssh) [/usr/bin/ssh] exited with return code [255].")
BUSY = Result(1, err="HttpError 503: The service is currently unavailable. UNAVAILABLE")
REMOTE_FAILED = Result(1, err="[/usr/bin/ssh] exited with return code [1].")

MARKS = {
    "ls": "storage ls",
    "create": "queued-resources create",
    "describe": "queued-resources describe",
    "node": "tpu-vm describe",
    "delete": "queued-resources delete",
    "scp": "tpu-vm scp",
    "git": "git ",
    "status": "bvd-status",
    "install": "uv pip install",
    "start": "setsid",
    "follow": "tail ",
    "stop": "kill -TERM",
    "keep_log": "launch_logs",
    "mark": "launch_finished",
}


class Cloud:
    """Records every call. `failures[verb]` holds results given before the normal one; a callable acts instead."""

    def __init__(self, failures=None, accelerator="v4-32", hosts=4):
        self.calls: list[str] = []
        self.slept = 0.0
        self.failures: dict[str, list[Any]] = {verb: list(results) for verb, results in (failures or {}).items()}
        self.accelerator, self.hosts = accelerator, hosts
        self.state, self.node, self.job, self.marked = "absent", "READY", "absent", False

    def verb(self, argv):
        line = " ".join(argv)
        return next(verb for verb, mark in MARKS.items() if mark in line)

    def run(self, argv) -> Result:
        verb = self.verb(argv)
        self.calls.append(verb)
        planned = self.failures.get(verb)
        if planned:
            result = planned.pop(0)
            result: Result | None = result(self) if callable(result) else result
            if result is not None:
                return result
        answer: Result = getattr(self, f"do_{verb}", lambda: Result(0))()
        return answer

    stream = run

    def sleep(self, seconds):
        self.slept += seconds

    def do_ls(self):
        return Result(0) if self.marked else Result(1, err="One or more URLs matched no objects.")

    def do_create(self):
        if self.state != "absent":
            return EXISTS
        self.state, self.node, self.job = "ACTIVE", "READY", "absent"
        return Result(0)

    def do_describe(self):
        if self.state == "absent":
            return NOT_FOUND
        node = {"node": {"acceleratorType": self.accelerator}}
        return Result(0, json.dumps({"state": {"state": self.state}, "tpu": {"nodeSpec": [node]}}))

    def do_node(self):
        return Result(0, self.node + "\n")

    def do_delete(self):
        self.state = "absent"
        return Result(0)

    def do_git(self):
        return Result(0, "c0ffee\n")

    def do_status(self):
        return Result(0, f"bvd-status {self.job}\n" * self.hosts)

    def do_start(self):
        self.job = "running"
        return Result(0)

    def do_stop(self):
        self.job = "absent"
        return Result(0)

    def do_follow(self):
        self.job = "exit 0"
        return Result(0)

    def do_mark(self):
        self.marked = True
        return Result(0)


def preempt(cloud):
    """The spot slice is taken back while its log is followed."""
    cloud.state, cloud.job = "SUSPENDED", "exit 143"
    return SSH_DROP


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "requirements.txt").touch()
    return LaunchSpec("v4-32", "us-central2-b", "run-1", "mnist5k_vit", "gs://bucket/run-1", spot=True, source=tmp_path)


def launch(spec, cloud):
    said = []
    outcome = launcher.launch(spec, cloud, dry_run=False, say=said.append)
    return outcome, "\n".join(said)


def test_a_run_without_trouble_goes_through_every_step_once_and_deletes(spec):
    cloud = Cloud()
    outcome, _ = launch(spec, cloud)
    assert outcome is Outcome.FINISHED
    assert (cloud.state, cloud.marked) == ("absent", True)
    steps = [call for call in cloud.calls if call not in ("describe", "status", "git")]
    assert steps == ["ls", "create", "scp", "install", "start", "follow", "mark", "delete"]


def test_a_dry_run_prints_the_commands_of_a_real_run_and_calls_nothing(spec):
    cloud, said = Cloud(), []
    assert launcher.launch(spec, cloud, say=said.append) is Outcome.FINISHED
    assert cloud.calls == []
    real = Cloud()
    launch(spec, real)
    assert [real.verb([line]) for line in said] == real.calls
    (create,) = [line for line in said if "queued-resources create" in line]
    assert create == (
        "gcloud compute tpus queued-resources create run-1 --node-id=run-1 --accelerator-type=v4-32 "
        "--runtime-version=tpu-ubuntu2204-base --spot --zone=us-central2-b --quiet"
    )


def test_a_stock_out_is_waited_out_with_growing_pauses(spec):
    cloud = Cloud({"create": [STOCK_OUT] * 3})
    outcome, said = launch(spec, cloud)
    assert outcome is Outcome.FINISHED
    assert cloud.slept == 10 + 20 + 40 + 80
    assert said.count("no capacity for v4-32 in us-central2-b") == 3


def test_the_wait_for_capacity_is_bounded_and_leaves_nothing(spec):
    cloud = Cloud({"create": [STOCK_OUT] * 1000})
    with pytest.raises(LaunchError, match=r"no v4-32 in us-central2-b within 24 h.*\n?.*leaves no slice behind"):
        launch(spec, cloud)
    assert 24 * 3600 <= cloud.slept <= 24 * 3600 + 300


@pytest.mark.parametrize(
    ("failure", "advice"),
    [(QUOTA, "no quota for this slice.*SUSPENDED or FAILED"), (DENIED, "gcloud auth login.*tpu.admin")],
)
def test_what_waiting_cannot_mend_stops_at_once_with_advice(spec, failure, advice):
    cloud = Cloud({"create": [failure]})
    with pytest.raises(LaunchError, match=advice):
        launch(spec, cloud)
    assert cloud.calls.count("create") == 1


def test_a_failed_request_is_deleted_and_made_again(spec):
    cloud = Cloud()
    cloud.state = "FAILED"
    outcome, said = launch(spec, cloud)
    assert outcome is Outcome.FINISHED
    assert "run-1 is FAILED" in said
    assert cloud.calls[:4] == ["ls", "describe", "delete", "create"]


def test_a_preempted_slice_is_made_anew_and_the_same_commit_resumes(spec):
    cloud = Cloud({"follow": [preempt, preempt]})
    outcome, said = launch(spec, cloud)
    assert outcome is Outcome.FINISHED
    assert said.count("resumes from gs://bucket/run-1") == 2
    assert [cloud.calls.count(verb) for verb in ("create", "install", "start")] == [3, 3, 3]
    assert cloud.calls.count("git") == 1 + 3  # HEAD is asked for once, archived three times


def test_a_preemption_that_only_the_node_shows_is_seen(spec):
    def node_gone(cloud):
        cloud.node, cloud.job = "PREEMPTED", "exit 137"
        return SSH_DROP

    outcome, said = launch(spec, Cloud({"follow": [node_gone]}))
    assert outcome is Outcome.FINISHED
    assert "node PREEMPTED" in said


def test_preemptions_are_bounded(spec):
    spec = dataclasses.replace(spec, max_preemptions=2)
    with pytest.raises(LaunchError, match="preempted more than 2 times"):
        launch(spec, Cloud({"follow": [preempt] * 9}))


def test_ssh_drops_do_not_start_anything_twice(spec):
    def drop(cloud):
        assert cloud.job == "running"
        return SSH_DROP

    cloud = Cloud({"follow": [drop] * 5, "scp": [SSH_DROP], "install": [SSH_DROP], "status": [SSH_DROP, BUSY]})
    outcome, said = launch(spec, cloud)
    assert outcome is Outcome.FINISHED
    assert cloud.calls.count("start") == 1
    assert said.count("the log broke off") == 5


def test_a_log_that_breaks_off_for_ever_leaves_the_job_and_says_so(spec):
    cloud = Cloud({"follow": [lambda _: SSH_DROP] * 100})
    with pytest.raises(LaunchError, match=r"9 times in a row(.|\n)*left as it is(.|\n)*queued-resources delete run-1"):
        launch(spec, cloud)
    assert cloud.state == "ACTIVE"


def test_a_crashed_training_keeps_its_log_deletes_the_slice_and_fails(spec):
    def crash(cloud):
        cloud.job = "exit 1"
        return Result(0)

    cloud = Cloud({"follow": [crash]})
    with pytest.raises(LaunchError, match=r"training failed, status by worker: \[1, 1, 1, 1\].*launch_logs"):
        launch(spec, cloud)
    assert cloud.state == "absent"
    assert cloud.calls.index("keep_log") < cloud.calls.index("delete")
    assert not cloud.marked


def test_an_install_that_fails_on_the_workers_is_not_repeated(spec):
    cloud = Cloud({"install": [REMOTE_FAILED]})
    with pytest.raises(LaunchError, match=r"install failed \(exit 1\)(.|\n)*costs money"):
        launch(spec, cloud)
    assert cloud.calls.count("install") == 1


def test_a_finished_run_is_not_started_again(spec):
    cloud = Cloud()
    cloud.marked = True
    outcome, said = launch(spec, cloud)
    assert outcome is Outcome.ALREADY_FINISHED
    assert cloud.calls == ["ls"]
    assert "gs://bucket/run-1/launch_finished exists" in said


def test_a_running_job_is_taken_up_and_not_touched(spec):
    cloud = Cloud()
    cloud.state, cloud.job = "ACTIVE", "running"
    assert launch(spec, cloud)[0] is Outcome.FINISHED
    assert not {"create", "scp", "install", "start", "stop"} & set(cloud.calls)


def test_a_job_that_failed_before_is_stopped_and_started_again(spec):
    cloud = Cloud()
    cloud.state, cloud.job = "ACTIVE", "exit 1"
    assert launch(spec, cloud)[0] is Outcome.FINISHED
    assert cloud.calls.index("stop") < cloud.calls.index("install") < cloud.calls.index("start")


def test_another_slice_of_that_name_is_refused(spec):
    cloud = Cloud(accelerator="v4-8")
    cloud.state = "ACTIVE"
    with pytest.raises(LaunchError, match="it is a v4-8, not a v4-32"):
        launch(spec, cloud)


def test_a_request_that_another_launch_made_meanwhile_is_used(spec):
    def race(cloud):
        cloud.do_create()
        return EXISTS

    assert launch(spec, Cloud({"create": [race]}))[0] is Outcome.FINISHED


@pytest.mark.parametrize("verb", ["create", "install", "follow"])
def test_ctrl_c_leaves_the_slice_and_says_how_to_delete_it(spec, verb):
    def interrupt(_):
        raise KeyboardInterrupt

    cloud = Cloud({verb: [interrupt]})
    outcome, said = launch(spec, cloud)
    assert outcome is Outcome.INTERRUPTED
    assert "delete" not in cloud.calls
    assert "gcloud compute tpus queued-resources delete run-1 --force --zone=us-central2-b --quiet" in said


@pytest.mark.parametrize(
    ("result", "failure"),
    [
        (STOCK_OUT, Failure.STOCK_OUT),
        (QUOTA, Failure.QUOTA),
        (DENIED, Failure.PERMISSION),
        (NOT_FOUND, Failure.NOT_FOUND),
        (EXISTS, Failure.ALREADY_EXISTS),
        (SSH_DROP, Failure.SSH),
        (BUSY, Failure.TRANSIENT),
        (REMOTE_FAILED, Failure.UNKNOWN),
        (Result(255, err=""), Failure.SSH),
        (Result(1, err="Permission denied (publickey)."), Failure.SSH),
        (Result(1, err="Cloud TPU run-1 is in state PREEMPTED"), Failure.PREEMPTED),
    ],
)
def test_gcloud_messages_are_told_apart(result, failure):
    assert gcloud.classify(result) is failure


def test_a_workdir_on_the_slice_and_a_bad_name_are_refused(spec):
    with pytest.raises(LaunchError, match="gs://BUCKET/FOLDER"):
        LaunchSpec("v4-32", "z", "run-1", "c", workdir="/tmp/x")
    with pytest.raises(LaunchError, match="lower-case letters"):
        LaunchSpec("v4-32", "z", "Run_1", "c")
    with pytest.raises(LaunchError, match="no --workdir"):
        launch(LaunchSpec("v4-32", "z", "run-1", "mnist5k_vit", source=spec.source), Cloud())
    source = spec.source / "no"
    with pytest.raises(LaunchError, match="no requirements"):
        launch(LaunchSpec("v4-32", "z", "run-1", "mnist5k_vit", workdir="gs://b/r", source=source), Cloud())


TFDS = "config.input.data is 'imagenet2012' of TFDS, without a data_dir that the workers can read"


@pytest.mark.parametrize(
    ("config", "overrides", "error", "message"),
    [
        ("vit_s16_i1k_duel", (), recipes.RecipeError, "no config 'vit_s16_i1k_duel' .did you mean 'vit_s16_i1k_dual'"),
        ("mnist5k_vit", ("--config.lrr=1",), ValueError, "lrr"),
        ("vit_s16_i1k", (), LaunchError, TFDS + r" \(given: none\).*--config.input.data.data_dir=gs://BUCKET/tfds"),
        ("vit_s16_i1k", ("--config.input.data.data_dir=/data",), LaunchError, TFDS + r" \(given: /data\)"),
        ("study_vit:array:/tmp/x.npz", (), LaunchError, "config.input.data reads /tmp/x.npz, which the workers"),
        (
            "mnist5k_vit",
            ("--config.input.data.name=bv:jsonl", "--config.input.data.fname=/tmp/x.jsonl"),
            LaunchError,
            "config.input.data reads /tmp/x.jsonl, which the workers",
        ),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_recipe_that_could_not_run_there_costs_nothing(spec, config, overrides, error, message, dry_run):
    cloud, said = Cloud(), []
    with pytest.raises(error, match=message):
        launcher.launch(dataclasses.replace(spec, config=config, overrides=overrides), cloud, dry_run, said.append)
    assert (cloud.calls, said) == ([], [])


def test_tfds_in_a_bucket_is_what_a_pod_can_read(spec):
    overrides = ("--config.input.data.data_dir=gs://b/tfds",)
    assert launch(dataclasses.replace(spec, config="vit_s16_i1k", overrides=overrides), Cloud())[0] is Outcome.FINISHED


def test_the_archive_lies_where_nobody_else_can_put_a_link(spec, monkeypatch, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setattr(launcher.tempfile, "tempdir", str(shared))
    seen = []

    class Watching(Cloud):
        def run(self, argv):
            seen.extend(pathlib.Path(word.removeprefix("--output=")) for word in argv if word.startswith("--output="))
            if "archive" in argv:
                assert stat.S_IMODE(seen[-1].parent.stat().st_mode) == 0o700
            return super().run(argv)

    launch(spec, Watching())
    assert len(seen) == 1
    assert seen[0].parent.parent == shared
    assert not list(shared.iterdir())


def test_what_workers_install_is_pinned():
    script = remote.install("a.tar.gz", "abc")
    assert "/uv/install.sh" not in script
    assert " --no-deps -r requirements.txt -r requirements-tpu.txt " in script
    assert script.endswith(" --build-constraints requirements-build.txt")
    root = pathlib.Path(__file__).parent.parent.parent
    for name in ("requirements.txt", "requirements-tpu.txt", "requirements-build.txt"):
        lines = [line for line in (root / name).read_text().splitlines() if line and not line.startswith("#")]
        assert all("==" in line or line == "-e ." for line in lines), name
    assert "\n-e .\n" in (root / "requirements.txt").read_text()


def test_the_real_runner_reports_status_output_and_a_missing_gcloud(capfd):
    runner = gcloud.SubprocessRunner()
    assert runner.run(["sh", "-c", "echo out; echo err >&2; exit 3"]) == Result(3, "out\n", "err\n")
    assert runner.stream(["sh", "-c", "echo out; echo err >&2; exit 255"]) == Result(255, "", "err\n")
    assert capfd.readouterr() == ("out\n", "err\n")
    assert "command not found" in runner.run(["no-such-gcloud"]).err


class TestRemoteScripts:
    """The scripts for the workers, run by this machine's shell in a home of their own."""

    @pytest.fixture
    def home(self, tmp_path):
        python = tmp_path / "bvd-source" / "abc" / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text('#!/bin/sh\necho "args: $*"; sleep 0.2; exit "${BVD_EXIT:-0}"\n')
        python.chmod(0o755)
        return tmp_path

    def sh(self, home: pathlib.Path, script: str, **environment: str) -> str:
        env = {"HOME": str(home), "PATH": "/usr/bin:/bin", **environment}
        done = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout

    def test_start_status_follow(self, home):
        status = remote.status("run-1")
        assert remote.parse_status(self.sh(home, status)) == ["absent"]
        start = remote.start("run-1", "abc", ["--config=c.py:a=1,b", "--config.x='quoted value'"])
        self.sh(home, start)
        self.sh(home, start)
        assert remote.parse_status(self.sh(home, status)) == ["running"]
        log = self.sh(home, remote.follow("run-1"))
        assert log.count("args:") == 1
        assert "--config.x='quoted value'" in log
        assert remote.parse_status(self.sh(home, status)) == [0]
        self.sh(home, start)
        assert remote.parse_status(self.sh(home, status)) == [0]

    def test_flags_of_xla_are_in_the_jobs_environment(self, home):
        python = home / "bvd-source" / "abc" / ".venv" / "bin" / "python"
        python.write_text('#!/bin/sh\necho "given: $LIBTPU_INIT_ARGS."\n')
        for name, flags in (("none", ""), ("some", "--a=1 --b=it's")):
            self.sh(home, remote.start(name, "abc", ["--config=c.py"], flags))
            assert f"given: {flags}." in self.sh(home, remote.follow(name))

    def test_a_failure_shows_and_can_be_started_again(self, home):
        start = remote.start("run-1", "abc", ["--config=c.py"])
        self.sh(home, start, BVD_EXIT="3")
        self.sh(home, remote.follow("run-1"))
        assert remote.parse_status(self.sh(home, remote.status("run-1"))) == [3]
        self.sh(home, remote.stop("run-1").replace("sleep 5", "sleep 0"))
        self.sh(home, start)
        self.sh(home, remote.follow("run-1"))
        assert remote.parse_status(self.sh(home, remote.status("run-1"))) == [0]
