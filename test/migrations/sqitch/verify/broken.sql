-- Verify university:broken on pg

BEGIN;

SELECT department_gone FROM faculty WHERE false;

ROLLBACK;
