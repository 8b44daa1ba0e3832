/*
 * openai_client.mjs
 *		The official client of OpenAI goes through everything that we use.
 *
 * It is the judge of the simulator: what the client's types and error classes
 * make of the replies is not up to us.  Usage: node openai_client.mjs URL
 * Prints one line per check, "ok NAME" or "not ok NAME: WHY", and "done N".
 */
import OpenAI, { toFile } from 'openai';

const base = process.argv[2];
let checks = 0;
let failed = 0;

function check(name, condition, why = '') {
	checks++;
	if (!condition)
		failed++;
	console.log(condition ? `ok ${name}` : `not ok ${name}: ${why}`);
}

function same(name, got, expected) {
	check(name, JSON.stringify(got) === JSON.stringify(expected),
		`got ${JSON.stringify(got)}, expected ${JSON.stringify(expected)}`);
}

/* The call must fail with this class of the client, status, code and param. */
async function refuses(name, call, cls, status, code, param) {
	try {
		await call();
		check(name, false, 'it was accepted');
	} catch (e) {
		check(`${name}: class`, e instanceof cls, `${e.constructor.name}: ${e.message}`);
		same(`${name}: status, code, param`, [e.status, e.code, e.param], [status, code, param]);
		check(`${name}: request id`, typeof e.requestID === 'string' && e.requestID.startsWith('req_'));
	}
}

function client(key = 'test-key', options = {}) {
	return new OpenAI({ apiKey: key, baseURL: `${base}/v1`, maxRetries: 0, ...options });
}

async function control(method, path, body) {
	const r = await fetch(`${base}/_sim/${path}`, { method, body: body && JSON.stringify(body) });
	const json = await r.json();

	if (!r.ok)
		throw new Error(`${path}: ${JSON.stringify(json)}`);
	return json;
}

const openai = client();
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function line(i, extra = {}, model = 'gpt-5.4-nano') {
	return JSON.stringify({
		custom_id: `row-${i}`, method: 'POST', url: '/v1/chat/completions',
		body: { model, messages: [{ role: 'user', content: `Say the number ${i}` }], ...extra },
	});
}

async function upload(lines, name = 'in.jsonl') {
	return openai.files.create({
		file: await toFile(Buffer.from(lines.join('\n') + '\n'), name), purpose: 'batch',
	});
}

async function create(file, extra = {}) {
	return openai.batches.create({
		input_file_id: file.id, endpoint: '/v1/chat/completions', completion_window: '24h', ...extra,
	});
}

async function settled(batch) {
	const seen = [batch.status];

	for (let i = 0; i < 500; i++) {
		batch = await openai.batches.retrieve(batch.id);
		if (seen.at(-1) !== batch.status)
			seen.push(batch.status);
		if (['completed', 'failed', 'expired', 'cancelled'].includes(batch.status))
			break;
		await sleep(20);
	}
	return { batch, seen };
}

async function readLines(id) {
	const text = await (await openai.files.content(id)).text();

	return text.split('\n').filter((l) => l !== '').map((l) => JSON.parse(l));
}

async function files() {
	const file = await upload([line(1)]);

	same('file: object, purpose, name', [file.object, file.purpose, file.filename],
		['file', 'batch', 'in.jsonl']);
	same('file: bytes', file.bytes, Buffer.byteLength(line(1)) + 1);
	same('file: expires after 30 days', file.expires_at - file.created_at, 30 * 86400);
	same('file: wait for processing', (await openai.files.waitForProcessing(file.id)).status,
		'processed');
	same('file: content is what was sent', await (await openai.files.content(file.id)).text(),
		line(1) + '\n');

	const ids = [file.id];
	for (let i = 0; i < 4; i++)
		ids.unshift((await upload([line(i)])).id);
	const listed = [];
	for await (const f of openai.files.list({ limit: 2, purpose: 'batch' }))
		listed.push(f.id);
	same('files: listed page by page, newest first', listed, ids);
	const oldest = await openai.files.list({ limit: 1, order: 'asc' });
	same('files: oldest first', [oldest.data[0].id, oldest.has_more], [file.id, true]);

	const gone = await openai.files.delete(file.id);
	same('file: deleted', gone, { object: 'file', deleted: true, id: file.id });
	await refuses('file: read after delete', () => openai.files.retrieve(file.id),
		OpenAI.NotFoundError, 404, null, 'id');
	await refuses('file: content after delete', () => openai.files.content(file.id),
		OpenAI.NotFoundError, 404, null, 'id');
	await refuses('file: not .jsonl', () => upload([line(1)], 'in.txt'), OpenAI.BadRequestError,
		400, null, 'file');

	const short = await openai.files.create({
		file: await toFile(Buffer.from('x'), 'a.jsonl'), purpose: 'batch',
		expires_after: { anchor: 'created_at', seconds: 3600 },
	});
	same('file: expires_after', short.expires_at - short.created_at, 3600);
}

async function batchRound() {
	const file = await upload([line(1), line(2), line(3, { temperatur: 1 }), line(4)]);
	const created = await create(file, { metadata: { job: '7', part: '1' } });

	same('batch: at first', [created.object, created.status, created.input_file_id,
		created.output_file_id, created.errors, created.metadata],
	['batch', 'validating', file.id, null, null, { job: '7', part: '1' }]);
	same('batch: expires after a day', created.expires_at - created.created_at, 86400);

	const { batch, seen } = await settled(created);
	same('batch: states', seen, ['validating', 'in_progress', 'finalizing', 'completed']);
	same('batch: counts', batch.request_counts, { total: 4, completed: 3, failed: 1 });
	check('batch: times in order', batch.created_at <= batch.in_progress_at &&
		batch.in_progress_at <= batch.finalizing_at && batch.finalizing_at <= batch.completed_at);

	const out = await readLines(batch.output_file_id);
	same('batch: output ids', out.map((l) => l.custom_id).sort(), ['row-1', 'row-2', 'row-4']);
	check('batch: output bodies', out.every((l) => l.error === null &&
		l.response.status_code === 200 && l.response.body.object === 'chat.completion' &&
		l.response.body.choices[0].finish_reason === 'stop'));
	same('batch: usage is the sum of the rows',
		[batch.usage.input_tokens, batch.usage.output_tokens, batch.usage.total_tokens],
		['prompt_tokens', 'completion_tokens', 'total_tokens'].map((k) =>
			out.reduce((n, l) => n + l.response.body.usage[k], 0)));
	const err = await readLines(batch.error_file_id);
	same('batch: the failed row', [err.length, err[0].custom_id, err[0].error,
		err[0].response.status_code, err[0].response.body.error.code,
		err[0].response.body.error.param],
	[1, 'row-3', null, 400, 'unknown_parameter', 'temperatur']);

	const many = await settled(await create(await upload(
		Array.from({ length: 300 }, (_, i) => line(i)))));
	const order = (await readLines(many.batch.output_file_id)).map((l) => Number(l.custom_id.slice(4)));
	check('batch: output is not in the order of the input',
		order.length === 300 && order.some((n, i) => n !== i));
	same('batch: no error file without errors', many.batch.error_file_id, null);
	const bad = await settled(await create(await upload([line(1, { max_tokens: 5 })])));
	same('batch: all failed', [bad.batch.status, bad.batch.output_file_id,
		bad.batch.request_counts], ['completed', null, { total: 1, completed: 0, failed: 1 }]);
}

async function batchFailures() {
	const cases = [
		['duplicate_custom_id', [line(1), line(1)], 2],
		['invalid_json_line', [line(1), '{"custom_id":'], 2],
		['mismatched_model', [line(1), line(2, {}, 'gpt-4o')], 2],
		['model_not_found', [line(1, {}, 'gpt-no')], 1],
		['invalid_url', [line(1).replace('/v1/chat/completions', '/v1/responses')], 1],
		['invalid_method', [line(1).replace('"POST"', '"GET"')], 1],
	];

	for (const [code, lines, at] of cases) {
		const { batch, seen } = await settled(await create(await upload(lines)));

		same(`batch: ${code}`, [seen, batch.errors.data[0].code, batch.errors.data[0].line,
			batch.output_file_id], [['validating', 'failed'], code, at, null]);
	}
	const { batch } = await settled(await create(await upload([''])));
	same('batch: empty file', batch.errors?.data[0].code, 'empty_file');

	const file = await upload([line(1)]);
	await refuses('batch: no such file', () => create({ id: 'file-none' }), OpenAI.NotFoundError,
		404, null, 'id');
	await refuses('batch: window', () => create(file, { completion_window: '48h' }),
		OpenAI.BadRequestError, 400, 'invalid_value', 'completion_window');
	await refuses('batch: endpoint', () => create(file, { endpoint: '/v1/nothing' }),
		OpenAI.BadRequestError, 400, 'invalid_value', 'endpoint');
	await refuses('batch: metadata', () => create(file, { metadata: { k: 'x'.repeat(513) } }),
		OpenAI.BadRequestError, 400, 'string_above_max_length', 'metadata.k');
	await refuses('batch: unknown id', () => openai.batches.retrieve('batch_none'),
		OpenAI.NotFoundError, 404, null, null);
}

async function batchCancelAndList() {
	await control('POST', 'settings', { run_ms: 5000, cancel_ms: 100 });
	const running = await create(await upload(Array.from({ length: 500 }, (_, i) => line(i))));
	let now = running;

	while (now.status !== 'in_progress' || now.request_counts.completed < 20)
		now = await openai.batches.retrieve(running.id);
	const cancelling = await openai.batches.cancel(running.id);
	same('cancel: at once', cancelling.status, 'cancelling');
	const { batch } = await settled(cancelling);
	const out = await readLines(batch.output_file_id);
	const err = await readLines(batch.error_file_id);
	same('cancel: finished and unfinished rows', [batch.status, out.length + err.length,
		out.length === batch.request_counts.completed, err[0].error.code, err[0].response],
	['cancelled', 500, true, 'batch_cancelled', null]);
	await refuses('cancel: again', () => openai.batches.cancel(running.id), OpenAI.ConflictError,
		409, null, null);
	await control('POST', 'settings', { batch_ms: 50 });

	const all = [];
	for await (const b of openai.batches.list({ limit: 3 }))
		all.push(b.id);
	same('batches: listed page by page, newest first', [all[0], new Set(all).size],
		[running.id, all.length]);
	check('batches: more than one page', all.length > 6);
	await refuses('batches: limit', () => openai.batches.list({ limit: 101 }),
		OpenAI.BadRequestError, 400, 'integer_above_max_value', 'limit');
}

async function batchOrders() {
	await control('POST', 'faults', [
		{ times: 1, batch: { state: 'expired', fraction: 0.6 } },
		{ times: 1, batch: { state: 'failed', code: 'token_limit_exceeded' } },
		{ match: { custom_id: 'row-7' }, row: { outcome: 'http_error', status: 500, code: 'server_error' } },
	]);
	const file = await upload(Array.from({ length: 10 }, (_, i) => line(i)));
	const expired = (await settled(await create(file))).batch;
	const err = await readLines(expired.error_file_id);

	same('expired: counts and files', [expired.status, expired.request_counts.total,
		expired.request_counts.completed + expired.request_counts.failed,
		err.filter((l) => l.error?.code === 'batch_expired').length],
	['expired', 10, 6, 4]);
	const failed = (await settled(await create(file))).batch;
	same('failed: token limit', [failed.status, failed.errors.data[0].code],
		['failed', 'token_limit_exceeded']);
	const rest = (await settled(await create(file))).batch;
	const one = await readLines(rest.error_file_id);
	same('row: http error', [one[0].custom_id, one[0].response.status_code,
		one[0].response.body.error.code], ['row-7', 500, 'server_error']);
	await control('DELETE', 'faults');
}

async function inference() {
	const messages = [{ role: 'user', content: 'Say hello to the world' }];
	const chat = await openai.chat.completions.create({ model: 'gpt-4o-mini', messages });

	same('chat: answer', [chat.object, chat.choices[0].message.role,
		chat.choices[0].message.content, chat.choices[0].finish_reason],
	['chat.completion', 'assistant', 'Say hello to the world', 'stop']);
	same('chat: usage', [chat.usage.prompt_tokens, chat.usage.completion_tokens], [6, 6]);
	check('chat: request id', chat._request_id?.startsWith('req_'));

	const { response } = await openai.chat.completions.create({ model: 'o3', messages }).withResponse();
	check('chat: rate limit headers', ['limit-requests', 'limit-tokens', 'remaining-requests',
		'remaining-tokens', 'reset-requests', 'reset-tokens'].every((h) =>
		response.headers.get(`x-ratelimit-${h}`) !== null));
	const small = await openai.chat.completions.create({ model: 'o3', messages, max_completion_tokens: 20 });
	same('chat: reasoning eats the limit', [small.choices[0].finish_reason,
		small.choices[0].message.content, small.usage.completion_tokens_details.reasoning_tokens],
	['length', '', 20]);

	const schema = { type: 'object', additionalProperties: false, required: ['label', 'n'],
		properties: { label: { type: 'string', enum: ['good', 'bad'] }, n: { type: 'integer' } } };
	const format = (s, name = 'row_v1') => ({ model: 'gpt-5.4-nano', messages:
		[{ role: 'user', content: 'It is bad, 12 times' }], response_format:
		{ type: 'json_schema', json_schema: { name, strict: true, schema: s } } });
	const parsed = JSON.parse((await openai.chat.completions.create(format(schema))).choices[0].message.content);
	same('chat: schema', parsed, { label: 'bad', n: 12 });
	await refuses('chat: schema not strict', () => openai.chat.completions.create(
		format({ ...schema, additionalProperties: true })), OpenAI.BadRequestError, 400, null,
	'response_format');
	await refuses('chat: schema property not required', () => openai.chat.completions.create(
		format({ ...schema, required: ['n'] })), OpenAI.BadRequestError, 400, null, 'response_format');
	await refuses('chat: schema name', () => openai.chat.completions.create(format(schema, 'a b')),
		OpenAI.BadRequestError, 400, 'invalid_value', 'response_format.json_schema.name');

	const response1 = await openai.responses.create({ model: 'gpt-5.4-nano', store: false,
		instructions: 'Echo.', input: 'one two three',
		text: { format: { type: 'json_schema', name: 'x', strict: true, schema } } });
	same('responses: status', [response1.object, response1.status], ['response', 'completed']);
	same('responses: output_text', JSON.parse(response1.output_text), { label: 'good', n: 0 });
	check('responses: usage', response1.usage.input_tokens > 0 && response1.usage.output_tokens > 0);
	const cut = await openai.responses.create({ model: 'o3', input: 'x', max_output_tokens: 16 });
	same('responses: incomplete', [cut.status, cut.incomplete_details.reason, cut.output_text],
		['incomplete', 'max_output_tokens', '']);
}

async function refusals() {
	const messages = [{ role: 'user', content: 'x' }];
	const chat = (body, c = openai) => () => c.chat.completions.create({ messages, ...body });

	await refuses('key: wrong', chat({ model: 'o3' }, client('wrong-key-0123456789')),
		OpenAI.AuthenticationError, 401, 'invalid_api_key', null);
	await refuses('model: unknown', chat({ model: 'gpt-none' }), OpenAI.NotFoundError, 404,
		'model_not_found', null);
	await refuses('messages: missing', chat({ model: 'o3', messages: undefined }),
		OpenAI.BadRequestError, 400, 'missing_required_parameter', 'messages');
	await refuses('max_tokens: reasoning model', chat({ model: 'o3', max_tokens: 5 }),
		OpenAI.BadRequestError, 400, 'unsupported_parameter', 'max_tokens');
	await refuses('temperature: reasoning model', chat({ model: 'gpt-5-nano', temperature: 0 }),
		OpenAI.BadRequestError, 400, 'unsupported_value', 'temperature');
	await refuses('effort: not of this model', chat({ model: 'o3', reasoning_effort: 'none' }),
		OpenAI.BadRequestError, 400, 'unsupported_value', 'reasoning_effort');
	await refuses('temperature: range', chat({ model: 'gpt-4o', temperature: 3 }),
		OpenAI.BadRequestError, 400, 'decimal_above_max_value', 'temperature');
	await refuses('field: unknown', chat({ model: 'gpt-4o', max_output_tokens: 3 }),
		OpenAI.BadRequestError, 400, 'unknown_parameter', 'max_output_tokens');
	same('temperature: with effort none', (await openai.chat.completions.create({ messages,
		model: 'gpt-5.4', reasoning_effort: 'none', temperature: 0 })).choices.length, 1);

	const file = await upload([line(1)]);
	await refuses('key: another one does not see the file',
		() => client('other-key').files.retrieve(file.id), OpenAI.NotFoundError, 404, null, 'id');
}

async function faults() {
	const messages = [{ role: 'user', content: 'x' }];
	const call = (retries) => client('test-key', { maxRetries: retries }).chat.completions
		.create({ model: 'gpt-4o', messages });

	await control('POST', 'faults', { times: 1, status: 429, headers: { 'retry-after-ms': '10' },
		match: { path: '/v1/chat/*' } });
	await refuses('fault: 429', () => call(0), OpenAI.RateLimitError, 429, 'rate_limit_exceeded', null);
	await control('DELETE', 'faults');
	await control('POST', 'faults', [{ times: 2, status: 503, headers: { 'retry-after-ms': 1 } },
		{ times: 1, drop: 'reset' }]);
	same('fault: the client retries 503 and a reset', (await call(4)).choices.length, 1);
	await control('POST', 'faults', { times: 1, drop_after: 20 });
	try {
		await call(0);
		check('fault: dropped body', false, 'it was accepted');
	} catch (e) {
		check('fault: dropped body', true);
	}
	await control('DELETE', 'faults');
	await control('POST', 'answers', { contains: 'order me', answer: { refusal: 'No.', finish_reason: 'stop' } });
	const refused = await openai.chat.completions.create({ model: 'gpt-4o',
		messages: [{ role: 'user', content: 'please order me' }] });
	same('answer: ordered refusal', [refused.choices[0].message.content,
		refused.choices[0].message.refusal], [null, 'No.']);
	await control('DELETE', 'answers');
}

async function models() {
	const ids = [];

	for await (const m of openai.models.list())
		ids.push(m.id);
	check('models: list', ['gpt-6-luna', 'gpt-6.1-sol', 'gpt-5.4-nano', 'gpt-4o-mini', 'o3']
		.every((id) => ids.includes(id)), ids.join(' '));
	same('models: one', (await openai.models.retrieve('o3')).object, 'model');
	await refuses('models: unknown', () => openai.models.retrieve('none'), OpenAI.NotFoundError,
		404, 'model_not_found', 'model');
}

for (const part of [files, batchRound, batchFailures, batchCancelAndList, batchOrders, inference,
	refusals, faults, models]) {
	try {
		await part();
	} catch (e) {
		check(part.name, false, String(e.stack ?? e).replaceAll('\n', ' | '));
	}
}
console.log(`done ${checks}`);
process.exit(failed ? 1 : 0);
