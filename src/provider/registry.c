/*-------------------------------------------------------------------------
 *
 * registry.c
 *		The registry of providers.
 *
 * The registry is per process and only grows.  It is published through a
 * rendezvous variable, so that a third module needs neither our header's
 * symbols nor a place in our build to add a provider.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"

#include "provider/internal.h"
#include "runtime/compat.h"

#define MAX_PROVIDERS	64

static ProviderRegistry registry = {DESS_BATCH_PROVIDER_API, provider_register};
static BatchProvider providers[MAX_PROVIDERS];
static int	nproviders = 0;

/* ---- what a provider need not have ---- */

static const ProviderOption no_options[] = {{NULL, false, false, NULL}};

static char *
check_nothing(const BatchOptions *options)
{
	return NULL;
}

static void
step_no_batches(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	step_fail(result, ERROR_NO_SERVICE, "no_batches", "this provider has no batch service");
}

static void
step_nothing(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	step_done(result);
}

static void
fill_in(BatchProvider *provider)
{
	if (provider->options == NULL)
		provider->options = no_options;
	if (provider->check_options == NULL)
		provider->check_options = check_nothing;
	if (provider->upload_batch_file == NULL)
	{
		provider->upload_batch_file = step_no_batches;
		provider->create_batch_job = step_no_batches;
		provider->get_batch_status = step_no_batches;
		provider->retrieve_and_merge_results = step_no_batches;
		provider->find_batch_job = step_no_batches;
	}
	if (provider->cancel_batch_job == NULL)
		provider->cancel_batch_job = step_nothing;
	if (provider->remove_remote == NULL)
		provider->remove_remote = step_nothing;
}

bool
provider_has_batches(const BatchProvider *provider)
{
	return provider->upload_batch_file != step_no_batches;
}

/* The steps of a batch, and the two callbacks of mode online, come together or not at all. */
static bool
is_complete(const BatchProvider *provider)
{
	int			steps = (provider->upload_batch_file != NULL) + (provider->create_batch_job != NULL) +
		(provider->get_batch_status != NULL) + (provider->retrieve_and_merge_results != NULL) +
		(provider->find_batch_job != NULL);
	int			calls = (provider->infer != NULL) + (provider->infer_result != NULL);

	return provider->name != NULL && provider->usual_models != NULL &&
		provider->prepare_batch_file != NULL && provider->read_result_line != NULL &&
		provider->check_account != NULL &&
		(steps == 0 || steps == 5) && (calls == 0 || calls == 2) && steps + calls > 0;
}

/* ---- the registry ---- */

void
provider_register(const BatchProvider *provider)
{
	if (!is_complete(provider))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("provider \"%s\" is not complete", provider->name ? provider->name : "")));
	if (provider_find(provider->name) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("provider \"%s\" is already registered", provider->name)));
	if (nproviders == MAX_PROVIDERS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("no more than %d providers can be registered", MAX_PROVIDERS)));
	providers[nproviders] = *provider;
	fill_in(&providers[nproviders++]);
}

void
provider_publish(void)
{
	*find_rendezvous_variable(DESS_BATCH_PROVIDERS) = &registry;
}

const BatchProvider *
provider_find(const char *name)
{
	for (int i = 0; i < nproviders; i++)
	{
		if (strcmp(providers[i].name, name) == 0)
			return &providers[i];
	}
	return NULL;
}

List *
provider_list(void)
{
	List	   *result = NIL;

	for (int i = 0; i < nproviders; i++)
		result = lappend(result, &providers[i]);
	return result;
}

/* Does the text match the glob between glob and end?  Linear but for the last "*". */
static bool
glob_match(const char *glob, const char *end, const char *text)
{
	const char *star = NULL;
	const char *retry = NULL;

	while (*text != '\0')
	{
		if (glob < end && *glob == '*')
		{
			star = ++glob;
			retry = text;
		}
		else if (glob < end && (*glob == '?' || *glob == *text))
		{
			glob++;
			text++;
		}
		else if (star != NULL)
		{
			glob = star;
			text = ++retry;
		}
		else
			return false;
	}
	while (glob < end && *glob == '*')
		glob++;
	return glob == end;
}

/* White space around the globs does not count; letters' case does. */
bool
provider_glob_match(const char *globs, const char *model)
{
	const char *p = globs;

	while (p != NULL && *p != '\0')
	{
		const char *start = p + strspn(p, " \t\r\n");
		const char *comma = strchr(start, ',');
		const char *end = comma ? comma : start + strlen(start);

		p = comma ? comma + 1 : end;
		while (end > start && strchr(" \t\r\n", end[-1]) != NULL)
			end--;
		if (end > start && glob_match(start, end, model))
			return true;
	}
	return false;
}
