# SPDX-License-Identifier: Apache-2.0
"""The style sheet of the report page, readable in light and dark."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5d6778; --line: #dfe4ec;
  --page: #f5f7fa; --card: #ffffff; --accent: #1f5fbf; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf1; --soft: #98a3b5; --line: #2d3644;
  --page: #12161d; --card: #1a202a; --accent: #7db0ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 28px; margin: 0 0 4px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 44px 0 12px; }
p { color: var(--soft); margin: 0 0 12px; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px;
  margin-top: 24px; }
.number, .card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.number { padding: 14px 16px; }
.number b { display: block; font-size: 26px; font-weight: 650; letter-spacing: -0.02em; }
.number:first-child b { color: var(--accent); }
.number span { color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
.card { padding: 14px 16px; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; white-space: nowrap; padding: 7px 10px;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; font-size: 13px; }
th.name, td.name { text-align: left; white-space: normal; overflow-wrap: anywhere;
  min-width: 7em; }
tr:last-child td { border-bottom: 0; }
img { display: block; max-width: 100%; border-radius: 6px; }
.plot { background: #ffffff; border: 1px solid var(--line); border-radius: 10px; padding: 10px;
  margin: 0 0 16px; }
.plot img { margin: 0 auto; }
.confusion { display: flex; flex-wrap: wrap; gap: 14px; margin-bottom: 14px; }
.confusion .plot { flex: 0 1 auto; margin: 0; }
.confusion .card { flex: 1 1 280px; }
.mistakes { display: grid; grid-template-columns: repeat(auto-fill, minmax(440px, 1fr));
  gap: 14px; }
.mistakes img { width: 100%; }
.mistakes figcaption { margin-top: 8px; font-size: 14px; overflow-wrap: anywhere; }
.mistakes small { color: var(--soft); }
figure { margin: 0; }
details { margin-top: 14px; }
summary { cursor: pointer; color: var(--accent); }
pre { overflow-x: auto; font-size: 13px; margin: 12px 0 0; }
@media (max-width: 520px) { .mistakes { grid-template-columns: 1fr; } }
"""
