"""The HTML page of `page.py`; __CONTENT__ is replaced by the data as JSON."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>geotdm</title>
<style>
  body { margin: 0; font: 14px/1.4 system-ui, "DejaVu Sans", sans-serif; color: #202124; background: #fff; }
  header { padding: 14px 20px 4px; }
  h1 { font-size: 19px; margin: 0 0 2px; }
  #about, #legend { color: #5f6368; }
  #legend span { margin-right: 18px; white-space: nowrap; }
  #legend i { display: inline-block; width: 22px; height: 0; vertical-align: middle; margin-right: 6px; }
  #controls { display: flex; gap: 12px; align-items: center; padding: 8px 20px; position: sticky; top: 0;
              background: #fffffff0; border-bottom: 1px solid #eef0f2; }
  #controls input[type=range] { flex: 1; max-width: 520px; }
  button { font: inherit; padding: 4px 14px; border: 1px solid #bdc1c6; border-radius: 6px; background: #fff; }
  #clock { min-width: 12em; font-variant-numeric: tabular-nums; }
  #panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 10px; margin: 12px; }
  figure { margin: 0; border: 1px solid #eef0f2; border-radius: 8px; }
  figcaption { padding: 6px 10px 0; font-weight: 600; }
  canvas { width: 100%; aspect-ratio: 1; display: block; touch-action: none; cursor: grab; }
</style></head><body>
<header><h1 id="title"></h1><div id="about"></div><div id="legend"></div></header>
<div id="controls"><button id="play">Pause</button><input id="time" type="range" min="0" step="1" aria-label="frame">
<span id="clock"></span><label><input id="show" type="checkbox" checked> samples</label></div>
<div id="panels"></div>
<script id="content" type="application/json">__CONTENT__</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("content").textContent);
const byId = (id) => document.getElementById(id);
const numFrames = data.given.length, firstDrawn = data.given.indexOf(0);
const GIVEN = "#9AA0A6", BROAD = "#C4C7CC", BLUE = "#0072B2";
const is3d = data.systems[0].truth[0].length === 3;
const isMolecule = data.systems[0].bonds.length > 0;
let frame = 0, playing = true, hold = 0, showSamples = true;
const view = { yaw: 0.5, pitch: 0.35 };

byId("title").textContent = document.title = data.title;
byId("about").textContent = numFrames + " frames" + (data.unit ? ", positions in " + data.unit : "")
  + (is3d ? "; drag to turn" : "") + "; space plays and pauses, arrow keys step";
const legend = (colour, width, text) => {
  const entry = document.createElement("span"), mark = document.createElement("i");
  mark.style.borderTop = width + "px solid " + colour;
  entry.append(mark, text);
  byId("legend").append(entry);
};
const count = data.systems[0].samples.length + (data.systems[0].samples.length > 1 ? " samples" : " sample");
if (data.generated) { legend(isMolecule ? BROAD : GIVEN, 3, "data"); legend(BLUE, 1, count); }
else if (isMolecule) { legend(BROAD, 5, "truth"); legend(BLUE, 1, count); }
else { legend(GIVEN, 3, "given"); legend(BLUE, 3, "truth, one colour for each node"); legend(BLUE, 1, count); }

const project = (x, t, scale, half) => {
  if (!is3d) return [half + x[0][t] * scale, half - x[1][t] * scale];
  const cy = Math.cos(view.yaw), sy = Math.sin(view.yaw), cp = Math.cos(view.pitch), sp = Math.sin(view.pitch);
  const u = cy * x[0][t] + sy * x[1][t], w = -sy * x[0][t] + cy * x[1][t];
  return [half + u * scale, half - (cp * x[2][t] - sp * w) * scale];
};
// Larger is nearer to the eye.
const depth = (x, t) => {
  if (!is3d) return 0;
  const w = -Math.sin(view.yaw) * x[0][t] + Math.cos(view.yaw) * x[1][t];
  return Math.sin(view.pitch) * x[2][t] - Math.cos(view.pitch) * w;
};

function draw(panel) {
  const { canvas, system } = panel, size = canvas.clientWidth, ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(size * ratio)) canvas.width = canvas.height = Math.round(size * ratio);
  const ctx = canvas.getContext("2d"), half = size / 2, scale = 0.82 * half / system.extent;
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.clearRect(0, 0, size, size);
  ctx.lineCap = ctx.lineJoin = "round";
  const at = (x, t) => project(x, t, scale, half);
  const path = (x, from, to, colour, width, alpha) => {
    if (to <= from) return;
    ctx.globalAlpha = alpha; ctx.strokeStyle = colour; ctx.lineWidth = width;
    ctx.beginPath();
    for (let t = from; t <= to; t++) { const [a, b] = at(x, t); t === from ? ctx.moveTo(a, b) : ctx.lineTo(a, b); }
    ctx.stroke();
  };
  const dot = (x, colour, radius, alpha, edge) => {
    if (!radius) return;
    const [a, b] = at(x, frame);
    ctx.globalAlpha = alpha; ctx.fillStyle = colour;
    ctx.beginPath(); ctx.arc(a, b, radius, 0, 7); ctx.fill();
    if (edge) { ctx.strokeStyle = edge; ctx.lineWidth = 1; ctx.stroke(); }
  };
  const skeleton = (nodes, colour, width, alpha) => {
    ctx.globalAlpha = alpha; ctx.strokeStyle = colour; ctx.lineWidth = width;
    ctx.beginPath();
    for (const [i, j] of system.bonds) {
      const a = at(nodes[i], frame), b = at(nodes[j], frame);
      ctx.moveTo(a[0], a[1]); ctx.lineTo(b[0], b[1]);
    }
    ctx.stroke();
  };
  const forecasting = frame >= firstDrawn, start = Math.max(firstDrawn - 1, 0);
  const samples = showSamples && (forecasting || data.generated) ? system.samples : [];
  if (isMolecule) {
    const large = system.truth.length > 100;
    skeleton(system.truth, BROAD, large ? 1.5 : 6, 1);
    for (const nodes of samples) skeleton(nodes, BLUE, large ? 0.6 : 1.2, 0.6);
    if (!large) system.truth.map((x, i) => [depth(x, frame), i]).sort((a, b) => a[0] - b[0])
      .forEach(([, i]) => dot(system.truth[i], system.colours[i], system.sizes[i], 1, "#202124"));
  } else {
    for (const nodes of samples) nodes.forEach((x, i) => {
      if (!system.counted[i]) return;
      path(x, start, frame, system.colours[i], 1, 0.45);
      dot(x, system.colours[i], 2, 0.6);
    });
    system.truth.forEach((x, i) => {
      if (!system.sizes[i]) return;
      if (data.generated) path(x, 0, frame, GIVEN, 2.2, 1);
      else {
        path(x, 0, Math.min(frame, start), GIVEN, 2.2, 1);
        path(x, start, frame, system.colours[i], 2.2, 1);
      }
      dot(x, data.generated ? GIVEN : system.colours[i], system.sizes[i], 1, "#ffffff");
    });
  }
  ctx.globalAlpha = 1;
}

const panels = data.systems.map((system) => {
  const figure = document.createElement("figure"), caption = document.createElement("figcaption");
  const canvas = document.createElement("canvas");
  caption.textContent = system.name;
  figure.append(caption, canvas);
  byId("panels").append(figure);
  if (is3d) {
    let last = null;
    canvas.addEventListener("pointerdown", (e) => {
      last = [e.clientX, e.clientY];
      canvas.setPointerCapture(e.pointerId);
    });
    canvas.addEventListener("pointerup", () => { last = null; });
    canvas.addEventListener("pointermove", (e) => {
      if (!last) return;
      view.yaw -= (e.clientX - last[0]) * 0.01;
      view.pitch = Math.max(-1.57, Math.min(1.57, view.pitch + (e.clientY - last[1]) * 0.01));
      last = [e.clientX, e.clientY];
      drawAll();
    });
  }
  return { canvas, system };
});

function drawAll() {
  for (const panel of panels) draw(panel);
  byId("time").value = frame;
  const phase = data.generated ? "generated" : data.given[frame] ? "given" : "forecast";
  byId("clock").textContent = "frame " + (frame + 1) + " of " + numFrames + ": " + phase;
}
function setPlaying(on) { playing = on; byId("play").textContent = on ? "Pause" : "Play"; }
function go(t) { frame = (t + numFrames) % numFrames; drawAll(); }
byId("time").max = numFrames - 1;
byId("time").addEventListener("input", (e) => { setPlaying(false); go(Number(e.target.value)); });
byId("play").addEventListener("click", () => setPlaying(!playing));
byId("show").addEventListener("change", (e) => { showSamples = e.target.checked; drawAll(); });
window.addEventListener("resize", drawAll);
window.addEventListener("keydown", (e) => {
  if (e.key === " " && e.target.tagName !== "BUTTON") { e.preventDefault(); setPlaying(!playing); }
  if (e.key === "ArrowRight") { setPlaying(false); go(frame + 1); }
  if (e.key === "ArrowLeft") { setPlaying(false); go(frame - 1); }
});
setInterval(() => {
  if (!playing) return;
  if (frame === numFrames - 1 && hold++ < 12) return;
  hold = 0;
  go(frame + 1);
}, 110);
drawAll();
</script></body></html>
"""
