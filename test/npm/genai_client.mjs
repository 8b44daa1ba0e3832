/*
 * genai_client.mjs
 *		@google/genai against the Gemini API and against Vertex AI.
 */
import fs from 'node:fs';
import { ApiError, GoogleGenAI } from '@google/genai';
import { Storage } from '@google-cloud/storage';
import { base, check, control, directory, judge, refuses, same, serviceAccount, until }
	from './judge.mjs';

const MODEL = 'gemini-3.5-flash';
const status = (e) => [e instanceof ApiError, e.status];

function gemini(apiKey = 'test-key', apiVersion = 'v1beta') {
	return new GoogleGenAI({ apiKey, httpOptions: { baseUrl: base, apiVersion } });
}

function vertex() {
	return new GoogleGenAI({
		vertexai: true, project: 'test-project', location: 'us-central1',
		httpOptions: { baseUrl: base, apiVersion: 'v1' },
		googleAuthOptions: { authClient: serviceAccount() },
	});
}

const ask = (text) => [{ role: 'user', parts: [{ text }] }];

function lines(n, prefix = 'Say the number') {
	return Array.from({ length: n }, (_, i) => JSON.stringify({
		key: `r-${i}`, request: { contents: ask(`${prefix} ${i}`) },
	})).join('\n') + '\n';
}

async function upload(ai, text, displayName = 'in') {
	return ai.files.upload({
		file: new Blob([text], { type: 'application/jsonl' }),
		config: { displayName, mimeType: 'application/jsonl' },
	});
}

const settled = (ai, job) => until(() => ai.batches.get({ name: job.name }),
	(j) => /SUCCEEDED|FAILED|CANCELLED|EXPIRED/.test(j.state));

/* What one answer is like, with either service. */
async function online(ai, name) {
	const r = await ai.models.generateContent({
		model: MODEL, contents: 'Say hello world',
		config: { systemInstruction: 'Be short.', temperature: 0.2, maxOutputTokens: 2000 },
	});

	same(`${name}: text`, r.text, 'Say hello world');
	same(`${name}: finish`, r.candidates[0].finishReason, 'STOP');
	same(`${name}: model`, r.modelVersion, MODEL);
	same(`${name}: prompt tokens`, r.usageMetadata.promptTokenCount, Math.ceil('Be short.\nSay hello world'.length / 4));
	same(`${name}: tokens add up`, r.usageMetadata.promptTokenCount + r.usageMetadata.candidatesTokenCount +
		r.usageMetadata.thoughtsTokenCount, r.usageMetadata.totalTokenCount);
	const cut = await ai.models.generateContent({ model: MODEL, contents: 'x', config: { maxOutputTokens: 5 } });
	same(`${name}: small limit`, [cut.candidates[0].finishReason, cut.text], ['MAX_TOKENS', undefined]);
	const thoughts = await ai.models.generateContent({
		model: MODEL, contents: 'Say it', config: { thinkingConfig: { includeThoughts: true, thinkingLevel: 'LOW' } },
	});
	same(`${name}: thoughts are marked`, thoughts.candidates[0].content.parts.map((p) => p.thought ?? false),
		[true, false]);
	const json = await ai.models.generateContent({
		model: MODEL, contents: 'Which colour? red',
		config: {
			responseMimeType: 'application/json',
			responseSchema: { type: 'OBJECT', required: ['colour'],
				properties: { colour: { type: 'STRING', enum: ['blue', 'red'] } } },
		},
	});
	same(`${name}: schema`, JSON.parse(json.text), { colour: 'red' });
	await refuses(`${name}: unknown model`, () => ai.models.generateContent({ model: 'gemini-0', contents: 'x' }),
		status, [true, 404]);
	await refuses(`${name}: budget and level`, () => ai.models.generateContent({
		model: MODEL, contents: 'x', config: { thinkingConfig: { thinkingBudget: 5, thinkingLevel: 'LOW' } },
	}), status, [true, 400]);
	await refuses(`${name}: no level for 2.5`, () => ai.models.generateContent({
		model: 'gemini-2.5-flash', contents: 'x', config: { thinkingConfig: { thinkingLevel: 'LOW' } },
	}), status, [true, 400]);
	await refuses(`${name}: pro cannot stop thinking`, () => ai.models.generateContent({
		model: 'gemini-2.5-pro', contents: 'x', config: { thinkingConfig: { thinkingBudget: 0 } },
	}), status, [true, 400]);
	await refuses(`${name}: schema without MIME type`, () => ai.models.generateContent({
		model: MODEL, contents: 'x', config: { responseSchema: { type: 'STRING' } },
	}), status, [true, 400]);
	await refuses(`${name}: temperature`, () => ai.models.generateContent({
		model: MODEL, contents: 'x', config: { temperature: 3 },
	}), status, [true, 400]);
	await control('POST', 'answers', { answer: { block_reason: 'SAFETY' }, times: 1 });
	const blocked = await ai.models.generateContent({ model: MODEL, contents: 'x' });
	same(`${name}: blocked`, [blocked.candidates, blocked.promptFeedback.blockReason], [undefined, 'SAFETY']);
	await control('POST', 'faults', { match: { path: '*:generateContent' }, status: 429, times: 1 });
	await refuses(`${name}: 429`, () => ai.models.generateContent({ model: MODEL, contents: 'x' }), status, [true, 429]);
}

async function geminiOnline() {
	await online(gemini(), 'Gemini API');
	await online(gemini('test-key', 'v1'), 'Gemini API v1');
	await refuses('Gemini API: bad key', () => gemini('bad').models.generateContent({ model: MODEL, contents: 'x' }),
		(e) => [e.status, e.message.includes('API_KEY_INVALID')], [400, true]);
	const names = [];
	for await (const m of await gemini().models.list({ config: { pageSize: 3 } }))
		names.push(m.name);
	check('Gemini API: models', names.includes(`models/${MODEL}`) && names.length > 3, names);
	same('Gemini API: one model', (await gemini().models.get({ model: MODEL })).name, `models/${MODEL}`);
}

async function vertexOnline() {
	await online(vertex(), 'Vertex AI');
}

async function files() {
	const ai = gemini();

	await control('POST', 'faults', { file: { ready_ms: 150 }, times: 1 });
	const file = await upload(ai, lines(3));
	same('file: fields', [file.state, file.displayName, file.mimeType, file.source],
		['PROCESSING', 'in', 'application/jsonl', 'UPLOADED']);
	check('file: name', /^files\/[a-z0-9]{12}$/.test(file.name), file.name);
	const ready = await until(() => ai.files.get({ name: file.name }), (f) => f.state !== 'PROCESSING');
	same('file: becomes active', [ready.state, ready.sizeBytes], ['ACTIVE', String(lines(3).length)]);
	const big = await upload(ai, Buffer.alloc(20 * 1024 * 1024, 'x'), 'big');
	same('file: in pieces', big.sizeBytes, String(20 * 1024 * 1024));
	const sent = (await control('GET', 'requests?path=/upload/*')).requests.map((r) => r.bytes);
	same('file: pieces of 8 MiB', sent.slice(-3), [8388608, 8388608, 4194304]);
	const names = [];
	for await (const f of await ai.files.list({ config: { pageSize: 1 } }))
		names.push(f.name);
	same('file: list', names, [big.name, file.name]);
	await ai.files.delete({ name: file.name });
	await refuses('file: deleted', () => ai.files.get({ name: file.name }), status, [true, 403]);
	await refuses('file: of another key', () => gemini('other-key').files.get({ name: big.name }), status, [true, 403]);
	await refuses('file: an upload cannot be downloaded',
		() => ai.files.download({ file: big.name, downloadPath: `${directory}/no` }), status, [true, 400]);
}

async function download(ai, name) {
	const path = `${directory}/result`;

	await ai.files.download({ file: name, downloadPath: path });
	return fs.readFileSync(path, 'utf8').trimEnd().split('\n').map((l) => JSON.parse(l));
}

async function batches() {
	const ai = gemini();
	const file = await upload(ai, lines(40));
	let job = await ai.batches.create({ model: MODEL, src: file.name, config: { displayName: 'job-1' } });

	same('batch: created', [job.state, job.displayName], ['JOB_STATE_PENDING', 'job-1']);
	check('batch: name', /^batches\/[a-z0-9]{36}$/.test(job.name), job.name);
	job = await settled(ai, job);
	same('batch: succeeded', [job.state, job.dest.fileName], ['JOB_STATE_SUCCEEDED', job.name.replace('batches/', 'files/batch-')]);
	const results = await download(ai, job.dest.fileName);
	same('batch: every key once', new Set(results.map((r) => r.key)).size, 40);
	check('batch: in another order', results.some((r, i) => r.key !== `r-${i}`));
	same('batch: answers belong to keys', results.every((r) =>
		r.response.candidates[0].content.parts[0].text === `Say the number ${r.key.slice(2)}`), true);
	const second = await fetch(`${base}/download/v1beta/${job.dest.fileName}:download?alt=media`,
		{ headers: { 'x-goog-api-key': 'test-key' } });
	same('batch: the other way to download', [second.status, (await second.text()).split('\n').length], [200, 41]);

	const inlined = await settled(ai, await ai.batches.create({
		model: MODEL, config: { displayName: 'job-2' },
		src: [{ contents: ask('one'), metadata: { key: 'a' } }, { contents: ask('two'), metadata: { key: 'b' },
			config: { maxOutputTokens: 1000 } }],
	}));
	same('inlined: answers by key', inlined.dest.inlinedResponses.map((r) =>
		`${r.metadata.key} ${r.response.candidates[0].content.parts[0].text}`).sort(), ['a one', 'b two']);
	const seen = [];
	for await (const j of await ai.batches.list({ config: { pageSize: 1 } }))
		seen.push(j.displayName);
	same('batch: list, newest first', seen, ['job-2', 'job-1']);
	await ai.batches.delete({ name: job.name });
	await refuses('batch: deleted', () => ai.batches.get({ name: job.name }), status, [true, 404]);
	await refuses('batch: unknown file', () => ai.batches.create({ model: MODEL, src: 'files/nothing',
		config: { displayName: 'x' } }), status, [true, 404]);
	const stats = (await control('GET', 'stats')).providers.gemini;
	same('batch: counts', [stats.batches_created, stats.batch_rows_ok], [2, 42]);
}

async function batchEnds() {
	const ai = gemini();
	const file = await upload(ai, lines(20));
	const create = () => ai.batches.create({ model: MODEL, src: file.name, config: { displayName: 'x' } });
	const raw = async (name) => (await fetch(`${base}/v1beta/${name}`, { headers: { 'x-goog-api-key': 'test-key' } })).json();

	await control('POST', 'faults', [
		{ batch: { state: 'expired', fraction: 0.5 }, times: 1 },
		{ batch: { state: 'failed', message: 'broken', code: 'INTERNAL' }, times: 1 },
	]);
	let job = await settled(ai, await create());
	same('expired: nothing is left', [job.state, job.dest], ['JOB_STATE_EXPIRED', undefined]);
	job = await settled(ai, await create());
	const failed = await raw(job.name);
	same('failed: error', [failed.metadata.state, failed.done, failed.error],
		['BATCH_STATE_FAILED', true, { code: 13, message: 'broken' }]);
	await control('POST', 'settings', { run_ms: 60000 });
	job = await create();
	await until(() => ai.batches.get({ name: job.name }), (j) => j.state === 'JOB_STATE_RUNNING');
	await ai.batches.cancel({ name: job.name });
	job = await settled(ai, job);
	same('cancelled', [job.state, (await raw(job.name)).error.code], ['JOB_STATE_CANCELLED', 1]);
	await control('POST', 'settings', { run_ms: 60, gemini_job_names: 1, gemini_jobs: 1 });
	job = await create();
	same('names: as in the guide', (await raw(job.name)).metadata.state, 'JOB_STATE_PENDING');
	await refuses('quota: one batch at a time', create, status, [true, 429]);
	await settled(ai, job);
	same('quota: the next one', (await settled(ai, await create())).state, 'JOB_STATE_SUCCEEDED');
	const bad = await upload(ai, lines(2) + lines(1));
	same('duplicate key fails', (await settled(ai, await ai.batches.create({ model: MODEL, src: bad.name,
		config: { displayName: 'x' } }))).state,
		'JOB_STATE_FAILED');
	await control('POST', 'faults', { row: { outcome: 'status_object', status: 429 }, match: { custom_id: 'r-3' } });
	await control('POST', 'faults', { row: { outcome: 'http_error', status: 503 }, match: { custom_id: 'r-4' } });
	const results = await download(ai, (await settled(ai, await create())).dest.fileName);
	same('rows: a status', results.find((r) => r.key === 'r-3').status.code, 8);
	same('rows: an error', results.find((r) => r.key === 'r-4').error,
		{ code: 503, message: 'Internal error encountered.', status: 'UNAVAILABLE' });
}

async function vertexBatch() {
	const ai = vertex();
	const bucket = new Storage({ projectId: 'test-project', apiEndpoint: base, useAuthWithCustomEndpoint: true,
		authClient: serviceAccount() }).bucket('test-bucket');
	const text = Array.from({ length: 30 }, (_, i) => JSON.stringify({
		request: { contents: ask(`Say the number ${i}`), labels: { rk: `r-${i}` } },
	})).join('\n');

	await bucket.file('in/p1.jsonl').save(text, { resumable: false });
	let job = await ai.batches.create({
		model: MODEL, src: 'gs://test-bucket/in/p1.jsonl',
		config: { displayName: 'v-1', dest: 'gs://test-bucket/out/v-1' },
	});
	same('Vertex job: created', [job.state, job.displayName], ['JOB_STATE_PENDING', 'v-1']);
	job = await settled(ai, job);
	same('Vertex job: succeeded', [job.state, job.completionStats?.successfulCount], ['JOB_STATE_SUCCEEDED', '30']);
	const [objects] = await bucket.getFiles({ prefix: 'out/v-1/' });
	check('Vertex job: one object', objects.length === 1 &&
		/^out\/v-1\/prediction-model-[^/]+\/predictions\.jsonl$/.test(objects[0].name), objects.map((o) => o.name));
	const rows = (await objects[0].download())[0].toString().trimEnd().split('\n').map((l) => JSON.parse(l));
	same('Vertex job: the request comes back', rows.every((r) => r.status === '' &&
		r.request.contents[0].parts[0].text === r.response.candidates[0].content.parts[0].text &&
		r.request.contents[0].parts[0].text.endsWith(r.request.labels.rk.slice(1).replace('-', ''))), true);
	same('Vertex job: with nulls', rows[0].request.contents[0].parts[0].fileData, null);
	const seen = [];
	for await (const j of await ai.batches.list())
		seen.push(j.displayName);
	same('Vertex job: list', seen, ['v-1']);
	await ai.batches.delete({ name: job.name });
	await refuses('Vertex job: deleted', () => ai.batches.get({ name: job.name }), status, [true, 404]);
}

await judge([geminiOnline, vertexOnline, files, batches, batchEnds, vertexBatch]);
