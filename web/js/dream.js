/**
 * A dream: moments one after another, to be gone through forwards and back.
 *
 * @typedef {import("./model.js").State} State
 * @typedef {object} Moment
 * @property {State} state
 * @property {number[] | Float32Array} action that led here
 * @property {number} reward of that action, points
 * @property {number} survival probability that the dream got here
 * @property {number} total expected points so far, as models/dream.py counts a dream's return
 */

const LONGEST = 30000; // steps: ten minutes, 70 MB

export class Dream {
  /**
   * @param {import("./engine.js").Engine} engine
   * @param {number} failure points for a drive that is lost
   */
  constructor(engine, failure) {
    this.engine = engine;
    this.failure = failure;
    this.temperature = 1;
    this.seed = 0;
    /** @type {Moment[]} */
    this.moments = [];
    this.now = 0; // the present moment's place among them
    this.firstStep = 0;
    this.version = 0; // changes with every jump, so that steps under way are dropped
    this.advanced = Promise.resolve(null);
  }

  /**
   * Forget all, and begin here. `step` is where the noise goes on, for moments that were shared.
   * @param {State} state
   */
  begin(state, seed, step = 0, { survival = 1, total = 0 } = {}) {
    this.version++;
    this.seed = seed;
    this.firstStep = step;
    this.now = 0;
    this.moments = [{ state, action: [0, 0, 0], reward: 0, survival, total }];
  }

  get moment() {
    return this.moments[this.now];
  }

  /** The number of the present step since the dream's own start. */
  get step() {
    return this.firstStep + this.now;
  }

  get isFull() {
    return this.now >= LONGEST;
  }

  /**
   * One imagined step from the present moment; what came after it before is forgotten. A call
   * waits for the one before it.
   * @param {(now: number) => number[] | Float32Array | null | undefined} act asked for the action when
   *   its time has come; null: the agent's own, undefined: no step
   * @returns {Promise<Uint8ClampedArray | null>} the frame; null if none was made
   */
  advance(act) {
    const { version } = this;
    this.advanced = this.advanced.then(() => this.imagine(act, version));
    return this.advanced;
  }

  async imagine(act, version) {
    if (version !== this.version) return null;
    const { now, moment, seed, step, temperature } = this;
    const action = act(now);
    if (action === undefined) return null;
    const conditions = { seed, step, temperature };
    const next = await this.engine.imagine(moment.state, action, conditions);
    if (version !== this.version) return null;
    const { state, reward, end } = next;
    const expected = (1 - end) * reward + end * this.failure;
    this.moments.length = now + 1;
    this.moments.push({
      state,
      action: next.action,
      reward,
      survival: moment.survival * (1 - end),
      total: moment.total + moment.survival * expected,
    });
    this.now = now + 1;
    return next.image;
  }

  /** Go to a moment of this dream. */
  seek(index) {
    this.version++;
    this.now = Math.max(0, Math.min(index, this.moments.length - 1));
  }

  /** Other noise from here on. */
  reroll(seed) {
    this.version++;
    this.seed = seed;
    this.moments.length = this.now + 1;
  }
}
