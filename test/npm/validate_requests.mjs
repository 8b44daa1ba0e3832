/*
 * validate_requests.mjs
 *		Holds recorded requests against OpenAI's own description of its API.
 *
 * usage: node validate_requests.mjs OPENAPI.json FILE...
 *        node validate_requests.mjs OPENAPI.json --self-test
 *
 * A FILE is what GET /_sim/requests of the simulator returned, or, when its
 * name ends in .jsonl, the lines of a batch.  "-" reads the former from stdin.
 * Exit status: 0 all valid, 1 violations (listed on stdout), 2 bad usage.
 *
 * The document allows unknown fields nearly everywhere, the service does not:
 * so a field that no schema of a body knows is a violation too.
 */
import { readFileSync } from 'node:fs';
import Ajv2020 from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';

const [document, ...inputs] = process.argv.slice(2);

if (document === undefined || inputs.length === 0) {
	console.error('usage: node validate_requests.mjs OPENAPI.json FILE... | --self-test');
	process.exit(2);
}

const api = JSON.parse(readFileSync(document, 'utf8'));
const ajv = new Ajv2020({ strict: false, allErrors: true, discriminator: false });
const violations = [];
let checked = 0;

addFormats(ajv);
ajv.addFormat('unixtime', true);
ajv.addFormat('binary', true);

/* OpenAPI 3.0's "nullable", which the document still uses in places. */
function modernise(node) {
	if (Array.isArray(node)) {
		node.forEach(modernise);
		return;
	}
	if (node === null || typeof node !== 'object')
		return;
	Object.values(node).forEach(modernise);
	if (node.nullable === true && typeof node.type === 'string')
		node.type = [node.type, 'null'];
	if (node.nullable === true && Array.isArray(node.enum) && !node.enum.includes(null))
		node.enum.push(null);
}

modernise(api.components.schemas);
ajv.addSchema({ $id: 'api', components: api.components });

const validators = new Map();

function validator(name) {
	if (!validators.has(name))
		validators.set(name, ajv.compile({ $ref: `api#/components/schemas/${name}` }));
	return validators.get(name);
}

function resolve(schema) {
	while (schema?.$ref !== undefined)
		schema = api.components.schemas[schema.$ref.split('/').pop()];
	return schema;
}

/* All property names that the schema knows at its top. */
function fieldsOf(schema, into = new Set()) {
	schema = resolve(schema);
	for (const part of [...(schema.allOf ?? []), ...(schema.anyOf ?? []), ...(schema.oneOf ?? [])])
		fieldsOf(part, into);
	for (const name of Object.keys(schema.properties ?? {}))
		into.add(name);
	return into;
}

function report(where, what) {
	violations.push(`${where}: ${what}`);
}

/* A short account of ajv's errors: those of the deepest place say most. */
function explain(errors) {
	const depth = (e) => e.instancePath.split('/').length;
	const deepest = Math.max(...errors.map(depth));
	const texts = errors.filter((e) => depth(e) === deepest)
		.map((e) => `${e.instancePath || '/'} ${e.message}`);

	return [...new Set(texts)].slice(0, 4).join('; ');
}

function checkBody(where, name, body) {
	const validate = validator(name);
	const known = fieldsOf({ $ref: `#/components/schemas/${name}` });

	if (!validate(body))
		report(where, explain(validate.errors));
	for (const field of Object.keys(body ?? {})) {
		if (!known.has(field))
			report(where, `/${field} is no field of ${name}`);
	}
}

/* The operation of the document for a method and path, with path parameters. */
function operation(method, path) {
	const parts = path.replace(/^\/v1/, '').split('/');

	for (const [template, item] of Object.entries(api.paths)) {
		const t = template.split('/');

		if (t.length === parts.length && t.every((p, i) => p.startsWith('{') || p === parts[i]))
			return item[method.toLowerCase()];
	}
	return undefined;
}

function checkQuery(where, op, query) {
	const known = new Map((op.parameters ?? []).filter((p) => p.in === 'query')
		.map((p) => [p.name, resolve(p.schema)]));

	for (const [name, value] of new URLSearchParams(query)) {
		const schema = known.get(name);

		if (schema === undefined)
			report(where, `no query parameter "${name}"`);
		else if (schema.type === 'integer' && !/^\d+$/.test(value))
			report(where, `query parameter "${name}" is no integer: "${value}"`);
		else if (schema.enum !== undefined && !schema.enum.includes(value))
			report(where, `query parameter "${name}" must not be "${value}"`);
	}
}

function checkUpload(where, upload) {
	const { file, ...fields } = upload ?? {};
	const body = { file: 'x', ...fields };

	if (file?.filename === undefined)
		report(where, 'no part "file" with a file name');
	if (body['expires_after[anchor]'] !== undefined || body['expires_after[seconds]'] !== undefined) {
		body.expires_after = { anchor: body['expires_after[anchor]'],
			seconds: Number(body['expires_after[seconds]']) };
		delete body['expires_after[anchor]'];
		delete body['expires_after[seconds]'];
	}
	checkBody(where, 'CreateFileRequest', body);
	if (body.purpose === 'batch' && !file?.filename?.endsWith('.jsonl'))
		report(where, 'the file name of a batch must end in .jsonl');
}

function parse(where, text) {
	try {
		return JSON.parse(text);
	} catch (e) {
		report(where, `not JSON: ${e.message}`);
		return undefined;
	}
}

function checkRequest(request) {
	const where = `request ${request.seq}, ${request.method} ${request.path}`;
	const op = operation(request.method, request.path);
	const type = Object.entries(request.headers ?? {})
		.find(([name]) => name.toLowerCase() === 'content-type')?.[1] ?? '';
	const content = op?.requestBody?.content ?? {};

	checked++;
	if (op === undefined) {
		report(where, 'the API has no such operation');
		return;
	}
	checkQuery(where, op, request.query ?? '');
	if (content['multipart/form-data'] !== undefined) {
		if (!/^multipart\/form-data; ?boundary=/.test(type))
			report(where, `content type "${type}"`);
		checkUpload(where, request.upload);
	} else if (content['application/json'] !== undefined) {
		if (!type.startsWith('application/json'))
			report(where, `content type "${type}"`);
		if (request.body_cut) {
			report(where, 'the recorded body is cut, raise record_body');
			return;
		}
		const body = parse(where, request.body ?? '');

		if (body !== undefined)
			checkBody(where, content['application/json'].schema.$ref.split('/').pop(), body);
	} else if (request.bytes > 0)
		report(where, 'no body is expected');
}

const endpoints = {
	'/v1/chat/completions': 'CreateChatCompletionRequest', '/v1/responses': 'CreateResponse',
};

/* The lines of a batch's input file. */
function checkLines(name, text) {
	const ids = new Set();
	const models = new Set();

	if (!text.endsWith('\n'))
		report(name, 'the last line does not end');
	text.split('\n').slice(0, -1).forEach((l, i) => {
		const where = `${name}, line ${i + 1}`;
		const line = parse(where, l);

		checked++;
		if (line === undefined)
			return;
		for (const key of Object.keys(line)) {
			if (!['custom_id', 'method', 'url', 'body'].includes(key))
				report(where, `/${key} is no field of a line`);
		}
		if (typeof line.custom_id !== 'string' || ids.has(line.custom_id))
			report(where, `custom_id missing or not unique: ${line.custom_id}`);
		ids.add(line.custom_id);
		models.add(line.body?.model);
		if (line.method !== 'POST' || endpoints[line.url] === undefined)
			report(where, `method or url: ${line.method} ${line.url}`);
		else
			checkBody(where, endpoints[line.url], line.body);
		if (line.body?.stream)
			report(where, 'stream');
	});
	if (models.size > 1)
		report(name, `several models: ${[...models].join(', ')}`);
}

function checkFile(name) {
	const text = readFileSync(name === '-' ? 0 : name, 'utf8');

	if (name.endsWith('.jsonl')) {
		checkLines(name, text);
		return;
	}
	const recorded = JSON.parse(text);
	const list = Array.isArray(recorded) ? recorded : recorded.requests;

	if (recorded.has_more || recorded.forgotten > 0)
		report(name, 'the record is not complete');
	list.filter((r) => !r.path.startsWith('/_sim/')).forEach(checkRequest);
}

/* Good requests must pass, and each spoilt one must not. */
function selfTest() {
	const headers = { 'Content-Type': 'application/json' };
	const chat = { model: 'gpt-6-luna', messages: [{ role: 'system', content: 'a' },
		{ role: 'user', content: 'b' }], max_completion_tokens: 9, reasoning_effort: 'none',
	response_format: { type: 'json_schema', json_schema: { name: 'x', strict: true, schema: {} } } };
	const request = (path, body, more = {}) => ({ seq: 1, method: 'POST', path, headers,
		bytes: 1, body: JSON.stringify(body), body_cut: false, ...more });
	const post = (body) => () => checkRequest(request('/v1/chat/completions', body));
	const batch = { input_file_id: 'file-1', endpoint: '/v1/chat/completions',
		completion_window: '24h', metadata: { job: '1' } };
	const upload = (fields) => () => checkRequest({ ...request('/v1/files', null), headers:
		{ 'content-type': 'multipart/form-data; boundary=x' }, body: null, upload: fields });
	const line = (more) => () => checkLines('lines', JSON.stringify({ custom_id: 'a',
		method: 'POST', url: '/v1/chat/completions', body: chat, ...more }) + '\n');
	const response = { model: 'o3', input: 'x', store: false, max_output_tokens: 20,
		reasoning: { effort: 'low' }, instructions: 'y',
		text: { format: { type: 'json_schema', name: 'n', strict: true, schema: {} } } };
	const cases = [
		[true, post(chat)], [true, () => checkRequest(request('/v1/batches', batch))],
		[true, () => checkRequest(request('/v1/responses', response))],
		[true, upload({ purpose: 'batch', file: { filename: 'a.jsonl' },
			'expires_after[anchor]': 'created_at', 'expires_after[seconds]': '3600' })],
		[true, line({})],
		[true, () => checkRequest({ seq: 1, method: 'GET', path: '/v1/batches', query: 'limit=100&after=x', bytes: 0 })],
		[false, post({ ...chat, messages: 'b' })], [false, post({ ...chat, model: undefined })],
		[false, post({ ...chat, reasoning_effort: 'extreme' })],
		[false, post({ ...chat, max_output_tokens: 3 })],
		[false, post({ ...chat, temperature: 3 })],
		[false, post({ ...chat, messages: [{ role: 'boss', content: 'x' }] })],
		[false, post({ ...chat, response_format: { type: 'json_schema' } })],
		[false, () => checkRequest(request('/v1/responses', { ...response, messages: [] }))],
		[false, () => checkRequest(request('/v1/responses', { ...response, reasoning: { effort: 7 } }))],
		[false, () => checkRequest(request('/v1/batches', { ...batch, completion_window: '48h' }))],
		[false, () => checkRequest(request('/v1/batches', { ...batch, endpoint: '/chat' }))],
		[false, () => checkRequest(request('/v1/batches', { ...batch, metadata: { a: 1 } }))],
		[false, () => checkRequest(request('/v1/batches', batch, { headers: {} }))],
		[false, () => checkRequest(request('/v1/batch', batch))],
		[false, upload({ purpose: 'batches', file: { filename: 'a.jsonl' } })],
		[false, upload({ purpose: 'batch', file: { filename: 'a.json' } })],
		[false, upload({ purpose: 'batch' })], [false, line({ url: '/v1/embeddings' })],
		[false, line({ custom_id: 7 })], [false, line({ body: { ...chat, n: 'two' } })],
		[false, line({ extra: 1 })],
		[false, () => checkRequest({ seq: 1, method: 'GET', path: '/v1/batches', query: 'limit=x', bytes: 0 })],
		[false, () => checkRequest({ seq: 1, method: 'GET', path: '/v1/files', query: 'order=up', bytes: 0 })],
	];
	let wrong = 0;

	cases.forEach(([good, run], i) => {
		violations.length = 0;
		run();
		if ((violations.length === 0) !== good) {
			console.log(`self-test ${i + 1}: ${good ? 'refused' : 'accepted'} ${violations.join(' | ')}`);
			wrong++;
		}
	});
	console.log(`self-test: ${cases.length - wrong} of ${cases.length} as expected`);
	process.exit(wrong ? 1 : 0);
}

if (inputs[0] === '--self-test')
	selfTest();
inputs.forEach(checkFile);
violations.slice(0, 100).forEach((v) => console.log(v));
console.log(`${checked} checked, ${violations.length} violations`);
process.exit(violations.length ? 1 : 0);
