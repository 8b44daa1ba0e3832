/*--------------#include "provider/google/google.h"
-----------------------------------------------------------
 *
 * test_vertex_steps.c
 *		The steps of the provider "vertex" and of Cloud Storage.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "google_play.h"
#include "tap.h"

#define MB		(1024 * 1024)
#define JOB		"projects/9/locations/us-central1/batchPredictionJobs/123"
#define OBJECT	"/storage/v1/b/bkt/o/dess_batch%2Ft0ken%2Frequests.jsonl"
#define FIELDS	"?fields=size,generation,crc32c,contentEncoding"
#define SESSION	"POST gcs/upload/storage/v1/b/bkt/o?uploadType=resumable&ifGenerationMatch=0&name=dess_batch%2Ft0ken%2Frequests.jsonl; "
#define LOCATION	"location: https://storage.googleapis.com/upload?upload_id=S1"
#define PUT		"PUT gcs/upload?upload_id=S1 "
#define PIECE1	PUT "[bytes 0-16777215/41943040] file 0+16777216; "
#define PIECE2	PUT "[bytes 16777216-33554431/41943040] file 16777216+16777216; "
#define PIECE3	PUT "[bytes 33554432-41943039/41943040] [crc32c=AQIDBA==] file 33554432+8388608; "
#define QUESTION	PUT "[bytes */41943040]; "
#define WHOLE	"{\"name\":\"x\",\"size\":\"41943040\",\"generation\":\"77\",\"crc32c\":\"AQIDBA==\"}"
#define SESSION_ANSWER	{200, "", LOCATION, 0}
#define RANGE(n)	{308, "", "range: bytes=0-" #n, 0}

static Play *
vertex_play(void)
{
	Play	   *play = new_play(&vertex_provider);

	play->account.secret = "{\"type\":\"authorized_user\",\"quota_project_id\":\"payer\"}";
	play->account.access_token = "old-token-0123";
	play_option(play, "project", "proj");
	play_option(play, "location", "us-central1");
	play_option(play, "bucket", "bkt");
	play->shorten[0][0] = "https://storage.googleapis.com";
	play->shorten[0][1] = "gcs";
	play->shorten[1][0] = "https://us-central1-aiplatform.googleapis.com/v1/projects/proj/locations/us-central1";
	play->shorten[1][1] = "loc";
	play->shorten[2][0] = "https://us-central1-aiplatform.googleapis.com/v1/" JOB;
	play->shorten[2][1] = "job";
	return play;
}

static void
test_upload(void)
{
	Play	   *play = vertex_play();

	is_text(PLAY(play, upload_batch_file, SESSION_ANSWER, RANGE(16777215), RANGE(33554431), {200, WHOLE}),
			"checksum 41943040; " SESSION PIECE1 PIECE2 PIECE3 "done", "upload in three pieces");
	is_text(play->remote.input_uri, "gs://bkt/dess_batch/t0ken/requests.jsonl", "address");
	is_text(play_header(&play->first, "Authorization"), "Bearer old-token-0123", "token");
	is_text(play_header(&play->first, "x-goog-user-project"), "payer", "project that pays");
	is_text(play_header(&play->first, "X-Upload-Content-Length"), "41943040", "length is announced");
	is_text(pnstrdup(play->first.body, play->first.body_length), "{\"contentType\":\"application/jsonl\",\"crc32c\":\"AQIDBA==\"}", "checksum is announced");

	play = vertex_play();
	is_text(PLAY(play, upload_batch_file, SESSION_ANSWER, RANGE(262143), {308, ""}, {200, WHOLE}),
			"checksum 41943040; " SESSION PIECE1 PUT "[bytes 262144-17039359/41943040] file 262144+16777216; " PIECE1 "done", "short ranges, even going back");
	play = vertex_play();
	play->stage.spool_length = 10;
	is_text(PLAY(play, upload_batch_file, SESSION_ANSWER, {201, "{\"size\":\"10\"}"}),
			"checksum 10; " SESSION PUT "[bytes 0-9/10] [crc32c=AQIDBA==] file 0+10; done", "small upload");
	arena_reset();
}

static void
test_upload_interrupted(void)
{
	Play	   *play = vertex_play();

	is_text(PLAY(play, upload_batch_file, SESSION_ANSWER, RANGE(16777215), {0}, RANGE(20971519), {200, WHOLE}),
			"checksum 41943040; " SESSION PIECE1 PIECE2 "wait 1000; " QUESTION PUT "[bytes 20971520-37748735/41943040] file 20971520+16777216; done", "lost reply: what arrived is asked");
	play = vertex_play();
	is_text(PLAY(play, upload_batch_file, SESSION_ANSWER, RANGE(33554431), {0}, {503, ""}, {-1}, {200, WHOLE}),
			"checksum 41943040; " SESSION PIECE1 PIECE3 "wait 1000; " QUESTION "wait 2000; " QUESTION "wait 4000; " QUESTION "done", "lost reply to the last piece: it had arrived");
	play = vertex_play();
	is_text(PLAY(play, upload_batch_file, SESSION_ANSWER, {401, ""}, RANGE(16777215), RANGE(33554431), {200, WHOLE}),
			"checksum 41943040; " SESSION PIECE1 "authorize; " QUESTION PIECE2 PIECE3 "done", "token that dies in the middle");
	is_text(play->account.access_token, "new-token-0123", "new token");
	play = vertex_play();
	is_text(PLAY(play, upload_batch_file, SESSION_ANSWER, {401, ""}, {401, "{\"error\":{\"code\":401,\"message\":\"no\",\"status\":\"UNAUTHENTICATED\"}}"}),
			"checksum 41943040; " SESSION PIECE1 "authorize; " QUESTION "failed auth UNAUTHENTICATED: no", "token refused twice");
	play = vertex_play();
	is_text(PLAY(play, upload_batch_file, SESSION_ANSWER, {429, "{\"error\":{\"code\":429,\"message\":\"slow\",\"status\":\"RESOURCE_EXHAUSTED\",\"details\":[{\"retryDelay\":\"32s\"}]}}"}, RANGE(33554431), {200, WHOLE}),
			"checksum 41943040; " SESSION PIECE1 "wait 32000; " QUESTION PIECE3 "done", "delay that is asked for");
	play = vertex_play();
	is_text(PLAY(play, upload_batch_file, SESSION_ANSWER, RANGE(16777215), {410, ""}, {200, "", "location: https://storage.googleapis.com/other"}, {200, WHOLE}),
			"checksum 41943040; " SESSION PIECE1 PIECE2 SESSION "PUT gcs/other [bytes 0-16777215/41943040] file 0+16777216; done", "session that is gone");
	play = vertex_play();
	is_text(PLAY(play, upload_batch_file, SESSION_ANSWER, {404, ""}, SESSION_ANSWER, {404, ""}, SESSION_ANSWER, {404, ""}, SESSION_ANSWER, {404, ""}),
			"checksum 41943040; " SESSION PIECE1 SESSION PIECE1 SESSION PIECE1 SESSION PIECE1 "failed temporary 404: HTTP status 404", "sessions that vanish");
	play = vertex_play();
	is_text(PLAY(play, upload_batch_file, {404, "{\"error\":{\"code\":404,\"message\":\"The specified bucket does not exist.\"}}"}),
			"checksum 41943040; " SESSION "failed permanent 404: The specified bucket does not exist.", "no such bucket");
	is_text(PLAY(play, upload_batch_file, {403, "{\"error\":{\"code\":403,\"message\":\"slow\",\"errors\":[{\"reason\":\"rateLimitExceeded\",\"message\":\"slow\"}]}}"}),
			"checksum 41943040; " SESSION "wait 1000; " SESSION "no answer", "403 that is a rate");
	is_text(PLAY(play, upload_batch_file, {403, "{\"error\":{\"code\":403,\"message\":\"no\",\"errors\":[{\"reason\":\"forbidden\",\"message\":\"no\"}]}}"}),
			"checksum 41943040; " SESSION "failed auth 403: no", "403");
	is_text(PLAY(play, upload_batch_file, {200, ""}), "checksum 41943040; " SESSION "failed temporary bad_reply: the server's reply is not what its interface promises (maybe done)", "no session");
	arena_reset();
}

static void
test_upload_bounds(void)
{
	Play	   *play = vertex_play();
	Answer		answers[1000];
	char	   *told;

	answers[0] = (Answer) SESSION_ANSWER;
	for (int i = 1; i < lengthof(answers); i++)
		answers[i] = (Answer) {308, ""};
	told = play_run(play, vertex_provider.upload_batch_file, answers, lengthof(answers));
	ok(strstr(told, "failed temporary no_progress") != NULL, "pieces that are never taken");
	for (int i = 1; i < lengthof(answers); i++)
		answers[i] = (Answer) {308, "", "range: bytes=0-41943039"};
	told = play_run(play, vertex_provider.upload_batch_file, answers, lengthof(answers));
	ok(strstr(told, "failed temporary no_progress") != NULL, "object that never comes");
	for (int i = 1; i < lengthof(answers); i++)
		answers[i] = (Answer) {i % 2 ? 0 : 308, ""};
	told = play_run(play, vertex_provider.upload_batch_file, answers, lengthof(answers));
	ok(strstr(told, "failed temporary connection_lost") != NULL, "connection that always breaks");
	for (int i = 1; i < lengthof(answers); i++)
		answers[i] = (Answer) {308, "", i % 2 ? "range: bytes=0-99" : "range: bytes=5-99"};
	told = play_run(play, vertex_provider.upload_batch_file, answers, lengthof(answers));
	ok(strstr(told, "failed permanent 308") != NULL, "ranges that are none");
	for (int i = 0; i < lengthof(answers); i++)
		answers[i] = (Answer) {503, ""};
	told = play_run(play, vertex_provider.upload_batch_file, answers, lengthof(answers));
	ok(strstr(told, "wait 64000; ") != NULL && strstr(told, "failed temporary 503") != NULL, "server that is down");
	arena_reset();
}

static void
test_upload_again(void)
{
	Play	   *play = vertex_play();

	is_text(PLAY(play, upload_batch_file, {412, ""}, {200, WHOLE}), "checksum 41943040; " SESSION "GET gcs" OBJECT FIELDS "; done", "412: the earlier try had come through");
	play = vertex_play();
	is_text(PLAY(play, upload_batch_file, SESSION_ANSWER, RANGE(33554431), {412, ""}, {200, "{\"size\":\"41943040\",\"generation\":\"77\",\"crc32c\":\"AAAAAA==\"}"}, {204, ""}, SESSION_ANSWER, {200, WHOLE}),
			"checksum 41943040; " SESSION PIECE1 PIECE3 "GET gcs" OBJECT FIELDS "; DELETE gcs" OBJECT "?ifGenerationMatch=77; " SESSION PIECE1 "done", "412: something else is there");
	play = vertex_play();
	is_text(PLAY(play, upload_batch_file, SESSION_ANSWER, {200, "{\"size\":\"41943040\",\"crc32c\":\"AAAAAA==\"}"}, {200, WHOLE}),
			"checksum 41943040; " SESSION PIECE1 "GET gcs" OBJECT FIELDS "; done", "checksum that differs is looked at again");
	play = vertex_play();
	play->stage.resumed = true;
	is_text(PLAY(play, upload_batch_file, {200, WHOLE}), "checksum 41943040; GET gcs" OBJECT FIELDS "; done", "resumed: it is there");
	play = vertex_play();
	play->stage.resumed = true;
	is_text(PLAY(play, upload_batch_file, {404, ""}, SESSION_ANSWER, {200, WHOLE}), "checksum 41943040; GET gcs" OBJECT FIELDS "; " SESSION PIECE1 "done", "resumed: it is not there");
	arena_reset();
}

/* ---- create, find, cancel ---- */

static Play *
uploaded_play(void)
{
	Play	   *play = vertex_play();

	play->remote.input_uri = "gs://bkt/dess_batch/f0lder/requests.jsonl";
	return play;
}

static Play *
created_play(void)
{
	Play	   *play = uploaded_play();

	play->remote.remote_id = JOB;
	return play;
}

#define JOB_OBJECT(state, rest)	"{\"name\":\"" JOB "\",\"displayName\":\"dess_batch job 7 batch 2 t0ken\",\"state\":\"" state "\"" rest "}"
#define FIND	"GET loc/batchPredictionJobs?pageSize=100&filter=display_name%3D%22dess_batch%20job%207%20batch%202%20t0ken%22"

static void
test_create(void)
{
	Play	   *play = uploaded_play();

	is_text(PLAY(play, create_batch_job, {200, JOB_OBJECT("JOB_STATE_PENDING", "")}), "POST loc/batchPredictionJobs; done", "create");
	is_text(play->last_body,
			"{\"displayName\":\"dess_batch job 7 batch 2 t0ken\",\"model\":\"publishers/google/models/gemini-3.5-flash\","
			"\"inputConfig\":{\"instancesFormat\":\"jsonl\",\"gcsSource\":{\"uris\":[\"gs://bkt/dess_batch/f0lder/requests.jsonl\"]}},"
			"\"outputConfig\":{\"predictionsFormat\":\"jsonl\",\"gcsDestination\":{\"outputUriPrefix\":\"gs://bkt/dess_batch/f0lder/results-t0ken\"}}}", "what is asked for");
	is_text(play->remote.remote_id, JOB, "job's name");
	is_int(play->remote.status, REMOTE_QUEUED, "it waits");
	play = uploaded_play();
	play->stage.model = "projects/p/locations/l/models/5";
	is_text(PLAY(play, create_batch_job, {0}), "POST loc/batchPredictionJobs; failed temporary connection_lost: no connection (maybe done)", "lost reply");
	ok(strstr(play->last_body, "\"model\":\"projects/p/locations/l/models/5\"") != NULL, "tuned model");
	is_text(PLAY(play, create_batch_job, {401, ""}, {429, "{\"error\":{\"code\":429,\"message\":\"m\",\"status\":\"RESOURCE_EXHAUSTED\"}}"}),
			"POST loc/batchPredictionJobs; authorize; POST loc/batchPredictionJobs; failed rate RESOURCE_EXHAUSTED: m", "new token, then no quota");
	is_text(PLAY(play, create_batch_job, {400, "{\"error\":{\"code\":400,\"message\":\"m\",\"status\":\"FAILED_PRECONDITION\"}}"}), "POST loc/batchPredictionJobs; failed permanent FAILED_PRECONDITION: m", "refused");
	is_text(PLAY(play, create_batch_job, {403, "{\"error\":{\"code\":403,\"message\":\"m\",\"status\":\"PERMISSION_DENIED\",\"details\":[{\"reason\":\"BILLING_DISABLED\"}]}}"}), "POST loc/batchPredictionJobs; failed quota BILLING_DISABLED: m", "nobody pays");
	is_text(PLAY(play, create_batch_job, {200, "{\"name\":\"projects/../x\"}"}), "POST loc/batchPredictionJobs; failed temporary bad_reply: the server's reply is not what its interface promises (maybe done)", "name that is none");
	arena_reset();
}

static void
test_find(void)
{
	Play	   *play = uploaded_play();

	is_text(PLAY(play, find_batch_job, {200, "{\"nextPageToken\":\"a/b\"}"}, {200, "{\"batchPredictionJobs\":[{\"name\":\"x\",\"displayName\":\"y\"}," JOB_OBJECT("JOB_STATE_RUNNING", "") "]}"}),
			FIND "; " FIND "&pageToken=a%2Fb; done", "found on the second page");
	is_text(play->remote.remote_id, JOB, "and adopted");
	play = uploaded_play();
	is_text(PLAY(play, find_batch_job, {200, "{}"}, {200, "{}"}, {200, "{}"}), FIND "; wait 2000; " FIND "; wait 8000; " FIND "; done", "absent on three looks");
	is_text(play->remote.remote_id, NULL, "none");
	is_text(PLAY(play, find_batch_job, {503, ""}), FIND "; failed temporary 503: HTTP status 503 (maybe done)", "list later");
	is_text(PLAY(play, find_batch_job, {400, "{\"error\":{\"code\":400,\"message\":\"m\",\"status\":\"INVALID_ARGUMENT\"}}"}), FIND "; failed permanent uncertain: m (maybe done)", "list never");
	play = created_play();
	is_text(PLAY(play, cancel_batch_job, {200, "{}"}), "POST job:cancel; done", "cancel");
	is_text(PLAY(play, cancel_batch_job, {400, "{}"}), "POST job:cancel; done", "cancel what has ended");
	is_text(PLAY(play, cancel_batch_job, {404, "{}"}), "POST job:cancel; failed temporary not_found: HTTP status 404", "cancel what is gone");
	arena_reset();
}

/* ---- status ---- */

#define LIST(path)	"GET gcs/storage/v1/b/bkt/o?fields=items(name,size),nextPageToken&prefix=dess_batch%2Ff0lder%2F" path
#define DIRECTORY	",\"outputInfo\":{\"gcsOutputDirectory\":\"gs://bkt/dess_batch/f0lder/results-t0ken/prediction-1\"}"

static void
test_states(void)
{
	static const struct
	{
		const char *state;
		RemoteStatus status;
	}			states[] = {
		{"JOB_STATE_UNSPECIFIED", REMOTE_UNKNOWN}, {"JOB_STATE_QUEUED", REMOTE_QUEUED}, {"JOB_STATE_PENDING", REMOTE_QUEUED},
		{"JOB_STATE_RUNNING", REMOTE_RUNNING}, {"JOB_STATE_CANCELLING", REMOTE_RUNNING}, {"JOB_STATE_PAUSED", REMOTE_RUNNING},
		{"JOB_STATE_UPDATING", REMOTE_RUNNING}, {"JOB_STATE_WHATEVER", REMOTE_UNKNOWN}, {"JOB_STATE_SUCCEEDED", REMOTE_FINISHED},
		{"JOB_STATE_PARTIALLY_SUCCEEDED", REMOTE_FINISHED}, {"JOB_STATE_FAILED", REMOTE_FAILED},
		{"JOB_STATE_CANCELLED", REMOTE_CANCELLED}, {"JOB_STATE_EXPIRED", REMOTE_EXPIRED},
		{"BATCH_STATE_SUCCEEDED", REMOTE_FINISHED}, {"job_state_running", REMOTE_RUNNING},
	};

	for (int i = 0; i < lengthof(states); i++)
		is_int(google_read_state(states[i].state), states[i].status, "%s", states[i].state);
}

static void
test_status(void)
{
	Play	   *play = created_play();

	is_text(PLAY(play, get_batch_status, {200, JOB_OBJECT("JOB_STATE_RUNNING", ",\"completionStats\":{\"successfulCount\":\"5\",\"incompleteCount\":\"7\"}")}), "GET job; done", "running");
	is_int(play->remote.finished, 5, "counts");
	is_int(play->remote.total, 12, "counts");
	is_text(play->remote.remote_state, "JOB_STATE_RUNNING", "its word");
	is_text(PLAY(play, get_batch_status, {200, JOB_OBJECT("JOB_STATE_RUNNING", ",\"completionStats\":{\"successfulCount\":\"-1\",\"incompleteCount\":\"-1\"}")}), "GET job; done", "unknown counts");
	is_int(play->remote.finished, -1, "unknown");
	is_text(PLAY(play, get_batch_status, {200, JOB_OBJECT("JOB_STATE_SUCCEEDED", DIRECTORY)}, {200, "{\"items\":[{\"name\":\"d/predictions.jsonl\",\"size\":\"9\"},{\"name\":\"d/other\",\"size\":\"9\"},{\"name\":\"d/empty.jsonl\",\"size\":\"0\"}],\"nextPageToken\":\"p2\"}"}, {200, "{\"nextPageToken\":\"p3\"}"}, {200, "{\"items\":[{\"name\":\"d/prediction.results-00000-of-00002\",\"size\":\"9\"},{\"name\":\"d/errors_0001.jsonl\"}]}"}),
			"GET job; " LIST("results-t0ken%2Fprediction-1%2F") "; " LIST("results-t0ken%2Fprediction-1%2F") "&pageToken=p2; " LIST("results-t0ken%2Fprediction-1%2F") "&pageToken=p3; done", "results over three pages");
	is_int(list_length(play->remote.output_uris), 3, "three result files");
	is_text(list_nth(play->remote.output_uris, 1), "gs://bkt/d/prediction.results-00000-of-00002", "the second one");
	is_text(PLAY(play, get_batch_status, {200, JOB_OBJECT("JOB_STATE_SUCCEEDED", DIRECTORY)}, {401, ""}, {200, "{\"items\":[]}"}, {200, "{\"items\":[{\"name\":\"d/predictions.jsonl\",\"size\":\"9\"}]}"}),
			"GET job; " LIST("results-t0ken%2Fprediction-1%2F") "; authorize; " LIST("results-t0ken%2Fprediction-1%2F") "; " LIST("results-t0ken%2F") "; done", "named directory is empty, the place above it is not");
	is_text(PLAY(play, get_batch_status, {200, JOB_OBJECT("JOB_STATE_SUCCEEDED", "")}, {200, "{}"}),
			"GET job; " LIST("results-t0ken%2F") "; failed temporary not_found: the job has succeeded, but its results are not in the bucket yet", "results come late");
	is_text(PLAY(play, get_batch_status, {200, JOB_OBJECT("JOB_STATE_SUCCEEDED", ",\"outputInfo\":{\"gcsOutputDirectory\":\"gs://other/x\"}")}, {200, "{\"items\":[{\"name\":\"d/predictions.jsonl\",\"size\":\"9\"}]}"}),
			"GET job; " LIST("results-t0ken%2F") "; done", "directory that is not ours is not looked into");
	is_text(PLAY(play, get_batch_status, {200, JOB_OBJECT("JOB_STATE_CANCELLED", "")}, {200, "{}"}), "GET job; " LIST("results-t0ken%2F") "; done", "cancelled without results");
	is_int(play->remote.status, REMOTE_CANCELLED, "cancelled");
	is_int(list_length(play->remote.output_uris), 0, "none");
	is_text(PLAY(play, get_batch_status, {200, JOB_OBJECT("JOB_STATE_FAILED", ",\"error\":{\"code\":8,\"message\":\"shared pool\"}")}, {200, "{\"items\":[{\"name\":\"d/predictions.jsonl\",\"size\":\"9\"}]}"}), "GET job; " LIST("results-t0ken%2F") "; done", "failed with results");
	is_int(play->remote.error.class, ERROR_RATE, "because of the rate");
	is_text(play->remote.error.code, "RESOURCE_EXHAUSTED", "its code");
	is_int(list_length(play->remote.output_uris), 1, "results are read all the same");
	is_text(PLAY(play, get_batch_status, {200, JOB_OBJECT("JOB_STATE_FAILED", ",\"error\":{\"code\":3,\"message\":\"bad\"}")}, {200, "{}"}), "GET job; " LIST("results-t0ken%2F") "; done", "failed");
	is_int(play->remote.error.class, ERROR_PERMANENT, "for good");
	is_text(PLAY(play, get_batch_status, {404, ""}), "GET job; failed temporary not_found: HTTP status 404", "gone");
	is_text(PLAY(play, get_batch_status, {200, "[]"}), "GET job; failed temporary bad_reply: the server's reply is not what its interface promises (maybe done)", "no job");
	arena_reset();
}

/* ---- download ---- */

#define OUT		"/storage/v1/b/bkt/o/d%2Fp.jsonl"
#define READ	"GET gcs" OUT "?alt=media&generation=5"
#define STAT	"GET gcs" OUT FIELDS "; "
#define OUT_OBJECT	{200, "{\"size\":\"100\",\"generation\":\"5\",\"crc32c\":\"AQIDBA==\"}"}

static Play *
download_play(void)
{
	Play	   *play = created_play();

	play->stage.uri = "gs://bkt/d/p.jsonl";
	return play;
}

static void
test_download(void)
{
	Play	   *play = download_play();

	is_text(PLAY(play, retrieve_and_merge_results, OUT_OBJECT, {200, "", NULL, 100}), STAT READ "; checksum 100; done", "download");
	play = download_play();
	is_text(PLAY(play, retrieve_and_merge_results, OUT_OBJECT, {0, "200", NULL, 30}, {0, "206", "content-range: bytes 30-99/100", 50}, {206, "", "content-range: bytes 80-99/100", 20}),
			STAT READ "; wait 1000; " READ " [bytes=30-] sink at 30; wait 1000; " READ " [bytes=80-] sink at 80; checksum 100; done", "download cut twice");
	play = download_play();
	is_text(PLAY(play, retrieve_and_merge_results, OUT_OBJECT, {200, "", NULL, 30}, {206, "", "content-range: bytes 30-99/100", 70}), STAT READ "; " READ " [bytes=30-] sink at 30; checksum 100; done", "short without a word");
	play = download_play();
	is_text(PLAY(play, retrieve_and_merge_results, OUT_OBJECT, {0, "200", NULL, 30}, {200, "", NULL, 100}, {200, "", NULL, 100}), STAT READ "; wait 1000; " READ " [bytes=30-] sink at 30; " READ "; checksum 100; done", "range that is ignored");
	play = download_play();
	is_text(PLAY(play, retrieve_and_merge_results, OUT_OBJECT, {0, "200", NULL, 30}, {206, "", "content-range: bytes 20-99/100", 80}, {200, "", NULL, 100}), STAT READ "; wait 1000; " READ " [bytes=30-] sink at 30; " READ "; checksum 100; done", "another range than asked for");
	play = download_play();
	is_text(PLAY(play, retrieve_and_merge_results, OUT_OBJECT, {401, ""}, {200, "", NULL, 100}), STAT READ "; authorize; " READ "; checksum 100; done", "token that dies");
	play = download_play();
	play->checksum = 9;
	is_text(PLAY(play, retrieve_and_merge_results, OUT_OBJECT, {200, "", NULL, 100}, {200, "", NULL, 100}, {200, "", NULL, 100}, {200, "", NULL, 100}),
			STAT READ "; checksum 100; " READ "; checksum 100; " READ "; checksum 100; " READ "; checksum 100; failed temporary checksum: what was downloaded does not have the object's checksum", "wrong checksum");
	play = download_play();
	is_text(PLAY(play, retrieve_and_merge_results, {200, "{\"size\":\"100\",\"contentEncoding\":\"gzip\",\"crc32c\":\"AQIDBA==\"}"}, {200, "", NULL, 300}), STAT "GET gcs" OUT "?alt=media; done", "object that is stored encoded");
	is_text(PLAY(play, retrieve_and_merge_results, OUT_OBJECT, {416, ""}, {404, ""}), STAT READ "; " READ "; failed temporary not_found: HTTP status 404", "object that vanishes");
	is_text(PLAY(play, retrieve_and_merge_results, {404, ""}), STAT "failed temporary not_found: HTTP status 404", "no object");
	is_text(PLAY(play, retrieve_and_merge_results, {200, "{\"size\":\"0\",\"generation\":\"5\"}"}, {200, ""}), STAT READ "; done", "empty object");
	play->stage.uri = "file-1";
	is_text(PLAY(play, retrieve_and_merge_results, {404, ""}), "failed permanent bad_reply: the result file's address is not one of Cloud Storage too early", "address that is none");
	arena_reset();
}

/* ---- the end, and the rest ---- */

static void
test_remove(void)
{
	Play	   *play = created_play();

	is_text(PLAY(play, remove_remote, {200, "{\"items\":[{\"name\":\"dess_batch/f0lder/requests.jsonl\"},{\"name\":\"dess_batch/f0lder/b c\"}]}"}, {204, ""}, {404, ""}, {200, "{}"}, {200, "{}"}),
			LIST("") "; DELETE gcs/storage/v1/b/bkt/o/dess_batch%2Ff0lder%2Frequests.jsonl; DELETE gcs/storage/v1/b/bkt/o/dess_batch%2Ff0lder%2Fb%20c; " LIST("") "; DELETE job; done", "everything is removed");
	is_text(PLAY(play, remove_remote, {200, "{\"items\":[{\"name\":\"dess_batch/f0lder/a\"},{\"name\":\"dess_batch/f0lder/b\"}]}"}, {403, "{\"error\":{\"code\":403,\"message\":\"no\"}}"}, {404, "{}"}),
			LIST("") "; DELETE gcs/storage/v1/b/bkt/o/dess_batch%2Ff0lder%2Fa; DELETE job; failed permanent 403: no", "files that must not be removed");
	is_text(PLAY(play, remove_remote, {200, "{\"items\":[{\"name\":\"dess_batch/f0lder/a\"},{\"name\":\"dess_batch/f0lder/b\"}]}"}, {401, ""}, {204, ""}, {204, ""}, {503, ""}),
			LIST("") "; DELETE gcs/storage/v1/b/bkt/o/dess_batch%2Ff0lder%2Fa; authorize; DELETE gcs/storage/v1/b/bkt/o/dess_batch%2Ff0lder%2Fa; DELETE gcs/storage/v1/b/bkt/o/dess_batch%2Ff0lder%2Fb; " LIST("") "; failed temporary 503: HTTP status 503 (maybe done)", "later");
	play = vertex_play();
	is_text(PLAY(play, remove_remote, {200, "{}"}), "GET gcs/storage/v1/b/bkt/o?fields=items(name,size),nextPageToken&prefix=dess_batch%2Ft0ken%2F; done", "an upload that may have come through");
	arena_reset();
}

static void
test_hosts(void)
{
	static const char *const hosts[][2] = {
		{"europe-west4", "https://europe-west4-aiplatform.googleapis.com/v1/projects/proj/locations/europe-west4/batchPredictionJobs"},
		{"global", "https://aiplatform.googleapis.com/v1/projects/proj/locations/global/batchPredictionJobs"},
		{"us", "https://aiplatform.us.rep.googleapis.com/v1/projects/proj/locations/us/batchPredictionJobs"},
		{"eu", "https://aiplatform.eu.rep.googleapis.com/v1/projects/proj/locations/eu/batchPredictionJobs"},
	};
	Play	   *play;

	for (int i = 0; i < lengthof(hosts); i++)
	{
		play = uploaded_play();
		play->account.options = NIL;
		play_option(play, "project", "proj");
		play_option(play, "bucket", "bkt");
		play_option(play, "location", hosts[i][0]);
		PLAY(play, create_batch_job, {0});
		is_text(play->first.url, hosts[i][1], "%s", hosts[i][0]);
	}
	play->account.base_url = "http://127.0.0.1:1/vertex/v1beta1";
	PLAY(play, create_batch_job, {0});
	is_text(play->first.url, "http://127.0.0.1:1/vertex/v1beta1/projects/proj/locations/eu/batchPredictionJobs", "own address with a version");
	play->account.base_url = "http://127.0.0.1:1";
	PLAY(play, create_batch_job, {0});
	is_text(play->first.url, "http://127.0.0.1:1/v1/projects/proj/locations/eu/batchPredictionJobs", "own address without");
	play_option(play, "storage_url", "http://127.0.0.1:2/");
	play_option(play, "prefix", "a/b");
	play->remote.input_uri = NULL;
	PLAY(play, upload_batch_file, {0});
	is_text(play->first.url, "http://127.0.0.1:2/upload/storage/v1/b/bkt/o?uploadType=resumable&ifGenerationMatch=0&name=a%2Fb%2Ft0ken%2Frequests.jsonl", "own storage and folder");
	arena_reset();
}

static void
test_infer(void)
{
	Play	   *play = vertex_play();
	const char *line = "{\"request\":{\"contents\":[]}}\n";
	HttpRequest request;

	vertex_provider.infer(&play->account, "gemini-3.5-flash", line, strlen(line), &request);
	is_text(play_shorten(play, request.url), "loc/publishers/google/models/gemini-3.5-flash:generateContent", "online address");
	is_text(pnstrdup(request.body, request.body_length), "{\"contents\":[]}", "online body");
	is_text(play_header(&request, "Authorization"), "Bearer old-token-0123", "online token");
	play->stage.phase = 0;
	is_text(PLAY(play, check_account, {200, "{}"}, {204, ""}, {200, "{}"}),
			"POST gcs/upload/storage/v1/b/bkt/o?uploadType=media&name=dess_batch%2Fdess_batch_check; DELETE gcs/storage/v1/b/bkt/o/dess_batch%2Fdess_batch_check; GET loc/batchPredictionJobs?pageSize=1; done", "check");
	is_text(play->stage.scratch, "bucket \"bkt\" is writable, batch jobs in us-central1 can be listed", "in words");
	is_text(PLAY(play, check_account, {403, "{\"error\":{\"code\":403,\"message\":\"no\"}}"}), "POST gcs/upload/storage/v1/b/bkt/o?uploadType=media&name=dess_batch%2Fdess_batch_check; failed auth 403: bucket cannot be written: no", "bucket of others");
	arena_reset();
}

int
main(void)
{
	test_upload();
	test_upload_interrupted();
	test_upload_bounds();
	test_upload_again();
	test_create();
	test_find();
	test_states();
	test_status();
	test_download();
	test_remove();
	test_hosts();
	test_infer();
	return done_testing();
}
