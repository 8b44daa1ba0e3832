/*-------------------------------------------------------------------------
 *
 * test_openai_steps.c
 *		The steps of the provider "openai", played against written replies.
 *
 * A play is a step, its stage and the replies it gets; what the step asked
 * for comes out as one text, which is compared.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "text/json.h"
#include "provider/openai/openai.h"
#include "reply_stubs.h"
#include "tap.h"

#define BASE	"https://h.example/v1"
#define TOKEN	"t0ken"

typedef struct Play
{
	Account		account;
	BatchRemote remote;
	BatchStage	stage;
} Play;

typedef struct Answer
{
	int			status;			/* 0: the connection broke; -1: it could not be made */
	const char *body;
} Answer;

static Play *
new_play(void)
{
	Play	   *play = palloc0(sizeof(Play));

	play->account.base_url = BASE;
	play->account.secret = "sk-0123456789";
	play->remote.total = -1;
	play->remote.finished = -1;
	play->stage.account = &play->account;
	play->stage.remote = &play->remote;
	play->stage.token = TOKEN;
	play->stage.job_id = 7;
	play->stage.batch_no = 2;
	play->stage.spool_file = "/spool/7.2";
	play->stage.spool_length = 1234;
	play->stage.sink_file = "/spool/7.2.out";
	/* 2026-11-22 00:00:00 UTC, which is 1795305600 for a provider */
	play->stage.created_at = INT64CONST(848620800) * 1000000;
	return play;
}

/* Lets the step run to its end, or out of answers, and tells what it did. */
static char *
run(Play *play, StageStep step, const Answer *answers, int nanswers)
{
	StringInfoData told;
	HttpReply  *reply = NULL;
	StepResult	result;
	int			next = 0;

	initStringInfo(&told);
	play->stage.phase = 0;
	play->stage.tries = 0;
	play->stage.scratch = NULL;
	for (int turn = 0; turn < 1000; turn++)
	{
		/* a result that nobody touches must not look like one */
		memset(&result, 0x7F, sizeof(result));
		provider_step(step, &play->stage, reply, &result);
		reply = NULL;
		switch (result.kind)
		{
			case STEP_REQUEST:
				appendStringInfo(&told, "%s %s; ", result.request.method,
								 strncmp(result.request.url, BASE, strlen(BASE)) == 0 ? result.request.url + strlen(BASE) : result.request.url);
				if (next == nanswers)
				{
					appendStringInfoString(&told, "no answer");
					return told.data;
				}
				reply = answers[next].status > 0 ? stub_reply(answers[next].status, answers[next].body ? answers[next].body : "") :
					stub_failure(answers[next].status == 0 ? HTTP_BROKEN : HTTP_NOT_SENT, "no connection");
				next++;
				break;
			case STEP_WAIT:
				appendStringInfo(&told, "wait " INT64_FORMAT "; ", result.wait_ms);
				break;
			case STEP_AUTHORIZE:
			case STEP_CHECKSUM:
				appendStringInfoString(&told, "not asked for by this provider");
				return told.data;
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

#define PLAY(play, step, ...) \
	run((play), openai_provider.step, (const Answer[]) {__VA_ARGS__}, lengthof(((const Answer[]) {__VA_ARGS__})))

static const char *
header_of(const HttpRequest *request, const char *name)
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

/* The first request of a step. */
static HttpRequest
first_request(Play *play, StageStep step)
{
	StepResult	result;

	play->stage.phase = 0;
	play->stage.tries = 0;
	play->stage.scratch = NULL;
	provider_step(step, &play->stage, NULL, &result);
	ok(result.kind == STEP_REQUEST, "a request comes first");
	return result.request;
}

/* ---- upload ---- */

#define FILE_OBJECT(status)	"{\"id\":\"file-1\",\"object\":\"file\",\"bytes\":1234,\"filename\":\"dess_batch-t0ken.jsonl\",\"status\":" status "}"
#define LIST_FILES	"GET /files?purpose=batch&limit=1000&order=desc"

static void
test_upload_request(void)
{
	Play	   *play = new_play();
	HttpRequest request = first_request(play, openai_provider.upload_batch_file);
	HttpPart   *purpose;
	HttpPart   *file;

	is_text(header_of(&request, "Authorization"), "Bearer sk-0123456789", "secret is sent");
	is_int(list_length(request.parts), 2, "two parts");
	purpose = list_nth(request.parts, 0);
	file = list_nth(request.parts, 1);
	is_text(purpose->name, "purpose", "first part");
	is_text(purpose->text, "batch", "purpose");
	is_text(file->name, "file", "second part");
	is_text(file->text, NULL, "file is streamed");
	is_text(file->filename, "dess_batch-t0ken.jsonl", "file's name has the token");
	is_text(request.body_file, "/spool/7.2", "file is the spool file");
	is_int(request.body_file_length, 1234, "file's length");
	arena_reset();
}

static void
test_upload(void)
{
	Play	   *play = new_play();

	is_text(PLAY(play, upload_batch_file, {200, FILE_OBJECT("\"processed\"")}), "POST /files; done", "upload");
	is_text(play->remote.input_uri, "file-1", "file's id");
	is_text(PLAY(play, upload_batch_file, {200, FILE_OBJECT("\"processed\"")}), "GET /files/file-1; done", "upload, again");
	play = new_play();
	is_text(PLAY(play, upload_batch_file, {200, "{\"id\":\"file-1\"}"}), "POST /files; done", "upload without a status");
	play = new_play();
	is_text(PLAY(play, upload_batch_file, {200, FILE_OBJECT("\"uploaded\"")}, {200, FILE_OBJECT("\"uploaded\"")}, {404, ""}, {200, FILE_OBJECT("\"PROCESSED\"")}),
			"POST /files; wait 1000; GET /files/file-1; wait 2000; GET /files/file-1; wait 4000; GET /files/file-1; done", "file that is not ready at once");
	play = new_play();
	is_text(PLAY(play, upload_batch_file, {200, FILE_OBJECT("\"uploaded\"")}, {405, ""}), "POST /files; wait 1000; GET /files/file-1; done", "server that does not show files");
	play = new_play();
	is_text(PLAY(play, upload_batch_file, {200, FILE_OBJECT("\"error\",\"status_details\":\"line 3\"")}), "POST /files; failed permanent file_error: line 3", "file that is refused");
	play = new_play();
	is_text(PLAY(play, upload_batch_file, {404, "{\"detail\":\"Not Found\"}"}), "POST /files; failed no service 404: Not Found", "no files, 404");
	is_text(PLAY(play, upload_batch_file, {405, ""}), "POST /files; failed no service 405: HTTP status 405", "no files, 405");
	is_text(PLAY(play, upload_batch_file, {413, ""}), "POST /files; failed too large 413: HTTP status 413", "too large");
	is_text(PLAY(play, upload_batch_file, {500, ""}), "POST /files; failed temporary 500: HTTP status 500 (maybe done)", "server error");
	is_text(PLAY(play, upload_batch_file, {0, NULL}), "POST /files; failed temporary connection_lost: no connection (maybe done)", "connection lost");
	is_text(PLAY(play, upload_batch_file, {-1, NULL}), "POST /files; failed temporary connection_failed: no connection", "no connection");
	is_text(PLAY(play, upload_batch_file, {200, "<html>"}), "POST /files; failed temporary bad_reply: the server's reply is not what its interface promises (maybe done)", "200 that is not JSON");
	is_text(PLAY(play, upload_batch_file, {200, "{\"id\":\"a b\"}"}, {200, "{}"}), "POST /files; DELETE /files/a%20b; failed permanent bad_reply: the provider gave the uploaded file an id that is too long or has blanks", "id that is none");
	is_text(PLAY(play, upload_batch_file, {401, "{\"error\":{\"message\":\"Wrong key sk-0123456789\",\"code\":\"invalid_api_key\"}}"}),
			"POST /files; failed auth invalid_api_key: Wrong key *************", "secret echoed");
	is_text(PLAY(play, upload_batch_file, {401, "{\"error\":{\"message\":\"Wrong key s\\u006b-0123456789\",\"code\":\"invalid_api_key\"}}"}),
			"POST /files; failed auth invalid_api_key: Wrong key *************", "secret echoed with a letter written otherwise");
	arena_reset();
}

static void
test_upload_bounds(void)
{
	Play	   *play = new_play();
	Answer		answers[100];
	char	   *told;

	for (int i = 0; i < lengthof(answers); i++)
		answers[i] = (Answer) {200, FILE_OBJECT("\"uploaded\"")};
	told = run(play, openai_provider.upload_batch_file, answers, lengthof(answers));
	ok(strstr(told, "failed temporary file_not_ready") != NULL, "polling for a file ends");
	is_text(play->remote.input_uri, "file-1", "and the file is not forgotten");
	for (int i = 1; i < lengthof(answers); i++)
		answers[i] = (Answer) {404, ""};
	play = new_play();
	told = run(play, openai_provider.upload_batch_file, answers, lengthof(answers));
	ok(strstr(told, "failed temporary not_found") != NULL, "a file that vanished is given up");
	is_text(play->remote.input_uri, NULL, "and forgotten");
	arena_reset();
}

static void
test_upload_resumed(void)
{
	Play	   *play = new_play();

	play->stage.resumed = true;
	is_text(PLAY(play, upload_batch_file, {200, "{\"object\":\"list\",\"data\":[{\"id\":\"file-0\",\"filename\":\"x\"}," FILE_OBJECT("\"processed\"") "]}"}, {200, FILE_OBJECT("\"processed\"")}),
			LIST_FILES "; GET /files/file-1; done", "file of an earlier try is found");
	is_text(play->remote.input_uri, "file-1", "and adopted");
	play = new_play();
	play->stage.resumed = true;
	is_text(PLAY(play, upload_batch_file, {200, "{\"data\":[{\"id\":\"file-9\"}],\"has_more\":true}"}, {200, "{\"object\":\"list\",\"data\":null}"}, {200, FILE_OBJECT("\"processed\"")}),
			LIST_FILES "; " LIST_FILES "&after=file-9; POST /files; done", "no such file over two pages");
	play->remote.input_uri = NULL;
	is_text(PLAY(play, upload_batch_file, {200, "{\"data\":[{\"id\":\"file-1\",\"bytes\":5,\"filename\":\"dess_batch-t0ken.jsonl\"}]}"}, {200, FILE_OBJECT("\"processed\"")}),
			LIST_FILES "; POST /files; done", "file of another length is not adopted");
	play->remote.input_uri = NULL;
	is_text(PLAY(play, upload_batch_file, {405, ""}, {200, FILE_OBJECT("\"processed\"")}), LIST_FILES "; POST /files; done", "no list of files");
	play->remote.input_uri = NULL;
	is_text(PLAY(play, upload_batch_file, {403, ""}, {200, FILE_OBJECT("\"processed\"")}), LIST_FILES "; POST /files; done", "list of files is forbidden");
	play->remote.input_uri = NULL;
	is_text(PLAY(play, upload_batch_file, {200, "{}"}, {200, FILE_OBJECT("\"uploaded\"")}, {200, FILE_OBJECT("\"processed\"")}),
			LIST_FILES "; POST /files; wait 1000; GET /files/file-1; done", "list that is none, and a file that is not ready");
	play->remote.input_uri = NULL;
	is_text(PLAY(play, upload_batch_file, {503, ""}), LIST_FILES "; failed temporary 503: HTTP status 503 (maybe done)", "list of files later");
	arena_reset();
}

/* ---- create ---- */

#define BATCH(status, rest)	"{\"id\":\"batch_1\",\"object\":\"batch\",\"status\":\"" status "\"" rest "}"

static Play *
uploaded_play(void)
{
	Play	   *play = new_play();

	play->remote.input_uri = "file-1";
	return play;
}

static void
test_create(void)
{
	Play	   *play = uploaded_play();
	HttpRequest request = first_request(play, openai_provider.create_batch_job);

	is_text(request.body, "{\"input_file_id\":\"file-1\",\"endpoint\":\"/v1/chat/completions\",\"completion_window\":\"24h\","
			"\"metadata\":{\"dess_batch\":\"t0ken\",\"job\":\"7\",\"batch\":\"2\"}}", "request to create");
	is_int(request.body_length, strlen(request.body), "its length");
	is_text(header_of(&request, "Content-Type"), "application/json", "its type");

	is_text(PLAY(play, create_batch_job, {200, BATCH("validating", ",\"request_counts\":null,\"errors\":null")}), "POST /batches; done", "create");
	is_text(play->remote.remote_id, "batch_1", "batch's id");
	is_text(play->remote.remote_state, "validating", "batch's state");
	is_int(play->remote.status, REMOTE_QUEUED, "batch's status");
	play = uploaded_play();
	is_text(PLAY(play, create_batch_job, {404, "{\"error\":{\"message\":\"No such File object: file-1\"}}"}, {404, ""}, {200, BATCH("validating", "")}),
			"POST /batches; wait 2000; POST /batches; wait 4000; POST /batches; done", "file that is known late");
	is_text(PLAY(play, create_batch_job, {404, "x"}, {404, "x"}, {404, "x"}, {404, "x"}, {404, "{\"error\":{\"message\":\"No such File object: file-1\"}}"}),
			"POST /batches; wait 2000; POST /batches; wait 4000; POST /batches; wait 8000; POST /batches; wait 16000; POST /batches; "
			"failed permanent 404: No such File object: file-1", "file that is never known");
	is_text(PLAY(play, create_batch_job, {404, ""}, {404, ""}, {404, ""}, {404, ""}, {404, "{\"detail\":\"Not Found\"}"}),
			"POST /batches; wait 2000; POST /batches; wait 4000; POST /batches; wait 8000; POST /batches; wait 16000; POST /batches; "
			"failed no service 404: Not Found", "no batches");
	is_text(PLAY(play, create_batch_job, {405, ""}), "POST /batches; failed no service 405: HTTP status 405", "no batches, 405");
	is_text(PLAY(play, create_batch_job, {500, ""}), "POST /batches; failed temporary 500: HTTP status 500 (maybe done)", "server error");
	is_text(PLAY(play, create_batch_job, {0, NULL}), "POST /batches; failed temporary connection_lost: no connection (maybe done)", "reply lost");
	is_text(PLAY(play, create_batch_job, {-1, NULL}), "POST /batches; failed temporary connection_failed: no connection", "not sent");
	is_text(PLAY(play, create_batch_job, {200, "OK"}), "POST /batches; failed temporary bad_reply: the server's reply is not what its interface promises: OK (maybe done)", "200 without a batch");
	is_text(PLAY(play, create_batch_job, {200, "{\"error\":{\"message\":\"busy\"}}"}), "POST /batches; failed temporary bad_reply: busy (maybe done)", "200 with an error");
	is_text(PLAY(play, create_batch_job, {429, "{\"error\":{\"message\":\"Too many\",\"code\":\"rate_limit_exceeded\"}}"}), "POST /batches; failed rate rate_limit_exceeded: Too many", "rate limit");
	is_text(PLAY(play, create_batch_job, {400, "{\"error\":{\"message\":\"Duplicate custom_id\",\"code\":\"duplicate_custom_id\"}}"}), "POST /batches; failed permanent duplicate_custom_id: Duplicate custom_id", "refused");
	play = uploaded_play();
	is_text(PLAY(play, create_batch_job, {200, "{\"job\":{\"id\":\"b2\",\"status\":\"VALIDATING\"},\"warning\":\"x\"}"}), "POST /batches; done", "batch inside of a job");
	is_text(play->remote.remote_id, "b2", "its id");
	arena_reset();
}

/* ---- status ---- */

static const struct
{
	const char *batch;
	const char *expected;		/* status, word, outputs, counts, error */
}			batches[] = {
	{BATCH("validating", ""), "1 validating -1/-1"},
	{BATCH("in_progress", ",\"request_counts\":{\"total\":1000,\"completed\":120,\"failed\":2}"), "2 in_progress 122/1000"},
	{BATCH("finalizing", ",\"request_counts\":{\"total\":\"10\",\"completed\":10,\"failed\":0}"), "2 finalizing 10/10"},
	{BATCH("cancelling", ",\"request_counts\":null"), "2 cancelling -1/-1"},
	{BATCH("completed", ",\"output_file_id\":\"file-o\",\"error_file_id\":\"file-e\""), "3 completed file-o file-e -1/-1"},
	{BATCH("Completed", ",\"output_file_id\":\"file-o\",\"error_file_id\":null"), "3 Completed file-o -1/-1"},
	{BATCH("COMPLETED", ",\"output_file_id\":null,\"error_file_id\":\"file-e\""), "3 COMPLETED file-e -1/-1"},
	{BATCH("completed", ",\"output_file_id\":\"file-o\",\"error_file_id\":\"\""), "3 completed file-o -1/-1"},
	{BATCH("completed", ",\"output_file_id\":\"f\",\"error_file_id\":\"f\""), "3 completed f -1/-1"},
	{BATCH("completed", ",\"output_file_id\":7"), "3 completed -1/-1"},
	{BATCH("expired", ",\"output_file_id\":\"file-o\",\"request_counts\":{\"total\":10,\"completed\":1,\"failed\":0}"), "4 expired file-o 1/10"},
	{BATCH("cancelled", ",\"output_file_id\":\"file-o\""), "5 cancelled file-o -1/-1"},
	{BATCH("canceled", ""), "5 canceled -1/-1"},
	{BATCH("paused", ""), "0 paused -1/-1"},
	{BATCH("failed", ",\"errors\":{\"object\":\"list\",\"data\":[{\"code\":\"token_limit_exceeded\",\"message\":\"Enqueued token limit reached\",\"param\":null,\"line\":null}]}"), "6 failed -1/-1 rate token_limit_exceeded: Enqueued token limit reached"},
	{BATCH("failed", ",\"errors\":{\"data\":[{\"code\":\"too_many_tasks\",\"message\":\"m\"}]}"), "6 failed -1/-1 too large too_many_tasks: m"},
	{BATCH("failed", ",\"errors\":{\"data\":[{\"code\":\"invalid_json_line\",\"message\":\"Bad\",\"line\":17}]}"), "6 failed -1/-1 permanent invalid_json_line: line 17: Bad"},
	{BATCH("failed", ",\"errors\":{\"data\":[{\"code\":\"model_not_found\",\"message\":\"m\",\"line\":1}]}"), "6 failed -1/-1 permanent model_not_found: line 1: m"},
	{BATCH("failed", ",\"errors\":{\"data\":[{\"code\":\"duplicate_custom_id\",\"message\":\"m\"}]}"), "6 failed -1/-1 permanent duplicate_custom_id: m"},
	{BATCH("failed", ",\"errors\":{\"data\":[{\"code\":\"something_new\",\"message\":\"m\"}]}"), "6 failed -1/-1 permanent something_new: m"},
	{BATCH("failed", ",\"errors\":{\"data\":[{\"code\":\"billing_hard_limit_reached\",\"message\":\"m\"}]}"), "6 failed -1/-1 quota billing_hard_limit_reached: m"},
	{BATCH("failed", ",\"errors\":{\"data\":[{\"code\":\"server_error\",\"message\":\"m\"}]}"), "6 failed -1/-1 temporary server_error: m"},
	{BATCH("failed", ",\"errors\":[{\"message\":\"m\",\"count\":1}]"), "6 failed -1/-1 permanent failed: m"},
	{BATCH("failed", ",\"error\":\"words\""), "6 failed -1/-1 temporary failed: words"},
	{BATCH("failed", ",\"errors\":null"), "6 failed -1/-1 temporary failed: the provider does not say why the batch failed"},
	{BATCH("failed", ",\"errors\":{\"data\":[]}"), "6 failed -1/-1 temporary failed: the provider does not say why the batch failed"},
};

static void
test_status(void)
{
	Play	   *play;

	for (int i = 0; i < lengthof(batches); i++)
	{
		StringInfoData told;
		ListCell   *cell;
		BatchRemote *remote;

		play = uploaded_play();
		remote = &play->remote;
		remote->remote_id = "batch_1";
		is_text(PLAY(play, get_batch_status, {200, batches[i].batch}), "GET /batches/batch_1; done", "status %d", i);
		initStringInfo(&told);
		appendStringInfo(&told, "%d %s ", (int) remote->status, remote->remote_state);
		foreach(cell, remote->output_uris)
			appendStringInfo(&told, "%s ", (char *) lfirst(cell));
		appendStringInfo(&told, INT64_FORMAT "/" INT64_FORMAT, remote->finished, remote->total);
		if (remote->status == REMOTE_FAILED)
			appendStringInfo(&told, " %s %s: %s", error_class_name(remote->error.class), remote->error.code, remote->error.message);
		is_text(told.data, batches[i].expected, "batch %s", batches[i].batch);
		arena_reset();
	}

	play = uploaded_play();
	play->remote.remote_id = "batch/../1";
	is_text(PLAY(play, get_batch_status, {404, "{\"error\":{\"message\":\"No batch found\",\"code\":\"x\"}}"}), "GET /batches/batch%2F..%2F1; failed temporary not_found: No batch found", "a 404 is left to the caller");
	is_text(PLAY(play, get_batch_status, {200, "{\"error\":{\"message\":\"gone\",\"code\":\"c\"}}"}), "GET /batches/batch%2F..%2F1; failed temporary c: gone (maybe done)", "an error with 200");
	is_text(PLAY(play, get_batch_status, {503, ""}), "GET /batches/batch%2F..%2F1; failed temporary 503: HTTP status 503 (maybe done)", "status later");
	is_text(PLAY(play, get_batch_status, {200, "{\"id\":\"b\",\"status\":\"\"}"}), "GET /batches/batch%2F..%2F1; failed temporary bad_reply: the server's reply is not what its interface promises (maybe done)", "no status");
	is_text(play->remote.remote_state, NULL, "nothing is taken over");
	arena_reset();
}

/* ---- find ---- */

#define ITEM(id, created, metadata)	"{\"id\":\"" id "\",\"status\":\"in_progress\",\"created_at\":" created ",\"input_file_id\":\"f-" id "\",\"metadata\":" metadata "}"
#define OURS	ITEM("b-ours", "1795305700", "{\"dess_batch\":\"t0ken\"}")
#define OTHER(id, created)	ITEM(id, created, "{\"dess_batch\":\"other\"}")
#define LIST_BATCHES	"GET /batches?limit=100"
#define THRICE_ABSENT	LIST_BATCHES "; wait 2000; " LIST_BATCHES "; wait 8000; " LIST_BATCHES "; done"

static void
test_find(void)
{
	Play	   *play = uploaded_play();

	is_text(PLAY(play, find_batch_job, {200, "{\"object\":\"list\",\"data\":[" OTHER("b0", "1795305800") "," OURS "],\"has_more\":true}"}), LIST_BATCHES "; done", "found by its token");
	is_text(play->remote.remote_id, "b-ours", "and adopted");
	is_int(play->remote.status, REMOTE_RUNNING, "with its status");
	is_text(run(play, openai_provider.find_batch_job, NULL, 0), "done", "known already");

	play = uploaded_play();
	is_text(PLAY(play, find_batch_job, {200, "{\"data\":[" OTHER("b0", "1795305800") "],\"has_more\":true,\"last_id\":\"b 0\"}"}, {200, "{\"data\":[" OURS "]}"}),
			LIST_BATCHES "; " LIST_BATCHES "&after=b0; done", "found on the second page");
	play = uploaded_play();
	is_text(PLAY(play, find_batch_job, {200, "{\"value\":[" OURS "]}"}), LIST_BATCHES "; done", "found in \"value\"");
	play = uploaded_play();
	is_text(PLAY(play, find_batch_job, {200, "[" OURS "]"}), LIST_BATCHES "; done", "found in a bare array");
	play = uploaded_play();
	play->remote.input_uri = "f-b7";
	is_text(PLAY(play, find_batch_job, {200, "[" ITEM("b7", "1", "null") "]"}), LIST_BATCHES "; done", "found by its input file");
	play = uploaded_play();
	play->remote.input_uri = "f-b7";
	is_text(PLAY(play, find_batch_job, {200, "[" OTHER("b7", "1") "]"}, {200, "[]"}, {200, "[]"}), THRICE_ABSENT, "another token with the same file is another batch");

	play = uploaded_play();
	is_text(PLAY(play, find_batch_job, {200, "{\"data\":[]}"}, {200, "{\"object\":\"list\",\"data\":null}"}, {200, "{\"data\":[" OTHER("b0", "5") "],\"has_more\":false}"}), THRICE_ABSENT, "absent");
	is_text(play->remote.remote_id, NULL, "and no id");
	is_text(PLAY(play, find_batch_job, {200, "[]"}, {200, "[" OURS "]"}), LIST_BATCHES "; wait 2000; " LIST_BATCHES "; done", "listed late");
	play = uploaded_play();
	is_text(PLAY(play, find_batch_job, {200, "{\"data\":[" OTHER("b0", "1795305800") "," OTHER("b1", "1795301900") "],\"has_more\":true}"}, {200, "[]"}, {200, "[]"}), THRICE_ABSENT, "the rest is too old");
	is_text(PLAY(play, find_batch_job, {200, "{\"data\":[" OTHER("b0", "1795305800") "," OTHER("b1", "1795302100") "],\"has_more\":true}"}, {200, "{\"data\":[" OURS "]}"}),
			LIST_BATCHES "; " LIST_BATCHES "&after=b1; done", "clocks may differ by an hour");
	play = uploaded_play();
	is_text(PLAY(play, find_batch_job, {200, "{\"data\":[" OTHER("b0", "100") "," OTHER("b1", "1795305800") "," OTHER("b2", "100") "],\"has_more\":true}"}, {200, "{\"data\":[" OURS "]}"}),
			LIST_BATCHES "; " LIST_BATCHES "&after=b2; done", "no order, no short cut");
	play = uploaded_play();
	is_text(PLAY(play, find_batch_job, {200, "{\"data\":[" OTHER("b0", "100") "],\"has_more\":false}"}, {200, "{\"data\":[" OTHER("b0", "\"2026-11-22T00:00:00Z\"") "],\"has_more\":true}"}, {200, "{\"data\":[" OURS "]}"}),
			LIST_BATCHES "; wait 2000; " LIST_BATCHES "; " LIST_BATCHES "&after=b0; done", "times that are text");
	arena_reset();
}

static void
test_find_unclear(void)
{
	Play	   *play = uploaded_play();
	Answer		answers[200];
	char	   *told;

	is_text(PLAY(play, find_batch_job, {200, "{\"data\":[{\"id\":\"b0\"}],\"has_more\":true}"}, {200, "{\"data\":[{\"id\":\"b0\"}],\"has_more\":true}"}),
			LIST_BATCHES "; " LIST_BATCHES "&after=b0; failed permanent uncertain: the provider's list of batches does not tell whether the batch exists (maybe done)", "a list that repeats itself");
	is_text(PLAY(play, find_batch_job, {405, ""}), LIST_BATCHES "; failed permanent uncertain: HTTP status 405 (maybe done)", "no list");
	is_text(PLAY(play, find_batch_job, {400, "{\"error\":\"no\"}"}), LIST_BATCHES "; failed permanent uncertain: no (maybe done)", "list refused");
	is_text(PLAY(play, find_batch_job, {200, "{}"}), LIST_BATCHES "; failed permanent uncertain: the provider's list of batches does not tell whether the batch exists (maybe done)", "no list in it");
	is_text(PLAY(play, find_batch_job, {500, ""}), LIST_BATCHES "; failed temporary 500: HTTP status 500 (maybe done)", "list later");
	is_text(PLAY(play, find_batch_job, {200, "<html>"}), LIST_BATCHES "; failed temporary bad_reply: the server's reply is not what its interface promises (maybe done)", "200 that is not JSON");
	is_text(PLAY(play, find_batch_job, {401, ""}), LIST_BATCHES "; failed auth 401: HTTP status 401 (maybe done)", "bad key");

	for (int i = 0; i < lengthof(answers); i++)
		answers[i] = (Answer) {200, psprintf("{\"data\":[{\"id\":\"b%d\"}],\"has_more\":true}", i)};
	told = run(play, openai_provider.find_batch_job, answers, lengthof(answers));
	ok(strstr(told, "after=b98; failed permanent uncertain") != NULL, "a hundred pages are enough");
	arena_reset();
}

/* ---- cancel, download, remove, check ---- */

static void
test_cancel(void)
{
	Play	   *play = uploaded_play();

	is_text(run(play, openai_provider.cancel_batch_job, NULL, 0), "done", "nothing to cancel");
	play->remote.remote_id = "batch_1";
	is_text(PLAY(play, cancel_batch_job, {200, BATCH("cancelling", "")}), "POST /batches/batch_1/cancel; done", "cancel");
	is_text(play->remote.remote_state, "cancelling", "state");
	is_text(PLAY(play, cancel_batch_job, {204, ""}), "POST /batches/batch_1/cancel; done", "cancel without words");
	is_text(PLAY(play, cancel_batch_job, {400, ""}), "POST /batches/batch_1/cancel; done", "finished already, 400");
	is_text(PLAY(play, cancel_batch_job, {409, ""}), "POST /batches/batch_1/cancel; done", "finished already, 409");
	is_text(PLAY(play, cancel_batch_job, {404, "x"}), "POST /batches/batch_1/cancel; failed temporary not_found: x", "unknown");
	is_text(PLAY(play, cancel_batch_job, {0, NULL}), "POST /batches/batch_1/cancel; failed temporary connection_lost: no connection (maybe done)", "lost");
	arena_reset();
}

static void
test_download(void)
{
	Play	   *play = uploaded_play();
	HttpRequest request;

	play->stage.uri = "file-o";
	request = first_request(play, openai_provider.retrieve_and_merge_results);
	is_text(header_of(&request, "Accept"), "application/binary", "what is accepted");
	is_text(request.sink_file, "/spool/7.2.out", "where it goes");
	is_text(PLAY(play, retrieve_and_merge_results, {200, ""}), "GET /files/file-o/content; done", "download");
	is_text(PLAY(play, retrieve_and_merge_results, {404, ""}), "GET /files/file-o/content; failed temporary not_found: HTTP status 404", "404");
	is_text(PLAY(play, retrieve_and_merge_results, {0, NULL}), "GET /files/file-o/content; failed temporary connection_lost: no connection (maybe done)", "cut");
	arena_reset();
}

static void
test_remove(void)
{
	Play	   *play = uploaded_play();

	is_text(PLAY(play, remove_remote, {200, "{\"deleted\":true}"}), "DELETE /files/file-1; done", "input only");
	is_text(PLAY(play, create_batch_job, {200, BATCH("completed", ",\"output_file_id\":\"o\",\"error_file_id\":\"e\"")}), "POST /batches; done", "a batch with two files");
	is_text(PLAY(play, remove_remote, {200, ""}, {404, ""}, {410, ""}), "DELETE /files/file-1; DELETE /files/o; DELETE /files/e; done", "gone already is good");
	is_text(PLAY(play, remove_remote, {403, "{\"error\":{\"message\":\"never\"}}"}, {200, ""}, {405, ""}), "DELETE /files/file-1; DELETE /files/o; DELETE /files/e; failed permanent 405: HTTP status 405", "refusals do not stop the rest");
	is_text(PLAY(play, remove_remote, {403, "{\"error\":{\"message\":\"never\"}}"}, {200, ""}, {200, ""}), "DELETE /files/file-1; DELETE /files/o; DELETE /files/e; failed permanent 403: never", "refusal is told at the end");
	is_text(PLAY(play, remove_remote, {200, ""}, {500, ""}), "DELETE /files/file-1; DELETE /files/o; failed temporary 500: HTTP status 500 (maybe done)", "later");
	is_text(PLAY(play, remove_remote, {401, ""}), "DELETE /files/file-1; failed auth 401: HTTP status 401", "bad key");
	is_text(PLAY(play, remove_remote, {-1, NULL}), "DELETE /files/file-1; failed temporary connection_failed: no connection", "no connection");

	play = new_play();
	is_text(run(play, openai_provider.remove_remote, NULL, 0), "done", "nothing there");
	play->stage.resumed = true;
	is_text(PLAY(play, remove_remote, {200, "{\"data\":[" FILE_OBJECT("\"processed\"") "]}"}, {200, ""}), LIST_FILES "; DELETE /files/file-1; done", "a stray upload is found");
	play = new_play();
	play->stage.resumed = true;
	is_text(PLAY(play, remove_remote, {200, "{\"data\":[]}"}), LIST_FILES "; done", "no stray upload");
	arena_reset();
}

static void
test_check(void)
{
	Play	   *play = new_play();

	is_text(PLAY(play, check_account, {200, "{\"object\":\"list\",\"data\":[{\"id\":\"a\"},{\"id\":\"b\"}]}"}), "GET /models; done", "check");
	is_text(play->stage.scratch, "the model list is readable (2 models)", "words");
	play->stage.model = "b";
	is_text(PLAY(play, check_account, {200, "{\"data\":[{\"id\":\"a\"},{\"id\":\"b\",\"shutdown_date\":null}]}"}), "GET /models; done", "check of a model");
	is_text(play->stage.scratch, "model \"b\" is there", "model is there");
	is_text(PLAY(play, check_account, {200, "{\"data\":[{\"id\":\"b\",\"shutdown_date\":\"2027-01-14\"}]}"}), "GET /models; done", "check of an old model");
	is_text(play->stage.scratch, "model \"b\" is there, and will be shut down on 2027-01-14", "model will be shut down");
	is_text(PLAY(play, check_account, {200, "[7,{\"id\":5}]"}), "GET /models; done", "odd list");
	is_text(play->stage.scratch, "model \"b\" is not among the 2 models of the list", "model is not there");
	is_text(PLAY(play, check_account, {401, "{\"error\":{\"message\":\"bad key\",\"code\":\"invalid_api_key\"}}"}), "GET /models; failed auth invalid_api_key: bad key", "bad key");
	is_text(PLAY(play, check_account, {200, "<html>"}), "GET /models; failed temporary bad_reply: the server's reply is not what its interface promises (maybe done)", "no list");
	arena_reset();
}

/* ---- lines, online, registry ---- */

static void
test_lines(void)
{
	Play	   *play = new_play();
	BatchOptions options = {.account = &play->account, .model = "m"};
	BatchItem	item = {"r-1", "Hi", 2};
	StringInfoData line;
	StringInfoData again;
	HttpRequest request;

	initStringInfo(&line);
	initStringInfo(&again);
	openai_provider.prepare_batch_file(&line, &item, &options);
	openai_provider.prepare_options(&options);
	openai_provider.prepare_batch_file(&again, &item, &options);
	is_text(line.data, again.data, "options prepared once write the same line");

	play->account.secret = NULL;
	openai_provider.infer(&play->account, "m", line.data, line.len, &request);
	is_text(request.url, BASE "/chat/completions", "online address");
	is_text(pnstrdup(request.body, request.body_length), "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}", "online body");
	is_text(header_of(&request, "Authorization"), NULL, "no secret, no header");
	is_text(header_of(&request, "Content-Type"), "application/json", "online type");
	play->account.secret = "sk\r\nX-Evil: 1";
	openai_provider.infer(&play->account, "m", line.data, line.len, &request);
	is_text(header_of(&request, "Authorization"), "Bearer skX-Evil: 1", "a line end in a secret makes no header");
	is_text(openai_provider.check_options(&options), NULL, "options are good");
	arena_reset();
}

/* A name is matched, priced and sent as one and the same thing. */
static void
test_model_names(void)
{
	static const struct
	{
		const char *provider;
		const char *model;
		bool		good;
	}			cases[] = {
		{"openai", "gpt-4o-mini", true}, {"openai", "ft:gpt-4o:org::id", true}, {"openai", "meta-llama/Llama-3.1-8B", true},
		{"openai", "a/../b", false}, {"openai", "a//b", false}, {"openai", "/a", false}, {"openai", "a/", false},
		{"openai", "..", false}, {"openai", "a/.", false}, {"openai", "", false}, {"openai", "a b", false},
		{"openai", "a\tb", false}, {"openai", "a?b", false}, {"openai", "a#b", false}, {"openai", "a%2e", false},
		{"openai", "a\\b", false}, {"openai", "a.b..c", true},
		{"vertex", "gemini-3.5-flash", true}, {"vertex", "publishers/google/models/gemini-3.1-pro", true},
		{"vertex", "projects/p/locations/l/endpoints/7", true}, {"vertex", "projects/p/locations/l/models/7@1", true},
		{"vertex", "gemini-3.5-flash/x", false}, {"vertex", "publishers/google/models/a/b", false},
		{"vertex", "gemini-3.5-flash-lite-preview/../publishers/google/models/gemini-3.1-pro", false},
		{"gemini", "gemini-3.5-flash", true}, {"gemini", "models/gemini-3.5-flash", true},
		{"gemini", "gemini-3.5-flash-lite/models/gemini-3.1-pro", false}, {"gemini", "publishers/google/models/gemini-3.1-pro", false},
	};

	for (int i = 0; i < lengthof(cases); i++)
		ok((provider_model_problem(provider_find(cases[i].provider), cases[i].model) == NULL) == cases[i].good,
		   "model \"%s\" at %s is %s", cases[i].model, cases[i].provider, cases[i].good ? "good" : "refused");
}

static void
test_registry(void)
{
	const ProviderOption *option = openai_provider.options;
	ListCell   *cell;
	int			registered = 0;

	provider_init();
	provider_init();
	ok(provider_find("openai") != NULL && provider_find("openai")->create_batch_job == openai_provider.create_batch_job,
	   "openai is registered");
	ok(provider_find("OpenAI") == NULL && provider_find("") == NULL, "others are not");
	foreach(cell, provider_list())
		registered += strcmp(((const BatchProvider *) lfirst(cell))->name, "openai") == 0;
	is_int(registered, 1, "and once");
	is_text(option[0].check("chat/completions"), NULL, "endpoint chat/completions");
	is_text(option[0].check("responses"), NULL, "endpoint responses");
	is_text(option[0].check("/v1/responses"), "chat/completions or responses", "another endpoint");
	is_text(option[1].check("org-1"), NULL, "organization");
	ok(option[1].check("a\nb") != NULL && option[2].check("") != NULL, "headers that are none");
	arena_reset();
}

static const struct
{
	const char *globs;
	const char *model;
	bool		matches;
}			globs[] = {
	{"gpt-*,o1*,o3*,o4*,chatgpt-*", "gpt-4o", true},
	{"gpt-*,o1*,o3*,o4*,chatgpt-*", "o3-mini", true},
	{"gpt-*,o1*,o3*,o4*,chatgpt-*", "o2", false},
	{"gpt-*", "my-gpt-4", false},
	{"gpt-*", "GPT-4", false},
	{"*", "", true},
	{"", "", false},
	{",, ", "x", false},
	{" a , b ", "b", true},
	{"a,b", "ab", false},
	{"?", "x", true},
	{"?", "", false},
	{"a?c*e", "abcde", true},
	{"a*b*c", "aXbXbXc", true},
	{"a*b*c", "aXbXbX", false},
	{"**", "x", true},
	{"*mini", "gpt-mini-mini", true},
	{"a", "a,b", false},
	{NULL, "a", false},
	{"*a*a*a*a*a*a*a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false},
};

static void
test_globs(void)
{
	for (int i = 0; i < lengthof(globs); i++)
		ok(provider_glob_match(globs[i].globs, globs[i].model) == globs[i].matches, "\"%s\" and \"%s\"",
		   globs[i].globs ? globs[i].globs : "(null)", globs[i].model);
}

int
main(void)
{
	test_upload_request();
	test_upload();
	test_upload_bounds();
	test_upload_resumed();
	test_create();
	test_status();
	test_find();
	test_find_unclear();
	test_cancel();
	test_download();
	test_remove();
	test_check();
	test_lines();
	test_registry();
	test_model_names();
	test_globs();
	return done_testing();
}
