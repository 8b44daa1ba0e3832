/*-------------------------------------------------------------------------
 *
 * provider.c
 *		The registry of providers, and the helpers their steps share.
 *
 * The registry is per process and only grows.  It is published through a
 * rendezvous variable, so that a third module needs neither our header's
 * symbols nor a place in our build to add a provider.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/defrem.h"
#include "fmgr.h"
#include "nodes/parsenodes.h"

#include "provider/provider.h"
#include "runtime/compat.h"

#define MAX_PROVIDERS	64

static void provider_register(const BatchProvider *provider);

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

/* Raises if the provider is not complete or its name is taken. */
static void
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

/* Called when the library is loaded; registers the built-in providers. */
void
provider_init(void)
{
	void	  **variable = find_rendezvous_variable(DESS_BATCH_PROVIDERS);

	if (*variable != NULL)
		return;
	provider_register(&openai_provider);
	provider_register(&gemini_provider);
	provider_register(&vertex_provider);
	*variable = &registry;
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

/* A new list in the current context, in the order of registration. */
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

/* The value of a server option, or NULL where it is not set. */
const char *
account_option(const Account *account, const char *name)
{
	ListCell   *cell;

	foreach(cell, account->options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, name) == 0)
			return defGetString(option);
	}
	return NULL;
}

void
provider_step(StageStep step, BatchStage *stage, HttpReply *reply, StepResult *result)
{
	if (reply != NULL)
	{
		reply_blot_secret(reply, stage->account->secret);
		reply_blot_secret(reply, stage->account->access_token);
	}
	memset(result, 0, sizeof(StepResult));
	step(stage, reply, result);

	/* once more, because a body may spell a letter as "\u0073" */
	if (result->kind == STEP_FAILED)
	{
		error_blot_secret(&result->error, stage->account->secret);
		error_blot_secret(&result->error, stage->account->access_token);
	}
}

void
step_request(StepResult *result, const char *method, const char *url)
{
	memset(result, 0, sizeof(StepResult));
	result->kind = STEP_REQUEST;
	result->request.method = method;
	result->request.url = pstrdup(url);
}

/* Control characters, a line end above all, cannot be part of a header and are left out. */
void
request_header(HttpRequest *request, const char *name, const char *value)
{
	StringInfoData header;

	initStringInfo(&header);
	appendStringInfo(&header, "%s: ", name);
	for (const char *p = value; *p != '\0'; p++)
	{
		if ((unsigned char) *p >= ' ' && *p != 0x7F)
			appendStringInfoChar(&header, *p);
	}
	request->headers = lappend(request->headers, header.data);
}

/* The length of scheme and authority, 0 where there is none. */
static size_t
origin_length(const char *url)
{
	const char *colon = strstr(url, "://");

	return colon == NULL ? 0 : colon + 3 - url + strcspn(colon + 3, "/?#");
}

bool
provider_same_origin(const char *url, const char *other)
{
	size_t		length = origin_length(url);

	return length > 0 && length == origin_length(other) && pg_strncasecmp(url, other, length) == 0;
}

void
step_header(StepResult *result, const char *name, const char *value)
{
	request_header(&result->request, name, value);
}

void
step_json_body(StepResult *result, const char *body)
{
	result->request.body = pstrdup(body);
	result->request.body_length = strlen(body);
	step_header(result, "Content-Type", "application/json");
}

void
step_done(StepResult *result)
{
	memset(result, 0, sizeof(StepResult));
	result->kind = STEP_DONE;
}

void
step_done_if_ok(StepResult *result, const HttpReply *reply)
{
	if (reply_ok(reply))
		step_done(result);
	else
		step_fail_http(result, reply);
}

void
step_call(BatchStage *stage, const HttpReply *reply, StepResult *result,
		  const char *method, const char *path, const char *secret_header)
{
	if (reply != NULL)
	{
		step_done_if_ok(result, reply);
		return;
	}
	step_request(result, method, provider_url(stage->account->base_url, path, stage->token));
	step_header(result, secret_header, stage->account->secret);
}

void
step_wait(StepResult *result, int64 ms)
{
	memset(result, 0, sizeof(StepResult));
	result->kind = STEP_WAIT;
	result->wait_ms = ms;
}

void
step_authorize(StepResult *result)
{
	memset(result, 0, sizeof(StepResult));
	result->kind = STEP_AUTHORIZE;
}

void
step_checksum(StepResult *result, const char *file, int64 length)
{
	memset(result, 0, sizeof(StepResult));
	result->kind = STEP_CHECKSUM;
	result->checksum_file = file;
	result->checksum_length = length;
}

void
step_fail(StepResult *result, ErrorClass class, const char *code, const char *message)
{
	memset(result, 0, sizeof(StepResult));
	result->kind = STEP_FAILED;
	error_set(&result->error, class, code, message);
}

void
step_fail_http(StepResult *result, const HttpReply *reply)
{
	memset(result, 0, sizeof(StepResult));
	result->kind = STEP_FAILED;
	error_from_http(&result->error, reply);
}

/*
 * Palloc'd.  The id may come from anywhere: what is no unreserved character of
 * a URL is percent-encoded in it.
 */
char *
provider_url(const char *base_url, const char *path, const char *id)
{
	StringInfoData url;

	initStringInfo(&url);
	appendStringInfoString(&url, base_url);
	for (; *path != '\0'; path++)
	{
		if (*path != '%')
		{
			appendStringInfoChar(&url, *path);
			continue;
		}
		for (const char *p = id; *p != '\0'; p++)
		{
			unsigned char c = (unsigned char) *p;

			if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
				c == '-' || c == '_' || c == '~' || (c == '.' && p > id))
				appendStringInfoChar(&url, c);
			else
				appendStringInfo(&url, "%%%02X", c);
		}
	}
	return url.data;
}
