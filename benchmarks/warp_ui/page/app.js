// The page: samples at the side, the warp of one of them, the pictures of the edit; the model is in model.js.

import { drawPoints, Editor, paint } from "./editor.js";
import { startModel } from "./model.js";
import { getJson, latestOnly, pictures, preview, Refused, saveFile, send } from "./server.js";

const AT_ONCE = 24; // samples that "More" adds
const MOST_SEED = 2 ** 32 - 1;
const $ = (id) => document.getElementById(id);

let about; // what the server told of its generator
let edit = []; // [{seed, points}]
let current = null; // the seed in the editor
let past = [];
let future = [];
let copied = null;
let nextSeed = 0;
let stored = Promise.resolve(); // until the server has the edit
const originals = new Map(); // seed -> ImageBitmap
const warps = new Map(); // seed -> {key, picture}: the warp that was last shown

const keyOf = (points) => JSON.stringify(points);
const pointsOf = (seed) => edit.find((one) => one.seed === seed)?.points ?? [];

export function fail(error) {
  $("message").querySelector("span").textContent = error.message;
  $("message").hidden = false;
  if (!(error instanceof Refused)) throw error; // a fault of the page's own: to the console too
}

export function say(text) {
  $("said").textContent = text;
}

const editor = new Editor($("editor"), {
  moving: (points) => {
    showPreview(current, points);
  },
  changed: (points) => {
    commit(edit.map((one) => (one.seed === current ? { seed: current, points } : one)));
  },
  chose: () => showNumbers(),
});

// ---- the edit and its history

const store = latestOnly(async (pictures) => {
  await send("PUT", "api/points", { pictures });
}, fail);

function commit(next) {
  past.push(edit);
  if (past.length > 200) past.shift();
  future = [];
  replace(next);
}

function replace(next) {
  edit = next;
  if (!edit.some((one) => one.seed === current)) current = edit.at(-1)?.seed ?? null;
  stored = store(edit);
  showAll();
}

function step(from, to) {
  if (!from.length) return;
  const before = edit;
  to.push(edit);
  const next = from.pop();
  // What changes is shown: the picture whose points the step gives back or takes away.
  const changed = next.find((one) => keyOf(one.points) !== keyOf(before.find((b) => b.seed === one.seed)?.points));
  if (changed) current = changed.seed;
  replace(next);
}

async function choose(seed) {
  const known = edit.some((one) => one.seed === seed);
  current = seed;
  if (!known) commit([...edit, { seed, points: [] }]);
  else showAll();
}

// ---- what is shown

const showPreview = latestOnly(async (seed, points) => {
  if (seed === null) return;
  const key = keyOf(points);
  if (warps.get(seed)?.key !== key) warps.set(seed, { key, picture: await preview(seed, points) });
  if (seed === current) showWarp();
}, fail);

function showWarp() {
  const picture = $("before").checked ? originals.get(current) : warps.get(current)?.picture;
  const pen = paint($("warped"), current === null ? null : picture);
  if ($("arrows").checked && current !== null) drawPoints(pen, editor.points, about.resolution);
  $("warped").setAttribute(
    "aria-label", $("before").checked ? "The picture before" : "The picture warped by its points");
}

function showAll() {
  const points = pointsOf(current);
  editor.show(originals.get(current) ?? null, about.resolution, points);
  $("which").textContent = current === null ? "No picture chosen" : `Seed ${current}`;
  showNumbers();
  showPreview(current, points);
  showStrip();
  for (const pick of $("samples").querySelectorAll(".pick")) markPick(pick);
  model.editChanged(edit);
}

function markPick(pick) {
  const seed = Number(pick.dataset.seed);
  const inside = edit.some((one) => one.seed === seed);
  pick.classList.toggle("in", inside);
  pick.setAttribute("aria-current", String(seed === current));
  pick.setAttribute("aria-label", `Seed ${seed}, ${inside ? "in this edit" : "add to this edit"}`);
}

function showNumbers() {
  const none = current === null;
  const points = editor.points;
  $("undo").disabled = !past.length;
  $("redo").disabled = !future.length;
  $("copy").disabled = none || !points.length;
  $("paste").disabled = none || !copied;
  $("clear").disabled = none || !points.length;
  $("remove-point").disabled = none || editor.chosen < 0;
  const focused = document.activeElement?.closest("#numbers input")?.getAttribute("aria-label");
  $("numbers").replaceChildren(...points.map((row, i) => {
    const line = document.createElement("tr");
    line.classList.toggle("chosen", i === editor.chosen);
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = String(i + 1);
    const cells = row.map((value, column) => {
      const input = document.createElement("input");
      Object.assign(input, { type: "number", min: 0, max: about.resolution - 1, step: 1, value, required: true });
      input.setAttribute("aria-label", `Point ${i + 1} ${["from x", "from y", "to x", "to y"][column]}`);
      input.addEventListener("focus", () => {
        editor.chosen = i;
        editor.draw();
        $("remove-point").disabled = false;
      });
      input.addEventListener("change", () => {
        if (!input.reportValidity()) return;
        editor.set(i, column, Number(input.value));
      });
      const cell = document.createElement("td");
      cell.append(input);
      return cell;
    });
    const remove = document.createElement("button");
    remove.textContent = "Remove";
    remove.setAttribute("aria-label", `Remove point ${i + 1}`);
    remove.addEventListener("click", () => {
      editor.chosen = i;
      editor.removeChosen();
    });
    const last = document.createElement("td");
    last.append(remove);
    line.append(head, ...cells, last);
    return line;
  }));
  if (focused) $("numbers").querySelector(`[aria-label="${focused}"]`)?.focus();
}

function thumb(seed, label) {
  const item = document.createElement("li");
  const pick = document.createElement("button");
  const canvas = document.createElement("canvas");
  const text = document.createElement("span");
  pick.className = "pick";
  pick.dataset.seed = seed;
  text.textContent = label;
  pick.append(canvas, text);
  pick.addEventListener("click", () => choose(seed));
  item.append(pick);
  return { item, pick, canvas };
}

function showStrip() {
  $("edit-empty").hidden = edit.length > 0;
  $("count").textContent = edit.length ? `${edit.length} picture${edit.length > 1 ? "s" : ""}, as warped` : "";
  const focused = document.activeElement?.closest("#edit .pick")?.dataset.seed;
  const made = edit.map(({ seed, points }) => {
    const n = points.length;
    const { item, pick, canvas } = thumb(seed, n ? `${seed} · ${n} pt${n > 1 ? "s" : ""}` : `${seed} · none`);
    pick.setAttribute("aria-current", String(seed === current));
    pick.setAttribute("aria-label", `Seed ${seed}, ${n} points`);
    const off = document.createElement("button");
    off.className = "off";
    off.textContent = "×";
    off.title = "Take out of this edit";
    off.setAttribute("aria-label", `Take seed ${seed} out of this edit`);
    off.addEventListener("click", () => commit(edit.filter((one) => one.seed !== seed)));
    item.append(off);
    return { item, canvas, seed, points };
  });
  $("edit").replaceChildren(...made.map((one) => one.item));
  if (focused) $("edit").querySelector(`[data-seed="${focused}"]`)?.focus();
  for (const { canvas, seed } of made) paint(canvas, warps.get(seed)?.picture ?? originals.get(seed));
  drawStrip(made);
}

const drawStrip = latestOnly(async (made) => {
  for (const { canvas, seed, points } of made) {
    if (!canvas.isConnected) return; // a newer strip has taken its place
    const key = keyOf(points);
    if (warps.get(seed)?.key !== key) warps.set(seed, { key, picture: await preview(seed, points) });
    paint(canvas, warps.get(seed).picture);
  }
}, fail);

// ---- samples

async function originalsOf(seeds) {
  const missing = seeds.filter((seed) => !originals.has(seed));
  await pictures(missing, {}, about.resolution, (seed, picture) => originals.set(seed, picture));
}

async function showSamples(from, fresh) {
  const last = Math.min(from + AT_ONCE - 1, MOST_SEED);
  const seeds = Array.from({ length: last - from + 1 }, (_, i) => from + i);
  nextSeed = last + 1;
  $("more").disabled = nextSeed > MOST_SEED;
  const made = seeds.map((seed) => thumb(seed, String(seed)));
  for (const { pick } of made) markPick(pick);
  if (fresh) $("samples").replaceChildren();
  $("samples").append(...made.map((one) => one.item));
  const canvases = new Map(seeds.map((seed, i) => [seed, made[i].canvas]));
  for (const seed of seeds) if (originals.has(seed)) paint(canvases.get(seed), originals.get(seed));
  await pictures(seeds.filter((seed) => !originals.has(seed)), {}, about.resolution, (seed, picture) => {
    originals.set(seed, picture);
    paint(canvases.get(seed), picture);
  });
}

// ---- files

async function openFile(file) {
  if (!file) return;
  const answer = await send("PUT", "api/edit", await file.text());
  await originalsOf(answer.edit.map((one) => one.seed));
  past.push(edit);
  future = [];
  edit = answer.edit;
  current = edit[0]?.seed ?? null;
  $("name").value = file.name.replace(/\.json$/, "").slice(0, 60) || "edit";
  showAll();
  say(`${edit.length} pictures loaded`);
}

// ---- wiring

function showTab(name) {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const on = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(on));
    tab.tabIndex = on ? 0 : -1;
    $(`view-${tab.id.slice(4)}`).hidden = !on;
  }
  if (name === "model") model.shown();
  else showAll();
}

const guarded = (work) => (...values) => Promise.resolve(work(...values)).catch(fail);

function wire() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  for (const [i, tab] of tabs.entries()) {
    tab.addEventListener("click", () => showTab(tab.id.slice(4)));
    tab.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      const other = tabs[(i + 1) % tabs.length];
      other.focus();
      other.click();
    });
  }
  $("message").querySelector("button").addEventListener("click", () => ($("message").hidden = true));
  $("more").addEventListener("click", guarded(() => showSamples(nextSeed, false)));
  $("jump").addEventListener("submit", guarded((event) => {
    event.preventDefault();
    return showSamples(Number($("jump-seed").value), true);
  }));
  $("undo").addEventListener("click", () => step(past, future));
  $("redo").addEventListener("click", () => step(future, past));
  $("remove-point").addEventListener("click", () => editor.removeChosen());
  $("clear").addEventListener("click", () => editor.changed([]));
  $("copy").addEventListener("click", () => {
    copied = editor.points.map((row) => [...row]);
    showNumbers();
    say("Points copied");
  });
  $("paste").addEventListener("click", () => {
    const have = new Set(editor.points.map(keyOf));
    editor.add(copied.filter((row) => !have.has(keyOf(row))));
  });
  for (const id of ["before", "arrows"]) $(id).addEventListener("change", showWarp);
  $("save").addEventListener("click", guarded(async () => {
    await stored;
    await saveFile("GET", `api/edit?name=${encodeURIComponent($("name").value)}`);
  }));
  $("load").addEventListener("change", guarded(async () => {
    const [file] = $("load").files;
    $("load").value = "";
    await openFile(file);
  }));
  document.addEventListener("keydown", (event) => {
    const writing = event.target.matches("input:not([type=checkbox]), select");
    if ($("view-warp").hidden || writing) return;
    const key = event.key.toLowerCase();
    if (event.ctrlKey || event.metaKey) {
      if (key === "z" && !event.shiftKey) step(past, future);
      else if (key === "y" || key === "z") step(future, past);
      else return;
    } else if (key === "b" && !event.altKey) {
      $("before").checked = !$("before").checked;
      showWarp();
    } else return;
    event.preventDefault();
  });
  new ResizeObserver(() => {
    editor.draw();
    showWarp();
  }).observe($("editor"));
}

const model = startModel({ fail, say, settled: () => stored });

async function start() {
  about = await getJson("api/state");
  $("about").textContent = `${about.generator}, ${about.resolution} × ${about.resolution} px` +
    (about.truncation === 1 ? "" : `, truncation ${about.truncation}`);
  edit = about.edit;
  current = edit[0]?.seed ?? null;
  model.begin(about);
  wire();
  await originalsOf(edit.map((one) => one.seed));
  showAll();
  await showSamples(0, true);
}

start().catch(fail);
