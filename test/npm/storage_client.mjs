/*
 * storage_client.mjs
 *		@google-cloud/storage uploads, lists, reads and deletes.
 */
import crypto from 'node:crypto';
import { Storage } from '@google-cloud/storage';
import { base, check, control, judge, refuses, same, serviceAccount } from './judge.mjs';

const MB = 1024 * 1024;

function storage(retries = 0) {
	return new Storage({
		projectId: 'test-project', apiEndpoint: base, useAuthWithCustomEndpoint: true,
		authClient: serviceAccount(),
		retryOptions: { autoRetry: retries > 0, maxRetries: retries, retryDelayMultiplier: 1,
			totalTimeout: 20, maxRetryDelay: 1 },
	});
}

/*
 * The client forgets its credentials when it starts a session at an address
 * that is not Google's, but not when it is asked for the session alone; what
 * follows needs none.
 */
async function saveResumable(file, data, options = {}) {
	const [uri] = await file.createResumableUpload({ preconditionOpts: { ifGenerationMatch: 0 } });

	return file.save(data, { resumable: true, uri, preconditionOpts: { ifGenerationMatch: 0 }, ...options });
}

const bucket = (name = 'test-bucket', retries = 0) => storage(retries).bucket(name);
const code = (e) => e.code ?? e.status;

async function simple() {
	const file = bucket().file('in/ä b+c.jsonl');
	const text = '{"a":1}\n{"b":"ü"}\n';

	await file.save(text, { resumable: false, contentType: 'application/jsonl', validation: 'crc32c',
		metadata: { metadata: { job: '7' } } });
	const [meta] = await file.getMetadata();
	same('multipart: name and size', [meta.name, meta.size], ['in/ä b+c.jsonl', String(Buffer.byteLength(text))]);
	same('multipart: content type, metadata', [meta.contentType, meta.metadata],
		['application/jsonl', { job: '7' }]);
	same('multipart: md5', meta.md5Hash, crypto.createHash('md5').update(text).digest('base64'));
	check('multipart: generation is text', /^\d{16}$/.test(meta.generation), meta.generation);
	same('download: what was sent', (await file.download({ validation: 'crc32c' }))[0].toString(), text);
	same('download: by md5', (await file.download({ validation: 'md5' }))[0].toString(), text);
	same('download: a range', (await file.download({ start: 3, end: 6 }))[0].toString(), text.slice(3, 7));
	await refuses('download: past the end', () => file.download({ start: 1000, end: 1010 }), code, 416);
	same('exists', await file.exists(), [true]);
	await file.delete();
	same('deleted', await file.exists(), [false]);
	await refuses('delete again', () => file.delete(), code, 404);
	await refuses('download of nothing', () => file.download(), code, 404);
	await refuses('unknown bucket', () => bucket('nobodys').file('x').save('x', { resumable: false }), code, 404);
	same('bucket exists', [await bucket().exists(), await bucket('nobodys').exists()], [[true], [false]]);
	await file.save('', { resumable: false });
	same('empty object', (await file.getMetadata())[0].size, '0');
}

async function conditions() {
	const file = bucket().file('once');
	const put = (text, match) => file.save(text, {
		resumable: false, preconditionOpts: { ifGenerationMatch: match },
	});

	await put('one', 0);
	await refuses('condition: there already', () => put('two', 0), code, 412);
	const [meta] = await file.getMetadata();
	await put('two', meta.generation);
	same('condition: that generation', (await file.download())[0].toString(), 'two');
	await refuses('condition: an old generation', () => put('three', meta.generation), code, 412);
	await refuses('condition: read of an old generation',
		() => bucket().file('once', { generation: meta.generation }).download(), code, 404);
	await refuses('condition: resumable', () => saveResumable(file, 'x'), code, 412);
}

async function lists() {
	const b = bucket();

	for (let i = 0; i < 25; i++)
		await b.file(`out/p${String(i).padStart(2, '0')}`).save(`${i}`, { resumable: false });
	await b.file('out/deep/x').save('x', { resumable: false });
	await b.file('other').save('x', { resumable: false });
	same('list: prefix', (await b.getFiles({ prefix: 'out/p' }))[0].length, 25);
	const [page, next] = await b.getFiles({ prefix: 'out/p', maxResults: 10, autoPaginate: false });
	same('list: a page, in order', [page.length, page[0].name, next?.pageToken !== undefined],
		[10, 'out/p00', true]);
	let query = { prefix: 'out/p', maxResults: 10, autoPaginate: false };
	const names = [];
	while (query) {
		const [files, more] = await b.getFiles(query);

		names.push(...files.map((f) => f.name));
		query = more;
	}
	same('list: pages', [names.length, names.at(-1)], [25, 'out/p24']);
	const [, , reply] = await b.getFiles({ prefix: 'out/', delimiter: '/', autoPaginate: false });
	same('list: prefixes', reply.prefixes, ['out/deep/']);
	const [, , none] = await b.getFiles({ prefix: 'nothing/', autoPaginate: false });
	same('list: nothing, no member for it', Object.keys(none), ['kind']);
	const [, , few] = await b.getFiles({ prefix: 'out/p0', autoPaginate: false, maxResults: 2,
		fields: 'items(name,size),nextPageToken' });
	same('list: fields', [Object.keys(few).sort(), Object.keys(few.items[0]).sort()],
		[['items', 'nextPageToken'], ['name', 'size']]);
	await refuses('list: unknown field', () => b.getFiles({ fields: 'itmes(name)' }), code, 400);
	await control('POST', 'faults', { storage: { empty_page: true }, times: 1 });
	same('list: an empty page with a token', (await b.getFiles({ prefix: 'out/p' }))[0].length, 25);
}

async function resumable() {
	const data = crypto.randomBytes(3 * MB + 12345);
	const file = bucket().file('big.bin');

	await saveResumable(file, data, { chunkSize: MB, validation: 'crc32c' });
	same('resumable: pieces', (await file.getMetadata())[0].size, String(data.length));
	check('resumable: content', (await file.download())[0].equals(data));
	const puts = (await control('GET', 'requests?method=PUT')).requests;
	same('resumable: statuses, after a question', puts.map((r) => r.status), [308, 308, 308, 308, 200]);
	await saveResumable(bucket().file('one.bin'), data);
	check('resumable: in one', (await bucket().file('one.bin').download())[0].equals(data));
}

/* A session by hand: what happens at its edges. */
async function edges() {
	const { token } = await serviceAccount().getAccessToken();
	const start = async (query = '', headers = {}) => {
		const r = await fetch(`${base}/upload/storage/v1/b/test-bucket/o?uploadType=resumable&name=e.bin${query}`, {
			method: 'POST', headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json', ...headers },
			body: '{}',
		});

		return r.headers.get('location');
	};
	const put = async (url, range, body = '', headers = {}) => {
		const r = await fetch(url, { method: 'PUT', headers: { 'content-range': range, ...headers }, body });

		return [r.status, r.headers.get('range')];
	};
	const data = crypto.randomBytes(700000);
	let url = await start();

	same('session: nothing stored', await put(url, 'bytes */*'), [308, null]);
	same('session: a piece is kept in grains', await put(url, 'bytes 0-299999/*', data.subarray(0, 300000)),
		[308, 'bytes=0-262143']);
	same('session: a gap', (await put(url, 'bytes 300000-699999/700000', data.subarray(300000)))[0], 503);
	same('session: length and range differ',
		(await put(url, 'bytes 262144-699999/700000', data.subarray(262145)))[0], 400);
	same('session: what is stored', await put(url, 'bytes */700000'), [308, 'bytes=0-262143']);
	same('session: another total', (await put(url, 'bytes */800000'))[0], 400);
	same('session: an overlap is fine', (await put(url, 'bytes 0-699999/700000', data))[0], 200);
	same('session: finished', (await put(url, 'bytes */*'))[0], 200);
	check('session: content', (await bucket().file('e.bin').download())[0].equals(data));

	url = await start();
	same('hash: wrong', (await put(url, 'bytes 0-699999/700000', data, { 'x-goog-hash': 'crc32c=AAAAAA==' }))[0], 400);
	url = await start('', { 'x-upload-content-length': '5' });
	same('length: another than announced', (await put(url, 'bytes 0-699999/700000', data))[0], 400);
	url = await start();
	same('cancel', (await fetch(url, { method: 'DELETE' })).status, 499);
	same('cancelled', (await put(url, 'bytes */*'))[0], 499);
	same('unknown session', (await put(url.replace(/upload_id=.*/, 'upload_id=x'), 'bytes */*'))[0], 404);
	await control('POST', 'faults', { storage: { die: 410 }, times: 1 });
	url = await start();
	same('dead session', [(await put(url, 'bytes */*'))[0], (await put(url, 'bytes */*'))[0]], [410, 410]);
	await control('POST', 'faults', { storage: { persist: 300000 }, times: 1 });
	url = await start();
	same('short 308', await put(url, 'bytes 0-699999/700000', data), [308, 'bytes=0-262143']);
}

/* The client finds its way around what goes wrong. */
async function troubles() {
	const data = crypto.randomBytes(3 * MB);
	const options = { chunkSize: MB };

	await control('POST', 'faults', { match: { method: 'PUT' }, drop_upload_after: 600000, times: 1, skip: 2 });
	await saveResumable(bucket('test-bucket', 5).file('dropped'), data, options);
	check('trouble: a broken piece', (await bucket().file('dropped').download())[0].equals(data));
	await control('POST', 'reset', {});
	await control('POST', 'faults', { match: { method: 'PUT' }, status: 503, times: 1, skip: 2 });
	await saveResumable(bucket('test-bucket', 5).file('busy'), data, options);
	check('trouble: 503', (await bucket().file('busy').download())[0].equals(data));
	await control('POST', 'faults', { match: { method: 'GET' }, status: 429, times: 1 });
	same('trouble: 429', (await bucket('test-bucket', 5).file('busy').exists()), [true]);
}

await judge([simple, conditions, lists, resumable, edges, troubles]);
