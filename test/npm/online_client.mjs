/*
 * online_client.mjs
 *		What a user would write instead of online mode: the official client of
 *		OpenAI, some requests at once, each answer written with "pg".
 *
 * Usage: node online_client.mjs URL TABLE IN_FLIGHT, with libpq's variables for
 * the database.  Reads the rows whose department_llm is NULL, prints how many
 * it has written.
 */
import OpenAI from 'openai';
import pg from 'pg';

const [url, table, inFlight] = process.argv.slice(2);
const openai = new OpenAI({ apiKey: 'test-key', baseURL: url });
const pool = new pg.Pool({ max: 10 });
const name = pg.escapeIdentifier(table);
const { rows: [{ words }] } = await pool.query('SELECT words FROM prompt');
const { rows } = await pool.query(`SELECT id, to_jsonb(f) - 'id' - 'department_llm' AS text FROM ${name} f
	WHERE department_llm IS NULL ORDER BY id`);
let next = 0;
let written = 0;

async function work() {
	while (next < rows.length) {
		const row = rows[next++];
		const reply = await openai.chat.completions.create({
			model: 'gpt-5.4-nano',
			messages: [{ role: 'system', content: words }, { role: 'user', content: JSON.stringify(row.text) }],
			reasoning_effort: 'none',
		});
		const { rowCount } = await pool.query(`UPDATE ${name} SET department_llm = $1 WHERE id = $2`,
			[reply.choices[0].message.content, row.id]);

		written += rowCount;
	}
}

await Promise.all(Array.from({ length: Number(inFlight) }, work));
await pool.end();
console.log(written);
