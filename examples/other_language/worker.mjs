// A fedws worker in JavaScript, written from docs/protocol.md, whose sections the comments name: it joins runs with the
// network key, and trains the model `linear` when it gets the task `fedavg.fit`. README.md says how to run it.
import { randomBytes, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { endianness, homedir } from "node:os";
import { parseArgs } from "node:util";
import { WebSocketServer } from "ws";
import { prepare, Refused, train } from "./linear.mjs";
import { proof, read, signed, TENSORS, write, Wrong } from "./protocol.mjs";

const HANDSHAKE = 2 ** 16; // bytes of a message before its sender has proved that he knows the key
const MESSAGE = 2 ** 26; // bytes of any other; no linear model that this worker could train needs more
const FRAME = 2 ** 20; // bytes of a frame that we send, at most
const AT_THE_DOOR = 64; // connections in the handshake

const line = (reason, length) => String(reason).replace(/[^\x20-\x7e]+/g, " ").slice(0, length); // whoever wrote it

// ------------------------------------------------------------------------------------ one link (sections 4 to 6)

async function meet(node, link) { // hello, challenge, proof; gives hello with takeoverKey; throws Refused
  const hello = await link.receive("hello");
  if (Number(hello.protocol) !== 1) throw new Refused(`${node.id} speaks protocol 1`, "protocol");
  if (!hello.nonce) throw new Refused(`${node.id} asks for the network key, and was called without one`, "key");
  const challenge = { node: node.id, nonce: randomBytes(32).toString("hex") };
  await link.send("challenge", { ...challenge, proof: proof(node.key, "node", hello, challenge) });
  const answer = await link.receive("proof");
  const { proof: given, takeover_key: takeoverKey } = answer;
  if (!equal(given, proof(node.key, "coordinator", hello, challenge, takeoverKey))) throw new Refused(`the caller has another network key than ${node.id}`, "key");
  if (!signed(hello, challenge, answer)) throw new Refused("the caller does not have the key of its run", "key");
  link.admit();
  if (hello.node !== node.id) throw new Refused(`this is ${node.id}, not ${hello.node}`, "node");
  return { ...hello, takeoverKey };
}

const equal = (one, other) => timingSafeEqual(Buffer.from(one), Buffer.from(other)); // of 64 characters

const same = (one, other) => // whether a link is of the same run
  one.run !== "" && one.run === other.run && one.coordinator === other.coordinator && one.takeoverKey === other.takeoverKey;

let turn = null; // the link that has the node: {hello, since, link, done}

function take(node, hello, link, work) { // have the node, one run at a time, and do the work; throws Refused
  if (turn && !same(hello, turn.hello))
    throw new Refused(`${node.id} is busy with run ${line(turn.hello.run, 8)} since ${turn.since}`, "busy");
  const older = turn;
  const mine = { hello, since: new Date().toLocaleString("sv"), link }; // Swedes write 2026-11-21 09:10:03
  older?.link.end("taken over by the same run", 4001); // the close code says it to programs
  mine.done = (async () => {
    await older?.done.catch(() => {}); // soon: training looks at its signal every few samples
    link.signal.throwIfAborted(); // a newer link of the run may have come meanwhile
    await work();
  })().finally(() => {
    if (turn === mine) turn = null;
  });
  turn = mine;
  return mine.done;
}

async function answer(node, link, hello) { // welcome, then one request after the other; ends by an error only
  const { dataset, inputs, labels } = node.data;
  const limits = { max_message_bytes: MESSAGE, max_tensors: TENSORS }; // what this worker accepts
  const summary = { num_examples: inputs.length, labels, cuda: false };
  await link.send("welcome", { node: node.id, role: "worker", dataset, ...summary, ...limits });
  const seen = new Set();
  for (;;) {
    const request = await link.receive("task_request");
    const id = request.request_id;
    if (request.worker !== node.id) throw new Wrong(`a request for ${request.worker}; this is ${node.id}`);
    if (seen.has(id)) throw new Wrong(`request ${id} a second time`);
    seen.add(id);
    const head = { request_id: id, worker: node.id, round: request.round };
    try {
      const { settings, tensors } = prepare(request, node.data);
      const [weight, bias] = tensors.map(({ values }) => values);
      const trained = await train(weight, bias, node.data, settings, request.seed, link.signal);
      const fields = { ...head, num_examples: inputs.length, metrics: { ...trained, device: "cpu" } };
      const [size, most] = [write("task_result", fields, tensors).length, Number(hello.max_message_bytes)];
      if (size > most)
        throw new Refused(`its result has ${size} bytes, and the coordinator accepts at most ${most}: see --max-message-bytes`);
      await link.send("task_result", fields, tensors);
    } catch (error) {
      if (link.signal.aborted) throw error;
      const [kind, code] = error instanceof Refused ? ["refused", "permanent"] : ["failed", ""];
      await link.send("task_failure", { ...head, kind, reason: line(error.message, 500), code });
    }
  }
}

async function serve(node, socket, tcp, leaveDoor) { // one websocket; whatever comes on it, the process lives on
  const over = new AbortController(); // tells all that wait and work that the link is over, and why
  const link = { signal: over.signal, code: 4000, admitted: false };
  link.end = (reason, code = 4000) => {
    if (!over.signal.aborted) link.code = code;
    over.abort(reason);
  };
  socket.on("error", (error) => link.end(error.message)); // wrong frames: the library closes the link by itself
  socket.on("close", () => link.end("closed"));
  socket.on("ping", () => {
    if (socket.bufferedAmount > 4 * FRAME) socket.terminate(); // it pings, and reads no answer
  });
  tcp.on("data", () => { // hello, proof and HTTP's headers: of longer ones not even the beginning is kept
    if (!link.admitted && tcp.bytesRead > 2 * HANDSHAKE + 2 ** 14) tcp.destroy();
  });
  link.admit = () => {
    link.admitted = true;
    leaveDoor();
  };
  let [heard, quiet] = [0, 0];
  const beat = setInterval(() => { // three times while it may be silent
    quiet = tcp.bytesRead === heard && !socket.isPaused ? quiet + 1 : 0; // paused: it is we who do not read
    heard = tcp.bytesRead;
    if (quiet === 3) link.end(`given up: silent for ${node.peerTimeout} s`);
    else socket.ping();
  }, (1000 * node.peerTimeout) / 3);
  const inbox = [];
  let wake = () => {};
  socket.on("message", (...message) => {
    inbox.push(message);
    if (inbox.length > 1) socket.pause(); // two may wait here; more stay with the sender, or they would fill our memory
    wake();
  });
  link.signal.addEventListener("abort", () => wake());
  link.receive = async (due) => {
    while (!inbox.length && !link.signal.aborted) await new Promise((news) => (wake = news));
    link.signal.throwIfAborted();
    const [data, binary] = inbox.shift();
    if (!inbox.length && socket.isPaused) socket.resume();
    if (!binary) throw new Wrong("a text frame; messages are binary");
    if (!link.admitted && data.length > HANDSHAKE) throw new Wrong(`${data.length} bytes before a proof`);
    return read(data, due);
  };
  link.send = async (...message) => {
    const data = write(...message);
    for (let start = 0; start < data.length; start += FRAME) {
      const [piece, fin] = [data.subarray(start, start + FRAME), start + FRAME >= data.length];
      await new Promise((sent) => socket.send(piece, { fin }, sent)); // if it cannot be sent, `signal` will say so
    }
  };
  try {
    const hello = await meet(node, link);
    await take(node, hello, link, () => answer(node, link, hello));
  } catch (error) {
    if (link.signal.aborted) socket.close(link.code, line(link.signal.reason, 123)); // nothing, if it is closed already
    else if (error instanceof Wrong) socket.close(4002, line(error.message, 123));
    else if (error instanceof Refused) {
      await link.send("refusal", { kind: error.kind, reason: line(error.message, 500) });
      socket.close(1000);
    } else socket.close(1011);
  } finally {
    clearInterval(beat);
  }
}

// ------------------------------------------------------------------------------------ the node

function listen(node, host, port) {
  const patience = (1000 * node.peerTimeout) / 6; // milliseconds
  const http = createServer((_, response) => response.writeHead(426).end()); // who asks for no websocket
  const door = new Map(); // connections that have proved nothing yet, the oldest first
  http.on("connection", (tcp) => {
    const leave = () => {
      clearTimeout(timer);
      door.delete(tcp);
    };
    const sendAway = () => {
      leave(); // now, for `close` comes later, and another may come before
      tcp.destroy();
    };
    const timer = setTimeout(sendAway, patience);
    if (door.size >= AT_THE_DOOR) door.values().next().value.sendAway();
    door.set(tcp, { leave, sendAway });
    tcp.on("close", leave);
  });
  const verifyClient = ({ req }, done) => done(!("origin" in req.headers), 403); // web pages are refused (section 1)
  const server = new WebSocketServer({ server: http, maxPayload: MESSAGE, closeTimeout: patience, verifyClient });
  server.on("connection", (socket, { socket: tcp }) => serve(node, socket, tcp, () => door.get(tcp)?.leave()));
  server.on("error", (error) => fail(`cannot listen on ${host}:${port}: ${error.code}`));
  const where = host === "localhost" ? "127.0.0.1" : host;
  http.listen(port, where, () => console.log(`${node.id} is serving at ws://${host}:${http.address().port}`));
}

function networkKey(file) { // 32 bytes: of --key-file, else FEDWS_KEY, else the user's own (section 1)
  const own = `${process.env.XDG_CONFIG_HOME || `${homedir()}/.config`}/fedws/network.key`;
  const given = file === undefined ? process.env.FEDWS_KEY : undefined;
  const found = (given ?? readFileSync(file ?? own, "latin1")).trim().toLowerCase();
  if (!/^[0-9a-f]{64}$/.test(found)) throw new Error("a network key is 64 hexadecimal digits: see 'fedws key show'");
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
  if (endianness() !== "LE") throw new Error("tensors are little-endian, and this machine is not");
  if (!/^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/.test(values.id ?? "")) throw new Error("--id names this node, as alice");
  if (!values.data) throw new Error("--data names a file of samples, as export_digits.py writes it");
  const { dataset, inputs, targets } = JSON.parse(readFileSync(values.data, "utf8"));
  if (!inputs.length || inputs.length !== targets.length) throw new Error(`${values.data} holds no samples`);
  const labels = [...new Set(targets)].sort((one, other) => one - other);
  const data = { dataset, inputs: inputs.map((input) => Float32Array.from(input)), targets, labels };
  const node = { id: values.id, key: networkKey(values["key-file"]), peerTimeout: Number(values["peer-timeout"]), data };
  listen(node, values.host, Number(values.port));
} catch (error) {
  fail(error.message);
}
