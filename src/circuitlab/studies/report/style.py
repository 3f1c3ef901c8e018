"""The style sheet of the report: system fonts, light and dark, one column on a phone, table of contents at the side on a wide screen."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --panel: #f6f8fa; --ink: #1f2328; --soft: #59636e; --line: #d8dee4; --link: #0b5cad;
  --good: #1a6b3c; --good-bg: #dff3e4; --warn: #6a4b00; --warn-bg: #ffeec2; --warn-line: #d9a520; --mark: #cfe6fb;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #0d1117; --panel: #151b23; --ink: #e6edf3; --soft: #9198a1; --line: #2d343d; --link: #79b8f5;
    --good: #8fdca8; --good-bg: #12341f; --warn: #ffd98a; --warn-bg: #3a2c08; --warn-line: #8a6a1a; --mark: #1d4568;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 1rem; }
body {
  margin: 0; background: var(--paper); color: var(--ink); line-height: 1.6; font-size: 16px;
  font-family: Inter, "Segoe UI", system-ui, -apple-system, "Helvetica Neue", Arial, sans-serif;
}
.page { max-width: 1420px; margin: 0 auto; padding: 0 1.25rem 5rem; }
header { padding: 3rem 0 1.5rem; border-bottom: 1px solid var(--line); margin-bottom: 1.5rem; }
h1 { font-size: clamp(1.6rem, 3.4vw, 2.35rem); line-height: 1.2; margin: 0 0 .75rem; letter-spacing: -.015em; max-width: 30em; }
h2 { font-size: 1.5rem; line-height: 1.3; margin: 3.5rem 0 .75rem; letter-spacing: -.01em; }
h3 { font-size: 1.2rem; margin: 2.75rem 0 .5rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
h4 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p, ul, ol, dl { max-width: 46em; }
a { color: var(--link); text-underline-offset: .15em; }
code, .mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: .875em; overflow-wrap: anywhere; }
.soft { color: var(--soft); }
.lead { color: var(--soft); font-size: 1.05rem; margin: 0; }
nav { font-size: .92rem; }
nav ol { list-style: none; margin: 0; padding: 0; }
nav ol ol { padding-left: 1rem; }
nav a { display: block; padding: .2rem 0; color: var(--soft); text-decoration: none; }
nav a:hover { color: var(--ink); text-decoration: underline; }
nav strong { display: block; margin-bottom: .35rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; min-width: 100%; }
th, td { text-align: left; padding: .45rem .9rem .45rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; color: var(--soft); font-size: .84rem; white-space: nowrap; }
td.number { white-space: nowrap; }
td.wide { min-width: 20em; }
.badge { display: inline-block; padding: .05rem .6rem; border-radius: 1rem; font-size: .82rem; font-weight: 600; white-space: nowrap; }
.badge.good { background: var(--good-bg); color: var(--good); }
.badge.warn { background: var(--warn-bg); color: var(--warn); }
.note {
  border-left: 4px solid var(--warn-line); background: var(--warn-bg); color: var(--warn); padding: .7rem 1rem; margin: 1rem 0;
  max-width: 52em; border-radius: 0 6px 6px 0;
}
.figures { display: grid; gap: 1.5rem 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 470px), 1fr)); align-items: start; }
figure { margin: 1rem 0; min-width: 0; }
.cl-wide { overflow-x: auto; overflow-y: hidden; }
.cl-hint { color: var(--soft); font-size: .84rem; margin: .25rem 0; }
.cl-hint::before { content: "\\2194\\00a0"; }
.cl-hint[hidden] { display: none; }
figcaption { font-size: .88rem; color: var(--soft); margin-bottom: .25rem; }
figcaption b { color: var(--ink); display: block; font-size: .98rem; }
.cl-plot { width: 100%; }
.caption { color: var(--soft); font-size: .92rem; margin: .25rem 0 1.5rem; }
.figures > div { min-width: 0; }
.example {
  background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem; margin: 1rem 0; max-width: 60em;
}
.example dl { margin: 0; display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1rem; max-width: none; }
.example dt, .facts dt { color: var(--soft); font-size: .86rem; }
.example dd { margin: 0; white-space: pre-wrap; min-width: 0; overflow-wrap: anywhere; }
.example mark { background: var(--mark); color: inherit; border-radius: 3px; padding: 0 .1em; }
.example sup { color: var(--soft); font-size: .65em; padding-left: .15em; }
details { margin: .75rem 0; }
summary { cursor: pointer; color: var(--link); font-size: .92rem; }
@media (min-width: 1180px) {
  .columns { display: grid; grid-template-columns: 210px minmax(0, 1fr); gap: 3rem; }
  nav { position: sticky; top: 1.5rem; align-self: start; max-height: calc(100vh - 3rem); overflow-y: auto; }
  main > section:first-child h2 { margin-top: 0; }
  #findings { columns: 2; column-gap: 3rem; margin-bottom: 3.5rem; }
  #findings h2 + p { margin-top: 0; }
  #findings h2 { column-span: all; margin-top: 1rem; }
  #findings li { break-inside: avoid; }
}
@media print { nav { display: none; } figure { break-inside: avoid; } }
"""
"""CSS of the whole page; it fetches no font, image or style."""
