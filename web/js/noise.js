/** Noise computed from a seed and a step number alone, so that dreams are reproducible. */

/** Uniform numbers in 0..1: splitmix32 (Steele, Lea & Flood 2014), cut to 32 bits. */
export function uniforms(seed, stream) {
  let state = mix(mix(seed) ^ stream);
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    return (mix(state) + 0.5) / 2 ** 32;
  };
}

/** A bijection of 32 bits in which every bit decides on every other (Wellons' lowbias32). */
function mix(bits) {
  bits = Math.imul(bits ^ (bits >>> 16), 0x7feb352d);
  bits = Math.imul(bits ^ (bits >>> 15), 0x846ca68b);
  return (bits ^ (bits >>> 16)) >>> 0;
}

/** A standard normal number (Box & Muller 1958). */
export function normal(uniform) {
  return Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}

/**
 * The noise of one imagined step: per dimension, `choice` selects a component, `normal` samples it.
 * @returns {{choice: Float32Array, normal: Float32Array}}
 */
export function mixtureNoise(seed, step, latent) {
  const uniform = uniforms(seed, step);
  return {
    choice: Float32Array.from({ length: latent }, uniform),
    normal: Float32Array.from({ length: latent }, () => normal(uniform)),
  };
}
