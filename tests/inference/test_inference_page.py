# SPDX-License-Identifier: Apache-2.0
"""The exported page in a real Chromium: the same answers as `vivit predict`, and no network."""

import asyncio
import functools
import http.server
import threading

import numpy as np
import pytest

from support.browser import CHROMIUM, opened
from support.videos import write_images
from support.working_models import pretrained
from vivit_jax.data.manifest import Video
from vivit_jax.inference import web_page
from vivit_jax.inference.export import make_export
from vivit_jax.inference.predict import predict

pytestmark = pytest.mark.browser
CLOSE = 0.02  # browsers and FFmpeg convert colors in their own ways: 0.008 was seen here


@pytest.fixture
def serve(tmp_path):
  """A function that serves a folder and returns its address."""
  servers = []

  def start(folder):
    class Quiet(http.server.SimpleHTTPRequestHandler):
      def log_message(self, *_):
        pass

    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    servers.append(server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f'http://127.0.0.1:{server.server_port}/'

  yield start
  for server in servers:
    server.shutdown()
    server.server_close()


async def answers(url, files, screenshot=None):
  """Returns (state, rows shown, status) for each file, and all addresses that were asked for."""
  found = []
  async with opened(url) as page:
    await page.until("document.body?.dataset.state === 'ready'")
    for file in files:
      await page.choose('#file', file)
      await asyncio.sleep(0.3)
      state = await page.until(
        "['done', 'failed'].find(state => state === document.body?.dataset.state)"
      )
      rows = await page.value(
        "[...document.querySelectorAll('tr')].map(r => [r.dataset.label, +r.dataset.share])"
      )
      found.append((state, rows, await page.value("document.getElementById('status').textContent")))
    if screenshot:
      await page.screenshot(screenshot)
    return found, page.requests


def moving(rng, frames):
  """Large soft shapes that move, which codecs and browsers show almost alike."""
  y, x = np.mgrid[:64, :96]
  phases = rng.uniform(0, 6, 3)
  images = [
    np.stack([128 + 100 * np.sin(x / 9 + y / 11 + p + k / 4) for p in phases], axis=-1)
    for k in range(frames)
  ]
  return np.stack(images).clip(0, 255).astype(np.uint8)


@pytest.mark.skipif(CHROMIUM is None, reason='needs Chromium')
def test_the_page_answers_as_predict_does(tmp_path, rng, serve):
  model = pretrained(scale=0.15)
  folder = tmp_path / 'site'
  assert web_page.write(make_export(model), folder) < 1e-4
  files = [write_images(tmp_path / f'{n}.mp4', moving(rng, n)) for n in (40, 12, 25)]
  bad = tmp_path / 'bad.mp4'
  bad.write_text('words')
  url = serve(folder)
  found, requests = asyncio.run(answers(url, [*files, bad]))
  jobs = [Video(str(file), None, None, ()) for file in files]
  for (state, rows, status), expected in zip(found, predict(model, jobs, top=6), strict=False):
    assert (state, status.split()[1]) == ('done', str(expected.frames))
    shares = dict(expected.heads['label'])
    assert rows[0][0] == expected.heads['label'][0][0]
    np.testing.assert_allclose(
      [share for _, share in rows], [shares.pop(label) for label, _ in rows], atol=CLOSE
    )
    assert min(share for _, share in rows) > max(shares.values()) - 2 * CLOSE
  assert found[-1][0] == 'failed'
  assert found[-1][2] == 'bad.mp4: This browser cannot play it as a video.'
  assert all(request.startswith((url, 'blob:', 'data:')) for request in requests)
