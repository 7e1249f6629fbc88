// The unchanged `openai` SDK for Node.js against a running Batchyard; started by ../test_node.py.

import assert from "node:assert/strict";
import { createReadStream } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import http from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import OpenAI, { toFile } from "openai";

const { BATCHYARD_URL, BATCHYARD_KEY, BATCHYARD_MODEL: MODEL } = process.env;
const PATIENCE_MS = 60_000;
const ENDED = new Set(["completed", "failed", "expired", "cancelled"]);

const client = new OpenAI({ baseURL: `${BATCHYARD_URL}/v1`, apiKey: BATCHYARD_KEY, maxRetries: 0 });

let directory;
before(async () => {
  directory = await mkdtemp(join(tmpdir(), "batchyard-"));
});
after(() => rm(directory, { recursive: true }));

function jsonl(...contents) {
  const lines = contents.map((content, index) => ({
    custom_id: `line-${index}`,
    method: "POST",
    url: "/v1/chat/completions",
    body: { model: MODEL, messages: [{ role: "user", content }] },
  }));
  return lines.map((line) => `${JSON.stringify(line)}\n`).join("");
}

async function upload(text, name = "in.jsonl") {
  return client.files.create({ file: await toFile(Buffer.from(text), name), purpose: "batch" });
}

function start(file, more = {}) {
  return client.batches.create({
    input_file_id: file.id,
    endpoint: "/v1/chat/completions",
    completion_window: "24h",
    ...more,
  });
}

async function ended(id) {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const batch = await client.batches.retrieve(id);
    if (ENDED.has(batch.status)) return batch;
    assert.ok(Date.now() < deadline, JSON.stringify(batch));
    await sleep(50);
  }
}

async function collected(pages) {
  const found = [];
  for await (const entry of pages) found.push(entry.id);
  return found;
}

/** A server that passes everything on to Batchyard, and keeps the heads of the requests. */
async function recorder() {
  const seen = [];
  const server = http.createServer((request, response) => {
    seen.push({ method: request.method, url: request.url, headers: request.headers });
    const onward = http.request(
      `${BATCHYARD_URL}${request.url}`,
      { method: request.method, headers: request.headers },
      (answer) => {
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
      },
    );
    onward.on("error", () => response.destroy());
    request.pipe(onward);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { seen, server, url: `http://127.0.0.1:${server.address().port}` };
}

test("a stream becomes a file becomes a batch becomes answers", async () => {
  const path = join(directory, "in.jsonl");
  const text = jsonl("What does a whale eat?", "And how long does it live?");
  await writeFile(path, text);
  const file = await client.files.create({ file: createReadStream(path), purpose: "batch" });
  assert.equal(file.object, "file");
  assert.equal(file.filename, "in.jsonl");
  assert.equal(file.bytes, Buffer.byteLength(text));
  assert.equal(file.status, "processed");

  const batch = await start(file, { metadata: { from: "node" } });
  assert.equal(batch.status, "validating");
  assert.deepEqual(batch.metadata, { from: "node" });
  const done = await ended(batch.id);
  assert.equal(done.status, "completed");
  assert.deepEqual(done.request_counts, { total: 2, completed: 2, failed: 0 });
  assert.ok(done.usage.total_tokens > 0);

  const output = await (await client.files.content(done.output_file_id)).text();
  const lines = output.trimEnd().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual(lines.map((line) => line.custom_id), ["line-0", "line-1"]);
  assert.ok(lines.every((line) => line.response.body.choices[0].message.content));
});

test("a large stream is sent in chunks, without a length and before its purpose", async () => {
  const path = join(directory, "large.jsonl");
  const text = jsonl(...Array.from({ length: 20_000 }, (_, index) => `Question ${index} ${"x".repeat(100)}`));
  await writeFile(path, text);
  const { seen, server, url } = await recorder();
  try {
    const recorded = client.withOptions({ baseURL: `${url}/v1` });
    const file = await recorded.files.create({ file: createReadStream(path), purpose: "batch" });
    assert.equal(file.bytes, Buffer.byteLength(text));
    assert.equal(seen[0].headers["content-length"], undefined);
    assert.equal(seen[0].headers["transfer-encoding"], "chunked");
    const content = await client.files.content(file.id);
    assert.equal(await content.text(), text);
  } finally {
    server.closeAllConnections();
    server.close();
  }
});

test("a buffer is uploaded, with an expiry, and comes back byte for byte as a stream", async () => {
  const bytes = Buffer.from(jsonl("Grüße 👋"));
  const file = await client.files.create({
    purpose: "batch",
    file: await toFile(bytes, "grüße.jsonl"),
    expires_after: { anchor: "created_at", seconds: 3600 },
  });
  assert.equal(file.filename, "grüße.jsonl");
  assert.equal(file.expires_at, file.created_at + 3600);
  const response = await client.files.content(file.id);
  assert.equal(response.headers.get("content-type"), "application/octet-stream");
  const chunks = [];
  for await (const chunk of response.body) chunks.push(chunk);
  assert.deepEqual(Buffer.concat(chunks), bytes);
});

test("files are retrieved, listed over many pages, and deleted", async () => {
  const made = [];
  for (let index = 0; index < 5; index += 1) made.push((await upload(jsonl(`file ${index}`))).id);
  const { data, response } = await client.files.retrieve(made[0]).withResponse();
  assert.equal(data.id, made[0]);
  assert.equal(response.headers.get("x-request-id"), data._request_id);
  const found = await collected(client.files.list({ limit: 2, purpose: "batch" }));
  assert.equal(new Set(found).size, found.length);
  assert.deepEqual(found.slice(0, 5), made.toReversed());
  const first = await client.files.list({ limit: 2, order: "asc" });
  assert.equal(first.data.length, 2);
  assert.ok(first.hasNextPage());
  const deleted = await client.files.delete(made[0]);
  assert.deepEqual([deleted.id, deleted.deleted], [made[0], true]);
  assert.ok(!(await collected(client.files.list({ limit: 2 }))).includes(made[0]));
});

test("batches are listed over many pages", async () => {
  const file = await upload(jsonl("again"));
  const made = [];
  for (let index = 0; index < 5; index += 1) made.push((await start(file)).id);
  const found = await collected(client.batches.list({ limit: 2 }));
  assert.equal(new Set(found).size, found.length);
  assert.deepEqual(found.slice(0, 5), made.toReversed());
});

test("a batch is cancelled, once", async () => {
  const batch = await start(await upload(jsonl("wait [[fault:delay=30]]")));
  assert.equal((await client.batches.cancel(batch.id)).status, "cancelling");
  assert.equal((await ended(batch.id)).status, "cancelled");
  const { seen, server, url } = await recorder();
  try {
    const retrying = client.withOptions({ baseURL: `${url}/v1`, maxRetries: 2 });
    await assert.rejects(retrying.batches.cancel(batch.id), (error) => {
      assert.ok(error instanceof OpenAI.ConflictError);
      assert.match(error.message, /Cannot cancel a batch with status 'cancelled'\./);
      return true;
    });
    assert.equal(seen.length, 1, "a final conflict is not tried again");
  } finally {
    server.closeAllConnections();
    server.close();
  }
});

const REFUSALS = [
  ["an unknown file", OpenAI.NotFoundError, { status: 404, param: "id" }, () => client.files.retrieve("file-nope")],
  ["content of an unknown file", OpenAI.NotFoundError, { status: 404 }, () => client.files.content("file-nope")],
  ["deleting an unknown file", OpenAI.NotFoundError, { status: 404 }, () => client.files.delete("file-nope")],
  ["an unknown batch", OpenAI.NotFoundError, { status: 404 }, () => client.batches.retrieve("batch_nope")],
  ["cancelling an unknown batch", OpenAI.NotFoundError, { status: 404 }, () => client.batches.cancel("batch_nope")],
  [
    "a wrong key",
    OpenAI.AuthenticationError,
    { status: 401, code: "invalid_api_key" },
    () => client.withOptions({ apiKey: "sk-wrong" }).files.list(),
  ],
  [
    "a name that is not .jsonl",
    OpenAI.BadRequestError,
    { status: 400, param: "file", code: "invalid_value" },
    () => upload(jsonl("x"), "in.txt"),
  ],
  [
    "an unknown endpoint",
    OpenAI.BadRequestError,
    { status: 400, param: "endpoint", code: "invalid_value" },
    () => start({ id: "file-nope" }, { endpoint: "/v1/audio" }),
  ],
  [
    "too large a page",
    OpenAI.BadRequestError,
    { status: 400, param: "limit", code: "integer_above_max_value" },
    () => client.batches.list({ limit: 101 }),
  ],
];

for (const [what, kind, expected, call] of REFUSALS) {
  test(`${what} is refused as ${kind.name}`, async () => {
    await assert.rejects(async () => await call(), (error) => {
      assert.ok(error instanceof kind, String(error));
      for (const [name, value] of Object.entries(expected)) assert.equal(error[name], value, name);
      assert.match(error.requestID, /^req_/);
      return true;
    });
  });
}
