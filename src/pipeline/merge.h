/*-------------------------------------------------------------------------
 *
 * merge.h
 *		Result lines of one batch on their way into rows.
 *
 * Batch mode reads whole result files (merge_work); online mode drives the
 * same pieces over one file that grows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_PIPELINE_MERGE_H
#define DESS_PIPELINE_MERGE_H

#include "pipeline/internal.h"

/* a row is sent this often at most */
#define MAX_ATTEMPTS		3

typedef struct MergeState
{
	MemoryContext cxt;
	JobItem	   *items;			/* item number n is items[n - 1] */
	bool	   *finished;
	bool	   *seen;			/* had a line in this pass */
	int		   *next_same;		/* chain of items served by the same request; 0 ends it */
	int			nitems;
	int			nfinished;
	int			nanswered;		/* of these, by anything but the word that the batch expired */
	struct echoes_hash *echoes; /* digest -> number, for providers whose lines carry no id; NULL until needed */

	int			file;			/* which result file, from 0 */
	int64		offset;			/* of the first line not merged in it */
	int			rest;			/* the first row that is left of that line, or 0: all are */
	SpoolReader *reader;
	MemoryContext reader_cxt;
	bool		locked_left;	/* rows that others had locked were passed over */
	bool		delayed;		/* rows were refused for the provider's load */
	int			passes;
	int64		good_lines;		/* of this pass: lines that are results, of whatever */
	int64		bad_lines;		/* that are none */
} MergeState;

/* ---- merge.c ---- */

/* One turn of a batch whose result files are in the spool; false: it is another batch's turn. */
extern bool merge_work(BatchTask *batch);

/* Are there files in the spool that were not merged to their end? */
extern bool merge_has_unread(const BatchTask *batch);

/* Merges one group of lines of the current result file; *end: there were no more. */
extern void merge_lines(BatchTask *batch, bool *end);

/* ---- merge_close.c ---- */

/* Gives rows without a line their outcome, some thousands a call; the batch is done when they have run out. */
extern void merge_close(BatchTask *batch);

/* ---- merge_read.c ---- */

/* Reads a line, in which bytes that are no UTF-8 are replaced; then *garbled is set.  False: it is no line of a result. */
extern bool merge_parse_line(const BatchProvider *provider, const char *line, size_t length,
							 BatchReply *reply, bool *garbled);

/* ---- merge_state.c ---- */

/* Loads the batch's items if they are not there yet; false: trouble, try later. */
extern bool merge_begin(BatchTask *batch);
extern void merge_end(BatchTask *batch);

/* Closes the current result file; the next group is read from where the last merged one ended. */
extern void merge_close_reader(MergeState *state);
extern void merge_rewind(MergeState *state);

/* Rows of the batch were refused for the provider's load: they wait before they are sent again. */
extern void merge_delay_retries(BatchTask *batch);

/*
 * What failed database work means for a batch whose results are there.  If it
 * is hopeless (the table or a right is gone), the job ends; its batches stay
 * as they are, so that dess_batch_retry() can go on where it stopped.
 */
extern void merge_trouble(BatchTask *batch, WorkerTxnVerdict verdict, const WorkerTxnError *error);

/* Reads the files once more, for the rows that were locked. */
extern void merge_start_pass(BatchTask *batch);

#endif							/* DESS_PIPELINE_MERGE_H */
