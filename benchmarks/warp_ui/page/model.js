// The second step: training on the edit, and samples of the generator before and after.

import { paint } from "./editor.js";
import { getJson, latestOnly, pictures, Refused, saveFile, send } from "./server.js";

const SHOWN = 12;
const EVERY = 500; // ms between questions of how far the training is
const $ = (id) => document.getElementById(id);

const clock = (seconds) => {
  const whole = Math.max(0, Math.round(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
};

export function startModel({ fail, say, settled }) {
  let about;
  let ready = 0; // pictures with points
  let running = false;
  let trained = []; // what the server told: [{id, name, pictures, seconds, ...}]
  const mixed = new Map(); // id -> {on, scale}
  const before = new Map(); // seed -> ImageBitmap
  const failing = (work) => (...values) => Promise.resolve(work(...values)).catch(fail);

  const mix = () => {
    const on = trained.filter(({ id }) => mixed.get(id).on && mixed.get(id).scale > 0);
    return Object.fromEntries(on.map(({ id }) => [id, mixed.get(id).scale]));
  };

  function checkReady() {
    const need = Number($("batch").value);
    const enough = ready >= need;
    $("start").disabled = running || !enough;
    $("ready").textContent = enough
      ? `${ready} picture${ready === 1 ? "" : "s"} with points.`
      : `${ready} of at least ${need} pictures have points; warp more, or lower the batch.`;
  }

  // ---- browsing

  function seedsShown() {
    const from = Number($("browse-seed").value);
    return Array.from({ length: SHOWN }, (_, i) => from + i).filter((seed) => seed < 2 ** 32);
  }

  function legend(text) {
    const span = document.createElement("span");
    span.textContent = text;
    return span;
  }

  function layPairs() {
    const seeds = seedsShown();
    const single = !trained.length;
    $("pairs").classList.toggle("single", single);
    $("pairs").replaceChildren(...seeds.map((seed) => {
      const item = document.createElement("li");
      const two = document.createElement("div");
      two.className = "two";
      for (const kind of single ? ["before"] : ["before", "after"]) {
        const canvas = document.createElement("canvas");
        canvas.className = kind;
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", `Seed ${seed} ${kind}`);
        two.append(canvas);
      }
      const names = document.createElement("div");
      names.className = "legend";
      names.append(legend(single ? `seed ${seed}` : `seed ${seed} before`), ...(single ? [] : [legend("after")]));
      item.dataset.seed = seed;
      item.append(two, names);
      return item;
    }));
    return seeds;
  }

  const canvasOf = (seed, kind) => $("pairs").querySelector(`[data-seed="${seed}"] .${kind}`);
  const put = (seed, kind, picture) => {
    const canvas = canvasOf(seed, kind);
    if (!canvas) return;
    paint(canvas, picture);
    canvas.classList.remove("stale");
  };

  const showAfter = latestOnly(async (seeds) => {
    const wanted = mix();
    const key = JSON.stringify(wanted);
    for (const seed of seeds) canvasOf(seed, "after")?.classList.add("stale");
    await pictures(seeds, wanted, about.resolution, (seed, picture) => put(seed, "after", picture),
      () => JSON.stringify(mix()) === key && seeds.every((seed, i) => seedsShown()[i] === seed));
  }, fail);

  const showPairs = latestOnly(async () => {
    const seeds = layPairs();
    for (const seed of seeds) if (before.has(seed)) put(seed, "before", before.get(seed));
    await pictures(seeds.filter((seed) => !before.has(seed)), {}, about.resolution, (seed, picture) => {
      before.set(seed, picture);
      put(seed, "before", picture);
    });
    if (trained.length) await showAfter(seeds);
  }, fail);

  function showMix() {
    $("export").disabled = !Object.keys(mix()).length;
    showAfter(seedsShown());
  }

  // ---- trained edits

  function row(one) {
    const item = document.createElement("li");
    const state = mixed.get(one.id);
    const label = document.createElement("label");
    const box = document.createElement("input");
    Object.assign(box, { type: "checkbox", checked: state.on });
    box.setAttribute("role", "switch");
    const name = document.createElement("b");
    name.textContent = one.name;
    const facts = document.createElement("small");
    facts.textContent = one.about;
    label.append(box, name, facts);
    const slider = document.createElement("input");
    Object.assign(slider, { type: "range", min: 0, max: 1, step: 0.05, value: state.scale });
    slider.setAttribute("aria-label", `Strength of ${one.name}`);
    const value = document.createElement("output");
    const tell = () => {
      value.textContent = `${Math.round(state.scale * 100)} %`;
      slider.setAttribute("aria-valuetext", value.textContent);
    };
    tell();
    box.addEventListener("change", () => {
      state.on = box.checked;
      showMix();
    });
    slider.addEventListener("input", () => {
      state.scale = Number(slider.value);
      tell();
      showMix();
    });
    const files = document.createElement("div");
    files.className = "files";
    for (const [kind, why] of [["pth", "the layer's new weight, as published"], ["safetensors", "its factors, small"]]) {
      if (!one.files.includes(kind)) continue;
      const link = document.createElement("a");
      Object.assign(link, { href: `api/trained/${one.id}.${kind}`, download: "", title: `Download ${why}` });
      link.textContent = `.${kind}`;
      files.append(link);
    }
    const forget = document.createElement("button");
    forget.textContent = "Forget";
    forget.setAttribute("aria-label", `Forget ${one.name}`);
    forget.addEventListener("click", failing(async () => {
      if (!confirm(`Forget the trained edit "${one.name}"? Its weights are lost unless they were downloaded.`)) return;
      await send("DELETE", `api/trained/${one.id}`);
      await refresh();
    }));
    files.append(forget);
    item.append(label, slider, value, files);
    return item;
  }

  function showTrained(list) {
    for (const { id } of list) if (!mixed.has(id)) mixed.set(id, { on: true, scale: 1 });
    trained = list;
    $("trained").replaceChildren(...trained.map(row));
    $("untrained").hidden = trained.length > 0;
    $("export").disabled = !Object.keys(mix()).length;
    if (!$("view-model").hidden) showPairs();
  }

  const refresh = async () => showTrained((await getJson("api/state")).trained);

  // ---- training

  function showTraining(training) {
    running = training.state === "running";
    $("progress").hidden = !running;
    checkReady();
    if (!running) {
      document.title = "Warp a generator";
      return;
    }
    $("bar").max = Math.max(1, training.total);
    $("bar").value = training.done;
    const left = training.left === null ? "" : `, ${clock(training.left)} left`;
    $("left").textContent = training.total ? `${training.done} of ${training.total}${left}` : "getting ready";
    if (training.total) document.title = `${Math.floor((100 * training.done) / training.total)} % · Warp a generator`;
  }

  async function follow() {
    for (;;) {
      const training = await getJson("api/training");
      showTraining(training);
      if (training.state === "failed") throw new Refused(training.error);
      if (training.state === "cancelled") say("Training cancelled");
      if (training.state === "done") {
        await refresh();
        say("Training done");
      }
      if (training.state !== "running") return;
      await new Promise((resume) => setTimeout(resume, EVERY));
    }
  }

  function wire() {
    $("batch").addEventListener("input", checkReady);
    $("train").addEventListener("submit", failing(async (event) => {
      event.preventDefault();
      await settled(); // the points of a moment ago count
      showTraining(await send("POST", "api/training", {
        name: $("name").value,
        layer: Number($("layer").value),
        rank: Number($("rank").value),
        batch: Number($("batch").value),
        iterations: Number($("iterations").value),
        learning_rate: Number($("lr").value),
        style_mixing: $("mixing").checked,
      }));
      await follow();
    }));
    $("cancel").addEventListener("click", failing(() => send("DELETE", "api/training")));
    $("browse-seed").addEventListener("change", () => $("browse-seed").reportValidity() && showPairs());
    $("fresh").addEventListener("click", () => {
      $("browse-seed").value = (Number($("browse-seed").value) + SHOWN) % 2 ** 32;
      showPairs();
    });
    $("export").addEventListener("click", failing(() => saveFile("POST", "api/mix", { mix: mix() })));
  }

  return {
    begin(told) {
      about = told;
      $("layer").replaceChildren(...about.layers.map((text, i) => new Option(text, i)));
      const { layer, rank, batch, iterations, learning_rate: rate, style_mixing: mixing } = about.settings;
      for (const [id, value] of Object.entries({ layer, rank, batch, iterations, lr: rate })) $(id).value = value;
      $("mixing").checked = mixing;
      wire();
      showTrained(about.trained);
      showTraining(about.training);
      if (about.training.state === "running") failing(follow)();
    },
    editChanged(edit) {
      ready = edit.filter((one) => one.points.length).length;
      checkReady();
    },
    shown: showPairs,
  };
}
