/*
 * openai_batch.h
 *		A batch at work: what the runner keeps beside the Batch that clients see.
 */
#ifndef OPENAI_BATCH_H
#define OPENAI_BATCH_H

#include "openai.h"

typedef struct BatchRun
{
	Batch	   *batch;
	int			fd;
	bool		checked;
	uint64_t   *offset;			/* start and length of each line */
	uint32_t   *order;
	int64_t		total;
	int64_t		next;			/* rows answered so far */
	int64_t		completed;
	int64_t		failed;
	Usage		usage;
	double		since;			/* when the state was entered */
	BatchState	seen;
	char	   *model;
	char	   *model_name;		/* as the lines have it */
	StrBuf		errors;
	int			nerrors;
	FILE	   *out;
	FILE	   *err;
	char	   *out_path;
	char	   *err_path;
	struct BatchRun *older;
} BatchRun;

/* openai_batch_rows.c */
extern void batch_check_input(BatchRun *run);
extern void batch_line_error(BatchRun *run, const char *code, const char *param, int64_t line,
							 const char *fmt,...) __attribute__((format(printf, 5, 6)));
extern void batch_run_row(BatchRun *run, int64_t i);
extern void batch_give_up_rows(BatchRun *run, const char *code, const char *message);

#endif							/* OPENAI_BATCH_H */
