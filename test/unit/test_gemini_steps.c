/*--------------#include "provider/google/google.h"
-----------------------------------------------------------
 *
 * test_gemini_steps.c
 *		The steps of the provider "gemini".
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "google_play.h"
#include "tap.h"

#define KEY		"AIza-0123456789"
#define SESSION	"POST base/upload/v1beta/files [start]; "
#define LOCATION	{200, "", "x-goog-upload-url: https://generativelanguage.googleapis.com/up?upload_id=S1|x-goog-upload-status: active", 0}
#define ACTIVE	{200, "", "x-goog-upload-status: active", 0}
#define FILE_OBJECT(state)	"{\"name\":\"files/abc\",\"state\":\"" state "\"}"
#define UPLOADED(state)	{200, "{\"file\":" FILE_OBJECT(state) "}", "x-goog-upload-status: final", 0}
#define PIECE1	"POST base/up?upload_id=S1 [upload] [0] file 0+16777216; "
#define PIECE2	"POST base/up?upload_id=S1 [upload] [16777216] file 16777216+16777216; "
#define PIECE3	"POST base/up?upload_id=S1 [upload, finalize] [33554432] file 33554432+8388608; "
#define QUESTION	"POST base/up?upload_id=S1 [query]; "

static Play *
gemini_play(void)
{
	Play	   *play = new_play(&gemini_provider);

	play->account.base_url = "https://generativelanguage.googleapis.com/v1beta";
	play->account.secret = KEY;
	play->shorten[0][0] = "https://generativelanguage.googleapis.com";
	play->shorten[0][1] = "base";
	return play;
}

static void
test_upload(void)
{
	Play	   *play = gemini_play();

	is_text(PLAY(play, upload_batch_file, LOCATION, ACTIVE, ACTIVE, UPLOADED("ACTIVE")), SESSION PIECE1 PIECE2 PIECE3 "done", "upload in three pieces");
	is_text(play->remote.input_uri, "files/abc", "file's name");
	is_text(play_header(&play->first, "x-goog-api-key"), KEY, "key in its header");
	ok(strstr(play->first.url, KEY) == NULL, "and not in the address");
	is_text(play_header(&play->first, "X-Goog-Upload-Header-Content-Length"), "41943040", "length is announced");
	is_text(pnstrdup(play->first.body, play->first.body_length), "{\"file\":{\"displayName\":\"dess_batch-t0ken\"}}", "name");
	is_text(PLAY(play, upload_batch_file, {200, FILE_OBJECT("ACTIVE")}), "GET base/v1beta/files/abc; done", "upload, again");
	play = gemini_play();
	play->stage.spool_length = 10;
	is_text(PLAY(play, upload_batch_file, LOCATION, UPLOADED("PROCESSING"), {200, FILE_OBJECT("PROCESSING")}, {200, FILE_OBJECT("ACTIVE")}),
			SESSION "POST base/up?upload_id=S1 [upload, finalize] [0] file 0+10; wait 1000; GET base/v1beta/files/abc; wait 2000; GET base/v1beta/files/abc; done", "file that is not ready at once");
	play = gemini_play();
	play->stage.spool_length = 10;
	is_text(PLAY(play, upload_batch_file, LOCATION, {200, "{\"file\":{\"name\":\"files/abc\",\"state\":\"FAILED\",\"error\":{\"code\":3,\"message\":\"line 2\"}}}"}),
			SESSION "POST base/up?upload_id=S1 [upload, finalize] [0] file 0+10; failed permanent file_error: line 2", "file that is refused");
	is_text(play->remote.input_uri, NULL, "and forgotten");
	arena_reset();
}

static void
test_upload_interrupted(void)
{
	Play	   *play = gemini_play();

	is_text(PLAY(play, upload_batch_file, LOCATION, ACTIVE, {0}, {200, "", "x-goog-upload-status: active|x-goog-upload-size-received: 20000000"}, UPLOADED("ACTIVE")),
			SESSION PIECE1 PIECE2 "wait 1000; " QUESTION "POST base/up?upload_id=S1 [upload] [20000000] file 20000000+16777216; done", "lost reply: what arrived is asked");
	play = gemini_play();
	is_text(PLAY(play, upload_batch_file, LOCATION, ACTIVE, ACTIVE, {0}, UPLOADED("ACTIVE")), SESSION PIECE1 PIECE2 PIECE3 "wait 1000; " QUESTION "done", "lost reply to the last piece: it had arrived");
	play = gemini_play();
	play->stage.spool_length = 10;
	is_text(PLAY(play, upload_batch_file, LOCATION, {0}, {200, "", "x-goog-upload-status: final"}, LOCATION, UPLOADED("ACTIVE")),
			SESSION "POST base/up?upload_id=S1 [upload, finalize] [0] file 0+10; wait 1000; " QUESTION SESSION "POST base/up?upload_id=S1 [upload, finalize] [0] file 0+10; done", "final, but of which file nobody says");
	play = gemini_play();
	is_text(PLAY(play, upload_batch_file, LOCATION, {404, ""}, LOCATION, {410, ""}, LOCATION, {404, ""}, LOCATION, {404, ""}),
			SESSION PIECE1 SESSION PIECE1 SESSION PIECE1 SESSION PIECE1 "failed temporary 404: HTTP status 404", "sessions that vanish");
	is_text(PLAY(play, upload_batch_file, {400, "{\"error\":{\"code\":400,\"message\":\"API key not valid: " KEY "\",\"status\":\"INVALID_ARGUMENT\",\"details\":[{\"reason\":\"API_KEY_INVALID\"}]}}"}),
			SESSION "failed auth API_KEY_INVALID: API key not valid: ***************", "bad key, echoed");
	is_text(PLAY(play, upload_batch_file, {404, "<html>Not Found</html>"}), SESSION "failed no service 404: Not Found", "no files");
	is_text(PLAY(play, upload_batch_file, {401, ""}), SESSION "failed auth 401: HTTP status 401", "401: there is no other token");
	arena_reset();
}

static void
test_upload_bounds(void)
{
	Play	   *play = gemini_play();
	Answer		answers[1000];
	char	   *told;

	answers[0] = (Answer) LOCATION;
	for (int i = 1; i < lengthof(answers); i++)
		answers[i] = (Answer) {i % 2 ? 503 : 200, "", "x-goog-upload-status: active|x-goog-upload-size-received: 0"};
	told = play_run(play, gemini_provider.upload_batch_file, answers, lengthof(answers));
	ok(strstr(told, "failed temporary") != NULL, "pieces that are never taken");
	for (int i = 0; i < lengthof(answers); i++)
		answers[i] = (Answer) {200, "{\"file\":" FILE_OBJECT("PROCESSING") "}", "x-goog-upload-url: u|x-goog-upload-status: final"};
	told = play_run(play, gemini_provider.upload_batch_file, answers, lengthof(answers));
	ok(strstr(told, "failed temporary file_not_ready") != NULL, "file that is never ready");
	is_text(play->remote.input_uri, "files/abc", "is not forgotten");
	arena_reset();
}

/* ---- create, look, find, cancel ---- */

static Play *
created_play(void)
{
	Play	   *play = gemini_play();

	play->remote.input_uri = "files/abc";
	play->remote.remote_id = "batches/9xk";
	return play;
}

#define OPERATION(state, rest)	"{\"name\":\"batches/9xk\",\"metadata\":{\"displayName\":\"dess_batch job 7 batch 2 t0ken\",\"state\":\"" state "\",\"batchStats\":{\"requestCount\":\"100\",\"successfulRequestCount\":\"40\",\"failedRequestCount\":\"1\"}}" rest "}"
#define CREATE	"POST base/v1beta/models/gemini-3.5-flash:batchGenerateContent; "
#define LOOK	"GET base/v1beta/batches/9xk; "

static void
test_create(void)
{
	Play	   *play = gemini_play();

	play->remote.input_uri = "files/abc";
	play->stage.model = "models/gemini-3.5-flash";
	is_text(PLAY(play, create_batch_job, {200, OPERATION("BATCH_STATE_PENDING", "")}), CREATE "done", "create");
	is_text(play->last_body, "{\"batch\":{\"displayName\":\"dess_batch job 7 batch 2 t0ken\",\"inputConfig\":{\"fileName\":\"files/abc\"}}}", "what is asked for");
	is_text(play->remote.remote_id, "batches/9xk", "its name");
	is_int(play->remote.status, REMOTE_QUEUED, "it waits");
	is_int(play->remote.total, 100, "counts");
	is_int(play->remote.finished, 41, "counts");
	play->remote.remote_id = NULL;
	is_text(PLAY(play, create_batch_job, {200, OPERATION("BATCH_STATE_SUCCEEDED", "")}), CREATE "done", "already there");
	is_text(play->remote.remote_id, "batches/9xk", "its name");
	is_text(PLAY(play, create_batch_job, {404, "{}"}, {200, OPERATION("BATCH_STATE_PENDING", "")}), CREATE "wait 2000; " CREATE "done", "file that comes late");
	is_text(PLAY(play, create_batch_job, {404, "{}"}, {404, "{}"}, {404, "{}"}, {404, "{\"error\":{\"code\":404,\"message\":\"no such model\",\"status\":\"NOT_FOUND\"}}"}),
			CREATE "wait 2000; " CREATE "wait 4000; " CREATE "wait 8000; " CREATE "failed permanent NOT_FOUND: no such model", "no such model");
	is_text(PLAY(play, create_batch_job, {405, ""}), CREATE "failed no service 405: HTTP status 405", "no batches");
	is_text(PLAY(play, create_batch_job, {429, "{\"error\":{\"code\":429,\"message\":\"quota\",\"status\":\"RESOURCE_EXHAUSTED\"}}"}), CREATE "failed rate RESOURCE_EXHAUSTED: quota", "too many batches");
	is_text(PLAY(play, create_batch_job, {0}), CREATE "failed temporary connection_lost: no connection (maybe done)", "lost reply");
	is_text(PLAY(play, create_batch_job, {200, "{}"}), CREATE "failed temporary bad_reply: the server's reply is not what its interface promises (maybe done)", "no operation");
	arena_reset();
}

static void
test_status(void)
{
	Play	   *play = created_play();

	is_text(PLAY(play, get_batch_status, {200, OPERATION("JOB_STATE_RUNNING", "")}), LOOK "done", "running, in the other spelling");
	is_int(play->remote.status, REMOTE_RUNNING, "running");
	is_text(PLAY(play, get_batch_status, {200, OPERATION("BATCH_STATE_SUCCEEDED", ",\"done\":true,\"response\":{\"responsesFile\":\"files/batch-9xk\"}")}), LOOK "done", "done");
	is_text(list_nth(play->remote.output_uris, 0), "files/batch-9xk", "result file");
	is_text(PLAY(play, get_batch_status, {200, "{\"name\":\"batches/9xk\",\"done\":true,\"metadata\":{\"state\":\"BATCH_STATE_RUNNING\",\"output\":{\"responsesFile\":\"files/batch-9xk\"}}}"}), LOOK "done", "done, but the state lags behind");
	is_int(play->remote.status, REMOTE_FINISHED, "finished");
	is_int(list_length(play->remote.output_uris), 1, "result file in the other place");
	is_int(play->remote.finished, -1, "no counts");
	is_text(PLAY(play, get_batch_status, {200, OPERATION("BATCH_STATE_SUCCEEDED", "")}), LOOK "failed temporary not_found: the batch has succeeded, but names no file with results", "done, without results");
	is_text(PLAY(play, get_batch_status, {200, OPERATION("BATCH_STATE_EXPIRED", ",\"done\":true")}), LOOK "done", "expired");
	is_int(play->remote.status, REMOTE_EXPIRED, "expired");
	is_int(list_length(play->remote.output_uris), 0, "nothing to read");
	is_text(PLAY(play, get_batch_status, {200, OPERATION("BATCH_STATE_CANCELLED", ",\"done\":true,\"error\":{\"code\":1,\"message\":\"cancelled\"}")}), LOOK "done", "cancelled");
	is_int(play->remote.status, REMOTE_CANCELLED, "cancelled");
	is_text(PLAY(play, get_batch_status, {200, OPERATION("BATCH_STATE_FAILED", ",\"done\":true,\"error\":{\"code\":8,\"message\":\"quota\"}")}), LOOK "done", "failed");
	is_int(play->remote.error.class, ERROR_RATE, "because of the rate");
	is_text(PLAY(play, get_batch_status, {200, OPERATION("BATCH_STATE_FAILED", "")}), LOOK "done", "failed without a word");
	is_int(play->remote.error.class, ERROR_TEMPORARY, "another try may help");
	is_text(PLAY(play, get_batch_status, {404, ""}), LOOK "failed temporary not_found: HTTP status 404", "gone");
	is_text(PLAY(play, cancel_batch_job, {200, "{}"}), "POST base/v1beta/batches/9xk:cancel; done", "cancel");
	is_text(PLAY(play, cancel_batch_job, {409, "{}"}), "POST base/v1beta/batches/9xk:cancel; done", "cancel what has ended");
	arena_reset();
}

static void
test_find(void)
{
	Play	   *play = gemini_play();

	is_text(PLAY(play, find_batch_job, {200, "{\"operations\":[{\"name\":\"batches/1\",\"metadata\":{\"displayName\":\"x\"}}],\"nextPageToken\":\"p 2\"}"}, {200, "{\"operations\":[" OPERATION("BATCH_STATE_RUNNING", "") "]}"}),
			"GET base/v1beta/batches?pageSize=100; GET base/v1beta/batches?pageSize=100&pageToken=p%202; done", "found");
	is_text(play->remote.remote_id, "batches/9xk", "and adopted");
	arena_reset();
}

/* ---- results and the end ---- */

static void
test_results(void)
{
	Play	   *play = created_play();

	play->stage.uri = "files/batch-9xk";
	is_text(PLAY(play, retrieve_and_merge_results, {200, ""}), "GET base/download/v1beta/files/batch-9xk:download?alt=media; done", "download");
	is_text(play->first.sink_file, "/spool/7.2.out", "into the sink");
	is_text(PLAY(play, retrieve_and_merge_results, {404, ""}, {200, ""}), "GET base/download/v1beta/files/batch-9xk:download?alt=media; GET base/v1beta/files/batch-9xk:download?alt=media; done", "by the other address");
	is_text(PLAY(play, retrieve_and_merge_results, {404, ""}, {404, ""}), "GET base/download/v1beta/files/batch-9xk:download?alt=media; GET base/v1beta/files/batch-9xk:download?alt=media; failed temporary not_found: HTTP status 404", "by neither");
	is_text(PLAY(play, retrieve_and_merge_results, {0}), "GET base/download/v1beta/files/batch-9xk:download?alt=media; failed temporary connection_lost: no connection (maybe done)", "cut");
	play->remote.output_uris = lappend(NIL, "files/batch-9xk");
	is_text(PLAY(play, remove_remote, {200, "{}"}, {403, "{}"}, {404, "{}"}), "DELETE base/v1beta/files/abc; DELETE base/v1beta/files/batch-9xk; DELETE base/v1beta/batches/9xk; done", "everything is removed");
	is_text(PLAY(play, remove_remote, {400, "{\"error\":{\"code\":400,\"message\":\"no\",\"status\":\"FAILED_PRECONDITION\"}}"}, {200, "{}"}, {200, "{}"}), "DELETE base/v1beta/files/abc; DELETE base/v1beta/files/batch-9xk; DELETE base/v1beta/batches/9xk; failed permanent not_removed: no", "all but one");
	arena_reset();
}

static void
test_infer(void)
{
	Play	   *play = gemini_play();
	const char *line = "{\"key\":\"r-1\",\"request\":{\"contents\":[]}}\n";
	HttpRequest request;

	gemini_provider.infer(&play->account, "gemini-3.5-flash", line, strlen(line), &request);
	is_text(play_shorten(play, request.url), "base/v1beta/models/gemini-3.5-flash:generateContent", "online address");
	is_text(pnstrdup(request.body, request.body_length), "{\"contents\":[]}", "online body");
	is_text(play_header(&request, "x-goog-api-key"), KEY, "online key");
	is_text(PLAY(play, check_account, {200, "{\"models\":[{\"name\":\"models/gemini-3.5-flash\"}]}"}), "GET base/v1beta/models?pageSize=1000; done", "check");
	is_text(play->stage.scratch, "model \"gemini-3.5-flash\" is there", "in words");
	play->account.base_url = "http://127.0.0.1:1";
	PLAY(play, check_account, {0});
	is_text(play->first.url, "http://127.0.0.1:1/v1beta/models?pageSize=1000", "own address without a version");
	play->account.base_url = "http://127.0.0.1:1/x/v1";
	PLAY(play, upload_batch_file, {0});
	is_text(play->first.url, "http://127.0.0.1:1/x/upload/v1/files", "own address with another version");
	arena_reset();
}

int
main(void)
{
	test_upload();
	test_upload_interrupted();
	test_upload_bounds();
	test_create();
	test_status();
	test_find();
	test_results();
	test_infer();
	return done_testing();
}
