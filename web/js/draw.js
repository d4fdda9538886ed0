/** Drawing shared by the views: frames, strips of frames, lines. */

export const SIDE = 64; // pixels of a frame

/** @param {string} id */
export const byId = (id) => /** @type {any} */ (document.getElementById(id));

/** Show a decoded frame. */
export function show(canvas, image) {
  canvas.getContext("2d").putImageData(new ImageData(image, SIDE, SIDE), 0, 0);
}

/** An image with frames side by side. */
export class Sheet {
  /** @returns {Promise<Sheet>} */
  static async load(url, columns) {
    const image = new Image();
    image.src = url;
    await image.decode();
    return new Sheet(image, columns);
  }

  constructor(image, columns) {
    this.image = image;
    this.columns = columns;
  }

  /** Show frame number `index`. */
  show(canvas, index) {
    const x = SIDE * (index % this.columns);
    const y = SIDE * Math.floor(index / this.columns);
    canvas.getContext("2d").drawImage(this.image, x, y, SIDE, SIDE, 0, 0, SIDE, SIDE);
  }
}

/** A frame's canvas, empty. */
export function frameCanvas() {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  return canvas;
}

/**
 * Fill a strip with one button a start, of which one is pressed.
 * @param {HTMLElement} strip
 * @param {{name: string}[]} starts
 * @param {(index: number) => void} onPick
 * @returns {(index: number) => void} marks one as picked
 */
export function fillStrip(strip, sheet, starts, onPick) {
  const buttons = starts.map(({ name }, index) => {
    const button = document.createElement("button");
    button.setAttribute("aria-label", name);
    button.title = name;
    const canvas = frameCanvas();
    sheet.show(canvas, index);
    button.append(canvas);
    button.addEventListener("click", () => onPick(index));
    strip.append(button);
    return button;
  });
  return (picked) => {
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === picked)));
  };
}

/** Set the icon of a play button. */
export function setPlaying(button, isPlaying) {
  button.setAttribute("aria-label", isPlaying ? "Pause" : "Play");
  button.querySelector("use").setAttribute("href", isPlaying ? "#i-pause" : "#i-play");
}

/** Fit a canvas to its size on the screen and return its context, in CSS pixels. */
export function fit(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

const colours = new Map();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => colours.clear());

/** A colour by its name in the style sheet. */
export function colour(name) {
  if (!colours.has(name)) {
    colours.set(name, getComputedStyle(document.body).getPropertyValue(`--${name}`));
  }
  return colours.get(name);
}

/** Draw a line through `values`, at most `room` of them, scaled from `low` to `high`. */
export function line(context, values, { width, height, room, low, high, stroke, dash = [] }) {
  context.beginPath();
  values.forEach((value, i) => {
    const y = height - 2 - ((value - low) / (high - low)) * (height - 4);
    context.lineTo((i / Math.max(room - 1, 1)) * width, y);
  });
  context.setLineDash(dash);
  Object.assign(context, { lineWidth: 2, lineJoin: "round", strokeStyle: stroke });
  context.stroke();
  context.setLineDash([]);
}
