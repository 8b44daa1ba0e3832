-- Deploy university:broken to pg
-- requires: department

BEGIN;

ALTER TABLE faculty ADD COLUMN department_gone text;

SELECT dess_batch_submit('faculty', 'gpt-6-luna', target => 'department_gone', server => 'openai', label => 'sqitch broken');

ALTER TABLE faculty ADD CONSTRAINT department_known CHECK (department_gone IS NOT NULL);

COMMIT;
