-- Deploy university:department to pg

BEGIN;

ALTER TABLE faculty ADD COLUMN department_llm text;

SELECT dess_batch_submit('faculty', 'gpt-6-luna', server => 'openai', label => 'sqitch department');

COMMIT;
