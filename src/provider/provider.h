/*-------------------------------------------------------------------------
 *
 * provider.h
 *		What a provider is: five stages, a few helpers, and the registry.
 *
 * A provider does no input or output.  It turns rows into request lines, says
 * which HTTP request comes next, and turns replies into facts.  It never sees
 * a socket, a table or a transaction, and it never raises an error because of
 * what a remote party sent.
 *
 * provider.c has the registry and the helpers that need the backend;
 * provider_error.c, and whatever a provider uses to write request lines and to
 * read result lines, compile outside it as well.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_PROVIDER_H
#define DESS_PROVIDER_H

#include "datatype/timestamp.h"
#ifndef FRONTEND
#include "fmgr.h"
#endif
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"

#include "http/http.h"
#include "text/json.h"

/* What a failure means for what comes next (providers' error tables). */
typedef enum ErrorClass
{
	ERROR_TEMPORARY,			/* time may heal it: try again */
	ERROR_RATE,					/* a delay, no failed attempt */
	ERROR_QUOTA,				/* out of money or quota: the job stops and says so */
	ERROR_AUTH,					/* bad secret or no permission: the job stops */
	ERROR_PERMANENT,			/* the same request will fail again */
	ERROR_NO_SERVICE,			/* the server has no such service (no batch files) */
	ERROR_TOO_LARGE				/* cut the batch smaller */
} ErrorClass;

typedef struct StepError
{
	ErrorClass	class;
	char	   *code;			/* provider's own code, or the HTTP status as text */
	char	   *message;		/* provider's own words, at most 200 bytes */
	int64		retry_after_ms; /* what the provider asked for, or -1 */
	bool		maybe_done;		/* the request may have had its effect all the same */
} StepError;

/*
 * Codes of our own, for what no provider has said.  CODE_NOT_FOUND is worth
 * counting: a 404 comes and goes, so that something is lost only after several
 * of them spread over a quarter of an hour.  A step sees its own tries alone
 * and leaves the counting to its caller.
 */
#define CODE_NOT_SENT		"connection_failed"
#define CODE_BROKEN			"connection_lost"
#define CODE_REPLY_TOO_LARGE	"reply_too_large"
#define CODE_ADDRESS_REFUSED	"address_refused"
#define CODE_LOCAL			"local_failure"
#define CODE_BAD_REPLY		"bad_reply"
#define CODE_UNREADABLE		"unreadable_reply"	/* a 2xx that is no JSON: so are perhaps all replies of this server */
#define CODE_NOT_FOUND		"not_found"
#define CODE_UNCERTAIN		"uncertain"	/* nobody can tell whether the batch exists: ask the user */
#define CODE_OTHER_ACCOUNT	"other_account"	/* the batch is another account's: ask the user */
#define CODE_OVERDUE		"overdue"	/* the batch did not end at the provider */

/*
 * An account: a server of the foreign-data wrapper (or a built-in one) as seen
 * by one role, with its secret.  Strings are "" or NULL where an option is not
 * set; option() finds provider-specific ones.
 */
typedef struct Account
{
	char	   *server;			/* name, or "(built-in openai)" */
	Oid			server_oid;		/* InvalidOid for built-in ones */
	Oid			role;			/* whose mapping the secret came from (or would have) */
	const struct BatchProvider *provider;
	char	   *base_url;		/* without a slash at its end */
	char	   *secret;			/* NULL when none was found */
	char	   *secret_source;	/* "user mapping of public", "environment variable OPENAI_API_KEY" ... */
	char	   *secret_searched;	/* places looked at, for messages */
	char	   *access_token;	/* from authorize; NULL until there is one */
	bool		trusted;		/* owned by a superuser, or built in */
	char	   *ca_file;
	char	   *proxy;
	int			max_concurrency;
	int			poll_interval;	/* seconds */
	int			request_timeout;	/* seconds */
	int64		requests_per_minute;	/* 0: none */
	int64		tokens_per_minute;
	int64		max_batch_requests; /* already bounded by the provider's limits */
	int64		max_batch_bytes;
	int			max_active_batches;
	int64		max_enqueued_tokens;	/* 0: none */
	double		max_cost_per_day;	/* US dollars; negative: none */
	double		max_cost_per_month;
	List	   *options;		/* of DefElem: all options of the server */
} Account;

/* an account at the provider, told apart from others: hex digits */
#define ACCOUNT_IDENTITY_SIZE	17

extern PGDLLEXPORT const char *account_option(const Account *account, const char *name);	/* NULL if not set */

/* Provider-neutral parameters of a job. */
typedef struct BatchParameters
{
	char	   *temperature;	/* JSON numbers as the user wrote them, or NULL */
	char	   *top_p;
	char	   *seed;
	int64		max_output_tokens;	/* 0: not given */
	char	   *reasoning_effort;	/* NULL: not given */
	char	   *extra;			/* JSON object text, its members go into the body verbatim; or NULL */
} BatchParameters;

/* What all requests of a job have in common. */
typedef struct BatchOptions
{
	const Account *account;
	const char *model;
	const char *system;			/* NULL: none */
	const char *system_json;	/* the same as a JSON string, written once */
	const char *model_json;
	const char *schema;			/* JSON Schema text, or NULL */
	BatchParameters parameters;
	bool		department;		/* built-in prompt: reasoning off or minimal by default */

	/* set by the provider's prepare_options: what stands before and after the prompt in every line */
	char	   *line_head;
	char	   *line_tail;
} BatchOptions;

/* One request of a batch. */
typedef struct BatchItem
{
	const char *custom_id;		/* chosen by us: [a-z0-9-]+, unique in the batch */
	const char *text;			/* rendered user prompt, UTF-8 */
	size_t		text_length;
} BatchItem;

/* How the provider sees a batch. */
typedef enum RemoteStatus
{
	REMOTE_UNKNOWN,				/* not asked yet, or a word we do not know: poll on */
	REMOTE_QUEUED,
	REMOTE_RUNNING,
	REMOTE_FINISHED,			/* read outputs */
	REMOTE_EXPIRED,				/* read outputs, the rest expired */
	REMOTE_CANCELLED,			/* read outputs, the rest was cancelled */
	REMOTE_FAILED,				/* error says why; read outputs if there are any */
	REMOTE_LOST					/* the provider no longer knows it */
} RemoteStatus;

/*
 * What is known of one batch at its provider; kept in the ledger between
 * steps.  A step changes these fields, with palloc'd strings.
 */
typedef struct BatchRemote
{
	char	   *input_uri;		/* uploaded request file */
	char	   *remote_id;		/* the batch */
	char	   *remote_state;	/* the provider's word */
	RemoteStatus status;
	List	   *output_uris;	/* of char *: result files, to be read in this order */
	StepError	error;			/* with REMOTE_FAILED, and where it is known with REMOTE_EXPIRED and REMOTE_LOST */
	int64		total;			/* the provider's own counts, -1: unknown */
	int64		finished;
} BatchRemote;

/* One stage of one batch: what a step may look at and change. */
typedef struct BatchStage
{
	const Account *account;
	const char *model;
	const char *token;			/* random, in the ledger before anything is sent; never used for a second file or batch */
	const char *label;			/* for the provider's console: "dess_batch job 7 batch 2" */
	int64		job_id;
	int			batch_no;
	TimestampTz created_at;
	int64		requests;
	const char *spool_file;		/* the request file */
	int64		spool_length;
	const char *sink_file;		/* where a download goes */
	const char *uri;			/* which of output_uris the download is for */
	BatchRemote *remote;
	bool		resumed;		/* an earlier try of this stage may have had its effect */
	int			phase;			/* the step's own counter, 0 at first */
	int			tries;			/* the step's own counter of repeated looks, 0 at first */
	char	   *scratch;		/* the step's own, NULL at first */
	bool		refused;		/* the step's own: the last reply refused the access token */
	uint32		checksum;		/* result of STEP_CHECKSUM */

	/* results of authorize */
	char	   *access_token;
	int64		access_token_seconds;	/* how long it lives from now on */
} BatchStage;

typedef enum StepKind
{
	STEP_REQUEST,				/* send result->request, call again with the reply */
	STEP_WAIT,					/* call again, without a reply, after result->wait_ms */
	STEP_AUTHORIZE,				/* the token was refused: get a new one and call again with reply NULL */
	STEP_CHECKSUM,				/* put the CRC-32C of a local file into stage->checksum and call again with reply NULL */
	STEP_DONE,
	STEP_FAILED					/* result->error says why */
} StepKind;

typedef struct StepResult
{
	StepKind	kind;
	HttpRequest request;		/* method, url, headers, body; the rest is filled in from the account */
	int64		wait_ms;
	const char *checksum_file;	/* stage->spool_file or stage->sink_file */
	int64		checksum_length;	/* its first bytes count */
	StepError	error;
} StepResult;

/*
 * Called first with reply NULL, then with each reply (or with NULL after a
 * wait), until it says STEP_DONE or STEP_FAILED.  May be started anew at any
 * time, with phase and tries 0 and scratch NULL: every step can be repeated.
 * What it allocates, in its result and in stage, is in the current context.
 * Callers go through provider_step().
 */
typedef void (*StageStep) (BatchStage *stage, const HttpReply *reply, StepResult *result);

/* What one result line, or one online reply, says about one request. */
typedef enum ReplyKind
{
	REPLY_TEXT,					/* the model's text */
	REPLY_REFUSED,				/* the model or a filter declined */
	REPLY_TRUNCATED,			/* cut at the token limit */
	REPLY_EXPIRED,				/* never run */
	REPLY_CANCELLED,
	REPLY_FAILED,				/* error says how */
	REPLY_NO_ANSWER				/* the model ended well, with nothing that could be an answer */
} ReplyKind;

typedef struct BatchReply
{
	char	   *custom_id;		/* NULL when the line has none */
	char	   *echoed_text;	/* the user prompt as echoed, where lines carry no id; else NULL */
	ReplyKind	kind;
	char	   *text;			/* with REPLY_TEXT; partial text with REPLY_TRUNCATED, or NULL */
	bool		is_json;		/* the text is a JSON value that stood where text should: an answer only if JSON was asked for */
	StepError	error;			/* with REPLY_FAILED and REPLY_NO_ANSWER, words also with REPLY_REFUSED */
	char	   *finish_reason;
	char	   *model_version;
	char	   *response_id;
	int64		input_tokens;	/* all of them, cached ones included; 0 when unknown */
	int64		cached_tokens;
	int64		cache_write_tokens;	/* of the input, what was written to the provider's cache */
	int64		output_tokens;	/* all that are billed, reasoning included */
	int64		reasoning_tokens;
} BatchReply;

/* Reads one line (without its newline).  Returns false if it is not a result line at all; *why then says so. */
typedef bool (*LineReader) (const char *line, size_t length, BatchReply *reply, const char **why);

typedef struct BatchLimits
{
	int64		max_requests;
	int64		max_bytes;
	int			max_hours;		/* a batch that has not ended by then never will: the service's own limit and slack; 0: none */
} BatchLimits;

/* Server options that only this provider knows. */
typedef struct ProviderOption
{
	const char *name;
	bool		required;
	bool		superuser_only;
	/* NULL if the value is good, else what it should be ("chat/completions or responses") */
	const char *(*check) (const char *value);
	bool		names_account;	/* with another value, batches of before may be out of sight */
} ProviderOption;

typedef struct BatchProvider
{
	const char *name;			/* the server option "provider" */
	const char *usual_models;	/* globs */
	const char *base_url;		/* public address; NULL: made from options */
	const char *const *secret_variables;	/* environment variables, NULL at the end */
	const char *mapping_option; /* user mapping option that holds the secret */
	bool		built_in;		/* a server without CREATE SERVER exists for superusers */
	BatchLimits limits;
	const ProviderOption *options;	/* ends with a NULL name; NULL: none */

	/*
	 * Optional.  NULL if the provider can be asked for a model of that name,
	 * else what names look like ("a name such as ...").  Names that could be
	 * read otherwise in an address do not come here.
	 */
	const char *(*check_model) (const char *model);

	/*
	 * Optional.  NULL if this provider can send what is asked, else why not
	 * (schema, parameters), palloc'd.
	 */
	char	   *(*check_options) (const BatchOptions *options);

	/*
	 * Optional.  Called once for the options of many lines, after
	 * check_options, to write line_head and line_tail in the current context;
	 * without it prepare_batch_file works them out for every line.
	 */
	void		(*prepare_options) (BatchOptions *options);

	/*
	 * Optional.  Exchanges the secret for an access token, which it leaves in
	 * stage with its lifetime; of the batch it knows nothing.  Without it the
	 * secret is sent as it is.  A step asks for it by STEP_AUTHORIZE, and not
	 * twice in a row.
	 */
	StageStep	authorize;

	/*
	 * The five stages.  A provider without a batch service, for mode online
	 * alone, has the first and the reader of lines.
	 */
	void		(*prepare_batch_file) (StringInfo line, const BatchItem *item, const BatchOptions *options);
	StageStep	upload_batch_file;
	StageStep	create_batch_job;
	StageStep	get_batch_status;
	LineReader	read_result_line;
	StageStep	retrieve_and_merge_results;	/* of stage->uri into stage->sink_file */

	StageStep	find_batch_job; /* after a crash: sets remote_id if the batch with this token exists; DONE without it: provably absent */
	StageStep	cancel_batch_job;	/* optional: without it a batch goes on to its end */
	StageStep	remove_remote;	/* optional: files and job of a batch that is merged; gone already is good */
	StageStep	remove_batch_job;	/* optional: the job alone, which has ended with nothing; its request file stays */

	/*
	 * Online mode: the request for one prepared line (its body lies in that
	 * line), and the result line for its reply, whatever that is.  A provider
	 * for mode batch alone has neither.
	 */
	void		(*infer) (const Account *account, const char *model, const char *line, size_t length, HttpRequest *request);
	void		(*infer_result) (StringInfo line, const char *custom_id, const HttpReply *reply);

	/* dess_batch_check: is the secret good, is the model there (stage->model may be NULL); words in stage->scratch */
	StageStep	check_account;
} BatchProvider;

/*
 * The registry (the factory).  A third module finds register_provider through
 * the rendezvous variable, once dess_batch is loaded.  The struct is copied;
 * what it points to must stay where it is until the process ends.
 */
#define DESS_BATCH_PROVIDERS	"dess_batch_providers"
#define DESS_BATCH_PROVIDER_API 1

typedef struct ProviderRegistry
{
	int			api_version;
	void		(*register_provider) (const BatchProvider *provider);
} ProviderRegistry;

#ifndef FRONTEND
/* For _PG_init() of a third module; raises where dess_batch is not loaded, or is of another version. */
static inline void
register_batch_provider(const BatchProvider *provider)
{
	ProviderRegistry *registry = *(ProviderRegistry **) find_rendezvous_variable(DESS_BATCH_PROVIDERS);

	if (registry == NULL || registry->api_version != DESS_BATCH_PROVIDER_API)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("provider \"%s\" was built for version %d of the interface of dess_batch",
						provider->name, DESS_BATCH_PROVIDER_API),
				 registry == NULL ?
				 errdetail("dess_batch is not loaded.") :
				 errdetail("dess_batch has version %d.", registry->api_version)));
	registry->register_provider(provider);
}
#endif

/* ---- builtin.c ---- */

/* Called when the library is loaded: registers the built-in providers. */
extern void provider_init(void);

/* ---- registry.c ---- */

extern PGDLLEXPORT const BatchProvider *provider_find(const char *name);	/* NULL if none */
extern List *provider_list(void);	/* of const BatchProvider *, palloc'd, in the order of registration */
extern bool provider_has_batches(const BatchProvider *provider);
extern PGDLLEXPORT bool provider_glob_match(const char *globs, const char *model);	/* comma-separated, * and ? */

/* ---- model.c ---- */

/* NULL if the name can be matched, priced and sent as one and the same thing, else what it should be; provider may be NULL. */
extern const char *provider_model_problem(const BatchProvider *provider, const char *model);

/* Does the name have the pattern's form?  "*" stands for one part between slashes. */
extern PGDLLEXPORT bool provider_model_fits(const char *model, const char *pattern);

/* ---- step.c ---- */

/*
 * Calls a step.  A secret that the other side echoes in a reply held in memory
 * is blotted out first, so that it can reach no message.
 */
extern void provider_step(StageStep step, BatchStage *stage, HttpReply *reply, StepResult *result);

/*
 * Do both addresses lie at the same scheme, host and port, as they are spelt?
 * An address that a reply names gets the account's secret only then.
 */
extern PGDLLEXPORT bool provider_same_origin(const char *url, const char *other);

/* Helpers that every provider shares; each starts the result anew, but for step_header and step_json_body. */
extern PGDLLEXPORT void step_request(StepResult *result, const char *method, const char *url);
extern PGDLLEXPORT void step_header(StepResult *result, const char *name, const char *value);
extern PGDLLEXPORT void step_json_body(StepResult *result, const char *body);	/* with its Content-Type */
extern PGDLLEXPORT void step_done(StepResult *result);
extern PGDLLEXPORT void step_done_if_ok(StepResult *result, const HttpReply *reply);	/* or as step_fail_http */

/*
 * A step that is one request: it leaves when there is no reply yet, and the
 * reply ends the step.  "%" in path stands for the batch's token; the account's
 * secret goes into that header.
 */
extern PGDLLEXPORT void step_call(BatchStage *stage, const HttpReply *reply, StepResult *result,
								  const char *method, const char *path, const char *secret_header);
extern PGDLLEXPORT void step_authorize(StepResult *result);
extern PGDLLEXPORT void step_checksum(StepResult *result, const char *file, int64 length);
extern PGDLLEXPORT void step_wait(StepResult *result, int64 ms);
extern PGDLLEXPORT void step_fail(StepResult *result, ErrorClass class, const char *code, const char *message);
/* The class of a transport failure or an HTTP status; retry-after headers are read.  Fills everything. */
extern PGDLLEXPORT void step_fail_http(StepResult *result, const HttpReply *reply);
extern PGDLLEXPORT void request_header(HttpRequest *request, const char *name, const char *value);

/* base_url with path behind it; "%" in path stands for id, escaped for a URL. */
extern PGDLLEXPORT char *provider_url(const char *base_url, const char *path, const char *id);

/* provider_error.c */
extern PGDLLEXPORT void error_set(StepError *error, ErrorClass class, const char *code, const char *message);
extern PGDLLEXPORT void error_from_http(StepError *error, const HttpReply *reply);
extern char *error_reply_words(const HttpReply *reply);	/* what a body says, cut; palloc'd; NULL: it is empty */

/*
 * The same from a status (0: unknown) and a body of any shape, or from a value
 * that was found in one; otherwise is the class when neither code nor status
 * is known.
 */
extern PGDLLEXPORT void error_from_body(StepError *error, int status, const char *body, size_t length);
extern PGDLLEXPORT void error_from_value(StepError *error, int status, JsonValue *value, ErrorClass otherwise);
extern PGDLLEXPORT void error_obey_should_retry(StepError *error, const char *value);	/* that header's value, or NULL */
extern PGDLLEXPORT bool reply_ok(const HttpReply *reply);	/* a 2xx arrived */
extern PGDLLEXPORT int64 reply_retry_after_ms(const HttpReply *reply);	/* -1: not said */
extern PGDLLEXPORT void reply_blot_secret(HttpReply *reply, const char *secret);
extern PGDLLEXPORT void error_blot_secret(StepError *error, const char *secret);
extern const char *error_class_name(ErrorClass class);

#endif							/* DESS_PROVIDER_H */
