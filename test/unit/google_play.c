/*-------------------------------------------------------------------------
 *
 * google_play.c
 *		Steps of Google's providers, played against written replies.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/parsenodes.h"

#include "google_play.h"

Play *
new_play(const BatchProvider *provider)
{
	Play	   *play = palloc0(sizeof(Play));

	play->account.provider = provider;
	play->remote.total = -1;
	play->remote.finished = -1;
	play->stage.account = &play->account;
	play->stage.remote = &play->remote;
	play->stage.model = "gemini-3.5-flash";
	play->stage.token = TOKEN;
	play->stage.job_id = 7;
	play->stage.batch_no = 2;
	play->stage.spool_file = "/spool/7.2";
	play->stage.spool_length = 40 * 1024 * 1024;
	play->stage.sink_file = "/spool/7.2.out";
	play->checksum = 0x01020304;
	return play;
}

/* Values are read by account_option(), which is compiled for the backend. */
void
play_option(Play *play, const char *name, const char *value)
{
	DefElem    *option = palloc0(sizeof(DefElem));
	String	   *string = palloc0(sizeof(String));

	string->type = T_String;
	string->sval = unconstify(char *, value);
	option->type = T_DefElem;
	option->defname = unconstify(char *, name);
	option->arg = (Node *) string;
	play->account.options = lappend(play->account.options, option);
}

const char *
play_header(const HttpRequest *request, const char *name)
{
	ListCell   *cell;

	foreach(cell, request->headers)
	{
		char	   *header = lfirst(cell);

		if (strncmp(header, name, strlen(name)) == 0 && header[strlen(name)] == ':')
			return header + strlen(name) + 2;
	}
	return NULL;
}

const char *
play_shorten(const Play *play, const char *url)
{
	for (int i = 0; i < lengthof(play->shorten) && play->shorten[i][0] != NULL; i++)
	{
		size_t		length = strlen(play->shorten[i][0]);

		if (strncmp(url, play->shorten[i][0], length) == 0)
			return psprintf("%s%s", play->shorten[i][1], url + length);
	}
	return url;
}

static void
tell_request(StringInfo told, const Play *play, const HttpRequest *request)
{
	static const char *const headers[] = {"Content-Range", "Range", "X-Goog-Hash", "X-Goog-Upload-Command", "X-Goog-Upload-Offset"};

	appendStringInfo(told, "%s %s", request->method, play_shorten(play, request->url));
	for (int i = 0; i < lengthof(headers); i++)
	{
		if (play_header(request, headers[i]) != NULL)
			appendStringInfo(told, " [%s]", play_header(request, headers[i]));
	}
	if (request->body_file != NULL)
		appendStringInfo(told, " file " INT64_FORMAT "+" INT64_FORMAT, request->body_offset, request->body_file_length);
	if (request->sink_file != NULL && request->sink_offset > 0)
		appendStringInfo(told, " sink at " INT64_FORMAT, request->sink_offset);
	appendStringInfoString(told, "; ");
}

/* The headers of an answer become those of the reply that was made last. */
static void
set_headers(const char *headers)
{
	while (headers != NULL && *headers != '\0')
	{
		size_t		length = strcspn(headers, "|");
		char	   *one = pnstrdup(headers, length);
		char	   *colon = strstr(one, ": ");

		if (colon != NULL)
		{
			*colon = '\0';
			stub_header(one, colon + 2);
		}
		headers += length + (headers[length] == '|' ? 1 : 0);
	}
}

static HttpReply *
make_reply(const Answer *answer)
{
	HttpReply  *reply;

	if (answer->status > 0)
		reply = stub_reply(answer->status, answer->body ? answer->body : "");
	else
		reply = stub_failure(answer->status == 0 ? HTTP_BROKEN : HTTP_NOT_SENT, "no connection");
	if (answer->status == 0 && answer->sink_length > 0)
		reply->status = answer->body ? atoi(answer->body) : 200;
	reply->sink_length = answer->sink_length;
	set_headers(answer->header);
	return reply;
}

char *
play_run(Play *play, StageStep step, const Answer *answers, int nanswers)
{
	StringInfoData told;
	HttpReply  *reply = NULL;
	StepResult	result;
	int			next = 0;
	int			requests = 0;

	initStringInfo(&told);
	play->stage.phase = 0;
	play->stage.tries = 0;
	play->stage.scratch = NULL;
	play->stage.refused = false;
	for (int turn = 0; turn < 2000; turn++)
	{
		/* a result that nobody touches must not look like one */
		memset(&result, 0x7F, sizeof(result));
		provider_step(step, &play->stage, reply, &result);
		reply = NULL;
		switch (result.kind)
		{
			case STEP_REQUEST:
				if (requests++ == 0)
					play->first = result.request;
				if (result.request.body != NULL)
					play->last_body = pnstrdup(result.request.body, result.request.body_length);
				tell_request(&told, play, &result.request);
				if (next == nanswers)
				{
					appendStringInfoString(&told, "no answer");
					return told.data;
				}
				reply = make_reply(&answers[next++]);
				break;
			case STEP_WAIT:
				appendStringInfo(&told, "wait " INT64_FORMAT "; ", result.wait_ms);
				break;
			case STEP_AUTHORIZE:
				appendStringInfoString(&told, "authorize; ");
				play->account.access_token = "new-token-0123";
				break;
			case STEP_CHECKSUM:
				appendStringInfo(&told, "checksum " INT64_FORMAT "; ", result.checksum_length);
				play->stage.checksum = play->checksum;
				break;
			case STEP_DONE:
				appendStringInfo(&told, "done%s", next < nanswers ? " too early" : "");
				return told.data;
			case STEP_FAILED:
				appendStringInfo(&told, "failed %s %s: %s%s%s", error_class_name(result.error.class), result.error.code,
								 result.error.message, result.error.maybe_done ? " (maybe done)" : "", next < nanswers ? " too early" : "");
				return told.data;
		}
	}
	appendStringInfoString(&told, "endless");
	return told.data;
}
