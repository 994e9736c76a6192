// Keys, the table of them, and the clock that plays.
const ROTATION = Math.PI / 18, SHIFT = 24;
const cycle = (name, by = 1) => {
  const all = available[name];
  choose({ [name]: all[(all.indexOf(state[name]) + by + all.length) % all.length] });
};
const nextSystem = (by) => choose({
  system: (state.system + by + data.systems.length) % data.systems.length, layout: state.layout === "all" ? "over" : state.layout,
});
const faster = (by) => choose({ speed: available.speed[Math.min(SPEEDS.length - 1, Math.max(0, available.speed.indexOf(state.speed) + by))] });
const moveView = (action) => { action(); redraw(); };

const KEYS = {
  " ": () => choose({ playing: !state.playing }),
  "ArrowRight": () => step(1), "ArrowLeft": () => step(-1),
  "Home": () => { pause(); go(0); }, "End": () => { pause(); go(numFrames - 1); },
  "ArrowUp": () => faster(1), "ArrowDown": () => faster(-1),
  "Shift+ArrowRight": () => moveView(() => turnBy(ROTATION, 0)), "Shift+ArrowLeft": () => moveView(() => turnBy(-ROTATION, 0)),
  "Shift+ArrowDown": () => moveView(() => turnBy(0, ROTATION)), "Shift+ArrowUp": () => moveView(() => turnBy(0, -ROTATION)),
  "w": () => moveView(() => { view.y -= SHIFT; }), "s": () => moveView(() => { view.y += SHIFT; }),
  "a": () => moveView(() => { view.x -= SHIFT; }), "d": () => moveView(() => { view.x += SHIFT; }),
  "+": () => moveView(() => zoomBy(1.2)), "=": () => moveView(() => zoomBy(1.2)), "-": () => moveView(() => zoomBy(1 / 1.2)),
  "r": () => moveView(resetView),
  "l": () => choose({ loop: !state.loop }), "v": () => cycle("layout"), "c": () => cycle("colour"), "t": () => cycle("trails"),
  "y": () => { if (isMolecule) cycle("style"); }, "n": () => cycle("names"),
  "b": () => choose({ box: !state.box }), "x": () => choose({ wrap: !state.wrap }),
  "[": () => nextSystem(-1), "]": () => nextSystem(1),
  "0": () => { if (hasTruth) toggleTrack(TRUTH); },
  "p": () => savePicture(), "m": () => nextTheme(), "?": () => showHelp(),
};
for (let k = 1; k <= Math.min(9, numSamples); k++) KEYS[k] = () => toggleTrack(k - 1);

const HELP = [
  [["space"], "play, pause"], [["←", "→"], "a frame back, a frame on"], [["Home", "End"], "first frame, last frame"],
  [["↑", "↓"], "faster, slower"], [["l"], "loop"],
  [["shift ←↑→↓"], "turn; so does dragging"], [["w", "a", "s", "d"], "shift; so do shift and dragging, and two fingers"],
  [["+", "−"], "zoom; so do the wheel and two fingers"], [["r"], "reset the view; so does a double click"],
  [["v"], "layout: all systems, one overlaid, one side by side"], [["[", "]"], "previous system, next system"],
  [["0"], "truth on, off"], [["1", "…", "9"], "sample on, off"],
  [["c"], "colour by the next of " + available.colour.map((name) => COLOURS[name]).join(", ")],
  [["t"], "trails"], [["y"], "atoms: balls, sticks, lines, spheres"], [["n"], "names"],
  [["b"], "box"], [["x"], "molecules in the box, or as they moved"],
  [["p"], "save a PNG"], [["m"], "theme: system, light, dark"], [["?"], "these keys"],
];

function showHelp() {
  byId("key-table").replaceChildren(...HELP.map(([keys, text]) => {
    const line = document.createElement("tr"), left = document.createElement("td"), right = document.createElement("td");
    for (const key of keys) {
      const mark = document.createElement("kbd");
      mark.textContent = key;
      left.append(mark);
    }
    right.textContent = text;
    line.append(left, right);
    return line;
  }));
  if (!byId("keys").open) byId("keys").showModal();
}

window.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || byId("keys").open || e.target.tagName === "SELECT") return;
  if (e.key === " " && ["BUTTON", "INPUT"].includes(e.target.tagName) && e.target.type !== "range") return;
  if (e.target.type === "range" && e.key.startsWith("Arrow") && !e.shiftKey) return;
  const arrow = e.shiftKey && e.key.startsWith("Arrow") ? "Shift+" + e.key : e.key;
  const action = KEYS[arrow] || KEYS[arrow.toLowerCase()];
  if (!action) return;
  e.preventDefault();
  action();
});

// Panels are drawn once for each picture of the screen, and only after something has changed.
let isDue = false, before = null, owed = 0, draws = 0;
const REST = 12; // frames that the last one stays, before the loop starts over
function redraw() { isDue = true; }

function tick(now) {
  if (before !== null && state.playing) {
    owed += Math.min(now - before, 250) / 1000 * FRAMES_PER_SECOND * Number(state.speed);
    const last = state.frame === numFrames - 1;
    if (last && !state.loop) { pause(); owed = 0; }
    else if (owed >= (last ? REST : 1)) {
      go(last ? 0 : Math.min(numFrames - 1, state.frame + Math.floor(owed)));
      owed = last ? 0 : owed % 1;
    }
  }
  before = now;
  if (isDue) {
    isDue = false;
    showTime();
    panels.forEach(drawPanel);
    draws++;
  }
  requestAnimationFrame(tick);
}

// For scripts: what is shown, and how often it was drawn.
window.geotdm = { state, view, data, choose, go, redraw, get draws() { return draws; }, get panels() { return panels; } };
makeControls();
applyTheme();
systemTheme.addEventListener("change", () => { applyTheme(); choose({}); });
window.addEventListener("resize", arrange);
window.addEventListener("pointerdown", () => { byId("tip").hidden = true; });
choose({});
requestAnimationFrame(tick);
