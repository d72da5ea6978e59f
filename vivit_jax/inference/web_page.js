// SPDX-License-Identifier: Apache-2.0
// Runs the model on a dropped video and shows the best labels; nothing leaves the browser.
import * as ort from './ort.wasm.min.mjs';
import { readViews } from './video.js';

const BATCH = 3, TOP = 5;
const at = id => document.getElementById(id);
ort.env.wasm.numThreads = 1;  // more need headers that not every server sends
ort.env.wasm.wasmPaths = new URL('./', import.meta.url).href;

const say = text => { at('status').textContent = text; };
const model = await (await fetch('model.json')).json();
const session = await ort.InferenceSession.create('model.onnx');
at('about').textContent = `${model.model.attention.replaceAll('_', ' ')}, ` +
  `${model.clip.frames} frames of ${model.clip.height} x ${model.clip.width} pixels, ` +
  `${model.views.temporal} x ${model.views.spatial} views.`;

let busy = false;
async function answer(file) {
  if (busy) return;
  busy = true;
  document.body.dataset.state = 'busy';
  at('answer').replaceChildren();
  const video = at('video');
  try {
    say('Reading the video.');
    await load(video, file);
    const views = await readViews(video, model, share =>
      say(`Reading the video: ${Math.round(100 * share)} %.`));
    const logits = await run(views.pixels);
    show(logits);
    say(`${file.name}: ${views.frames} frames.`);
    document.body.dataset.state = 'done';
  } catch (error) {
    say(`${file.name}: ${error.message}`);
    document.body.dataset.state = 'failed';
  } finally {
    busy = false;
  }
}

function load(video, file) {
  if (video.src) URL.revokeObjectURL(video.src);
  video.hidden = false;
  return new Promise((done, fail) => {
    video.onloadeddata = () => video.videoWidth ? done() : fail(new Error('It has no pictures.'));
    video.onerror = () => fail(new Error('This browser cannot play it as a video.'));
    video.src = URL.createObjectURL(file);
  });
}

// Mean logits over all views.
async function run(pixels) {
  const { clip, views, task } = model;
  const count = views.temporal * views.spatial;
  const size = clip.frames * clip.height * clip.width * 3;
  const classes = task.classes.reduce((a, b) => a + b, 0);
  const mean = new Float64Array(classes);
  for (let first = 0; first < count; first += BATCH) {
    say(`Running the model: ${Math.round(100 * first / count)} %.`);
    const rows = Math.min(BATCH, count - first);
    const part = pixels.subarray(first * size, (first + rows) * size);
    const shape = [rows, clip.frames, clip.height, clip.width, 3];
    const { logits } = await session.run({ video: new ort.Tensor('uint8', part, shape) });
    logits.data.forEach((value, i) => { mean[i % classes] += value / count; });
  }
  return mean;
}

function show(logits) {
  const { task, labels } = model;
  let start = 0;
  task.heads.forEach((head, h) => {
    const own = [...logits.slice(start, start + task.classes[h])];
    const most = Math.max(...own);
    const total = own.reduce((sum, x) => sum + Math.exp(x - most), 0);
    const shares = own.map(x => task.kind === 'multi_label'
      ? 1 / (1 + Math.exp(-x)) : Math.exp(x - most) / total);
    const best = shares.map((_, i) => i).sort((a, b) => shares[b] - shares[a]).slice(0, TOP);
    const table = document.createElement('table');
    table.className = 'bars';
    table.dataset.head = head;
    for (const i of best) {
      const row = table.insertRow();
      row.insertCell().textContent = labels ? labels[start + i] : `class ${i}`;
      row.cells[0].className = 'name';
      row.insertCell().textContent = `${(100 * shares[i]).toFixed(1)} %`;
      const bar = document.createElement('div');
      bar.className = 'bar';
      bar.style.width = `${100 * shares[i]}%`;
      row.insertCell().append(bar);
      row.dataset.label = row.cells[0].textContent;
      row.dataset.share = shares[i];
    }
    const card = document.createElement('div');
    card.className = 'card';
    if (task.heads.length > 1) card.append(Object.assign(document.createElement('p'), { textContent: head }));
    card.append(table);
    at('answer').append(card);
    start += task.classes[h];
  });
}

at('file').addEventListener('change', event => {
  if (event.target.files.length) answer(event.target.files[0]);
});
for (const name of ['dragover', 'dragleave', 'drop']) {
  addEventListener(name, event => {
    event.preventDefault();
    at('drop').classList.toggle('over', name === 'dragover');
    if (name === 'drop' && event.dataTransfer.files.length) answer(event.dataTransfer.files[0]);
  });
}
say('');
document.body.dataset.state = 'ready';
