// The numbers of the page: positions as 16-bit integers in base64, decoded where a trajectory is first drawn.
const data = JSON.parse(document.getElementById("content").textContent);
const byId = (id) => document.getElementById(id);
const numFrames = data.given.length, firstDrawn = Math.max(data.given.indexOf(0), 0);
const is3d = data.dims === 3;
const TRUTH = -1, MISSING = -32768;

// Positions [T, N, 3] of the truth (index -1) or a sample; NaN where there are none.
function decoded(system, index) {
  const stored = index === TRUTH ? system.truth : system.samples[index];
  if (!stored.x) {
    const text = atob(stored.data), dims = data.dims, count = text.length / 2;
    stored.x = new Float32Array(count / dims * 3);
    for (let k = 0; k < count; k++) {
      const whole = (text.charCodeAt(2 * k) | text.charCodeAt(2 * k + 1) << 8) << 16 >> 16;
      const node = Math.floor(k / dims);
      stored.x[3 * node + k - dims * node] = whole === MISSING ? NaN : whole * stored.step;
    }
    stored.data = null;
  }
  return stored.x;
}

// The box of a frame, nine numbers, its vectors as rows; null without one.
function boxOf(system, index, frame) {
  if (!system.box) return null;
  const cells = index === TRUTH ? system.box.truth : system.box.samples;
  return cells[cells.length === 1 ? 0 : frame];
}

function inverse(m) {
  const [a, b, c, d, e, f, g, h, i] = m;
  const det = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  return [e * i - f * h, c * h - b * i, b * f - c * e, f * g - d * i, a * i - c * g, c * d - a * f,
          d * h - e * g, b * g - a * h, a * e - b * d].map((value) => value / det);
}

// The same positions, every molecule moved as a whole by vectors of the box, so that its centre is inside.
function wrapped(system, index) {
  const stored = index === TRUTH ? system.truth : system.samples[index];
  if (stored.wrapped) return stored.wrapped;
  const topology = data.topologies[system.topology], x = decoded(system, index), y = Float32Array.from(x);
  const n = topology.count, molecule = topology.molecules, corner = system.box.corner, pbc = system.box.pbc;
  // A spread of all molecules would be too many arguments.
  const size = new Float32Array(molecule.reduce((most, m) => Math.max(most, m), 0) + 1), sums = new Float64Array(3 * size.length);
  for (const m of molecule) size[m]++;
  for (let t = 0; t < numFrames; t++) {
    const cell = boxOf(system, index, t), back = inverse(cell), first = 3 * n * t;
    sums.fill(0);
    for (let i = 0; i < n; i++)
      for (let d = 0; d < 3; d++) sums[3 * molecule[i] + d] += x[first + 3 * i + d] / size[molecule[i]];
    for (let m = 0; m < size.length; m++) {
      const p = [0, 1, 2].map((d) => sums[3 * m + d] - corner[d]);
      const image = [0, 1, 2].map((j) => pbc[j] ? Math.floor(p[0] * back[j] + p[1] * back[3 + j] + p[2] * back[6 + j]) : 0);
      for (let d = 0; d < 3; d++) sums[3 * m + d] = image[0] * cell[d] + image[1] * cell[3 + d] + image[2] * cell[6 + d];
    }
    for (let i = 0; i < n; i++) for (let d = 0; d < 3; d++) y[first + 3 * i + d] -= sums[3 * molecule[i] + d];
  }
  return stored.wrapped = y;
}

const trackName = (index) => index === TRUTH ? (data.generated ? "data" : "truth") : "sample " + (index + 1);
const hasTruth = data.systems.some((system) => system.truth);
const numSamples = data.systems[0].samples.length;
// What a topology calls an atom, as in "CA 9, ALA 2, chain A".
function atomName(topology, i) {
  const own = topology.names ? topology.names[i] : topology.symbols ? topology.symbols[i] : "node";
  const parts = [own + " " + i];
  if (topology.residue) parts.push(topology.residues[topology.residue[i]]);
  if (topology.chain) parts.push("chain " + topology.chains[topology.chain[i]]);
  return parts.join(", ");
}
