-- Adds a department to each member of the faculty.  Can be run again.
ALTER TABLE faculty ADD COLUMN IF NOT EXISTS department_llm text;

SELECT dess_batch_submit('faculty', 'gpt-6-luna', server => 'openai', label => 'migration 001') AS job;
