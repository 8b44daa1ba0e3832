/*
 * openai_batch_run.c
 *		What becomes of a batch: its states, and its result files.
 *
 * One thread serves all batches in turn.  Lines are answered in a shuffled
 * order, so that result files are in none that a client could rely on, and so
 * that cancelling or expiring halfway leaves out any rows.  Only offsets are
 * kept in memory.  Progress follows the clock: at half of run_ms, half of the
 * rows are done.
 */
#include "openai_batch.h"

#include <errno.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define ROWS_A_STEP		200

static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static pthread_t thread;
static BatchRun *runs;			/* guarded by openai_lock */
static bool stopping;

static void
run_free(BatchRun *run)
{
	close(run->fd);
	if (run->out != NULL)
		fclose(run->out);
	if (run->err != NULL)
		fclose(run->err);
	if (run->out_path != NULL)
		unlink(run->out_path);
	if (run->err_path != NULL)
		unlink(run->err_path);
	free(run->out_path);
	free(run->err_path);
	free(run->offset);
	free(run->order);
	free(run->model);
	free(run->model_name);
	buf_free(&run->errors);
	free(run);
}

/* The caller holds openai_lock; the descriptor is taken over. */
void
runner_add(Batch *b, int input_fd)
{
	BatchRun   *run = xcalloc(sizeof(BatchRun));

	run->batch = b;
	run->fd = input_fd;
	run->since = now_ms();
	run->seen = BATCH_VALIDATING;
	run->older = runs;
	runs = run;
}

/* Fisher and Yates, started by the batch's id and the seed. */
static void
shuffle(BatchRun *run)
{
	uint64_t	x = hash_bytes(run->batch->id, strlen(run->batch->id)) ^ sim_options.seed;

	run->order = xmalloc((size_t) run->total * sizeof(uint32_t));
	for (int64_t i = 0; i < run->total; i++)
		run->order[i] = (uint32_t) i;
	for (int64_t i = run->total - 1; i > 0; i--)
	{
		int64_t		k = (int64_t) (mix64(x + (uint64_t) i) % (uint64_t) (i + 1));
		uint32_t	tmp = run->order[i];

		run->order[i] = run->order[k];
		run->order[k] = tmp;
	}
}

/* Makes the two result files. */
static void
open_results(BatchRun *run)
{
	run->out = fdopen(spool_file(&run->out_path), "w");
	run->err = fdopen(spool_file(&run->err_path), "w");
	if (run->out == NULL || run->err == NULL)
		die("could not open a result file: %s", strerror(errno));
}

/* Hands one result file over; nothing when it is empty and need not be. */
static void
publish_file(BatchRun *run, FILE **f, char **path, const char *what, char *id, bool even_empty)
{
	Batch	   *b = run->batch;
	int64_t		bytes = ftello(*f);
	int64_t		life = b->output_seconds ? b->output_seconds : 30 * 86400;
	double		missing = json_num(b->order, "result_missing_ms", 0);
	char		name[100];

	fclose(*f);
	*f = NULL;
	if (bytes == 0 && !even_empty)
		return;
	if (bytes > 0 && json_true(b->order, "no_last_newline") && truncate(*path, bytes - 1) == 0)
		bytes--;
	snprintf(name, sizeof(name), "%s_%s.jsonl", b->id, what);
	snprintf(id, sizeof(b->output_id), "%s",
			 file_add(b->key, name, "batch_output", *path, bytes, now_unix() + life,
					  now_ms() + missing));
	*path = NULL;
}

/* The last step: files, counts, state.  The caller holds openai_lock. */
static void
publish(BatchRun *run, BatchState state)
{
	Batch	   *b = run->batch;

	b->completed = run->completed;
	b->failed = run->failed;
	b->usage = run->usage;
	if (run->out != NULL)
	{
		publish_file(run, &run->out, &run->out_path, "output", b->output_id, false);
		publish_file(run, &run->err, &run->err_path, "error", b->error_id,
					 json_true(b->order, "zero_byte_error_file"));
	}
	batch_enter(b, state);
}

static void
end_expired(BatchRun *run)
{
	if (run->order != NULL)
		batch_give_up_rows(run, "batch_expired", "This request could not be executed before the "
					 "completion window expired.");
	pthread_mutex_lock(&openai_lock);
	if (run->batch->expires_at > now_unix())
		run->batch->expires_at = now_unix();
	publish(run, BATCH_EXPIRED);
	pthread_mutex_unlock(&openai_lock);
}

static double
phase_ms(const BatchRun *run, const char *name, double dflt)
{
	return json_num(run->batch->order, name, dflt);
}

static bool
stuck_at(const BatchRun *run, const char *state)
{
	const char *s = json_str(run->batch->order, "stuck_at");

	return s != NULL && strcmp(s, state) == 0;
}

static bool
ordered(const BatchRun *run, const char *state)
{
	const char *s = json_str(run->batch->order, "state");

	return s != NULL && strcmp(s, state) == 0;
}

/*
 * The queue of a model holds so many prompt tokens.  Create has answered 200
 * long ago when this is looked at; what has no room fails.
 */
static void
check_queue(BatchRun *run, const Settings *set)
{
	Batch	   *b = run->batch;
	struct stat st;
	double		queued;

	if (set->batch_tokens <= 0 || run->nerrors > 0 || fstat(run->fd, &st) != 0)
		return;
	queued = (double) (st.st_size / 4);
	pthread_mutex_lock(&openai_lock);
	b->tokens = st.st_size / 4;
	for (Batch *other = batches_newest(); other != NULL; other = other->older)
	{
		if (other != b && other->key == b->key && other->model != NULL && run->model != NULL &&
			strcmp(other->model, run->model) == 0 && !batch_final(other))
			queued += (double) other->tokens;
	}
	pthread_mutex_unlock(&openai_lock);
	if (queued > set->batch_tokens)
		batch_line_error(run, "token_limit_exceeded", NULL, 0, "Enqueued token limit reached for %s in "
				   "organization org-simulated. Limit: %.0f enqueued tokens. Please try again once some "
				   "in_progress batches have been completed.", run->model ? run->model : "", set->batch_tokens);
}

static bool
step_validating(BatchRun *run, const Settings *set)
{
	Batch	   *b = run->batch;
	const cJSON *o = b->order;

	if (!run->checked)
		batch_check_input(run);
	if (stuck_at(run, "validating") ||
		now_ms() < run->since + phase_ms(run, "validate_ms", set->validate_ms))
		return false;
	check_queue(run, set);
	if (ordered(run, "failed") && run->nerrors == 0)
		batch_line_error(run, json_str(o, "code") ? json_str(o, "code") : "token_limit_exceeded", NULL,
				   (int64_t) json_num(o, "line", 0), "%s", json_str(o, "message") ?
				   json_str(o, "message") : "Enqueued token limit reached for this model in your "
				   "organization. Limit: 2,000,000 enqueued tokens. Please try again once some "
				   "in_progress batches have been completed.");
	pthread_mutex_lock(&openai_lock);
	if (b->state == BATCH_VALIDATING)
	{
		if (run->nerrors > 0)
		{
			b->nerrors = run->nerrors;
			b->errors = run->errors;
			memset(&run->errors, 0, sizeof(run->errors));
			batch_enter(b, BATCH_FAILED);
		}
		else
		{
			b->model = run->model;
			run->model = NULL;
			b->total = run->total;
			batch_enter(b, BATCH_IN_PROGRESS);
		}
	}
	pthread_mutex_unlock(&openai_lock);
	return run->nerrors > 0 && b->state == BATCH_FAILED;
}

static bool
step_in_progress(BatchRun *run, const Settings *set, bool *more)
{
	Batch	   *b = run->batch;
	double		run_ms = phase_ms(run, "run_ms", set->run_ms);
	double		part = run_ms > 0 ? (now_ms() - run->since) / run_ms : 1;
	double		top = 1;
	int64_t		allowed;

	if (run->order == NULL)
	{
		shuffle(run);
		open_results(run);
	}
	if (ordered(run, "expired") || stuck_at(run, "in_progress"))
		top = json_num(b->order, "fraction", 0.5);
	allowed = (int64_t) ((double) run->total * (part > 1 ? 1 : part) * top);
	for (int n = 0; run->next < allowed && n < ROWS_A_STEP; n++)
		batch_run_row(run, run->order[run->next++]);
	*more = run->next < allowed;
	pthread_mutex_lock(&openai_lock);
	b->completed = run->completed;
	b->failed = run->failed;
	if (run->next >= run->total && part >= 1 && b->state == BATCH_IN_PROGRESS &&
		!stuck_at(run, "in_progress") && !ordered(run, "expired"))
		batch_enter(b, BATCH_FINALIZING);
	pthread_mutex_unlock(&openai_lock);
	if (part < 1 || *more || !ordered(run, "expired") || b->cancel)
		return false;
	end_expired(run);
	return true;
}

static bool
step_finalizing(BatchRun *run, const Settings *set)
{
	bool		done = false;

	if (stuck_at(run, "finalizing") ||
		now_ms() < run->since + phase_ms(run, "finalize_ms", set->finalize_ms))
		return false;
	pthread_mutex_lock(&openai_lock);
	if (run->batch->state == BATCH_FINALIZING)
	{
		publish(run, BATCH_COMPLETED);
		done = true;
	}
	pthread_mutex_unlock(&openai_lock);
	return done;
}

static bool
step_cancelling(BatchRun *run, const Settings *set)
{
	if (stuck_at(run, "cancelling") || now_ms() < run->since + set->cancel_ms)
		return false;
	if (run->order != NULL)
		batch_give_up_rows(run, "batch_cancelled", "This request was not executed because the batch "
					 "was cancelled.");
	pthread_mutex_lock(&openai_lock);
	publish(run, BATCH_CANCELLED);
	pthread_mutex_unlock(&openai_lock);
	return true;
}

/* One turn of a batch; true when it is over. */
static bool
run_step(BatchRun *run, bool *more)
{
	Settings	set = settings_get();
	BatchState	state;

	pthread_mutex_lock(&openai_lock);
	state = run->batch->state;
	pthread_mutex_unlock(&openai_lock);
	if (state != run->seen)
	{
		run->seen = state;
		run->since = now_ms();
	}
	if (state != BATCH_CANCELLING && now_ms() > run->batch->created_ms + set.window_ms)
	{
		end_expired(run);
		return true;
	}
	switch (state)
	{
		case BATCH_VALIDATING:
			return step_validating(run, &set);
		case BATCH_IN_PROGRESS:
			return step_in_progress(run, &set, more);
		case BATCH_FINALIZING:
			return step_finalizing(run, &set);
		case BATCH_CANCELLING:
			return step_cancelling(run, &set);
		case BATCH_FAILED:
		case BATCH_COMPLETED:
		case BATCH_EXPIRED:
		case BATCH_CANCELLED:
			break;
	}
	return true;
}

/* Takes a turn with every batch; true if one has more to do at once. */
static bool
take_turns(void)
{
	BatchRun  **at = &runs;
	BatchRun   *run;
	bool		more = false;

	pthread_mutex_lock(&openai_lock);
	run = runs;
	pthread_mutex_unlock(&openai_lock);
	while (run != NULL)
	{
		BatchRun   *older = run->older;

		if (run_step(run, &more))
		{
			/* new ones may have come in front meanwhile */
			pthread_mutex_lock(&openai_lock);
			for (at = &runs; *at != run; at = &(*at)->older)
				;
			*at = older;
			pthread_mutex_unlock(&openai_lock);
			run_free(run);
		}
		run = older;
	}
	return more;
}

static void *
runner_main(void *arg)
{
	(void) arg;
	for (;;)
	{
		struct timespec ts;
		bool		more = take_turns();

		pthread_mutex_lock(&openai_lock);
		if (!stopping && !more)
		{
			clock_gettime(CLOCK_REALTIME, &ts);
			ts.tv_nsec += 5000000L;
			if (ts.tv_nsec >= 1000000000L)
			{
				ts.tv_sec++;
				ts.tv_nsec -= 1000000000L;
			}
			if (runs == NULL)
				pthread_cond_wait(&wake, &openai_lock);
			else
				pthread_cond_timedwait(&wake, &openai_lock, &ts);
		}
		if (stopping)
			break;
		pthread_mutex_unlock(&openai_lock);
	}
	pthread_mutex_unlock(&openai_lock);
	return NULL;
}

void
runner_start(void)
{
	stopping = false;
	if (pthread_create(&thread, NULL, runner_main, NULL) != 0)
		die("could not start a thread");
}

void
runner_wake(void)
{
	pthread_mutex_lock(&openai_lock);
	pthread_cond_signal(&wake);
	pthread_mutex_unlock(&openai_lock);
}

/* Ends the thread and forgets what it was doing. */
void
runner_stop(void)
{
	pthread_mutex_lock(&openai_lock);
	stopping = true;
	pthread_cond_signal(&wake);
	pthread_mutex_unlock(&openai_lock);
	pthread_join(thread, NULL);
	while (runs != NULL)
	{
		BatchRun   *run = runs;

		runs = run->older;
		run_free(run);
	}
}
