// SPDX-License-Identifier: Apache-2.0
// Sends a dropped video to the server on this machine and shows what it answers.
'use strict';
const at = id => document.getElementById(id);
const say = text => { at('status').textContent = text; };
let about = { title: '', megabytes: Infinity };

fetch('/about').then(answer => answer.json()).then(found => {
  about = found;
  at('title').textContent = about.title;
  document.title = about.title;
  document.body.dataset.state = 'ready';
});

let busy = false;
async function ask(file) {
  if (busy) return;
  if (file.size > about.megabytes * 1e6) {
    fail(file, `The file has ${Math.round(file.size / 1e6)} MB; ${about.megabytes} are allowed.`);
    return;
  }
  busy = true;
  document.body.dataset.state = 'busy';
  say(`${file.name}: the model is looking.`);
  at('answer').hidden = true;
  const began = performance.now();
  try {
    const response = await fetch('/video', { method: 'POST', body: file });
    const found = await response.json();
    if (!response.ok) {
      fail(file, found.error);
      return;
    }
    show(file, found);
    say(`${file.name}: ${((performance.now() - began) / 1000).toFixed(1)} s`);
    document.body.dataset.state = 'done';
  } catch (error) {
    fail(file, 'The server does not answer.');
  } finally {
    busy = false;
  }
}

function fail(file, why) {
  at('answer').hidden = true;
  say(`${file.name}: ${why}`);
  document.body.dataset.state = 'failed';
}

function show(file, found) {
  if (at('video').src) URL.revokeObjectURL(at('video').src);
  at('name').textContent = file.name;
  at('video').src = URL.createObjectURL(file);
  at('overlay').src = found.overlay;
  at('overlay').play().catch(() => {});
  at('clip').textContent = 'Where the model looked, ' +
    found.clip.map(s => `${s.toFixed(2)} s`).join(' to ') + ' (attention rollout)';
  at('labels').replaceChildren(...Object.entries(found.heads).map(([head, best]) => {
    const card = Object.assign(document.createElement('div'), { className: 'card' });
    if (Object.keys(found.heads).length > 1) {
      card.append(Object.assign(document.createElement('p'), { textContent: head }));
    }
    const table = Object.assign(document.createElement('table'), { className: 'bars' });
    for (const { label, probability } of best) {
      const row = table.insertRow();
      Object.assign(row.insertCell(), { textContent: label, className: 'name' });
      row.insertCell().textContent = `${(100 * probability).toFixed(1)} %`;
      const bar = Object.assign(document.createElement('div'), { className: 'bar' });
      bar.style.width = `${100 * probability}%`;
      row.insertCell().append(bar);
      Object.assign(row.dataset, { label, share: probability });
    }
    card.append(table);
    return card;
  }));
  // Drawn by the server, which escapes every name.
  at('timeline').innerHTML = found.timeline
    ? `<h2>Over time</h2>${found.timeline.drawing}${found.timeline.table}` : '';
  at('answer').hidden = false;
}

at('video').addEventListener('error', () => {
  at('name').textContent += ', which this browser cannot play';
});
at('file').addEventListener('change', event => {
  if (event.target.files.length) ask(event.target.files[0]);
});
for (const name of ['dragover', 'dragleave', 'drop']) {
  addEventListener(name, event => {
    event.preventDefault();
    at('drop').classList.toggle('over', name === 'dragover');
    if (name === 'drop' && event.dataTransfer.files.length) ask(event.dataTransfer.files[0]);
  });
}
