/*
 * aiplatform_client.mjs
 *		The JobServiceClient of @google-cloud/aiplatform, over REST: its protos
 *		refuse what is not a BatchPredictionJob.
 */
import { JobServiceClient } from '@google-cloud/aiplatform';
import { Storage } from '@google-cloud/storage';
import { base, check, control, judge, refuses, same, serviceAccount, until } from './judge.mjs';

const parent = 'projects/test-project/locations/us-central1';
const address = new URL(base);

function client(more = {}) {
	return new JobServiceClient({
		fallback: true, apiEndpoint: address.hostname, port: Number(address.port), protocol: 'http',
		authClient: serviceAccount(), projectId: 'test-project', ...more,
	});
}

const jobs = client();
const noRetry = { retry: null };
const status = (e) => e.code;

function bucket() {
	return new Storage({ projectId: 'test-project', apiEndpoint: base, useAuthWithCustomEndpoint: true,
		authClient: serviceAccount() }).bucket('test-bucket');
}

const request = (text, more = {}) => ({
	request: { contents: [{ role: 'user', parts: [{ text }] }], ...more },
});

async function input(lines, name = 'in/a.jsonl') {
	await bucket().file(name).save(lines.map((l) => typeof l === 'string' ? l : JSON.stringify(l)).join('\n'),
		{ resumable: false });
}

const numbers = (n) => Array.from({ length: n }, (_, i) => request(`Say the number ${i}`));

function job(more = {}) {
	return {
		displayName: 'job-1', model: 'publishers/google/models/gemini-3.5-flash',
		inputConfig: { instancesFormat: 'jsonl', gcsSource: { uris: ['gs://test-bucket/in/a.jsonl'] } },
		outputConfig: { predictionsFormat: 'jsonl', gcsDestination: { outputUriPrefix: 'gs://test-bucket/out' } },
		labels: { part: '7' }, ...more,
	};
}

async function create(more = {}) {
	return (await jobs.createBatchPredictionJob({ parent, batchPredictionJob: job(more) }, noRetry))[0];
}

const get = async (name) => (await jobs.getBatchPredictionJob({ name }))[0];
const settled = (j) => until(() => get(j.name), (x) => /SUCCEEDED|FAILED|CANCELLED|EXPIRED/.test(x.state));

/* The lines of all objects of the job's directory, and how many objects there are. */
async function results(j) {
	const prefix = j.outputInfo.gcsOutputDirectory.replace('gs://test-bucket/', '');
	const [objects] = await bucket().getFiles({ prefix: `${prefix}/` });
	const rows = [];

	for (const o of objects) {
		const text = (await o.download())[0].toString();

		rows.push(...text.split('\n').filter((l) => l !== '').map((l) => JSON.parse(l)));
	}
	return { rows, objects: objects.length };
}

async function life() {
	await input(numbers(60));
	await control('POST', 'settings', { queue_ms: 60, output_files: 3 });
	const made = await create();
	const seen = [made.state];

	check('job: name', /^projects\/\d+\/locations\/us-central1\/batchPredictionJobs\/\d{19}$/.test(made.name), made.name);
	same('job: what was asked', [made.displayName, made.labels, made.inputConfig.gcsSource.uris],
		['job-1', { part: '7' }, ['gs://test-bucket/in/a.jsonl']]);
	const done = await until(() => get(made.name), (x) => {
		if (seen.at(-1) !== x.state)
			seen.push(x.state);
		return x.state === 'JOB_STATE_SUCCEEDED';
	});
	same('job: states', seen, ['JOB_STATE_QUEUED', 'JOB_STATE_PENDING', 'JOB_STATE_RUNNING', 'JOB_STATE_SUCCEEDED']);
	same('job: counts', [done.completionStats.successfulCount, done.error], ['60', null]);
	check('job: times', Number(done.createTime.seconds) <= Number(done.endTime.seconds));
	const { rows, objects } = await results(done);
	same('job: over several objects', objects, 3);
	same('job: each row once', new Set(rows.map((r) => r.request.contents[0].parts[0].text)).size, 60);
	const [operation] = await jobs.deleteBatchPredictionJob({ name: made.name });
	await operation.promise();
	await refuses('job: deleted', () => get(made.name), status, 5);
}

async function refused() {
	const invalid = 3;
	const cases = {
		'no display name': { displayName: '' },
		'a long display name': { displayName: 'x'.repeat(129) },
		'a bare model': { model: 'gemini-3.5-flash' },
		'another format': { inputConfig: { instancesFormat: 'csv', gcsSource: { uris: ['gs://b/x'] } } },
		'no gs://': { inputConfig: { instancesFormat: 'jsonl', gcsSource: { uris: ['https://x/y'] } } },
		'a label in capitals': { labels: { Part: 'x' } },
	};

	for (const [name, more] of Object.entries(cases))
		await refuses(`refused: ${name}`, () => create(more), status, invalid);
	await refuses('refused: unknown model', () => create({ model: 'publishers/google/models/gemini-0' }), status, 5);
	await refuses('refused: another project', () => jobs.createBatchPredictionJob(
		{ parent: 'projects/other/locations/us-central1', batchPredictionJob: job() }, noRetry), status, 7);
	await control('POST', 'faults', { match: { method: 'POST', path: '*/batchPredictionJobs' }, status: 429, times: 1 });
	await refuses('refused: quota', () => create(), status, 8);
	const r = await fetch(`${base}/v1/${parent}/batchPredictionJobs`, { headers: { authorization: 'Bearer x' } });
	same('refused: a bad token', [r.status, (await r.json()).error.status], [401, 'UNAUTHENTICATED']);
}

async function lists() {
	await input(numbers(1));
	for (let i = 0; i < 5; i++)
		await create({ displayName: `token-${i}`, labels: { odd: String(i % 2) } });
	const list = async (filter, pageSize) => {
		const [found] = await jobs.listBatchPredictionJobs({ parent, filter, pageSize });

		return found.map((j) => j.displayName);
	};

	same('list: newest first, over pages', await list('', 2), ['token-4', 'token-3', 'token-2', 'token-1', 'token-0']);
	same('list: by display name', await list('display_name="token-3"'), ['token-3']);
	same('list: by pattern', (await list('display_name:"token-*"')).length, 5);
	same('list: by label and name', await list('labels.odd="1" AND display_name!="token-3"'), ['token-1']);
	same('list: by state', await list('state="JOB_STATE_PAUSED"'), []);
	await refuses('list: a malformed filter', () => list('display_name'), status, 3);
	const [other] = await jobs.listBatchPredictionJobs({ parent: parent.replace('us-central1', 'global') });
	same('list: another location', other, []);
}

async function failures() {
	const failed = async (more, lines) => {
		if (lines)
			await input(lines);
		const j = await settled(await create(more));

		return [j.state, j.error?.code, j.outputInfo];
	};

	same('fails: no input', await failed({ inputConfig: { instancesFormat: 'jsonl',
		gcsSource: { uris: ['gs://test-bucket/none'] } } }), ['JOB_STATE_FAILED', 5, null]);
	same('fails: not JSON', await failed({}, ['{']), ['JOB_STATE_FAILED', 3, null]);
	same('fails: another member', await failed({}, [{ ...request('x'), key: '1' }]), ['JOB_STATE_FAILED', 13, null]);
	await control('POST', 'settings', { vertex_rows: 3 });
	same('fails: too many rows', await failed({}, numbers(4)), ['JOB_STATE_FAILED', 3, null]);
	await control('POST', 'settings', { vertex_rows: 200000, extra_field: 2 });
	await input([{ ...request('x'), key: 'k-1' }]);
	same('the other member comes back', (await results(await settled(await create()))).rows[0].key, 'k-1');
}

async function rows() {
	await input([request('fine'), { request: { contents: [{ parts: [{ text: 'no role' }] }] } },
		request('unknown', { generationConfig: { tempreature: 1 } }), request('blocked'), request('busy'),
		request('cut', { generationConfig: { maxOutputTokens: 3 } })]);
	await control('POST', 'faults', [
		{ match: { prompt: 'blocked' }, row: { outcome: 'blocked' } },
		{ match: { prompt: 'busy' }, row: { outcome: 'http_error', status: 429, message: 'later' } },
	]);
	const done = await settled(await create());
	const found = (await results(done)).rows;
	const row = (text) => found.find((r) => r.request.contents[0].parts[0].text === text);
	const error = (r) => JSON.parse(r.status.slice(r.status.indexOf('{'))).error;

	same('rows: counts', [done.state, done.completionStats.successfulCount, done.completionStats.failedCount],
		['JOB_STATE_SUCCEEDED', '3', '3']);
	same('rows: fine', [row('fine').status, row('fine').response.candidates[0].finishReason], ['', 'STOP']);
	same('rows: no role', [error(row('no role')).message, row('no role').response],
		['Please use a valid role: user, model.', {}]);
	same('rows: unknown field', [row('unknown').status.startsWith('Bad Request: {'),
		error(row('unknown')).status], [true, 'INVALID_ARGUMENT']);
	same('rows: blocked', [row('blocked').status, row('blocked').response.candidates,
		row('blocked').response.promptFeedback.blockReason], ['', undefined, 'PROHIBITED_CONTENT']);
	same('rows: busy', [error(row('busy')).code, error(row('busy')).status], [429, 'RESOURCE_EXHAUSTED']);
	same('rows: cut', row('cut').response.candidates[0].finishReason, 'MAX_TOKENS');
}

async function ends() {
	await input(numbers(50));
	await control('POST', 'settings', { run_ms: 600 });
	let j = await create();
	await refuses('delete: only when finished', () => jobs.deleteBatchPredictionJob({ name: j.name }), status, 9);
	await until(() => get(j.name), (x) => x.state === 'JOB_STATE_RUNNING');
	await new Promise((resolve) => setTimeout(resolve, 200));
	await jobs.cancelBatchPredictionJob({ name: j.name });
	j = await settled(j);
	const part = (await results(j)).rows.length;
	check('cancelled: what is finished is there', j.state === 'JOB_STATE_CANCELLED' && part > 0 && part < 50, part);
	same('cancelled: counts', [Number(j.completionStats.successfulCount) === part,
		Number(j.completionStats.incompleteCount) === 50 - part], [true, true]);
	same('cancelled: error', j.error.code, 1);
	await refuses('cancel: too late', () => jobs.cancelBatchPredictionJob({ name: j.name }), status, 9);
	await control('POST', 'settings', { run_ms: 60 });
	for (const state of ['EXPIRED', 'FAILED', 'PARTIALLY_SUCCEEDED']) {
		await control('POST', 'faults', { batch: { state: `JOB_STATE_${state}`, fraction: 0.4 }, times: 1 });
		j = await settled(await create());
		same(`ends: ${state}`, [j.state, (await results(j)).rows.length], [`JOB_STATE_${state}`, 20]);
	}
	for (const state of ['QUEUED', 'PAUSED', 'UPDATING', 'UNSPECIFIED']) {
		await control('POST', 'faults', { batch: { show_state: `JOB_STATE_${state}`, show_ms: 60000 }, times: 1 });
		same(`shows: ${state}`, (await create()).state, `JOB_STATE_${state}`);
	}
	await control('POST', 'faults/clear');
	await control('POST', 'faults', { batch: { output_info: 'absent' }, times: 1 });
	same('ends: without outputInfo', (await settled(await create())).outputInfo, null);
}

await judge([life, refused, lists, failures, rows, ends]);
