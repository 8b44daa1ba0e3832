-- dess_batch_agreement and dess_batch_agreement_rows
CREATE EXTENSION dess_batch;

CREATE TABLE staff(
	id int PRIMARY KEY, "Department, as typed" text, department_llm text, grade int, country char(2));
INSERT INTO staff VALUES
	(1, 'Department of Physics', 'physics', 1, 'DE'),
	(2, 'Fachbereich Informatik', 'Informatik.', 2, 'DE'),
	(3, 'computer', 'Computer Science', 3, 'US'),
	(4, 'Maths & Physics', 'Maths and Physics', 4, 'US'),
	(5, 'History', 'Art', 5, 'US'),
	(6, 'History', 'MISSING', 6, 'US'),
	(7, NULL, 'Law', 7, 'US'),
	(8, ' ', 'n/a', 8, 'US'),
	(9, 'École d''ingénieurs', 'ECOLE D INGENIEURS', 9, 'FR');

SELECT * FROM dess_batch_agreement('staff', 'Department, as typed', 'department_llm');
SELECT class, r.*
	FROM unnest('{equal,contained,different,only_a,only_b,neither}'::text[]) WITH ORDINALITY c(class, n),
		dess_batch_agreement_rows('staff', 'Department, as typed', 'department_llm', class) r
	ORDER BY n, row_key;
SELECT count(*) FROM dess_batch_agreement_rows('staff', 'Department, as typed', 'department_llm', 'both_present');

-- every class counts the rows that it lists
SELECT a.equal = count(*) FILTER (WHERE class = 'equal') AND a.neither = count(*) FILTER (WHERE class = 'neither')
		AND a.rows = count(*) AS adds_up
	FROM dess_batch_agreement('staff', 'department_llm', 'Department, as typed') a,
		unnest('{equal,contained,different,only_a,only_b,neither}'::text[]) class,
		dess_batch_agreement_rows('staff', 'department_llm', 'Department, as typed', class)
	GROUP BY a.rows, a.equal, a.neither;

-- a column agrees with itself; types other than text are compared as text
SELECT equal, different, share FROM dess_batch_agreement('staff', 'grade', 'grade');
SELECT equal, different, share FROM dess_batch_agreement('staff', 'grade', 'country');

-- nothing to compare
CREATE TABLE empty(LIKE staff INCLUDING ALL);
SELECT * FROM dess_batch_agreement('empty', 'department_llm', 'country');

-- a view has no key; a key of two columns
CREATE VIEW staff_view AS SELECT * FROM staff;
SELECT * FROM dess_batch_agreement_rows('staff_view', 'Department, as typed', 'department_llm', 'only_b');
CREATE TABLE pairs(a text, b int, x text, y text, PRIMARY KEY (a, b));
INSERT INTO pairs VALUES ('one', 1, 'Law', 'law');
SELECT * FROM dess_batch_agreement_rows('pairs', 'x', 'y', 'equal');

-- what is wrong is said
SELECT * FROM dess_batch_agreement('staff', 'department', 'department_llm');
SELECT * FROM dess_batch_agreement_rows('staff', 'department_llm', 'country', 'same');
SELECT * FROM dess_batch_agreement('staff_pkey', 'id', 'id');
CREATE TABLE keyless(x text, y text);
SELECT * FROM dess_batch_agreement('keyless', 'x', 'y');
SELECT * FROM dess_batch_agreement_rows('keyless', 'x', 'y', 'equal');
SELECT dess_batch_agreement('staff', NULL, 'grade') IS NULL AS strict;

-- as the caller, with his rights and policies
CREATE ROLE regress_dess_reader;
SET ROLE regress_dess_reader;
SELECT * FROM dess_batch_agreement('staff', 'grade', 'grade');
RESET ROLE;
GRANT SELECT ON staff TO regress_dess_reader;
ALTER TABLE staff ENABLE ROW LEVEL SECURITY;
CREATE POLICY germans ON staff USING (country = 'DE');
SET ROLE regress_dess_reader;
SELECT rows, equal FROM dess_batch_agreement('staff', 'Department, as typed', 'department_llm');
RESET ROLE;

DROP TABLE staff, empty, pairs, keyless CASCADE;
DROP ROLE regress_dess_reader;
DROP EXTENSION dess_batch;
