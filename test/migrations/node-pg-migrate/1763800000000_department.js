// Adds a department to each member of the faculty, and asks a model for it.
exports.up = (pgm) => {
	pgm.addColumns('faculty', { department_llm: { type: 'text' } });
	pgm.sql(`SELECT dess_batch_submit('faculty', 'gpt-6-luna', server => 'openai', label => 'node department')`);
};

exports.down = (pgm) => {
	// answers that are still on their way have nowhere to go
	pgm.sql(`SELECT dess_batch_cancel(job_id) FROM dess_batch_jobs
		WHERE label = 'node department' AND state NOT IN ('done', 'cancelled', 'failed')`);
	pgm.dropColumns('faculty', ['department_llm']);
};
