/**
 * A dream: a list of moments that can be stepped through forwards and backwards.
 *
 * @typedef {import("./model.js").State} State
 * @typedef {object} Moment
 * @property {State} state
 * @property {number[] | Float32Array} action that led here
 * @property {number} reward of that action, points
 * @property {number} survival predicted probability of not having failed
 * @property {number} total expected points so far, computed as in dream_return of models/dream.py
 */

const LONGEST = 30000; // steps: ten minutes, 70 MB

export class Dream {
  /**
   * @param {import("./engine.js").Engine} engine
   * @param {number} failure points for a failed drive
   */
  constructor(engine, failure) {
    this.engine = engine;
    this.failure = failure;
    this.temperature = 1;
    this.seed = 0;
    /** @type {Moment[]} */
    this.moments = [];
    this.now = 0; // index of the current moment
    this.firstStep = 0;
    this.version = 0; // changes with every jump, so that pending steps are dropped
    this.advanced = Promise.resolve(null);
  }

  /**
   * Start a new dream. `step` is the number of the first noise sample, above 0 for shared moments.
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

  /** Steps since the start of the dream. */
  get step() {
    return this.firstStep + this.now;
  }

  get isFull() {
    return this.now >= LONGEST;
  }

  /**
   * Imagine one step from the current moment and drop any later moments. Calls run one after
   * another.
   * @param {(now: number) => number[] | Float32Array | null | undefined} act returns the action;
   *   null for the agent's action, undefined for no step
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

  /** Use other noise from here on. */
  reroll(seed) {
    this.version++;
    this.seed = seed;
    this.moments.length = this.now + 1;
  }
}
