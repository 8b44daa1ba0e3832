/*-------------------------------------------------------------------------
 *
 * body.c
 *		JSON bodies: what providers share to write requests and to read replies.
 *
 * What the user wrote as JSON (schema, numbers, extra members) is passed on as
 * it is, never printed anew; only its line ends become spaces, for a line is a
 * request.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

#include "provider/body.h"

#define ID_LIMIT		512		/* longer ids are not believed */

/* Bytes of a byte order mark at the beginning of a text. */
static int
mark_length(const char *text, size_t length)
{
	return (length >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) ? 3 : 0;
}

void
body_append_json(StringInfo out, const char *json, size_t length)
{
	int			start = out->len;
	int			mark = mark_length(json, length);

	appendBinaryStringInfo(out, json + mark, length - mark);
	for (int i = start; i < out->len; i++)
	{
		if (out->data[i] == '\n' || out->data[i] == '\r')
			out->data[i] = ' ';
	}
}

bool
body_is_json(const HttpReply *reply)
{
	const char *why;
	const char *body = reply->body;
	size_t		length = reply->body_length;
	char	   *copy;
	bool		result;

	if (body == NULL)
		return false;
	body += mark_length(body, length);
	length -= body - reply->body;
	if (json_is_valid(body, length, &why))
		return true;
	if (json_is_utf8(body, length))
		return false;
	copy = palloc(length + 1);
	memcpy(copy, body, length);
	copy[length] = '\0';
	json_replace_invalid(copy, length);
	result = json_is_valid(copy, length, &why);
	pfree(copy);
	return result;
}

void
body_append_unreadable(StringInfo out, const HttpReply *reply)
{
	StepError	error;

	if (reply_ok(reply))
	{
		const char *words = error_reply_words(reply);

		error_set(&error, ERROR_TEMPORARY, CODE_UNREADABLE,
				  words == NULL ? "the server's reply is empty" :
				  strncmp(words, "data:", 5) == 0 || strncmp(words, "event:", 6) == 0 ?
				  "the server sends a stream of events, which was not asked for" :
				  psprintf("the server's reply is not JSON: %s", words));
	}
	else
		error_from_http(&error, reply);
	appendStringInfoString(out, "\"code\":");
	json_append_cstring(out, error.code != NULL ? error.code : CODE_BAD_REPLY);
	appendStringInfoString(out, ",\"message\":");
	json_append_cstring(out, error.message);
}

void
body_append_member(StringInfo out, const char *name, const char *json)
{
	appendStringInfo(out, ",\"%s\":", name);
	body_append_json(out, json, strlen(json));
}

void
body_append_members_of(StringInfo out, const char *object)
{
	const char *start = strchr(object, '{');
	const char *end = strrchr(object, '}');

	if (start == NULL || end == NULL || strspn(start + 1, " \t\r\n") == end - start - 1)
		return;
	appendStringInfoChar(out, ',');
	body_append_json(out, start + 1, end - start - 1);
}

void
body_append_text(StringInfo out, const char *json, const char *text)
{
	if (json != NULL)
		appendStringInfoString(out, json);
	else
		json_append_cstring(out, text);
}

JsonValue *
body_open_extra(const BatchOptions *options, JsonDoc **doc)
{
	const char *extra = options->parameters.extra;
	const char *why;

	*doc = extra ? json_parse(extra, strlen(extra), &why) : NULL;
	return (*doc != NULL && json_is_object(json_root(*doc))) ? json_root(*doc) : NULL;
}

bool
body_names(JsonValue *object, const char *name)
{
	for (JsonValue *member = json_first(object); member != NULL; member = json_next(member))
	{
		if (strcmp(json_name(member), name) == 0)
			return true;
	}
	return false;
}

bool
body_is_number(const char *text, double least, double most)
{
	const char *why;
	double		value;

	if (strspn(text, "-+.eE0123456789") != strlen(text) || !json_is_valid(text, strlen(text), &why))
		return false;
	value = strtod(text, NULL);
	return value >= least && value <= most;
}

bool
body_is_integer(const char *text)
{
	const char *why;

	if (strspn(text, "-0123456789") != strlen(text) || !json_is_valid(text, strlen(text), &why))
		return false;
	errno = 0;
	(void) strtoll(text, NULL, 10);
	return errno == 0;
}

char *
body_check_sampling(const BatchParameters *parameters)
{
	if (parameters->temperature != NULL && !body_is_number(parameters->temperature, 0, 2))
		return psprintf("parameter \"temperature\" must be a number from 0 to 2, not \"%s\"",
						parameters->temperature);
	if (parameters->top_p != NULL && !body_is_number(parameters->top_p, 0, 1))
		return psprintf("parameter \"top_p\" must be a number from 0 to 1, not \"%s\"",
						parameters->top_p);
	return NULL;
}

JsonValue *
body_open_reply(const HttpReply *reply, JsonDoc **doc)
{
	const char *why;

	*doc = NULL;
	if (reply_ok(reply) && reply->body != NULL)
		*doc = json_parse(reply->body, reply->body_length, &why);
	return *doc ? json_root(*doc) : NULL;
}

char *
body_read_id(JsonValue *object, const char *name)
{
	const char *id = json_member_string(object, name);

	if (id == NULL || id[0] == '\0' || strlen(id) > ID_LIMIT)
		return NULL;
	for (const char *p = id; *p != '\0'; p++)
	{
		if ((unsigned char) *p <= ' ' || (unsigned char) *p >= 0x7F)
			return NULL;
	}
	return pstrdup(id);
}
