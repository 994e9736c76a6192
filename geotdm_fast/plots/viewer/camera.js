// The view, one for all panels: a rotation, a zoom, a shift; and where a position is on the screen.
const FIRST_VIEW = () => {
  if (!is3d) return [1, 0, 0, 0, 1, 0, 0, 0, 1];
  const [cy, sy, cp, sp] = [Math.cos(0.5), Math.sin(0.5), Math.cos(0.35), Math.sin(0.35)];
  return [cy, sy, 0, -sp * sy, sp * cy, cp, cp * sy, -cp * cy, sp];  // a little from above, z upwards
};
const view = { turn: FIRST_VIEW(), zoom: 1, x: 0, y: 0 };
const EYE = 5; // the distance of the eye, in extents of the system

function resetView() {
  Object.assign(view, { turn: FIRST_VIEW(), zoom: 1, x: 0, y: 0 });
}

// Turn by angles about the screen's vertical and horizontal axis.
function turnBy(right, down) {
  if (!is3d) return;
  const [c, s, e, f] = [Math.cos(right), Math.sin(right), Math.cos(down), Math.sin(down)], t = view.turn;
  const spun = [0, 1, 2].map((k) => c * t[k] + s * t[6 + k]), depth = [0, 1, 2].map((k) => -s * t[k] + c * t[6 + k]);
  const up = [0, 1, 2].map((k) => e * t[3 + k] - f * depth[k]), near = [0, 1, 2].map((k) => f * t[3 + k] + e * depth[k]);
  view.turn = orthonormal([...spun, ...up, ...near]);
}

function orthonormal(m) {
  const unit = (v) => v.map((value) => value / Math.hypot(...v));
  const a = unit(m.slice(0, 3)), dot = a[0] * m[3] + a[1] * m[4] + a[2] * m[5];
  const b = unit([0, 1, 2].map((k) => m[3 + k] - dot * a[k]));
  return [...a, ...b, a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
}

// Zoom by a factor about a point of a panel, measured from its middle.
function zoomBy(factor, x = 0, y = 0) {
  const zoom = Math.min(60, Math.max(0.1, view.zoom * factor)), part = zoom / view.zoom;
  view.x = x - (x - view.x) * part;
  view.y = y - (y - view.y) * part;
  view.zoom = zoom;
}

// What turns positions of a system into pixels of a canvas of width x height.
function lens(system, width, height) {
  const [wide, high] = is3d ? [system.extent, system.extent] : system.sides;
  const scale = 0.86 * view.zoom * Math.min(width / wide, height / high) / 2;
  return { turn: view.turn, scale, x: width / 2 + view.x, y: height / 2 + view.y, eye: EYE * system.extent };
}

// Project positions x [N, 3] from `first` on into out: x and y in pixels, depth towards the eye, size of one unit.
function project(look, x, first, count, out) {
  const t = look.turn, eye = look.eye;
  for (let i = 0, k = first; i < count; i++, k += 3) {
    const a = x[k], b = x[k + 1], c = x[k + 2];
    const depth = is3d ? t[6] * a + t[7] * b + t[8] * c : 0;
    const unit = look.scale * (is3d ? eye / Math.max(eye - depth, 0.1 * eye) : 1);
    out.x[i] = look.x + unit * (t[0] * a + t[1] * b + t[2] * c);
    out.y[i] = look.y - unit * (t[3] * a + t[4] * b + t[5] * c);
    out.depth[i] = depth;
    out.unit[i] = unit;
  }
  return out;
}

const buffers = new Map();
// Room for `count` projected positions under a name; the same room every time.
function room(name, count) {
  let found = buffers.get(name);
  if (!found || found.x.length < count) {
    found = { x: new Float32Array(count), y: new Float32Array(count), depth: new Float32Array(count), unit: new Float32Array(count) };
    buffers.set(name, found);
  }
  return found;
}
