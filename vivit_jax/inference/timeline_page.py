# SPDX-License-Identifier: Apache-2.0
"""Timelines as one self-contained HTML page without network requests; all names are escaped."""

import base64
import importlib.resources
import string
from collections.abc import Mapping, Sequence
from html import escape

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from vivit_jax.evaluate.page import STYLE
from vivit_jax.inference.segments import Segment
from vivit_jax.inference.timeline import Timeline

PICTURES = 12  # frames below a curve
CURVES = 6  # curves per head: those with the highest maxima
POINTS = 800  # points per curve; with more windows, the maximum of each group is drawn
COLORS = ('#1f77d0', '#e4572e', '#2a9d5c', '#9b5de5', '#c98a00', '#00a3a3')
WIDTH, HEIGHT, LEFT, BELOW = 1000, 180, 40, 22  # layout of the drawing, in SVG units


class Pictures:
  """Keeps a few evenly spaced frames of a stream of unknown length, by doubling the spacing."""

  def __init__(self) -> None:
    self._every, self._count = 1, 0
    self._kept: list[tuple[float, UInt8[np.ndarray, 'h w 3']]] = []

  def __call__(self, seconds: float, frame: UInt8[np.ndarray, 'h w 3']) -> None:
    """Takes a frame."""
    if self._count % self._every == 0:
      self._kept.append((seconds, frame))
    self._count += 1
    if len(self._kept) > 4 * PICTURES:
      self._every *= 2
      self._kept = self._kept[::2]

  def jpegs(self) -> list[tuple[float, bytes]]:
    """Returns at most PICTURES frames as JPEG, with their times in seconds."""
    count = min(PICTURES, len(self._kept))
    places = ((np.arange(count) + 0.5) * len(self._kept) / max(count, 1)).astype(int)
    result = []
    for place in places.tolist():
      seconds, frame = self._kept[place]
      done, jpeg = cv2.imencode('.jpg', frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
      assert done
      result.append((seconds, jpeg.tobytes()))
    return result


def render(title: str, about: str, sections: Sequence[str]) -> str:
  """Returns the page.

  Args:
    title: heading.
    about: line below the heading.
    sections: results of `section`, one per video.
  """
  template = importlib.resources.files(__package__).joinpath('timeline.html').read_text()
  return string.Template(template).substitute(
    title=escape(title), about=escape(about), style=STYLE, videos='\n'.join(sections)
  )


def section(
  path: str,
  timeline: Timeline,
  names: Mapping[str, Sequence[str]],
  shares: Mapping[str, Float64[np.ndarray, 'w c']],
  found: Sequence[Segment],
  pictures: Sequence[tuple[float, bytes]],
) -> str:
  """Returns one video's curves, frames and segments."""
  parts = [f'<h2>{escape(path)}</h2>']
  for head, own in shares.items():
    parts.append(drawing(head if len(shares) > 1 else '', timeline, names[head], own, found))
  images = ''.join(
    f'<img alt="{seconds:.2f} s" title="{seconds:.2f} s" '
    f'src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
    for seconds, jpeg in pictures
  )
  parts.append(f'<div class="frames">{images}</div>')
  parts.append(segment_table(found, len(shares) > 1))
  return '\n'.join(parts)


def drawing(
  head: str,
  timeline: Timeline,
  names: Sequence[str],
  shares: Float64[np.ndarray, 'w c'],
  found: Sequence[Segment],
) -> str:
  """Returns one head's curves over time above its segments.

  Args:
    head: name of the head; '' if there is only one.
    timeline: timeline of the video.
    names: class names of the head.
    shares: probabilities in each window.
    found: segments of all heads.
  """
  best = np.argsort(-shares.max(axis=0), kind='stable')[:CURVES].tolist()
  colors = {names[k]: COLORS[i] for i, k in enumerate(best)}
  legend = ''.join(
    f'<span><i style="background:{color}"></i>{escape(name)}</span>'
    for name, color in colors.items()
  )
  curves = [(colors[names[k]], shares[:, k]) for k in best]
  bars = [
    (segment.start, segment.end, colors.get(segment.label, 'var(--soft)'), segment.label)
    for segment in found
    if head in ('', segment.head)
  ]
  label = f'<p>{escape(head)}</p>' if head else ''
  svg = _svg(timeline.seconds.mean(axis=1), timeline.duration, curves, bars)
  return f'<div class="card curve">{label}<div class="legend">{legend}</div>{svg}</div>'


def _svg(
  middle: Float64[np.ndarray, ' w'],
  duration: float,
  curves: Sequence[tuple[str, Float64[np.ndarray, ' w']]],
  bars: Sequence[tuple[float, float, str, str]],
) -> str:
  def x(seconds: float) -> float:
    return LEFT + (WIDTH - LEFT) * seconds / max(duration, 1e-9)

  def y(share: float) -> float:
    return 8 + (HEIGHT - 8) * (1 - share)

  lines = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 2 * BELOW}" role="img">']
  for share in (0.0, 0.5, 1.0):
    lines.append(
      f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y(share):.1f}" y2="{y(share):.1f}" '
      f'stroke="var(--line)"/><text x="{LEFT - 6}" y="{y(share) + 4:.1f}" '
      f'text-anchor="end">{share:.0%}</text>'
    )
  for color, own in curves:
    points = ' '.join(f'{x(s):.1f},{y(p):.1f}' for s, p in _thinned(middle, own))
    dot = f'<circle cx="{x(middle[0]):.1f}" cy="{y(own[0]):.1f}" r="3" fill="{color}"/>'
    curve = f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>'
    lines.append(dot if len(own) == 1 else curve)
  for start, end, color, label in bars:
    lines.append(
      f'<rect x="{x(start):.1f}" y="{HEIGHT + 4}" width="{max(1.0, x(end) - x(start)):.1f}" '
      f'height="8" fill="{color}"><title>{escape(label)}</title></rect>'
    )
  for k in range(5):
    seconds = duration * k / 4
    anchor = ('start', 'middle', 'middle', 'middle', 'end')[k]
    lines.append(
      f'<text x="{x(seconds):.1f}" y="{HEIGHT + 2 * BELOW - 8}" text-anchor="{anchor}">'
      f'{clock(seconds)}</text>'
    )
  return ''.join(lines) + '</svg>'


def _thinned(
  middle: Float64[np.ndarray, ' w'], own: Float64[np.ndarray, ' w']
) -> list[tuple[float, float]]:
  """Returns the points of a curve; if there are too many, the maximum of each group."""
  size = -(-len(own) // POINTS)
  groups = range(0, len(own), size)
  return [(float(middle[g : g + size].mean()), float(own[g : g + size].max())) for g in groups]


def segment_table(found: Sequence[Segment], several: bool) -> str:
  """Returns a table of segments, with a head column if there are several heads."""
  head = '<th class="name">head</th>' if several else ''
  rows = ''.join(
    '<tr>'
    + (f'<td class="name">{escape(s.head)}</td>' if several else '')
    + f'<td class="name">{escape(s.label)}</td><td>{clock(s.start)}</td><td>{clock(s.end)}</td>'
    f'<td>{clock(s.peak)}</td><td>{s.probability:.1%}</td><td>{s.mean:.1%}</td></tr>'
    for s in found
  )
  return (
    f'<div class="card"><table><tr>{head}<th class="name">label</th><th>from</th><th>to</th>'
    f'<th>peak at</th><th>peak</th><th>mean</th></tr>{rows}</table></div>'
  )


def clock(seconds: float) -> str:
  """Returns 1:02:03.4 for 3723.4 s, 0:03.4 for 3.4 s."""
  tenths = round(10 * seconds)
  minutes, rest = divmod(tenths, 600)
  hours, minutes = divmod(minutes, 60)
  front = f'{hours}:{minutes:02}' if hours else str(minutes)
  return f'{front}:{rest // 10:02}.{rest % 10}'
