/*
 * google_jobs.c
 *		The list of jobs, and what a job is called by those who look at it.
 */
#include "google_job.h"

#include <unistd.h>

static const char *const names[JOB_STATES] = {
	"QUEUED", "PENDING", "RUNNING", "CANCELLING", "SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED",
	"CANCELLED", "EXPIRED"
};

static Job *newest;

/* The state that an order such as "failed" or "JOB_STATE_FAILED" means. */
bool
job_order(const char *state, JobState *found)
{
	const char *at = state ? strstr(state, "_STATE_") : NULL;

	if (at != NULL)
		state = at + 7;
	for (int i = 0; i < JOB_STATES && state != NULL; i++)
	{
		if (strcasecmp(names[i], state) == 0)
		{
			*found = (JobState) i;
			return true;
		}
	}
	return false;
}

bool
job_final(const Job *job)
{
	return job->state >= JOB_SUCCEEDED;
}

/* What clients read as the state; an order may say so. */
const char *
job_state_name(const Job *job, const char *prefix)
{
	static _Thread_local char name[64];
	const char *show = json_str(job->order, "show_state");
	double		ms = json_num(job->order, "show_ms", 0);

	if (show != NULL && (ms > 0 ? now_ms() <= job->created_ms + ms : !job_final(job)))
		return show;
	snprintf(name, sizeof(name), "%s%s", prefix, names[job->state]);
	return name;
}

Job *
job_newest(void)
{
	return newest;
}

/* A new job, in the list but not at work.  The caller holds google_lock. */
Job *
job_add(Request *req, const JobKind *kind)
{
	Job		   *job = xcalloc(sizeof(Job));

	job->kind = kind;
	job->state = settings_get().queue_ms > 0 ? JOB_QUEUED : JOB_PENDING;
	job->created = job->updated = real_ms();
	job->created_ms = now_ms();
	job->order = faults_object(ON_BATCH, req, NULL, NULL);
	job->input_fd = -1;
	job->older = newest;
	newest = job;
	stats_count_by(kind->by, COUNT_BATCHES_CREATED, 1);
	return job;
}

/* The caller holds google_lock. */
void
job_cancel(Job *job)
{
	job->cancel = true;
	if (!job_final(job) && job->state != JOB_CANCELLING)
	{
		job->state = JOB_CANCELLING;
		job->updated = real_ms();
	}
}

/* The caller holds google_lock. */
int
jobs_active(By by)
{
	int			n = 0;

	for (Job *job = newest; job != NULL; job = job->older)
		n += job->kind->by == by && !job->deleted && !job_final(job);
	return n;
}

/* Frees all; the runner is stopped. */
void
jobs_clear(void)
{
	while (newest != NULL)
	{
		Job		   *job = newest;

		newest = job->older;
		if (job->input_fd >= 0)
			close(job->input_fd);
		free(job->location);
		free(job->display_name);
		free(job->model_name);
		cJSON_Delete(job->request);
		cJSON_Delete(job->order);
		free(job->output);
		free(job->input_name);
		free(job->inlined);
		free(job);
	}
}
