/*-------------------------------------------------------------------------
 *
 * request.c
 *		What the steps of the providers "gemini" and "vertex" share.
 *
 * A step of many requests sees to passing failures itself, so that a long
 * upload does not begin anew because of one of them: it waits and is called
 * again without a reply, and asks where it was.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "provider/body.h"
#include "provider/google/google.h"
#include "provider/google/key.h"

#define NAME_LIMIT		512
#define STATE_LIMIT		80
#define REPEATS			7		/* 1, 2, 4 ... 64 s between them: two minutes */
#define LONGEST_WAIT_MS	(5 * 60 * 1000)
#define FIND_PAGES		200
#define FIND_LOOKS		3		/* a job may be listed late: 2 and 8 s between them */

/* Is the last segment of the address a version, such as "v1" or "v1beta1"? */
static const char *
find_version(const char *base_url)
{
	const char *slash = strrchr(base_url, '/');

	if (slash == NULL || slash[1] != 'v' || slash[2] < '1' || slash[2] > '9')
		return NULL;
	return slash;
}

char *
google_base_url(const char *base_url, const char *version, const char *service)
{
	const char *slash = find_version(base_url);
	int			length = slash ? slash - base_url : strlen(base_url);

	return psprintf("%.*s%s/%s", length, base_url, service ? service : "",
					slash ? slash + 1 : version);
}

void
google_append_escaped(StringInfo url, const char *text, const char *keep)
{
	for (const char *p = text; *p != '\0'; p++)
	{
		unsigned char c = (unsigned char) *p;

		if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
			c == '-' || c == '_' || c == '~' || c == '.' || strchr(keep, c) != NULL)
			appendStringInfoChar(url, c);
		else
			appendStringInfo(url, "%%%02X", c);
	}
}

char *
google_read_name(JsonValue *object, const char *member, const char *prefix)
{
	const char *name = json_member_string(object, member);

	if (name == NULL || strncmp(name, prefix, strlen(prefix)) != 0 || strlen(name) > NAME_LIMIT ||
		strstr(name, "..") != NULL || strstr(name, "//") != NULL ||
		name[strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:/")] != '\0')
		return NULL;
	return pstrdup(name);
}

/* Waits longer each time, or as long as the server asks; false after too many tries. */
static bool
wait_and_repeat(BatchStage *stage, const StepError *error, StepResult *result)
{
	int64		ms = INT64CONST(1000) << Min(stage->tries, REPEATS - 1);

	if (stage->tries >= REPEATS || error->retry_after_ms > LONGEST_WAIT_MS)
		return false;
	stage->tries++;
	step_wait(result, Max(ms, error->retry_after_ms));
	return true;
}

GoogleTurn
google_take_reply(BatchStage *stage, const HttpReply *reply, bool repeatable, StepResult *result)
{
	StepError	error;
	bool		unauthorized = (reply->failure == HTTP_OK && reply->status == 401);

	if (unauthorized && stage->account->provider->authorize != NULL && !stage->refused)
	{
		stage->refused = true;
		step_authorize(result);
		return TURN_SETTLED;
	}
	stage->refused = false;
	if (reply_ok(reply))
		return TURN_GOOD;

	error_from_http(&error, reply);
	if (repeatable && (error.class == ERROR_TEMPORARY || error.class == ERROR_RATE) &&
		wait_and_repeat(stage, &error, result))
		return TURN_SETTLED;
	step_fail_http(result, reply);
	if (reply->failure != HTTP_OK || unauthorized ||
		error.class == ERROR_TEMPORARY || error.class == ERROR_RATE)
		return TURN_SETTLED;
	return TURN_OTHER;
}

void
google_fail_look(StepResult *result, const HttpReply *reply)
{
	step_fail_http(result, reply);
	if (reply->failure == HTTP_OK && reply->status == 404)
	{
		result->error.class = ERROR_TEMPORARY;
		result->error.code = pstrdup(CODE_NOT_FOUND);
	}
}

void
google_take_cancel(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	if (reply->failure == HTTP_OK && (reply->status == 400 || reply->status == 409))
	{
		step_done(result);
		return;
	}
	switch (google_take_reply(stage, reply, false, result))
	{
		case TURN_GOOD:
			step_done(result);
			break;
		case TURN_OTHER:
			google_fail_look(result, reply);
			break;
		case TURN_SETTLED:
			break;
	}
}

void
google_take_removal(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	GoogleTurn	turn = google_take_reply(stage, reply, false, result);

	if (turn == TURN_GOOD || (turn == TURN_OTHER && (reply->status == 404 || reply->status == 410)))
		step_done(result);
}

/* The project that a login's file names, palloc'd, or NULL. */
static char *
quota_project(const Account *account)
{
	const char *why;
	const char *project;
	char	   *copy;
	JsonDoc    *doc;

	if (account->secret == NULL || strstr(account->secret, "quota_project_id") == NULL)
		return NULL;
	doc = json_parse(account->secret, strlen(account->secret), &why);
	project = doc ? json_member_string(json_root(doc), "quota_project_id") : NULL;
	copy = project ? pstrdup(project) : NULL;
	google_key_free(doc);
	return copy;
}

void
google_add_token(const Account *account, HttpRequest *request)
{
	char	   *project = quota_project(account);

	if (account->access_token != NULL)
		request_header(request, "Authorization", psprintf("Bearer %s", account->access_token));
	if (project != NULL)
		request_header(request, "x-goog-user-project", project);
}

RemoteStatus
google_read_state(const char *word)
{
	static const struct
	{
		const char *word;
		RemoteStatus status;
	}			words[] = {
		{"QUEUED", REMOTE_QUEUED}, {"PENDING", REMOTE_QUEUED},
		{"RUNNING", REMOTE_RUNNING}, {"CANCELLING", REMOTE_RUNNING},
		{"PAUSED", REMOTE_RUNNING}, {"UPDATING", REMOTE_RUNNING},
		{"SUCCEEDED", REMOTE_FINISHED}, {"PARTIALLY_SUCCEEDED", REMOTE_FINISHED},
		{"EXPIRED", REMOTE_EXPIRED}, {"CANCELLED", REMOTE_CANCELLED}, {"FAILED", REMOTE_FAILED},
	};
	const char *suffix = strcasestr(word, "_STATE_");

	suffix = suffix ? suffix + strlen("_STATE_") : word;
	for (int i = 0; i < lengthof(words); i++)
	{
		if (pg_strcasecmp(suffix, words[i].word) == 0)
			return words[i].status;
	}
	return REMOTE_UNKNOWN;
}

void
google_set_state(BatchRemote *remote, const char *word)
{
	remote->remote_state = json_excerpt(word, STATE_LIMIT);
	remote->status = google_read_state(word);
}

/* -1 where it is not known; zeros are left out where other counts are given. */
int64
google_read_count(JsonValue *counts, const char *name)
{
	return json_member_int64(counts, name, counts != NULL ? 0 : -1);
}

char *
google_display_name(const BatchStage *stage)
{
	return psprintf("dess_batch job " INT64_FORMAT " batch %d %s",
					stage->job_id, stage->batch_no, stage->token);
}

/* ---- looking for a job by its name ---- */

/* How far a list has been gone through; kept as text in stage->scratch. */
typedef struct FindWalk
{
	int			pages;
	int			looks;			/* whole passes that found nothing */
	const char *page;			/* token of the next page, "" for the first */
} FindWalk;

static void
walk_load(const BatchStage *stage, FindWalk *walk)
{
	int			offset = 0;

	memset(walk, 0, sizeof(FindWalk));
	if (stage->scratch != NULL)
		sscanf(stage->scratch, "%d %d %n", &walk->pages, &walk->looks, &offset);
	walk->page = offset > 0 ? stage->scratch + offset : "";
}

static void
walk_save(BatchStage *stage, const FindWalk *walk)
{
	stage->scratch = psprintf("%d %d %s", walk->pages, walk->looks, walk->page);
}

/* Nothing on this look; an absence is believed after several. */
static void
find_look_again(BatchStage *stage, FindWalk *walk, StepResult *result)
{
	walk->pages = 0;
	walk->page = "";
	walk->looks++;
	walk_save(stage, walk);
	if (walk->looks >= FIND_LOOKS)
		step_done(result);
	else
		step_wait(result, INT64CONST(500) << (2 * walk->looks));
}

static void
find_take_page(BatchStage *stage, JsonValue *root, const GoogleFinder *finder, StepResult *result)
{
	JsonValue  *items = json_member(root, finder->items);
	const char *next = json_member_string(root, "nextPageToken");
	FindWalk	walk;

	walk_load(stage, &walk);
	for (JsonValue *item = json_first(items); item != NULL; item = json_next(item))
	{
		if (finder->matches(stage, item) && finder->adopt(item, stage->remote))
		{
			step_done(result);
			return;
		}
	}
	if (next == NULL || next[0] == '\0')
	{
		find_look_again(stage, &walk, result);
		return;
	}
	if (++walk.pages >= FIND_PAGES)
	{
		step_fail(result, ERROR_PERMANENT, CODE_UNCERTAIN,
				  "the provider's list of batches is too long to tell whether the batch exists");
		result->error.maybe_done = true;
		return;
	}
	walk.page = next;
	walk_save(stage, &walk);
	walk_load(stage, &walk);
	finder->ask(stage, result, walk.page);
}

void
google_find(BatchStage *stage, const HttpReply *reply, const GoogleFinder *finder, StepResult *result)
{
	JsonDoc    *doc;
	JsonValue  *root;
	FindWalk	walk;

	if (stage->remote->remote_id != NULL)
	{
		step_done(result);
		return;
	}
	if (reply == NULL)
	{
		walk_load(stage, &walk);
		finder->ask(stage, result, walk.page);
		return;
	}
	switch (google_take_reply(stage, reply, false, result))
	{
		case TURN_GOOD:
			root = body_open_reply(reply, &doc);
			if (json_is_object(root))
				find_take_page(stage, root, finder, result);
			else
				step_fail_http(result, reply);
			json_free(doc);
			break;
		case TURN_OTHER:
			/* no list, ever: only the user can tell */
			if (result->error.class == ERROR_PERMANENT)
				result->error.code = pstrdup(CODE_UNCERTAIN);
			result->error.maybe_done = true;
			break;
		case TURN_SETTLED:
			break;
	}
}
