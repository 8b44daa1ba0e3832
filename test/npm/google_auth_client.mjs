/*
 * google_auth_client.mjs
 *		google-auth-library gets tokens in every way that we support.
 */
import crypto from 'node:crypto';
import {
	Compute, ExternalAccountClient, Impersonated, UserRefreshClient,
} from 'google-auth-library';
import { base, check, control, credential, judge, refuses, same, serviceAccount, SCOPE, directory }
	from './judge.mjs';

/* warnings of credentials from strangers; these are our own */
console.warn = () => {};

const list = `${base}/storage/v1/b/test-bucket/o`;

/* What the simulator says to the token of a client: the status of a list. */
async function status(client) {
	const { token } = await client.getAccessToken();

	return (await fetch(list, { headers: { authorization: `Bearer ${token}` } })).status;
}

async function exchange(claims, header = {}, key = undefined) {
	const file = credential('service_account');
	const now = Math.floor(Date.now() / 1000);
	const part = (o) => Buffer.from(JSON.stringify(o)).toString('base64url');
	const text = part({ alg: 'RS256', typ: 'JWT', kid: file.private_key_id, ...header }) + '.' +
		part({ iss: file.client_email, scope: SCOPE, aud: file.token_uri, iat: now, exp: now + 3600, ...claims });
	const signature = crypto.createSign('RSA-SHA256').update(text)
		.sign(key ?? file.private_key).toString('base64url');
	const r = await fetch(file.token_uri, {
		method: 'POST',
		body: new URLSearchParams({
			grant_type: 'urn:ietf:params:oauth:grant-type:jwt-bearer', assertion: `${text}.${signature}`,
		}),
	});

	return [r.status, await r.json()];
}

async function keyFile() {
	const file = credential('service_account');
	const credentials = await serviceAccount().authorize();

	same('key file: type and project', [file.type, file.project_id], ['service_account', 'test-project']);
	check('key file: the key is PKCS#8', file.private_key.startsWith('-----BEGIN PRIVATE KEY-----\n'));
	same('service account: token type', credentials.token_type, 'Bearer');
	check('service account: token is longer than a kilobyte', credentials.access_token.length > 1024);
	same('service account: token is good', await status(serviceAccount()), 200);
	await refuses('service account: a wrong audience is told',
		() => serviceAccount({ additionalClaims: { aud: 'https://example.org/token' } }).authorize(),
		(e) => [e.status, e.message.startsWith('invalid_grant: Invalid JWT: Failed audience check')], [400, true]);
	await refuses('service account: a subject needs delegation',
		() => serviceAccount({ subject: 'someone@example.org' }).authorize(),
		(e) => [e.status, e.message.split(':')[0]], [401, 'unauthorized_client']);
}

async function claims() {
	const now = Math.floor(Date.now() / 1000);
	const { privateKey } = crypto.generateKeyPairSync('rsa', { modulusLength: 2048 });
	const short = 'Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable ' +
		'timeframe. Check your iat and exp values in the JWT claim.';
	const bad = (text) => [400, { error: 'invalid_grant', error_description: text }];

	same('claims: as they should be', (await exchange({}))[0], 200);
	same('claims: no kid is fine', (await exchange({}, { kid: undefined }))[0], 200);
	same('claims: longer than an hour', await exchange({ exp: now + 7200 }), bad(short));
	same('claims: in the past', await exchange({ iat: now - 9000, exp: now - 5400 }), bad(short));
	same('claims: in the future', await exchange({ iat: now + 3000, exp: now + 6600 }), bad(short));
	same('claims: another key', await exchange({}, {}, privateKey), bad('Invalid JWT Signature.'));
	same('claims: another kid', await exchange({}, { kid: 'x' }), bad('Invalid JWT Signature.'));
	same('claims: unknown account', await exchange({ iss: 'nobody@example.org' }),
		bad('Invalid grant: account not found'));
	same('claims: no scope', (await exchange({ scope: '' }))[1].error, 'invalid_scope');
}

async function expiry() {
	const client = serviceAccount();

	await control('POST', 'settings', { token_seconds: 1 });
	const credentials = await client.authorize();
	const get = async () => (await fetch(list, {
		headers: { authorization: `Bearer ${credentials.access_token}` },
	})).status;

	same('expiry: good at first', await get(), 200);
	await new Promise((resolve) => setTimeout(resolve, 1100));
	same('expiry: 401 afterwards', await get(), 401);
	await control('POST', 'settings', { token_seconds: 3599 });
	same('expiry: a new one is good', await status(serviceAccount()), 200);

	const other = serviceAccount();
	same('revoked: good at first', await status(other), 200);
	await control('POST', 'tokens', { revoke: 'all' });
	same('revoked: 401 afterwards', await status(other), 401);
	same('scope: too narrow', await status(serviceAccount({
		scopes: ['https://www.googleapis.com/auth/userinfo.email'],
	})), 403);
	same('scope: storage alone', await status(serviceAccount({
		scopes: ['https://www.googleapis.com/auth/devstorage.read_write'],
	})), 200);
}

function user(more = {}) {
	const file = credential('authorized_user');

	return new UserRefreshClient({
		clientId: file.client_id, clientSecret: file.client_secret, refreshToken: file.refresh_token,
		endpoints: { oauth2TokenUrl: `${base}/token` }, ...more,
	});
}

async function refresh() {
	const look = (e) => [e.status, e.response?.data?.error];

	same('user: file type', credential('authorized_user').type, 'authorized_user');
	same('user: token is good', await status(user()), 200);
	await refuses('user: wrong secret', () => user({ clientSecret: 'x' }).getAccessToken(), look,
		[401, 'invalid_client']);
	await refuses('user: wrong refresh token', () => user({ refreshToken: 'x' }).getAccessToken(), look,
		[400, 'invalid_grant']);
	const again = user({ forceRefreshOnFailure: true });
	await again.getAccessToken();
	await control('POST', 'tokens', { revoke: 'all' });
	same('user: the library gets a new token by itself', (await again.request({ url: list })).status, 200);
	await control('POST', 'tokens', { revoke: 'user' });
	await refuses('user: revoked', () => user().getAccessToken(), look, [400, 'invalid_grant']);
}

async function impersonated() {
	const email = credential('service_account').client_email;
	const client = (target) => new Impersonated({
		sourceClient: user(), targetPrincipal: target, lifetime: 3600, delegates: [],
		targetScopes: [SCOPE], endpoint: base,
	});

	same('impersonated: file type', credential('impersonated').type, 'impersonated_service_account');
	same('impersonated: token is good', await status(client(email)), 200);
	await refuses('impersonated: another account', () => client('other@example.org').getAccessToken(),
		(e) => e.response?.status ?? e.status, 403);
}

async function external() {
	const file = credential('external_account');
	const client = (more) => ExternalAccountClient.fromJSON({ ...file, ...more });
	const scoped = (c) => {
		c.scopes = [SCOPE];
		return c;
	};

	same('external: file type', file.type, 'external_account');
	same('external: token is good', await status(scoped(client({}))), 200);
	same('external: without impersonation',
		await status(scoped(client({ service_account_impersonation_url: undefined }))), 200);
	await refuses('external: another audience',
		() => scoped(client({ audience: `${file.audience}x` })).getAccessToken(),
		(e) => e.message.includes('invalid_target'), true);
	await refuses('external: another subject',
		() => scoped(client({ credential_source: { file: `${directory}/service_account.json` } })).getAccessToken(),
		(e) => e.message.includes('invalid_grant'), true);
}

async function metadata() {
	const path = `${base}/computeMetadata/v1/instance/service-accounts/default/token`;
	const plain = await fetch(path);
	const flavored = await fetch(path, { headers: { 'Metadata-Flavor': 'Google' } });
	const get = (p) => fetch(`${base}/computeMetadata/v1/${p}`, { headers: { 'Metadata-Flavor': 'Google' } });

	process.env.GCE_METADATA_HOST = new URL(base).host;
	same('metadata: token is good', await status(new Compute()), 200);
	await refuses('metadata: unknown account',
		() => new Compute({ serviceAccountEmail: 'nobody@example.org' }).getAccessToken(),
		(e) => e.status ?? e.response?.status, 404);
	same('metadata: the header is required', plain.status, 403);
	same('metadata: the reply has it too', flavored.headers.get('metadata-flavor'), 'Google');
	same('metadata: project', await (await get('project/project-id')).text(), 'test-project');
	same('metadata: forbidden scope',
		(await get('instance/service-accounts/default/token?scopes=nonsense')).status, 403);
}

await judge([keyFile, claims, expiry, refresh, impersonated, external, metadata]);
