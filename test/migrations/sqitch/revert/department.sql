-- Revert university:department from pg

BEGIN;

-- answers that are still on their way have nowhere to go
SELECT dess_batch_cancel(job_id)
FROM dess_batch_jobs
WHERE label = 'sqitch department' AND state NOT IN ('done', 'cancelled', 'failed');

ALTER TABLE faculty DROP COLUMN department_llm;

COMMIT;
