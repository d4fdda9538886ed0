/** Steering, gas and brake from keys, touch pads or a gamepad. */

const KEYS = {
  ArrowLeft: "left", KeyA: "left",
  ArrowRight: "right", KeyD: "right",
  ArrowUp: "gas", KeyW: "gas",
  ArrowDown: "brake", KeyS: "brake",
}; // prettier-ignore
const FULL = 0.8; // value of a held key: with full gas and full lock the car spins
const TURN = 0.1; // change of steering in a step; pedals change twice as fast
const DEAD_ZONE = 0.12;

export class Controls {
  /**
   * @param {Iterable<HTMLElement>} pads with data-pad="left", "right", "gas" or "brake"
   * @param {() => void} onTaken called when the user takes over
   */
  constructor(pads, onTaken) {
    this.onTaken = onTaken;
    this.held = new Map(); // key code or pad -> the control that it holds
    this.action = [0, 0, 0];
    for (const pad of pads) this.listen(pad);
  }

  /** @param {HTMLElement} pad */
  listen(pad) {
    pad.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      pad.setPointerCapture(event.pointerId);
      this.hold(pad, pad.dataset.pad);
    });
    for (const type of ["pointerup", "pointercancel", "lostpointercapture"]) {
      pad.addEventListener(type, () => this.held.delete(pad));
    }
    // Space and Enter hold a focused pad.
    pad.addEventListener("keydown", (event) => {
      if (event.code === "Space" || event.code === "Enter") this.hold(pad, pad.dataset.pad);
    });
    pad.addEventListener("keyup", () => this.held.delete(pad));
    pad.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  hold(source, control) {
    this.held.set(source, control);
    this.onTaken();
  }

  /** Release everything. */
  release() {
    this.held.clear();
  }

  /** Handle a key press; true if it is a driving key. */
  keydown(event) {
    const control = KEYS[event.code];
    if (control && !event.repeat) this.hold(event.code, control);
    return Boolean(control);
  }

  keyup(event) {
    this.held.delete(event.code);
  }

  /** Take over if a gamepad is used. */
  poll() {
    if (this.gamepad().some((value) => Math.abs(value) > 0)) this.onTaken();
  }

  /** @returns {number[]} steer, gas and brake of the first gamepad in use */
  gamepad() {
    for (const pad of navigator.getGamepads?.() ?? []) {
      if (!pad) continue;
      const analog = [pad.axes[0], pad.buttons[7]?.value, pad.buttons[6]?.value];
      const values = analog.map((value) => (Math.abs(value ?? 0) > DEAD_ZONE ? value : 0));
      if (values.some((value) => value !== 0)) return values;
    }
    return [0, 0, 0];
  }

  /** The action of this step, which moves towards the held controls. */
  read() {
    const held = new Set(this.held.values());
    const on = (control) => (held.has(control) ? FULL : 0);
    const wanted = [on("right") - on("left"), on("gas"), on("brake")];
    const analog = this.gamepad();
    this.action = this.action.map((value, i) => {
      if (analog[i]) return Math.max(i ? 0 : -1, Math.min(analog[i], 1));
      const most = i ? 2 * TURN : TURN;
      return value + Math.max(-most, Math.min(wanted[i] - value, most));
    });
    return this.action;
  }

  /** Start from the action of the previous driver. */
  takeOver(action) {
    this.action = [...action];
  }
}
