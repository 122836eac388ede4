from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from art_versatile import VersatilePurifier
from art_versatile.classifiers import load_classifier
from art_versatile.export import load_exported
from art_versatile.images import load_images


class TestExport:
    def test_a_purifier_and_a_classifier(self, run, labelled, tiny, weights, tmp_path):
        out = tmp_path / "both.tflite"
        command = ("export", "--weights", weights, "--format", "tflite", "--classifier", tiny, "--out", out,
                   "--images", labelled[0], "--image-size", 48)  # fmt: skip
        result = run(*command)
        assert result.exit_code == 0, result.output
        assert "3 given images: largest difference" in result.output
        assert "the same label on 3 of 3" in result.output
        x = load_images(labelled[0], 48)
        expected = load_classifier(tiny, 48).predict(VersatilePurifier.from_pretrained(weights)(x)[0])
        np.testing.assert_allclose(load_exported(out, "tflite")(x), expected, atol=1e-4)
        assert json.loads((tmp_path / "both.tflite.json").read_text())["image_size"] == 48
        again = run(*command)
        assert (again.exit_code, "Expected a path where nothing is" in again.output) == (2, True)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--format", "torch"), "Expected format to be one of"),
            (("--format", "tflite"), "Expected a file that ends in .tflite"),
            (("--weights", "missing"), "Received 'missing'"),
            (("--classifier", "missing"), "Expected a classifier in"),
            (("--images", "missing"), "Expected an image file or a folder"),
        ],
    )
    def test_refused(self, refuses, arguments, message):
        assert message in refuses(("export",), *arguments)


class TestApp:
    def test_sigterm_closes_it(self, run, monkeypatch):
        """Once and again, while it closes."""
        called = []

        class Page:
            local_url = "http://127.0.0.1:7000/"

            @staticmethod
            def block_thread():
                os.kill(os.getpid(), signal.SIGTERM)
                called.append("went on")

            @staticmethod
            def close():
                os.kill(os.getpid(), signal.SIGTERM)
                called.append("closed")

        monkeypatch.setattr("art_versatile.app.launch", lambda *_, **__: Page)
        former = signal.getsignal(signal.SIGTERM)
        result = run("app")
        assert (result.exit_code, called) == (0, ["closed"])
        assert signal.getsignal(signal.SIGTERM) is former

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_its_folder_goes_with_it(self, tiny, tmp_path, number):
        pytest.importorskip("gradio")
        command = [sys.executable, "-m", "art_versatile", "app", "--port", "0", "--classifier", str(tiny)]
        environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
        # Under a shell's "&" SIGINT is ignored, and so it would be here.
        heeded = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=heeded) as app:
            try:
                assert "http://127.0.0.1:" in app.stdout.readline()
                assert len(list(tmp_path.glob("art-versatile-app-*"))) == 1
                app.send_signal(number)
                assert app.wait(30) == 0
            finally:
                app.kill()
        assert list(tmp_path.glob("art-versatile-app-*")) == []
