/*
 * google_run.c
 *		What becomes of a job: its states, its rows, its end.
 *
 * One thread serves all jobs in turn, as for OpenAI: rows are answered in a
 * shuffled order, only offsets are kept in memory, and progress follows the
 * clock.  What an order says about the end ("failed", "expired", ...) happens
 * after the given fraction of the rows.
 */
#include "google_job.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define ROWS_A_STEP		200

static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static pthread_t thread;
static JobRun *runs;			/* guarded by google_lock */
static bool stopping;

static void
run_free(JobRun *run)
{
	for (int i = 0; i < run->ninputs; i++)
		close(run->input[i]);
	for (int i = 0; i < run->nout; i++)
	{
		if (run->out[i] != NULL)
			fclose(run->out[i]);
	}
	table_free(&run->keys);
	free(run->line);
	free(run->order);
	free(run);
}

/* The caller holds google_lock and has filled the job. */
static void
run_add(Job *job)
{
	JobRun	   *run = xcalloc(sizeof(JobRun));

	run->job = job;
	run->since = now_ms();
	run->seen = job->state;
	run->older = runs;
	runs = run;
}

/* Jobs that nobody works on yet are taken up. */
static void
adopt_jobs(void)
{
	static Job *seen;

	if (job_newest() == NULL)
		seen = NULL;
	for (Job *job = job_newest(); job != NULL && job != seen; job = job->older)
		run_add(job);
	seen = job_newest();
}

/* The caller holds google_lock. */
static void
enter(Job *job, JobState state)
{
	static const int counts[JOB_STATES] = {-1, -1, -1, -1, COUNT_BATCHES_COMPLETED,
		COUNT_BATCHES_COMPLETED, COUNT_BATCHES_FAILED, COUNT_BATCHES_CANCELLED,
	COUNT_BATCHES_EXPIRED};

	job->state = state;
	job->updated = real_ms();
	if (state == JOB_RUNNING)
		job->started = job->updated;
	if (job_final(job))
		job->ended = job->updated;
	if (counts[state] >= 0)
		stats_count_by(job->kind->by, (Counter) counts[state], 1);
}

static void
set_error(Job *job, JobState state)
{
	const char *message = json_str(job->order, "message");
	const char *code = json_str(job->order, "code");
	GError	   *e = &job->error;

	if (state == JOB_CANCELLED)
		gerror(e, 499, "The job was cancelled.");
	else if (state == JOB_FAILED && e->status == 0)
	{
		gerror(e, 500, "%s", message ? message : "Internal error occurred. Please retry in a few "
			   "minutes. If you still experience errors, contact support.");
		if (code != NULL)
			snprintf(e->name, sizeof(e->name), "%s", code);
	}
	else if (state == JOB_EXPIRED)
		gerror(e, 504, "The job expired before it was completed.");
}

/* The end of a job.  Results are put where they belong before it shows. */
static void
end_job(JobRun *run, JobState state)
{
	Job		   *job = run->job;

	run->job->kind->publish(run, state);
	pthread_mutex_lock(&google_lock);
	job->ok = run->ok;
	job->bad = run->bad;
	set_error(job, state);
	enter(job, state);
	pthread_mutex_unlock(&google_lock);
}

static bool
stuck_at(const JobRun *run, JobState state)
{
	JobState	s;

	return job_order(json_str(run->job->order, "stuck_at"), &s) && s == state;
}

/* The end that was ordered, or success. */
static JobState
ordered_end(const JobRun *run)
{
	JobState	s;

	if (job_order(json_str(run->job->order, "state"), &s) && s >= JOB_SUCCEEDED)
		return s;
	return JOB_SUCCEEDED;
}

static double
phase_ms(const JobRun *run, const char *name, double dflt)
{
	return json_num(run->job->order, name, dflt);
}

/* Fisher and Yates, started by the job's id and the seed. */
static void
shuffle(JobRun *run)
{
	uint64_t	x = hash_bytes(run->job->id, strlen(run->job->id)) ^ sim_options.seed;

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

static bool
check_line(JobRun *run, const char *s, size_t len, int64_t number, GError *e)
{
	const char *why;
	cJSON	   *json = json_parse(s, len, &why);
	bool		ok;

	if (!cJSON_IsObject(json))
		ok = gerror(e, 400, "Failed to parse line %lld of the input: %s.", (long long) number,
					why ? why : "not an object");
	else
		ok = run->job->kind->check(run, json, number, e);
	cJSON_Delete(json);
	return ok;
}

static void
note_line(JobRun *run, size_t *slots, uint64_t at, size_t bytes, int file)
{
	if ((size_t) run->total == *slots)
	{
		*slots = *slots ? *slots * 2 : 1024;
		run->line = xrealloc(run->line, *slots * sizeof(Line));
	}
	run->line[run->total++] = (Line) {at, (uint32_t) bytes, (uint32_t) file};
}

/* Reads one input once: checks each line and notes where it is. */
static bool
check_file(JobRun *run, int file, size_t *slots, GError *e)
{
	FILE	   *f = fdopen(fcntl(run->input[file], F_DUPFD_CLOEXEC, 3), "r");
	Settings	set = settings_get();
	char	   *line = NULL;
	size_t		cap = 0;
	ssize_t		len;
	uint64_t	at = 0;
	int64_t		number = 0;
	bool		ok = true;

	if (f == NULL)
		die("could not read an input: %s", strerror(errno));
	rewind(f);
	while (ok && (len = getline(&line, &cap, f)) > 0)
	{
		size_t		text = (size_t) len - (line[len - 1] == '\n');

		number++;
		if (strspn(line, " \t\r\n") < (size_t) len)
		{
			if (run->job->kind->by == BY_VERTEX && run->total >= (int64_t) set.vertex_rows)
				ok = gerror(e, 400, "The number of requests in the input exceeds the maximum of "
							"%.0f.", set.vertex_rows);
			else
				ok = check_line(run, line, text, number, e);
			note_line(run, slots, at, text, file);
		}
		at += (uint64_t) len;
	}
	free(line);
	fclose(f);
	return ok;
}

static bool
check_input(JobRun *run, GError *e)
{
	size_t		slots = 0;
	bool		ok = run->job->kind->open(run, e);

	run->checked = true;
	for (int i = 0; i < run->ninputs && ok; i++)
		ok = check_file(run, i, &slots, e);
	if (ok && run->total == 0)
		ok = gerror(e, 400, "The input is empty.");
	table_free(&run->keys);
	return ok;
}

static bool
step_queued(JobRun *run, const Settings *set)
{
	if (stuck_at(run, JOB_QUEUED) ||
		now_ms() < run->since + phase_ms(run, "queue_ms", set->queue_ms))
		return false;
	pthread_mutex_lock(&google_lock);
	if (run->job->state == JOB_QUEUED)
		enter(run->job, JOB_PENDING);
	pthread_mutex_unlock(&google_lock);
	return false;
}

/* Failed or expired before anything ran? */
static bool
ends_early(const JobRun *run)
{
	JobState	end = ordered_end(run);

	return (end == JOB_FAILED || end == JOB_EXPIRED || end == JOB_CANCELLED) &&
		json_num(run->job->order, "fraction", 0) <= 0;
}

static bool
step_pending(JobRun *run, const Settings *set)
{
	Job		   *job = run->job;
	GError		e = {0};
	bool		ok = true;

	if (!run->checked)
		ok = check_input(run, &e);
	if (!ok)
	{
		pthread_mutex_lock(&google_lock);
		job->error = e;
		pthread_mutex_unlock(&google_lock);
	}
	if (stuck_at(run, JOB_PENDING) ||
		now_ms() < run->since + phase_ms(run, "validate_ms", set->validate_ms))
		return false;
	if (job->error.status != 0 || ends_early(run))
	{
		end_job(run, job->error.status != 0 ? JOB_FAILED : ordered_end(run));
		return true;
	}
	pthread_mutex_lock(&google_lock);
	job->total = run->total;
	if (job->state == JOB_PENDING)
		enter(job, JOB_RUNNING);
	pthread_mutex_unlock(&google_lock);
	return false;
}

static void
run_row(JobRun *run, int64_t i)
{
	const Line *l = &run->line[i];
	char	   *text = xmalloc((size_t) l->bytes + 1);
	cJSON	   *json = NULL;

	if (pread(run->input[l->file], text, l->bytes, (off_t) l->at) == (ssize_t) l->bytes)
		json = cJSON_ParseWithLength(text, l->bytes);
	free(text);
	if (json != NULL)
		run->job->kind->row(run, json);
	cJSON_Delete(json);
}

static bool
step_running(JobRun *run, const Settings *set, bool *more)
{
	Job		   *job = run->job;
	JobState	end = ordered_end(run);
	double		run_ms = phase_ms(run, "run_ms", set->run_ms);
	double		after = phase_ms(run, "finalize_ms", set->finalize_ms);
	double		gone = now_ms() - run->since;
	double		part = run_ms > 0 && gone < run_ms ? gone / run_ms : 1;
	bool		stuck = stuck_at(run, JOB_RUNNING);
	double		top = end != JOB_SUCCEEDED || stuck ? json_num(job->order, "fraction", 0.5) : 1;
	int64_t		allowed;

	if (run->order == NULL)
		shuffle(run);
	allowed = (int64_t) ((double) run->total * part * (top > 1 ? 1 : top));
	for (int n = 0; run->next < allowed && n < ROWS_A_STEP; n++)
		run_row(run, run->order[run->next++]);
	*more = *more || run->next < allowed;
	pthread_mutex_lock(&google_lock);
	if (job->ok + job->bad != run->ok + run->bad)
		job->updated = real_ms();
	job->ok = run->ok;
	job->bad = run->bad;
	pthread_mutex_unlock(&google_lock);
	if (stuck || run->next < allowed || part < 1 || gone < run_ms + after || job->cancel)
		return false;
	end_job(run, end);
	return true;
}

static bool
step_cancelling(JobRun *run, const Settings *set)
{
	if (stuck_at(run, JOB_CANCELLING) ||
		now_ms() < run->since + phase_ms(run, "cancel_ms", set->cancel_ms))
		return false;
	end_job(run, JOB_CANCELLED);
	return true;
}

/* One turn of a job; true when it is over. */
static bool
run_step(JobRun *run, bool *more)
{
	Settings	set = settings_get();
	JobState	state;
	bool		deleted;

	pthread_mutex_lock(&google_lock);
	state = run->job->state;
	deleted = run->job->deleted;
	pthread_mutex_unlock(&google_lock);
	if (deleted)
		return true;
	if (state != run->seen)
	{
		run->seen = state;
		run->since = now_ms();
	}
	if (state != JOB_CANCELLING && now_ms() > run->job->created_ms + set.window_ms)
	{
		end_job(run, JOB_EXPIRED);
		return true;
	}
	switch (state)
	{
		case JOB_QUEUED:
			return step_queued(run, &set);
		case JOB_PENDING:
			return step_pending(run, &set);
		case JOB_RUNNING:
			return step_running(run, &set, more);
		case JOB_CANCELLING:
			return step_cancelling(run, &set);
		default:
			return true;
	}
}

/* Takes a turn with every job; true if one has more to do at once. */
static bool
take_turns(void)
{
	JobRun	   *run;
	bool		more = false;

	pthread_mutex_lock(&google_lock);
	adopt_jobs();
	run = runs;
	pthread_mutex_unlock(&google_lock);
	while (run != NULL)
	{
		JobRun	   *older = run->older;

		if (run_step(run, &more))
		{
			JobRun	  **at = &runs;

			while (*at != run)
				at = &(*at)->older;
			*at = older;
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

		pthread_mutex_lock(&google_lock);
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
				pthread_cond_wait(&wake, &google_lock);
			else
				pthread_cond_timedwait(&wake, &google_lock, &ts);
		}
		if (stopping)
			break;
		pthread_mutex_unlock(&google_lock);
	}
	pthread_mutex_unlock(&google_lock);
	return NULL;
}

void
google_runner_start(void)
{
	stopping = false;
	if (pthread_create(&thread, NULL, runner_main, NULL) != 0)
		die("could not start a thread");
}

void
google_runner_wake(void)
{
	pthread_mutex_lock(&google_lock);
	pthread_cond_signal(&wake);
	pthread_mutex_unlock(&google_lock);
}

/* Ends the thread and forgets what it was doing. */
void
google_runner_stop(void)
{
	pthread_mutex_lock(&google_lock);
	stopping = true;
	pthread_cond_signal(&wake);
	pthread_mutex_unlock(&google_lock);
	pthread_join(thread, NULL);
	while (runs != NULL)
	{
		JobRun	   *run = runs;

		runs = run->older;
		run_free(run);
	}
	jobs_clear();
	adopt_jobs();
}

/* A row was answered, or refused. */
void
job_row_done(JobRun *run, bool ok, const Usage *usage, const char *prompt, size_t len,
			 const char *key)
{
	By			by = run->job->kind->by;

	if (!ok)
	{
		run->bad++;
		stats_count_by(by, COUNT_ROWS_FAILED, 1);
		return;
	}
	run->ok++;
	run->usage.input += usage->input;
	run->usage.cached += usage->cached;
	run->usage.output += usage->output;
	run->usage.reasoning += usage->reasoning;
	stats_count_by(by, COUNT_ROWS_OK, 1);
	stats_served(true, usage, prompt, len, key);
	stats_used_by(by, true, usage);
}

/* Where the next line goes: results are spread over the given number of files. */
FILE *
job_output(JobRun *run)
{
	int			i;

	if (run->nout == 0)
	{
		run->nout = (int) json_num(run->job->order, "output_files", settings_get().output_files);
		if (run->nout < 1 || run->nout > MAX_OUTPUTS || run->job->kind->by != BY_VERTEX)
			run->nout = 1;
	}
	i = (int) (mix64((uint64_t) run->next) % (uint64_t) run->nout);
	if (run->out[i] == NULL)
		run->out[i] = fdopen(spool_file(NULL), "w+");
	if (run->out[i] == NULL)
		die("could not open a result file: %s", strerror(errno));
	return run->out[i];
}

/* The files' descriptors, -1 where there is none; they are the caller's now. */
void
job_take_outputs(JobRun *run, int *fds)
{
	for (int i = 0; i < run->nout; i++)
	{
		fds[i] = -1;
		if (run->out[i] == NULL)
			continue;
		fflush(run->out[i]);
		fds[i] = fcntl(fileno(run->out[i]), F_DUPFD_CLOEXEC, 3);
		if (json_true(run->job->order, "no_last_newline"))
		{
			struct stat st;

			if (fstat(fds[i], &st) == 0 && st.st_size > 0 && ftruncate(fds[i], st.st_size - 1) != 0)
				die("could not cut a result file: %s", strerror(errno));
		}
		fclose(run->out[i]);
		run->out[i] = NULL;
	}
}
