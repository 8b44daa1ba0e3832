-- Revert university:broken from pg

BEGIN;

ALTER TABLE faculty DROP COLUMN department_gone;

COMMIT;
