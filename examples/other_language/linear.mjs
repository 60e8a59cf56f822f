// The task `fedavg.fit` for the model `linear`: sections 7 to 9 of docs/topics/protocol.md.
import { createHash } from "node:crypto";
import { setImmediate } from "node:timers/promises";
import { checked, integer, text } from "./protocol.mjs";

export class Refused extends Error { // a refusal of a request or of a run, which is sent as a message
  constructor(reason, kind = "refused") {
    super(reason);
    this.kind = kind;
  }
}

const count = (value) => integer(value) && value >= 1;
const rate = (value) => (integer(value) || typeof value === "number" ? Number(value) : NaN);
const SETTINGS = {
  model: [text], loss: [text, "nll"], optimizer: [text, "sgd"], dataset: [text, "mnist"],
  lr: [(value) => rate(value) > 0 && rate(value) < Infinity, 0.1],
  lr_decay: [(value) => rate(value) > 0 && rate(value) <= 1, 0.98], // the coordinator has applied it
  batch_size: [count, 32], max_local_batches: [count, 10], epochs: [count, 1],
  drop_last: [(value) => typeof value === "boolean", false],
  cuda: [(value) => typeof value === "boolean", false], // this worker has no GPU
};

// Return the settings and the tensors: weight [outputs, inputs] and bias [outputs]. Throw Refused if they do not fit.
export function prepare(request, data) {
  if (request.task !== "fedavg.fit") throw new Refused(`unknown task '${request.task}'; choose fedavg.fit`);
  const settings = checked("settings", SETTINGS, request.settings, Refused);
  const model = /^linear(?::inputs=(\d+),outputs=(\d+))?$/.exec(settings.model);
  if (!model) throw new Refused(`unknown model '${settings.model}'; choose linear or linear:inputs=784,outputs=10`);
  const [inputs, outputs] = [Number(model[1] ?? 784), Number(model[2] ?? 10)];
  if (settings.dataset !== data.dataset) throw new Refused(`this node holds ${data.dataset}, not ${settings.dataset}`);
  if (inputs !== data.inputs[0].length || outputs <= data.labels.at(-1))
    throw new Refused(`the samples have ${data.inputs[0].length} inputs and labels up to ${data.labels.at(-1)}`);
  // The model returns log-probabilities, which log softmax does not change. Both losses are therefore equal.
  if (!["nll", "cross_entropy"].includes(settings.loss)) throw new Refused(`unknown loss '${settings.loss}'`);
  if (settings.drop_last && data.inputs.length < settings.batch_size)
    throw new Refused(`the node has ${data.inputs.length} samples, fewer than one batch of ${settings.batch_size}`);
  if (settings.optimizer !== "sgd") throw new Refused(`unknown optimizer '${settings.optimizer}'; choose sgd`);
  const tensors = [["dense.weight", [outputs, inputs]], ["dense.bias", [outputs]]].map(([name, shape]) => {
    const found = request.tensors.get(name);
    if (found?.dtype !== "float32" || String(found.shape) !== String(shape) || request.tensors.size !== 2)
      throw new Refused(`the tensors are not those of ${settings.model}`);
    return { name, shape, values: new Float32Array(new Uint8Array(found.bytes).buffer) }; // a copy, which training changes
  });
  return { settings, tensors };
}

// Return the samples in the order of the hashes of seed, epoch and sample. The same request gives the same order.
function shuffled(samples, seed, epoch) {
  const hash = (sample) => createHash("sha256").update(`${seed}/${epoch}/${sample}`).digest("hex");
  const ranked = Array.from({ length: samples }, (_, sample) => [hash(sample), sample]);
  return ranked.sort(([one], [other]) => (one < other ? -1 : 1)).map(([, sample]) => sample);
}

// Train weight and bias in place with minibatch SGD and sums in float64. Return the loss and the number of samples used.
// Check `signal` every few samples, which also lets the link send and answer pings. Throw AbortError if it is aborted.
export async function train(weight, bias, data, settings, seed, signal) {
  const [inputs, batchSize, lr] = [weight.length / bias.length, Number(settings.batch_size), Number(settings.lr)];
  let [loss, used, left] = [0, 0, Number(settings.max_local_batches)];
  for (let epoch = 0; epoch < settings.epochs && left > 0; epoch++) {
    const order = shuffled(data.inputs.length, seed, epoch);
    if (settings.drop_last) order.length -= order.length % batchSize;
    for (let start = 0; start < order.length && left > 0; start += batchSize, left--) {
      const batch = order.slice(start, start + batchSize);
      const [slope, shift] = [new Float64Array(weight.length), new Float64Array(bias.length)]; // sums of gradients
      for (const sample of batch) {
        const [input, target] = [data.inputs[sample], data.targets[sample]];
        const scores = Array.from(bias, (b, o) => input.reduce((sum, x, i) => sum + x * weight[o * inputs + i], b));
        const most = Math.max(...scores); // subtracted first, so that exp does not overflow
        const norm = most + Math.log(scores.reduce((sum, score) => sum + Math.exp(score - most), 0));
        loss += norm - scores[target];
        scores.forEach((score, o) => {
          const error = Math.exp(score - norm) - (o === target ? 1 : 0);
          shift[o] += error;
          input.forEach((x, i) => (slope[o * inputs + i] += error * x));
        });
        if (++used % 16 === 0) await setImmediate(undefined, { signal });
      }
      slope.forEach((sum, i) => (weight[i] -= (lr * sum) / batch.length));
      shift.forEach((sum, o) => (bias[o] -= (lr * sum) / batch.length));
    }
  }
  return { loss: loss / used, num_examples: used };
}
