// A fedws worker in JavaScript, written from docs/topics/protocol.md. The comments name the sections of that page. The
// worker authenticates with the network key and trains the model `linear` in the task `fedavg.fit`. README.md describes
// how to run it.
import { randomBytes, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { endianness, homedir } from "node:os";
import { parseArgs } from "node:util";
import { WebSocketServer } from "ws";
import { prepare, Refused, train } from "./linear.mjs";
import { proof, read, signed, TENSORS, write, ProtocolError } from "./protocol.mjs";

const HANDSHAKE = 2 ** 16; // maximum bytes of a message before its sender has proved that it has the key
const MESSAGE = 2 ** 26; // maximum bytes of any other message; this worker cannot train a larger linear model
const FRAME = 2 ** 20; // maximum bytes of a frame that this worker sends
const MAX_PENDING = 64; // maximum number of connections in the handshake

const line = (reason, length) => String(reason).replace(/[^\x20-\x7e]+/g, " ").slice(0, length); // printable text

// ------------------------------------------------------------------------------------ one link (sections 4 to 6)

// Perform hello, challenge and proof. Return hello with the takeover key. Throw Refused if the handshake fails.
async function shakeHands(node, link) {
  const hello = await link.receive("hello");
  if (Number(hello.protocol) !== 1) throw new Refused(`${node.id} uses protocol 1`, "protocol");
  if (!hello.nonce) throw new Refused(`${node.id} requires the network key, but the coordinator has none`, "key");
  const challenge = { node: node.id, nonce: randomBytes(32).toString("hex") };
  await link.send("challenge", { ...challenge, proof: proof(node.key, "node", hello, challenge) });
  const answer = await link.receive("proof");
  const { proof: given, takeover_key: takeoverKey } = answer;
  if (!equal(given, proof(node.key, "coordinator", hello, challenge, takeoverKey)))
    throw new Refused(`the coordinator has a different network key than ${node.id}`, "key");
  if (!signed(hello, challenge, answer)) throw new Refused("the coordinator does not have the key of its run", "key");
  link.admit();
  if (hello.node !== node.id) throw new Refused(`this is ${node.id}, not ${hello.node}`, "node");
  return { ...hello, takeoverKey };
}

const equal = (one, other) => timingSafeEqual(Buffer.from(one), Buffer.from(other)); // texts of 64 characters

const same = (one, other) => // true if both links belong to the same run
  one.run !== "" && one.run === other.run && one.coordinator === other.coordinator && one.takeoverKey === other.takeoverKey;

let lease = null; // the link that has the node: {hello, since, link, done}

// Do the work of a link when the node is free. Throw Refused if another run has the node.
function acquire(node, hello, link, work) {
  if (lease && !same(hello, lease.hello))
    throw new Refused(`${node.id} is busy with run ${line(lease.hello.run, 8)} since ${lease.since}`, "busy");
  const older = lease;
  const mine = { hello, since: new Date().toLocaleString("sv"), link }; // the Swedish format is 2026-11-21 09:10:03
  older?.link.end("taken over by the same run", 4001); // programs decide by the code
  mine.done = (async () => {
    await older?.done.catch(() => {}); // ends soon, since training checks its signal
    link.signal.throwIfAborted(); // a newer link of the run may have taken over
    await work();
  })().finally(() => {
    if (lease === mine) lease = null;
  });
  lease = mine;
  return mine.done;
}

// Send welcome, then answer one request after the other until the link ends, which throws an error.
async function answer(node, link, hello) {
  const { dataset, inputs, labels } = node.data;
  const limits = { max_message_bytes: MESSAGE, max_tensors: TENSORS }; // the limits of this worker
  const summary = { num_examples: inputs.length, labels, cuda: false };
  await link.send("welcome", { node: node.id, role: "worker", dataset, ...summary, ...limits });
  const seen = new Set();
  for (;;) {
    const request = await link.receive("task_request");
    const id = request.request_id;
    if (request.worker !== node.id) throw new ProtocolError(`request is for ${request.worker}, not for ${node.id}`);
    if (seen.has(id)) throw new ProtocolError(`duplicate request '${id}'`);
    seen.add(id);
    const head = { request_id: id, worker: node.id, round: request.round };
    try {
      const { settings, tensors } = prepare(request, node.data);
      const [weight, bias] = tensors.map(({ values }) => values);
      const trained = await train(weight, bias, node.data, settings, request.seed, link.signal);
      const fields = { ...head, num_examples: inputs.length, metrics: { ...trained, device: "cpu" } };
      const [size, most] = [write("task_result", fields, tensors).length, Number(hello.max_message_bytes)];
      if (size > most)
        throw new Refused(`the result has ${size} bytes, which exceeds the coordinator's limit of ${most}; see --max-message-bytes`);
      await link.send("task_result", fields, tensors);
    } catch (error) {
      if (link.signal.aborted) throw error;
      const [kind, code] = error instanceof Refused ? ["refused", "permanent"] : ["failed", ""];
      await link.send("task_failure", { ...head, kind, reason: line(error.message, 500), code });
    }
  }
}

// Serve one websocket. No bytes of a peer end the process.
async function serve(node, socket, tcp, onAuthenticated) {
  const over = new AbortController(); // aborts all waiting and training with the reason
  const link = { signal: over.signal, code: 4000, admitted: false };
  link.end = (reason, code = 4000) => {
    if (!over.signal.aborted) link.code = code;
    over.abort(reason);
  };
  socket.on("error", (error) => link.end(error.message)); // the library closes the link
  socket.on("close", () => link.end("closed"));
  socket.on("ping", () => {
    if (socket.bufferedAmount > 4 * FRAME) socket.terminate(); // the peer pings but does not read
  });
  tcp.on("data", () => { // the limit for HTTP headers, hello and proof
    if (!link.admitted && tcp.bytesRead > 2 * HANDSHAKE + 2 ** 14) tcp.destroy();
  });
  link.admit = () => {
    link.admitted = true;
    onAuthenticated();
  };
  let [bytesBefore, silentChecks] = [0, 0];
  const check = setInterval(() => { // three times in peerTimeout
    // A paused socket is not read, so the silence is not that of the peer.
    silentChecks = tcp.bytesRead === bytesBefore && !socket.isPaused ? silentChecks + 1 : 0;
    bytesBefore = tcp.bytesRead;
    if (silentChecks === 3) link.end(`given up: silent for ${node.peerTimeout} s`);
    else socket.ping();
  }, (1000 * node.peerTimeout) / 3);
  const inbox = [];
  let wake = () => {};
  socket.on("message", (...message) => {
    inbox.push(message);
    if (inbox.length > 1) socket.pause(); // at most two wait here, which bounds the memory; the sender keeps the others
    wake();
  });
  link.signal.addEventListener("abort", () => wake());
  link.receive = async (due) => {
    while (!inbox.length && !link.signal.aborted) await new Promise((news) => (wake = news));
    link.signal.throwIfAborted();
    const [data, binary] = inbox.shift();
    if (!inbox.length && socket.isPaused) socket.resume();
    if (!binary) throw new ProtocolError("unexpected text frame; messages are binary");
    if (!link.admitted && data.length > HANDSHAKE) throw new ProtocolError(`message of ${data.length} bytes exceeds the limit of ${HANDSHAKE} bytes before the proof`);
    return read(data, due);
  };
  link.send = async (...message) => {
    const data = write(...message);
    for (let start = 0; start < data.length; start += FRAME) {
      const [piece, fin] = [data.subarray(start, start + FRAME), start + FRAME >= data.length];
      await new Promise((sent) => socket.send(piece, { fin }, sent)); // an error also aborts `signal`
    }
  };
  try {
    const hello = await shakeHands(node, link);
    await acquire(node, hello, link, () => answer(node, link, hello));
  } catch (error) {
    if (link.signal.aborted) socket.close(link.code, line(link.signal.reason, 123)); // does nothing if it is closed
    else if (error instanceof ProtocolError) socket.close(4002, line(error.message, 123));
    else if (error instanceof Refused) {
      await link.send("refusal", { kind: error.kind, reason: line(error.message, 500) });
      socket.close(1000);
    } else socket.close(1011);
  } finally {
    clearInterval(check);
  }
}

// ------------------------------------------------------------------------------------ the node

function listen(node, host, port) {
  const handshakeTimeout = (1000 * node.peerTimeout) / 6; // milliseconds
  const http = createServer((_, response) => response.writeHead(426).end()); // not a websocket request
  const pending = new Map(); // unauthenticated connections, the oldest first
  http.on("connection", (tcp) => {
    const leave = () => {
      clearTimeout(timer);
      pending.delete(tcp);
    };
    const drop = () => {
      leave(); // at once, since another connection may arrive before `close`
      tcp.destroy();
    };
    const timer = setTimeout(drop, handshakeTimeout);
    if (pending.size >= MAX_PENDING) pending.values().next().value.drop();
    pending.set(tcp, { leave, drop });
    tcp.on("close", leave);
  });
  const verifyClient = ({ req }, done) => done(!("origin" in req.headers), 403); // web pages are rejected (section 1)
  const server = new WebSocketServer({ server: http, maxPayload: MESSAGE, closeTimeout: handshakeTimeout, verifyClient });
  server.on("connection", (socket, { socket: tcp }) => serve(node, socket, tcp, () => pending.get(tcp)?.leave()));
  server.on("error", (error) => fail(`cannot listen on ${host}:${port}: ${error.code}`));
  const where = host === "localhost" ? "127.0.0.1" : host;
  http.listen(port, where, () => console.log(`${node.id} is serving at ws://${host}:${http.address().port}`));
}

// Return the 32 bytes of the key: from --key-file, else FEDWS_KEY, else the user's own file (section 1).
function networkKey(file) {
  const own = `${process.env.XDG_CONFIG_HOME || `${homedir()}/.config`}/fedws/network.key`;
  const given = file === undefined ? process.env.FEDWS_KEY : undefined;
  const found = (given ?? readFileSync(file ?? own, "latin1")).trim().toLowerCase();
  if (!/^[0-9a-f]{64}$/.test(found)) throw new Error("not a network key; expected 64 hexadecimal digits, as printed by 'fedws key show'");
  return Buffer.from(found, "hex");
}

function fail(reason) {
  console.error(`worker.mjs: ${reason}`);
  process.exit(2);
}

try {
  const text = { type: "string" };
  const options = { id: text, data: text, "key-file": text, host: { ...text, default: "localhost" },
    port: { ...text, default: "0" }, "peer-timeout": { ...text, default: "60" } };
  const { values } = parseArgs({ options });
  if (endianness() !== "LE") throw new Error("this machine is not little-endian, as tensors are");
  if (!/^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/.test(values.id ?? "")) throw new Error("--id is required; set it to the name of this node, such as alice");
  if (!values.data) throw new Error("--data is required; set it to a file of samples, which export_digits.py writes");
  const { dataset, inputs, targets } = JSON.parse(readFileSync(values.data, "utf8"));
  if (!inputs.length || inputs.length !== targets.length) throw new Error(`${values.data} has no samples`);
  const labels = [...new Set(targets)].sort((one, other) => one - other);
  const data = { dataset, inputs: inputs.map((input) => Float32Array.from(input)), targets, labels };
  const node = { id: values.id, key: networkKey(values["key-file"]), peerTimeout: Number(values["peer-timeout"]), data };
  listen(node, values.host, Number(values.port));
} catch (error) {
  fail(error.message);
}
