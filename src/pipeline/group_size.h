/*-------------------------------------------------------------------------
 *
 * group_size.h
 *		How many rows of a table one worker transaction takes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_PIPELINE_GROUP_SIZE_H
#define DESS_PIPELINE_GROUP_SIZE_H

/*
 * One kind of work on a job's table.  A worker transaction takes at most "rows"
 * rows and says in "used", before it begins, how many.
 */
typedef struct GroupSize
{
	int			rows;			/* in the next worker transaction, at most */
	int			most;			/* and never more */
	int			used;			/* by the one that runs */
	int			probed_from;	/* rows was doubled from this to see what it costs; 0: it was not */
	int64		ms;				/* what the last one that ended well took */
	int			slow;			/* how many in a row took long */
	int64		halved_ms;		/* what the one took after which rows was halved; 0: it was not */
	bool		fixed;			/* half of the rows took as long */
} GroupSize;

extern void group_size_init(GroupSize *size, int first, int most);

/* Milliseconds after which the next one is cancelled, if a single row may take row_limit. */
extern int	group_size_limit(const GroupSize *size, int row_limit);

/* One has ended well after ms; one was cancelled because it took long. */
extern void group_size_went_well(GroupSize *size, int64 ms);
extern void group_size_took_long(GroupSize *size);

#endif							/* DESS_PIPELINE_GROUP_SIZE_H */
