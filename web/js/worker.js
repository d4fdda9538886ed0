/** Runs the model in a worker thread, so that the page stays responsive. */

import { Tensors } from "./float16.js";
import { Model } from "./model.js";
import { mixtureNoise } from "./noise.js";

/** @type {Model} */
let model;

const methods = {
  load(manifest, buffer) {
    model = new Model(manifest, new Tensors(manifest.tensors, buffer));
  },

  /** One imagined step and its frame. Without an action, the agent acts. */
  imagine(state, action, { seed, step, temperature }) {
    const done = action ?? model.controller.act(state);
    const noise = mixtureNoise(seed, step, state.z.length);
    const imagined = model.rnn.imagine(state, done, noise, temperature);
    return { ...imagined, action: done, image: model.decoder.decode(imagined.state.z) };
  },

  /** The frames of some latents. */
  decode(latents) {
    return latents.map((z) => model.decoder.decode(z));
  },

  /** The memory after these latents and actions, starting from an empty memory. */
  memoryAfter(latents, actions) {
    const empty = () => new Float32Array(model.rnn.hidden);
    let state = { z: latents[0], hidden: empty(), cell: empty() };
    actions.forEach((action, t) => {
      state = model.rnn.updateMemory({ ...state, z: latents[t] }, action);
    });
    return state;
  },
};

self.onmessage = ({ data: { id, method, args } }) => {
  try {
    self.postMessage({ id, result: methods[method](...args) });
  } catch (error) {
    self.postMessage({ id, error: String(error) });
  }
};
