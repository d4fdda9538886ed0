/** Float16: how numbers are stored in weights.bin and in addresses. All else is float32. */

/** The value of every half-precision number, by its bits. */
const VALUES = Float32Array.from({ length: 65536 }, (_, bits) => {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = (bits & 1023) / 1024;
  if (exponent === 0) return sign * 2 ** -14 * fraction;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * 2 ** (exponent - 15) * (1 + fraction);
});

/**
 * @param {Uint16Array} bits
 * @returns {Float32Array}
 */
export function fromHalves(bits) {
  const numbers = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) numbers[i] = VALUES[bits[i]]; // from() takes a second
  return numbers;
}

/**
 * Rounds to the nearest half, as positive halves are in the order of their bits.
 * @param {ArrayLike<number>} numbers finite
 * @returns {Uint16Array}
 */
export function toHalves(numbers) {
  return Uint16Array.from(numbers, (number) => {
    const size = Math.min(Math.abs(number), VALUES[0x7bff]);
    let [low, high] = [0, 0x7bff];
    while (low < high) {
      const middle = (low + high) >> 1;
      // The next half is the nearer one from the middle between both on.
      if (size > (VALUES[middle] + VALUES[middle + 1]) / 2) low = middle + 1;
      else high = middle;
    }
    return low | (number < 0 ? 0x8000 : 0);
  });
}

/** The tensors of an export by their names, cut out of its one file of halves. */
export class Tensors {
  /**
   * @param {Record<string, {shape: number[], offset: number}>} index offsets count halves
   * @param {ArrayBuffer} buffer little-endian, as every machine with a browser is
   */
  constructor(index, buffer) {
    this.index = index;
    this.halves = new Uint16Array(buffer);
  }

  /** @returns {Float32Array} */
  get(name) {
    const { shape, offset } = this.index[name];
    return fromHalves(this.halves.subarray(offset, offset + shape.reduce((a, b) => a * b, 1)));
  }

  /** The rows of a matrix. @returns {Float32Array[]} */
  rows(name) {
    const values = this.get(name);
    const [count] = this.index[name].shape;
    const length = values.length / count;
    return Array.from({ length: count }, (_, i) => values.subarray(i * length, (i + 1) * length));
  }
}
