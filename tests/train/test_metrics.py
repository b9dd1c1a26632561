"""Rows of metrics, throughput, FLOPs, health, stop requests: the small parts of the loop."""

from __future__ import annotations

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_dual import models
from big_vision_dual.train import distributed, flops, health, metrics, run_files, signals, throughput


def test_rows_after_the_checkpoint_and_half_lines_are_cut(tmp_path):
    path = tmp_path / run_files.METRICS
    writer = metrics.MetricWriter(path)
    for step in (1, 2, 3):
        writer.measure("training_loss", 1 / step)
        assert writer.write(step) == {"step": step, "training_loss": 1 / step}
    assert writer.write(4) == {}
    with path.open("a") as file:
        file.write('{"step": 5, "training_lo')
    resumed = metrics.MetricWriter(path, after_step=2)
    assert resumed.last == {"step": 2, "training_loss": 0.5}
    resumed.measure("training_loss", float(np.float32(0.1)))
    resumed.write(3)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "training_loss": 1.0},
        {"step": 2, "training_loss": 0.5},
        {"step": 3, "training_loss": float(np.float32(0.1))},
    ]


def test_flops_of_a_vit_are_three_times_its_matrix_products():
    sizes = {"width": 32, "depth": 3, "mlp_dim": 48, "num_heads": 2, "patch_size": (4, 4)}
    expected = 3 * 2 * 7 * (
        4 * 48 * 32  # 4 tokens of 4 x 4 x 3 pixels
        + 3 * (4 * 4 * 32 * 32 + 2 * 4 * 4 * 32 + 2 * 4 * 32 * 48)
        + 5 * (32 * 5)  # the head, on the pooled vector and on each patch
    )  # fmt: skip
    for scan in (False, True):
        model = models.get("vit").Model(5, scan=scan, **sizes)
        images = jax.ShapeDtypeStruct((7, 8, 8, 3), jnp.float32)
        params = jax.eval_shape(model.init, jax.random.key(0), images)
        assert flops.training_flops(model.apply, params, images) == expected


def test_flops_of_a_grouped_convolution():
    images, kernel = jnp.ones((2, 9, 9, 4)), jnp.ones((3, 3, 2, 6))  # two groups

    def convolve(x, k):
        return jax.lax.conv_general_dilated(
            x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2
        )

    assert flops.training_flops(convolve, images, kernel) == 3 * 2 * (2 * 7 * 7 * 6) * (3 * 3 * 2)


def test_a_cpu_has_no_peak():
    assert throughput.peak(jax.devices()[0]) is None


def test_the_clock_leaves_pauses_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(throughput.time, "monotonic", lambda: now[0])
    clock = throughput.Clock(batch_size=100, devices=4, step_flops=8e12, peak_flops=1e12, core_seconds=3600.0)
    for _ in range(5):
        with clock.waiting():
            now[0] += 1.0
        now[0] += 3.0
        clock.step()
    with clock.paused():
        now[0] += 100.0
    assert clock.report() == pytest.approx({
        "img/sec": 25.0, "img/sec/core": 6.25, "step_seconds": 4.0, "data_wait_seconds": 1.0,
        "core_hours": 1 + 4 * 120 / 3600, "mfu": 0.5,
    })  # fmt: skip
    assert clock.report() == {}


def test_the_first_leaves_to_go_non_finite_are_named():
    params = {"head": {"bias": 0, "kernel": 0}, "Transformer": {"kernel": 0}}  # JAX's order: Transformer, head
    fine, bad = np.array([True, True, True]), np.array([True, False, False])
    monitor = health.Monitor(params)
    monitor.add(6, {"loss": 1.0, "finite_params": fine, "finite_grads": fine}, 4)
    monitor.check(last_checkpoint=4)
    monitor.add(7, {"loss": 2.0, "finite_params": fine, "finite_grads": bad}, 4)
    monitor.add(8, {"loss": np.nan, "finite_params": ~fine, "finite_grads": ~fine}, 4)
    with pytest.raises(health.NonFiniteError) as caught:
        monitor.check(last_checkpoint=4)
    assert str(caught.value) == (
        "training is not finite at step 7: loss 2.0; gradients: 2 of 3 leaves, first head/bias, head/kernel; "
        "parameters after the step: all finite. Checkpoints: step 4 is kept; the same command with "
        "--config.resume_changed=True and a lower config.lr, a config.grad_clip_norm or a longer warm-up continues "
        "there, and with --config.resume_step=N at an older one."
    )


def test_the_monitor_does_not_grow_and_finds_a_nan_that_nobody_asks_for():
    monitor = health.Monitor({"w": 0})
    fine = {"loss": 1.0, "finite_params": np.array([True]), "finite_grads": np.array([True])}
    for step in range(1, 200):
        monitor.add(step, fine, None)
        assert len(monitor._pending) < health._AT_MOST
    with pytest.raises(health.NonFiniteError, match="not finite at step 200: loss nan"):
        [monitor.add(step, {**fine, "loss": np.nan}, None) for step in range(200, 200 + health._AT_MOST)]


def test_what_may_not_be_saved():
    state = {"params": {"w": jnp.ones(3)}, "best": jnp.float32(np.inf), "count": jnp.int32(2)}
    health.check_state(state, 3, None)
    with pytest.raises(health.NonFiniteError, match=r"after step 3 is not finite and is not saved: 1 of 2 leaves, "
                                                    r"first params/w\. There is no checkpoint yet"):  # fmt: skip
        health.check_state({**state, "params": {"w": jnp.array([1, np.inf, 2])}}, 3, None)
    with pytest.raises(health.NonFiniteError, match=r"first best\. Checkpoints: step 1 is kept"):
        health.check_state({**state, "best": jnp.float32(np.nan)}, 3, 1)


def test_damaged_lines_lose_no_later_rows_and_are_said(tmp_path, caplog):
    path = tmp_path / run_files.METRICS
    rows = [{"step": step, "training_loss": 1 / step} for step in range(1, 6)]
    lines = [json.dumps(row).encode() for row in rows]
    lines[1] = lines[1][:9] + b"\xff" + lines[1][10:]
    path.write_bytes(b"\n".join([lines[0], lines[1], b"", *lines[2:]]) + b"\n" + b'{"step": 6, "tr')
    assert list(run_files.rows(tmp_path)) == [rows[0], *rows[2:]]
    assert f"{path}: line 2 cannot be read" in caplog.text
    resumed = metrics.MetricWriter(path, after_step=4)
    assert resumed.last == rows[3]
    assert list(run_files.rows(tmp_path)) == [rows[0], *rows[2:4]]
    assert (tmp_path / "big_vision_metrics.damaged.txt").read_bytes() == lines[1] + b"\n"


def written(path, losses):
    """Rows 1, 2, ... and what a checkpoint notes of them."""
    writer = metrics.MetricWriter(path)
    for step, loss in enumerate(losses, 1):
        writer.measure("training_loss", loss)
        writer.write(step)
    return writer.note()


def test_a_digit_that_changes_on_disk_is_said(tmp_path, caplog):
    path = tmp_path / run_files.METRICS
    noted = written(path, [0.5, 0.25])
    metrics.MetricWriter(path, 2, noted=noted)
    assert not caplog.text
    resumed = metrics.MetricWriter(path, 2, noted=noted)
    resumed.measure("training_loss", 0.125)
    resumed.write(3)
    assert resumed.note() == written(tmp_path / "whole", [0.5, 0.25, 0.125])  # as if it had never been left
    metrics.MetricWriter(path, 2, noted=noted)  # what is after the checkpoint is not noted there
    assert not caplog.text
    path.write_text(path.read_text().replace("0.25", "0.26"))
    metrics.MetricWriter(path, 2, noted=noted)
    assert "of its 2 rows until step 2 some changed on disk" in caplog.text


@pytest.mark.parametrize("remove", ["line", "file"])
def test_rows_that_are_gone_are_said(tmp_path, caplog, remove):
    path = tmp_path / run_files.METRICS
    noted = written(path, [0.5, 0.25])
    if remove == "line":
        path.write_text(path.read_text().partition("\n")[2])
    else:
        path.unlink()
    metrics.MetricWriter(path, 2, noted=noted)
    left = 1 if remove == "line" else 0
    assert f"{path} has {left} rows until step 2; when its checkpoint was written there were 2." in caplog.text


def test_rows_of_another_config_are_kept_beside(tmp_path, caplog):
    path = tmp_path / run_files.METRICS
    aside = tmp_path / "big_vision_metrics.superseded.txt"
    written(path, [1.0, 2.0, 3.0])
    lines = path.read_bytes().splitlines(keepends=True)
    metrics.MetricWriter(path, 2)
    assert not aside.exists()
    metrics.MetricWriter(path, 1, alike_until=0)
    metrics.MetricWriter(path, 0, alike_until=0)
    assert path.read_bytes() == b""
    assert aside.read_bytes() == lines[1] + lines[0]
    assert f"1 rows after step 0 may not come again as they were: {aside}" in caplog.text


@pytest.mark.parametrize(("last", "kept"), [(3, False), (4, True)])
def test_rows_beyond_the_step_that_is_repeated_are_kept_with_all_before(tmp_path, last, kept):
    path = tmp_path / run_files.METRICS
    written(path, [1.0] * last)
    lines = path.read_bytes()
    metrics.MetricWriter(path, 0, alike_until=3)
    aside = tmp_path / "big_vision_metrics.superseded.txt"
    assert aside.read_bytes() == lines if kept else not aside.exists()


def test_rows_are_on_disk_before_a_checkpoint_notes_them(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}")))
    path = tmp_path / run_files.METRICS
    assert written(path, []) == {"count": 0, "crc32": 0}
    assert written(None, [1.0])["count"] == 1
    assert synced == []
    written(path, [1.0])
    assert synced == [str(path)]


def test_a_closed_terminal_asks_for_a_stop_but_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
    try:
        with signals.StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.at(1)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with signals.StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.at(1)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_stop_is_asked_for_by_the_first_signal_and_handlers_come_back(capfd):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with signals.StopRequest() as stop:
        assert not stop.at(1)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.at(2)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert signals.Stopped(3).code == 75
    said = capfd.readouterr().err
    assert "Stopping: the step under way (or the compilation) is finished" in said
    assert "Ending at once, without saving" in said


def test_a_shells_background_job_may_be_interrupted():
    """Shells that are not interactive start those with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.at(1)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("variables", "hosts"),
    [
        ({}, 1),
        ({"JAX_NUM_PROCESSES": "2"}, 2),
        ({"SLURM_NTASKS": "3"}, 3),
        ({"TPU_WORKER_HOSTNAMES": "a,b,c,d"}, 4),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, 1),
    ],
)
def test_hosts_are_counted_from_the_environment(monkeypatch, variables, hosts):
    for name in ("JAX_NUM_PROCESSES", "SLURM_NTASKS", "TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert distributed.hosts() == hosts


def test_a_number_of_hosts_that_is_none(monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES is 'two'; possible: a whole number >= 1"):
        distributed.hosts()


def test_an_unknown_distributed_mode():
    with pytest.raises(ValueError, match="'maybe'; possible: auto, on, off"), distributed.joined("maybe"):
        pass


@pytest.mark.parametrize("given", ["0", "soon", "1.5"])
def test_seconds_of_silence_that_cannot_be(monkeypatch, given):
    assert distributed.heartbeat_seconds() == 100
    monkeypatch.setenv("BVD_HEARTBEAT_SECONDS", given)
    with pytest.raises(ValueError, match=r"BVD_HEARTBEAT_SECONDS is .*; possible: a whole number >= 1"):
        distributed.heartbeat_seconds()
