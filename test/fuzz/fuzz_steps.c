/*-------------------------------------------------------------------------
 *
 * fuzz_steps.c
 *		The first byte chooses a provider, the second one a stage, the rest is
 *		what the server answers: replies with a NUL between them.
 *
 * A reply begins with a byte for its status and one for its headers; behind
 * "\n" stands its body.  In front of it is the value of its header.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/parsenodes.h"

#include "fuzz.h"
#include "text/json.h"
#include "provider/google/google.h"
#include "provider/openai/openai.h"
#include "reply_stubs.h"

#define SECRET	"sk-0123456789abcdef"
#define ACCESS_TOKEN "ya29.0123456789abcdef"
#define MAX_TURNS 500
#define DAY INT64CONST(86400000)

static const int statuses[] = {200, 201, 204, 206, 302, 308, 400, 401, 403, 404, 408, 409, 410, 412, 416, 429, 499, 500, 503, 0, -1};

static const char *const headers[] = {
	"location", "range", "retry-after", "retry-after-ms", "x-goog-upload-url", "x-goog-upload-status",
	"x-goog-upload-size-received", "content-range", "x-goog-hash", "x-goog-stored-content-length", "x-should-retry", "content-length"
};

/* The key is no key: what needs a signature fails before its first request. */
static const char *const secrets[] = {
	SECRET,
	"{\"type\":\"authorized_user\",\"client_id\":\"c\",\"client_secret\":\"" SECRET "\",\"refresh_token\":\"r\"}",
	"{\"type\":\"external_account\",\"audience\":\"//iam.googleapis.com/p\",\"subject_token_type\":\"urn:ietf:params:oauth:token-type:jwt\","
	"\"token_url\":\"https://sts.googleapis.com/v1/token\",\"credential_source\":{\"file\":\"/t\"},\"subject_token\":\"" SECRET "\"}",
	"{\"type\":\"metadata_server\",\"host\":\"metadata.google.internal\"}"
};

static void
add_option(Account *account, const char *name, const char *value)
{
	DefElem    *option = palloc0(sizeof(DefElem));
	String	   *string = palloc0(sizeof(String));

	string->type = T_String;
	string->sval = pstrdup(value);
	option->type = T_DefElem;
	option->defname = pstrdup(name);
	option->arg = (Node *) string;
	account->options = lappend(account->options, option);
}

static void
make_account(Account *account, uint8 choice)
{
	static const BatchProvider *const providers[] = {&openai_provider, &gemini_provider, &vertex_provider};
	static const char *const base_urls[] = {"https://h.example/v1", "https://h.example", "https://h.example/v1"};
	int			n = choice % lengthof(providers);

	account->provider = providers[n];
	account->base_url = pstrdup(base_urls[n]);
	account->secret = pstrdup(n == 2 ? secrets[choice / 4 % lengthof(secrets)] : SECRET);
	account->access_token = n == 2 ? pstrdup(ACCESS_TOKEN) : NULL;
	account->trusted = choice & 0x80;
	add_option(account, "project", "p-1");
	add_option(account, "location", "us-central1");
	add_option(account, "bucket", "bucket-1");
}

static StageStep
choose_step(const BatchProvider *provider, uint8 choice)
{
	switch (choice % 9)
	{
		case 0:
			return provider->upload_batch_file;
		case 1:
			return provider->create_batch_job;
		case 2:
			return provider->get_batch_status;
		case 3:
			return provider->retrieve_and_merge_results;
		case 4:
			return provider->find_batch_job;
		case 5:
			return provider->cancel_batch_job;
		case 6:
			return provider->remove_remote;
		case 7:
			return provider->check_account;
		default:
			return provider->authorize;
	}
}

static void
check_text(const char *text)
{
	MUST(text == NULL || json_is_utf8(text, strlen(text)));
}

/* What goes into a request line or a header must not end it. */
static void
check_line(const char *text)
{
	MUST(text != NULL);
	for (; *text != '\0'; text++)
		MUST((unsigned char) *text >= ' ' && *text != 0x7F);
}

static void
check_request(const HttpRequest *request)
{
	ListCell   *cell;
	const char *why;

	check_line(request->method);
	/* an upload session's address is the server's own; bad ones are refused before anything is sent */
	if (http_check_url(request->url, true) == NULL)
	{
		check_line(request->url);
		MUST(strchr(request->url, ' ') == NULL);
	}
	foreach(cell, request->headers)
		check_line(lfirst(cell));
	if (request->body != NULL && request->body[0] == '{')
		MUST(json_is_valid(request->body, request->body_length, &why));
	MUST(request->body_offset >= 0 && request->body_file_length >= 0);
	MUST(request->sink_offset >= 0);
}

/* What the account knows as its secret can reach no message. */
static void
check_secrets(const StepError *error, const Account *account)
{
	const char *secret = account->access_token ? account->access_token : account->secret;

	MUST(strstr(error->message, secret) == NULL && strstr(error->code, secret) == NULL);
}

static void
check_error(const StepError *error)
{
	check_text(error->code);
	check_text(error->message);
	MUST(error->code != NULL && error->message != NULL && strlen(error->message) <= 200);
	MUST(strpbrk(error->message, "\r\n") == NULL);
	MUST(error->retry_after_ms >= -1 && error->retry_after_ms <= DAY);
	MUST(strcmp(error_class_name(error->class), "unknown") != 0);
}

static void
check_remote(const BatchRemote *remote)
{
	ListCell   *cell;

	check_text(remote->input_uri);
	check_text(remote->remote_id);
	check_text(remote->remote_state);
	MUST(remote->input_uri == NULL || remote->input_uri[0] != '\0');
	MUST(remote->remote_id == NULL || remote->remote_id[0] != '\0');
	MUST(remote->total >= -1 && remote->finished >= -1);
	foreach(cell, remote->output_uris)
	{
		MUST(lfirst(cell) != NULL && *(char *) lfirst(cell) != '\0');
		check_text(lfirst(cell));
	}
	if (remote->status == REMOTE_FAILED)
		check_error(&remote->error);
}

/* The reply that stands at *p; past its end, a server that answers nothing more. */
static HttpReply *
next_reply(const char **p, const char *end, const HttpRequest *request)
{
	const char *text = *p;
	size_t		length = strlen(text);
	const char *body = strchr(text, '\n');
	int			status;
	HttpReply  *reply;
	char	   *value;

	if (text >= end || length < 2 || body == text)
	{
		*p = text + length + 1;
		return stub_failure(HTTP_NOT_SENT, "no connection");
	}
	*p = text + length + 1;
	body = body ? body + 1 : text + length;
	status = statuses[(unsigned char) text[0] % lengthof(statuses)];
	reply = status > 0 ? stub_reply(status, body) : stub_failure(status == 0 ? HTTP_BROKEN : HTTP_NOT_SENT, "no connection");
	value = pnstrdup(text + 2, Max(body - 1 - (text + 2), 0));
	if (strlen(value) < 150)
		stub_header(headers[(unsigned char) text[1] % lengthof(headers)], value);
	if (request->sink_file != NULL && status >= 200 && status < 300)
		reply->sink_length = reply->body_length;
	return reply;
}

static void
play(BatchStage *stage, StageStep step, const char *p, const char *end)
{
	bool		tells = (step == stage->account->provider->check_account);
	HttpReply  *reply = NULL;
	StepResult	result;

	for (int turn = 0; turn < MAX_TURNS; turn++)
	{
		/* a result that nobody touches must not look like one */
		memset(&result, 0x7F, sizeof(result));
		provider_step(step, stage, reply, &result);
		check_remote(stage->remote);
		reply = NULL;
		switch (result.kind)
		{
			case STEP_REQUEST:
				check_request(&result.request);
				if (p > end)
					return;
				reply = next_reply(&p, end, &result.request);
				break;
			case STEP_WAIT:
				MUST(result.wait_ms >= 0 && result.wait_ms <= DAY);
				break;
			case STEP_AUTHORIZE:
				MUST(stage->account->provider->authorize != NULL);
				break;
			case STEP_CHECKSUM:
				MUST(result.checksum_length >= 0);
				stage->checksum = 0x01020304;
				break;
			case STEP_DONE:
				if (tells)
					check_text(stage->scratch);
				if (stage->access_token != NULL)
					check_line(stage->access_token);
				return;
			case STEP_FAILED:
				check_error(&result.error);
				check_secrets(&result.error, stage->account);
				return;
		}
	}
	/* waits, authorizations and checksums without end */
	MUST(p > end);
}

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	Account		account = {0};
	BatchRemote remote = {.total = -1, .finished = -1};
	BatchStage	stage = {.account = &account, .remote = &remote, .model = "gemini-3.5-flash", .token = "t0ken"};
	StageStep	step;
	char	   *text;

	if (size < 2)
		return 0;
	text = palloc(size);
	memcpy(text, data + 2, size - 2);
	text[size - 2] = '\0';
	text[size - 1] = '\0';

	make_account(&account, data[0]);
	step = choose_step(account.provider, data[1]);
	stage.label = "dess_batch job 7 batch 2";
	stage.job_id = 7;
	stage.batch_no = 2;
	stage.requests = 100;
	stage.spool_file = "/spool/7.2";
	stage.spool_length = 20 * 1024 * 1024;
	stage.sink_file = "/spool/7.2.out";
	stage.created_at = INT64CONST(848620800) * 1000000;
	stage.resumed = data[1] & 0x40;
	if (data[1] & 0x80)
	{
		remote.input_uri = pstrdup(data[0] % 3 == 2 ? "gs://bucket-1/dess_batch/t0ken/requests.jsonl" : "file-1");
		remote.remote_id = pstrdup(data[0] % 3 == 1 ? "batches/b1" : data[0] % 3 == 2 ? "projects/p-1/locations/us-central1/batchPredictionJobs/1" : "batch_1");
		remote.output_uris = lappend(NULL, pstrdup(data[0] % 3 == 2 ? "gs://bucket-1/dess_batch/t0ken/out.jsonl" : "files/out-1"));
		stage.uri = linitial(remote.output_uris);
	}
	else if (step == account.provider->get_batch_status || step == account.provider->retrieve_and_merge_results ||
			 step == account.provider->cancel_batch_job || step == account.provider->create_batch_job)
		step = NULL;
	if (step != NULL)
		play(&stage, step, text, text + size - 2);
	arena_reset();
	return 0;
}
