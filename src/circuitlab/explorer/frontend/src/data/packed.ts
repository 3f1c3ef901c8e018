/** Arrays of the payload: base64 text to numbers, decoded once each. */
import type { Packed } from "./schema.ts";

export type Numbers = Float32Array | Int16Array | Uint16Array | Uint8Array;

const decoded = new WeakMap<Packed, Numbers>();
const plain = new WeakMap<Packed, Float32Array>();
const WIDTH = { float32: 4, int16: 2, uint16: 2, uint8: 1 } as const;

/** The stored integers or floats, without the scale. */
export function raw(packed: Packed): Numbers {
  const known = decoded.get(packed);
  if (known) return known;
  const text = atob(packed.base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const size = packed.shape.reduce((product, n) => product * n, 1);
  if (bytes.length !== size * WIDTH[packed.type]) {
    throw new Error(
      `An array of shape ${packed.shape.join(" x ")} (${packed.type}) has ${bytes.length} bytes: the page's data is damaged. Build the page again.`,
    );
  }
  const numbers = view(packed.type, bytes);
  decoded.set(packed, numbers);
  return numbers;
}

function view(type: Packed["type"], bytes: Uint8Array): Numbers {
  switch (type) {
    case "uint8":
      return bytes;
    case "uint16":
      return new Uint16Array(bytes.buffer);
    case "int16":
      return new Int16Array(bytes.buffer);
    case "float32":
      return new Float32Array(bytes.buffer);
  }
}

/** Values in their units; what is not known is NaN. */
export function values(packed: Packed): Float32Array {
  const known = plain.get(packed);
  if (known) return known;
  const numbers = raw(packed);
  const scale = packed.scale ?? 1;
  let result: Float32Array;
  if (numbers instanceof Float32Array && scale === 1) result = numbers;
  else {
    result = new Float32Array(numbers.length);
    const unknown = packed.type === "int16" ? -32768 : NaN;
    for (let i = 0; i < numbers.length; i++) result[i] = numbers[i] === unknown ? NaN : numbers[i] * scale;
  }
  plain.set(packed, result);
  return result;
}

/** One value, without decoding the rest into floats. */
export function at(packed: Packed, index: number): number {
  const value = raw(packed)[index];
  if (value === undefined || (packed.type === "int16" && value === -32768)) return NaN;
  return value * (packed.scale ?? 1);
}
