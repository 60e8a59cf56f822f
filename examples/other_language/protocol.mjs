// The encoding of messages and the proof of the network key: the parts of sections 2 to 4 of docs/topics/protocol.md
// that a worker needs.
import { createHash, createHmac, createPublicKey, verify } from "node:crypto";
import { decode, encode } from "@msgpack/msgpack";

export class ProtocolError extends Error {} // a violation of the protocol, which closes the link with this reason

// Checks of values. The decoder returns integers of 64 bits as BigInt.
export const text = (value) => typeof value === "string" && !/\p{Surrogate}/u.test(value); // a surrogate cannot be UTF-8
export const integer = (value) => Number.isInteger(value) || typeof value === "bigint";
const name = (value) => text(value) && [...value].length <= 64;
const secret = (value) => text(value) && /^[0-9a-f]{64}$/.test(value);
const size = (value) => integer(value) && value >= 0 && value < 2 ** 48;
const natural = (value) => integer(value) && value >= 0;
const positive = (value) => integer(value) && value >= 1;
const map = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

const BYTES = { // sizes of an element
  float16: 2, bfloat16: 2, float32: 4, float64: 8, int8: 1, int16: 2, int32: 4, int64: 8, uint8: 1, uint16: 2, uint32: 4,
  uint64: 8, bool: 1, float8_e4m3fn: 1, float8_e5m2: 1, float8_e4m3fnuz: 1, float8_e5m2fnuz: 1, float8_e8m0fnu: 1,
  complex32: 4, complex64: 8, complex128: 16,
};
// Each key with its check and its default. A key without a default is required, since no check accepts undefined.
const HEADER = {
  type: [text], fields: [map], tensors: [Array.isArray],
  transfer: [(value) => value === ""], // this worker has no object store
  digest: [(value) => value === null || secret(value)],
  offset: [(value) => integer(value) && Number(value) === 0], // this worker never declares a part of a body
};
const ENTRY = {
  name: [(value) => text(value) && [...value].length <= 256 && /^[^./\\\p{Cc}][^\\\p{Cc}]*$/u.test(value) &&
    !value.split("/").some((part) => ["", ".", ".."].includes(part)) &&
    !/^[+-]?nan$/i.test(value)], // neither a path, nor NaN, nor with control characters
  dtype: [(value) => Object.hasOwn(BYTES, value)],
  shape: [(value) => Array.isArray(value) && value.length <= 16 && value.every(size)],
  length: [size],
};
const MESSAGES = { // the messages that a worker receives
  hello: { run: [name], node: [name], protocol: [integer], coordinator: [name, "coordinator"],
    nonce: [(value) => value === "" || secret(value), ""], has_body_store: [(value) => typeof value === "boolean", false],
    max_message_bytes: [positive, 2 ** 30], max_tensors: [positive, 10000] },
  proof: { proof: [secret], takeover_key: [secret],
    signature: [(value) => text(value) && /^([0-9a-f]{128})?$/.test(value), ""] },
  task_request: { request_id: [text], worker: [text], round: [positive], task: [text], state_round: [natural, 0],
    seed: [natural, 0], settings: [map, {}],
    resume_offsets: [map, {}] }, // not used, since this worker sends no digests
};

// Return a map with all keys of the table. Throw Fault for an unknown key, a missing key or a value that is not valid.
export function checked(what, table, given, Fault) {
  if (!map(given)) throw new Fault(`${what}: expected a map`);
  const unknown = Object.keys(given).find((key) => !Object.hasOwn(table, key));
  if (unknown !== undefined) throw new Fault(`${what}: unknown key '${unknown}'`);
  return Object.fromEntries(Object.entries(table).map(([key, [fits, absent]]) => {
    const value = Object.hasOwn(given, key) ? given[key] : absent;
    if (!fits(value)) throw new Fault(`${what}: ${key} is ${value === undefined ? "missing" : "not valid"}`);
    return [key, value];
  }));
}

const shallow = (value, levels) => typeof value !== "object" || value === null || (levels > 0 &&
  Object.values(value).every((inner) => shallow(inner, levels - 1))); // at most so many nested maps and arrays
const aligned = (position) => Math.ceil(position / 64) * 64;
// The decoder allocates an array of its declared length before it reads the elements. Many nested arrays could declare
// large lengths and use all memory. The longest array that a linear model requires is the table of a few tensors.
export const TENSORS = 64;
const MSGPACK = { useBigInt64: true, maxArrayLength: TENSORS, maxBinLength: 0, maxExtLength: 0 };

export function read(data, due) { // return the message of the type `due`; throw ProtocolError for any other bytes
  if (data.length < 12 || data.toString("latin1", 0, 4) !== "FDWS") throw new ProtocolError("not a fedws message");
  if (data.readUInt32LE(4) !== 1) throw new ProtocolError("unsupported protocol version, expected 1");
  const end = 12 + data.readUInt32LE(8);
  if (end > 12 + 2 ** 19 || aligned(end) > data.length) throw new ProtocolError("the header is too long or incomplete");
  let found;
  try {
    found = decode(data.subarray(12, end), MSGPACK);
  } catch (error) {
    throw new ProtocolError(`header is not msgpack: ${error.message}`);
  }
  if (!shallow(found, 16)) throw new ProtocolError("header: maps and arrays are nested more than 16 deep");
  const header = checked("header", HEADER, found, ProtocolError);
  if (header.type !== due) throw new ProtocolError(`unexpected message '${header.type}', expected '${due}'`);
  const tensors = new Map();
  let position = aligned(end);
  for (const entry of header.tensors) {
    const { name, dtype, shape, length } = checked("tensor", ENTRY, entry, ProtocolError);
    const size = shape.reduce((product, each) => product * Number(each), BYTES[dtype]);
    if (Number(length) !== size) throw new ProtocolError(`tensor '${name}': the length does not match the shape`);
    if (tensors.has(name)) throw new ProtocolError(`duplicate tensor '${name}'`);
    const start = aligned(position);
    position = start + size;
    const bytes = data.subarray(start, position); // fewer bytes if the message is too short, see below
    if (dtype === "bool" && bytes.some((byte) => byte > 1)) throw new ProtocolError(`tensor '${name}': bool values must be 0 or 1`);
    tensors.set(name, { dtype, shape: shape.map(Number), bytes });
  }
  if (position !== data.length) throw new ProtocolError("the message does not have its declared length");
  const digest = header.digest && createHash("sha256").update(data.subarray(aligned(end))).digest("hex");
  if (header.digest !== digest) throw new ProtocolError("the body does not match its declared SHA-256 digest");
  if (tensors.size && due !== "task_request") throw new ProtocolError(`unexpected tensors in message '${due}'`);
  return { ...checked(due, MESSAGES[due], header.fields, ProtocolError), tensors };
}

export function write(type, fields, tensors = []) { // tensors: {name, shape, values} with values in a Float32Array
  const table = tensors.map(({ name, shape, values }) => {
    return { name, dtype: "float32", shape, length: values.byteLength };
  });
  const header = encode({ type, fields, tensors: table, transfer: "", digest: null, offset: 0 }, { useBigInt64: true });
  const parts = [Buffer.from("FDWS\x01\0\0\0\0\0\0\0"), header];
  parts[0].writeUInt32LE(header.length, 8);
  let position = 12 + header.length;
  const fill = () => { // pad to the next multiple of 64
    parts.push(Buffer.alloc(aligned(position) - position));
    position = aligned(position);
  };
  fill();
  for (const { values } of tensors) {
    fill();
    parts.push(Buffer.from(values.buffer, values.byteOffset, values.byteLength));
    position += values.byteLength;
  }
  return Buffer.concat(parts);
}

function encodeTexts(side, hello, challenge, takeoverKey) { // a nonce is encoded as the text in the message
  const { run, coordinator, node, nonce } = hello;
  const texts = ["fedws", side, run, coordinator, node, challenge.node, nonce, challenge.nonce];
  return Buffer.concat((takeoverKey ? [...texts, takeoverKey] : texts).flatMap((each) => {
    const length = Buffer.alloc(4); // the prefix of each text, which makes the encoding unambiguous
    length.writeUInt32LE(Buffer.byteLength(each));
    return [length, Buffer.from(each)];
  }));
}

// Return a proof, 64 hexadecimal digits. Only the coordinator's proof contains the takeover key.
export function proof(key, side, hello, challenge, takeoverKey) {
  return createHmac("sha256", key).update(encodeTexts(side, hello, challenge, takeoverKey)).digest("hex");
}

// Return true if the signature was made with the private key of the run (Ed25519).
export function signed(hello, challenge, { takeover_key: takeoverKey, signature }) {
  try {
    const x = Buffer.from(takeoverKey, "hex").toString("base64url");
    const key = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
    return verify(null, encodeTexts("takeover", hello, challenge, takeoverKey), key, Buffer.from(signature, "hex"));
  } catch {
    return false; // the bytes are not a valid key
  }
}
