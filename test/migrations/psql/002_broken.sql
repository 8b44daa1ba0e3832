-- Fails after it has submitted: nothing of it may happen.
ALTER TABLE faculty ADD COLUMN department_gone text;

SELECT dess_batch_submit('faculty', 'gpt-6-luna', target => 'department_gone', server => 'openai', label => 'migration 002') AS job;

ALTER TABLE faculty ADD CONSTRAINT department_known CHECK (department_gone IS NOT NULL);
