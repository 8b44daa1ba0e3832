/*
 * openai.h
 *		What the files of the OpenAI provider share.
 *
 * Files, batches and their lists are guarded by openai_lock.
 */
#ifndef OPENAI_H
#define OPENAI_H

#include <pthread.h>

#include "faults.h"
#include "http.h"
#include "record.h"

extern pthread_mutex_t openai_lock;

/* An error object; empty param and code are written as null. */
typedef struct ApiError
{
	int			status;
	char		type[40];
	char		message[700];
	char		param[120];
	char		code[48];
} ApiError;

extern bool api_error(ApiError *e, int status, const char *code, const char *param,
					  const char *fmt,...) __attribute__((format(printf, 5, 6)));
extern void api_error_write(StrBuf *b, const ApiError *e);
extern void reply_error(Reply *reply, const ApiError *e);

/* models.c */
typedef enum Effort
{
	EFFORT_NONE, EFFORT_MINIMAL, EFFORT_LOW, EFFORT_MEDIUM, EFFORT_HIGH, EFFORT_XHIGH,
	EFFORT_MAX, EFFORTS
} Effort;

typedef struct Model
{
	const char *name;
	const char *snapshot;		/* what replies call it */
	int64_t		created;
	const char *shutdown;		/* date, or NULL */
	unsigned	efforts;		/* bits of Effort; 0: no reasoning model */
	Effort		effort;			/* when the request names none */
} Model;

extern const Model *model_find(const char *name);
extern const char *effort_name(Effort e);
extern int	effort_find(const char *name);
extern void models_list(Reply *reply);
extern void models_get(const char *name, Reply *reply);

/* openai_check.c: bodies of inference calls */
typedef enum Api
{
	API_CHAT,
	API_RESPONSES
} Api;

typedef struct Question
{
	Api			api;
	const Model *model;
	const cJSON *body;			/* the caller's */
	StrBuf		system;
	StrBuf		user;			/* text of the last user message */
	StrBuf		all;			/* text of all messages */
	const cJSON *schema;		/* inside body */
	bool		json_mode;
	int64_t		max_tokens;		/* -1: none */
	Effort		effort;
	int			choices;
} Question;

extern bool question_read(const cJSON *body, Api api, Question *q, ApiError *e);
extern void question_free(Question *q);
extern void prompt_text(const cJSON *body, Api api, StrBuf *out);

/* openai_inference.c */
typedef struct Answer
{
	char	   *text;			/* NULL: none */
	char	   *content;		/* JSON of the content */
	char	   *refusal;
	char	   *message;		/* JSON of the whole message, or NULL */
	char	   *body;			/* JSON of the whole body, or NULL */
	char		finish[32];
	Usage		usage;
	bool		no_usage;
} Answer;

extern void answer_make(const Question *q, const cJSON *order, Answer *a);
extern void answer_write(const Question *q, const Answer *a, StrBuf *b);
extern void answer_free(Answer *a);
extern void serve_inference(Request *req, Reply *reply, Api api);
extern void inference_reset(void);

/* openai_files.c */
typedef struct File
{
	char		id[48];
	int			key;
	char	   *filename;
	char		purpose[32];
	char	   *path;
	int64_t		bytes;
	int64_t		created_at;
	int64_t		expires_at;
	double		visible_at;		/* 404 before */
	double		ready_at;		/* status uploaded before */
	double		content_at;		/* content is 404 before */
	bool		broken;			/* status error */
	struct File *older;
	struct File *newer;
} File;

extern File *file_find(const char *id, int key);
extern const char *file_add(int key, const char *filename, const char *purpose,
							char *path, int64_t bytes, int64_t expires_at,
							double content_at);
extern void files_upload(Request *req, Reply *reply, int key);
extern void files_list(Request *req, Reply *reply, int key);
extern void files_one(Request *req, Reply *reply, int key, const char *rest);
extern void files_clear(void);
extern int	files_alive(void);
extern bool list_limit(Request *req, long max, long dflt, long *limit, ApiError *e);
extern bool metadata_check(const cJSON *meta, ApiError *e);

/* openai_batches.c: the objects; openai_batch_run.c: what becomes of them */
typedef enum BatchState
{
	BATCH_VALIDATING, BATCH_FAILED, BATCH_IN_PROGRESS, BATCH_FINALIZING, BATCH_COMPLETED,
	BATCH_EXPIRED, BATCH_CANCELLING, BATCH_CANCELLED
} BatchState;

typedef struct Batch
{
	char		id[48];
	int			key;
	char		endpoint[48];
	Api			api;
	char		input_id[48];
	char		output_id[48];
	char		error_id[48];
	char	   *metadata;		/* JSON */
	int64_t		tokens;			/* in the queue */
	char	   *model;
	StrBuf		errors;			/* JSON objects with commas */
	int			nerrors;
	BatchState	state;
	int64_t		at[BATCH_CANCELLED + 1];	/* when each state was entered */
	int64_t		created_at;
	int64_t		expires_at;
	int64_t		output_seconds; /* output_expires_after, 0: none */
	int64_t		total;
	int64_t		completed;
	int64_t		failed;
	Usage		usage;
	double		created_ms;
	cJSON	   *order;			/* a fault's "batch" object, or NULL */
	bool		cancel;			/* asked for */

	/* only the runner's thread touches these */
	struct BatchRun *run;
	struct Batch *older;
	struct Batch *newer;
} Batch;

extern void batches_create(Request *req, Reply *reply, int key);
extern void batches_list(Request *req, Reply *reply, int key);
extern void batches_one(Request *req, Reply *reply, int key, const char *rest);
extern void batches_clear(void);
extern Batch *batches_newest(void);
extern void batch_enter(Batch *b, BatchState state);
extern bool batch_final(const Batch *b);
extern void runner_start(void);
extern void runner_stop(void);
extern void runner_wake(void);
extern void runner_add(Batch *b, int input_fd);

#endif							/* OPENAI_H */
