/*-------------------------------------------------------------------------
 *
 * parameters.h
 *		The "parameters" argument: provider-neutral names and their checks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_PROVIDER_PARAMETERS_H
#define DESS_PROVIDER_PARAMETERS_H

#include "provider/provider.h"

/*
 * Reads a JSON object with temperature, top_p, max_output_tokens, seed,
 * reasoning_effort and extra.  Raises 22023 for an unknown member or a value
 * of the wrong kind.
 */
extern void parameters_read(const char *json, BatchParameters *parameters);

/* What a job's requests have in common, palloc'd; text in UTF-8. */
extern BatchOptions *parameters_to_options(const Account *account, const char *model, const char *system_prompt,
										   const char *response_schema, bool department, const char *parameters);

#endif							/* DESS_PROVIDER_PARAMETERS_H */
