/*-------------------------------------------------------------------------
 *
 * object.c
 *		What OpenAI's objects say: batches, files, and lists of them.
 *
 * Every member may be absent, null or "", and all three mean the same.  The
 * order of lists is not promised anywhere, so that a list is left early only
 * as long as it has been seen to run from new to old.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "provider/body.h"
#include "provider/openai/openai.h"
#include "text/json.h"
#include "utils/timestamp.h"

#define STATE_LIMIT		80
#define LIST_PAGES		100
#define CLOCK_SKEW		3600	/* seconds */

static RemoteStatus
status_of_word(const char *word)
{
	static const struct
	{
		const char *word;
		RemoteStatus status;
	}			words[] = {
		{"validating", REMOTE_QUEUED}, {"queued", REMOTE_QUEUED}, {"pending", REMOTE_QUEUED},
		{"in_progress", REMOTE_RUNNING}, {"running", REMOTE_RUNNING}, {"finalizing", REMOTE_RUNNING},
		{"cancelling", REMOTE_RUNNING}, {"cancellation_requested", REMOTE_RUNNING},
		{"completed", REMOTE_FINISHED}, {"success", REMOTE_FINISHED},
		{"expired", REMOTE_EXPIRED}, {"timeout_exceeded", REMOTE_EXPIRED},
		{"cancelled", REMOTE_CANCELLED}, {"canceled", REMOTE_CANCELLED},
		{"failed", REMOTE_FAILED},
	};

	for (int i = 0; i < lengthof(words); i++)
	{
		if (pg_strcasecmp(word, words[i].word) == 0)
			return words[i].status;
	}
	return REMOTE_UNKNOWN;
}

/*
 * Why a batch failed.  Nothing has run in a batch that failed without a word,
 * so that another try is free; a code that is not known blames the file.
 */
static void
read_batch_error(JsonValue *batch, StepError *error)
{
	JsonValue  *errors = json_member(batch, "errors");
	JsonValue  *first = json_is_array(errors) ? json_first(errors) : json_first(json_member(errors, "data"));
	int64		line = json_member_int64(first, "line", -1);

	if (first == NULL)
		first = json_member(batch, "error");
	if (first == NULL)
	{
		error_set(error, ERROR_TEMPORARY, "failed", "the provider does not say why the batch failed");
		return;
	}
	error_from_value(error, 0, first, json_is_object(first) ? ERROR_PERMANENT : ERROR_TEMPORARY);
	if (error->code == NULL)
		error->code = pstrdup("failed");
	if (line >= 0)
		error_set(error, error->class, error->code,
				  psprintf("line " INT64_FORMAT ": %s", line, error->message));
}

/* Takes over what a batch object says; false if it is none. */
bool
openai_read_batch(JsonValue *root, BatchRemote *remote)
{
	JsonValue  *batch = json_member(root, "job") != NULL ? json_member(root, "job") : root;
	char	   *id = body_read_id(batch, "id");
	const char *word = json_member_string(batch, "status");
	char	   *output = body_read_id(batch, "output_file_id");
	char	   *errors = body_read_id(batch, "error_file_id");
	JsonValue  *counts = json_member(batch, "request_counts");
	int64		failed = json_member_int64(counts, "failed", 0);

	if (id == NULL || word == NULL || word[0] == '\0')
		return false;
	if (remote->remote_id == NULL)
		remote->remote_id = id;
	remote->remote_state = json_excerpt(word, STATE_LIMIT);
	remote->status = status_of_word(word);
	remote->output_uris = NIL;
	if (output != NULL)
		remote->output_uris = lappend(remote->output_uris, output);
	if (errors != NULL && (output == NULL || strcmp(output, errors) != 0))
		remote->output_uris = lappend(remote->output_uris, errors);
	remote->total = json_member_int64(counts, "total", -1);
	remote->finished = json_member_int64(counts, "completed", -1);
	if (remote->finished >= 0 && failed > 0 && failed < PG_INT32_MAX)
		remote->finished += failed;
	if (remote->status == REMOTE_FAILED)
		read_batch_error(batch, &remote->error);
	return true;
}

/*
 * For a reply that should have been a batch: takes it over, or fails.  A 2xx
 * without a batch leaves open what happened.
 */
bool
openai_take_batch(const HttpReply *reply, BatchRemote *remote, StepResult *result)
{
	JsonDoc    *doc;
	JsonValue  *root = body_open_reply(reply, &doc);
	bool		good = root != NULL && openai_read_batch(root, remote);

	if (!good)
	{
		step_fail_http(result, reply);
		if (root != NULL && json_member(root, "error") != NULL)
		{
			error_from_value(&result->error, 0, root, ERROR_TEMPORARY);
			if (result->error.code == NULL)
				result->error.code = pstrdup(CODE_BAD_REPLY);
			result->error.maybe_done = true;
		}
	}
	json_free(doc);
	return good;
}

/* ---- lists ---- */

void
openai_walk_load(const BatchStage *stage, ListWalk *walk)
{
	int			ordered = 1;
	int			offset = 0;
	long long	created = PG_INT64_MAX;

	memset(walk, 0, sizeof(ListWalk));
	if (stage->scratch != NULL)
		sscanf(stage->scratch, "%d %d %d %lld %n", &walk->pages, &walk->looks, &ordered, &created, &offset);
	walk->ordered = (ordered != 0);
	walk->last_created = created;
	walk->after = (stage->scratch != NULL && offset > 0) ? stage->scratch + offset : "";
}

void
openai_walk_save(BatchStage *stage, const ListWalk *walk)
{
	stage->scratch = psprintf("%d %d %d %lld %s", walk->pages, walk->looks, walk->ordered ? 1 : 0,
							  (long long) walk->last_created, walk->after);
}

/* What follows a page whose last item is last. */
static PageEnd
walk_behind_page(const BatchStage *stage, ListWalk *walk, JsonValue *root, JsonValue *last)
{
	int64		oldest = stage->created_at / USECS_PER_SEC +
		(int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY - CLOCK_SKEW;
	char	   *after = body_read_id(root, "last_id");

	if (after == NULL)
		after = body_read_id(last, "id");
	if (last == NULL || !json_bool(json_member(root, "has_more"), false))
		return PAGE_LAST;

	/* the rest is older than what is sought, by more than clocks differ */
	if (walk->ordered && walk->last_created < oldest)
		return PAGE_LAST;
	if (after == NULL || strcmp(after, walk->after) == 0 || ++walk->pages >= LIST_PAGES)
		return PAGE_UNCLEAR;
	walk->after = after;
	return PAGE_MORE;
}

/* Looks for an item in a page of a list; *found is set with PAGE_FOUND, walk->after with PAGE_MORE. */
PageEnd
openai_walk_page(const BatchStage *stage, ListWalk *walk, JsonValue *root,
				 bool (*matches) (const BatchStage *stage, JsonValue *item), JsonValue **found)
{
	JsonValue  *items = root;
	JsonValue  *last = NULL;

	if (!json_is_array(items))
		items = json_member(root, "data");
	if (items == NULL)
		items = json_member(root, "value");

	/* a list that is null is empty, but then something must say that it is a list */
	if (!json_is_array(items) && (items != NULL || json_member_string(root, "object") == NULL))
		return PAGE_UNCLEAR;

	for (JsonValue *item = json_first(items); item != NULL; item = json_next(item))
	{
		int64		created;

		if (matches(stage, item))
		{
			*found = item;
			return PAGE_FOUND;
		}
		if (!json_int64(json_member(item, "created_at"), &created) || created > walk->last_created)
			walk->ordered = false;
		else
			walk->last_created = created;
		last = item;
	}
	return walk_behind_page(stage, walk, root, last);
}
