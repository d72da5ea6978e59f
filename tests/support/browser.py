# SPDX-License-Identifier: Apache-2.0
"""A real Chromium without a window, spoken to through its DevTools protocol."""

import asyncio
import base64
import contextlib
import itertools
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import aiohttp

CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')


class Page:
  """One page; `requests` are the addresses that it asked for."""

  def __init__(self, socket):
    self._socket, self._numbers = socket, itertools.count(1)
    self.requests, self.messages = [], []

  async def send(self, method, **params):
    number = next(self._numbers)
    await self._socket.send_json({'id': number, 'method': method, 'params': params})
    while True:
      message = await self._socket.receive_json(timeout=120)
      if message.get('method') == 'Network.requestWillBeSent':
        self.requests.append(message['params']['request']['url'])
      if message.get('method') in ('Runtime.exceptionThrown', 'Log.entryAdded'):
        self.messages.append(message['params'])
      if message.get('id') == number:
        assert 'error' not in message, message
        return message['result']

  async def value(self, expression):
    answer = await self.send(
      'Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True
    )
    assert 'exceptionDetails' not in answer, answer
    return answer['result'].get('value')

  async def until(self, expression, seconds=120):
    end = time.monotonic() + seconds
    while not (found := await self.value(expression)):
      assert time.monotonic() < end, (expression, self.messages)
      await asyncio.sleep(0.1)
    return found

  async def choose(self, selector, file):
    root = (await self.send('DOM.getDocument'))['root']['nodeId']
    node = (await self.send('DOM.querySelector', nodeId=root, selector=selector))['nodeId']
    await self.send('DOM.setFileInputFiles', nodeId=node, files=[str(file)])

  async def screenshot(self, file):
    size = await self.value('document.documentElement.scrollHeight')
    await self.send(
      'Emulation.setDeviceMetricsOverride', width=1000, height=size, deviceScaleFactor=1,
      mobile=False,
    )  # fmt: skip
    picture = await self.send('Page.captureScreenshot')
    Path(file).write_bytes(base64.b64decode(picture['data']))


@contextlib.asynccontextmanager
async def opened(url):
  """Opens an address in a fresh Chromium."""
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
    process = subprocess.Popen(
      [CHROMIUM, '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage',
       '--remote-debugging-port=0', f'--user-data-dir={folder}', '--no-first-run', 'about:blank'],
      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
      port_file = Path(folder) / 'DevToolsActivePort'
      end = time.monotonic() + 60
      while not (port_file.exists() and port_file.read_text().count('\n')):
        assert time.monotonic() < end, 'Chromium does not start'
        await asyncio.sleep(0.1)
      port = port_file.read_text().splitlines()[0]
      async with aiohttp.ClientSession() as session:
        async with session.get(f'http://127.0.0.1:{port}/json/list') as answer:
          target = next(t for t in await answer.json() if t['type'] == 'page')
        async with session.ws_connect(target['webSocketDebuggerUrl'], max_msg_size=0) as socket:
          page = Page(socket)
          for domain in ('Page', 'Network', 'Runtime', 'Log', 'DOM'):
            await page.send(f'{domain}.enable')
          await page.send('Page.navigate', url=url)
          yield page
    finally:
      process.terminate()
      process.wait()
