/*-------------------------------------------------------------------------
 *
 * reply_stubs.c
 *		Replies of an HTTP server that is not there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "reply_stubs.h"

static char stub_headers[8][200];
static int	stub_nheaders = 0;

const char *
http_header(const HttpReply *reply, const char *name)
{
	size_t		length = strlen(name);

	for (int i = 0; i < stub_nheaders; i++)
	{
		if (strncmp(stub_headers[i], name, length) == 0 && strncmp(stub_headers[i] + length, ": ", 2) == 0)
			return stub_headers[i] + length + 2;
	}
	return NULL;
}

HttpReply *
stub_reply(int status, const char *body)
{
	HttpReply  *reply = palloc0(sizeof(HttpReply));

	stub_nheaders = 0;
	reply->status = status;
	reply->body = pstrdup(body);
	reply->body_length = strlen(body);
	return reply;
}

HttpReply *
stub_failure(HttpFailure failure, const char *message)
{
	HttpReply  *reply = stub_reply(0, "");

	reply->failure = failure;
	reply->message = message;
	return reply;
}

void
stub_header(const char *name, const char *value)
{
	snprintf(stub_headers[stub_nheaders++], sizeof(stub_headers[0]), "%s: %s", name, value);
}
