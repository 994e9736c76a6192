// The controls: what they say follows `state`, and what is chosen goes into it.
const MOST_ENTRIES = 30, FRAMES_PER_SECOND = 10, SPEEDS = [0.25, 0.5, 1, 2, 4];
const topologies = data.topologies, anyTopology = (test) => topologies.some(test);
const LAYOUTS = { all: "all systems", over: "one, overlaid", side: "one, side by side" };
const COLOURS = { element: "element", residue: "residue", chain: "chain", node: data.node, sample: "sample" };
const TRAILS = { off: "off", short: "10 frames", all: "all frames" };
const STYLES = { balls: "balls", sticks: "sticks", lines: "lines", spheres: "spheres" };
const NAMES = { none: "none", atoms: data.nodes, residues: "residues" };
const hasBonds = anyTopology((one) => one.bonds.length > 0), isMolecule = anyTopology((one) => one.numbers);
const largest = Math.max(...topologies.map((one) => one.count));

const available = {
  layout: Object.keys(LAYOUTS).filter((name) => name !== "all" || data.systems.length > 1),
  colour: Object.keys(COLOURS).filter((name) =>
    name === "element" ? isMolecule : name === "residue" || name === "chain" ? topologies.every((one) => one[name]) : true),
  trails: Object.keys(TRAILS), style: Object.keys(STYLES),
  names: Object.keys(NAMES).filter((name) => name !== "residues" || anyTopology((one) => one.residue)),
  speed: SPEEDS.map(String),
};
const state = {
  frame: 0, playing: !window.matchMedia("(prefers-reduced-motion: reduce)").matches, speed: "1", loop: true, system: 0,
  layout: data.systems.length > 1 && largest <= 40 && window.innerWidth > 640 ? "all" : data.generated ? "side" : "over",
  tracks: new Set([...(hasTruth ? [TRUTH] : []), ...Array(numSamples).keys()]),
  colour: available.colour[0], trails: isMolecule ? "off" : "all", style: largest > 1000 ? "lines" : "balls",
  names: "none", box: true, wrap: true,
};
if (data.generated && numSamples > 5) state.tracks = new Set([...(hasTruth ? [TRUTH] : []), 0, 1, 2, 3, 4]);

function fill(id, labels, names) {
  byId(id).replaceChildren(...names.map((name) => new Option(labels[name], name)));
  byId(id).addEventListener("change", (e) => choose({ [id]: e.target.value }));
}

function makeControls() {
  fill("layout", LAYOUTS, available.layout);
  fill("colour", COLOURS, available.colour);
  fill("trails", TRAILS, available.trails);
  fill("style", STYLES, available.style);
  fill("names", NAMES, available.names);
  fill("speed", Object.fromEntries(SPEEDS.map((s) => [s, s + "×"])), available.speed);
  byId("system").replaceChildren(...data.systems.map((system, k) => new Option(system.name, k)));
  byId("system").addEventListener("change", (e) => choose({ system: Number(e.target.value), layout: state.layout === "all" ? "over" : state.layout }));
  for (const id of ["box", "wrap", "loop"]) byId(id).addEventListener("change", (e) => choose({ [id]: e.target.checked }));
  byId("of-system").hidden = data.systems.length < 2;
  byId("of-style").hidden = !isMolecule;
  byId("of-box").hidden = byId("of-wrap").hidden = !data.systems.some((system) => system.box);
  const indices = [...(hasTruth ? [TRUTH] : []), ...Array(numSamples).keys()];
  byId("tracks").replaceChildren(...indices.map((index) => {
    const chip = document.createElement("button");
    chip.textContent = trackName(index);
    chip.dataset.index = index;
    chip.addEventListener("click", () => toggleTrack(index));
    return chip;
  }));
  byId("title").textContent = document.title = data.title;
  byId("about").textContent = data.about;
  byId("time").max = numFrames - 1;
  for (let t = 0, next; t < numFrames; t = next) {
    for (next = t; next < numFrames && data.given[next] === data.given[t]; next++);
    const part = document.createElement("b");
    part.className = isGiven(t) ? "given" : "drawn";
    part.style.width = 100 * (next - t) / numFrames + "%";
    byId("band").append(part);
  }
  const on = (id, action) => byId(id).addEventListener("click", action);
  byId("time").addEventListener("input", (e) => { pause(); go(Number(e.target.value)); });
  on("play", () => choose({ playing: !state.playing }));
  on("back", () => step(-1));
  on("forward", () => step(1));
  on("reset", () => { resetView(); redraw(); });
  on("save", savePicture);
  on("theme", nextTheme);
  on("help", showHelp);
  on("more", () => {
    const open = byId("options").classList.toggle("open");
    byId("more").setAttribute("aria-expanded", open);
    arrange();
  });
}

function toggleTrack(index) {
  state.tracks.has(index) ? state.tracks.delete(index) : state.tracks.add(index);
  choose({});
}

// Change the state; controls, panels and legend follow.
function choose(changes) {
  if (changes.playing && !state.loop && state.frame === numFrames - 1) state.frame = 0;
  Object.assign(state, changes);
  for (const id of ["layout", "system", "colour", "trails", "style", "names", "speed"]) byId(id).value = state[id];
  for (const id of ["box", "wrap", "loop"]) byId(id).checked = state[id];
  byId("play").setAttribute("aria-label", state.playing ? "Pause" : "Play");
  for (const chip of byId("tracks").children) chip.setAttribute("aria-pressed", state.tracks.has(Number(chip.dataset.index)));
  showLegend();
  // New panels lose the focus of the old ones; without new ones the legend may still take another line of the stage.
  const numShown = shownTracks(data.systems[state.system]).length;
  const lays = "layout" in changes || "system" in changes || (state.layout === "side" && numShown !== panels.length);
  if (lays || !panels.length) layOut(); else arrange();
  panels.forEach(describe);
  redraw();
}

function showLegend() {
  const legend = byId("legend"), entry = (colour, text, height = 10, width = 10) => {
    const line = document.createElement("span"), mark = document.createElement("i");
    Object.assign(mark.style, { background: colour, width: width + "px", height: height + "px", borderRadius: height > 4 ? "5px" : "0" });
    line.append(mark, text);
    legend.append(line);
  };
  legend.replaceChildren();
  const topology = topologies[data.systems[state.system].topology], scheme = state.colour;
  const truth = data.truth_ends ? "truth, then first sample" : trackName(TRUTH);
  const front = state.tracks.has(TRUTH) && hasTruth ? truth : "first sample";
  const several = state.tracks.size > 1 && state.layout !== "side";
  if (several) {
    entry(theme.faint, `${front}: thick`, 4, 18);
    if (scheme !== "sample") entry(scheme === "element" ? theme.accent : theme.faint, "samples: thin", 1.5, 18);
  }
  if (!isMolecule && state.trails !== "off" && !data.generated) entry(theme.given, "given", 4, 18);
  if (scheme === "element") {
    const present = new Map();
    for (const one of state.layout === "all" ? topologies : [topology])
      if (one.numbers) one.numbers.forEach((z, i) => present.set(z, one.symbols[i]));
    for (const [z, symbol] of [...present].sort((a, b) => a[0] - b[0])) entry(seen(ELEMENTS[z] || OTHER_ELEMENT), symbol);
  } else if (scheme === "chain") topology.chains.forEach((name, k) => entry(nth(k), "chain " + name));
  else if (scheme === "residue") {
    const names = topology.kind_names || topology.residues;
    if (names.length > MOST_ENTRIES) legend.append("one colour for each residue");
    else names.forEach((name, k) => entry(hue(k), name));
  }
  else if (scheme === "sample") [...state.tracks].sort((a, b) => a - b).forEach((index) => entry(sampleColour(index), trackName(index)));
  if (data.systems.some((system) => system.counted)) entry(theme.given, "neighbours: not scored");
}

function go(t) {
  state.frame = (t + numFrames) % numFrames;
  redraw();
}
function pause() { if (state.playing) choose({ playing: false }); }
function step(by) { pause(); go(state.frame + by); }

function showTime() {
  const phase = data.generated ? "generated" : isGiven(state.frame) ? "given" : "forecast";
  const time = data.frame_time ? `, time ${Number((state.frame * data.frame_time).toPrecision(6))}` : "";
  const text = `frame ${state.frame + 1} of ${numFrames}${time}: ${phase}`;
  byId("time").value = state.frame;
  byId("time").setAttribute("aria-valuetext", text);
  byId("clock").textContent = text;
  for (const panel of panels) panel.phase.textContent = phase;
}

function nextTheme() {
  const order = ["system", "light", "dark"];
  theme.choice = order[(order.indexOf(theme.choice) + 1) % 3];
  applyTheme();
  choose({});
}
