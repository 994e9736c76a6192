// One panel: trails, bonds and atoms of its tracks, the box, names.
const BOX_EDGES = [0, 1, 0, 2, 0, 4, 1, 3, 1, 5, 2, 3, 2, 6, 3, 7, 4, 5, 4, 6, 5, 7, 6, 7];
const TRAIL_FRAMES = { off: 0, short: 10, all: Infinity };
const MIST_LEVELS = 5, MOST_NAMES = 400, DASH = [4, 3];
const LARGEST_SPRITE = 64; // device pixels; a ball that is nearer is this picture, drawn larger

function positionsOf(system, index) {
  return system.box && state.wrap ? wrapped(system, index) : decoded(system, index);
}

function drawPanel(panel) {
  const { canvas, system } = panel, topology = data.topologies[system.topology], count = topology.count;
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  if (!width || !height) return;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const ctx = canvas.getContext("2d"), look = lens(system, width, height);
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.clearRect(0, 0, width, height);
  ctx.lineCap = ctx.lineJoin = "round";
  panel.shown = null;
  const [first, ...others] = knownTracks(system, panel.tracks());
  if (first === undefined) return;
  if (system.box && state.box) drawBox(ctx, look, system, first);
  if (state.trails !== "off") {
    for (const index of others) drawTrails(ctx, look, system, index, false);
    drawTrails(ctx, look, system, first, true);
  }
  const at = (index) => project(look, positionsOf(system, index), 3 * count * state.frame, count, room("atoms " + (index === first), count));
  panel.shown = { index: first, at: at(first) };
  const solid = topology.bonds.length > 0 || topology.numbers !== null;
  drawSolid(ctx, system, first, panel.shown.at, solid, ratio);
  for (const index of others) if (!isGiven(state.frame)) drawThin(ctx, system, index, at(index));
  // The other tracks used another room: the positions of the first are what names and the pointer need.
  if (state.names !== "none") drawNames(ctx, topology, panel.shown.at);
  panel.shown.at = copyOf(panel, panel.shown.at, count);
  ctx.globalAlpha = 1;
}

// Without the truth where nobody knows it in this frame and there is another track to be in front.
function knownTracks(system, tracks) {
  if (tracks[0] !== TRUTH || tracks.length < 2) return tracks;
  const size = 3 * data.topologies[system.topology].count, first = size * state.frame;
  return decoded(system, TRUTH).subarray(first, first + size).some(Number.isFinite) ? tracks : tracks.slice(1);
}

function copyOf(panel, at, count) {
  if (!panel.kept || panel.kept.x.length !== count) panel.kept = { x: new Float32Array(count), y: new Float32Array(count) };
  panel.kept.x.set(at.x.subarray(0, count));
  panel.kept.y.set(at.y.subarray(0, count));
  return panel.kept;
}

const isGiven = (t) => !data.generated && data.given[t] === 1;
const level = (system, depth) => is3d ? Math.min(MIST_LEVELS - 1, Math.max(0, Math.round((0.7 - depth / system.extent) * 2.2))) : 0;

// Half the thickness of a bond and the radius of an atom, in pixels, where one unit is `unit` pixels.
const bondWidth = (unit) => Math.max(0.8, (state.style === "lines" ? 0.09 : state.style === "sticks" ? 0.2 : 0.13) * unit);
function radius(topology, i, unit, bonded) {
  if (!topology.numbers) return 5 * Math.min(1.6, Math.sqrt(view.zoom)) * (topology.bonds.length ? 0.8 : 1);
  const r = topology.radii[i];
  if (state.style === "spheres") return (r + 0.85) * unit;
  if (!bonded) return Math.max(2, 0.5 * r * unit);
  if (state.style === "balls") return Math.max(1.2, (0.33 * r + 0.1) * unit);
  return bondWidth(unit) / (state.style === "lines" ? 1 : 2);
}

function isThere(system, at, i) {
  return Number.isFinite(at.x[i]) && !(system.present && !system.present[i]);
}

// The track in front: balls and sticks, from the farthest to the nearest.
function drawSolid(ctx, system, index, at, solid, ratio) {
  const topology = data.topologies[system.topology], bonds = topology.bonds, numBonds = bonds.length / 3;
  const colours = coloursOf(system, index, state.colour), count = topology.count;
  const order = [];
  const withBonds = state.style !== "spheres", longest = longestBond(system, index);
  const depths = new Float32Array(count + numBonds);
  for (let i = 0; i < count; i++) if (isThere(system, at, i)) { depths[i] = at.depth[i]; order.push(i); }
  if (withBonds) for (let b = 0; b < numBonds; b++) {
    const i = bonds[3 * b], j = bonds[3 * b + 1];
    if (!isThere(system, at, i) || !isThere(system, at, j) || isLong(at, i, j, longest)) continue;
    depths[count + b] = (at.depth[i] + at.depth[j]) / 2 - 1e-3;
    order.push(count + b);
  }
  if (is3d) order.sort((a, b) => depths[a] - depths[b]);
  for (const k of order) {
    const mist = level(system, depths[k]);
    if (k >= count) { drawBond(ctx, topology, at, k - count, colours, mist); continue; }
    const r = radius(topology, k, at.unit[k], topology.bonded[k]), colour = misty(colours[k], mist);
    if (solid && r >= 2) {
      const painted = Math.min(r * ratio, LARGEST_SPRITE), ball = sprite(colour, painted), size = ball.width * r / painted;
      ctx.drawImage(ball, at.x[k] - size / 2, at.y[k] - size / 2, size, size);
    } else {
      ctx.fillStyle = colour;
      ctx.beginPath(); ctx.arc(at.x[k], at.y[k], r, 0, 7); ctx.fill();
      if (!solid) { ctx.strokeStyle = hex(theme.back); ctx.lineWidth = 1; ctx.stroke(); }
    }
  }
}

// One bond: a line for each order, side by side, half in the colour of either atom; an aromatic one has a dashed line.
function drawBond(ctx, topology, at, b, colours, mist) {
  const bonds = topology.bonds, i = bonds[3 * b], j = bonds[3 * b + 1], order = bonds[3 * b + 2];
  const unit = (at.unit[i] + at.unit[j]) / 2, lines = order === 4 ? 2 : Math.max(1, order);
  const gap = lines === 1 ? 0 : Math.max(2, 0.19 * unit);
  const dx = at.x[j] - at.x[i], dy = at.y[j] - at.y[i], length = Math.hypot(dx, dy) || 1;
  // From surface to surface: what is drawn later than an atom must not begin in its middle.
  const whole = Math.hypot(length, (at.depth[j] - at.depth[i]) * unit);
  const inside = (k) => state.style === "balls" ? Math.min(0.49, 0.85 * radius(topology, k, unit, 1) / whole) : 0;
  const [p, q] = [inside(i), 1 - inside(j)];
  ctx.lineWidth = bondWidth(unit) * (lines === 1 ? 1 : 0.62);
  ctx.lineCap = state.style === "balls" ? "butt" : "round";
  for (let k = 0; k < lines; k++) {
    const off = (k - (lines - 1) / 2) * gap, ox = at.x[i] - dy / length * off, oy = at.y[i] + dx / length * off;
    const part = (from, to, colour) => {
      ctx.strokeStyle = misty(colour, mist);
      ctx.beginPath();
      ctx.moveTo(ox + from * dx, oy + from * dy);
      ctx.lineTo(ox + to * dx, oy + to * dy);
      ctx.stroke();
    };
    if (order === 4 && k === 1) ctx.setLineDash(DASH);
    if (colours[i] === colours[j]) part(p, q, colours[i]);
    else { part(p, 0.5, colours[i]); part(q, 0.5, colours[j]); }
    if (order === 4 && k === 1) ctx.setLineDash([]);
  }
}

// The other tracks: bonds as thin lines, and atoms without a bond as small dots.
function drawThin(ctx, system, index, at) {
  const topology = data.topologies[system.topology], bonds = topology.bonds;
  const single = state.colour === "element" ? theme.accent : state.colour === "sample" ? sampleColour(index) : null;
  const colours = single ? null : coloursOf(system, index, state.colour);
  const byColour = new Map(), longest = longestBond(system, index);
  for (let b = 0; b < bonds.length; b += 3) {
    const i = bonds[b], j = bonds[b + 1];
    if (!isThere(system, at, i) || !isThere(system, at, j) || isLong(at, i, j, longest)) continue;
    const colour = single || colours[i];
    if (!byColour.has(colour)) byColour.set(colour, new Path2D());
    byColour.get(colour).moveTo(at.x[i], at.y[i]);
    byColour.get(colour).lineTo(at.x[j], at.y[j]);
  }
  ctx.globalAlpha = 0.75;
  ctx.lineWidth = topology.count > 100 ? 0.8 : 1.4;
  for (const [colour, path] of byColour) { ctx.strokeStyle = colour; ctx.stroke(path); }
  for (let i = 0; i < topology.count; i++) {
    if (topology.bonded[i] || !isThere(system, at, i) || (system.counted && !system.counted[i])) continue;
    ctx.fillStyle = single || colours[i];
    ctx.beginPath(); ctx.arc(at.x[i], at.y[i], topology.numbers ? 3 : 2.2, 0, 7); ctx.fill();
  }
  ctx.globalAlpha = 1;
}

// The ways of the nodes up to this frame: grey between given frames, then in the colour of the node.
function drawTrails(ctx, look, system, index, isFirst) {
  const topology = data.topologies[system.topology], count = topology.count, x = positionsOf(system, index);
  const start = Math.max(0, state.frame - TRAIL_FRAMES[state.trails]);
  const drawnFrom = data.generated ? 0 : Math.max(firstDrawn - 1, 0);
  const from = isFirst ? start : Math.max(start, drawnFrom);
  if (state.frame <= from) return;
  const colours = coloursOf(system, index, state.colour), far = system.box && state.wrap ? jump(system, index) : Infinity;
  const at = { x: new Float32Array(count), y: new Float32Array(count), depth: new Float32Array(count), unit: new Float32Array(count) };
  const paths = new Map();
  const pathOf = (colour) => paths.get(colour) || paths.set(colour, new Path2D()).get(colour);
  const old = { x: new Float32Array(count), y: new Float32Array(count) };
  for (let t = from; t <= state.frame; t++) {
    project(look, x, 3 * count * t, count, at);
    if (t > from) for (let i = 0; i < count; i++) {
      if (!isThere(system, at, i) || !Number.isFinite(old.x[i]) || (!isFirst && system.counted && !system.counted[i])) continue;
      if (far < Infinity && moved(x, 3 * (count * t + i), 3 * count) > far) continue;
      const path = pathOf(isGiven(t) && isGiven(t - 1) ? theme.given : colours[i]);
      path.moveTo(old.x[i], old.y[i]);
      path.lineTo(at.x[i], at.y[i]);
    }
    old.x.set(at.x); old.y.set(at.y);
  }
  ctx.lineWidth = isFirst ? 2.2 : 1;
  ctx.globalAlpha = isFirst ? (topology.bonds.length ? 0.5 : 1) : 0.5;
  for (const [colour, path] of paths) { ctx.strokeStyle = colour; ctx.stroke(path); }
  ctx.globalAlpha = 1;
}

const moved = (x, k, back) => Math.hypot(x[k] - x[k - back], x[k + 1] - x[k + 1 - back], x[k + 2] - x[k + 2 - back]);
// A bond that is longer than half of the box goes through its wall.
const longestBond = (system, index) => system.box ? jump(system, index) : Infinity;
const isLong = (at, i, j, longest) => longest < Infinity && Math.hypot(
  (at.x[i] - at.x[j]) / at.unit[i], (at.y[i] - at.y[j]) / at.unit[i], at.depth[i] - at.depth[j]) > longest;

// A step longer than half the shortest periodic vector of the box is one through its wall.
function jump(system, index) {
  const cell = boxOf(system, index, 0), periodic = [0, 1, 2].filter((k) => system.box.pbc[k]);
  return Math.min(...periodic.map((k) => Math.hypot(...cell.slice(3 * k, 3 * k + 3)))) / 2;
}

function drawBox(ctx, look, system, index) {
  const cell = boxOf(system, index, state.frame), corner = system.box.corner, x = new Float32Array(24);
  for (let k = 0; k < 8; k++) for (let d = 0; d < 3; d++)
    x[3 * k + d] = corner[d] + (k & 1 ? cell[d] : 0) + (k & 2 ? cell[3 + d] : 0) + (k & 4 ? cell[6 + d] : 0);
  const at = project(look, x, 0, 8, room("box", 8));
  ctx.strokeStyle = theme.faint;
  ctx.globalAlpha = 0.7;
  ctx.lineWidth = 1;
  ctx.beginPath();
  for (let e = 0; e < BOX_EDGES.length; e += 2) {
    ctx.moveTo(at.x[BOX_EDGES[e]], at.y[BOX_EDGES[e]]);
    ctx.lineTo(at.x[BOX_EDGES[e + 1]], at.y[BOX_EDGES[e + 1]]);
  }
  ctx.stroke();
  ctx.globalAlpha = 1;
}

// Names of atoms, or of residues in the middle of their atoms, on a halo of the panel's colour.
function drawNames(ctx, topology, at) {
  ctx.font = "11px system-ui, sans-serif";
  ctx.textAlign = "center";
  ctx.textBaseline = "middle";
  ctx.lineWidth = 3;
  ctx.strokeStyle = hex(theme.back);
  ctx.fillStyle = theme.text;
  const write = (text, x, y) => { ctx.strokeText(text, x, y); ctx.fillText(text, x, y); };
  if (state.names === "residues" && topology.residue) {
    const sums = topology.residues.map(() => [0, 0, 0]);
    for (let i = 0; i < topology.count; i++) if (Number.isFinite(at.x[i])) {
      const sum = sums[topology.residue[i]];
      sum[0] += at.x[i]; sum[1] += at.y[i]; sum[2]++;
    }
    sums.forEach(([x, y, n], k) => { if (n && k < MOST_NAMES) write(topology.residues[k], x / n, y / n); });
    return;
  }
  const names = topology.names || topology.symbols;
  for (let i = 0; i < Math.min(topology.count, MOST_NAMES); i++)
    if (Number.isFinite(at.x[i])) write(names ? names[i] : String(i), at.x[i], at.y[i] - 12);
}
