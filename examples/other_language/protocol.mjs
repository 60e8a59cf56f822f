// Messages as bytes, and the proof of the network key: sections 2 to 4 of docs/protocol.md, as far as a worker needs.
import { createHash, createHmac, createPublicKey, verify } from "node:crypto";
import { decode, encode } from "@msgpack/msgpack";

export class Wrong extends Error {} // the other end broke the protocol: the link must be closed, and this is why

// What a field may hold. Integers of 64 bits come as BigInt.
export const text = (value) => typeof value === "string" && !/\p{Surrogate}/u.test(value); // halves are no UTF-8
export const integer = (value) => Number.isInteger(value) || typeof value === "bigint";
const name = (value) => text(value) && [...value].length <= 64;
const secret = (value) => text(value) && /^[0-9a-f]{64}$/.test(value);
const size = (value) => integer(value) && value >= 0 && value < 2 ** 48;
const most = (value) => integer(value) && value >= 1;
const map = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

const BYTES = { // of an element
  float16: 2, bfloat16: 2, float32: 4, float64: 8, int8: 1, int16: 2, int32: 4, int64: 8, uint8: 1, uint16: 2, uint32: 4,
  uint64: 8, bool: 1, float8_e4m3fn: 1, float8_e5m2: 1, float8_e4m3fnuz: 1, float8_e5m2fnuz: 1, float8_e8m0fnu: 1,
  complex32: 4, complex64: 8, complex128: 16,
};
// Each key with its check, and what is taken when it is absent; where that is undefined, no check lets it pass.
const HEADER = {
  type: [text], fields: [map], tensors: [Array.isArray], transfer: [name],
  digest: [(value) => value === null || secret(value)],
  offset: [(value) => integer(value) && Number(value) === 0], // it says in no welcome that it has a part of a body
};
const ENTRY = {
  name: [(value) => text(value) && [...value].length <= 256 && /^[^./\\\p{Cc}][^\\\p{Cc}]*$/u.test(value) &&
    !value.split("/").some((part) => ["", ".", ".."].includes(part)) &&
    !/^[+-]?nan$/i.test(value)], // unlike a path to another folder, without control characters, and not NaN
  dtype: [(value) => Object.hasOwn(BYTES, value)],
  shape: [(value) => Array.isArray(value) && value.length <= 16 && value.every(size)],
  length: [size],
};
const MESSAGES = { // those that a worker receives
  hello: { run: [name], node: [name], protocol: [integer], coordinator: [name, "coordinator"],
    nonce: [(value) => value === "" || secret(value), ""], has_body_store: [(value) => typeof value === "boolean", false],
    max_message_bytes: [most, 2 ** 30], max_tensors: [most, 10000] },
  proof: { proof: [secret], takeover_key: [secret],
    signature: [(value) => text(value) && /^([0-9a-f]{128})?$/.test(value), ""] },
  task_request: { request_id: [text], worker: [text], round: [integer], task: [text], state_round: [integer, 0],
    seed: [integer, 0], settings: [map, {}], resume_offsets: [map, {}] }, // offsets are of no use without a digest
};

export function checked(what, table, given, Fault) { // all keys of the table; throws Fault for others, and other values
  if (!map(given)) throw new Fault(`${what}: no map`);
  const unknown = Object.keys(given).find((key) => !Object.hasOwn(table, key));
  if (unknown !== undefined) throw new Fault(`${what}: ${unknown} is not known`);
  return Object.fromEntries(Object.entries(table).map(([key, [fits, absent]]) => {
    const value = Object.hasOwn(given, key) ? given[key] : absent;
    if (!fits(value)) throw new Fault(`${what}: ${key} is ${value === undefined ? "missing" : "wrong"}`);
    return [key, value];
  }));
}

const shallow = (value, levels) => typeof value !== "object" || value === null || (levels > 0 &&
  Object.values(value).every((inner) => shallow(inner, levels - 1))); // maps and arrays, so many in each other
const aligned = (position) => Math.ceil(position / 64) * 64;
// The decoder makes an array as long as its head says, before the elements are there: many in each other, all said to
// be long, would take all memory. What a linear model needs has no array longer than a table of a few tensors.
export const TENSORS = 64;
const MSGPACK = { useBigInt64: true, maxArrayLength: TENSORS, maxBinLength: 0, maxExtLength: 0 };

export function read(data, due) { // the message of the type that is due; throws Wrong for any other bytes
  if (data.length < 12 || data.toString("latin1", 0, 4) !== "FDWS") throw new Wrong("not a fedws message");
  if (data.readUInt32LE(4) !== 1) throw new Wrong("another version of the protocol; this node speaks version 1");
  const end = 12 + data.readUInt32LE(8);
  if (end > 12 + 2 ** 19 || aligned(end) > data.length) throw new Wrong("a header that is too long, or cut off");
  let found;
  try {
    found = decode(data.subarray(12, end), MSGPACK);
  } catch (error) {
    throw new Wrong(`header is not msgpack: ${error.message}`);
  }
  if (!shallow(found, 16)) throw new Wrong("header: more than 16 maps and arrays in each other");
  const header = checked("header", HEADER, found, Wrong);
  if (header.type !== due) throw new Wrong(`${header.type} where ${due} was due`);
  const tensors = new Map();
  let position = aligned(end);
  for (const entry of header.tensors) {
    const { name, dtype, shape, length } = checked("tensor", ENTRY, entry, Wrong);
    const wanted = shape.reduce((product, each) => product * Number(each), BYTES[dtype]);
    if (Number(length) !== wanted) throw new Wrong(`tensor ${name}: length and shape disagree`);
    if (tensors.has(name)) throw new Wrong(`tensor ${name} is there twice`);
    const start = aligned(position);
    position = start + wanted;
    const bytes = data.subarray(start, position); // fewer than wanted if the message ends before: see below
    if (dtype === "bool" && bytes.some((byte) => byte > 1)) throw new Wrong(`tensor ${name}: a bool is 0 or 1`);
    tensors.set(name, { dtype, shape: shape.map(Number), bytes });
  }
  if (position !== data.length) throw new Wrong("a message that is longer or shorter than it declares");
  const digest = header.digest && createHash("sha256").update(data.subarray(aligned(end))).digest("hex");
  if (header.digest !== digest) throw new Wrong("not the body of the digest");
  if (tensors.size && due !== "task_request") throw new Wrong(`a ${due} carries no tensors`);
  return { ...checked(due, MESSAGES[due], header.fields, Wrong), tensors };
}

export function write(type, fields, tensors = []) { // tensors: {name, shape, values}, values being a Float32Array
  const table = tensors.map(({ name, shape, values }) => {
    return { name, dtype: "float32", shape, length: values.byteLength };
  });
  const header = encode({ type, fields, tensors: table, transfer: "", digest: null, offset: 0 }, { useBigInt64: true });
  const parts = [Buffer.from("FDWS\x01\0\0\0\0\0\0\0"), header];
  parts[0].writeUInt32LE(header.length, 8);
  let position = 12 + header.length;
  const fill = () => { // up to the next multiple of 64
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

function framed(side, hello, challenge, takeoverKey) { // nonces go in as the text that they are
  const { run, coordinator, node, nonce } = hello;
  const texts = ["fedws", side, run, coordinator, node, challenge.node, nonce, challenge.nonce];
  return Buffer.concat((takeoverKey ? [...texts, takeoverKey] : texts).flatMap((each) => {
    const length = Buffer.alloc(4); // before each text, so that none runs into the next
    length.writeUInt32LE(Buffer.byteLength(each));
    return [length, Buffer.from(each)];
  }));
}

// 64 hexadecimal digits; the takeover key goes into the coordinator's proof alone.
export function proof(key, side, hello, challenge, takeoverKey) {
  return createHmac("sha256", key).update(framed(side, hello, challenge, takeoverKey)).digest("hex");
}

export function signed(hello, challenge, { takeover_key: takeoverKey, signature }) { // whether the run's key made the signature: Ed25519
  try {
    const x = Buffer.from(takeoverKey, "hex").toString("base64url");
    const key = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
    return verify(null, framed("takeover", hello, challenge, takeoverKey), key, Buffer.from(signature, "hex"));
  } catch {
    return false; // bytes that are no key
  }
}
