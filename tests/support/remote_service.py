# SPDX-License-Identifier: Apache-2.0
"""A server that speaks the parts of the hub's and of Cloud Storage's interface that we need."""

import base64
import hashlib
import http.server
import json
import sys
import threading
import urllib.parse

import google_crc32c
import yaml

COMMIT = 'c0ffee' + 34 * '0'
WEIGHTS = bytes(range(256)) * 1024  # 256 KiB
CONFIG = b'{"model_type": "vivit"}'
FOLDER = {
  'model.safetensors': WEIGHTS,
  'config.json': CONFIG,
  'preprocessor_config.json': b'{}',
  'pytorch_model.bin': b'\x80\x02evil',
  'README.md': b'# ViViT',
}


class Service(http.server.ThreadingHTTPServer):
  """Files under a repository owner/name, or a bucket with the folder owner/name.

  Attributes:
    files: name to content.
    content: names whose content was asked for, with the Range header.
    asked: the paths of all requests.
    status: that every request is answered with, where not None.
    cuts: how many answers with content still stop half way.
    wrong: whether content has a flipped byte.
    made: what a repository was made with, None while owner/name is the one that is always there.
    commits: messages of commits to it.
    read_only: whether nothing may be written.
  """

  def __init__(self):
    super().__init__(('127.0.0.1', 0), Handler)
    self.files, self.content, self.status, self.cuts = dict(FOLDER), [], None, 0
    self.read_only = False
    self.asked, self.made, self.commits, self.uploaded = [], None, [], {}
    self.wrong, self.generation, self.unlisted = False, 1, False
    self.address = f'http://127.0.0.1:{self.server_port}'
    self.thread = threading.Thread(
      target=self.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True
    )
    self.thread.start()

  def handle_error(self, request, client_address):
    # gcsfs drops answers that it need not read.
    if not isinstance(sys.exception(), ConnectionError):
      super().handle_error(request, client_address)

  def stop(self):
    self.shutdown()
    self.thread.join()
    self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
  """Answers for both services, told apart by their paths."""

  def log_message(self, *args):
    pass

  def do_HEAD(self):
    self.do_GET()

  def do_GET(self):
    self.server.asked.append(self.path)
    path, _, query = self.path.partition('?')
    parts = [urllib.parse.unquote(part) for part in path.strip('/').split('/')]
    query = dict(urllib.parse.parse_qsl(query))
    if self.server.status:
      self.answer(self.server.status, {'error': {'message': 'no'}}, **{'X-Error-Code': 'GatedRepo'})
    elif parts[:2] == ['api', 'models']:
      self.hub(parts[2:])
    elif parts[2:3] == ['resolve']:
      self.file('/'.join(parts[4:]))
    elif parts[0] == 'download':
      name = parts[-1].removeprefix('owner/name/')
      if name in self.server.files:
        self.file(name)
      else:
        self.answer(404, {'error': {'message': 'no object'}})
    elif parts[0] == 'storage':
      self.bucket(parts[3], parts[5:], query)
    else:
      self.answer(404, {})

  def do_POST(self):
    self.server.asked.append(self.path)
    body = self.body()
    path = self.path.partition('?')[0]
    if self.server.read_only:
      self.answer(403, {'error': 'no'})
    elif path == '/api/repos/create':
      self.server.made = json.loads(body)
      self.server.files.clear()
      self.answer(200, {'url': f'{self.server.address}/owner/new', 'id': 'x', 'name': 'owner/new'})
    elif path == '/api/validate-yaml':
      yaml.safe_load(json.loads(body)['content'].split('---')[1])
      self.answer(200, {'errors': [], 'warnings': []})
    elif '/preupload/' in path:
      files = [
        {
          'path': file['path'],
          'uploadMode': 'lfs' if file['path'].endswith('safetensors') else 'regular',
          'shouldIgnore': False,
        }
        for file in json.loads(body)['files']
      ]
      self.answer(200, {'files': files})
    elif path.endswith('/info/lfs/objects/batch'):
      objects = json.loads(body)['objects']
      for item in objects:
        item['actions'] = {'upload': {'href': f'{self.server.address}/put/{item["oid"]}'}}
      self.answer(200, {'transfer': 'basic', 'objects': objects})
    elif '/commit/' in path:
      self.commit(map(json.loads, body.splitlines()))
    else:
      self.answer(404, {})

  def body(self):
    if self.headers['Content-Length'] is not None:
      return self.rfile.read(int(self.headers['Content-Length']))
    parts = []  # in chunks, each with its size, the last one empty
    while not parts or parts[-1]:
      parts.append(self.rfile.read(int(self.rfile.readline(), 16)))
      self.rfile.readline()
    return b''.join(parts)

  def do_PUT(self):
    body = self.body()
    self.server.uploaded[hashlib.sha256(body).hexdigest()] = body
    self.answer(200, {})

  def commit(self, lines):
    for line in lines:
      value = line['value']
      if line['key'] == 'header':
        self.server.commits.append(value['summary'])
      elif line['key'] == 'file':
        self.server.files[value['path']] = base64.b64decode(value['content'])
      else:
        self.server.files[value['path']] = self.server.uploaded[value['oid']]
    url = f'{self.server.address}/owner/new/commit/{COMMIT}'
    self.answer(200, {'success': True, 'commitOid': COMMIT, 'commitUrl': url})

  def hub(self, parts):
    if not parts:
      self.answer(200, [{'id': 'owner/name'}, {'id': 'owner/other'}])
    elif parts[:2] != ['owner', 'new' if self.server.made else 'name']:
      self.answer(401, {'error': 'Repository not found'}, **{'X-Error-Code': 'RepoNotFound'})
    elif len(parts) == 2:
      self.answer(200, {'id': '/'.join(parts), 'sha': COMMIT, 'siblings': []})
    elif parts[2] == 'refs':
      branch = {'name': 'main', 'ref': 'refs/heads/main', 'targetCommit': COMMIT}
      self.answer(200, {'branches': [branch], 'tags': [], 'converts': []})
    elif parts[3] not in ('main', COMMIT):
      self.answer(404, {'error': 'no revision'}, **{'X-Error-Code': 'RevisionNotFound'})
    else:
      siblings = []
      for name, content in self.server.files.items():
        sibling = {'rfilename': name, 'size': len(content), 'blobId': git(content)}
        if not name.endswith(('.json', '.md')):
          sha256 = hashlib.sha256(content).hexdigest()
          sibling['lfs'] = {'sha256': sha256, 'size': len(content), 'pointerSize': 130}
        siblings.append(sibling)
      self.answer(200, {'id': '/'.join(parts[:2]), 'sha': COMMIT, 'siblings': siblings})

  def bucket(self, bucket, name, query):
    objects = {f'owner/name/{name}': content for name, content in self.server.files.items()}
    if bucket != 'bucket':
      self.answer(404, {'error': {'message': 'no bucket'}})
    elif self.server.unlisted and not (name and name[0] in objects):
      self.answer(403, {'error': {'message': 'may not list'}})
    elif name and name[0] not in objects:
      self.answer(404, {'error': {'message': 'no object'}})
    elif name:
      self.answer(200, self.resource(name[0], objects[name[0]]))
    else:
      prefix, delimiter = query.get('prefix', ''), query.get('delimiter')
      items, prefixes = [], set()
      for name, content in objects.items():
        below, slash, _ = name.removeprefix(prefix).partition(delimiter or '\0')
        if name.startswith(prefix) and slash:
          prefixes.add(f'{prefix}{below}{slash}')
        elif name.startswith(prefix):
          items.append(self.resource(name, content))
      self.answer(200, {'items': items, 'prefixes': sorted(prefixes)})

  def resource(self, name, content):
    quoted = urllib.parse.quote(name, safe='')
    crc32c = base64.b64encode(google_crc32c.Checksum(content).digest()).decode()
    return {
      'name': name,
      'bucket': 'bucket',
      'size': str(len(content)),
      'generation': str(self.server.generation),
      'mediaLink': f'{self.server.address}/download/storage/v1/b/bucket/o/{quoted}?alt=media',
      'crc32c': crc32c,
    }

  def file(self, name):
    content = self.server.files[name]
    etag = hashlib.sha256(content).hexdigest() if name.endswith('safetensors') else git(content)
    headers = {'ETag': f'"{etag}"', 'X-Repo-Commit': COMMIT, 'Accept-Ranges': 'bytes'}
    code, wanted = 200, self.headers.get('Range')
    if self.command == 'GET':
      self.server.content.append((name, wanted))
    body = content
    if wanted:
      first, _, last = wanted.removeprefix('bytes=').partition('-')
      first, last = int(first), min(int(last or len(content) - 1), len(content) - 1)
      code, body = 206, content[first : last + 1]
      headers['Content-Range'] = f'bytes {first}-{last}/{len(content)}'
    if self.server.wrong:
      body = b'?' + body[1:]
    self.send(code, body, headers)

  def answer(self, code, body, **headers):
    self.send(code, json.dumps(body).encode(), {'Content-Type': 'application/json', **headers})

  def send(self, code, body, headers):
    self.send_response(code)
    for name, value in {**headers, 'Content-Length': str(len(body))}.items():
      self.send_header(name, value)
    self.end_headers()
    if self.command == 'HEAD':
      return
    if self.server.cuts and 'ETag' in headers and len(body) > 1000:
      self.server.cuts -= 1
      body = body[: len(body) // 2]
    self.wfile.write(body)


def git(content):
  return hashlib.sha1(b'blob %d\0' % len(content) + content).hexdigest()
