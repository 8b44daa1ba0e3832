/*-------------------------------------------------------------------------
 *
 * error.c
 *		What went wrong, read from a transport failure, a status or a body.
 *
 * No two servers word their errors alike, so every shape that was ever
 * reported is tried and nothing is required.  The class is decided by codes
 * and statuses, never by a sentence: the same sentence means an empty purse at
 * one provider and a moment's patience at another.  Codes stand above
 * statuses only where they are surer; what merely blames the request is
 * believed when no status says otherwise.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

#include <time.h>

#include "provider/provider.h"
#include "runtime/sched.h"
#include "text/json.h"

#define UNKNOWN_ERROR	"unknown error"
#define MESSAGE_LIMIT	200
#define CODE_LIMIT		80

/* Asking again is free, so that no longer pause is kept; one of a day or more nobody has meant. */
#define LONGEST_PAUSE_MS	INT64CONST(600000)
#define ABSURD_PAUSE_MS		INT64CONST(86400000)

typedef struct CodeClass
{
	const char *code;
	ErrorClass	class;
} CodeClass;

/* Codes and types that mean the same whatever the status. */
static const CodeClass sure_codes[] = {
	{"insufficient_quota", ERROR_QUOTA},
	{"billing_hard_limit_reached", ERROR_QUOTA},
	{"billing_not_active", ERROR_QUOTA},
	{"invalid_api_key", ERROR_AUTH},
	{"invalid_authentication", ERROR_AUTH},
	{"authentication_error", ERROR_AUTH},
	{"account_deactivated", ERROR_AUTH},
	{"permission_error", ERROR_AUTH},
	{"rate_limit_exceeded", ERROR_RATE},
	{"rate_limit_error", ERROR_RATE},
	{"token_limit_exceeded", ERROR_RATE},
	{"too_many_tasks", ERROR_TOO_LARGE},
	{"request_too_large", ERROR_TOO_LARGE},
	{"server_error", ERROR_TEMPORARY},
	{"api_error", ERROR_TEMPORARY},
	{"internal_error", ERROR_TEMPORARY},
	{"internal_server_error", ERROR_TEMPORARY},
	{"overloaded_error", ERROR_TEMPORARY},
	{"service_unavailable", ERROR_TEMPORARY},
	{"unavailable_error", ERROR_TEMPORARY},
	{"timeout", ERROR_TEMPORARY},

	/* Google's statuses and reasons */
	{"unauthenticated", ERROR_AUTH},
	{"permission_denied", ERROR_AUTH},
	{"api_key_invalid", ERROR_AUTH},
	{"api_key_service_blocked", ERROR_AUTH},
	{"api_key_ip_address_blocked", ERROR_AUTH},
	{"api_key_http_referrer_blocked", ERROR_AUTH},
	{"access_token_expired", ERROR_AUTH},
	{"consumer_invalid", ERROR_AUTH},
	{"consumer_suspended", ERROR_AUTH},
	{"service_disabled", ERROR_AUTH},
	{"billing_disabled", ERROR_QUOTA},
	{"billingNotEnabled", ERROR_QUOTA},
	{"accountDisabled", ERROR_QUOTA},
	{"resource_exhausted", ERROR_RATE},
	{"rateLimitExceeded", ERROR_RATE},
	{"userRateLimitExceeded", ERROR_RATE},
	{"quotaExceeded", ERROR_RATE},
	{"unavailable", ERROR_TEMPORARY},
	{"internal", ERROR_TEMPORARY},
	{"deadline_exceeded", ERROR_TEMPORARY},
	{"aborted", ERROR_TEMPORARY},
	{"cancelled", ERROR_TEMPORARY},
	{"already_exists", ERROR_PERMANENT},

	{CODE_NOT_SENT, ERROR_TEMPORARY},
	{CODE_BROKEN, ERROR_TEMPORARY},
	{CODE_LOCAL, ERROR_TEMPORARY},
	{CODE_BAD_REPLY, ERROR_TEMPORARY},
	{CODE_REPLY_TOO_LARGE, ERROR_PERMANENT},
	{CODE_ADDRESS_REFUSED, ERROR_PERMANENT},
};

/* Codes that blame the request; asked only where there is no status of an error. */
static const char *const blaming_codes[] = {
	"context_length_exceeded", "duplicate_custom_id", "empty_batch", "empty_file",
	"input_modified", "input_no_permissions", "model_mismatch", "url_mismatch",
	"string_above_max_length", "bio_policy", "data_residency_mismatch",
	"failed_precondition", "out_of_range",
};

/* The numbers of gRPC, from 1: their names, and what HTTP calls them. */
static const struct
{
	const char *name;
	int			status;
}			grpc_codes[] = {
	{"CANCELLED", 499}, {"UNKNOWN", 500}, {"INVALID_ARGUMENT", 400}, {"DEADLINE_EXCEEDED", 504},
	{"NOT_FOUND", 404}, {"ALREADY_EXISTS", 409}, {"PERMISSION_DENIED", 403}, {"RESOURCE_EXHAUSTED", 429},
	{"FAILED_PRECONDITION", 400}, {"ABORTED", 409}, {"OUT_OF_RANGE", 400}, {"UNIMPLEMENTED", 501},
	{"INTERNAL", 500}, {"UNAVAILABLE", 503}, {"DATA_LOSS", 500}, {"UNAUTHENTICATED", 401},
};

const char *
error_class_name(ErrorClass class)
{
	switch (class)
	{
		case ERROR_TEMPORARY:
			return "temporary";
		case ERROR_RATE:
			return "rate";
		case ERROR_QUOTA:
			return "quota";
		case ERROR_AUTH:
			return "auth";
		case ERROR_PERMANENT:
			return "permanent";
		case ERROR_NO_SERVICE:
			return "no service";
		case ERROR_TOO_LARGE:
			return "too large";
	}
	return "unknown";
}

/*
 * Text that may be anything, as one line of UTF-8 of at most limit bytes; runs
 * of white space become one blank.
 */
static char *
error_excerpt(const char *text, size_t length, size_t limit)
{
	StringInfoData copy;

	initStringInfo(&copy);
	for (size_t i = 0; i < length && copy.len < limit + 4; i++)
	{
		bool		blank = ((unsigned char) text[i] <= ' ');

		if (!blank || (copy.len > 0 && copy.data[copy.len - 1] != ' '))
			appendStringInfoChar(&copy, blank ? ' ' : text[i]);
	}
	while (copy.len > 0 && copy.data[copy.len - 1] == ' ')
		copy.data[--copy.len] = '\0';
	return json_excerpt(copy.data, limit);
}

/* The words of a page of HTML, without its tags. */
static char *
error_excerpt_html(const char *text, size_t length)
{
	StringInfoData words;
	bool		inside = false;

	initStringInfo(&words);
	for (size_t i = 0; i < length && words.len < 4 * MESSAGE_LIMIT; i++)
	{
		if (text[i] == '<' || text[i] == '>')
		{
			inside = (text[i] == '<');
			appendStringInfoChar(&words, ' ');
		}
		else if (!inside)
			appendStringInfoChar(&words, text[i]);
	}
	return error_excerpt(words.data, words.len, MESSAGE_LIMIT);
}

/* Fills error; code and message are copied and cut. */
void
error_set(StepError *error, ErrorClass class, const char *code, const char *message)
{
	memset(error, 0, sizeof(StepError));
	error->class = class;
	error->code = code ? error_excerpt(code, strlen(code), CODE_LIMIT) : NULL;
	error->message = message ? error_excerpt(message, strlen(message), MESSAGE_LIMIT) : NULL;
	error->retry_after_ms = -1;
}

static const CodeClass *
find_sure_code(const char *code)
{
	for (int i = 0; i < lengthof(sure_codes); i++)
	{
		if (pg_strcasecmp(code, sure_codes[i].code) == 0)
			return &sure_codes[i];
	}
	return NULL;
}

/* The class that a code or type stands for.  status 0 means that none is known. */
static bool
class_of_code(const char *code, int status, ErrorClass *class)
{
	size_t		length = code ? strlen(code) : 0;
	const CodeClass *sure = code ? find_sure_code(code) : NULL;

	if (sure != NULL)
	{
		*class = sure->class;
		return true;
	}
	if (length == 0 || status != 0)
		return false;

	*class = ERROR_PERMANENT;
	for (int i = 0; i < lengthof(blaming_codes); i++)
	{
		if (pg_strcasecmp(code, blaming_codes[i]) == 0)
			return true;
	}
	return pg_strncasecmp(code, "invalid_", 8) == 0 ||
		pg_strncasecmp(code, "unsupported_", 12) == 0 ||
		(length > 10 && pg_strcasecmp(code + length - 10, "_not_found") == 0);
}

static ErrorClass
class_of_status(int status)
{
	if (status >= 500)
		return ERROR_TEMPORARY;
	switch (status)
	{
		case 401:
		case 403:
			return ERROR_AUTH;
		case 402:
			return ERROR_QUOTA;
		case 408:
		case 409:
		case 425:
			return ERROR_TEMPORARY;
		case 413:
			return ERROR_TOO_LARGE;
		case 429:
			return ERROR_RATE;
	}
	return (status >= 300) ? ERROR_PERMANENT : ERROR_TEMPORARY;
}

/*
 * The object that says most: "error" members are followed down, and of an
 * array its first element.
 */
static JsonValue *
innermost_error(JsonValue *value)
{
	for (int depth = 0; depth < 4; depth++)
	{
		JsonValue  *inner;

		if (json_is_array(value))
			inner = json_first(value);
		else
		{
			inner = json_member(value, "error");
			if (inner == NULL)
				inner = json_member(value, "errors");

			/* words have a code beside them, perhaps */
			if (json_is_string(inner))
				break;
		}
		if (!json_is_object(inner) && !json_is_array(inner) && !json_is_string(inner))
			break;
		value = inner;
	}
	return value;
}

/* The sentence of an error object, palloc'd, or NULL. */
static char *
error_words(JsonValue *value)
{
	static const char *const names[] = {"message", "error_description", "detail", "msg", "error", "title"};

	if (json_is_string(value))
		return json_to_text(value);
	for (int i = 0; i < lengthof(names); i++)
	{
		JsonValue  *member = json_member(value, names[i]);

		if (json_is_array(member) && json_member(json_first(member), "msg") != NULL)
			member = json_member(json_first(member), "msg");
		if (member != NULL)
			return json_to_text(member);
	}
	return NULL;
}

/* The code of an error object, palloc'd: words before numbers; or NULL. */
static char *
error_code_of(JsonValue *value)
{
	static const char *const names[] = {"code", "status", "type"};
	JsonValue  *number;

	for (int i = 0; i < lengthof(names); i++)
	{
		const char *word = json_member_string(value, names[i]);

		if (word != NULL && word[0] != '\0')
			return pstrdup(word);
	}

	/* {"error": "invalid_grant", "error_description": ...} */
	if (json_member(value, "error_description") != NULL && json_member_string(value, "error") != NULL)
		return pstrdup(json_member_string(value, "error"));

	number = json_member(value, "code");
	if (number == NULL || json_is_object(number) || json_is_array(number))
		return NULL;
	return json_to_text(number);
}

/*
 * Google's reason, which tells more than its status: 400 is also what a bad key
 * gets.  In the current context, or NULL if there is none that we know.
 */
static char *
error_reason_of(JsonValue *value)
{
	const char *reason = json_member_string(value, "reason");
	JsonValue  *detail = json_first(json_member(value, "details"));

	for (; reason == NULL && detail != NULL; detail = json_next(detail))
		reason = json_member_string(detail, "reason");
	return (reason != NULL && find_sure_code(reason) != NULL) ? pstrdup(reason) : NULL;
}

/* A pause that a server asks for, as it is kept; -1: its own is none. */
static int64
believed_pause(int64 ms)
{
	return ms >= ABSURD_PAUSE_MS ? -1 : Min(ms, LONGEST_PAUSE_MS);
}

/* Google's RetryInfo among the details of an error; -1 if there is none. */
static int64
retry_delay_of(JsonValue *value)
{
	JsonValue  *detail = json_first(json_member(value, "details"));

	for (; detail != NULL; detail = json_next(detail))
	{
		const char *delay = json_member_string(detail, "retryDelay");

		if (delay != NULL)
			return believed_pause(sched_parse_duration(delay));
	}
	return -1;
}

/* Fills error from what was found; any of code, type and message may be NULL. */
static void
error_fill(StepError *error, int status, const char *code, const char *type,
		   const char *message, ErrorClass otherwise)
{
	char		status_text[32];
	ErrorClass	class;

	if (status < 300)
		status = 0;
	if (!class_of_code(code, status, &class) && !class_of_code(type, status, &class))
		class = (status != 0) ? class_of_status(status) : otherwise;

	snprintf(status_text, sizeof(status_text), "%d", status);
	if (code == NULL || code[0] == '\0')
		code = (status != 0) ? status_text : NULL;
	error_set(error, class, code, message);
	if (error->message == NULL || error->message[0] == '\0')
	{
		if (status != 0)
			error->message = psprintf("HTTP status %d", status);
		else
			error->message = error->code ? psprintf("error %s", error->code) : pstrdup(UNKNOWN_ERROR);
	}
	error->maybe_done = (status >= 500 || status == 408);
}

void
error_from_value(StepError *error, int status, JsonValue *value, ErrorClass otherwise)
{
	JsonValue  *inner = innermost_error(value);
	const char *type = json_member_string(inner, "type");
	char	   *code = error_reason_of(inner);
	int64		delay = retry_delay_of(inner);
	int64		named;

	if (code == NULL)
		code = error_code_of(inner);

	/* a numeric code is a status where nothing better is known */
	if (status < 300 && json_int64(json_member(inner, "code"), &named))
	{
		if (named >= 300 && named <= 599)
			status = (int) named;
		else if (named >= 1 && named <= lengthof(grpc_codes))
		{
			status = grpc_codes[named - 1].status;
			if (code == NULL || strspn(code, "0123456789") == strlen(code))
				code = pstrdup(grpc_codes[named - 1].name);
		}
	}

	error_fill(error, status, code, type, error_words(inner), otherwise);
	if (delay >= 0)
		error->retry_after_ms = delay;
}

void
error_from_body(StepError *error, int status, const char *body, size_t length)
{
	const char *why;
	JsonDoc    *doc = json_parse(body, length, &why);
	size_t		start = 0;
	char	   *words;

	if (doc != NULL)
	{
		error_from_value(error, status, json_root(doc), ERROR_TEMPORARY);
		json_free(doc);
		return;
	}
	while (start < length && (unsigned char) body[start] <= ' ')
		start++;
	if (start < length && body[start] == '<')
		words = error_excerpt_html(body + start, length - start);
	else
		words = error_excerpt(body, length, MESSAGE_LIMIT);
	error_fill(error, status, NULL, NULL, words, ERROR_TEMPORARY);
}

static void
error_from_failure(StepError *error, const HttpReply *reply)
{
	const char *message = reply->message ? reply->message : "the request was not answered";

	switch (reply->failure)
	{
		case HTTP_OK:
			break;
		case HTTP_NOT_SENT:
			error_set(error, ERROR_TEMPORARY, CODE_NOT_SENT, message);
			return;
		case HTTP_BROKEN:
			error_set(error, ERROR_TEMPORARY, CODE_BROKEN, message);
			break;
		case HTTP_TOO_LARGE:
			error_set(error, ERROR_PERMANENT, CODE_REPLY_TOO_LARGE, message);
			break;
		case HTTP_REFUSED_ADDRESS:
			error_set(error, ERROR_PERMANENT, CODE_ADDRESS_REFUSED, message);
			return;
		case HTTP_LOCAL:
			error_set(error, ERROR_TEMPORARY, CODE_LOCAL, message);
			break;
	}
	error->maybe_done = true;
}

/* "x-should-retry" decides where it stands: the server knows best. */
void
error_obey_should_retry(StepError *error, const char *value)
{
	if (value == NULL)
		return;
	if (pg_strcasecmp(value, "true") == 0)
	{
		if (error->class == ERROR_QUOTA)
			error->class = ERROR_RATE;
		else if (error->class == ERROR_PERMANENT || error->class == ERROR_AUTH)
			error->class = ERROR_TEMPORARY;
	}
	else if (pg_strcasecmp(value, "false") == 0)
	{
		if (error->class == ERROR_RATE)
			error->class = ERROR_QUOTA;
		else if (error->class == ERROR_TEMPORARY)
			error->class = ERROR_PERMANENT;
	}
}

/* Is it text that may stand in a message? */
static bool
is_printable(const char *text, size_t length)
{
	if (!json_is_utf8(text, length))
		return false;
	for (size_t i = 0; i < length; i++)
	{
		if ((unsigned char) text[i] < ' ' && strchr("\t\r\n\f", text[i]) == NULL)
			return false;
	}
	return true;
}

/* JSON without an error in it is not quoted: it may hold a secret. */
char *
error_reply_words(const HttpReply *reply)
{
	StepError	error;
	const char *why;
	JsonDoc    *doc;
	bool		quotable;

	if (reply->body == NULL || reply->body_length == 0)
		return NULL;
	if (!is_printable(reply->body, reply->body_length))
		return pstrdup("binary data");
	doc = json_parse(reply->body, reply->body_length, &why);
	quotable = doc == NULL || json_member(json_root(doc), "error") != NULL;
	json_free(doc);
	if (!quotable)
		return NULL;
	memset(&error, 0, sizeof(error));
	error_from_body(&error, 0, reply->body, reply->body_length);
	return strcmp(error.message, UNKNOWN_ERROR) == 0 ? NULL : error.message;
}

/*
 * The same for a reply.  A 2xx is an error as well here: its caller could not
 * make sense of it, so what was asked for may have been done.
 */
void
error_from_http(StepError *error, const HttpReply *reply)
{
	int64		delay;

	if (reply->failure != HTTP_OK)
	{
		error_from_failure(error, reply);
		return;
	}
	if (reply->status >= 200 && reply->status < 300)
	{
		const char *promise = "the server's reply is not what its interface promises";
		const char *words = error_reply_words(reply);

		error_set(error, ERROR_TEMPORARY, CODE_BAD_REPLY, words != NULL ? psprintf("%s: %s", promise, words) : promise);
		error->maybe_done = true;
		return;
	}
	if (reply->status >= 300 && reply->status < 400)
		error_set(error, ERROR_PERMANENT, psprintf("%d", reply->status),
				  "the server answered with a redirect, and none is followed");
	else if (reply->body != NULL)
		error_from_body(error, reply->status, reply->body, reply->body_length);
	else
		error_from_body(error, reply->status, "", 0);

	error_obey_should_retry(error, http_header(reply, "x-should-retry"));
	delay = reply_retry_after_ms(reply);
	if (delay >= 0)
		error->retry_after_ms = delay;
}

bool
reply_ok(const HttpReply *reply)
{
	return reply->failure == HTTP_OK && reply->status >= 200 && reply->status < 300;
}

int64
reply_retry_after_ms(const HttpReply *reply)
{
	int64		delay = sched_parse_retry_after_ms(http_header(reply, "retry-after-ms"));

	if (delay < 0)
		delay = sched_parse_retry_after(http_header(reply, "retry-after"), (int64) time(NULL) * 1000);
	return believed_pause(delay);
}

/* Overwrites every copy of the secret in the text with asterisks. */
static void
blot_secret(char *p, size_t text_length, const char *secret)
{
	size_t		length = secret ? strlen(secret) : 0;
	char	   *end;

	/* what is that short is no secret, and might be a word of an answer */
	if (p == NULL || length < 8)
		return;
	end = p + text_length;
	while ((size_t) (end - p) >= length && (p = memchr(p, secret[0], end - p - length + 1)) != NULL)
	{
		if (memcmp(p, secret, length) == 0)
		{
			memset(p, '*', length);
			p += length;
		}
		else
			p++;
	}
}

void
reply_blot_secret(HttpReply *reply, const char *secret)
{
	blot_secret(reply->body, reply->body_length, secret);
}

void
error_blot_secret(StepError *error, const char *secret)
{
	if (error->code != NULL)
		blot_secret(error->code, strlen(error->code), secret);
	if (error->message != NULL)
		blot_secret(error->message, strlen(error->message), secret);
}
