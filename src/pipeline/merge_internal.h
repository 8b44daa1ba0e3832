/*-------------------------------------------------------------------------
 *
 * merge_internal.h
 *		What reading result lines and merging them share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_PIPELINE_MERGE_INTERNAL_H
#define DESS_PIPELINE_MERGE_INTERNAL_H

#include "pipeline/merge.h"
#include "text/answer.h"

/* One row that a line answers. */
typedef struct MergeEntry
{
	int			no;
	bool		own;			/* its own request was answered: tokens stand here */
	bool		garbled;		/* the line was not valid UTF-8 */
	const BatchReply *reply;
	const char *raw;
	Answer		answer;
	ItemResult	result;
	bool		write;			/* the target is to be written */
	bool		written;
	bool		locked;
	bool		delayed;		/* refused for the provider's load: sent again, and this was no attempt */
} MergeEntry;

typedef struct MergeGroup
{
	BatchTask  *batch;
	JobTask    *task;
	MergeState *state;
	SourceTable *table;
	const AnswerRules *rules;

	MergeEntry *entries;
	int			nentries;
	int			capacity;
	int64		requests;		/* billed ones */
	int			nretries;
	int			max_retry_attempts;		/* highest number of attempts among them */
	bool		delayed;		/* some are no attempts */
	int64		unmatched;
	int			nunreadable;	/* replies that are no JSON */
	int			good_lines;		/* that are results, of whatever */
	int			bad_lines;		/* that are none */
	int64		duplicates;
	bool		end_of_file;
	int64		offset_after;
	int			rest;			/* the first row of the last line that is left for the next group, or 0 */
	int			nlines;
	int64		answers;		/* of the job so far, and how many of them failed */
	int64		failed;
	const StepError *fatal;		/* a line that says nothing more should be sent */
} MergeGroup;

/* ---- merge_read.c ---- */

/* Reads the next group of lines into the transaction's entries. */
extern void merge_read_lines(MergeGroup *group);

#endif							/* DESS_PIPELINE_MERGE_INTERNAL_H */
