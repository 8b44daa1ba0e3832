/*-------------------------------------------------------------------------
 *
 * builtin.c
 *		The list of built-in providers: a new one is a folder and a line here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "provider/google/google.h"
#include "provider/internal.h"
#include "provider/openai/openai.h"

static const BatchProvider *const builtin_providers[] = {
	&openai_provider,
	&gemini_provider,
	&vertex_provider
};

void
provider_init(void)
{
	if (provider_list() != NIL)
		return;
	for (int i = 0; i < lengthof(builtin_providers); i++)
		provider_register(builtin_providers[i]);
	provider_publish();
}
