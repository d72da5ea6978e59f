// SPDX-License-Identifier: Apache-2.0
// Frames of a video as the Python package gives them to a model: the same clips, crops and sizes.

const PATIENCE = 4000;  // milliseconds for a frame to appear

// Frame indices of `views` clips spread over a video of frames at `times` (seconds).
export function evaluationClips(times, clip, views) {
  const n = clip.frames, length = times.length;
  if (clip.sampling !== 'stride') {
    const half = clip.sampling === 'whole_video' ? 1 : 0;
    return range(views).map(v => range(n).map(k =>
      Math.floor((2 * (k * views + v) + half) * length / (2 * n * views))));
  }
  const shown = length > 1 ? median(range(length - 1).map(i => times[i + 1] - times[i])) : 1;
  const end = times[length - 1];
  const step = clip.stride_seconds;
  const last = step === null
    ? Math.max(0, length - ((n - 1) * clip.stride + 1))
    : Math.max(0, lowerBound(times, end + shown / 2 - (n - 1) * step) - 1);
  const starts = views === 1 ? [last >> 1] : range(views).map(k => Math.floor(k * last / (views - 1)));
  if (step === null) {
    return starts.map(s => range(n).map(k => (s + clip.stride * k) % length));
  }
  const until = range(length).map(i =>
    i + 1 < length ? (times[i] + times[i + 1]) / 2 : end + shown / 2);
  return starts.map(s => range(n).map(k =>
    lowerBound(until, (times[s] + step * k) % (end + shown)) % length));
}

// Boxes {top, left, height, width} of `count` crops along the longer side of a frame.
export function boxes(height, width, clip, shortSide, count) {
  const cover = Math.max(clip.height / height, clip.width / width);
  const scale = Math.max(cover, shortSide / Math.min(height, width));
  const boxH = Math.min(height, Math.max(1, round(clip.height / scale)));
  const boxW = Math.min(width, Math.max(1, round(clip.width / scale)));
  const roomH = height - boxH, roomW = width - boxW;
  const scaledH = Math.floor(height * scale + 1e-6), scaledW = Math.floor(width * scale + 1e-6);
  const tall = (scaledH - clip.height) * clip.width > (scaledW - clip.width) * clip.height;
  return range(count).map(k => {
    const share = count > 1 ? k / (count - 1) : 0.5;
    return {
      top: Math.floor((tall ? share : 0.5) * roomH + 0.5),
      left: Math.floor((tall ? 0.5 : share) * roomW + 0.5),
      height: boxH, width: boxW,
    };
  });
}

// One box of RGBA pixels as RGB of another size: bilinear, or means of areas where it shrinks much.
export function resize(pixels, stride, box, height, width, target, offset) {
  const area = box.height > 1.5 * height || box.width > 1.5 * width;
  const rows = weights(box.height, height, area), columns = weights(box.width, width, area);
  const middle = new Float32Array(box.height * width * 3);
  for (let y = 0; y < box.height; y++) {
    const line = ((box.top + y) * stride + box.left) * 4;
    for (let x = 0; x < width; x++) {
      const at = (y * width + x) * 3;
      for (const [i, w] of columns[x]) {
        for (let c = 0; c < 3; c++) middle[at + c] += w * pixels[line + i * 4 + c];
      }
    }
  }
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width * 3; x++) {
      let sum = 0;
      for (const [i, w] of rows[y]) sum += w * middle[i * width * 3 + x];
      target[offset + y * width * 3 + x] = Math.min(255, Math.max(0, Math.round(sum)));
    }
  }
}

// For each of `to` pixels, which of `from` it is made of: [[index, weight], ...].
function weights(from, to, area) {
  const ratio = from / to;
  return range(to).map(k => {
    if (!area) {
      const at = Math.min(from - 1, Math.max(0, (k + 0.5) * ratio - 0.5));
      const low = Math.floor(at), high = Math.min(from - 1, low + 1);
      return [[low, 1 - (at - low)], [high, at - low]];
    }
    const start = k * ratio, stop = Math.min(from, start + ratio), parts = [];
    for (let i = Math.floor(start); i < stop - 1e-9; i++) {
      parts.push([i, (Math.min(stop, i + 1) - Math.max(start, i)) / (stop - start)]);
    }
    return parts;
  });
}

// Finds the times of all frames of a loaded <video> by playing the beginning of it.
export async function frameTimes(video) {
  const duration = video.duration;
  if (!Number.isFinite(duration) || duration <= 0) throw new Error('The video tells no length.');
  const seen = [];
  await new Promise((done, fail) => {
    const finish = () => { video.pause(); video.onended = null; clearTimeout(timer); done(); };
    const timer = setTimeout(finish, 5000);
    const note = (_, frame) => {
      seen.push(frame.mediaTime);
      if (seen.length >= 24) finish(); else video.requestVideoFrameCallback(note);
    };
    video.requestVideoFrameCallback(note);
    video.onended = finish;
    video.currentTime = 0;
    video.play().catch(fail);
  });
  const gaps = range(seen.length - 1).map(i => seen[i + 1] - seen[i]).filter(gap => gap > 1e-3);
  if (!gaps.length) return [0];
  const least = Math.min(...gaps);  // frames may have been dropped, so others are multiples of it
  const total = gaps.reduce((a, b) => a + b, 0);
  const step = total / gaps.reduce((count, gap) => count + Math.round(gap / least), 0);
  // Sound may last longer than the pictures, so the last of these is asked for.
  const last = await new Promise(done => {
    const timer = setTimeout(() => done(duration - step), PATIENCE);
    const look = (_, frame) => {
      if (frame.mediaTime < duration - 2 && frame.mediaTime < seen[seen.length - 1] + 2 * step) {
        video.requestVideoFrameCallback(look);  // still a frame of the beginning
      } else { clearTimeout(timer); done(frame.mediaTime); }
    };
    video.requestVideoFrameCallback(look);
    video.currentTime = duration;
  });
  return range(Math.max(1, Math.round(last / step) + 1)).map(i => i * step);
}

// Shows the frame of a <video> that begins at `time` and is shown for `step` seconds. That seeking is
// done does not mean that the frame is there to be drawn: the browser says which one is.
export async function show(video, time, step) {
  for (const share of [0.5, 0.4, 0.6, 0.3]) {
    const shown = new Promise(done => {
      const timer = setTimeout(() => done(false), PATIENCE);
      const look = (_, frame) => {
        if (Math.abs(frame.mediaTime - time) < step / 2) { clearTimeout(timer); done(true); }
        else video.requestVideoFrameCallback(look);
      };
      video.requestVideoFrameCallback(look);
    });
    await new Promise((done, fail) => {
      video.onseeked = done;
      video.onerror = () => fail(new Error('The video is damaged.'));
      video.currentTime = Math.min(time + share * step, video.duration);
    });
    if (await shown) return;
  }
  throw new Error(`This browser does not show the frame at ${time.toFixed(3)} s.`);
}

// All views of a video, uint8 [temporal * spatial, F, H, W, 3], crops of a clip next to each other.
export async function readViews(video, model, progress) {
  const { clip, views, preprocessing } = model;
  const times = await frameTimes(video);
  const indices = evaluationClips(times, clip, views.temporal);
  const height = video.videoHeight, width = video.videoWidth;
  const crops = preprocessing.resize === 'whole_frame'
    ? range(views.spatial).map(() => ({ top: 0, left: 0, height, width }))
    : boxes(height, width, clip, preprocessing.short_side, views.spatial);
  const size = clip.height * clip.width * 3;
  const result = new Uint8Array(views.temporal * views.spatial * clip.frames * size);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext('2d', { willReadFrequently: true });
  const wanted = [...new Set(indices.flat())].sort((a, b) => a - b);
  const step = times.length > 1 ? times[1] - times[0] : video.duration;
  for (const [done, index] of wanted.entries()) {
    await show(video, times[index], step);
    context.drawImage(video, 0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height);
    indices.forEach((clipIndices, t) => clipIndices.forEach((frame, k) => {
      if (frame !== index) return;
      crops.forEach((box, s) => {
        const row = (t * views.spatial + s) * clip.frames + k;
        resize(data, width, box, clip.height, clip.width, result, row * size);
      });
    }));
    progress((done + 1) / wanted.length);
  }
  return { pixels: result, frames: times.length };
}

const range = n => Array.from({ length: n }, (_, k) => k);
// To even where a half is in between, as Python rounds.
function round(x) {
  const low = Math.floor(x);
  return x - low === 0.5 ? low + (low % 2) : Math.round(x);
}
function median(values) {
  const sorted = [...values].sort((a, b) => a - b), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}
// Index of the first value that is not less.
function lowerBound(values, x) {
  let low = 0, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < x) low = middle + 1; else high = middle;
  }
  return low;
}
