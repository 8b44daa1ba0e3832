/*-------------------------------------------------------------------------
 *
 * step.c
 *		What the steps of all providers share: requests, and how a step ends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/defrem.h"
#include "nodes/parsenodes.h"

#include "provider/provider.h"

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
