// Panels: which there are, how they share the stage, and what the pointer does in them.
let panels = [];
const LEAST_PANEL = 150;

// The tracks that are switched on, the one in front first.
const shownTracks = (system) =>
  [...state.tracks].filter((index) => index !== TRUTH || system.truth).sort((a, b) => a - b);

function layOut() {
  const stage = byId("stage"), system = data.systems[state.system];
  stage.replaceChildren();
  const all = state.layout === "all" ? data.systems : [system];
  panels = all.flatMap((one) => {
    if (state.layout !== "side") return [makePanel(one, () => shownTracks(one), one.name)];
    return shownTracks(one).map((index) => makePanel(one, () => [index], trackName(index)));
  });
  for (const panel of panels) stage.append(panel.figure);
  arrange();
}

// As many columns as make the panels largest; where they would be too small, the stage is scrolled.
function arrange() {
  const stage = byId("stage"), style = getComputedStyle(stage);
  const width = stage.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  const height = stage.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
  const n = Math.max(1, panels.length), gap = 8, caption = 26;
  let best = { size: 0, columns: 1 };
  for (let columns = 1; columns <= n; columns++) {
    const rows = Math.ceil(n / columns);
    const size = Math.min((width - gap * (columns - 1)) / columns, (height - gap * (rows - 1)) / rows - caption);
    if (size > best.size) best = { size, columns };
  }
  if (best.size < LEAST_PANEL) {
    best.columns = Math.max(1, Math.floor((width + gap) / (LEAST_PANEL + gap)));
    stage.style.gridAutoRows = Math.min(width, LEAST_PANEL * 1.3 + caption) + "px";
  } else {
    const rows = Math.ceil(n / best.columns);
    stage.style.gridAutoRows = (height - gap * (rows - 1)) / rows + "px";
  }
  stage.style.gridTemplateColumns = `repeat(${best.columns}, minmax(0, 1fr))`;
  redraw();
}

function makePanel(system, tracks, name) {
  const figure = document.createElement("figure"), caption = document.createElement("figcaption");
  const canvas = document.createElement("canvas"), phase = document.createElement("em");
  if (state.layout === "all" && data.systems.length > 1) {
    const open = document.createElement("button");
    open.textContent = name;
    open.title = "Show this system alone";
    open.addEventListener("click", () => choose({ system: data.systems.indexOf(system), layout: "over" }));
    caption.append(open);
  } else caption.append(name);
  caption.append(phase);
  canvas.setAttribute("role", "img");
  canvas.tabIndex = 0;
  figure.append(caption, canvas);
  const panel = { figure, canvas, phase, system, tracks, name };
  watchPointers(panel);
  return panel;
}

function describe(panel) {
  const names = panel.tracks().map(trackName).join(", ") || "nothing";
  panel.canvas.setAttribute("aria-label", `${panel.name}: ${names}; ${data.topologies[panel.system.topology].count} ${data.nodes}`);
}

// One pointer turns (or shifts in the plane, or with shift or another button), two pinch and shift; the wheel zooms.
function watchPointers(panel) {
  const { canvas } = panel, down = new Map();
  const middle = () => {
    const all = [...down.values()], n = all.length;
    const x = all.reduce((sum, p) => sum + p.x, 0) / n, y = all.reduce((sum, p) => sum + p.y, 0) / n;
    return { x, y, apart: n > 1 ? Math.hypot(all[0].x - all[1].x, all[0].y - all[1].y) : 0 };
  };
  const fromMiddle = (x, y) => {
    const box = canvas.getBoundingClientRect();
    return [x - box.left - box.width / 2, y - box.top - box.height / 2];
  };
  canvas.addEventListener("pointerdown", (e) => {
    down.set(e.pointerId, { x: e.clientX, y: e.clientY });
    canvas.setPointerCapture(e.pointerId);
  });
  const up = (e) => down.delete(e.pointerId);
  canvas.addEventListener("pointerup", (e) => { up(e); showTip(panel, e); });
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("pointerleave", (e) => { if (e.pointerType !== "touch") byId("tip").hidden = true; });  // a lifted finger leaves
  canvas.addEventListener("pointermove", (e) => {
    if (!down.has(e.pointerId)) { showTip(panel, e); return; }
    byId("tip").hidden = true;
    const before = middle();
    down.set(e.pointerId, { x: e.clientX, y: e.clientY });
    const now = middle(), dx = now.x - before.x, dy = now.y - before.y;
    if (down.size > 1) {
      view.x += dx; view.y += dy;
      if (before.apart > 0) zoomBy(now.apart / before.apart, ...fromMiddle(now.x, now.y));
    } else if (!is3d || e.shiftKey || e.buttons > 1) { view.x += dx; view.y += dy; }
    else turnBy(dx * 0.01, dy * 0.01);
    redraw();
  });
  canvas.addEventListener("contextmenu", (e) => e.preventDefault());
  canvas.addEventListener("dblclick", () => { resetView(); redraw(); });
  canvas.addEventListener("wheel", (e) => {
    e.preventDefault();
    zoomBy(Math.exp(-Math.max(-120, Math.min(120, e.deltaY)) * 0.002), ...fromMiddle(e.clientX, e.clientY));
    redraw();
  }, { passive: false });
}

// The name of the atom under the pointer.
function showTip(panel, e) {
  const tip = byId("tip"), shown = panel.shown;
  tip.hidden = true;
  if (!shown) return;
  const box = panel.canvas.getBoundingClientRect(), x = e.clientX - box.left, y = e.clientY - box.top;
  let nearest = -1, least = 12;
  for (let i = 0; i < shown.at.x.length; i++) {
    const away = Math.hypot(shown.at.x[i] - x, shown.at.y[i] - y);
    if (away < least && !(panel.system.present && !panel.system.present[i])) { least = away; nearest = i; }
  }
  if (nearest < 0) return;
  tip.textContent = atomName(data.topologies[panel.system.topology], nearest);
  tip.style.left = Math.min(e.clientX + 12, window.innerWidth - 160) + "px";
  tip.style.top = Math.max(4, e.clientY - 34) + "px";
  tip.hidden = false;
}

// All panels in one picture, with their captions, as a PNG file.
function savePicture() {
  const stage = byId("stage"), box = stage.getBoundingClientRect(), ratio = window.devicePixelRatio || 1, head = 30;
  const picture = document.createElement("canvas");
  picture.width = Math.round(stage.scrollWidth * ratio);
  picture.height = Math.round((stage.scrollHeight + head) * ratio);
  const ctx = picture.getContext("2d");
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.fillStyle = hex(theme.back);
  ctx.fillRect(0, 0, picture.width, picture.height);
  ctx.fillStyle = theme.text;
  ctx.font = "600 15px system-ui, sans-serif";
  ctx.fillText(`${data.title}, ${byId("clock").textContent}`, 12, 20);
  ctx.font = "600 13px system-ui, sans-serif";
  for (const panel of panels) {
    const at = panel.canvas.getBoundingClientRect();
    const x = at.left - box.left + stage.scrollLeft, y = at.top - box.top + stage.scrollTop + head;
    ctx.fillText(panel.name, x + 8, y - 8);
    ctx.drawImage(panel.canvas, x, y, at.width, at.height);
  }
  picture.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${data.file}-frame-${state.frame + 1}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }, "image/png");
}
