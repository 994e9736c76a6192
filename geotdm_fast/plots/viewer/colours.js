// Colours: themes, elements, residues, chains, samples; and atoms as small shaded pictures, drawn once for each colour.
const PALETTE = data.palette, ELEMENTS = data.elements, OTHER_ELEMENT = "#A142F4";
const theme = { choice: "system", dark: false, back: [255, 255, 255], given: "", text: "", faint: "", accent: "" };
const systemTheme = window.matchMedia("(prefers-color-scheme: dark)");
const sprites = new Map(), mixes = new Map(), schemes = new Map();

function applyTheme() {
  theme.dark = theme.choice === "dark" || (theme.choice === "system" && systemTheme.matches);
  document.documentElement.dataset.theme = theme.dark ? "dark" : "light";
  const style = getComputedStyle(document.documentElement), read = (name) => style.getPropertyValue("--" + name).trim();
  theme.back = rgb(read("panel"));
  for (const name of ["given", "text", "faint", "accent"]) theme[name] = read(name);
  for (const cache of [sprites, mixes, schemes]) cache.clear();
  byId("theme").replaceChildren("◐ " + theme.choice);
  byId("theme").setAttribute("aria-label", "Theme: " + theme.choice);
}

function rgb(colour) {
  return [1, 3, 5].map((k) => parseInt(colour.slice(k, k + 2), 16));
}
const hex = (parts) => "#" + parts.map((v) => Math.round(Math.min(255, Math.max(0, v))).toString(16).padStart(2, "0")).join("");
const blend = (a, b, part) => a.map((v, k) => v + (b[k] - v) * part);

// A colour that can be told from the panel behind it.
function seen(colour) {
  const parts = rgb(colour), light = (0.3 * parts[0] + 0.59 * parts[1] + 0.11 * parts[2]) / 255;
  if (theme.dark && light < 0.5) return hex(blend(parts, [255, 255, 255], 0.5 - light + 0.05));
  if (!theme.dark && light > 0.84) return hex(blend(parts, [0, 0, 0], light - 0.78));
  return colour;
}

// `colour` in the mist: level 0 is near the eye, 4 far away.
function misty(colour, level) {
  if (!level) return colour;
  const key = colour + level;
  if (!mixes.has(key)) mixes.set(key, hex(blend(rgb(colour), theme.back, 0.13 * level)));
  return mixes.get(key);
}

function hue(k, light) {
  const h = (k * 137.508 + 20) % 360, s = 0.58, l = light ?? (theme.dark ? 0.66 : 0.48);
  const part = (n) => {
    const at = (n + h / 30) % 12;
    return 255 * (l - s * Math.min(l, 1 - l) * Math.max(-1, Math.min(at - 3, 9 - at, 1)));
  };
  return hex([part(0), part(8), part(4)]);
}
const nth = (k) => k < PALETTE.length ? seen(PALETTE[k]) : hue(k);
const sampleColour = (index) => index === TRUTH ? theme.faint : nth(index);

// One colour for each atom of a track, by the chosen scheme.
function coloursOf(system, index, scheme) {
  const topology = data.topologies[system.topology];
  const key = [system.topology, data.systems.indexOf(system), scheme, scheme === "sample" ? index : ""].join();
  if (schemes.has(key)) return schemes.get(key);
  const of = {
    element: (i) => seen(ELEMENTS[topology.numbers[i]] || OTHER_ELEMENT),
    residue: (i) => hue(residueKind(topology, i)),
    chain: (i) => nth(topology.chain[i]),
    sample: () => sampleColour(index),
    node: (i) => nth(topology.numbers ? i : i % PALETTE.length),
  }[scheme];
  const colours = Array.from({ length: topology.count }, (_, i) =>
    system.counted && !system.counted[i] && scheme !== "sample" ? theme.given : of(i));
  schemes.set(key, colours);
  return colours;
}

// Residues of one name have one colour; without names every residue has its own.
function residueKind(topology, i) {
  const own = topology.residue[i];
  return topology.kinds ? topology.kinds[own] : own;
}

// A ball of `radius` device pixels, lit from the upper left.
function sprite(colour, radius) {
  const r = Math.max(1, Math.round(2 * radius) / 2), key = colour + r;
  let ball = sprites.get(key);
  if (!ball) {
    const size = Math.ceil(2 * r) + 2, centre = size / 2, base = rgb(colour);
    ball = document.createElement("canvas");
    ball.width = ball.height = size;
    const ctx = ball.getContext("2d");
    const shade = ctx.createRadialGradient(centre - 0.35 * r, centre - 0.4 * r, 0.1 * r, centre, centre, r);
    shade.addColorStop(0, hex(blend(base, [255, 255, 255], 0.55)));
    shade.addColorStop(0.45, colour);
    shade.addColorStop(1, hex(blend(base, [0, 0, 0], 0.38)));
    ctx.fillStyle = shade;
    ctx.beginPath(); ctx.arc(centre, centre, r, 0, 7); ctx.fill();
    if (sprites.size > 4000) sprites.clear();
    sprites.set(key, ball);
  }
  return ball;
}
