/*-------------------------------------------------------------------------
 *
 * show.c
 *		Reads what a row's target holds now.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "table/internal.h"

char *
source_read_value(SourceTable *table, const char *key)
{
	MemoryContext caller = CurrentMemoryContext;
	char	  **values = palloc_array(char *, table->nkeys);
	Datum	   *args = palloc_array(Datum, table->nkeys);
	char	   *result = NULL;
	int			nestlevel;
	int			rc;

	if (table->ntargets != 1 || table->properties[0] != NULL)
		return NULL;
	key_split(key, table->nkeys, values);
	nestlevel = source_begin(table, AccessShareLock, false);
	for (int i = 0; i < table->nkeys; i++)
		args[i] = source_array(&table->columns[i], &values[i], 1);
	rc = SPI_execute_plan(source_keys_plan(table, false), args, NULL, false, 1);
	if (rc != SPI_OK_SELECT)
		elog(ERROR, "could not read a table: %s", SPI_result_code_string(rc));
	if (SPI_processed > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(caller);

		result = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, table->nkeys + 1);
		MemoryContextSwitchTo(old);
	}
	source_end(nestlevel);
	return result;
}
