// A picture with control points: rows [from x, from y, to x, to y] in whole px of the picture, moved by mouse and keys.

const NEAR = 11; // CSS px within which a point is taken hold of
const CASING = "#ffffff";
const MOVED = "#c2185b";
const HELD = "#0b5cad";

const same = (row) => row[0] === row[2] && row[1] === row[3];

/** Fits a canvas's own pixels to the screen's and draws a picture over all of it. */
export function paint(canvas, picture) {
  const side = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
  if (canvas.width !== side || canvas.height !== side) canvas.width = canvas.height = side;
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, side, side);
  if (!picture) return pen;
  pen.imageSmoothingEnabled = picture.width > 128;
  pen.imageSmoothingQuality = "high";
  pen.drawImage(picture, 0, 0, side, side);
  return pen;
}

/** Draws points on a painted canvas; the chosen one is larger. */
export function drawPoints(pen, points, resolution, chosen = -1) {
  const zoom = pen.canvas.width / resolution;
  const unit = devicePixelRatio;
  pen.lineCap = pen.lineJoin = "round";
  for (const [i, row] of points.entries()) {
    const [sx, sy, dx, dy] = row.map((value) => (value + 0.5) * zoom);
    const grown = (i === chosen ? 1.45 : 1) * unit;
    const stroke = (draw, colour, width = 2) => {
      for (const [style, wide] of [[CASING, (width + 2.5) * unit], [colour, width * unit]]) {
        pen.strokeStyle = style;
        pen.lineWidth = wide;
        pen.beginPath();
        draw();
        pen.stroke();
      }
    };
    if (same(row)) {
      const arm = 4 * grown;
      stroke(() => {
        pen.rect(dx - arm, dy - arm, 2 * arm, 2 * arm);
        pen.moveTo(dx, dy);
        pen.lineTo(dx, dy);
      }, HELD);
      continue;
    }
    const angle = Math.atan2(dy - sy, dx - sx);
    const head = 9 * grown;
    stroke(() => pen.arc(sx, sy, 4 * grown, 0, 2 * Math.PI), MOVED);
    stroke(() => {
      pen.moveTo(sx + Math.cos(angle) * 4 * grown, sy + Math.sin(angle) * 4 * grown);
      pen.lineTo(dx, dy);
      for (const side of [-1, 1]) {
        pen.moveTo(dx, dy);
        pen.lineTo(dx - head * Math.cos(angle + side * 0.5), dy - head * Math.sin(angle + side * 0.5));
      }
    }, MOVED, 2.5);
  }
}

export class Editor {
  /** `moving(points)` is told while a point is dragged, `changed(points)` when something is done, `chose()` else. */
  constructor(canvas, { moving, changed, chose }) {
    Object.assign(this, { canvas, moving, changed, chose });
    this.picture = null;
    this.points = [];
    this.chosen = -1;
    this.held = null; // what the pointer has hold of
    canvas.addEventListener("pointerdown", (event) => this.#press(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#release(event));
    canvas.addEventListener("pointercancel", () => this.letGo());
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("mousedown", (event) => event.button === 1 && event.preventDefault());
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  show(picture, resolution, points) {
    if (this.picture !== picture) this.chosen = -1;
    Object.assign(this, { picture, resolution, points: points.map((row) => [...row]), held: null });
    this.chosen = Math.min(this.chosen, points.length - 1);
    this.draw();
  }

  draw() {
    const pen = paint(this.canvas, this.picture);
    if (this.picture) drawPoints(pen, this.points, this.resolution, this.chosen);
  }

  choose(index) {
    this.chosen = index;
    this.draw();
    this.chose();
  }

  /** Ends a drag as if it had not begun. */
  letGo() {
    if (!this.held) return;
    this.points = this.held.before;
    this.chosen = Math.min(this.held.chosen, this.points.length - 1);
    this.held = null;
    this.draw();
    this.moving(this.points);
  }

  removeChosen() {
    if (this.chosen < 0) return;
    this.points.splice(this.chosen, 1);
    this.chosen = Math.min(this.chosen, this.points.length - 1);
    this.#done();
  }

  set(index, column, value) {
    this.chosen = index;
    this.points[index][column] = value;
    this.#done();
  }

  add(rows) {
    for (const row of rows) {
      this.points.push([...row]);
      this.chosen = this.points.length - 1;
      this.#tidy();
    }
    this.#done();
  }

  /** Two points cannot end on one pixel: the chosen one takes the other's place. Corners are pinned: it ends beside. */
  #tidy() {
    const row = this.points[this.chosen];
    if (!row) return;
    const last = this.resolution - 1;
    if (!same(row) && row[2] % last === 0 && row[3] % last === 0) row[2] += row[2] ? -1 : 1;
    this.points = this.points.filter((other) => other === row || other[2] !== row[2] || other[3] !== row[3]);
    this.chosen = this.points.indexOf(row);
  }

  #done() {
    this.#tidy();
    this.draw();
    this.changed(this.points.map((row) => [...row]));
  }

  #clamp(value) {
    return Math.max(0, Math.min(this.resolution - 1, value));
  }

  #pixel(event) {
    const box = this.canvas.getBoundingClientRect();
    const at = (distance) => this.#clamp(Math.floor((distance / box.width) * this.resolution));
    return [at(event.clientX - box.left), at(event.clientY - box.top)];
  }

  /** The end of a point under the pointer: [index, 2 for its target or 0 for its source], the chosen point first. */
  #under(event) {
    const box = this.canvas.getBoundingClientRect();
    const zoom = box.width / this.resolution;
    let best = null;
    for (const [i, row] of this.points.entries()) {
      for (const end of [2, 0]) {
        const x = (row[end] + 0.5) * zoom + box.left - event.clientX;
        const y = (row[end + 1] + 0.5) * zoom + box.top - event.clientY;
        const far = Math.hypot(x, y) - (i === this.chosen ? 2 : 0);
        if (far <= NEAR && (!best || far < best.far)) best = { i, end, far };
      }
    }
    return best && [best.i, best.end];
  }

  #press(event) {
    if (!this.picture) return;
    this.canvas.focus({ preventScroll: true });
    const under = this.#under(event);
    if (event.button === 2) {
      this.letGo();
      if (under) {
        this.chosen = under[0];
        this.removeChosen();
      }
      return;
    }
    if (this.held) return;
    const at = this.#pixel(event);
    const before = this.points.map((row) => [...row]);
    const chosen = this.chosen;
    if (event.button === 1 || !under) {
      this.points.push([...at, ...at]);
      this.chosen = this.points.length - 1;
      if (event.button === 1) {
        this.#done();
        return;
      }
      this.held = { end: 2, at, before, chosen, fresh: true };
    } else if (event.button === 0) {
      this.chosen = under[0];
      this.held = { end: under[1], at, before, chosen, row: [...this.points[under[0]]], whole: event.shiftKey };
    } else {
      return;
    }
    this.canvas.setPointerCapture(event.pointerId);
    this.draw();
    this.chose();
  }

  #move(event) {
    if (!this.held) {
      this.canvas.style.cursor = this.picture && this.#under(event) ? "grab" : "crosshair";
      return;
    }
    const at = this.#pixel(event);
    const row = this.points[this.chosen];
    if (this.held.fresh) [row[2], row[3]] = at;
    else {
      for (const [axis, from] of this.held.at.entries()) {
        for (const end of this.held.whole ? [0, 2] : [this.held.end]) {
          row[end + axis] = this.#clamp(this.held.row[end + axis] + at[axis] - from);
        }
      }
    }
    this.draw();
    this.moving(this.points);
  }

  #release() {
    if (!this.held) return;
    const { before } = this.held;
    this.held = null;
    if (JSON.stringify(before) !== JSON.stringify(this.points)) this.#done();
    else this.chose();
  }

  #key(event) {
    if (!this.picture || event.ctrlKey || event.metaKey || event.altKey) return;
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const count = this.points.length;
    const row = this.points[this.chosen];
    if (event.key in arrows && row) {
      for (const [axis, by] of arrows[event.key].entries()) {
        for (const end of event.shiftKey ? [0, 2] : [2]) row[end + axis] = this.#clamp(row[end + axis] + by);
      }
      this.#done();
    } else if (event.key === "[" && count) this.choose((this.chosen - 1 + count) % count);
    else if (event.key === "]" && count) this.choose((this.chosen + 1) % count);
    else if (event.key === "Delete" || event.key === "Backspace") this.removeChosen();
    else if (event.key === "Escape") this.letGo();
    else if (event.key.toLowerCase() === "a") {
      const middle = Math.floor(this.resolution / 2);
      this.points.push([middle, middle, middle, middle]);
      this.chosen = this.points.length - 1;
      this.#done();
    } else return;
    event.preventDefault();
  }
}
