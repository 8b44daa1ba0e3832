/*-------------------------------------------------------------------------
 *
 * backend_stubs.c
 *		The few functions of the backend that a provider's steps call.
 *
 * Lists are made here and read by the inline functions of pg_list.h.  An
 * error ends the program, because a step must not raise one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/defrem.h"
#include "fmgr.h"
#include "nodes/parsenodes.h"
#include "nodes/pg_list.h"

#include "runtime/compat.h"

static List *
new_list(int length)
{
	List	   *list = palloc0(sizeof(List));

	list->type = T_List;
	list->length = length;
	list->max_length = length;
	list->elements = palloc0(sizeof(ListCell) * length);
	return list;
}

List *
lappend(List *list, void *datum)
{
	List	   *longer = new_list(list_length(list) + 1);

	for (int i = 0; i < list_length(list); i++)
		longer->elements[i] = list->elements[i];
	longer->elements[longer->length - 1].ptr_value = datum;
	if (list == NIL)
		return longer;
	list->elements = longer->elements;
	list->length = longer->length;
	return list;
}

List *
list_make2_impl(NodeTag t, ListCell datum1, ListCell datum2)
{
	List	   *list = new_list(2);

	list->elements[0] = datum1;
	list->elements[1] = datum2;
	return list;
}

char *
defGetString(DefElem *def)
{
	return strVal(def->arg);
}

void	  **
find_rendezvous_variable(const char *name)
{
	static void *variable = NULL;

	return &variable;
}

bool
errstart(int elevel, const char *domain)
{
	return true;
}

bool
errstart_cold(int elevel, const char *domain)
{
	return true;
}

int
errcode(int sqlerrcode)
{
	return 0;
}

int
errmsg(const char *fmt,...)
{
	return 0;
}

int
errmsg_internal(const char *fmt,...)
{
	return 0;
}

void
errfinish(const char *filename, int lineno, const char *funcname)
{
	printf("Bail out! an error was raised at %s:%d\n", filename, lineno);
	exit(1);
}

void
ExceptionalCondition(const char *conditionName, COMPAT_ASSERTION_TYPE
					 const char *fileName, int lineNumber)
{
	printf("Bail out! %s at %s:%d\n", conditionName, fileName, lineNumber);
	exit(1);
}
