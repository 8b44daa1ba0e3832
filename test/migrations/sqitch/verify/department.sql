-- Verify university:department on pg

BEGIN;

SELECT department_llm FROM faculty WHERE false;

-- the job was made; it need not be done yet
SELECT 1 / count(*) FROM dess_batch_jobs WHERE label = 'sqitch department' AND state <> 'failed';

ROLLBACK;
