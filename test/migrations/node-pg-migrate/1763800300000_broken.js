// Submits and fails: nothing of it may happen.
exports.up = (pgm) => {
	pgm.addColumns('faculty', { department_gone: { type: 'text' } });
	pgm.sql(`SELECT dess_batch_submit('faculty', 'gpt-6-luna', target => 'department_gone', server => 'openai', label => 'node broken')`);
	pgm.addConstraint('faculty', 'department_known', { check: 'department_gone IS NOT NULL' });
};

exports.down = (pgm) => {
	pgm.dropColumns('faculty', ['department_gone']);
};
