"""The app by its API: what a program may ask, and what nobody may."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")
httpx = pytest.importorskip("httpx")
from gradio_client import Client, handle_file  # noqa: E402 - it comes with gradio


@pytest.fixture(scope="module")
def client(served):
    return Client(served, verbose=False)


def test_a_program_may_classify_and_purify_and_no_more(client):
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {"/classify", "/purify"}


def test_classify(client, red_file):
    answer = client.predict(handle_file(red_file), api_name="/classify")
    assert answer["label"] == "red"
    assert next(item["label"] for item in answer["confidences"]) == "red"
    assert sum(item["confidence"] for item in answer["confidences"]) == pytest.approx(1, abs=1e-4)


def test_purify_keeps_the_size(client, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    purified = np.asarray(Image.open(client.predict(handle_file(tmp_path / "noise.png"), api_name="/purify")))
    means = noise.reshape(25, 2, 35, 2, 3).mean(axis=(1, 3)).repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_allclose(purified, means, atol=0.6)


@pytest.mark.parametrize("endpoint", ["/classify", "/purify"])
def test_what_is_no_photograph_gets_one_sentence(client, endpoint, tmp_path):
    (tmp_path / "text.png").write_text("hello")
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.gif")
    for sent, says in (
        (handle_file(tmp_path / "text.png"), "Received a file that is none of these."),
        (handle_file(tmp_path / "picture.gif"), "Received a file of the format GIF."),
        (None, "Received none."),
    ):
        with pytest.raises(Exception, match=says) as caught:
            client.predict(sent, api_name=endpoint)
        assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("path", ["/etc/passwd", __file__, "../../etc/passwd", "http://127.0.0.1:1/x.png"])
def test_nothing_is_read_outside_the_upload_folder(served, path):
    sent = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, "your classifier"]}
    begun = httpx.post(f"{served}/gradio_api/call/classify", json=sent)
    if begun.status_code == 200:
        answer = httpx.get(f"{served}/gradio_api/call/classify/{begun.json()['event_id']}", timeout=60).text
        assert "event: error" in answer
        assert "root:" not in answer
        assert "Traceback" not in answer
    assert httpx.get(f"{served}/gradio_api/file={path}").status_code in (403, 404)


def test_uploads_are_bounded(served):
    sent = httpx.post(f"{served}/gradio_api/upload", files={"files": ("large.png", bytes(21 * 2**20))}, timeout=60)
    assert sent.status_code == 413


def test_the_page_asks_for_nothing_and_counts_nobody(served):
    config = httpx.get(f"{served}/config").json()
    assert config["analytics_enabled"] is False
    assert served.startswith("http://127.0.0.1:")
    assert "fonts.googleapis" not in json.dumps(config)


def test_closing_ends_the_server_and_deletes_the_uploads(red_file):
    from art_versatile.app import launch

    page = launch(port=0, block=False)
    sent = httpx.post(f"{page.local_url}gradio_api/upload", files={"files": ("red.png", red_file.read_bytes())})
    uploaded = Path(sent.json()[0])
    assert uploaded.is_file()
    page.close()
    assert not uploaded.exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(page.local_url)
