/*
 * aimock_server.mjs
 *		@copilotkit/aimock as a second OpenAI server, written by others.
 *
 * usage: node aimock_server.mjs [--port N] [--parent PID]
 * Prints "listening on http://127.0.0.1:PORT"; ends on SIGTERM and with its
 * parent.  Every chat completion is answered "History".
 *
 * What its batches do, and do not (version 1.43.0):
 *  - nothing happens by time: the first GET of a batch makes it in_progress,
 *    the second completed, however many rows it has;
 *  - every row is answered "Mock batch completion", whatever was asked, in the
 *    order of the input, with 1 + 1 = 2 tokens; no line is checked;
 *  - fields that are null at OpenAI (output_file_id, errors, ...) are absent,
 *    and so are expires_at and usage;
 *  - cancelling and expired batches have no result files, cancel turns to
 *    cancelled at the next GET, a finished batch refuses it with 400;
 *  - header X-AIMock-Batch-Outcome on create asks for failed, expired, cancelled;
 *  - an unknown input file is taken for a batch of one row; any key is accepted.
 */
import { LLMock } from '@copilotkit/aimock';

function option(name, otherwise) {
	const at = process.argv.indexOf(`--${name}`);

	return at > 0 ? Number(process.argv[at + 1]) : otherwise;
}

const parent = option('parent', process.ppid);
const mock = new LLMock({ host: '127.0.0.1', port: option('port', 0) });

async function end() {
	/* connections that stay open must not keep us */
	setTimeout(() => process.exit(0), 500).unref();
	await mock.stop();
	process.exit(0);
}

function parentIsGone() {
	try {
		process.kill(parent, 0);
		return false;
	} catch (e) {
		return e.code === 'ESRCH';
	}
}

mock.onMessage(/^/, { content: 'History' });
await mock.start();
console.log(`listening on http://127.0.0.1:${new URL(mock.url).port}`);
process.on('SIGTERM', end);
process.on('SIGINT', end);
setInterval(() => parentIsGone() && end(), 500);
