/*
 * judge.mjs
 *		What the scripts share that let a provider's own client judge the
 *		simulator: checks, the control plane, credentials.
 *
 * Prints one line per check, "ok NAME" or "not ok NAME: WHY", and "done N".
 */
import fs from 'node:fs';
import { gaxios, JWT } from 'google-auth-library';

/* usage: node SCRIPT URL DIRECTORY, where the simulator has put its credentials */
export const base = process.argv[2];
export const directory = process.argv[3];
export const SCOPE = 'https://www.googleapis.com/auth/cloud-platform';

let checks = 0;
let failed = 0;

export function check(name, condition, why = '') {
	checks++;
	if (!condition)
		failed++;
	console.log(condition ? `ok ${name}` : `not ok ${name}: ${String(why).replace(/\s+/g, ' ')}`);
}

export function same(name, got, expected) {
	check(name, JSON.stringify(got) === JSON.stringify(expected),
		`got ${JSON.stringify(got)}, expected ${JSON.stringify(expected)}`);
}

/* The call must fail; look() makes of the error what is compared. */
export async function refuses(name, call, look, expected) {
	try {
		await call();
		check(name, false, 'it was accepted');
	} catch (e) {
		const got = look(e);

		check(name, JSON.stringify(got) === JSON.stringify(expected),
			`got ${JSON.stringify(got)}, expected ${JSON.stringify(expected)}: ${e.stack}`);
	}
}

export async function control(method, path, body) {
	const r = await fetch(`${base}/_sim/${path}`, { method, body: body && JSON.stringify(body) });
	const json = await r.json();

	if (!r.ok)
		throw new Error(`${path}: ${JSON.stringify(json)}`);
	return json;
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/* Calls look() until its result is done, at most ten seconds long. */
export async function until(look, done) {
	let last;

	for (let i = 0; i < 500; i++) {
		last = await look();
		if (done(last))
			return last;
		await sleep(20);
	}
	throw new Error(`it takes too long: ${JSON.stringify(last)}`);
}

export function credential(name) {
	return JSON.parse(fs.readFileSync(`${directory}/${name}.json`, 'utf8'));
}

/*
 * The library has Google's token address built in; this transporter sends
 * what goes there to the address that the key file names.
 */
class Transporter extends gaxios.Gaxios {
	request(options) {
		const url = String(options.url).replace('https://oauth2.googleapis.com/token', `${base}/token`);

		return super.request({ ...options, url, retry: false });
	}
}

/* A client of the simulated service account; more overrides what it is made of. */
export function serviceAccount(more = {}) {
	const file = credential('service_account');

	return new JWT({
		email: file.client_email, key: file.private_key, keyId: file.private_key_id,
		scopes: [SCOPE], additionalClaims: { aud: file.token_uri },
		transporter: new Transporter(), ...more,
	});
}

/* Runs the parts one after the other and says how many checks there were. */
export async function judge(parts) {
	for (const part of parts) {
		try {
			await control('POST', 'reset', {});
			await part();
		} catch (e) {
			check(`${part.name} goes through`, false, e.stack);
		}
	}
	console.log(`done ${checks}`);
	process.exit(failed > 0 ? 1 : 0);
}
