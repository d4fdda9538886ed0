/**
 * V's decoder, M and C, step by step as in the Python modules of the same names: models/vae.py,
 * rnn.py, controller.py and dream.py. tests/dream_page compares the numbers.
 *
 * @typedef {{z: Float32Array, hidden: Float32Array, cell: Float32Array}} State
 *   The latent, and M's memory before it has read that latent.
 * @typedef {{choice: Float32Array, normal: Float32Array}} Noise
 * @typedef {{state: State, reward: number, end: number}} Imagined
 *   The next state, the reward in points and the probability that the drive fails.
 */

import { MatMul, Workspace } from "./matmul.js";

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

/** V's decoder: a latent of 32 numbers to a frame of 64×64 pixels. */
export class Decoder {
  constructor(workspace, tensors, kernels) {
    this.first = linear(workspace, tensors, "vae.from_latent");
    let size = 1;
    this.layers = kernels.map((kernel, i) => {
      const layer = new ConvTranspose(workspace, tensors, `vae.decoder.${i}`, size, kernel);
      size = layer.large;
      return layer;
    });
    this.pixels = size * size;
  }

  /**
   * @param {Float32Array} z
   * @returns {Uint8ClampedArray} RGBA, row by row
   */
  decode(z) {
    let x = this.first.run(z);
    for (const layer of this.layers.slice(0, -1)) x = layer.run(x).map((v) => Math.max(v, 0));
    x = this.layers.at(-1).run(x);
    const image = new Uint8ClampedArray(4 * this.pixels).fill(255);
    for (let pixel = 0; pixel < this.pixels; pixel++) {
      for (let c = 0; c < 3; c++) image[4 * pixel + c] = 255 * sigmoid(x[3 * pixel + c]);
    }
    return image;
  }
}

/** x W + b for a single row. */
class Linear {
  constructor(workspace, weight, bias) {
    this.bias = bias;
    this.matmul = new MatMul(workspace, weight, weight.length / bias.length);
  }

  /** The concatenation of `parts` is the input. */
  run(...parts) {
    const input = this.matmul.input;
    let offset = 0;
    for (const part of parts) {
      input.set(part, offset);
      offset += part.length;
    }
    const output = this.matmul.run();
    return this.bias.map((bias, i) => output[i] + bias);
  }
}

/** The layer whose tensors are `name`.weight and `name`.bias. */
function linear(workspace, tensors, name) {
  return new Linear(workspace, tensors.get(`${name}.weight`), tensors.get(`${name}.bias`));
}

/**
 * Transposed convolution of stride 2, no padding: every input pixel is multiplied into a patch of
 * kernel × kernel output pixels, and the patches are added up where they overlap.
 */
class ConvTranspose {
  constructor(workspace, tensors, name, size, kernel) {
    this.bias = tensors.get(`${name}.bias`);
    const weight = tensors.get(`${name}.weight`);
    const outputs = this.bias.length;
    const inputs = weight.length / (kernel * kernel * outputs);
    this.size = size;
    this.kernel = kernel;
    this.large = 2 * size - 2 + kernel;
    this.matmul = new MatMul(workspace, weight, inputs, size * size);
    this.image = new Float32Array(this.large * this.large * outputs);
  }

  /** (size, size, inputs) -> (large, large, outputs); the next call overwrites it. */
  run(x) {
    const { size, kernel, large, bias, image, matmul } = this;
    const outputs = bias.length;
    matmul.input.set(x);
    const patches = matmul.run(size * size);
    for (let i = 0; i < image.length; i += outputs) image.set(bias, i);
    const line = kernel * outputs; // a line of a patch is a line of the image: one run of numbers
    for (let pixel = 0; pixel < size * size; pixel++) {
      const top = 2 * Math.floor(pixel / size);
      const left = 2 * (pixel % size);
      for (let row = 0; row < kernel; row++) {
        const to = ((top + row) * large + left) * outputs;
        const from = pixel * matmul.stride + row * line;
        for (let i = 0; i < line; i++) image[to + i] += patches[from + i];
      }
    }
    return image;
  }
}

/** M: the MDN-RNN. */
export class MDNRNN {
  constructor(workspace, tensors, manifest) {
    const { latent, hidden, components } = manifest.sizes;
    this.latent = latent;
    this.hidden = hidden;
    this.components = components;
    this.units = manifest.reward;
    const [weight, bias] = [tensors.get("rnn.cell.weight_ih"), tensors.get("rnn.cell.bias")];
    this.input = new Linear(workspace, weight, bias);
    this.recurrent = new MatMul(workspace, tensors.get("rnn.cell.weight_hh"), hidden);
    this.heads = linear(workspace, tensors, "rnn.heads");
  }

  /** The memory after reading z and the action. @returns {State} with z unchanged */
  updateMemory({ z, hidden, cell }, action) {
    const projected = this.input.run(z, action);
    this.recurrent.input.set(hidden);
    const recurrent = this.recurrent.run();
    const n = this.hidden;
    const gate = (k, i) => projected[k * n + i] + recurrent[k * n + i];
    const newCell = cell.map(
      (c, i) => sigmoid(gate(1, i) + 1) * c + sigmoid(gate(0, i)) * Math.tanh(gate(2, i)),
    );
    return { z, hidden: newCell.map((c, i) => sigmoid(gate(3, i)) * Math.tanh(c)), cell: newCell };
  }

  /**
   * One imagined step: samples the next state from the prediction.
   * @param {State} state
   * @param {ArrayLike<number>} action steer −1..1, gas 0..1, brake 0..1
   * @param {Noise} noise
   * @param {number} temperature
   * @returns {Imagined}
   */
  imagine(state, action, noise, temperature) {
    const memory = this.updateMemory(state, action);
    const out = this.heads.run(memory.hidden);
    const z = state.z.map((z, i) => z + this.sample(out, i, noise, temperature));
    const [reward, endLogit] = out.slice(-2);
    return {
      state: { ...memory, z },
      reward: this.units.step + this.units.tile * reward,
      end: sigmoid(endLogit),
    };
  }

  /**
   * The change of dimension i of z: samples a component by its weight, then its Gaussian. As in
   * Ha's code, temperature divides the logits and its square root multiplies the scales.
   */
  sample(out, i, { choice, normal }, temperature) {
    const { latent, components } = this;
    const logit = (k) => out[k * latent + i];
    let largest = -Infinity;
    for (let k = 0; k < components; k++) largest = Math.max(largest, logit(k));
    const weight = (k) => Math.exp((logit(k) - largest) / temperature);
    let total = 0;
    for (let k = 0; k < components; k++) total += weight(k);
    let chosen = 0;
    for (let below = weight(0); chosen < components - 1; below += weight(++chosen)) {
      if (choice[i] * total <= below) break;
    }
    const mean = out[(components + chosen) * latent + i];
    const scale = Math.exp(out[(2 * components + chosen) * latent + i]);
    return mean + scale * Math.sqrt(temperature) * normal[i];
  }
}

/** C: one linear layer on [z, h]. */
export class Controller {
  constructor(tensors) {
    this.weight = tensors.get("controller.weight");
    this.bias = tensors.get("controller.bias");
  }

  /** @returns {Float32Array} steer −1..1, gas 0..1, brake 0..1 */
  act({ z, hidden }) {
    const raw = this.bias.map((bias, column) => {
      let sum = bias;
      z.forEach((x, i) => (sum += x * this.weight[3 * i + column]));
      hidden.forEach((x, i) => (sum += x * this.weight[3 * (z.length + i) + column]));
      return Math.tanh(sum);
    });
    return Float32Array.of(raw[0], (raw[1] + 1) / 2, Math.max(raw[2], 0));
  }
}

/** All three, in one workspace. */
export class Model {
  constructor(manifest, tensors, workspace = new Workspace()) {
    this.decoder = new Decoder(workspace, tensors, manifest.kernels);
    this.rnn = new MDNRNN(workspace, tensors, manifest);
    this.controller = new Controller(tensors);
  }
}
