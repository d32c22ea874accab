// What the page asks of its server, and how it says what went wrong.

export class Refused extends Error {}

async function ask(method, path, body) {
  const options = { method };
  if (body !== undefined) {
    options.headers = { "Content-Type": "application/json" };
    options.body = typeof body === "string" ? body : JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Refused("The program behind this page does not answer; has it been ended?");
  }
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    throw new Refused(said.error ?? `The program answered ${answer.status} to ${method} ${path}.`);
  }
  return answer;
}

export const getJson = async (path) => (await ask("GET", path)).json();
export const send = async (method, path, body) => (await ask(method, path, body)).json();

/** Has the browser save what the server answers, under the name that it gives. */
export async function saveFile(method, path, body) {
  const answer = await ask(method, path, body);
  const [, name] = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") ?? "") ?? [];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = name ?? "download";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** The picture of a seed warped by points, as an ImageBitmap. */
export const preview = async (seed, points) =>
  createImageBitmap(await (await ask("POST", "api/preview", { seed, points })).blob());

/** Pictures of seeds, by the generator as it is or mixed with edits, handed to `each` as they come. */
export async function pictures(seeds, mix, resolution, each, stillWanted = () => true) {
  const together = Math.max(1, Math.min(12, Math.floor(1024 / resolution)));
  for (let start = 0; start < seeds.length && stillWanted(); start += together) {
    const part = seeds.slice(start, start + together);
    const strip = await createImageBitmap(await (await ask("POST", "api/pictures", { seeds: part, mix })).blob());
    const side = strip.height;
    for (const [i, seed] of part.entries()) {
      const one = await createImageBitmap(strip, i * side, 0, side, side);
      if (stillWanted()) each(seed, one);
    }
  }
}

/** A function that runs `work` now, or once more when the run before has ended, with the latest arguments only.
 *  Its promise ends when nothing is left to do. */
export function latestOnly(work, failed) {
  let busy = null;
  let waiting = null;
  const run = async () => {
    try {
      while (waiting) {
        const now = waiting;
        waiting = null;
        await work(...now).catch(failed);
      }
    } finally {
      busy = null;
    }
  };
  return (...values) => {
    waiting = values;
    busy ??= run();
    return busy;
  };
}
