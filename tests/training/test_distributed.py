"""Training on several devices and on several machines, each in processes of their own."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from art_versatile import VersatilePurifier

SCRIPT = Path(__file__).parent / "process.py"
_spec = importlib.util.spec_from_file_location("training_process", SCRIPT)
process = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(process)


@pytest.fixture(scope="module")
def one_device():
    """The same run on one device, with or without the discriminator."""
    return functools.cache(lambda adversarial: process.run_under(None, process.arrays(), adversarial=adversarial))


def assert_close(got, expected, error=1.0):
    """Losses and weights: the sums over the batch are taken in another order."""
    assert set(got) == set(expected)
    for name, value in expected.items():
        if " " in name:
            np.testing.assert_allclose(got[name], value, atol=error * 1e-4, err_msg=name)
        else:
            np.testing.assert_allclose(got[name], value, rtol=error * 1e-4, err_msg=name)


def start_workers(folder, *arguments):
    """Two workers on this machine; their outputs when both have ended well."""
    with socket.socket() as first, socket.socket() as second:
        for free in (first, second):
            free.bind(("localhost", 0))
        addresses = [f"localhost:{free.getsockname()[1]}" for free in (first, second)]
    workers = []
    for index in range(2):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        command = [sys.executable, str(SCRIPT), "worker", str(folder), *arguments]
        workers.append(
            subprocess.Popen(
                command, env={**os.environ, "TF_CONFIG": json.dumps(config)}, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
        )  # fmt: skip
    try:
        outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, output in zip(workers, outputs, strict=True):
        assert worker.returncode == 0, output[-4000:]
    return [dict(np.load(folder / f"worker {index}.npz")) for index in range(2)]


@pytest.mark.slow
def test_two_devices(one_device, tmp_path):
    """MirroredStrategy on two logical CPUs: clipping, running average, both networks, checkpoints."""
    child = subprocess.run(
        [sys.executable, str(SCRIPT), "mirrored", str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert child.returncode == 0, child.stderr[-4000:]
    got, folder = dict(np.load(tmp_path / "mirrored.npz")), tmp_path / "mirrored"
    assert_close(got, one_device(True))
    kept = VersatilePurifier.from_pretrained(folder / "last").generator.get_weights()
    for i, w in enumerate(kept):
        np.testing.assert_array_equal(w, got[f"generator {i}"])
    half = dict(np.load(tmp_path / "half.npz"))
    np.testing.assert_allclose(half["loss"], one_device(True)["loss"], rtol=0.1)
    # The checkpoint of two devices goes on on one.
    again = process.run_under(None, process.arrays(), folder, resume=True)
    assert again["loss"] == got["loss"].tolist()
    for name in again:
        if name.startswith("generator"):
            np.testing.assert_array_equal(again[name], got[name])


@pytest.mark.slow
def test_two_workers(one_device, tmp_path):
    """MultiWorkerMirroredStrategy, of the generator alone: the second ends the first half, both go on."""
    (tmp_path / "run").mkdir()
    first = start_workers(tmp_path, "--stop-after", "1")
    for result in first:
        assert len(result["loss"]) == 2
        np.testing.assert_allclose(result["loss"], one_device(False)["loss"][:2], rtol=1e-4)
    names = {"checkpoints", "curves.png", "last", "log.csv", "panel.png"}
    assert {f.name for f in (tmp_path / "run").iterdir()} == names
    log = (tmp_path / "run" / "log.csv").read_text()
    assert len(log.splitlines()) == 1 + 2
    second = start_workers(tmp_path, "--resume")
    for result in second:
        assert_close(result, one_device(False))
    for name, value in second[0].items():
        np.testing.assert_array_equal(value, second[1][name], err_msg=name)
    assert {f.name for f in (tmp_path / "run").iterdir()} == names
    kept = VersatilePurifier.from_pretrained(tmp_path / "run" / "last").generator.get_weights()
    for i, w in enumerate(kept):
        np.testing.assert_array_equal(w, second[0][f"generator {i}"])
