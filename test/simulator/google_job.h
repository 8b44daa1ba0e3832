/*
 * google_job.h
 *		A batch job of Vertex AI or of the Gemini API.
 *
 * A Job is what clients see, guarded by google_lock; a JobRun is what the
 * runner's thread (google_run.c) keeps beside it and nobody else touches.
 */
#ifndef GOOGLE_JOB_H
#define GOOGLE_JOB_H

#include "google_content.h"

typedef enum JobState
{
	JOB_QUEUED, JOB_PENDING, JOB_RUNNING, JOB_CANCELLING, JOB_SUCCEEDED, JOB_PARTIALLY_SUCCEEDED,
	JOB_FAILED, JOB_CANCELLED, JOB_EXPIRED, JOB_STATES
} JobState;

struct JobRun;

/* What the two services do differently. */
typedef struct JobKind
{
	By			by;
	bool		(*open) (struct JobRun *run, GError *e);	/* the input files */
	bool		(*check) (struct JobRun *run, const cJSON *line, int64_t number, GError *e);
	void		(*row) (struct JobRun *run, const cJSON *line);
	void		(*publish) (struct JobRun *run, JobState state);	/* without the lock */
} JobKind;

typedef struct Job
{
	const JobKind *kind;
	char		id[64];
	int			key;			/* Gemini API: whose; else 0 */
	char	   *location;		/* Vertex AI */
	char	   *display_name;
	char	   *model_name;		/* as the client wrote it */
	const GModel *model;
	cJSON	   *request;		/* the body of create */
	JobState	state;
	double		created;		/* real_ms(), as the next ones */
	double		started;
	double		ended;
	double		updated;
	double		created_ms;		/* now_ms() */
	int64_t		total;
	int64_t		ok;
	int64_t		bad;
	int64_t		tokens;			/* that it waits for, estimated */
	GError		error;			/* status 0: none */
	cJSON	   *order;			/* a fault's "batch" object, or NULL */
	bool		cancel;
	bool		deleted;
	char	   *output;			/* Vertex AI: directory; Gemini API: file */
	char	   *inlined;		/* Gemini API: JSON of the answers */
	int			input_fd;		/* Gemini API: the requests, or -1 */
	char	   *input_name;		/* Gemini API: their file, or NULL if inlined */
	struct Job *older;
} Job;

typedef struct Line
{
	uint64_t	at;
	uint32_t	bytes;
	uint32_t	file;
} Line;

#define MAX_INPUTS	64
#define MAX_OUTPUTS	64

typedef struct JobRun
{
	Job		   *job;
	int			input[MAX_INPUTS];
	int			ninputs;
	bool		checked;
	Line	   *line;
	uint32_t   *order;
	int64_t		total;
	int64_t		next;			/* rows answered so far */
	int64_t		ok;
	int64_t		bad;
	Usage		usage;
	HashTable	keys;
	double		since;			/* when the state was entered */
	JobState	seen;
	FILE	   *out[MAX_OUTPUTS];
	int			nout;
	struct JobRun *older;
} JobRun;

extern const char *job_state_name(const Job *job, const char *prefix);
extern bool job_final(const Job *job);
extern bool job_order(const char *state, JobState *found);
extern Job *job_add(Request *req, const JobKind *kind);
extern Job *job_newest(void);
extern void job_cancel(Job *job);
extern int	jobs_active(By by);
extern void jobs_clear(void);
extern void job_row_done(JobRun *run, bool ok, const Usage *usage, const char *prompt,
						 size_t len, const char *key);
extern FILE *job_output(JobRun *run);
extern void job_take_outputs(JobRun *run, int *fds);
extern void google_runner_start(void);
extern void google_runner_stop(void);
extern void google_runner_wake(void);

extern const JobKind vertex_jobs;
extern const JobKind gemini_jobs;

#endif							/* GOOGLE_JOB_H */
